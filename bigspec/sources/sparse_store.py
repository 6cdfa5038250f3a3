"""Sparse matrices in a store: AnnData's groups, and any that `assemble` puts together.

A panel of compressed rows (CSR; columns for CSC) is one range of ``data`` and ``indices``. So a
pass reads every stored entry once; only chunks in which a panel ends are read twice.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import numpy as np
import scipy.sparse as sp
import zarr

from bigspec.errors import DataError, SourceError
from bigspec.kernels import scratch_nbytes
from bigspec.kernels.buffers import Buffers
from bigspec.matrices import SLAB_BYTES, Block, Grid, Matrix
from bigspec.sources.checks import check_dtype, check_shape
from bigspec.sources.fetching import fetched_nbytes
from bigspec.sources.lines import CELL_BYTES, Lines, ListedPointers, Pointers, Vector
from bigspec.sources.missing_chunks import Missing
from bigspec.sources.stored_vectors import stored_vector
from bigspec.sources.zarr_store import ZarrVector

__all__ = ["StoredSparse", "assemble", "open_sparse_group", "sparse_format"]

MOST_EXTENTS = 8
"""Extents to read of a shape that is an array; more than two is an error anyway."""
TENX = {"data", "indices", "indptr", "shape", "barcodes"}


@dataclass(frozen=True)
class StoredSparse(Matrix):
    """A sparse matrix in a store, with entries row by row or column by column.

    Attributes
    ----------
    format : {"csr", "csc"}
        Format of the blocks that `read` returns.
    data, indices : Vector
        As in SciPy.
    lines : Pointers, ListedPointers or Coordinates
        Which entries belong to which row (column).
    stored : int
        Number of stored entries.
    where, token : str
    starts : tuple of int
        How many entries lie before each cut of the axis.
    """

    format: str
    data: Vector = field(repr=False, compare=False)
    indices: Vector = field(repr=False, compare=False)
    lines: Lines = field(repr=False, compare=False)
    stored: int
    where: str
    token: str
    starts: tuple[int, ...] = field(default=(), repr=False, compare=False)

    def transient(self, slab: int) -> int:
        """Bytes that a task takes at most besides a slab, the decoders' scratch among them.

        These are the pointers of the slab, in two types, and their differences. To these come
        indices in SciPy's type, a sorted copy if the store is not sorted, and what the products
        take.
        """
        entry = self.dtype.itemsize + self.indices.dtype.itemsize
        entries = slab // entry
        cells = max(1, slab // self.cell_nbytes) if self.cell_nbytes else 1
        pointers = 24 * self.grids[self.axis].step * cells
        cast = 0 if self.indices.dtype == np.int32 else 4
        copies = entries * (cast + 4 + self.dtype.itemsize)
        chunks = 3 * max(part.chunk_nbytes for part in (self.data, self.indices, *self.lines.parts))
        slab_nbytes = copies + pointers + scratch_nbytes(self.dtype, entries)
        return chunks + slab_nbytes + self.ahead_nbytes(slab)

    @property
    def widened(self) -> float:
        """How much larger values and indices become in SciPy's types, at most."""
        index = 4 if max(*self.shape, self.stored) <= np.iinfo(np.int32).max else 8
        value = 4 if self.dtype.kind not in "biu" else self.dtype.itemsize  # of two bytes
        held = max(self.dtype.itemsize, value) + max(self.indices.dtype.itemsize, index)
        return held / (self.dtype.itemsize + self.indices.dtype.itemsize)

    def ahead_nbytes(self, slab: int) -> int:
        """Bytes of encoded chunks that are requested ahead; 0 on this machine."""
        parts = [part for part in (self.data, self.indices) if _is_far(part)]
        return sum(fetched_nbytes(slab, part.chunk_nbytes) for part in parts)

    def ahead(self, rows: slice, columns: slice, buffers: Buffers) -> None:
        """Request the entries and pointers of the range that is read next."""
        cut, cuts = (rows, columns)[self.axis], self.grids[self.axis].cuts or ()
        first, last = bisect_left(cuts, cut.start), bisect_left(cuts, cut.stop)
        if cuts[first : first + 1] != (cut.start,) or cuts[last : last + 1] != (cut.stop,):
            return
        entries = self.starts[first], self.starts[last]
        ranges = [(self.indices, entries), (self.data, entries)]
        if isinstance(self.lines, Pointers):
            ranges.insert(0, (self.lines.indptr, (cut.start, cut.stop + 1)))
        for part, wanted in ranges:
            if _is_far(part):
                part.ahead(*wanted, buffers)

    @property
    def nbytes(self) -> int:
        """Bytes of values, indices and pointers."""
        entry = self.dtype.itemsize + self.indices.dtype.itemsize
        return max(1, self.stored * entry + self.lines.nbytes)

    @property
    def missing_as(self) -> str:
        """The fill value of the values."""
        return str(getattr(self.data, "missing_as", "the fill value"))

    @property
    def anywhere(self) -> tuple[bool, bool]:
        """Any range of the compressed axis, if each of its lines has a pointer."""
        free = isinstance(self.lines, Pointers)
        return free and self.axis == 0, free and self.axis == 1

    @property
    def compressed(self) -> int:
        """The axis whose lines are stored one after another."""
        return self.axis

    def most_nbytes(self, axis: int, grid: Grid) -> int:
        """Bytes between two edges; the pointers are read unless the grid is the matrix's own."""
        if axis != self.axis or grid.count == 1:
            return self.nbytes
        if grid == self.grids[axis] and self.cell_nbytes is not None:
            return self.cell_nbytes
        if not isinstance(self.lines, Pointers):  # the cuts are those made when it was opened
            return self.nbytes
        cuts, at = np.array([grid.cut(k) for k in range(grid.count + 1)]), np.zeros(0, np.int64)
        for numbers, pointers, _ in self.lines.ranges():
            at = np.append(at, pointers[np.isin(numbers, cuts)])
        entry = self.dtype.itemsize + self.indices.dtype.itemsize
        return int(np.diff(at).max()) * entry + grid.step * self.lines.indptr.dtype.itemsize

    @property
    def axis(self) -> int:
        """The compressed axis: 0 for CSR, 1 for CSC."""
        return 0 if self.format == "csr" else 1

    @property
    def identity(self) -> dict[str, Any]:
        """Where, shape, dtype, format, and a token of the metadata documents."""
        return {
            "where": self.where,
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "chunks": [self.format, self.stored, self.data.chunk],
            "token": self.token,
        }

    def read(self, rows: slice, columns: slice, buffers: Buffers) -> Block:
        """Read the compressed rows (columns) of a range, checked, sorted, without duplicates."""
        self.ahead(rows, columns, buffers)  # requests values, indices and pointers at once
        try:
            return self._read((rows, columns)[self.axis], buffers)
        except BaseException:
            buffers.drop_ahead()
            raise

    def _read(self, cut: slice, buffers: Buffers) -> Block:
        pointers = self.lines.read(cut, buffers)
        first, last = int(pointers[0]), int(pointers[-1])
        indices = self.indices.read(first, last, buffers, "sparse.indices")
        length = self.shape[1 - self.axis]
        if indices.size and (indices.min() < 0 or indices.max() >= length):
            bad = first + int(np.argmax((indices < 0) | (indices >= length)))
            msg = (
                f"{self.name}: expected indices from 0 to {length - 1}, got "
                f"{_part(self.indices)}[{bad}] = {indices[bad - first]}; write the matrix again"
            )
            raise DataError(msg)
        data = self.data.read(first, last, buffers, "sparse.data")
        return self._block(data, indices, pointers - first, cut.stop - cut.start)

    def _block(self, data: Any, indices: Any, pointers: Any, height: int) -> Block:
        if data.dtype.itemsize == 2 and data.dtype.kind not in "biu":
            data = data.astype(np.float32)  # SciPy has no sparse float16, nor bfloat16
        if not data.dtype.isnative:  # nor any other order of bytes
            data = data.astype(data.dtype.newbyteorder("="))
        kind: Any = sp.csr_array if self.format == "csr" else sp.csc_array
        shape = (height, self.shape[1]) if self.format == "csr" else (self.shape[0], height)
        block = kind(shape, dtype=data.dtype)
        # Setting the parts copies nothing; the constructor may.
        wide = pointers[-1] > np.iinfo(np.int32).max or max(shape) > np.iinfo(np.int32).max
        whole = np.dtype(np.int64 if wide else np.int32)
        block.data = data
        block.indices = indices.astype(whole, copy=False)
        block.indptr = pointers.astype(whole)
        if not block.has_canonical_format:  # as SciPy: duplicates are summed
            block = block.copy()
            block.sum_duplicates()
        return block  # type: ignore[no-any-return]

    def chunk_at(self, row: int, column: int) -> str:
        """Name the row or column that holds an entry."""
        return f"the stored row {row}" if self.axis == 0 else f"the stored column {column}"


