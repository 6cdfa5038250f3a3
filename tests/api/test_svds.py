"""Singular triplets: every interval of every pass holds, and the vectors are what they claim."""

import json

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from distributed import Client
from scipy.sparse.linalg import aslinearoperator

import bigspec
from bigspec.errors import ArgumentError, MatrixChangedError, MemoryLimitError, format_bytes
from bigspec.sources.targets import create_target
from bigspec.watch import Observer
from tests.matrices import clustered, decaying, gapped, with_spectrum
from tests.memory import traced_peak
from tests.real import load

SLACK = 32 * np.finfo(float).eps


def dense(A):
    A = A.toarray() if sp.issparse(A) else np.asarray(A)
    return A.astype(np.complex128 if A.dtype.kind == "c" else np.float64)


def assert_every_interval_holds(tri, A):
    sigma = np.linalg.svd(dense(A), compute_uv=False)
    slack = SLACK * sigma[0]  # of the reference
    for lowers, uppers in [(tri.lower, tri.upper), *((r.lowers, r.uppers) for r in tri.history)]:
        assert np.all(np.asarray(lowers) <= sigma[: tri.k] + slack)
        assert np.all(np.asarray(uppers) >= sigma[: tri.k] - slack)
    assert np.all((tri.lower <= tri.s) & (tri.s <= tri.upper))


def assert_triplets(tri, A, residual=1e-13):
    A, (u, s, vh) = dense(A), tri
    u = u[:]
    assert (u.shape, s.shape, vh.shape) == ((A.shape[0], tri.k), (tri.k,), (tri.k, A.shape[1]))
    assert np.all(np.diff(s) <= 0)
    for frame in (u, vh.conj().T):
        np.testing.assert_allclose(frame.conj().T @ frame, np.eye(tri.k), atol=1e-13)
    scale = max(s[0], 1e-300)
    forward, backward = A @ vh.conj().T - u * s, A.conj().T @ u - vh.conj().T * s
    exact, other = (forward, backward)
    if tri.layout["orientation"] == "columns":
        exact, other = other, exact
    assert np.linalg.norm(exact) <= 1e-13 * scale
    assert np.linalg.norm(other) <= residual * scale
    largest = vh[np.arange(tri.k), np.argmax(np.abs(vh), axis=1)]
    assert np.all(largest.real > 0)
    np.testing.assert_allclose(largest.imag, 0, atol=1e-15)


# What vectors attain --------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "block"), [(1, 4), (3, 3)])
def test_the_vectors_attain_the_values_whichever_cut_of_the_half_step_won(k, block):
    for seed in range(57, 77):
        A = np.random.default_rng(seed).standard_normal((8, 5))
        tri = bigspec.svds(A, k, block_size=block, rtol=0.01, seed=seed)
        attained = np.linalg.svd(A @ tri.vh.T, compute_uv=False)
        np.testing.assert_allclose(attained, tri.s, rtol=1e-12)
        assert_every_interval_holds(tri, A)


@pytest.mark.parametrize("complex_", [False, True])
def test_a_run_that_ends_before_it_found_k_gives_orthonormal_vectors_of_values_it_attains(complex_):
    for seed in range(1, 9):
        rng = np.random.default_rng(seed)
        A = rng.standard_normal((17, 8)) + 1j * complex_ * rng.standard_normal((17, 8))
        A = A if complex_ else A.real
        tri = bigspec.svds(A, 8, block_size=4, max_passes=1, seed=seed)
        np.testing.assert_allclose(tri.vh @ tri.vh.conj().T, np.eye(8), atol=1e-13)
        assert_triplets(tri, A, residual=np.inf)
        assert tri.s[0] <= np.linalg.norm(A, 2) * (1 + 1e-14)


# What a matrix may be -------------------------------------------------------------------------

A = decaying(500, 300, seed=1)
SPARSE = np.where(np.abs(A) > 2e-3, A, 0)
SOURCES = {
    "tall": A,
    "wide": A.T.copy(),
    "complex": decaying(400, 300, seed=2, complex_=True),
    "wide and complex": decaying(300, 400, seed=2, complex_=True),
    "float32": A.astype(np.float32),
    "integers": np.random.default_rng(0).integers(-9, 9, (400, 300), dtype=np.int8),
    "CSR": sp.csr_array(SPARSE),
    "wide CSC": sp.csc_array(SPARSE.T),
}


