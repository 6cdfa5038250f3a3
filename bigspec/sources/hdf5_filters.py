"""Deflated chunks of HDF5, measured before the library unpacks them.

The library's own filter takes all the memory that a chunk unpacks to, even if the dataset declares
less. 2 MB of packed zeros unpack to 2 GB.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

from bigspec.sources.decoders import DamagedChunk

__all__ = ["check_chunks"]

DEFLATE = 1
DEFLATED = 1032
"""Most bytes that one byte of a deflated chunk can unpack to."""
HARMLESS = 64 << 20
"""A chunk is measured only if it could unpack to this many bytes more than declared."""
SPARE = 1 << 16
PIECE = 1 << 20


def check_chunks(dataset: Any, selection: tuple[slice, ...], checked: set[tuple[int, ...]]) -> None:
    """Refuse a chunk in the selection that unpacks to more than the dataset declares.

    Parameters
    ----------
    dataset : h5py.Dataset
    selection : tuple of slice
    checked : set
        Offsets of measured chunks, so that a process measures each once.

    Raises
    ------
    DamagedChunk
        A chunk unpacks to more; the message names its offset.
    """
    chunks = getattr(dataset, "chunks", None)
    if not chunks or dataset.compression is None:
        return
    declared = math.prod(chunks) * int(dataset.dtype.itemsize)
    filters = dataset.id.get_create_plist()
    codes = {filters.get_filter(k)[0] for k in range(filters.get_nfilters())}
    for cut in dataset.iter_chunks(selection):
        offset = tuple(s.start // step * step for s, step in zip(cut, chunks, strict=True))
        if offset in checked:
            continue
        found = dataset.id.get_chunk_info_by_coord(offset)
        size = int(found.size or 0)
        if size > 2 * declared + SPARE:
            msg = f"{size} bytes stored at {offset} for {declared}, which no filter writes"
            raise DamagedChunk(msg)
        if DEFLATE in codes and size * DEFLATED > declared + HARMLESS:
            _measure(dataset.id.read_direct_chunk(offset)[1], declared + SPARE, offset)
        checked.add(offset)


def _measure(packed: bytes, most: int, offset: tuple[int, ...]) -> None:
    stream, length, rest = zlib.decompressobj(), 0, packed
    while rest and not stream.eof:
        try:
            length += len(stream.decompress(rest, PIECE))
        except zlib.error:
            return  # not deflated, or damaged: the library raises the error
        if length > most:
            msg = f"what is stored at {offset} unpacks to more than the dataset declares"
            raise DamagedChunk(msg)
        rest = stream.unconsumed_tail
