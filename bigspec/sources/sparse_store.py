"""Sparse matrices that lie in a store as compressed rows or columns: AnnData's groups.

A panel of compressed rows (CSR; columns for CSC) is one range of ``data`` and ``indices``, so a
pass reads every stored entry once, and twice the few chunks in which a panel ends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
import zarr

from bigspec.buffers import Buffers
from bigspec.errors import DataError, SourceError
from bigspec.layout import SLAB_BYTES
from bigspec.matrices import Block, Grid, Matrix
from bigspec.sources import retries
from bigspec.sources.checks import check_dtype, check_shape
from bigspec.sources.hdf5 import HDF5Vector
from bigspec.sources.zarr_store import ZarrVector

__all__ = ["StoredSparse", "open_sparse_group", "sparse_format"]

Vector = ZarrVector | HDF5Vector

PIECE_BYTES = 8 << 20
"""Cuts lie about so many bytes of entries apart."""
TENX = {"data", "indices", "indptr", "shape", "barcodes"}
POINTERS = 1 << 20
"""Pointers that are read at once while a store is opened."""


@dataclass(frozen=True)
class StoredSparse(Matrix):
    """A CSR or CSC matrix in a store.

    Attributes
    ----------
    format : {"csr", "csc"}
    data, indices, indptr : ZarrVector or HDF5Vector
        As in SciPy.
    stored : int
        Number of stored entries.
    where, token : str
    """

    format: str
    data: Vector = field(repr=False, compare=False)
    indices: Vector = field(repr=False, compare=False)
    indptr: Vector = field(repr=False, compare=False)
    stored: int
    where: str
    token: str

    @property
    def nbytes(self) -> int:
        """Bytes of values, indices and pointers."""
        pointers = self.shape[self.axis] + 1
        entry = self.dtype.itemsize + self.indices.dtype.itemsize
        return max(1, self.stored * entry + pointers * self.indptr.dtype.itemsize)

    @property
    def anywhere(self) -> tuple[bool, bool]:
        """Any range of the compressed axis."""
        return self.axis == 0, self.axis == 1

    def most_nbytes(self, axis: int, grid: Grid) -> int:
        """Bytes between two cuts; reads the pointers if the cuts are not the matrix's own."""
        if axis != self.axis or grid.count == 1:
            return self.nbytes
        if grid == self.grids[axis] and self.piece_nbytes is not None:
            return self.piece_nbytes
        cuts, at = np.array([grid.cut(k) for k in range(grid.count + 1)]), np.zeros(0, np.int64)
        for start, pointers in _ranges(self.indptr):
            inside = cuts[(cuts >= start) & (cuts < start + len(pointers))]
            at = np.append(at, pointers[inside - start])
        entry = self.dtype.itemsize + self.indices.dtype.itemsize
        return int(np.diff(at).max()) * entry + grid.step * self.indptr.dtype.itemsize

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
        cut = (rows, columns)[self.axis]
        pointers = self.indptr.read(cut.start, cut.stop + 1, buffers, "sparse.indptr")
        pointers = pointers.astype(np.int64)
        first, last = int(pointers[0]), int(pointers[-1])
        if np.any(np.diff(pointers) < 0) or not 0 <= first <= last <= self.stored:
            msg = (
                f"{self.name}: expected pointers that never decrease, from 0 to {self.stored}, got "
                f"others among indptr[{cut.start}:{cut.stop + 1}]; write the matrix again"
            )
            raise DataError(msg)
        indices = self.indices.read(first, last, buffers, "sparse.indices")
        length = self.shape[1 - self.axis]
        if indices.size and (indices.min() < 0 or indices.max() >= length):
            bad = first + int(np.argmax((indices < 0) | (indices >= length)))
            msg = (
                f"{self.name}: expected indices from 0 to {length - 1}, got "
                f"indices[{bad}] = {indices[bad - first]}; write the matrix again"
            )
            raise DataError(msg)
        data = self.data.read(first, last, buffers, "sparse.data")
        return self._block(data, indices, pointers - first, cut.stop - cut.start)

    def _block(self, data: Any, indices: Any, pointers: Any, height: int) -> Block:
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
    """Return "csr" or "csc" if a Zarr or HDF5 group says that it is such a matrix.

    AnnData's ``encoding-type``, h5sparse's ``h5sparse_format``, and the columns of 10x's files,
    which say nothing and hold their shape as an array.
    """
    named = group.attrs.get("encoding-type", group.attrs.get("h5sparse_format"))
    named = named.decode() if isinstance(named, bytes) else named
    known = {"csr_matrix": "csr", "csc_matrix": "csc", "csr": "csr", "csc": "csc"}
    if named is None and not isinstance(group, zarr.Group) and TENX.issubset(group):
        return "csc"
    return known.get(str(named))


