"""Arrays that lie in memory: views, shared storage, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

import bigspec
from bigspec.errors import DataError, UnsupportedTypeError
from bigspec.kernels.buffers import Buffers
from bigspec.sources import open_source
from bigspec.sources.memory import SparseMatrix


def test_a_numpy_read_is_a_view() -> None:
    A = np.arange(12.0).reshape(4, 3)
    block = open_source(A).read(slice(1, 3), slice(0, 2), Buffers())
    assert isinstance(block, np.ndarray)
    assert np.shares_memory(block, A)


@pytest.mark.parametrize("dtype", ["?", "i1", "u8", "f2", ">f4", "f8", ">c8", "c16"])
def test_numeric_types_are_accepted(dtype: str) -> None:
    assert open_source(np.ones((2, 2), dtype)).dtype == np.dtype(dtype)


@pytest.mark.parametrize(
    ("A", "message"),
    [
        (np.array([["a"]]), r"expected entries of type bool.*got <U1. A spectral norm needs"),
        (np.ones((2, 2), "M8[s]"), r"got datetime64\[s\]"),
        (np.ones((2, 2), object), r"got object. If the objects are numbers, convert with"),
        (np.zeros((2, 2), [("x", "f8")]), r"Pass one field of the records"),
        (np.ones((2, 2), np.longdouble), r"Products are made in float64: convert with .astype"),
        (np.ones((2, 2), np.clongdouble), r"Products are made in complex128"),
        (np.zeros((2, 2), "V3"), r"got \|V3"),
    ],
)
def test_other_entries_are_refused(A: np.ndarray[Any, Any], message: str) -> None:
    with pytest.raises(UnsupportedTypeError, match=message):
        open_source(A)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((), r"got shape \(\); a scalar's norm"),
        ((3,), r"got shape \(3,\); reshape it, .reshape\(-1, 1\)"),
        ((2, 3, 4), r"got shape \(2, 3, 4\); flatten .* .reshape\(2, 12\)"),
        ((0, 3), r"got shape \(0, 3\); a matrix without entries"),
    ],
)
def test_other_shapes_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(np.ones(shape))


def test_masked_entries_are_refused() -> None:
    A = np.ma.masked_greater(np.arange(6.0).reshape(2, 3), 3)
    with pytest.raises(DataError, match=r"got 2 masked entries; .*a.filled\(0\)"):
        open_source(A)


class TestBfloat16:
    """NumPy sees an extension type like that of ml_dtypes as void, with casts of its own."""

    def test_is_accepted_if_it_casts(self) -> None:
        ml_dtypes = pytest.importorskip("ml_dtypes")
        matrix = open_source(np.ones((2, 2), ml_dtypes.bfloat16))
        assert matrix.identity["dtype"] == "bfloat16"


def test_the_token_follows_the_content() -> None:
    A = np.arange(12.0).reshape(4, 3)
    before = open_source(A).identity
    A[2, 1] += 1
    after = open_source(A).identity
    assert before.pop("token") != after.pop("token")
    assert before == after


def test_the_sample_spans_a_large_array() -> None:
    A = np.zeros((1000, 50))
    before = open_source(A).identity["token"]
    A[-1, -1] = 1.0
    assert open_source(A).identity["token"] != before


@pytest.mark.parametrize("make", [sp.csr_array, sp.csc_array, sp.csr_matrix, sp.csc_matrix])
def test_a_sparse_block_shares_memory(make: Any) -> None:
    A = make(np.arange(20.0).reshape(5, 4))
    matrix = open_source(A)
    by_rows = A.format == "csr"
    assert matrix.anywhere == (by_rows, not by_rows)
    rows, columns = (slice(1, 3), slice(0, 4)) if by_rows else (slice(0, 5), slice(1, 3))
    block: Any = matrix.read(rows, columns, Buffers())
    assert np.shares_memory(block.data, A.data)
    assert np.shares_memory(block.indices, A.indices)
    assert block.indices.dtype == block.indptr.dtype
    block.check_format(full_check=True)
    assert matrix.nbytes == A.data.nbytes + A.indices.nbytes + A.indptr.nbytes


def test_pieces_of_a_sparse_matrix_hold_about_as_many_entries() -> None:
    lengths = np.maximum(200_000 // np.arange(1, 3001) ** 1.2, 1).astype(int)  # a power law
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    indices = np.concatenate([np.arange(length) for length in lengths])
    A = sp.csr_array((np.ones(len(indices)), indices, indptr), shape=(3000, 200_000))
    grid = open_source(A, 1).grids[0]  # no room for a copy by columns
    cuts = [grid.cut(k) for k in range(grid.count + 1)]
    work = np.diff(indptr[cuts] + np.array(cuts))
    assert grid.count > 50
    # No piece exceeds the even share by more than one row.
    assert np.all(work <= work.sum() / 100 + lengths[cuts[:-1]] + 1)


def test_wide_indices_are_neither_scanned_nor_copied() -> None:
    A = sp.csr_array(np.arange(20.0).reshape(5, 4))
    A.indices, A.indptr = A.indices.astype(np.int64), A.indptr.astype(np.int64)
    block: Any = open_source(A).read(slice(1, 3), slice(0, 4), Buffers())
    assert block.indices.dtype == np.int64
    assert np.shares_memory(block.indices, A.indices)


@pytest.mark.parametrize("fmt", ["bsr", "coo", "dia", "dok", "lil"])
def test_other_sparse_formats_become_csr(fmt: str) -> None:
    A = sp.csr_array(np.eye(4, 6)).asformat(fmt)
    block: Any = open_source(A).read(slice(0, 4), slice(0, 6), Buffers())
    assert block.format == "csr"
    np.testing.assert_array_equal(block.toarray(), np.eye(4, 6))


def test_duplicates_are_summed_in_a_copy() -> None:
    A = sp.csr_array((np.array([1.0, 2.0, 3.0]), np.array([2, 0, 2]), np.array([0, 3, 3])), (2, 3))
    block: Any = open_source(A).read(slice(0, 2), slice(0, 3), Buffers())
    np.testing.assert_array_equal(block.data, [2.0, 4.0])
    np.testing.assert_array_equal(A.data, [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(A.indices, [2, 0, 2])


@pytest.mark.parametrize(
    ("A", "error", "message"),
    [
        (sp.coo_array(np.ones(3)), DataError, r"SciPy coo array \(3,\): .*reshape it"),
        (sp.csr_array((0, 4)), DataError, r"got shape \(0, 4\)"),
        (sp.csr_array(np.ones((2, 2), np.longdouble)), UnsupportedTypeError, r"convert with"),
    ],
)
def test_other_sparse_arrays_are_refused(A: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_source(A)


class OffersArray:
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        return np.ones((2, 2))


@pytest.mark.parametrize(
    ("a", "message"),
    [
        ([[1.0]], r"^expected a matrix, got list. If it fits in memory, pass numpy.asarray"),
        (OffersArray(), r"got .*OffersArray. If it fits in memory"),
        (3.5, r"^expected a matrix, got float\. A matrix is .*sparse group, .*a dask array"),
        (b"A.zarr", r"got bytes"),
    ],
)
def test_other_objects_are_refused_with_advice(a: Any, message: str) -> None:
    with pytest.raises(UnsupportedTypeError, match=message):
        open_source(a)


def wide(nnz: int = 400_000) -> Any:
    rng = np.random.default_rng(5)
    places = rng.integers(0, 33, nnz), rng.integers(0, 200_000, nnz)
    return sp.coo_array((rng.standard_normal(nnz), places), (33, 200_000)).tocsr()


def test_a_large_wide_matrix_of_rows_is_held_by_columns() -> None:
    A = wide()
    before = A.data.copy()
    for given, shape in ((A, A.shape), (A.T, A.shape[::-1]), (A.tocoo(), A.shape)):
        matrix = open_source(given)
        assert isinstance(matrix, SparseMatrix)
        assert matrix.entries.format == ("csc" if shape == A.shape else "csr")
        assert matrix.copied_nbytes == matrix.nbytes
        plan = bigspec.plan(given)
        assert plan.layout.iterate_length == 33
        assert plan.layout.panels >= 2
        assert plan.layout.memory.task < 64 << 20
        assert plan.layout.memory.carried == matrix.nbytes
    np.testing.assert_array_equal(A.data, before)
    by_columns = bigspec.norm(A.tocsc(), seed=1)
    assert bigspec.norm(A, seed=1).lower == by_columns.lower


def test_one_that_is_small_or_has_no_room_for_a_copy_keeps_its_format() -> None:
    for A, memory in ((wide(40_000), None), (wide(), 1 << 20)):
        matrix: Any = open_source(A, memory)
        assert matrix.entries.format == "csr"
        assert matrix.copied_nbytes == 0
        assert np.shares_memory(matrix.entries.data, A.data)
    tall: Any = open_source(wide().tocsc(), None)  # cut along its longer side already
    assert tall.copied_nbytes == 0
