"""The index of one HDF5 dataset: where its chunks lie in the file, and how they are encoded."""

from __future__ import annotations

import collections
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bigspec.errors import SourceError
from bigspec.sources.checks import check_dtype
from bigspec.sources.hdf5_parts import check_filters
from bigspec.sources.hdf5_pipeline import Filter, Pipeline
from bigspec.sources.ranges import Ranges

if TYPE_CHECKING:
    import h5py

__all__ = ["pieces_of", "ranges_of"]

PIECE = 1 << 20
"""The most bytes of a contiguous dataset that are read at once."""
DEFLATE, SHUFFLE, FLETCHER = 1, 2, 3
BLOSC, ZSTD, BZIP2 = 32001, 32015, 307


def ranges_of(dataset: h5py.Dataset, name: str) -> Ranges:
    """Index an open dataset of numbers: one walk over its chunks, and none over entries.

    Parameters
    ----------
    dataset : h5py.Dataset
    name : str
        Its name in messages.

    Raises
    ------
    SourceError
        Entries lie in other files.
    ChunkError
        A filter is missing in this process.
    UnsupportedTypeError
        The entries are not numbers.
    """
    import h5py

    dtype = check_dtype(np.dtype(dataset.dtype), name)
    plist = dataset.id.get_create_plist()
    layout = plist.get_layout()
    if layout == h5py.h5d.VIRTUAL or dataset.external:
        kind = "a virtual dataset" if layout == h5py.h5d.VIRTUAL else "a dataset in raw files"
        msg = (
            f"{name}: expected entries in the file itself, got {kind}, whose entries lie in other "
            "files; point at one of these, or copy all of them to a disk"
        )
        raise SourceError(msg)
    fill = _fill(dataset, plist)
    standard = bool(dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype, logical=True)))
    if layout == h5py.h5d.CHUNKED:
        return _chunked(dataset, plist, dtype, fill, name, standard=standard)
    if not standard:
        msg = (
            f"{name}: expected numbers of a usual type, got one that only HDF5 converts, in a "
            "dataset without chunks; copy the file to a disk"
        )
        raise SourceError(msg)
    shape = tuple(map(int, dataset.shape))
    if layout == h5py.h5d.COMPACT:
        entries = np.ascontiguousarray(dataset[()]).astype(dtype, copy=False).tobytes()
        where = np.zeros(1, np.int64), np.array([len(entries)], np.int64)
        return Ranges(shape, shape, dtype, fill, (), *where, inline=entries)
    return _contiguous(dataset, shape, dtype, fill)


