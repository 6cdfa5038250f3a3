"""The products of sparse slabs: SciPy's routines, any format and cut, the facts, the memory."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import _sparsetools

from bigspec.kernels import Accumulator, scratch_nbytes, sparse, working_dtype
from tests.memory import traced_peak


def sparse_entries(m, n, dtype, density=0.2, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n))
    if np.dtype(dtype).kind == "c":
        A = A + 1j * rng.standard_normal((m, n))
    A = np.where(rng.random((m, n)) < density, A * 9, 0)
    return A.astype(dtype)


def block_of(length, b, dtype, seed=1):
    rng = np.random.default_rng(seed)
    V = rng.standard_normal((length, b))
    return (V + 1j * rng.standard_normal((length, b)) if dtype.kind == "c" else V).astype(dtype)


def swept(A, transposed):
    S = A.astype(working_dtype(A.dtype))
    return S.conj().T if transposed else S


def assert_is_sum_of(part, S, V):
    close = {"rtol": 1e-12, "atol": 1e-12 * max(1.0, np.abs(S).max()) ** 2 * S.size}
    Y = S @ V
    np.testing.assert_allclose(part.Z, S.conj().T @ Y, **close)
    np.testing.assert_allclose(part.gram, Y.conj().T @ Y, **close)
    sizes = np.abs(S)
    assert part.facts.squares == pytest.approx(np.sum(sizes**2), rel=1e-12)
    assert part.facts.largest == sizes.max(initial=0.0)
    assert part.facts.row_sum == pytest.approx(sizes.sum(axis=1).max(initial=0.0), rel=1e-12)
    np.testing.assert_allclose(part.facts.column_sums, sizes.sum(axis=0), rtol=1e-12)
    assert part.facts.nonnegative == (S.dtype.kind != "c" and bool((S >= 0).all()))


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_scipys_private_routines_add_to_an_output(dtype, index):
    """Fails where SciPy changes what `bigspec.kernels.sparse` is built on."""
    A = sparse_entries(5, 4, dtype)
    stored = sp.csr_array(A)
    parts = stored.indptr.astype(index), stored.indices.astype(index), stored.data
    for b in (1, 3):
        V, Y = block_of(4, b, A.dtype), block_of(5, b, A.dtype, seed=2)
        forward, backward = Y.copy(), V.copy()
        _sparsetools.csr_matvecs(5, 4, b, *parts, V.reshape(-1), forward.reshape(-1))
        _sparsetools.csc_matvecs(4, 5, b, *parts, Y.reshape(-1), backward.reshape(-1))
        np.testing.assert_allclose(forward, Y + A @ V)
        np.testing.assert_allclose(backward, V + A.T @ Y)
    forward, backward = Y[:, 0].copy(), V[:, 0].copy()
    _sparsetools.csr_matvec(5, 4, *parts, V[:, 0].copy(), forward)
    _sparsetools.csc_matvec(4, 5, *parts, Y[:, 0].copy(), backward)
    np.testing.assert_allclose(forward, Y[:, 0] + A @ V[:, 0])
    np.testing.assert_allclose(backward, V[:, 0] + A.T @ Y[:, 0])


@settings(max_examples=80, deadline=None)
@given(
    m=st.integers(1, 30),
    n=st.integers(1, 30),
    b=st.integers(1, 4),
    dtype=st.sampled_from(["?", "i2", "f4", "f8", "g", "c8", "c16"]),
    formats=st.lists(st.sampled_from(["csr", "csc", "coo", "dense"]), min_size=1, max_size=3),
    density=st.sampled_from([0.0, 0.1, 0.6]),
    rows=st.integers(1, 600),
    entries=st.integers(1, 50),
    transposed=st.booleans(),
    wide=st.booleans(),
    data=st.data(),
)
def test_blocks_of_any_format_and_ranges_of_any_length(
    m, n, b, dtype, formats, density, rows, entries, transposed, wide, data
):
    A = sparse_entries(m, n, dtype, density)
    S = swept(A, transposed)
    V = block_of(S.shape[1], b, S.dtype)
    inside = data.draw(st.lists(st.integers(0, S.shape[1]), max_size=len(formats) - 1))
    edges = [0, *sorted(inside), S.shape[1]]
    blocks = []
    for (lo, hi), kind in zip(itertools.pairwise(edges), ["csr", *formats[1:]], strict=False):
        cut = A[lo:hi] if transposed else A[:, lo:hi]
        block = cut if kind == "dense" else sp.coo_array(cut).asformat(kind)
        if wide and kind in ("csr", "csc"):
            block.indices = block.indices.astype(np.int64)
            block.indptr = block.indptr.astype(np.int64)
        blocks.append((lo, block))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "ROWS_BYTES", rows)
        patch.setattr(sparse, "ENTRIES", entries)
        total = Accumulator(
            V, S.shape[1], A.dtype, exponent=None, facts=True, transposed=transposed
        )
        total.add_slab(blocks)
    assert_is_sum_of(total.partial(), S, V)


@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("b", [1, 3])
@pytest.mark.parametrize("dtype", ["f4", "f8", "c16"])
def test_bits_do_not_depend_on_where_slabs_are_cut(dtype, b, transposed):
    A = sparse_entries(60, 25, dtype)
    A = A.conj().T if transposed else A
    stored = sp.csc_array(A) if transposed else sp.csr_array(A)
    V = block_of(25, b, working_dtype(A.dtype))
    sums = []
    for cuts in ([0, 60], [0, 1, 17, 18, 44, 60], list(range(61))):
        total = Accumulator(V, 25, A.dtype, exponent=0, facts=False, transposed=transposed)
        for lo, hi in itertools.pairwise(cuts):
            total.add_slab([(0, stored[:, lo:hi] if transposed else stored[lo:hi])])
        sums.append(total.partial().Z)
    np.testing.assert_array_equal(sums[1], sums[0])
    np.testing.assert_array_equal(sums[2], sums[0])


def test_duplicates_are_one_entry_to_the_facts():
    A = sp.csr_array((np.array([1.0, -3.0, 2.0]), np.array([1, 1, 0]), np.array([0, 2, 3])))
    total = Accumulator(np.ones((2, 1)), 2, A.dtype, exponent=None, facts=True, transposed=False)
    total.add_slab([(0, A)])
    assert_is_sum_of(total.partial(), A.toarray(), np.ones((2, 1)))
    assert A.nnz == 3


@pytest.mark.parametrize("scale", [2.0**1000, 2.0**-1060])
def test_stored_entries_of_extreme_magnitude(scale):
    A = sparse_entries(20, 9, "f8")
    A = np.round(A)
    V = block_of(9, 2, A.dtype)
    total = Accumulator(V, 9, A.dtype, exponent=None, facts=True, transposed=False)
    total.add_slab([(0, sp.csr_array(A * scale))])
    part = total.partial()
    assert_is_sum_of(part, np.ldexp(A, int(np.log2(scale)) - part.exponent), V)


@pytest.mark.parametrize("dtype", ["f8", "f4", "c8"])
@pytest.mark.parametrize("facts", [False, True])
def test_a_slab_holds_what_is_planned_and_no_copy_of_its_entries(dtype, facts):
    rng = np.random.default_rng(0)
    m, n, per = 60_000, 10_000, 50
    indices = np.sort(rng.integers(0, n, (m, per)), axis=1).astype(np.int32).ravel()
    data = (rng.random(m * per) - 0.5).astype(dtype)
    A = sp.csr_array((data, indices, np.arange(0, m * per + 1, per)), shape=(m, n))
    A.has_canonical_format = True
    V = block_of(n, 4, working_dtype(A.dtype))
    total = Accumulator(V, n, A.dtype, exponent=0, facts=facts, transposed=False)
    with traced_peak() as peak:
        total.add_slab([(0, A)])
    assert peak[0] <= scratch_nbytes(A.dtype)
    if facts and dtype != "f8":
        assert peak[0] >= scratch_nbytes(A.dtype) / 3
