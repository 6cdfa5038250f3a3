"""``A @ B``: its norm and triplets from passes over the factors, never formed."""

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from distributed import Client
from scipy.sparse.linalg import aslinearoperator

import bigspec
from bigspec.errors import (
    ArgumentError,
    DataError,
    MatrixChangedError,
    MemoryLimitError,
    NonFiniteError,
)
from bigspec.passes.products.images import Images
from bigspec.watch import Observer
from tests.matrices import Chunked, contains, decaying, largest_singular_value
from tests.memory import traced_peak

P = 30


def dense(m, n, seed=0, dtype="f8"):
    A = np.random.default_rng(seed).standard_normal((m, n))
    return A if np.dtype(dtype).kind != "c" else A + 1j * dense(m, n, seed + 50)


def sparse(m, n, format="csr"):  # noqa: A002
    return sp.random(m, n, 0.2, format=format, rng=np.random.default_rng(7))


PAIRS = {
    "tall": (dense(90, P), dense(P, 50, 1)),
    "wide": (dense(50, P), dense(P, 90, 1)),
    "through a wide middle": (dense(40, 200), dense(200, 20, 1)),
    "complex": (dense(60, P, dtype="c16"), dense(P, 40, 1, "c16")),
    "real times complex": (dense(60, P), dense(P, 40, 1, "c16")),
    "complex times real, wide": (dense(40, P, dtype="c16"), dense(P, 60, 1)),
    "sparse rows": (dense(60, P), sparse(P, 300)),
    "sparse columns": (sparse(300, P, "csc"), dense(P, 60)),
    "sparse both": (sparse(80, P), sparse(P, 70, "csc")),
    "dask": (da.from_array(dense(90, P), chunks=(17, 9)), dense(P, 50, 1)),
    "operator": (aslinearoperator(dense(90, P)), dense(P, 50, 1)),
}


def entries(a):
    if hasattr(a, "matmat"):
        return a @ np.eye(a.shape[1])
    return np.asarray(a.toarray() if sp.issparse(a) else a)


def multiplied(A, B):
    return bigspec.open_matrix(A) @ bigspec.open_matrix(B), entries(A) @ entries(B)


@pytest.fixture(params=PAIRS.values(), ids=PAIRS)
def pair(request):
    return multiplied(*request.param)


def test_interval_holds_the_norm_of_the_product(pair):
    K, D = pair
    est = bigspec.norm(K, rtol=1e-6)
    assert est.converged
    assert contains(est, largest_singular_value(D))
    if est.right is not None:
        assert np.linalg.norm(D @ est.right) >= est.lower * (1 - 1e-12)


def test_triplets_of_the_product(pair):
    K, D = pair
    u, s, vh = tri = bigspec.svds(K, 3, rtol=1e-8)
    sigma = np.linalg.svd(D, compute_uv=False)[:3]
    assert np.all(tri.lower <= sigma * (1 + 1e-12))
    assert np.all(sigma <= tri.upper * (1 + 1e-12))
    np.testing.assert_allclose(D @ vh.conj().T, u * s, atol=1e-3 * sigma[0])


def test_products_of_products_and_of_expressions():
    A, B, C = dense(70, P), dense(P, 40, 1), dense(40, 60, 2)
    K = (bigspec.open_matrix(A) @ B) @ C
    assert contains(bigspec.norm(K, rtol=1e-6), largest_singular_value(A @ B @ C))
    K = bigspec.centered(A) @ (bigspec.open_matrix(B) - B[::-1].copy())
    D = (A - A.mean(axis=0)) @ (B - B[::-1])
    assert contains(bigspec.norm(K, rtol=1e-6), largest_singular_value(D))