def pieces_of(
    shape: tuple[int, ...], itemsize: int
) -> tuple[tuple[int, ...], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Cut a contiguous array into ranges: some of one dimension, all of those behind it.

    Returns
    -------
    steps, starts, lengths
        Extents of a piece; for each piece the byte it begins at, and how many it has.
    """
    steps = _steps(shape, itemsize)
    dim = next((d for d, step in enumerate(steps) if step > 1), len(shape) - 1)
    inner = math.prod(shape[dim + 1 :]) * itemsize
    first = np.arange(0, shape[dim], steps[dim], dtype=np.int64)
    length = np.minimum(shape[dim] - first, steps[dim]) * inner
    before = np.arange(math.prod(shape[:dim]), dtype=np.int64)[:, None] * (shape[dim] * inner)
    lengths = np.broadcast_to(length, (before.size, length.size)).ravel()
    return steps, (before + first * inner).ravel(), lengths


def _steps(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    for dim, extent in enumerate(shape):
        inner = max(1, math.prod(shape[dim + 1 :]) * itemsize)
        if inner <= PIECE:
            return (1,) * dim + (max(1, min(extent, PIECE // inner)), *shape[dim + 1 :])
    return (1,) * len(shape)


def _contiguous(
    dataset: h5py.Dataset, shape: tuple[int, ...], dtype: np.dtype[Any], fill: Any
) -> Ranges:
    steps, starts, lengths = pieces_of(shape, dtype.itemsize)
    offset = dataset.id.get_offset()
    if offset is None:  # nothing was ever written
        lengths = np.zeros_like(lengths)
    return Ranges(shape, steps, dtype, fill, (), starts + (offset or 0), lengths)


def _chunked(
    dataset: h5py.Dataset, plist: Any, dtype: np.dtype[Any], fill: Any, name: str, *, standard: bool
) -> Ranges:
    shape, chunks = tuple(map(int, dataset.shape)), tuple(map(int, dataset.chunks))
    grid = tuple(-(-n // step) for n, step in zip(shape, chunks, strict=True))
    starts, lengths, masks = _walk(dataset, grid, chunks)
    count = plist.get_nfilters()
    filters: tuple[Filter, ...] = tuple(plist.get_filter(k)[:3] for k in range(count))
    # Where most chunks were stored without a filter, that is how the array is encoded.
    usual = collections.Counter(masks.values()).most_common(1)
    stored = int(np.count_nonzero(lengths))
    mask = usual[0][0] if usual and usual[0][1] > stored - len(masks) else 0
    codecs = [_codec(held) for k, held in enumerate(filters) if not mask >> k & 1]
    known = [codec for codec in codecs if codec is not None]
    _refuse_blind(shape, chunks, codecs, name)
    if not standard or len(known) < len(codecs):
        mask, known, dtype = 0, [], dtype.newbyteorder("=")
        whole, odd = True, masks
    else:
        plain = set(np.flatnonzero(lengths).tolist()) - set(masks) if mask else set()
        odd = {k: held for k, held in masks.items() if held != mask} | dict.fromkeys(plain, 0)
        whole = False
    pipeline = None
    if whole or odd:
        check_filters(dataset, name)
        pipeline = Pipeline.of(dataset, filters, fill)
    return Ranges(
        shape, chunks, dtype, fill, tuple(known), starts, lengths, odd, pipeline, whole=whole
    )


def _refuse_blind(
    shape: tuple[int, ...], chunks: tuple[int, ...], codecs: list[Any], name: str
) -> None:
    """Refuse chunks at the edge if nothing says whether they were shuffled.

    HDF5 has an option not to filter them. The decoder of every other filter would notice.
    """
    edges = any(n % step for n, step in zip(shape, chunks, strict=True))
    if edges and codecs and all(codec and codec["id"] == "shuffle" for codec in codecs):
        msg = (
            f"{name}: expected a compressed or a plain dataset, got one that is only shuffled: "
            "HDF5 may have left its chunks at the edge unshuffled; copy the file to a disk"
        )
        raise SourceError(msg)


def _walk(
    dataset: h5py.Dataset, grid: tuple[int, ...], chunks: tuple[int, ...]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], dict[int, int]]:
    """Return offsets, lengths and masks other than 0; one call visits all chunks."""
    total = math.prod(grid)
    starts, lengths = np.zeros(total, np.int64), np.zeros(total, np.int64)
    masks: dict[int, int] = {}
    strides = [math.prod(grid[d + 1 :]) for d in range(len(grid))]
    both = tuple(zip(chunks, strides, strict=True))

    def note(found: Any) -> None:
        offset = found.chunk_offset
        number = sum(
            place // step * stride for place, (step, stride) in zip(offset, both, strict=True)
        )
        starts[number], lengths[number] = found.byte_offset, found.size
        if found.filter_mask:
            masks[number] = found.filter_mask

    if total:
        dataset.id.chunk_iter(note)
    return starts, lengths, masks


def _codec(held: Filter) -> dict[str, Any] | None:
    """Return numcodecs' configuration of a filter; None for one that only HDF5 has."""
    number, _, values = held
    if number == DEFLATE:
        return {"id": "zlib", "level": int(values[0]) if values else 1}
    if number == SHUFFLE and values:
        return {"id": "shuffle", "elementsize": int(values[0])}
    if number == FLETCHER:
        return {"id": "fletcher32"}
    plain: dict[int, dict[str, Any]] = {
        BLOSC: {"id": "blosc", "cname": "lz4", "clevel": 1, "shuffle": 1, "blocksize": 0},
        ZSTD: {"id": "zstd", "level": 1},
        BZIP2: {"id": "bz2", "level": 1},
    }
    return plain.get(number)


def _fill(dataset: h5py.Dataset, plist: Any) -> Any:
    """Return the fill value; None if nothing says what unwritten entries are."""
    import h5py

    undefined = plist.fill_value_defined() == h5py.h5d.FILL_VALUE_UNDEFINED
    if undefined or plist.get_fill_time() == h5py.h5d.FILL_TIME_NEVER:
        return None
    return dataset.fillvalue
