"""Matrices whose entries lie in this process: NumPy arrays, memory maps, SciPy sparse arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.errors import DataError, MemoryLimitError
from bigspec.kernels import scratch_nbytes
from bigspec.kernels.buffers import Buffers
from bigspec.kernels.entries import unmasked
from bigspec.matrices import PANEL_BYTES, Block, Grid, Matrix
from bigspec.sources.checks import check_dtype, check_shape, half_of_memory

__all__ = [
    "ArrayMatrix",
    "SparseMatrix",
    "canonical",
    "from_pydata_sparse",
    "is_pydata_sparse",
    "open_numpy",
    "open_sparse",
]

SAMPLE = 4096
"""Entries of the sample in the identity of an array, fixed and evenly spaced."""


CELLS = 1024
CELL_ENTRIES = 4096
"""The most cells of a sparse matrix, and the fewest stored entries of a cell."""


WIDE = 2
"""If the uncut side of a sparse matrix is this many times the other, its format is turned round."""


@dataclass(frozen=True)
class ArrayMatrix(Matrix):
    """A 2-D NumPy array or memory map, whose reads are views.

    Attributes
    ----------
    entries : numpy.ndarray
        The array itself, never copied and never written to.
    """

    entries: np.ndarray[Any, Any] = field(repr=False, compare=False)

    @property
    def anywhere(self) -> tuple[bool, bool]:
        """Any range is a view."""
        return True, True

    @property
    def carried_nbytes(self) -> int:
        """All entries."""
        return self.nbytes

    @property
    def identity(self) -> dict[str, Any]:
        """Shape, dtype, strides and a hash of 4096 evenly spaced entries.

        The sample is cheap, and in practice differs for other data. It does not notice a change
        of entries outside it.
        """
        where = getattr(self.entries, "filename", None)
        layout = repr((self.shape, self.dtype.str, self.entries.strides)).encode()
        return {
            "where": "memory" if where is None else str(where),
            "shape": list(self.shape),
            "dtype": self.dtype.str if self.dtype.kind != "V" else self.dtype.name,
            "chunks": list(self.shape),
            "token": _digest(layout, _sample(self.entries)),
        }

    def read(self, rows: slice, columns: slice, buffers: Buffers) -> Block:
        """Return the rectangle as a view of the array."""
        return self.entries[rows, columns]

    def chunk_at(self, row: int, column: int) -> str:
        """Name the array: there are no chunks."""
        return "the matrix in memory"


@dataclass(frozen=True)
class SparseMatrix(Matrix):
    """A SciPy sparse matrix in memory, held as CSR (cut by rows) or CSC (cut by columns).

    Attributes
    ----------
    entries : scipy.sparse.csr_array or scipy.sparse.csc_array
        Sorted and without duplicates; it shares memory with the user's matrix if that is so too.
    copied : bool
        Whether it is a copy in the other of the two formats; see `open_sparse`.
    """

    entries: sp.csr_array[Any] | sp.csc_array[Any] = field(repr=False, compare=False)
    copied: bool = False

    @property
    def copied_nbytes(self) -> int:
        """All entries, if they are a copy."""
        return self.nbytes if self.copied else 0

    @property
    def views(self) -> bool:
        """Blocks share values and indices."""
        return True

    @property
    def anywhere(self) -> tuple[bool, bool]:
        """Any range of the compressed axis."""
        return self.entries.format == "csr", self.entries.format == "csc"

    @property
    def carried_nbytes(self) -> int:
        """All entries."""
        return self.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of values, indices and pointers."""
        a = self.entries
        return int(a.data.nbytes + a.indices.nbytes + a.indptr.nbytes)

    @property
    def identity(self) -> dict[str, Any]:
        """Shape, dtype, format, and a hash of up to 4096 values, indices and pointers each."""
        a = self.entries
        layout = repr((self.shape, self.dtype.str, a.format, int(a.nnz))).encode()
        samples = (_sample(part[np.newaxis, :]) for part in (a.data, a.indices, a.indptr))
        return {
            "where": "memory",
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "chunks": [grid.step for grid in self.grids],
            "token": _digest(layout, *samples),
        }

    def read(self, rows: slice, columns: slice, buffers: Buffers) -> Block:
        """Return a CSR or CSC block that shares values and indices with the matrix."""
        a = self.entries
        across = rows if a.format == "csr" else columns
        if across.start == 0 and across.stop == self.shape[0 if a.format == "csr" else 1]:
            return a
        first, last = int(a.indptr[across.start]), int(a.indptr[across.stop])
        height = across.stop - across.start
        if a.format == "csr":
            block: Any = sp.csr_array((height, self.shape[1]), dtype=a.dtype)
        else:
            block = sp.csc_array((self.shape[0], height), dtype=a.dtype)
        # The constructor from (data, indices, indptr) scans 64-bit indices, and copies them if
        # they would fit 32 bits. Setting the parts does neither.
        block.data = a.data[first:last]
        block.indices = a.indices[first:last]
        block.indptr = a.indptr[across.start : across.stop + 1] - a.indptr[across.start]
        block.has_sorted_indices = True
        block.has_canonical_format = True
        return block  # type: ignore[no-any-return]

    def chunk_at(self, row: int, column: int) -> str:
        """Name the array: there are no chunks."""
        return "the matrix in memory"


