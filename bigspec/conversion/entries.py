"""Sources as streams of triplets: stored rows or columns, SciPy's .npz, three arrays in memory."""

from __future__ import annotations

import math
import operator
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bigspec.conversion.identity import digest, file_identity
from bigspec.errors import DataError, MemoryLimitError, SourceError, format_bytes
from bigspec.kernels.buffers import Buffers
from bigspec.matrices import Matrix
from bigspec.sources.archives import check_member, member_header, small_member
from bigspec.sources.checks import check_dtype, check_shape
from bigspec.sources.memory import SparseMatrix

__all__ = [
    "ArrayStream",
    "Batch",
    "EntryStream",
    "MatrixStream",
    "NpzStream",
    "Position",
    "open_arrays",
    "open_npz",
]

Array = np.ndarray[Any, Any]
Position = list[int]


@dataclass(frozen=True)
class Batch:
    """Some entries: `rows` and `columns` (k,) from 0, `values` (k,).

    The next batch begins at `after`. `nbytes` were read for this one, decoded.
    """

    rows: Array
    columns: Array
    values: Array
    after: Position
    nbytes: int


@dataclass(frozen=True)
class EntryStream(ABC):
    """Entries in any order, perhaps with duplicates; reading can begin at any batch.

    Attributes
    ----------
    name : str
    shape : tuple of int
    dtype : numpy.dtype
    most : int
        Stored entries, or an upper bound of them if a file does not state the number.
    identity : dict
        Partial work is for this source if the identities are equal.
    form : {"csr", "csc"}
        Default format of the conversion.
    """

    name: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    most: int
    identity: dict[str, Any] = field(repr=False)
    form: str = "csr"

    @abstractmethod
    def batches(self, entries: int, position: Position) -> Iterator[Batch]:
        """Read batches of about so many entries, from `position` on; ``[]`` is the beginning."""

    @property
    def missing_chunks(self) -> int:
        """Chunks read by this process that are not in their store."""
        return 0

    def keep(self, folder: Path) -> tuple[str, ...]:
        """Write more arrays into the group of the matrix, and return their names."""
        return ()

    def check(self, batch: Batch, first: int) -> Batch:
        """Return the batch if its indices are in range; `first` numbers its first entry."""
        for axis, (what, indices) in enumerate((("row", batch.rows), ("column", batch.columns))):
            extent = self.shape[axis]
            if indices.size and (indices.min() < 0 or indices.max() >= extent):
                bad = int(np.argmax((indices < 0) | (indices >= extent)))
                msg = (
                    f"{self.name}: expected {what} indices from 0 to {extent - 1}, got "
                    f"{indices[bad]} in entry {first + bad}; fix the source"
                )
                raise DataError(msg)
        return batch