def sparse_format(group: Any) -> str | None:
    """Return "csr" or "csc" if a Zarr or HDF5 group is such a matrix, else None.

    AnnData says so in ``encoding-type``, h5sparse in ``h5sparse_format``. 10x's files say
    nothing, store columns, and have their shape as an array.
    """
    named = group.attrs.get("encoding-type", group.attrs.get("h5sparse_format"))
    named = named.decode() if isinstance(named, bytes) else named
    known = {"csr_matrix": "csr", "csc_matrix": "csc", "csr": "csr", "csc": "csc"}
    if named is None and not isinstance(group, zarr.Group) and TENX.issubset(group):
        return "csc"
    return known.get(str(named))


def open_sparse_group(
    group: Any, name: str, memory: int, missing: Missing | None = None
) -> StoredSparse:
    """Open a CSR or CSC group; the pointers are read once, the entries are not.

    Parameters
    ----------
    group : zarr.Group or h5py.Group
        It has ``data``, ``indices`` and ``indptr``; see `sparse_format`.
    name : str
        Its name in messages.
    memory : int
        Bytes that a decoded chunk may take.
    missing : Missing, optional
        Rule for missing chunks of values; see `stored_vector`.

    Raises
    ------
    SourceError
        A part is missing, or the version is another.
    ChunkError
        A chunk of the pointers is missing.
    MemoryLimitError
        A chunk does not fit.
    DataError
        Lengths, pointers or shape do not fit together.
    UnsupportedTypeError
        The entries are not numbers.
    """
    format_ = sparse_format(group)
    version = str(group.attrs.get("encoding-version", "0.1.0"))
    if format_ is None or version != "0.1.0":
        msg = (
            f"{name}: expected encoding-type csr_matrix or csc_matrix of version 0.1.0, got "
            f"{group.attrs.get('encoding-type')} of version {version}; write it with anndata"
        )
        raise SourceError(msg)
    shape = check_shape(_shape(group, name, memory), name)
    data = stored_vector(group, "data", name, memory, missing)
    # zarr does not store chunks of zeros, so these may rightly be missing.
    indices = stored_vector(
        group, "indices", name, memory, sure=shape[format_ == "csr"] == 1 or not len(data)
    )
    indptr = stored_vector(group, "indptr", name, memory, sure=not len(data))
    lines = Pointers(indptr, len(data), name)
    return assemble(name, format_, shape, (data, indices, lines), memory)