@pytest.mark.parametrize("name", SOURCES)
def test_triplets_of_every_kind_of_matrix(name):
    tri = bigspec.svds(SOURCES[name], 5, seed=1, block_size=20)
    assert tri.converged
    assert tri.width <= 1e-3
    assert_every_interval_holds(tri, SOURCES[name])
    assert_triplets(tri, SOURCES[name], residual=0.2)  # sqrt of the width, over a gap


@pytest.mark.parametrize("rtol", [1e-2, 1e-6, 1e-10])
def test_asked_for_more_the_residual_falls(rtol):
    tri = bigspec.svds(A, 4, seed=1, rtol=rtol)
    assert tri.converged
    assert_every_interval_holds(tri, A)
    assert_triplets(tri, A, residual=2 * np.sqrt(rtol))


def test_dask_arrays_operators_and_zarr_give_the_same_values(tmp_path):
    zarr.create_array(tmp_path / "A.zarr", shape=A.shape, chunks=(64, 70), dtype=A.dtype)[:] = A
    sparse = da.from_array(A, chunks=(90, 300)).map_blocks(sp.csr_array, dtype=A.dtype)
    ragged = da.from_array(A, chunks=((37, 200, 263), (100, 120, 80)))
    reference = bigspec.svds(A, 3, seed=1, rtol=1e-10)
    for source in (tmp_path / "A.zarr", ragged, sparse, aslinearoperator(A)):
        tri = bigspec.svds(source, 3, seed=1, rtol=1e-10)
        assert_triplets(tri, A, residual=1e-4)
        np.testing.assert_allclose(tri.s, reference.s, rtol=1e-10)
        np.testing.assert_allclose(tri.vh, reference.vh, atol=1e-4)


def test_a_cluster_gives_the_same_bits(cluster, tmp_path):
    zarr.create_array(tmp_path / "A.zarr", shape=A.shape, chunks=(64, 300), dtype=A.dtype)[:] = A
    options = {"seed": 1, "block_size": 11}
    ragged = da.from_array(A, chunks=((37, 200, 263), (300,)))
    with Client(cluster):
        there = bigspec.svds(tmp_path / "A.zarr", 3, u_store=tmp_path / "U.zarr", **options)
        assert_triplets(bigspec.svds(ragged, 3, **options), A, residual=0.2)
    assert there.layout["where"].startswith("2 Dask")
    assert_triplets(there, A, residual=0.2)
    here = bigspec.svds(tmp_path / "A.zarr", 3, **options)
    np.testing.assert_array_equal([here.lower, here.upper], [there.lower, there.upper])
    np.testing.assert_allclose(here.u, there.u[:], atol=1e-12)


# What a spectrum may be -----------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [8, 16, 40], ids=lambda b: f"b={b}")
@pytest.mark.parametrize("make", [decaying, gapped, clustered], ids=lambda f: f.__name__)
def test_every_width_of_block_certifies_twelve_values(make, block_size):
    B = make(400, 280, seed=4)
    tri = bigspec.svds(B, 12, seed=2, block_size=block_size)
    assert tri.converged
    assert_every_interval_holds(tri, B)


def test_a_hundred_values():
    B = decaying(600, 400, seed=5)
    tri = bigspec.svds(B, 100, seed=1)
    assert tri.converged
    assert tri.block_size == 108
    assert_every_interval_holds(tri, B)
    assert_triplets(tri, B, residual=0.05)


def test_all_values_of_a_small_matrix_are_certain_after_one_pass():
    B = decaying(60, 40, seed=6)
    tri = bigspec.svds(B, 40, seed=1, rtol=1e-8)
    assert (tri.passes, tri.converged, tri.deterministic) == (1, True, True)
    assert_every_interval_holds(tri, B)
    assert_triplets(tri, B)


def test_one_value_agrees_with_norm():
    tri, est = bigspec.svds(A, 1, seed=1, rtol=1e-9), bigspec.norm(A, seed=1, rtol=1e-9)
    assert tri.lower[0] <= est.upper
    assert est.lower <= tri.upper[0]
    np.testing.assert_allclose(np.abs(tri.vh[0] @ est.right), 1, atol=1e-12)


