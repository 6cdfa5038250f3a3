"""Sums, parts and stacks of matrices: the norm of the expression, each operand read once."""

import json
import pickle
from collections.abc import Callable

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from click.testing import CliRunner
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

import bigspec
from bigspec.cli import main
from bigspec.errors import (
    ArgumentError,
    DataError,
    NonFiniteError,
    SourceError,
    UnsupportedTypeError,
)
from bigspec.kernels.buffers import Buffers
from bigspec.kernels.sums import SumBlock
from tests.matrices import Chunked, contains, decaying, largest_singular_value
from tests.memory import traced_peak

M, N = 60, 44


def dense(seed, dtype="f8"):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((M, N))
    if np.dtype(dtype).kind == "c":
        A = A + 1j * rng.standard_normal((M, N))
    return (A * 8).astype(dtype)


def sparse(seed, format="csr"):  # noqa: A002
    rng = np.random.default_rng(seed)
    return sp.random(M, N, 0.2, format=format, rng=rng)


def stored(path, A, chunks):
    array = zarr.create_array(path, shape=A.shape, dtype=A.dtype, chunks=chunks)
    array[...] = A
    return bigspec.open_matrix(path)


def opened(a):
    return bigspec.open_matrix(a)


FACTORS = np.linalg.svd(dense(0), full_matrices=False)
U, S, VH = FACTORS[0][:, :5], FACTORS[1][:5], FACTORS[2][:5]
W = np.linspace(0.5, 3, N)


def other_grid(path):
    A, B = dense(0), dense(1, "f4")
    return stored(path / "A", A, (7, 11)) - stored(path / "B", B, (9, 13)), A - B.astype(float)


def common_multiples(path):
    A, B = dense(0), dense(1)
    return stored(path / "A", A, (6, 44)) + stored(path / "B", B, (4, 22)), A + B


def other_format(path):
    A, B = dense(0), sparse(1)
    return stored(path / "A", A, (7, 11)) - B, A - B.toarray()


def stored_rows_beside_dense(path):
    A, B = dense(0), sparse(1)
    group = zarr.create_group(path / "B")
    group.attrs.update({"encoding-type": "csr_matrix", "shape": list(B.shape)})
    for part in ("data", "indices", "indptr"):
        group.create_array(part, data=getattr(B, part), chunks=(16,))
    return stored(path / "A", A, (7, 11)) - bigspec.open_matrix(path / "B"), A - B.toarray()


def three_terms(path):
    A, B, C = dense(0, "c8"), dense(1, "i2"), sparse(2, "csr")
    made = 2 * stored(path / "A", A, (7, 11)) - 0.1 * opened(B) + opened(C) / 3
    return made, 2 * A.astype(complex) - 0.1 * B + C.toarray() / 3


def sparse_difference(path):
    A, B = sparse(0), sparse(1)
    return opened(A) - B, (A - B).toarray()


def sparse_columns(path):
    A, B = sparse(0, "csc"), sparse(1)
    return opened(A) - 0.5j * opened(B.T.tocsr()).H, A.toarray() - 0.5j * B.toarray()


def from_the_left(path):
    A, B = dense(0), dense(1)
    return A - stored(path / "B", B, (7, 44)), A - B


def negative_multiple(path):
    A = dense(0, "u1")
    return -3 * stored(path / "A", A, (7, 11)), -3.0 * A


def adjoint_complex(path):
    A = dense(0, "c16")
    return stored(path / "A", A, (7, 11)).H, A.conj().T


def adjoint_of_a_difference(path):
    A, B = dense(0, "c16"), dense(1)
    return (stored(path / "A", A, (7, 11)) - 1j * opened(B)).H, (A - 1j * B).conj().T


def low_rank_beside_dense(path):
    A = dense(0)
    return stored(path / "A", A, (7, 11)) - bigspec.low_rank(U, S, VH), A - U * S @ VH


def low_rank_beside_sparse(path):
    A = sparse(0)
    return opened(A) - bigspec.low_rank((U, S, VH)), A.toarray() - U * S @ VH


def low_rank_complex(path):
    A, left = sparse(0, "csc"), U * (1 + 2j)
    return (opened(A) + bigspec.low_rank(left, None, VH)).H, (A.toarray() + left @ VH).conj().T


def low_rank_alone(path):
    return 2 * bigspec.low_rank(U, S, VH), 2 * U * S @ VH