def assemble(
    name: str,
    format_: str,
    shape: tuple[int, int],
    parts: tuple[Vector, Vector, Lines],
    memory: int,
) -> StoredSparse:
    """Check that values, indices and lines fit together, and make the matrix.

    Raises
    ------
    DataError, UnsupportedTypeError
        See `open_sparse_group`.
    """
    data, indices, lines = parts
    dtype, stored, axis = check_dtype(data.dtype, name), len(data), 0 if format_ == "csr" else 1
    _check_lengths(name, shape, axis, stored, indices, lines)
    for part in (indices, *lines.parts):
        if part.dtype.kind not in "iu":
            msg = (
                f"{name}: expected integers in {_part(part)}, got {part.dtype}; write the matrix "
                "again"
            )
            raise DataError(msg)
    lines.check(shape[1 - axis], memory)
    entry = dtype.itemsize + indices.dtype.itemsize
    lines, cuts = lines.cut(shape[axis], max(1, CELL_BYTES // entry))
    grid = Grid.irregular(tuple(np.diff(cuts.lines).tolist()))
    other = Grid(shape[1 - axis], shape[1 - axis])
    tokens = "".join(part.token for part in (data, indices, *lines.parts))
    token = hashlib.sha256(tokens.encode()).hexdigest()
    cell = cuts.most * entry + grid.step * max(part.dtype.itemsize for part in lines.parts)
    found = StoredSparse(
        shape,
        dtype,
        name,
        (grid, other) if axis == 0 else (other, grid),
        format_,
        data,
        indices,
        lines,
        stored,
        data.where.rpartition("/")[0],
        token[:32],
        cuts.pointers,
        resident=data.resident,
        cell_nbytes=cell,
    )
    return replace(found, transient_nbytes=found.transient(max(cell, SLAB_BYTES)))


def _check_lengths(
    name: str, shape: tuple[int, int], axis: int, stored: int, indices: Vector, lines: Lines
) -> None:
    wanted = [(indices, stored)]
    if isinstance(lines, Pointers):
        wanted.append((lines.indptr, shape[axis] + 1))
    elif isinstance(lines, ListedPointers):
        wanted.append((lines.indptr, len(lines.listed) + 1))
    else:
        wanted.append((lines.listed, stored))
    if any(len(part) != length for part, length in wanted):
        expected = " and ".join(f"{length} in {_part(part)}" for part, length in wanted)
        got = " and ".join(str(len(part)) for part, _ in wanted)
        msg = f"{name}: expected {expected} for {stored} values and shape {shape}, got {got}"
        raise DataError(msg)


def _is_far(vector: Vector) -> TypeGuard[ZarrVector]:
    return isinstance(vector, ZarrVector) and vector.is_far


def _part(vector: Vector) -> str:
    return vector.name.rpartition("/")[2]


def shape_of_group(group: Any, name: str) -> tuple[int, int]:
    """Return the shape that a group of AnnData's kind declares.

    Raises
    ------
    DataError, SourceError
        It is missing, or no matrix has it.
    """
    return check_shape(_shape(group, name, SLAB_BYTES), name)


def _shape(group: Any, name: str, memory: int) -> tuple[int, ...]:
    shape: Any = group.attrs.get("shape", group.attrs.get("h5sparse_shape"))
    if shape is None and _holds(group, "shape"):
        extents = stored_vector(group, "shape", name, memory)
        shape = extents.read(0, min(len(extents), MOST_EXTENTS), Buffers(), "sparse.shape")
    try:
        return tuple(int(extent) for extent in shape)
    except (TypeError, ValueError):
        msg = f"{name}: expected an attribute 'shape' of two integers, got {shape!r}"
        raise SourceError(msg) from None


def _holds(group: Any, part: str) -> bool:
    try:
        return part in group
    except (ValueError, TypeError):  # the part is there, but zarr cannot read its metadata
        return True