def open_sparse_group(group: Any, name: str) -> StoredSparse:
    """Open a CSR or CSC group; the pointers are read once, the entries are not.

    Parameters
    ----------
    group : zarr.Group or h5py.Group
        With ``data``, ``indices`` and ``indptr``; see `sparse_format`.
    name : str
        What messages call it.

    Raises
    ------
    SourceError
        Something is missing, or of another version.
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
    shape = check_shape(_shape(group, name), name)
    parts = {part: _vector(group, part, name) for part in ("data", "indices", "indptr")}
    dtype = check_dtype(parts["data"].dtype, name)
    axis = 0 if format_ == "csr" else 1
    stored = len(parts["data"])
    if len(parts["indices"]) != stored or len(parts["indptr"]) != shape[axis] + 1:
        msg = (
            f"{name}: expected {stored} indices and {shape[axis] + 1} pointers for {stored} values "
            f"and shape {shape}, got {len(parts['indices'])} and {len(parts['indptr'])}"
        )
        raise DataError(msg)
    for part in ("indices", "indptr"):
        if parts[part].dtype.kind not in "iu":
            msg = f"{name}: expected integers in {part}, got {parts[part].dtype}"
            raise DataError(msg)
    entry = dtype.itemsize + parts["indices"].dtype.itemsize
    cuts, most = _cuts(parts["indptr"], stored, max(1, PIECE_BYTES // entry), name)
    grid = Grid.irregular(tuple(np.diff(cuts).tolist()))
    other = Grid(shape[1 - axis], shape[1 - axis])
    token = hashlib.sha256("".join(part.token for part in parts.values()).encode()).hexdigest()
    chunk = max(part.chunk_nbytes for part in parts.values())
    piece = most * entry + grid.step * parts["indptr"].dtype.itemsize
    return StoredSparse(
        shape,
        dtype,
        name,
        (grid, other) if axis == 0 else (other, grid),
        format_,
        parts["data"],
        parts["indices"],
        parts["indptr"],
        stored,
        parts["data"].where.removesuffix("/data"),
        token[:32],
        resident=parts["data"].resident,
        # Decoded chunks; values and indices in the working types; their sizes for the facts.
        transient_nbytes=3 * chunk + 4 * max(piece, SLAB_BYTES),
        piece_nbytes=piece,
    )


def _cuts(indptr: Vector, stored: int, entries: int, name: str) -> tuple[list[int], int]:
    """Cut the compressed axis about every so many entries, reading the pointers in ranges.

    Returns the cuts, and the most entries between two of them.
    """
    cuts, wanted, before, total = [0], entries, 0, len(indptr)
    at = [0]  # pointers at the cuts
    for start, pointers in _ranges(indptr):
        if pointers[0] < before or np.any(np.diff(pointers) < 0) or (start == 0 and pointers[0]):
            msg = (
                f"{name}: expected pointers that begin with 0 and never decrease, got others among "
                f"indptr[{start}:{start + len(pointers)}]; write the matrix again"
            )
            raise DataError(msg)
        before = int(pointers[-1])
        while before >= wanted:
            place = start + int(np.searchsorted(pointers, wanted))
            if cuts[-1] < place < total - 1:
                cuts.append(place)
                at.append(int(pointers[place - start]))
            wanted = max(wanted, int(pointers[place - start])) + entries
    if before != stored:
        msg = f"{name}: expected the last pointer to be {stored}, got {before}"
        raise DataError(msg)
    return [*cuts, total - 1], int(np.diff([*at, stored]).max())


def _ranges(indptr: Vector) -> Iterator[tuple[int, Any]]:
    buffers = Buffers()
    for start in range(0, len(indptr), POINTERS):
        stop = min(start + POINTERS, len(indptr))
        yield start, indptr.read(start, stop, buffers, "sparse.indptr").astype(np.int64)


def _shape(group: Any, name: str) -> tuple[int, ...]:
    shape: Any = group.attrs.get("shape", group.attrs.get("h5sparse_shape"))
    if shape is None and "shape" in group:
        shape = group["shape"][...]
    try:
        return tuple(int(extent) for extent in shape)
    except (TypeError, ValueError):
        msg = f"{name}: expected an attribute 'shape' of two integers, got {shape!r}"
        raise SourceError(msg) from None


def _vector(group: Any, part: str, name: str) -> Vector:
    try:
        array = retries.with_retries(lambda: group.get(part))
    except Exception as error:
        raise retries.named_failure(error, name, part) from error
    if len(getattr(array, "shape", ())) != 1:
        msg = f"{name}: expected a one-dimensional array {part!r} in the group, got {array!r}"
        raise SourceError(msg)
    kind = ZarrVector if isinstance(array, zarr.Array) else HDF5Vector
    return kind.of(array, f"{name}/{part}")