def centered_columns(path):
    A = dense(0) + 100
    return bigspec.centered(stored(path / "A", A, (7, 11))), A - A.mean(axis=0)


def centered_rows_of_sparse(path):
    A = sparse(0, "csc")
    return bigspec.centered(A, axis=1), A.toarray() - A.toarray().mean(axis=1, keepdims=True)


def centered_sparse_complex(path):
    A = sp.csr_array(sparse(0) * (1 - 2j))
    return bigspec.centered(A), A.toarray() - A.toarray().mean(axis=0)


def standardized(path):
    A = dense(0)
    A[:, 3] = 7.0
    made = (A - A.mean(axis=0)) / np.where(np.arange(N) == 3, 1, A.std(axis=0, ddof=1))
    return bigspec.standardized(stored(path / "A", A, (7, 11))), made


def root_mean_squares(path):
    A = sparse(0)
    sizes = np.sqrt((A.toarray() ** 2).mean(axis=0))
    return bigspec.standardized(A, center=False), A.toarray() / np.where(sizes > 0, sizes, 1)


def scaled_difference(path):
    A, B, rows = dense(0), sparse(1), np.arange(1.0, M + 1)
    made = bigspec.scaled(opened(A) - opened(B), rows=rows, columns=W * 1j)
    return made, rows[:, None] * (A - B.toarray()) * (W * 1j)


def scaled_sparse(path):
    A = sparse(0, "csc")
    return bigspec.scaled(bigspec.centered(A), columns=W), (
        (A.toarray() - A.toarray().mean(axis=0)) * W
    )


def part_across_chunks(path):
    A = dense(0)
    return stored(path / "A", A, (7, 11))[5:50, 3:40], A[5:50, 3:40]


def part_of_a_difference(path):
    A, B = dense(0), sparse(1)
    return (stored(path / "A", A, (7, 44)) - B)[10:31], (A - B.toarray())[10:31]


def part_of_columns(path):
    A = sparse(0, "csc")
    return opened(A)[:, 4:17], A.toarray()[:, 4:17]


def stack_of_rows(path):
    A, B, C = dense(0), dense(1, "f4"), sparse(2)
    made = bigspec.vstack([stored(path / "A", A, (7, 11)), stored(path / "B", B, (9, 44)), C])
    return made, np.vstack([A, B, C.toarray()])


def stack_of_sparse_rows(path):
    A, B = sparse(0), sparse(1)
    return bigspec.vstack([A, B, A]), sp.vstack([A, B, A]).toarray()


def stack_of_columns(path):
    A, B = dense(0, "c8"), dense(1)
    made = bigspec.hstack([stored(path / "A", A, (7, 11)), stored(path / "B", B, (9, 13))])
    return made, np.hstack([A, B])


def stack_of_centered(path):
    A, B = sparse(0), sparse(1)
    made = bigspec.vstack([bigspec.centered(A), bigspec.centered(B)])
    return made, np.vstack([X.toarray() - X.toarray().mean(axis=0) for X in (A, B)])


def centered_sparse_beside_dense(path):
    A, B = sparse(0), dense(1)
    made = 2 * bigspec.vstack([bigspec.centered(A), B]) - np.ones((2 * M, N))
    return made, 2 * np.vstack([A.toarray() - A.toarray().mean(axis=0), B]) - 1


def dask_minus_stored(path):
    A, B = dense(0), dense(1)
    return opened(da.from_array(A, chunks=(13, 10))) - stored(path / "B", B, (9, 13)), A - B


EXPRESSIONS: list[Callable] = [
    other_grid,
    common_multiples,
    other_format,
    stored_rows_beside_dense,
    three_terms,
    sparse_difference,
    sparse_columns,
    from_the_left,
    negative_multiple,
    adjoint_complex,
    adjoint_of_a_difference,
    low_rank_beside_dense,
    low_rank_beside_sparse,
    low_rank_complex,
    low_rank_alone,
    centered_columns,
    centered_rows_of_sparse,
    centered_sparse_complex,
    standardized,
    root_mean_squares,
    scaled_difference,
    scaled_sparse,
    part_across_chunks,
    part_of_a_difference,
    part_of_columns,
    stack_of_rows,
    stack_of_sparse_rows,
    stack_of_columns,
    stack_of_centered,
    centered_sparse_beside_dense,
    dask_minus_stored,
]


