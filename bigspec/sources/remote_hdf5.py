"""HDF5 and netCDF behind a URL: one dataset is indexed once, then read by ranges.

h5py opens the file over blocks that are fetched as HDF5 asks for them. The chunks of the dataset
that is wanted are listed in one call, and the file is closed. From then on it is an array of Zarr 2
whose chunks are ranges of the file (`bigspec.sources.ranges`): fetched many at once, decoded by the
same codecs, counted and retried by the same rules.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, MemoryStore

from bigspec.errors import DataError, SourceError, needs
from bigspec.matrices import Matrix
from bigspec.names import bare, shown
from bigspec.sources.block_file import BlockFile, without_collector
from bigspec.sources.checks import check_dtype
from bigspec.sources.classic_header import read_header
from bigspec.sources.file_bytes import RemoteContent
from bigspec.sources.hdf5 import dims_of, is_turned, node_in
from bigspec.sources.hdf5_parts import readable
from bigspec.sources.hdf5_ranges import ranges_of
from bigspec.sources.locations import remote_store
from bigspec.sources.missing_chunks import Missing
from bigspec.sources.netcdf import CLASSIC, ENDINGS, chosen
from bigspec.sources.packing import BESIDE, CONVENTIONS, RAW, Packing, packing_of
from bigspec.sources.ranges import Ranges, RangeStore
from bigspec.sources.sparse_store import sparse_format
from bigspec.sources.variable import Wanted
from bigspec.sources.zarr_variable import open_described

if TYPE_CHECKING:
    import h5py

__all__ = ["open_remote_hdf5"]

NO_FILL = (
    "the dataset has no fill value, so nothing says what a chunk that was never written holds. "
    "Write the chunk"
)


@dataclass
class Index:
    """What remains of a file once it is closed.

    Attributes
    ----------
    arrays : dict
        `Ranges` by path; of a sparse group those of its parts.
    attrs : dict
        Attributes of the dataset, as HDF5 has them, or of the group, as JSON has them.
    path : str
        Of the dataset or the group.
    dims : tuple of str
        Of a dataset.
    sparse, netcdf, turned : bool
        Whether it is a sparse group; whether netCDF's rules hold; whether rows are columns, as in
        MATLAB.
    """

    arrays: dict[str, Ranges]
    attrs: dict[str, Any]
    path: str
    dims: tuple[str, ...] = ()
    sparse: bool = False
    netcdf: bool = False
    turned: bool = False


@dataclass(frozen=True)
class Listed:
    """A dataset in the list of those that may be meant."""

    dimensions: tuple[str, ...]
    shape: tuple[int, ...] = field(default=())


def open_remote_hdf5(
    place: tuple[str, str], text: str, wanted: Wanted
) -> Matrix | tuple[zarr.Group, str]:
    """Open the matrix in an HDF5 or netCDF file behind a URL.

    Parameters
    ----------
    place : tuple of str
        The URL, and the path inside the file: empty for its one matrix.
    text : str
        All that the user wrote.
    wanted : Wanted

    Returns
    -------
    Matrix, or the sparse group (zarr.Group) and its name

    Raises
    ------
    SourceError, MissingSourceError, StoreUnavailableError
        There is no such file or matrix, or it cannot be read by ranges; the message lists the
        contents.
    ArgumentError, DataError, UnsupportedTypeError, ChunkError
        See `bigspec.sources.hdf5.open_hdf5`.
    """
    url, inside = place
    name = shown(text)
    store: Any = remote_store(url, name, wanted.storage)
    path = store.path if isinstance(store, FsspecStore) else ""
    content = RemoteContent(store, path, shown(url))
    index = _indexed(content, inside, name, url, wanted)
    for path, ranges in index.arrays.items():
        content.check(0, ranges.end, f"the entries of {path}")
    group = _group(content, str(bare(url)), index)
    if index.sparse:
        return group, name
    array: Any = group[index.path]
    if index.arrays[index.path].fill is None and not wanted.missing.refused:
        wanted = replace(wanted, missing=Missing("error", NO_FILL))

    def packing(dtype: np.dtype[Any], said: str) -> Packing:
        read = RAW if wanted.raw else packing_of(index.attrs, dtype, said, netcdf=index.netcdf)
        return read.filled(wanted.fill, dtype, said)

    matrix = open_described(array, name, wanted, index.dims, packing)
    return replace(matrix.H, name=name) if index.turned else matrix


def _indexed(content: RemoteContent, inside: str, name: str, url: str, wanted: Wanted) -> Index:
    """Open the file once, and index the wanted part of it."""
    begin = content.at(0, min(4, content.size), "its first bytes").tobytes()
    if begin[:3] == b"CDF":
        return _classic(content, begin, inside, name)
    try:
        import h5py
    except ImportError as error:
        msg = f"{name}: {needs('HDF5', 'hdf5', 'h5py')}"
        raise SourceError(msg) from error
    blocks = BlockFile(content)
    label = PurePosixPath(shown(url).partition("?")[0]).name
    with without_collector(), ExitStack() as stack:
        stack.callback(blocks.check)  # runs last: what h5py says about zeros means nothing
        try:
            file = stack.enter_context(h5py.File(blocks, "r"))
        except OSError as error:
            blocks.check()
            msg = f"{name}: expected an HDF5 file, got one that h5py cannot open ({error})"
            raise SourceError(msg) from error
        try:
            found = _found(file, inside, name, label, wanted)
        except Exception:
            blocks.check()
            raise
    return found


def _classic(content: RemoteContent, begin: bytes, inside: str, name: str) -> Index:
    if begin[:4] not in CLASSIC:
        msg = f"{name}: expected netCDF-4 or classic netCDF, got CDF-5; convert it: nccopy -k nc4"
        raise SourceError(msg)
    found = read_header(content, name)
    path = chosen(dict(found), inside, name)
    held = found[path]
    check_dtype(held.dtype, name)
    if not held.shape:
        msg = f"{name}: expected a matrix, got a single number"
        raise DataError(msg)
    ranges = {path.strip("/"): held.ranges()}
    return Index(ranges, held.attrs, path.strip("/"), held.dimensions, netcdf=True)


def _found(file: h5py.File, inside: str, name: str, label: str, wanted: Wanted) -> Index:
    netcdf = label.lower().endswith(ENDINGS) or "_NCProperties" in file.attrs
    if netcdf and (not inside or file.get(inside) is None):
        inside = chosen(_variables(file), inside, name)
    node = node_in(file, inside, name, label)
    path = node.name.strip("/")
    with readable(name, node.name):
        if hasattr(node, "keys"):
            return Index(_parts(node, name), _plain_attrs(node), path, sparse=True)
        if node.shape is None:
            msg = f"{name}: expected a matrix, got an empty dataset (its dataspace is null)"
            raise DataError(msg)
        attrs = {key: node.attrs[key] for key in (*CONVENTIONS, *BESIDE) if key in node.attrs}
        turned = not netcdf and is_turned(node, wanted)
        ranges = {path: ranges_of(node, name)}
        return Index(ranges, attrs, path, dims_of(node), netcdf=netcdf, turned=turned)


def _variables(file: h5py.File) -> dict[str, Any]:
    """Return the variables of a whole file, for the choice among them."""
    import h5py

    found: dict[str, Any] = {}

    def note(path: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.shape is not None:
            found[f"/{path}"] = Listed(dims_of(node), tuple(node.shape))

    file.visititems(note)
    return found


def _parts(group: h5py.Group, name: str) -> dict[str, Ranges]:
    """Index the vectors of numbers in a sparse group."""
    import h5py

    found = {}
    for key in group:
        node = group.get(key)
        if isinstance(node, h5py.Dataset) and len(node.shape or ()) == 1:
            if np.dtype(node.dtype).kind not in "biufc":
                continue
            found[node.name.strip("/")] = ranges_of(node, f"{name}/{key}")
    return found


def _plain_attrs(group: h5py.Group) -> dict[str, Any]:
    """Return the attributes of a group as JSON has them."""
    found = {key: _plain(value) for key, value in group.attrs.items()}
    if sparse_format(group) and not {"encoding-type", "h5sparse_format"} & set(found):
        found["encoding-type"] = "csc_matrix"  # of 10x, which does not say so
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return [_plain(element) for element in value.tolist()]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def _group(content: RemoteContent, place: str, index: Index) -> Any:
    """Return the indexed file as a Zarr group."""
    memory = MemoryStore()
    root = zarr.create_group(memory, zarr_format=2)
    if index.sparse:
        (root.require_group(index.path) if index.path else root).attrs.update(index.attrs)
    for path, ranges in index.arrays.items():
        root.create_array(
            path,
            shape=ranges.shape,
            chunks=ranges.chunks,
            dtype=ranges.dtype,
            filters=None,
            compressors=None,
            fill_value=_fill_of(ranges),
            attributes={"file": content.evidence, "index": ranges.digest},
        )
    documents = sync(_documents(memory))
    for path, ranges in index.arrays.items():
        _describe(documents, f"{path}/.zarray", ranges)
    store = RangeStore(content, place, documents, index.arrays)
    opened: Any = zarr.open_group(store, mode="r", zarr_format=2, use_consolidated=False)
    return opened[index.path] if index.path and index.sparse else opened


def _fill_of(ranges: Ranges) -> Any:
    if ranges.fill is None:
        return 0
    return np.asarray(ranges.fill).astype(ranges.dtype)[()]


def _describe(documents: dict[str, bytes], key: str, ranges: Ranges) -> None:
    """Write what zarr-python does not write by itself: numcodecs' filters, no fill value."""
    held = json.loads(documents[key])
    codecs = list(ranges.codecs)
    last = codecs.pop() if len(codecs) == 1 and codecs[0]["id"] != "shuffle" else None
    held |= {"compressor": last, "filters": codecs or None, "order": "C"}
    if ranges.fill is None:
        held["fill_value"] = None
    documents[key] = json.dumps(held).encode()


async def _documents(memory: MemoryStore) -> dict[str, bytes]:
    found = {}
    async for key in memory.list():
        value = await memory.get(key, default_buffer_prototype())
        if value is not None:
            found[key] = value.to_bytes()
    return found