@pytest.mark.parametrize("copies", [2, 6, 20])
def test_equal_values_are_all_found(copies):
    sigma = np.concatenate([np.full(copies, 2.0), np.linspace(1, 0.5, 260 - copies)])
    B = with_spectrum(300, 280, sigma, seed=7)
    tri = bigspec.svds(B, copies, seed=1)
    assert tri.converged
    assert_every_interval_holds(tri, B)
    np.testing.assert_allclose(tri.s, 2.0, rtol=1e-6)


def test_identity():
    tri = bigspec.svds(np.eye(300), 20, seed=1)
    assert (tri.converged, tri.passes) == (True, 1)
    np.testing.assert_allclose(tri.s, 1.0, rtol=1e-12)


def test_values_repeated_more_often_than_the_block_is_wide_are_not_claimed():
    tri = bigspec.svds(np.eye(300), 12, seed=1, block_size=6)
    assert tri.stopped_by == "exhausted"
    assert np.all(tri.lower[6:] == 0.0)  # the Krylov space holds six vectors
    assert np.all(tri.upper >= 1.0)
    assert_triplets(tri, np.eye(300))


@pytest.mark.parametrize("rows", [500, 300], ids=["tall", "wide"])
def test_zero_values_end_exhausted_with_small_absolute_intervals(rows):
    B = with_spectrum(rows, 400, [3.0, 2.0, 1.0], seed=8)
    tri = bigspec.svds(B, 5, seed=1)
    assert (tri.converged, tri.stopped_by) == (False, "exhausted")
    assert "2 of 5" in tri.status
    assert_every_interval_holds(tri, B)
    assert_triplets(tri, B)
    assert np.all(tri.lower[3:] == 0)
    assert np.all(tri.upper[3:] < 1e-5 * tri.s[0])
    assert max(tri.widths[:3]) < 1e-9
    assert tri.passes == 2


def test_values_below_the_rounding_of_the_squares_end_exhausted_too():
    sigma = np.concatenate([[1.0, 0.5], np.full(258, 1e-7)])
    B = with_spectrum(300, 260, sigma, seed=9)
    tri = bigspec.svds(B, 3, seed=1, block_size=8)
    assert tri.stopped_by == "exhausted"
    assert tri.passes < 12
    assert_every_interval_holds(tri, B)
    assert max(tri.widths[:2]) <= 1e-3
    assert tri.upper[2] < 1e-4


def test_zero_matrix():
    tri = bigspec.svds(np.zeros((400, 300)), 4)
    assert tri.converged
    assert tri.upper.tolist() == tri.s.tolist() == [0.0] * 4
    assert_triplets(tri, np.zeros((400, 300)))


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_extreme_scales(scale):
    tri, plain = bigspec.svds(A * scale, 3, seed=1), bigspec.svds(A, 3, seed=1)
    np.testing.assert_allclose(tri.s / scale, plain.s, rtol=1e-12)
    np.testing.assert_allclose(tri.upper / scale, plain.upper, rtol=1e-9)
    np.testing.assert_allclose(tri.vh, plain.vh, atol=1e-9)


REAL = {"pbmc X": 8, "illc1850": 6, "young1c": 4, "mhd1280b": 5, "west0479": 3, "silero": 10}


@pytest.mark.parametrize("name", REAL)
def test_reference_values_of_real_matrices_lie_in_every_interval(name, data):
    B, k = load(data, name), REAL[name]
    tri = bigspec.svds(sp.csr_array(B), k, seed=1, max_passes=40, block_size=k + 8)
    assert_every_interval_holds(tri, B)
    assert tri.converged


def test_a_wide_real_matrix(data):
    B = load(data, "lp_dfl001")[:700]
    tri = bigspec.svds(sp.csc_array(B), 6, seed=1)
    assert tri.layout["orientation"] == "columns"
    assert_every_interval_holds(tri, B)
    assert_triplets(tri, B, residual=0.2)


# The vectors in a store -----------------------------------------------------------------------