@pytest.mark.parametrize("p", [P, 200])
def test_each_factor_is_read_once_a_pass_and_the_outer_one_once_more_at_first(p):
    A, B = Chunked.of(dense(90, p), (20, p)), Chunked.of(dense(p, 50, 1), (10, 50))
    est = bigspec.norm(A @ B, block_size=4, max_passes=3, rtol=1e-8, seed=1)
    assert set(A.log.reads.values()) == {est.passes}
    assert set(B.log.reads.values()) == {est.passes + 1}
    assert est.bytes_read == est.passes * (A.nbytes + B.nbytes) + B.nbytes


def test_an_outer_factor_that_is_cut_along_the_inner_extent_alone_is_read_twice(monkeypatch):
    monkeypatch.setattr("bigspec.panels.choose_layout.PANEL_BYTES", (1, 1))
    A, B = Chunked.of(dense(90, P), (20, P)), Chunked.of(dense(P, 50, 1), (10, 50))
    est = bigspec.norm(A @ B, block_size=4, max_passes=3, rtol=1e-8, seed=1)
    assert set(A.log.reads.values()) == {est.passes}
    assert set(B.log.reads.values()) == {2 * est.passes}


@pytest.mark.parametrize("algorithm", ["lanczos", "power"])
@pytest.mark.parametrize(("decay", "beyond"), [(0.5, 0.0), (1.0, 0.0), (2.0, 0.0), (1.0, 1e4)])
def test_an_image_that_was_not_read_is_off_by_no_more_than_is_said(
    decay, beyond, algorithm, monkeypatch
):
    B = (dense(120, 120, 1) * np.arange(1.0, 121) ** -decay) @ dense(120, 80, 2)
    A, rest = dense(130, 120), np.linalg.qr(B, mode="complete")[0][:, 80:]
    A[:40] += beyond * rest.T  # errors of an image have a part here, what B gives has not
    found, find = [], Images.find

    def noted(self, V):
        Y = find(self, V)
        if (held := self.carried) is not None:
            there, error = held.image(V)
            found.append(Y is not None)
            E = there - B @ V
            assert np.linalg.norm(E, 2) <= 8 * error  # as eps_H has 8 defects
            effect = np.linalg.norm(B.T @ (A.T @ (A @ E)), 2)
            assert effect <= 8 * error * held.inner * held.whole
        return Y

    monkeypatch.setattr(Images, "find", noted)
    K, D = multiplied(A, B)
    est = bigspec.norm(K, rtol=1e-6, block_size=6, algorithm=algorithm, seed=1)
    assert contains(est, largest_singular_value(D))
    assert any(found) == (not beyond)
    assert len(found) == est.passes - 1


def test_progress_is_told_in_panels_of_the_factors():
    told = []

    class Told(Observer):
        def panels_done(self, done, panels, bytes_read, seconds):
            told.append((done, panels, bytes_read))

    A, B = Chunked.of(dense(90, P), (20, P)), Chunked.of(dense(P, 50, 1), (10, 50))
    est = bigspec.norm(A @ B, max_passes=2, rtol=1e-3, block_size=2, seed=1, progress=Told())
    ends = [(done, read) for done, panels, read in told if done == panels]
    assert len(ends) == est.passes
    assert sum(read for _, read in ends) == est.bytes_read
    assert all(done <= panels for done, panels, _ in told)


def test_a_time_limit_ends_a_pass_between_the_panels_of_a_factor():
    A, B = Chunked.of(dense(90, P), (20, P)), Chunked.of(dense(P, 50, 1), (10, 50))
    est = bigspec.norm(A @ B, time_limit=1e-9)
    assert (est.passes, est.stopped_by) == (0, "time")
    assert not A.log.reads


@pytest.mark.parametrize(("block", "rtol"), [(1, 1e-3), (1, 1e-6), (4, 1e-10)])
def test_images_cost_no_narrow_block_its_accuracy(block, rtol):
    K, D = multiplied(dense(80, P), np.linalg.qr(dense(60, P, 1))[0].T * 0.5 ** np.arange(60))
    est = bigspec.norm(K, rtol=rtol, block_size=block, seed=1)
    assert est.converged
    assert contains(est, largest_singular_value(D))


