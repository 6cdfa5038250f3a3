"""The innermost products: equal to the dense ones for every dtype, cut and orientation."""

import itertools
import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from bigspec.kernels import Accumulator, NonFiniteFound, accumulator, working_dtype
from bigspec.kernels.partials import merge

DTYPES = ["?", "i1", "u1", "i2", "u4", "i8", "f2", "f4", "f8", ">f4", "c8", "c16", "g"]


def entries(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype=dtype.newbyteorder("="), endpoint=True)
    A = rng.standard_normal(shape)
    if dtype.kind == "c":
        A = A + 1j * rng.standard_normal(shape)
    return A.astype(dtype)


def sum_of(A, V, *, transposed=False, cuts=(), facts=True, exponent=None):
    """Accumulate A in slabs cut at `cuts`; A as stored, V for S = A or A^H."""
    n = A.shape[0 if transposed else 1]
    total = Accumulator(V, n, A.dtype, exponent=exponent, facts=facts, transposed=transposed)
    length = A.shape[1 if transposed else 0]
    edges = [0, *sorted(cuts), length]
    for start, stop in itertools.pairwise(edges):
        if start < stop:
            total.add_slab([(0, A[:, start:stop] if transposed else A[start:stop])])
    return total.partial()


def assert_products(part, S, V):
    scale = np.abs(S).max() ** 2 * S.shape[0] * max(S.shape[1], 1)
    atol = 1e-13 * scale * max(1.0, np.abs(V).max())
    np.testing.assert_allclose(part.Z, S.conj().T @ (S @ V), rtol=1e-12, atol=atol)
    np.testing.assert_allclose(part.gram, (S @ V).conj().T @ (S @ V), rtol=1e-12, atol=atol)


@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_multiplies_without_wrapping(dtype, transposed):
    A = entries((23, 17), dtype)
    work = working_dtype(A.dtype)
    S = A.astype(work).conj().T if transposed else A.astype(work)
    V = entries((S.shape[1], 3), work)
    assert_products(sum_of(A, V, transposed=transposed, cuts=[5, 6]), S, V)


@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("dtype", ["i1", "f4", "f8", "c16"])
def test_first_pass_facts_are_those_of_the_matrix(dtype, transposed):
    A = entries((40, 29), dtype)
    S = A.astype(working_dtype(A.dtype))
    S = S.conj().T if transposed else S
    facts = sum_of(A, entries((S.shape[1], 2), S.dtype), transposed=transposed, cuts=[7]).facts
    assert facts.squares == pytest.approx(np.linalg.norm(S) ** 2, rel=1e-14)
    assert facts.column_sums.max() == pytest.approx(np.linalg.norm(S, 1), rel=1e-14)
    assert facts.row_sum == pytest.approx(np.linalg.norm(S, np.inf), rel=1e-14)
    assert facts.largest == pytest.approx(np.abs(S).max(), rel=1e-15)
    assert facts.nonnegative is False
    counts = np.abs(A.real.astype(float))
    assert sum_of(counts, np.ones((S.shape[1], 1)), transposed=transposed).facts.nonnegative


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 40),
    n=st.integers(1, 40),
    b=st.integers(1, 5),
    tile=st.integers(8, 4096),
    transposed=st.booleans(),
    streamed=st.booleans(),
    dtype=st.sampled_from(["f4", "f8", "c8", "i2"]),
    data=st.data(),
)
def test_tiles_of_any_size_give_the_same_sum(m, n, b, tile, transposed, streamed, dtype, data):
    A = entries((m, n), dtype)
    S = A.astype(working_dtype(A.dtype))
    S = S.conj().T if transposed else S
    V = entries((S.shape[1], b), S.dtype, seed=1)
    height, width = S.shape
    edges = sorted({0, width, *data.draw(st.lists(st.integers(0, width), max_size=3))})
    blocks = [(lo, A[lo:hi] if transposed else A[:, lo:hi]) for lo, hi in itertools.pairwise(edges)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accumulator, "TILE_BYTES", tile)
        patch.setattr("bigspec.kernels.entries.TILE_BYTES", tile)
        total = Accumulator(V, width, A.dtype, exponent=None, facts=True, transposed=transposed)
        if streamed:
            total.add_streamed(lambda: iter(blocks), height)
        else:
            total.add_slab(blocks)
    part = total.partial()
    assert_products(part, S, V)
    assert part.facts.squares == pytest.approx(np.linalg.norm(S) ** 2, rel=1e-12)
    assert part.facts.row_sum == pytest.approx(np.linalg.norm(S, np.inf), rel=1e-12)
    assert part.facts.column_sums.max() == pytest.approx(np.linalg.norm(S, 1), rel=1e-12)


