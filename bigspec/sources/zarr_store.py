"""Dense Zarr arrays, v2 and v3, on any store."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.buffer.cpu import NDBuffer

from bigspec.errors import MissingSourceError, SourceError
from bigspec.kernels.buffers import Buffers
from bigspec.matrices import SLAB_BYTES, Block, Grid, Matrix
from bigspec.sources import catalog, retries
from bigspec.sources.array_handle import ArrayHandle
from bigspec.sources.checks import check_dtype, check_shape
from bigspec.sources.codecs import check_codecs, zarr_scratch
from bigspec.sources.direct import DirectArray, plan_direct
from bigspec.sources.far import FarArray
from bigspec.sources.fetching import fetched_nbytes
from bigspec.sources.missing_chunks import Missing, fill_text, rule_for
from bigspec.sources.zarr_place import (
    is_far,
    local_document,
    packed_with,
    token_of,
    where_of,
)

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = ["ArrayHandle", "ZarrMatrix", "ZarrVector", "open_zarr_array", "refuse_group"]


@dataclass(frozen=True)
class ZarrMatrix(Matrix):
    """A dense 2-D Zarr array; grid steps are its chunks, or its shards if it has them.

    Attributes
    ----------
    handle : ArrayHandle
        The array, for reads through zarr.
    where : str
        Absolute path or URL of the array.
    token : str
        Hash of the metadata document; for local stores with its time of modification.
    document : str or None
        Path of the metadata document, if it is a local file.
    direct : DirectArray or None
        How to decode chunks without zarr, if the layout allows it.
    far : FarArray or None
        The same for a store that is not on this machine.
    """

    handle: ArrayHandle = field(repr=False, compare=False)
    where: str
    token: str
    document: str | None = None
    direct: DirectArray | None = field(default=None, repr=False, compare=False)
    far: FarArray | None = field(default=None, repr=False, compare=False)

    @property
    def identity(self) -> dict[str, Any]:
        """Where, shape, dtype, chunks, and a token of the metadata document.

        The token does not cover chunks; passes compare content tokens of the panels.
        """
        return {
            "where": self.where,
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "chunks": [grid.step for grid in self.grids],
            "token": self.token,
        }

    @property
    def missing_as(self) -> str:
        """The fill value."""
        return fill_text(self.handle.open().fill_value)

    def read(self, rows: slice, columns: slice, buffers: Buffers) -> Block:
        """Read a rectangle into `buffers`."""
        if self.direct is not None:
            return self.direct.read(rows, columns, buffers)
        if self.far is not None:
            return self.far.read(rows, columns, buffers, partial(self._read_chunk, buffers))
        self.handle.open(buffers)  # a store that does not answer is not asked chunk by chunk
        block = buffers.take("source.block", _extent(rows, columns), self.dtype)
        try:
            self.handle.read((rows, columns), buffers, NDBuffer(block))  # type: ignore[arg-type]
        except MissingSourceError:
            raise
        except Exception as error:
            # Chunks of the failed read may still arrive in that memory: leave it to them, and
            # take other memory under this name from now on.
            whole = block if block.base is None else block.base
            buffers.take("source.block", (whole.nbytes + 1,), np.uint8)
            buffers.retries += retries.is_transient(error)
            block = self._read_by_chunk(rows, columns, buffers)
        if self.document is not None and not Path(self.document).exists():
            msg = f"{self.name}: the store went away while it was read ({self.document} is gone)"
            raise MissingSourceError(msg)
        return block

    def chunk_at(self, row: int, column: int) -> str:
        """Name the chunk that holds an entry by its key in the store."""
        return f"chunk {self._key(row, column)}"

    def _read_by_chunk(self, rows: slice, columns: slice, buffers: Buffers) -> np.ndarray[Any, Any]:
        """Read a rectangle one chunk at a time, each with its own retries.

        One failing request in hundreds must not repeat the others, and zarr's own error does
        not name the chunk.
        """
        block = np.empty(_extent(rows, columns), self.dtype)
        for i in _cells(self.grids[0], rows):
            for j in _cells(self.grids[1], columns):
                place = self.grids[0].cell(i.start), self.grids[1].cell(j.start)
                part = self._read_chunk(buffers, *place)
                top, left = i.start - rows.start, j.start - columns.start
                block[top : top + part.shape[0], left : left + part.shape[1]] = part
        return block

    def _read_chunk(self, buffers: Buffers, i: int, j: int) -> np.ndarray[Any, Any]:
        """Read one chunk, with retries, naming it if that fails."""
        place = [slice(g.cut(k), g.cut(k + 1)) for g, k in zip(self.grids, (i, j), strict=True)]
        read_chunk = partial(self.handle.read, tuple(place), buffers)
        try:
            return retries.with_retries(read_chunk, buffers)
        except Exception as error:
            key = self._key(place[0].start, place[1].start)
            raise retries.named_failure(error, self.name, key) from error

    def ahead(self, rows: slice, columns: slice, buffers: Buffers) -> None:
        """Request the chunks of the rectangle that is read next."""
        if self.direct is None:
            self.handle.ahead((rows, columns), buffers)

    def ahead_nbytes(self, slab: int) -> int:
        """Bytes of encoded chunks that are requested ahead; 0 on this machine."""
        if self.direct is not None or not is_far(self.handle.open()):
            return 0
        return fetched_nbytes(slab, self.chunk_nbytes)

    def transient(self, slab: int) -> int:
        """Bytes that reading takes besides the slab, its encoded chunks among them."""
        return self.transient_nbytes - self.most_ahead_nbytes + self.ahead_nbytes(slab)

    @property
    def most_ahead_nbytes(self) -> int:
        """The most that any slab requests; an expression does not say which slab."""
        slabs = (self.most_nbytes(k, self.grids[k]) for k in (0, 1))
        return self.ahead_nbytes(max(SLAB_BYTES, *slabs))

    @property
    def chunk_nbytes(self) -> int:
        """Bytes of a decoded chunk (shard)."""
        return self.grids[0].step * self.grids[1].step * self.dtype.itemsize

    def _key(self, row: int, column: int) -> str:
        place = (self.grids[0].cell(row), self.grids[1].cell(column))
        return str(self.handle.open().metadata.encode_chunk_key(place))


@dataclass(frozen=True)
class ZarrVector:
    """A 1-D Zarr array, part of a sparse matrix, read in ranges.

    Attributes
    ----------
    handle : ArrayHandle
    length, chunk : int
    dtype : numpy.dtype
    name, where, token, document, direct, far
        As of `ZarrMatrix`.
    resident : bool
    """

    handle: ArrayHandle
    length: int
    chunk: int
    dtype: np.dtype[Any]
    name: str
    where: str
    token: str
    document: str | None
    resident: bool
    direct: DirectArray | None = field(default=None, repr=False, compare=False)
    far: FarArray | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, array: zarr.Array[Any], name: str, missing: Missing | None = None) -> ZarrVector:
        """Wrap an open array of numbers."""
        check_codecs(array, name)
        steps = _steps(array, name)
        resident, packed = packed_with(array)
        document = local_document(array)
        handle = ArrayHandle(array, packed, name, missing)
        direct, far = None, None
        if array.ndim == 1 and array.dtype.kind in "biufc":
            direct, far = _without_zarr(array, name, document, missing or Missing(), handle)
        return cls(
            handle,
            int(array.shape[0]),
            steps[0],
            np.dtype(array.dtype),
            name,
            where_of(array),
            token_of(array, document),
            None if document is None else str(document),
            resident,
            direct,
            far,
        )

    def __len__(self) -> int:
        return self.length

    @property
    def missing_as(self) -> str:
        """The fill value."""
        return fill_text(self.handle.open().fill_value)

    @property
    def chunk_nbytes(self) -> int:
        """Bytes of a decoded chunk."""
        return self.chunk * self.dtype.itemsize

    @property
    def is_far(self) -> bool:
        """Whether its chunks come over a network."""
        return is_far(self.handle.open())

    def ahead(self, start: int, stop: int, buffers: Buffers) -> None:
        """Request the chunks of the range that is read next."""
        if start < stop:
            self.handle.ahead(slice(start, stop), buffers)

    def read(self, start: int, stop: int, buffers: Buffers, scratch: str) -> np.ndarray[Any, Any]:
        """Read a range into the buffer called `scratch`."""
        if stop <= start:
            return np.zeros(0, self.dtype)
        if self.direct is not None:
            return self.direct.read_range(start, stop, buffers, scratch)
        if self.far is not None:
            one = partial(self._read_chunk, buffers)
            return self.far.read_range(start, stop, buffers, scratch, one)
        self.handle.open(buffers)
        block = buffers.take(scratch, (stop - start,), self.dtype)
        try:
            self.handle.read(slice(start, stop), buffers, NDBuffer(block))  # type: ignore[arg-type]
        except MissingSourceError:
            raise
        except Exception as error:
            # Chunks of the failed read may still arrive in that memory.
            buffers.take(scratch, (block.nbytes + 1,), np.uint8)
            buffers.retries += retries.is_transient(error)
            block = self._read_by_chunk(start, stop, buffers)
        if self.document is not None and not Path(self.document).exists():
            msg = f"{self.name}: the store went away while it was read ({self.document} is gone)"
            raise MissingSourceError(msg)
        return block

    def _read_by_chunk(self, start: int, stop: int, buffers: Buffers) -> np.ndarray[Any, Any]:
        """Read a range one chunk at a time, each with its own retries, as of `ZarrMatrix`."""
        block, step = np.empty(stop - start, self.dtype), self.chunk
        for number in range(start // step, -(-stop // step)):
            part, first = self._read_chunk(buffers, number), number * step
            begin, end = max(start, first), min(stop, first + len(part))
            block[begin - start : end - start] = part[begin - first : end - first]
        return block

    def _read_chunk(self, buffers: Buffers, number: int) -> np.ndarray[Any, Any]:
        """Read one chunk, with retries, naming it if that fails."""
        place = slice(number * self.chunk, min((number + 1) * self.chunk, self.length))
        read: Any = partial(self.handle.read, place, buffers)
        try:
            return np.asarray(retries.with_retries(read, buffers))
        except Exception as error:
            key = str(self.handle.open().metadata.encode_chunk_key((number,)))
            raise retries.named_failure(error, self.name, key) from error


def _extent(rows: slice, columns: slice) -> tuple[int, int]:
    return rows.stop - rows.start, columns.stop - columns.start


def _cells(grid: Grid, across: slice) -> list[slice]:
    first, last = grid.cell(across.start), grid.cell(across.stop - 1)
    return [slice(grid.cut(i), grid.cut(i + 1)) for i in range(first, last + 1)]


def open_zarr_array(
    array: zarr.Array[Any], name: str | None = None, missing: Missing | None = None
) -> ZarrMatrix:
    """Wrap an open zarr array.

    Parameters
    ----------
    array : zarr.Array
        An array on any store, of any format and codec, with a regular chunk grid.
    name : str, optional
        Its name in messages; by default its path or URL.
    missing : Missing, optional
        Rule for chunks that are not in the store.

    Raises
    ------
    DataError
        The array is empty, or does not have two dimensions.
    UnsupportedTypeError
        The entries are not numbers.
    SourceError
        The chunk grid is irregular.
    """
    where = where_of(array)
    name = where if name is None else name
    dtype = check_dtype(np.dtype(array.dtype), name)
    shape = check_shape(array.shape, name)
    check_codecs(array, name)
    steps = _steps(array, name)
    document = local_document(array)
    missing = rule_for(array.metadata.fill_value, missing)
    resident, packed = packed_with(array)
    handle = ArrayHandle(array, packed, name, missing)
    direct, far = _without_zarr(array, name, document, missing, handle)
    grids = (Grid(shape[0], steps[0]), Grid(shape[1], steps[1]))
    scratch = zarr_scratch(array, grids[0].count * grids[1].count)
    if direct is not None or far is not None:
        scratch = (direct or far.plan).scratch_nbytes  # type: ignore[union-attr]
    matrix = ZarrMatrix(
        shape,
        dtype,
        name,
        grids,
        handle,
        where,
        token_of(array, document),
        None if document is None else str(document),
        direct,
        far,
        resident=resident,
    )
    return replace(matrix, transient_nbytes=scratch + matrix.most_ahead_nbytes)


def _without_zarr(
    array: zarr.Array[Any], name: str, document: Path | None, missing: Missing, handle: ArrayHandle
) -> tuple[DirectArray | None, FarArray | None]:
    """Return how to read an array on this machine, or far away, if zarr is not needed for it."""
    plan = plan_direct(array, name, document, missing)
    if plan is None or document is not None:
        return plan, None
    return None, FarArray(plan, handle) if is_far(array) else None


def _steps(array: zarr.Array[Any], name: str) -> tuple[int, ...]:
    """Return the extents of a chunk, or of a shard."""
    try:
        steps = tuple(int(step) for step in array.shards or array.chunks)
    except NotImplementedError as error:
        msg = f"{name}: expected a regular chunk grid, got one this version cannot cut ({error})"
        raise SourceError(msg) from error
    if min((*steps, *array.chunks), default=1) < 1:
        msg = f"{name}: expected chunks of positive length, got {steps}; write the array again"
        raise SourceError(msg)
    return steps


def refuse_group(store: Store, path: str, name: str, pointer: str) -> SourceError:
    """Return the error for a group in place of an array; it names the arrays in the group.

    Parameters
    ----------
    store, path : Store, str
        The group.
    name : str
        The user's name for it.
    pointer : str
        How to point at an array, with ``{}`` for its path.
    """
    entries = catalog.find_arrays(store, path)
    if len(entries) == 1 and entries[0].path == path:
        return SourceError(
            f"{name}: expected a dense array, got a {entries[0].kind} of shape "
            f"{entries[0].shape}, which bigspec cannot read: load it as a SciPy sparse array "
            "and pass that"
        )
    if not entries:
        return SourceError(f"{name}: expected a Zarr array, got a Zarr group without arrays")
    best = entries[0].path.removeprefix(path).strip("/")
    return SourceError(
        f"{name}: expected a Zarr array, got a Zarr group; it holds "
        f"{catalog.describe(entries)}. Point at one: {pointer.format(best)}"
    )