def test_left_vectors_are_written_by_the_panels(tmp_path):
    tri = bigspec.svds(A, 4, seed=1, u_store=tmp_path / "U.zarr")
    stored = zarr.open_array(tmp_path / "U.zarr", mode="r")
    assert stored.attrs["complete"] is True
    assert tri.u_store == str(tmp_path / "U.zarr")
    assert_triplets(tri, A, residual=0.2)
    in_memory = bigspec.svds(A, 4, seed=1)
    np.testing.assert_allclose(stored[:], in_memory.u, atol=1e-12)
    np.testing.assert_allclose(tri.s, in_memory.s, rtol=1e-13)


def test_wide_matrices_write_theirs_from_the_basis(tmp_path):
    tri = bigspec.svds(A.T.copy(), 4, seed=1, u_store=tmp_path / "U.zarr")
    assert tri.layout["orientation"] == "columns"
    assert_triplets(tri, A.T, residual=0.2)


def test_columns_of_values_that_are_rounding_are_written_as_zero(tmp_path):
    B = with_spectrum(500, 300, [2.0, 1.0], seed=8)
    u = bigspec.svds(B, 4, seed=1, u_store=tmp_path / "U.zarr").u[:]
    np.testing.assert_allclose(u.T @ u, np.diag([1.0, 1.0, 0, 0]), atol=1e-12)


def test_vectors_written_before_are_replaced_and_nothing_else(tmp_path):
    for k in (2, 3):
        assert bigspec.svds(A, k, u_store=tmp_path / "U.zarr").u.shape == (500, k)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ArgumentError, match="u_store: expected an empty place or vectors"):
        bigspec.svds(A, 2, u_store=tmp_path / "other")
    with pytest.raises(ArgumentError, match="got the file"):
        bigspec.svds(A, 2, u_store=tmp_path / "other" / "notes.txt")
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_a_target_is_incomplete_until_the_end(tmp_path):
    create_target(tmp_path / "U.zarr", (5, 2), 2, np.dtype(float), "u_store")
    assert zarr.open_array(tmp_path / "U.zarr", mode="r").attrs["complete"] is False


def test_a_matrix_that_changes_before_the_last_pass_is_noticed(tmp_path):
    store = zarr.create_array(tmp_path / "A.zarr", shape=A.shape, chunks=(64, 300), dtype=float)
    store[:] = A

    class Writer(Observer):
        def pass_finished(self, record):
            if record.width <= 1e-3:
                store[70:80] = 7.0

    with pytest.raises(MatrixChangedError, match="got others in panel"):
        bigspec.svds(tmp_path / "A.zarr", 3, seed=1, pin=False, progress=Writer())


def test_irregular_panels_cannot_share_chunks(tmp_path):
    ragged = da.from_array(np.ones((900, 300)), chunks=((1, 399, 500), (300,)))
    tri = bigspec.svds(ragged, 1, seed=1, u_store=tmp_path / "U.zarr")  # one panel: no sharing
    assert tri.u.shape == (900, 1)


# Bad input, and memory ------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, -1, 1.5, "3", True, None])
def test_k_is_checked(k):
    with pytest.raises(ArgumentError, match="k: expected an integer"):
        bigspec.svds(A, k)


def test_more_triplets_than_there_are():
    with pytest.raises(ArgumentError, match=r"k: expected 1 <= k <= min\(m, n\) = 300 .*got 301"):
        bigspec.svds(A, 301)


def test_triplets_are_planned_for_lanczos_alone():
    with pytest.raises(ArgumentError, match="algorithm: expected 'lanczos' or 'auto'"):
        bigspec.plan(A, k=3, algorithm="power")


def test_u_store_without_left_vectors():
    with pytest.raises(ArgumentError, match="u_store: expected none with left=False"):
        bigspec.svds(A, 2, left=False, u_store="U.zarr")


def test_what_cannot_fit_is_refused_with_the_numbers():
    with pytest.raises(MemoryLimitError, match=r"expected at least .* for 40 triplets .* basis"):
        bigspec.svds(A, 40, memory_limit="13.5MiB", block_size=48)
    with pytest.raises(MemoryLimitError, match="u_store, which holds the left vectors"):
        bigspec.plan(np.zeros((2_000_000, 2)), k=2, memory_limit="60MiB")
    planned = bigspec.plan(A, k=5)
    assert "k + 8 columns" in str(planned)
    assert planned.to_dict()["block_size"] == 16