@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("dtype", ["f4", "c16"])
def test_without_a_block_the_sum_is_the_gram_matrix(dtype, transposed):
    A = entries((30, 12), dtype)
    S = A.astype(working_dtype(A.dtype))
    S = S.conj().T if transposed else S
    part = sum_of(A, None, transposed=transposed, cuts=[4])
    np.testing.assert_allclose(part.Z, S.conj().T @ S, atol=1e-12)


def test_gram_matrix_of_a_slab_in_several_blocks():
    A = entries((30, 12), "f4")
    total = Accumulator(None, 12, A.dtype, exponent=None, facts=True, transposed=False)
    total.add_slab([(0, A[:, :5]), (5, A[:, 5:])])
    S = A.astype(float)
    np.testing.assert_allclose(total.partial().Z, S.T @ S, atol=1e-12)
    assert total.partial().facts.squares == pytest.approx(np.linalg.norm(S) ** 2)


@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "c16", "i4"])
def test_sparse_slabs_give_the_dense_sum_and_facts(dtype, transposed):
    rng = np.random.default_rng(3)
    A = np.where(rng.random((30, 20)) < 0.2, entries((30, 20), dtype), 0).astype(dtype)
    stored = sp.csc_array(A) if transposed else sp.csr_array(A)
    S = A.astype(working_dtype(A.dtype))
    S = S.conj().T if transposed else S
    V = entries((S.shape[1], 3), S.dtype, seed=1)
    n = S.shape[1]
    total = Accumulator(V, n, stored.dtype, exponent=None, facts=True, transposed=transposed)
    total.add_slab([(0, stored)])
    assert_products(total.partial(), S, V)
    assert total.partial().facts.row_sum == pytest.approx(np.linalg.norm(S, np.inf))
    assert total.partial().facts.squares == pytest.approx(np.linalg.norm(S) ** 2)


@pytest.mark.parametrize("scale", [2.0**990, 2.0**-990, 2.0**600, 1.0])
@pytest.mark.parametrize("dtype", ["f8", "c16"])
def test_extreme_entries_are_scaled_by_a_power_of_two(dtype, scale):
    base = entries((20, 8), dtype)
    V = entries((8, 2), dtype, seed=1)
    plain, scaled = sum_of(base, V), sum_of(base * scale, V)
    shift = 2 * (int(math.log2(scale)) - scaled.exponent)
    np.testing.assert_array_equal(scaled.Z, plain.Z * 2.0**shift)
    assert np.isfinite(scaled.Z).all()
    assert (scaled.exponent == 0) == (scale == 1.0)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_panels_of_different_scale_merge_to_the_largest(order):
    slabs = [entries((5, 4), "f8", seed=k) * s for k, s in enumerate([1e-300, 1e300, 1.0])]
    V = entries((4, 2), "f8", seed=9)
    part = merge([sum_of(slabs[k], V) for k in order])
    scaled = np.ldexp(slabs[1], -part.exponent)
    np.testing.assert_allclose(part.Z, scaled.T @ (scaled @ V), rtol=1e-13)
    one_slab = sum_of(np.concatenate([slabs[k] for k in order]), V, cuts=[5, 10])
    np.testing.assert_allclose(one_slab.Z, part.Z, rtol=1e-13)
    assert one_slab.facts.largest == part.facts.largest


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_a_panel_of_zeros_has_no_scale_that_others_are_merged_to(size):
    A, V = entries((5, 4), "f8") * size, entries((4, 2), "f8", seed=9)
    zeros, part = (sum_of(X, V) for X in (np.zeros((5, 4)), A))
    for order in ([zeros, part], [part, zeros], [zeros, zeros, part]):
        np.testing.assert_array_equal(merge(order).Z, part.Z)
        assert merge(order).facts.largest == part.facts.largest > 0
    assert not merge([zeros, zeros]).Z.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("dtype", ["f2", "f8", "c8"])
def test_first_non_finite_entry_is_named(dtype, transposed, bad):
    A = entries((12, 9), dtype)
    A[7, 4] = A[8, 2] = bad
    n = A.shape[0 if transposed else 1]
    total = Accumulator(
        np.ones((n, 2)), n, A.dtype, exponent=None, facts=True, transposed=transposed
    )
    with pytest.raises(NonFiniteFound) as found, np.errstate(invalid="ignore"):
        total.add_slab([(0, A)])
    assert found.value.args == (7, 4)


def test_merging_does_not_write_to_its_inputs():
    V = np.ones((4, 1))
    first, second = (sum_of(entries((3, 4), "f4", seed=k), V) for k in range(2))
    before = first.Z.copy(), first.facts.column_sums.copy()
    merge([first, second])
    np.testing.assert_array_equal(first.Z, before[0])
    np.testing.assert_array_equal(first.facts.column_sums, before[1])
