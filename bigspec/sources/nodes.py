"""Every array of a Zarr group or an HDF5 file, of any number of dimensions, each read whole.

For networks, whose weights lie in one file under nested names. An array is read as everywhere
else: codecs are checked first, chunks unpack to their declared size, packing is undone.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from bigspec.errors import (
    DataError,
    SourceError,
    UnsupportedTypeError,
)
from bigspec.kernels.buffers import Buffers
from bigspec.matrices import Grid
from bigspec.sources import catalog, retries
from bigspec.sources.array_handle import ArrayHandle
from bigspec.sources.checks import check_dtype, check_memory
from bigspec.sources.codecs import check_codecs
from bigspec.sources.hdf5 import DatasetHandle, open_file_hdf5
from bigspec.sources.hdf5_parts import parts_of, readable
from bigspec.sources.locations import Location, open_failure, open_node, read_metadata
from bigspec.sources.missing_chunks import Missing, as_policy
from bigspec.sources.packing import RAW, Packing, packing_of
from bigspec.sources.variable import Wanted
from bigspec.sources.zarr_store import ZarrVector
from bigspec.sources.zarr_variable import Boxes, zarr_packing

__all__ = ["Node", "hdf5_nodes", "is_zarr", "zarr_nodes"]

Array = np.ndarray[Any, Any]

DEEPEST = 32
"""Groups inside groups; deeper ones are taken for a circle of links."""
MOST_NODES = 100_000
SMALL = 1 << 20
SAMPLES = 5


@dataclass
class Tally:
    """Chunks that a read did not find in the store, and filled with the fill value."""

    missing_chunks: int = 0


@dataclass(frozen=True)
class Node(ABC):
    """An array of a store, by its path.

    Attributes
    ----------
    path : str
        From the root, without a leading slash.
    name : str
        Of the store and the array, in messages.
    shape : tuple of int
    stored : numpy.dtype
        Of the stored numbers.
    packing : Packing
        From stored numbers to values.
    evidence : str
        Changes when it is written again, if the store shows that without a read.
    same : str or None
        Equal for two paths of one array.
    refusal : str or None
        Why it does not have numbers.
    brain : bool
        Whether it has bfloat16 in bytes, because its store has no name for the type.
    tally : Tally
        Missing chunks of the last read.
    steps : tuple of int
        Sides of a chunk, or of a shard.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    packing: Packing
    evidence: str
    same: str | None
    refusal: str | None
    brain: bool
    tally: Tally = field(repr=False, compare=False)
    steps: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values, in native byte order."""
        if self.refusal is not None or self.brain:
            return self.stored
        return self.packing.dtype(self.stored.newbyteorder("="))

    @property
    def nbytes(self) -> int:
        """Bytes of the stored numbers, decoded."""
        return math.prod(self.shape) * self.stored.itemsize

    def read(self) -> Array:
        """Return all of its values.

        Raises
        ------
        ChunkError, MissingSourceError, SourceError, StoreUnavailableError
        DataError
            A value is missing, by the array's own marks.
        MemoryLimitError
            The values take more than half of the memory of this machine.
        """
        needed = math.prod(self.shape) * max(self.stored.itemsize, self.dtype.itemsize)
        check_memory(needed, self.name)
        buffers = Buffers()  # fresh ones: nothing else takes this memory
        box = tuple(slice(0, extent) for extent in self.shape)
        values = self._values(np.asarray(self._raw(box, buffers)), (0,) * len(box))
        self.tally.missing_chunks = buffers.missing_chunks
        return values.reshape(self.shape)

    def read_box(self, box: tuple[slice, ...], buffers: Buffers) -> Array:
        """Return the values in a box; they may lie in `buffers`, which counts missing chunks.

        Parameters
        ----------
        box : tuple of slice
            Along each dimension, with integer ends. Chunks that it cuts are read whole.
        buffers : Buffers

        Raises
        ------
        ChunkError, MissingSourceError, SourceError, StoreUnavailableError, DataError
            See `read`.
        """
        outer = tuple(
            slice(part.start // step * step, min(-(-part.stop // step) * step, extent))
            for part, step, extent in zip(box, self.steps, self.shape, strict=True)
        )
        inner = tuple(
            slice(part.start - whole.start, part.stop - whole.start)
            for part, whole in zip(box, outer, strict=True)
        )
        raw = np.asarray(self._raw(outer, buffers))[inner]
        return self._values(raw, tuple(part.start for part in box))

    def _values(self, raw: Array, origin: tuple[int, ...]) -> Array:
        """Return stored numbers as values; the first of them lie at `origin`."""
        values, missing = self.packing.unpack(raw, self.dtype)
        if missing is not None:
            where = np.unravel_index(int(np.argmax(missing)), missing.shape)
            at = [int(k) + first for k, first in zip(where, origin, strict=True)]
            msg = f"{self.name}: expected a value in every place, got a missing one at {at}"
            raise DataError(msg)
        return np.asarray(values)

    def token(self) -> str:
        """Digest all values of a small array; some values and the evidence of a large one."""
        found = hashlib.sha256(self.evidence.encode())
        for part in [self.read()] if self.nbytes <= SMALL else self._sample():
            found.update(np.ascontiguousarray(part).tobytes())
        return found.hexdigest()[:32]

    def _sample(self) -> Iterator[Array]:
        """Read some chunks, if the evidence does not show when they were written."""
        return iter(())

    @abstractmethod
    def _raw(self, box: tuple[slice, ...], buffers: Buffers) -> Array:
        """Return the stored numbers in a box of whole chunks, in native byte order."""


@dataclass(frozen=True)
class _ZarrNode(Node):
    stored_array: zarr.Array[Any] = field(repr=False, compare=False)
    missing: Missing

    def _raw(self, box: tuple[slice, ...], buffers: Buffers) -> Array:
        array = self.stored_array
        native = self.stored.newbyteorder("=")
        if not all(self.shape):
            return np.empty(self.shape, native)
        if not self.shape:
            handle = ArrayHandle(array, pickle.dumps(array), self.name, self.missing)
            try:
                value = retries.with_retries(lambda: handle.read((), buffers))
            except Exception as error:
                raise retries.named_failure(error, self.name, "0") from error
            return np.asarray(value, native)
        return self._boxes().read(box, self.name, buffers)

    def _sample(self) -> Iterator[Array]:
        boxes = self._boxes()
        count = math.prod(grid.count for grid in boxes.grids)
        for number in sorted({k * (count - 1) // (SAMPLES - 1) for k in range(SAMPLES)}):
            where = np.unravel_index(number, [grid.count for grid in boxes.grids])
            cuts = zip(boxes.grids, map(int, where), strict=True)
            box = tuple(slice(grid.cut(k), grid.cut(k + 1)) for grid, k in cuts)
            yield boxes.read(box, self.name, Buffers())

    def _boxes(self) -> Boxes:
        grids = tuple(Grid(*both) for both in zip(self.shape, self.steps, strict=True))
        return Boxes(ZarrVector.of(self.stored_array, self.name, self.missing), grids)


@dataclass(frozen=True)
class _HDF5Node(Node):
    handle: DatasetHandle = field(repr=False, compare=False)

    def _raw(self, box: tuple[slice, ...], buffers: Buffers) -> Array:
        if not all(self.shape):
            return np.empty(self.shape, self.stored.newbyteorder("="))
        with readable(self.name, "its header"):
            return self.handle.read(box, self.name, buffers)


def is_zarr(names: list[str]) -> bool:
    """Whether a folder with these files in it is a Zarr array or group."""
    return any(name in ("zarr.json", ".zgroup", ".zarray") for name in names)


def zarr_nodes(location: Location, missing_chunks: str = "fill") -> Iterator[Node]:
    """List the arrays at or below a place of a Zarr store; no entry is read.

    Parameters
    ----------
    location : Location
    missing_chunks : {"fill", "error"}
        Whether chunks that are not in the store hold the fill value, or are an error.

    Raises
    ------
    SourceError, MissingSourceError, StoreUnavailableError
        It is not Zarr, one array has codecs that may not run, or there are too many arrays.
    """
    missing = Missing(as_policy(missing_chunks))
    queue, count = [("", 0)], 0
    while queue:
        below, depth = queue.pop(0)
        path = "/".join(filter(None, (location.path, below)))
        node = _zarr_at(location, path) if below else open_node(location)
        if isinstance(node, zarr.Array):
            yield _zarr_node(node, below, location.name, missing)
        elif node is not None:
            names = catalog.children(location.store, path)
            inside = (name for name in names if not name.startswith((".", "zarr.json")))
            queue += [("/".join(filter(None, (below, name))), depth + 1) for name in inside]
        count += 1
        _check_walk(count + len(queue), depth, location.name)


def hdf5_nodes(path: Path, name: str, missing_chunks: str = "fill") -> Iterator[Node]:
    """List the datasets of a local HDF5 file; no entry is read.

    Parameters
    ----------
    path : Path
    name : str
        Name of the file in messages.
    missing_chunks : {"fill", "error"}

    Raises
    ------
    SourceError
        It is damaged, or a link leads out of it.
    MissingSourceError, ChunkError
        A dataset has parts in other files that are missing.
    """
    missing = Missing(as_policy(missing_chunks))
    file = open_file_hdf5(str(path), name)
    try:
        with readable(name, "its groups"):
            yield from _datasets(file, name, missing)
    finally:
        file.close()  # each dataset is opened again by whoever reads it


def _check_walk(count: int, depth: int, name: str) -> None:
    if count > MOST_NODES or depth > DEEPEST:
        msg = (
            f"{name}: expected at most {MOST_NODES} arrays in {DEEPEST} levels of groups, got "
            "more; does a link make a circle?"
        )
        raise SourceError(msg)


def _zarr_at(location: Location, path: str) -> Any:
    try:
        return retries.with_retries(lambda: read_metadata(location.store, path))
    except FileNotFoundError:
        return None
    except Exception as error:
        raise open_failure(error, f"{location.name}/{path}") from error


def _zarr_node(array: zarr.Array[Any], path: str, store: str, missing: Missing) -> Node:
    name = f"{store}/{path}".rstrip("/")
    dtype, shape = np.dtype(array.dtype), tuple(int(extent) for extent in array.shape)
    refusal, packing, evidence = _refusal(dtype, name), RAW, ""
    if refusal is None:
        check_codecs(array, name)
        packing = zarr_packing(array, dtype.newbyteorder("="), name, Wanted())
        evidence = ZarrVector.of(array, name, missing).token if shape else repr(array.metadata)
    steps = tuple(array.shards or array.chunks)
    made = (path, name, shape, dtype, packing, evidence, None, refusal, False, Tally(), steps)
    return _ZarrNode(*made, array, missing)


def _datasets(file: Any, name: str, missing: Missing) -> Iterator[Node]:
    import h5py

    queue, count = [("", 0)], 0
    while queue:
        below, depth = queue.pop(0)
        node = file[below] if below else file
        if isinstance(node, h5py.Dataset):
            yield _hdf5_node(node, below, name, missing)
        elif isinstance(node, h5py.Group):
            for key in node:
                inner = "/".join(filter(None, (below, key)))
                link = node.get(key, getlink=True)
                if isinstance(link, h5py.ExternalLink):
                    msg = (
                        f"{name}: {inner} is a link to another file, {link.filename}, which is not "
                        "followed; take that file, or copy what it holds into this one"
                    )
                    raise SourceError(msg)
                if node.get(key) is None:
                    msg = f"{name}: {inner} is a link to {link.path}, which is not there"
                    raise SourceError(msg)
                queue.append((inner, depth + 1))
        count += 1
        _check_walk(count + len(queue), depth, name)


def _hdf5_node(dataset: Any, path: str, store: str, missing: Missing) -> Node:
    import h5py

    name, dtype = f"{store}::/{path}", np.dtype(dataset.dtype)
    brain = _is_brain(dataset, dtype)
    refusal = None if brain else _refusal(dtype, name)
    if dataset.shape is None:
        refusal = f"{name}: it is an empty dataset (its dataspace is null)"
    packing, evidence = RAW, ""
    if refusal is None:
        status = os.stat(dataset.file.filename)  # noqa: PTH116
        evidence = repr((status.st_size, status.st_mtime_ns, dataset.shape, str(dtype)))
        evidence += parts_of(dataset, name).evidence
        if not brain:
            packing = packing_of(dataset.attrs, dtype.newbyteorder("="), name)
    address = f"{dataset.file.filename}:{h5py.h5o.get_info(dataset.id).addr}"
    handle = DatasetHandle(str(dataset.file.filename), f"/{path}", missing)
    shape = tuple(int(extent) for extent in dataset.shape or ())
    steps = tuple(dataset.chunks or (1,) * len(shape))
    whole = (path, name, shape, dtype, packing, evidence, address)
    made = (*whole, refusal, brain, Tally(), steps)
    return _HDF5Node(*made, handle)


def _is_brain(dataset: Any, dtype: np.dtype[Any]) -> bool:
    """Whether Keras wrote bfloat16: bytes in pairs, and an attribute with the type."""
    if dtype.kind != "V" or dtype.itemsize != 2 or dtype.names is not None:
        return False
    said = dataset.attrs.get("dtype")
    return str(said.decode() if isinstance(said, bytes) else said) == "bfloat16"


def _refusal(dtype: np.dtype[Any], name: str) -> str | None:
    try:
        check_dtype(dtype, name)
    except UnsupportedTypeError as error:
        return str(error)
    return None