@pytest.mark.parametrize("block", [4, 16])
def test_factors_that_cancel_are_no_wrong_adjoints(block):
    Q, sizes = np.linalg.qr(dense(P, P))[0], 0.5 ** np.arange(P)
    small, large = sizes.copy(), sizes.copy()
    small[:5], large[:5] = 1e-18, 1e9
    A, B = (dense(90, P, 1) * small) @ Q.T, (Q * large) @ dense(P, 50, 2)
    est = bigspec.norm(multiplied(A, B)[0], rtol=1e-10, block_size=block, seed=1)
    top = largest_singular_value((A.astype(np.longdouble) @ B.astype(np.longdouble)).astype(float))
    slack = 1e-15 * largest_singular_value(A) * largest_singular_value(B) / top
    assert slack < 1e-4
    assert est.lower <= top * (1 + slack)
    assert est.upper >= top * (1 - slack)


def test_a_factor_that_changes_between_passes_is_noticed():
    class Changing(Observer):
        def pass_finished(self, record):
            B.array[12, 40] *= 2

    A, B = Chunked.of(dense(90, P), (20, P)), Chunked.of(dense(P, 50, 1), (10, 50))
    with pytest.raises(MatrixChangedError, match="The matrix changed during the run"):
        bigspec.norm(A @ B, rtol=1e-12, progress=Changing())


@pytest.mark.parametrize(
    ("left", "right"), [(1e-200, 1), (1, 1e58), (1, 1e200), (1e-170, 1e-100), (1e300, 1e-290)]
)
def test_factors_of_extreme_magnitude(left, right):
    A, B = dense(60, P), dense(P, 40, 1)
    K, _ = multiplied(A * left, B * right)
    est, plain = (bigspec.norm(M, rtol=1e-6, seed=1) for M in (K, multiplied(A, B)[0]))
    # Images of extreme blocks are not carried: another margin for rounding, not another norm.
    rel = 2 * (est.rounding + plain.rounding)
    assert rel < 1e-8
    assert est.lower == pytest.approx(plain.lower * left * right, rel=rel)
    assert est.upper == pytest.approx(plain.upper * left * right, rel=rel)


@pytest.mark.parametrize("size", [1e-140, 1e80, 1e150])
def test_the_gram_matrix_of_entries_of_extreme_magnitude(size):
    A = dense(60, P)
    a = bigspec.open_matrix(A * size)
    est = bigspec.norm(a.H @ a, rtol=1e-6)
    assert contains(est, (largest_singular_value(A) * size) ** 2)


def test_the_same_bits_on_a_cluster_and_after_a_break(cluster, tmp_path):
    A, B = Chunked.of(dense(90, P), (20, P)), Chunked.of(dense(P, 50, 1), (10, 50))
    options = {"rtol": 1e-6, "seed": 3, "block_size": 3}
    here = bigspec.norm(A @ B, **options)
    assert max(B.log.reads.values()) < 2 * here.passes - 4  # images were carried
    bigspec.norm(A @ B, **options, checkpoint=tmp_path / "run", max_passes=2)
    again = bigspec.norm(A @ B, **options, checkpoint=tmp_path / "run")
    with pytest.raises(ArgumentError, match="token was"):
        bigspec.norm(A @ (2 * dense(P, 50, 1)), checkpoint=tmp_path / "run")
    assert (again.lower, again.upper) == (here.lower, here.upper)
    left, right = (bigspec.open_matrix(da.from_array(M.array, chunks=20)) for M in (A, B))
    there_not = bigspec.norm(left @ right, **options)
    with Client(cluster):
        there = bigspec.norm(left @ right, **options)
    assert (there.lower, there.upper) == (there_not.lower, there_not.upper)


