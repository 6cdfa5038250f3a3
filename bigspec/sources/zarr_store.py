"""Dense Zarr arrays, v2 and v3, on any store."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.buffer.cpu import NDBuffer
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ZipStore

from bigspec.errors import MissingSourceError, SourceError
from bigspec.kernels.buffers import Buffers
from bigspec.matrices import Block, Grid, Matrix
from bigspec.names import bare
from bigspec.sources import catalog, retries
from bigspec.sources.array_handle import ArrayHandle
from bigspec.sources.checks import check_dtype, check_shape
from bigspec.sources.codecs import check_codecs
from bigspec.sources.direct import DirectArray, plan_direct
from bigspec.sources.locations import open_failure, place_of
from bigspec.sources.missing import Missing, fill_text, rule_for
from bigspec.sources.virtual import reference_identity

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
    """

    handle: ArrayHandle = field(repr=False, compare=False)
    where: str
    token: str
    document: str | None = None
    direct: DirectArray | None = field(default=None, repr=False, compare=False)

    @property
    def identity(self) -> dict[str, Any]:
        """Where, shape, dtype, chunks, and a token of the metadata document.

        The token does not look at chunks; passes compare content tokens of the panels.
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
        self.handle.open(buffers)  # a store that does not answer is not asked chunk by chunk
        block = buffers.take("source.block", _extent(rows, columns), self.dtype)
        try:
            self.handle.read((rows, columns), buffers, NDBuffer(block))  # type: ignore[arg-type]
        except MissingSourceError:
            raise
        except Exception as error:
            # Chunks of the failed read may still be on their way into that memory: hand it
            # over to them and take other memory under this name from now on.
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
        """Read a rectangle one chunk at a time, each with its retries, naming what fails.

        One failing request in hundreds must not repeat the others, and zarr's own error does
        not say which chunk it was.
        """
        block = np.empty(_extent(rows, columns), self.dtype)
        for i in _pieces(self.grids[0], rows):
            for j in _pieces(self.grids[1], columns):
                read_chunk = partial(self.handle.read, (i, j), buffers)
                try:
                    part: Any = retries.with_retries(read_chunk, buffers)
                except Exception as error:
                    key = self._key(i.start, j.start)
                    raise retries.named_failure(error, self.name, key) from error
                top, left = i.start - rows.start, j.start - columns.start
                block[top : top + part.shape[0], left : left + part.shape[1]] = part
        return block

    def _key(self, row: int, column: int) -> str:
        place = (self.grids[0].piece(row), self.grids[1].piece(column))
        return str(self.handle.open().metadata.encode_chunk_key(place))


@dataclass(frozen=True)
class ZarrVector:
    """A 1-D Zarr array, part of a sparse matrix, read in ranges.

    Attributes
    ----------
    handle : ArrayHandle
    length, chunk : int
    dtype : numpy.dtype
    name, where, token : str
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

    @classmethod
    def of(cls, array: zarr.Array[Any], name: str, missing: Missing | None = None) -> ZarrVector:
        """Wrap an open array of numbers."""
        check_codecs(array, name)
        steps = _steps(array, name)
        resident, packed = _packed(array)
        document = _local_document(array)
        return cls(
            ArrayHandle(array, packed, name, missing),
            int(array.shape[0]),
            steps[0],
            np.dtype(array.dtype),
            name,
            _where(array),
            _token(array, document),
            None if document is None else str(document),
            resident,
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

    def read(self, start: int, stop: int, buffers: Buffers, scratch: str) -> np.ndarray[Any, Any]:
        """Read a range into the buffer called `scratch`."""
        if stop <= start:
            return np.zeros(0, self.dtype)
        self.handle.open(buffers)
        block = buffers.take(scratch, (stop - start,), self.dtype)
        read = partial(self.handle.read, slice(start, stop), buffers, NDBuffer(block))  # type: ignore[arg-type]
        try:
            retries.with_retries(read, buffers)
        except Exception as error:
            # Chunks of the failed read may still be on their way into that memory.
            buffers.take(scratch, (block.nbytes + 1,), np.uint8)
            key = f"among entries {start} to {stop - 1}"
            raise retries.named_failure(error, self.name, key) from error
        if self.document is not None and not Path(self.document).exists():
            msg = f"{self.name}: the store went away while it was read ({self.document} is gone)"
            raise MissingSourceError(msg)
        return block


def _packed(array: zarr.Array[Any]) -> tuple[bool, bytes]:
    """Pickle an array now, so that a store that cannot travel is resident before a plan is made."""
    if _lives_in_process(array.store):
        return True, b""
    try:
        return False, pickle.dumps(array)
    except Exception:  # noqa: BLE001, RUF100 - whatever a third-party store raises
        return True, b""


def _extent(rows: slice, columns: slice) -> tuple[int, int]:
    return rows.stop - rows.start, columns.stop - columns.start


def _pieces(grid: Grid, across: slice) -> list[slice]:
    first, last = grid.piece(across.start), grid.piece(across.stop - 1)
    return [slice(grid.cut(i), grid.cut(i + 1)) for i in range(first, last + 1)]


def open_zarr_array(
    array: zarr.Array[Any], name: str | None = None, missing: Missing | None = None
) -> ZarrMatrix:
    """Wrap an open zarr array.

    Parameters
    ----------
    array : zarr.Array
        Any store, format, codec or chunk grid that is regular.
    name : str, optional
        Its name in messages; by default its path or URL.
    missing : Missing, optional
        Rule for chunks that are not in the store.

    Raises
    ------
    DataError
        Not two-dimensional or empty.
    UnsupportedTypeError
        The entries are not numbers.
    SourceError
        The chunk grid is irregular.
    """
    where = _where(array)
    name = where if name is None else name
    dtype = check_dtype(np.dtype(array.dtype), name)
    shape = check_shape(array.shape, name)
    check_codecs(array, name)
    steps = _steps(array, name)
    document = _local_document(array)
    missing = rule_for(array.metadata.fill_value, missing)
    direct = plan_direct(array, name, document, missing)
    grids = (Grid(shape[0], steps[0]), Grid(shape[1], steps[1]))
    resident, packed = _packed(array)
    return ZarrMatrix(
        shape,
        dtype,
        name,
        grids,
        ArrayHandle(array, packed, name, missing),
        where,
        _token(array, document),
        None if document is None else str(document),
        direct,
        resident=resident,
        transient_nbytes=_zarr_scratch(array, grids) if direct is None else direct.scratch_nbytes,
    )


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
    """Return the error for a group where an array was meant, naming the arrays in it.

    Parameters
    ----------
    store, path : Store, str
        The group.
    name : str
        What the user called it.
    pointer : str
        How to point at an array, with ``{}`` for its path.
    """
    entries = catalog.find_arrays(store, path)
    if len(entries) == 1 and entries[0].path == path:
        return SourceError(
            f"{name}: expected a dense array, got a {entries[0].kind} of shape "
            f"{entries[0].shape} of a kind that is not supported: load it as a SciPy sparse "
            "array and pass that"
        )
    if not entries:
        return SourceError(f"{name}: expected a Zarr array, got a Zarr group without arrays")
    best = entries[0].path.removeprefix(path).strip("/")
    return SourceError(
        f"{name}: expected a Zarr array, got a Zarr group; it holds "
        f"{catalog.describe(entries)}. Point at one: {pointer.format(best)}"
    )


def _lives_in_process(store: Store) -> bool:
    while hasattr(store, "_store"):  # zarr's WrapperStore and its kin
        store = store._store
    if isinstance(store, FsspecStore):
        protocol = store.fs.protocol
        return "memory" in ((protocol,) if isinstance(protocol, str) else protocol)
    return isinstance(store, MemoryStore)


def _where(array: zarr.Array[Any]) -> str:
    store, path = array.store, array.path
    if isinstance(store, LocalStore):
        return str(store.root.absolute() / path)
    if isinstance(store, ZipStore):
        return f"{store.path.absolute()}::/{path}"
    if (references := reference_identity(store)) is not None:
        return f"{references}/{path}"
    if isinstance(store, FsspecStore):
        protocol = store.fs.protocol
        scheme = protocol if isinstance(protocol, str) else protocol[0]
        # Not after the path is added: it would be a part of a signed query at the end.
        return f"{scheme}://{bare(store.path.strip('/'))}/{path}".rstrip("/")
    if _lives_in_process(store):
        return f"memory:{path}"
    return place_of(store, path)


def _local_document(array: zarr.Array[Any]) -> Path | None:
    if type(array.store) is not LocalStore:
        return None
    document = "zarr.json" if array.metadata.zarr_format == 3 else ".zarray"
    return array.store.root.absolute() / array.path / document


def _token(array: zarr.Array[Any], document: Path | None) -> str:
    evidence = json.dumps(array.metadata.to_dict(), sort_keys=True, default=str).encode()
    container = array.store.path if isinstance(array.store, ZipStore) else document
    try:
        if document is not None:
            evidence = document.read_bytes()
        if container is not None:
            evidence += str(Path(container).stat().st_mtime_ns).encode()
    except OSError as error:
        raise open_failure(error, _where(array)) from error
    return hashlib.sha256(evidence).hexdigest()[:32]


def _zarr_scratch(array: zarr.Array[Any], grids: tuple[Grid, Grid]) -> int:
    """Return what zarr holds for a moment: encoded, decoded and filtered copies of its chunks."""
    at_once = min(int(zarr.config.get("async.concurrency") or 10), grids[0].count * grids[1].count)
    chunk = grids[0].step * grids[1].step * int(array.dtype.itemsize)
    copies = 2 + len(array.filters or ())
    return at_once * copies * chunk