@pytest.fixture(params=EXPRESSIONS, ids=lambda make: make.__name__)
def made(request, tmp_path):
    return request.param(tmp_path)


def entries(block):
    if isinstance(block, SumBlock):
        out = np.empty(block.shape, block.dtype)
        block.fill(out, Buffers())
        return out
    return block.toarray() if hasattr(block, "toarray") else np.asarray(block)


def test_shape_and_any_rectangle_are_those_of_the_expression(made):
    matrix, A = made
    assert matrix.shape == A.shape
    assert np.iscomplexobj(A) == (matrix.dtype.kind == "c")
    rng, buffers = np.random.default_rng(1), Buffers()
    atol = 1e-13 * np.abs(A).max() * 100
    for _ in range(12):
        spans = []
        for grid in matrix.grids:
            first, last = np.sort(rng.choice(grid.count + 1, 2, replace=False))
            spans.append(slice(grid.cut(int(first)), grid.cut(int(last))))
        block = matrix.read(*spans, buffers)
        np.testing.assert_allclose(entries(block), A[tuple(spans)], rtol=1e-12, atol=atol)
    assert isinstance(matrix.chunk_at(9, 3), str)


@pytest.mark.parametrize("algorithm", ["lanczos", "gram"])
def test_interval_holds_the_norm_of_the_expression(made, algorithm):
    matrix, A = made
    est = bigspec.norm(matrix, rtol=1e-6, algorithm=algorithm, block_size=None)
    sigma = largest_singular_value(A)
    assert est.converged
    assert contains(est, sigma)
    assert est.frobenius == pytest.approx(np.linalg.norm(A), rel=1e-9)
    if est.right is not None:
        assert np.linalg.norm(A @ est.right) >= est.lower * (1 - 1e-9)


def test_identity_tells_expressions_apart_and_survives_a_pickle(made, tmp_path):
    matrix, _ = made
    assert (-1.0 * (2 * matrix)).identity != (2 * matrix).identity
    if not matrix.resident:
        arrived = pickle.loads(pickle.dumps(matrix))
        assert arrived.identity == matrix.identity
        assert arrived.shape == matrix.shape


def test_the_same_bits_on_one_thread_and_on_three(made):
    matrix, _ = made
    ends = set()
    for threads in (1, 3):
        with dask.config.set(num_workers=threads):
            est = bigspec.norm(matrix, rtol=1e-3, algorithm="lanczos", block_size=3, seed=1)
        ends.add((est.lower, est.upper))
    assert len(ends) == 1


def test_every_chunk_of_both_operands_is_read_once_a_pass():
    A, B = dense(0), dense(1)
    left, right = Chunked.of(A, (6, 11)), Chunked.of(B, (4, 44))
    options = {"algorithm": "lanczos", "block_size": 4, "rtol": 1e-14, "pin": False}
    est = bigspec.norm(left - right, max_passes=3, **options)
    assert contains(est, largest_singular_value(A - B))
    for source in (left, right):
        assert set(source.log.reads.values()) == {est.passes}
    assert est.bytes_read == est.passes * (A.nbytes + B.nbytes)


def test_strips_that_cross_a_slab_are_read_once_a_panel():
    A, B = dense(0), dense(1)
    left, right = Chunked.of(A, (20, 44)), Chunked.of(B, (7, 44))
    matrix = left - right
    assert matrix.grids[0].step == 20
    buffers = Buffers()
    for start in range(0, M, 20):
        block = matrix.read(slice(start, start + 20), slice(0, N), buffers)
        np.testing.assert_allclose(entries(block), (A - B)[start : start + 20], atol=1e-13)
    assert set(right.log.reads.values()) == {1}


@settings(max_examples=40, deadline=None)
@given(data=st.data(), m=st.integers(1, 30), n=st.integers(1, 12))
def test_any_two_grids_in_any_order_of_ranges(data, m, n):
    def chunks():
        return data.draw(st.integers(1, m)), data.draw(st.integers(1, n))

    rng = np.random.default_rng(m * 31 + n)
    A, B = rng.standard_normal((m, n)), rng.standard_normal((m, n))
    matrix = Chunked.of(A, chunks()) - Chunked.of(B, chunks())
    buffers = Buffers()
    for _ in range(6):
        spans = []
        for grid in matrix.grids:
            cuts = sorted(data.draw(st.tuples(*[st.integers(0, grid.count)] * 2)))
            spans.append(slice(grid.cut(cuts[0]), grid.cut(cuts[1])))
        if all(span.start < span.stop for span in spans):
            block = matrix.read(*spans, buffers)
            np.testing.assert_array_equal(entries(block), (A - B)[tuple(spans)])