def open_numpy(a: np.ndarray[Any, Any]) -> ArrayMatrix:
    """Wrap a NumPy array, a memory map or an ``np.matrix``, without copying.

    Raises
    ------
    DataError
        Not two-dimensional, empty, or with masked entries.
    UnsupportedTypeError
        The entries are not numbers.
    """
    kind = "NumPy memory map" if isinstance(a, np.memmap) else "NumPy array"
    name = f"{kind} {getattr(a, 'filename', None) or a.shape}"
    dtype = check_dtype(a.dtype, name)  # first: records have masks of records
    a = unmasked(a, name)
    shape = check_shape(a.shape, name)
    entries = a if isinstance(a, np.memmap) else np.asarray(a)
    grids = (Grid(shape[0], 1), Grid(shape[1], 1))
    return ArrayMatrix(shape, dtype, name, grids, entries, resident=True)


def open_sparse(a: Any, memory: int | None = None) -> SparseMatrix:
    """Wrap a SciPy sparse array or matrix as CSR or CSC, without a copy if possible.

    CSC stays CSC; every other format becomes CSR. Only the compressed axis can be cut. So a large
    matrix becomes CSC if it is wide and CSR if it is tall, in a copy if that fits. Otherwise its
    iterates would be as long as the longer side, and a pass would be one task. Duplicates are
    summed in a copy: the user's object is never modified.

    Parameters
    ----------
    a : scipy.sparse.sparray or scipy.sparse.spmatrix
        Any format.
    memory : int, optional
        Bytes for a copy; by default half of the memory of this machine.

    Raises
    ------
    DataError
        Not two-dimensional or empty.
    UnsupportedTypeError
        The entries are not numbers.
    """
    name = f"SciPy {a.format} array {a.shape}"
    dtype = check_dtype(a.dtype, name)
    shape = check_shape(a.shape, name)
    if a.format not in ("csr", "csc") and 8 * (shape[0] + 1) > half_of_memory():
        msg = (
            f"{name}: expected rows whose pointers fit this machine, got {shape[0]} of them, which "
            "take more than half of its memory; leave out the rows that are empty"
        )
        raise MemoryLimitError(msg)
    by_columns, copied = a.format == "csc", False
    across, along = shape if by_columns else shape[::-1]
    if across >= WIDE * along and _large(a, shape):
        held = int(a.nnz) * (a.dtype.itemsize + 8) + 8 * (across + 1)
        copied = held <= (half_of_memory() if memory is None else memory)
        by_columns ^= copied
    entries = canonical(sp.csc_array(a) if by_columns else sp.csr_array(a))
    cut = _even_grid(entries.indptr)
    whole = Grid(shape[0 if by_columns else 1], shape[0 if by_columns else 1])
    matrix = SparseMatrix(
        shape,
        dtype,
        name,
        (whole, cut) if by_columns else (cut, whole),
        entries,
        resident=True,
        transient_nbytes=min(scratch_nbytes(dtype), 64 * (int(entries.nnz) + max(shape))),
        copied=copied,
    )
    return replace(matrix, cell_nbytes=max(1, matrix.nbytes // cut.count))


def _large(a: Any, shape: tuple[int, int]) -> bool:
    """Whether it is too large for one task; a small matrix keeps its format, and so its bits."""
    return bool(int(a.nnz) * (a.dtype.itemsize + 4) + 4 * min(shape) > PANEL_BYTES[0])


def _even_grid(indptr: np.ndarray[Any, Any]) -> Grid:
    """Cut the compressed axis into cells with about equal numbers of stored entries.

    With rows of a power law, panels of equal height would have very unequal work. A pointer counts
    like a stored entry, because empty rows take time too.
    """
    extent = len(indptr) - 1
    work = indptr.astype(np.int64) + np.arange(extent + 1)
    cells = min(extent, max(1, int(work[-1]) // CELL_ENTRIES), CELLS)
    wanted = work[-1] * np.arange(1, cells) // cells
    cuts = np.unique(np.concatenate([[0], np.searchsorted(work, wanted), [extent]]))
    return Grid.irregular(tuple(np.diff(cuts).tolist()))


def canonical(a: Any) -> Any:
    """Return a sparse matrix as CSR or CSC, sorted and without duplicates, `a` itself if it is.

    Products with duplicates are right, but the norms and the largest entry would be wrong.
    """
    if a.format not in ("csr", "csc"):
        a = sp.csr_array(a)
    if not a.has_canonical_format:
        a = a.copy()  # the object of the user, or of a graph, is not modified
        a.sum_duplicates()
    return a


def is_pydata_sparse(a: Any) -> bool:
    """Recognise an array of the package ``sparse`` (COO, GCXS, DOK) without importing it."""
    return type(a).__module__.partition(".")[0] == "sparse" and hasattr(a, "fill_value")


def from_pydata_sparse(a: Any, name: str) -> Any:
    """Return such an array of two dimensions as a SciPy CSR or CSC array.

    Raises
    ------
    DataError
        Not two-dimensional, or its fill value is not 0, and so it is not sparse.
    """
    check_shape(a.shape, name)
    if a.fill_value != 0:
        msg = f"{name}: expected a fill value of 0, got {a.fill_value}; pass it as .todense()"
        raise DataError(msg)
    a = a if hasattr(a, "to_scipy_sparse") else a.to_coo()
    converted = a.to_scipy_sparse()
    whole: Any = sp.csc_array if converted.format == "csc" else sp.csr_array
    return whole(converted)


def _sample(a: np.ndarray[Any, Any]) -> bytes:
    """Return the bytes of at most `SAMPLE` evenly spaced entries of a 2-D array."""
    count = min(a.size, SAMPLE)
    places = np.linspace(0, max(a.size - 1, 0), count).astype(np.int64)
    rows, columns = np.divmod(places, max(a.shape[1], 1))
    return np.asarray(a)[rows, columns].tobytes()


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:32]