def test_images_are_carried_only_where_the_factors_fit_beside_them():
    A, B = Chunked.of(dense(21_000, P), (3000, P)), Chunked.of(dense(P, 20_000, 1), (P, 20_000))
    for limit, reads in (("39MiB", 4), ("50MiB", 3)):
        B.log.reads.clear()
        bigspec.norm(A @ B, block_size=16, seed=1, max_passes=2, memory_limit=limit)
        assert set(B.log.reads.values()) == {reads}


def test_a_large_product_is_not_measured_for_it_cannot_be_read(monkeypatch):
    monkeypatch.setattr("bigspec.run.planner.MEASURE_FROM", 1)
    K, D = multiplied(*PAIRS["tall"])
    assert contains(bigspec.norm(K), largest_singular_value(D))
    assert bigspec.plan(K).bytes_per_pass == 8 * (90 * P + P * 50)


def test_a_factor_that_is_not_finite_is_named():
    A = dense(60, P)
    A[17, 3] = np.inf
    with pytest.raises(NonFiniteError, match=r"first at \[17, 3\]"):
        bigspec.norm(multiplied(A, dense(P, 40))[0])


def test_factors_that_do_not_fit_together_or_in_memory_are_refused():
    A = bigspec.open_matrix(dense(60, P))
    with pytest.raises(DataError, match=r"as many columns as rows, got shapes \(60, 30\) and \(60"):
        A @ A
    with pytest.raises(TypeError, match="an operator or a product"):
        (A @ A.H) - A
    with pytest.raises(ArgumentError, match="needs entries"):
        bigspec.norm(A @ A.H, algorithm="gram")
    wide = bigspec.open_matrix(dense(60, 20_000)) @ dense(20_000, 50)
    for door in (bigspec.plan, bigspec.norm):
        with pytest.raises(MemoryLimitError, match="the blocks between its factors"):
            door(wide, memory_limit="14MiB", block_size=16)
    assert bigspec.plan(wide, memory_limit="14MiB").block_size < 16


def test_a_plan_counts_what_its_factors_hold_and_the_basis_gets_the_rest():
    A, B = Chunked.of(dense(6000, 300), (3000, 300)), Chunked.of(dense(300, 5000, 1), (300, 2500))
    options = {"block_size": 16, "algorithm": "lanczos", "memory_limit": "28MiB"}
    plan = bigspec.plan(A @ B, **options)
    memory = plan.layout.memory
    assert memory.task > max(bigspec.plan(M, **options).layout.memory.task for M in (A, B))
    assert plan.algorithm.basis_bytes == memory.limit - memory.total
    with traced_peak() as peak:
        est = bigspec.norm(A @ B, rtol=1e-9, max_passes=8, **options)
    assert est.passes == 8
    assert peak[0] < memory.limit


@pytest.mark.parametrize("k", [0, 2])
def test_a_run_resumed_at_a_finer_rtol_gets_where_a_fresh_one_does(tmp_path, k):
    A, B = decaying(300, 80, seed=1), decaying(80, 200, seed=2)
    K = bigspec.open_matrix(A) @ B
    exact = np.linalg.svd(A @ B, compute_uv=False)[: max(k, 1)]

    def run(rtol, checkpoint=None):
        options = {"block_size": 6, "seed": 1, "rtol": rtol, "checkpoint": checkpoint}
        if k:
            return bigspec.svds(K, k, failure_probability=1e-2, **options)
        return bigspec.norm(K, algorithm="lanczos", failure_probability=1e-2, **options)

    coarse = run(1e-3, tmp_path / "run")
    fine, fresh = run(1e-10, tmp_path / "run"), run(1e-10)
    assert coarse.converged
    assert fine.stopped_by == fresh.stopped_by
    for answer in (coarse, fine, fresh):
        assert np.all(np.atleast_1d(answer.lower) <= exact * (1 + 1e-13))
        assert np.all(exact <= np.atleast_1d(answer.upper) * (1 + 1e-13))
    assert np.all(np.asarray(fine.upper) / fine.lower <= np.asarray(coarse.upper) / coarse.lower)
    assert len(fine.history) > len(coarse.history)