def test_on_a_cluster_as_on_threads(cluster, tmp_path):
    A = stored(tmp_path / "A", dense(0), (7, 11))
    matrix = bigspec.vstack([bigspec.centered(A), A - bigspec.low_rank(U, S, VH)])
    options = {"rtol": 1e-4, "seed": 3, "algorithm": "lanczos", "block_size": 4}
    here = bigspec.norm(matrix, **options)
    with Client(cluster):
        there = bigspec.norm(matrix, **options)
        carried = bigspec.norm(bigspec.centered(A) - dense(1), max_passes=1).layout["memory"]
    assert (there.lower, there.upper) == (here.lower, here.upper)
    assert carried["carried"] > dense(1).nbytes
    assert here.layout["memory"]["carried"] == 0


def test_a_run_on_a_difference_goes_on_from_its_checkpoint(tmp_path):
    A, B = stored(tmp_path / "A", dense(0), (7, 11)), stored(tmp_path / "B", dense(1), (9, 13))
    options = {"algorithm": "lanczos", "block_size": 3, "seed": 5, "rtol": 1e-8}
    whole = bigspec.norm(A - B, **options)
    bigspec.norm(A - B, **options, checkpoint=tmp_path / "run", max_passes=2)
    again = bigspec.norm(A - B, **options, checkpoint=tmp_path / "run")
    assert (again.lower, again.upper) == (whole.lower, whole.upper)
    with pytest.raises(ArgumentError, match="token was"):
        bigspec.norm(A - 2 * B, **options, checkpoint=tmp_path / "run")


@pytest.mark.parametrize("size", [1.0, 1e-290, 1e290])
def test_terms_that_cancel_widen_the_interval_honestly(size):
    A = decaying(80, 30) * size
    B = A * (1 + 2**-30)
    exact = bigspec.norm(opened(A) - B, rtol=1e-6)
    assert contains(exact, largest_singular_value(A - B))  # Sterbenz: the difference is exact
    assert exact.width < 1e-6
    C = 2 * A * (1 + 2**-36)
    rounded = bigspec.norm(3 * opened(A) - A - C, rtol=1e-6)
    long = np.longdouble
    assert contains(rounded, largest_singular_value((3 * A.astype(long) - A) - C.astype(long)))
    assert not rounded.converged
    assert rounded.stopped_by == "exhausted"


@pytest.mark.parametrize("size", [1e-318, 1e-300, 1e-170, 1e170, 1e300])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_terms_of_low_rank_of_extreme_magnitude(kind, size):
    A = np.round(decaying(40, 30) * 1024) * 1e-6  # few digits, so that 1e-318 holds them
    a = opened(sp.csr_array(A * size) if kind == "sparse" else A * size)
    u, w = np.linspace(1.0, 2.0, 40)[:, None], np.linspace(-1.0, 1.0, 30)[None]
    means = A.mean(axis=0)
    for made, D in (
        (a - bigspec.low_rank(u * size, [1e-3], w), A - 1e-3 * u * w),
        (a - bigspec.low_rank(u, [1e-3], w * size), A - 1e-3 * u * w),
        (0 * a + bigspec.low_rank(u * size, [1.0], w), u * w),
        (bigspec.centered(a), A - means),
    ):
        sigma = largest_singular_value(D)
        est = bigspec.norm(made, rtol=1e-6)
        tri = bigspec.svds(made, 1, rtol=1e-6)
        for lower, upper in ((est.lower, est.upper), (tri.lower[0], tri.upper[0])):
            close = 1e-2 if size < 1e-310 else 1e-11
            assert lower == pytest.approx(sigma * size, rel=close)
            assert upper == pytest.approx(sigma * size, rel=max(close, 2e-6))


def test_entries_whose_squares_leave_the_range_are_not_taken_for_constants():
    A = decaying(60, 30)
    for size in (1e-300, 1e300):
        centred = bigspec.norm(bigspec.centered(A * size), rtol=1e-6)
        assert contains(centred, size * largest_singular_value(A - A.mean(axis=0)))
        with pytest.raises(NonFiniteError, match="squares can be summed, got others in column 0"):
            bigspec.standardized(A * size)