@dataclass(frozen=True)
class MatrixStream(EntryStream):
    """A sparse `Matrix` of compressed rows or columns, read on its cuts."""

    matrix: Matrix = field(repr=False, kw_only=True)
    axis: int = field(kw_only=True)
    buffers: Buffers = field(default_factory=Buffers, repr=False, compare=False, kw_only=True)

    @property
    def missing_chunks(self) -> int:
        """Chunks of values that are not in the store, and count as their fill value."""
        return self.buffers.missing_chunks

    @classmethod
    def of(cls, matrix: Matrix, limit: int) -> MatrixStream:
        """Wrap a matrix whose panels are sparse; the entries between two cuts must fit `limit`.

        Raises
        ------
        DataError
            Its panels are dense.
        MemoryLimitError
        """
        size = 4 * (matrix.cell_nbytes or 0)
        if size > limit:
            msg = (
                f"memory_limit: expected at least {format_bytes(size)} for {matrix.name}, whose "
                f"longest row or column is read at once, got {format_bytes(limit)}; give it more"
            )
            raise MemoryLimitError(msg)
        compressed = matrix if hasattr(matrix, "format") else getattr(matrix, "entries", None)
        form = getattr(compressed, "format", None)
        if form not in ("csr", "csc"):
            msg = (
                f"{matrix.name}: expected a sparse matrix (AnnData's groups, 10x, .npz, .mtx, "
                "SciPy sparse), got a dense one, which stores all its entries. It needs no "
                "conversion: norm, svds and plan take it as it is. To leave its zeros out, convert "
                "scipy.sparse.csr_array(...) of it"
            )
            raise DataError(msg)
        axis = 0 if form == "csr" else 1
        stored = matrix.entries.nnz if isinstance(matrix, SparseMatrix) else matrix.stored  # type: ignore[attr-defined]
        common = matrix.name, matrix.shape, matrix.dtype, int(stored), matrix.identity, form
        return cls(*common, matrix=matrix, axis=axis)

    def cuts(self, entries: int) -> Iterator[tuple[int, int, int]]:
        """Yield ranges of cells of the grid, ``(first cell, start, stop)``."""
        grid = self.matrix.grids[self.axis]
        # Cells of an irregular grid already have about equal numbers of entries. Those of a
        # regular grid do not, so their mean length decides how many are read together.
        step = 1 if grid.cuts is not None else max(1, entries * grid.count // max(1, self.most))
        for k in range(0, grid.count, step):
            yield k, grid.cut(k), grid.cut(min(k + step, grid.count))

    def blocks(self, entries: int, position: Position) -> Iterator[tuple[int, int, Any, Position]]:
        """Read compressed blocks, in order: ``(start, stop, block, after)``."""
        whole = slice(0, self.shape[1 - self.axis])
        begin = position[0] if position else 0
        for number, (_, start, stop) in enumerate(self.cuts(entries)):
            if number < begin:
                continue
            cut = slice(start, stop)
            where = (cut, whole) if self.axis == 0 else (whole, cut)
            yield start, stop, self.matrix.read(*where, self.buffers), [number + 1]

    def batches(self, entries: int, position: Position) -> Iterator[Batch]:
        """Read the blocks as triplets."""
        for start, stop, block, after in self.blocks(entries, position):
            major = np.repeat(np.arange(start, stop), np.diff(block.indptr))
            both = (major, block.indices) if self.axis == 0 else (block.indices, major)
            size = block.data.nbytes + block.indices.nbytes
            yield Batch(both[0], both[1], block.data, after, size)


@dataclass(frozen=True)
class ArrayStream(EntryStream):
    """Three arrays in memory or memory maps, used without a copy."""

    rows: Array = field(repr=False, kw_only=True)
    columns: Array = field(repr=False, kw_only=True)
    values: Array = field(repr=False, kw_only=True)

    def batches(self, entries: int, position: Position) -> Iterator[Batch]:
        """Slice the arrays."""
        begin = position[0] if position else 0
        for start in range(begin, self.most, entries):
            cut = slice(start, min(start + entries, self.most))
            rows, columns, values = self.rows[cut], self.columns[cut], self.values[cut]
            size = rows.nbytes + columns.nbytes + values.nbytes
            yield self.check(Batch(rows, columns, values, [cut.stop], size), start)


@dataclass(frozen=True)
class NpzStream(EntryStream):
    """SciPy's .npz as COO, CSR or CSC, compressed or not, whose members are read as streams."""

    path: Path = field(kw_only=True)
    members: tuple[str, str | None, str | None] = field(kw_only=True)  # data, row, col

    def batches(self, entries: int, position: Position) -> Iterator[Batch]:
        """Read the members side by side."""
        begin = position[0] if position else 0
        with zipfile.ZipFile(self.path) as archive:
            streams = [self._member(archive, name) for name in self.members if name is not None]
            for stream in streams:
                stream.skip(begin)
            majors = None if self.members[1] and self.members[2] else self._majors(archive, entries)
            for start, stop, major in majors or self._ranges(begin, entries):
                if stop <= begin:
                    continue
                parts = [stream.take(stop - start) for stream in streams]
                size = sum(part.nbytes for part in parts)
                if major is not None:
                    parts.insert(1 if self.members[1] is None else 2, major)
                values, rows, columns = parts
                yield self.check(Batch(rows, columns, values, [stop], size), start)

    def _ranges(self, begin: int, entries: int) -> Iterator[tuple[int, int, None]]:
        for start in range(begin, self.most, entries):
            yield start, min(start + entries, self.most), None

    def _majors(self, archive: zipfile.ZipFile, entries: int) -> Iterator[tuple[int, int, Array]]:
        """Turn pointers into the row (column) of every entry, one range at a time."""
        pointers = self._member(archive, "indptr")
        extent = self.shape[0 if self.members[1] is None else 1]
        if pointers.length != extent + 1:
            msg = f"{self.name}: expected {extent + 1} pointers, got {pointers.length}"
            raise DataError(msg)
        last = pointers.take(1).astype(np.int64)
        if last[0] != 0:
            raise self._bad_pointers()
        for first in range(0, extent, entries):
            taken = pointers.take(min(entries, extent - first)).astype(np.int64)
            ends = np.concatenate((last, taken))
            if np.any(np.diff(ends) < 0) or ends[-1] > self.most:
                raise self._bad_pointers()
            for start in range(int(ends[0]), int(ends[-1]), entries):
                stop = min(start + entries, int(ends[-1]))
                inside = np.clip(ends, start, stop)
                yield start, stop, np.repeat(np.arange(first, first + taken.size), np.diff(inside))
            last = ends[-1:]
        if last[0] != self.most:
            raise self._bad_pointers()

    def _bad_pointers(self) -> DataError:
        return DataError(
            f"{self.name}: expected pointers that begin with 0, never decrease and end with "
            f"{self.most}, got others in indptr; write the matrix again"
        )

    def _member(self, archive: zipfile.ZipFile, name: str) -> _Member:
        return _Member(archive, name, self.name)


class _Member:
    """A one-dimensional .npy inside an archive, read forward; never unpickled."""

    def __init__(self, archive: zipfile.ZipFile, member: str, name: str) -> None:
        self.name, self.member = name, member
        try:
            self.file = archive.open(f"{member}.npy")
            shape, self.dtype = member_header(self.file)
            if not self.dtype.hasobject:
                check_member(archive.getinfo(f"{member}.npy"), shape, self.dtype, name)
        except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            msg = (
                f"{name}: expected an array {member!r} inside, got {type(error).__name__}: {error}"
            )
            raise SourceError(msg) from error
        if len(shape) != 1 or self.dtype.hasobject:
            got = f"{self.dtype} {shape}"
            msg = f"{name}: expected {member!r} to be one-dimensional numbers, got {got}"
            raise DataError(msg)
        self.length = int(shape[0])

    def skip(self, count: int) -> None:
        while count > 0:
            count -= self.take(min(count, 1 << 20)).size

    def take(self, count: int) -> Array:
        size = count * self.dtype.itemsize
        try:
            raw = self.file.read(size)
        except (OSError, EOFError, zipfile.BadZipFile, ValueError) as error:
            msg = f"{self.name}: {self.member!r} is damaged ({type(error).__name__}: {error})"
            raise SourceError(msg) from error
        except Exception as error:  # zlib.error shares no base with anything
            msg = f"{self.name}: {self.member!r} cannot be decompressed ({error})"
            raise SourceError(msg) from error
        if len(raw) != size:
            msg = f"{self.name}: {self.member!r} ends {size - len(raw)} bytes early; write it again"
            raise SourceError(msg)
        return np.frombuffer(raw, self.dtype)


def open_npz(path: Path, name: str) -> NpzStream | None:
    """Open an .npz of SciPy's as a stream, or return None for its rarer formats.

    Accepted too: members ``data``, ``row``, ``col`` and ``shape`` without a format.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            named = "format.npy" in archive.namelist()
            form = small_member(archive, "format").item() if named else b"coo"
            shape = tuple(operator.index(extent) for extent in small_member(archive, "shape"))
    except (ValueError, OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        msg = (
            f"{name}: expected a sparse matrix as scipy.sparse.save_npz writes it, or members "
            f"data, row, col and shape; got {type(error).__name__}: {error}"
        )
        raise SourceError(msg) from error
    form = form.decode() if isinstance(form, bytes) else str(form)
    members = {
        "coo": ("data", "row", "col"),
        "csr": ("data", None, "indices"),
        "csc": ("data", "indices", None),
    }.get(form)
    if members is None:
        return None
    size = check_shape(shape, name)
    with zipfile.ZipFile(path) as archive:
        parts = [_Member(archive, member, name) for member in members if member is not None]
        if form != "coo" and (kind := _Member(archive, "indptr", name).dtype).kind not in "iu":
            msg = f"{name}: expected integers in indptr, got {kind}; write the matrix again"
            raise DataError(msg)
    lengths = [part.length for part in parts]
    if len(set(lengths)) > 1 or any(part.dtype.kind not in "iu" for part in parts[1:]):
        kinds = ", ".join(f"{part.length} {part.dtype} {part.member}" for part in parts)
        msg = f"{name}: expected as many integer indices as values, got {kinds}"
        raise DataError(msg)
    return NpzStream(
        name,
        size,
        check_dtype(parts[0].dtype, name),
        lengths[0],
        file_identity(path),
        "csc" if form == "csc" else "csr",
        path=path,
        members=members,
    )


def open_arrays(parts: Any, shape: Any) -> ArrayStream:
    """Wrap ``(data, (row, col))`` and a shape, or a SciPy COO array, without copying.

    Raises
    ------
    DataError
        Lengths or kinds do not fit together.
    """
    if not isinstance(parts, tuple):
        values, (rows, columns), shape = parts.data, (parts.row, parts.col), parts.shape
    else:
        values, (rows, columns) = parts
    values, rows, columns = (np.asanyarray(part) for part in (values, rows, columns))
    name = f"triplets {shape}"
    if shape is None:
        msg = "shape: expected the shape of the matrix beside (data, (row, col)), got None"
        raise DataError(msg)
    same = {part.shape for part in (values, rows, columns)}
    if (
        len(same) > 1
        or values.ndim != 1
        or rows.dtype.kind not in "iu"
        or columns.dtype.kind not in "iu"
    ):
        msg = (
            f"{name}: expected three vectors of one length, two of them integers, got data "
            f"{values.shape}, row {rows.shape} {rows.dtype}, col {columns.shape} {columns.dtype}"
        )
        raise DataError(msg)
    size = check_shape(tuple(shape), name)
    step = max(1, math.ceil(values.size / 4096))
    sample = [np.ascontiguousarray(part[::step]).tobytes() for part in (values, rows, columns)]
    identity = {"where": "memory", "shape": list(size), "token": digest(*sample)}
    return ArrayStream(
        name,
        size,
        check_dtype(values.dtype, name),
        int(values.size),
        identity,
        rows=rows,
        columns=columns,
        values=values,
    )