@pytest.mark.parametrize("place", ["in memory", "stored"])
def test_with_the_least_memory_a_run_and_its_last_pass_take_no_more_than_planned(place, tmp_path):
    A, k = sp.random_array((60_000, 400), density=0.01, format="csr", rng=1), 64
    if place == "stored":
        bigspec.convert(A, tmp_path / "A.zarr")
        A = tmp_path / "A.zarr"
    plan = bigspec.plan(A, k=k, block_size=72, memory_limit="1 GiB", pin=False)
    planned = plan.layout.memory.total + plan.vectors_bytes
    said = f"vectors {format_bytes(plan.vectors_bytes)}"
    assert said in str(plan)
    with pytest.raises(MemoryLimitError, match=f"{said}, basis"):
        bigspec.svds(A, k, block_size=72, memory_limit=planned)
    basis = 3 * 72 * 400 * 8  # the least that is accepted
    options = {"block_size": 72, "memory_limit": planned + basis}
    assert bigspec.plan(A, k=k, **options).vectors_bytes == plan.vectors_bytes
    with traced_peak() as peak:
        triplets = bigspec.svds(A, k, max_passes=2, seed=1, **options)
    assert 2 * triplets.u.nbytes < peak[0] < planned


def test_a_basis_that_outgrows_the_memory_ends_the_run_honestly():
    B = with_spectrum(400, 300, np.linspace(1, 0.9, 300), seed=1)
    planned = next(kib for kib in range(12_000, 20_000, 50) if _fits(B, f"{kib}KiB"))
    tri = bigspec.svds(B, 3, seed=1, block_size=8, memory_limit=f"{planned}KiB")
    assert (tri.converged, tri.stopped_by) == (False, "memory")
    assert "checkpoint" in tri.status
    assert_every_interval_holds(tri, B)
    assert_triplets(tri, B, residual=0.5)


def _fits(B, limit):
    try:
        bigspec.plan(B, k=3, block_size=8, memory_limit=limit)
    except MemoryLimitError:
        return False
    return True


def test_time_limit_before_the_first_pass_and_after_it():
    tri = bigspec.svds(A, 3, time_limit=1e-9)
    assert (tri.stopped_by, tri.u, tri.vh, tri.s.tolist()) == ("time", None, None, [0.0] * 3)
    assert tri.to_dict()["upper"] == [None] * 3


def test_without_left_vectors_there_is_no_last_pass():
    tri = bigspec.svds(A, 3, seed=1, left=False)
    assert (tri.u, tri.vector_passes) == (None, 0)
    assert tri.s.tolist() == tri.lower.tolist()
    assert_every_interval_holds(tri, A)
    np.testing.assert_allclose(tri.vh @ tri.vh.T, np.eye(3), atol=1e-13)


def test_warm_start_from_triplets_saves_passes():
    cold = bigspec.svds(A, 5, seed=1, rtol=1e-6, block_size=16)
    changed = A + 1e-6 * with_spectrum(500, 300, np.linspace(1, 0.1, 300), seed=11)
    warm = bigspec.svds(changed, 5, seed=2, rtol=1e-6, block_size=16, start=cold)
    assert_every_interval_holds(warm, changed)
    assert warm.passes < cold.passes


# The answer -----------------------------------------------------------------------------------


def test_triplets_as_text_json_and_html(tmp_path):
    tri = bigspec.svds(A, 3, seed=1)
    assert tri.summary().count("sigma_") == 3
    data = json.loads(tri.to_json(tmp_path / "tri.json"))
    assert (data["schema"], data["k"], data["passes"]) == ("bigspec.triplets/1", 3, tri.passes)
    assert data["lower"] == tri.lower.tolist()
    assert json.loads((tmp_path / "tri.json").read_text()) == data
    page = tri._repr_html_()
    assert page.count("<tr>") >= 4
    assert "Lehmann" in page or "Frobenius" in page


def test_the_same_seed_gives_the_same_bits():
    one, two = (bigspec.svds(A, 4, seed=9) for _ in range(2))
    for left, right in zip((*one, one.upper), (*two, two.upper), strict=True):
        np.testing.assert_array_equal(left, right)