def test_a_difference_of_bool_and_unsigned_entries():
    A = dense(3) > 0
    for B in (A, A.astype("u8") + 2**63, (A * -128).astype("i1")):
        kept = opened(sp.csr_array(B))
        D = B.astype(float)
        D -= D.mean(axis=0)
        for a in (B, kept):
            assert contains(
                bigspec.norm(bigspec.centered(a), max_passes=4), largest_singular_value(D)
            )


def test_a_panel_whose_terms_cancel_to_zeros_still_has_their_rounding():
    A = decaying(4000, 500)
    A[:2000] *= 1e200
    A[2000:] *= 1e-200
    B = A * 0.7  # rounded as the term is: the large panels leave zeros, or what rounding made
    B[2000:] *= 2
    rounding = 1e-17 * 0.7 * np.linalg.norm(A[:2000], 2)
    assert bigspec.norm(0.7 * opened(A) - B).upper > rounding


def test_what_was_rounded_inside_an_expression_is_counted_outside_too():
    A = decaying(90, 30)
    rest = 3 * opened(A) - A - opened(2 * A * (1 + 2**-30))
    plain = bigspec.norm(rest, rtol=1e-6, seed=1).rounding
    assert plain > 1e-6
    joined = bigspec.vstack([rest[:50], rest[50:]]) - np.zeros(A.shape)
    slab = bigspec.vstack([rest[:50], rest[50:]]).read(slice(0, 90), slice(0, 30), Buffers())
    assert slab.magnitude() >= 0.9 * rest.read(slice(0, 90), slice(0, 30), Buffers()).magnitude()
    for matrix in (2 * rest[:], rest[:].H, bigspec.vstack([rest[:50], rest[50:]]), joined):
        assert bigspec.norm(matrix, rtol=1e-6, seed=1).rounding > 0.5 * plain


def test_what_is_left_of_a_matrix_after_its_leading_triplets():
    A = decaying(200, 60)
    left, s, right = np.linalg.svd(A, full_matrices=False)
    for k in (1, 10, 40):
        rest = opened(A) - bigspec.low_rank(left[:, :k], s[:k], right[:k])
        assert contains(bigspec.norm(rest, rtol=1e-8), s[k])
        lean = opened(sp.csr_array(A)) - bigspec.low_rank(left[:, :k], s[:k], right[:k])
        assert contains(bigspec.norm(lean, rtol=1e-8), s[k])


def test_sparse_centring_makes_no_dense_slab():
    A = sp.random(20_000, 3000, 1e-3, format="csr", rng=np.random.default_rng(0))
    matrix = bigspec.centered(A)
    with traced_peak() as peak:
        bigspec.norm(matrix, algorithm="lanczos", block_size=4, max_passes=2)
    assert peak[0] < 0.1 * 20_000 * 3000 * 8


@pytest.mark.parametrize("place", ["dense", "sparse"])
def test_an_entry_that_is_not_finite_is_named_with_its_operand(tmp_path, place):
    A = dense(0)
    A[17, 5] = np.nan
    if place == "dense":
        matrix = stored(tmp_path / "A", A, (7, 11)) - dense(1)
    else:
        A[A < 3] = 0
        matrix = bigspec.centered(sp.csr_array(A), means=np.ones(N))
    with pytest.raises(NonFiniteError, match=r"first at \[17, 5\], in .* of "):
        bigspec.norm(matrix)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: opened(dense(0)) - dense(0).T, DataError, r"one shape .* got \(60, 44\) and \(44"),
        (
            lambda: opened(dense(0)) - aslinearoperator(dense(0)),
            UnsupportedTypeError,
            "SciPy's own",
        ),
        (
            lambda: 2 * opened(aslinearoperator(dense(0))),
            UnsupportedTypeError,
            "rows cannot be read",
        ),
        (lambda: opened(sparse(0)) - sparse(1, "csc"), DataError, "stored along one axis"),
        (lambda: opened(dense(0)) * np.ones(3), ArgumentError, "scalar: expected a number"),
        (lambda: np.nan * opened(dense(0)), ArgumentError, "finite number, got nan"),
        (lambda: opened(dense(0))[3], ArgumentError, "expected ranges such as"),
        (lambda: opened(dense(0))[::2], ArgumentError, "expected ranges such as"),
        (lambda: opened(dense(0))[5:5], ArgumentError, "not empty"),
        (lambda: opened(aslinearoperator(dense(0)))[1:3], UnsupportedTypeError, "a range of"),
        (lambda: bigspec.vstack([dense(0), dense(0).T]), DataError, "as many columns"),
        (lambda: bigspec.hstack([]), ArgumentError, "at least one matrix"),
        (lambda: bigspec.low_rank(U, S[:2], VH), ArgumentError, r"shapes \(60, 5\), \(2,\)"),
        (lambda: bigspec.low_rank(U * np.inf, S, VH), ArgumentError, "U: expected finite"),
        (lambda: bigspec.low_rank(U[0], S, VH), ArgumentError, "U: expected a matrix"),
        (lambda: bigspec.scaled(dense(0), rows=W), ArgumentError, "rows: expected 60 finite"),
        (lambda: bigspec.centered(dense(0), 2), ArgumentError, "axis: expected 0"),
        (lambda: bigspec.centered(dense(0), means=np.ones(3)), ArgumentError, "means: expected 44"),
        (lambda: bigspec.centered(aslinearoperator(dense(0))), UnsupportedTypeError, "means of"),
        (lambda: bigspec.centered(dense(0) * np.nan), NonFiniteError, "column 0"),
    ],
)
def test_operands_that_do_not_fit_are_refused_by_name(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_the_command_line_subtracts_centers_and_scales(tmp_path):
    A, B = dense(0), dense(1)
    stored(tmp_path / "A", A, (7, 11))
    stored(tmp_path / "B", B, (9, 13))
    np.save(tmp_path / "w.npy", W)

    def norm(*options):
        run = ["norm", str(tmp_path / "A"), "--quiet", "--json", "-", "--rtol", "1e-6", *options]
        result = CliRunner().invoke(main, list(map(str, run)))
        assert result.exit_code == 0, result.stderr
        held = json.loads(result.stdout)
        return held["lower"], held["upper"]

    D = A - B
    Z = D - D.mean(axis=0)
    for options, E in (
        ((), D),
        (("--center",), Z),
        (("--center", "--scale", "std"), Z / D.std(axis=0, ddof=1)),
        (("--center", "--scale", "std", "--ddof", "0"), Z / D.std(axis=0)),
        (("--scale", "std"), D / np.sqrt((D**2).mean(axis=0))),
        (("--scale", tmp_path / "w.npy"), D * W),
    ):
        lower, upper = norm("--minus", tmp_path / "B", *options)
        assert lower <= largest_singular_value(E) * (1 + 1e-12)
        assert upper >= largest_singular_value(E) * (1 - 1e-12)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--ddof", "0"), "--ddof needs --center --scale std"),
        (("--ddof", "0", "--scale", "std"), "--ddof needs --center --scale std"),
        (("--ddof", "0", "--center"), "--ddof needs --center --scale std"),
        (("--ddof", "-1", "--center", "--scale", "std"), "ddof: expected a whole number from 0"),
        (("--ddof", "1.5", "--center", "--scale", "std"), "1.5"),
    ],
)
def test_a_ddof_that_means_nothing_is_refused_on_the_command_line(options, said, tmp_path):
    stored(tmp_path / "A", dense(0), (7, 11))
    for command in (["norm"], ["svds", "-k", "2"]):
        run = [*command, str(tmp_path / "A"), "--quiet", *options]
        result = CliRunner().invoke(main, run)
        assert (result.exit_code, said in result.stderr) == (2, True), result.stderr


def test_a_series_of_another_ddof_is_another_series(tmp_path):
    stored(tmp_path / "A", dense(0), (7, 11))
    for options in ((), ("--ddof", "0")):
        run = ["norm", str(tmp_path / "A"), "--quiet", "--center", "--scale", "std", *options]
        assert CliRunner().invoke(main, [*run, "--history", str(tmp_path / "h")]).exit_code == 0
    names = [row.series for row in bigspec.History(tmp_path / "h").rows()]
    assert names[1] == f"{names[0]} --ddof 0"


def test_weights_that_cannot_be_read_are_an_input_that_cannot_be_opened(tmp_path):
    stored(tmp_path / "A", dense(0), (7, 11))
    np.save(tmp_path / "w.npy", np.array([{}]), allow_pickle=True)
    result = CliRunner().invoke(
        main, ["norm", str(tmp_path / "A"), "--quiet", "--scale", str(tmp_path / "w.npy")]
    )
    assert result.exit_code == SourceError.exit_status
    assert "expected 'std' or an .npy file" in result.stderr
