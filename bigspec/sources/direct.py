"""The fast path: chunks of a plain local Zarr array are decoded straight into reused memory.

zarr-python decodes every chunk into fresh memory, which the kernel clears page by page. Its one
event-loop thread then copies it into place. Here the calling thread reads the chunk's file and
decodes it in place.
"""

from __future__ import annotations

import math
import os
import stat
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numcodecs.checksum32 import CRC32C

from bigspec.errors import MissingSourceError
from bigspec.sources import retries
from bigspec.sources.decoders import DECODERS, DamagedChunk
from bigspec.sources.missing_chunks import Missing, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import zarr

    from bigspec.kernels.buffers import Buffers

__all__ = ["DirectArray", "Range", "plan_direct"]


MOST_EXTRA = 1 << 16
"""An encoded chunk may take twice the bytes of a decoded one, and this many more."""


@dataclass(frozen=True)
class DirectArray:
    """Where the chunks of a local array lie, and how they are encoded; it pickles small.

    Attributes
    ----------
    name : str
        Name of the matrix in messages.
    folder, document : str
        Directory of the array and path of its metadata document.
    chunk : tuple of int
        Chunk shape, of one or two axes.
    dtype : numpy.dtype
        Type of the entries, in native byte order.
    fill : numpy.generic
        The value of a missing chunk's entries.
    prefix, separator : str
        A chunk's key is the prefix and the numbers of the chunk, joined by the separator.
    compressor : str or None
        A name in `DECODERS`, or None for stored bytes.
    checksum : bool
        Whether four bytes of CRC32C follow.
    missing : Missing
        Rule for a chunk that does not exist.
    """

    name: str
    folder: str
    document: str
    chunk: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: Any
    prefix: str
    separator: str
    compressor: str | None
    checksum: bool
    missing: Missing

    @property
    def scratch_nbytes(self) -> int:
        """Bytes besides the result: a decoded chunk (or padding), and an encoded one."""
        chunk = math.prod(self.chunk) * self.dtype.itemsize
        return chunk if self.compressor is None else 2 * chunk

    def key(self, *place: int) -> str:
        """Return the key of a chunk by its number along each axis, relative to the array."""
        parts = [str(number) for number in place]
        return self.separator.join([self.prefix, *parts] if self.prefix else parts)

    def decode(self, stored: np.ndarray[Any, Any], target: np.ndarray[Any, Any]) -> None:
        """Decode a chunk's stored bytes into `target`, a C-contiguous array of one chunk."""
        out = target.reshape(-1).view(np.uint8)
        payload = stored.nbytes - 4 * self.checksum
        if payload < 0:
            msg = f"{stored.nbytes} bytes stored, fewer than a checksum has"
            raise DamagedChunk(msg)
        encoded = stored[:payload]
        if self.checksum:
            _compare(encoded, stored[payload:].tobytes())
        if self.compressor is not None:
            DECODERS[self.compressor](encoded, out)
        elif payload != out.nbytes:
            msg = f"{stored.nbytes} bytes stored, {out.nbytes + 4 * self.checksum} expected"
            raise DamagedChunk(msg)
        else:
            out[...] = encoded

    def read(self, rows: slice, columns: slice, buffers: Buffers) -> np.ndarray[Any, Any]:
        """Read a rectangle of whole chunks into `buffers`."""
        height, width = rows.stop - rows.start, columns.stop - columns.start
        tall, wide = self.chunk
        i0, j0 = rows.start // tall, columns.start // wide
        down, across = -(-height // tall), -(-width // wide)
        if across == 1:
            # Chunks of full width, one under the other, are one contiguous array. They are
            # decoded in place with the store's padding, and the part inside is returned.
            block = buffers.take("source.block", (down * tall, wide), self.dtype)
            for i in range(down):
                part = block[i * tall : (i + 1) * tall]
                if not self._load((i0 + i, j0), part, buffers):
                    part[...] = self.fill
            return block[:height, :width]
        block = buffers.take("source.block", (height, width), self.dtype)
        scratch = buffers.take("source.chunk", self.chunk, self.dtype)
        for i in range(down):
            for j in range(across):
                part = block[i * tall : (i + 1) * tall, j * wide : (j + 1) * wide]
                if self._load((i0 + i, j0 + j), scratch, buffers):
                    part[...] = scratch[: part.shape[0], : part.shape[1]]
                else:
                    part[...] = self.fill
        return block

    def read_range(
        self, start: int, stop: int, buffers: Buffers, scratch: str
    ) -> np.ndarray[Any, Any]:
        """Read a range of an array of one axis into the buffer called `scratch`."""
        target = Range(self, start, stop, buffers, scratch)
        for number in target.chunks:
            with target.chunk(number) as part:
                if not self._load((number,), part, buffers):
                    part[...] = self.fill
        return target.block

    def _load(self, place: tuple[int, ...], target: np.ndarray[Any, Any], buffers: Buffers) -> bool:
        """Fill `target`, a C-contiguous array of one chunk, with retries and named errors.

        Return False, and leave `target` as it is, where there is no such chunk.
        """
        key = self.key(*place)
        path = f"{self.folder}{os.sep}{key}"  # a Path costs as much as the rest of a small chunk
        try:
            found = retries.with_retries(lambda: self._decode(path, target, buffers), buffers)
        except Exception as error:
            raise retries.named_failure(error, self.name, key) from error
        if not found:
            if not os.path.exists(self.document):  # noqa: PTH110 - as above
                # The whole array is out of sight, so zeros would be wrong.
                msg = (
                    f"{self.name}: this process does not see {self.document}; every worker must "
                    "reach the same path, and it must stay while the run lasts"
                )
                raise MissingSourceError(msg)
            if self.missing.refused:
                raise refusal(self.name, key, self.missing.why)
        buffers.chunks += 1
        buffers.missing_chunks += not found
        return found

    def _decode(self, path: str, target: np.ndarray[Any, Any], buffers: Buffers) -> bool:
        """Decode a chunk's file into `target`; return False if there is no such file."""
        try:
            file = os.open(path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            status = os.fstat(file)
            if stat.S_ISDIR(status.st_mode):
                return False
            self._decode_file(file, status.st_size, target, buffers)
        finally:
            os.close(file)
        return True

    def _decode_file(
        self, file: int, size: int, target: np.ndarray[Any, Any], buffers: Buffers
    ) -> None:
        out = target.reshape(-1).view(np.uint8)
        payload = size - 4 * self.checksum
        if self.compressor is None:
            if payload != out.nbytes:
                msg = f"{size} bytes stored, {out.nbytes + 4 * self.checksum} expected"
                raise DamagedChunk(msg)
            encoded = out
        elif payload > 2 * out.nbytes + MOST_EXTRA:
            msg = f"{size} bytes stored for {out.nbytes}, which no compressor writes"
            raise DamagedChunk(msg)
        else:
            encoded = buffers.take("source.encoded", (max(payload, 0),), np.uint8)
        _fill(file, encoded)
        if self.checksum:
            _verify(file, encoded)
        if self.compressor is not None:
            DECODERS[self.compressor](encoded, out)


class Range:
    """The memory for a range of an array of one axis: `block`.

    A chunk inside of it is decoded in place. One that the range cuts, or that the array's end does,
    goes through scratch memory.

    Parameters
    ----------
    plan : DirectArray
    start, stop : int
    buffers : Buffers
    scratch : str
        Name of the buffer.
    """

    def __init__(
        self, plan: DirectArray, start: int, stop: int, buffers: Buffers, scratch: str
    ) -> None:
        self.plan, self.start, self.stop, self.buffers = plan, start, stop, buffers
        self.block = buffers.take(scratch, (stop - start,), plan.dtype)
        (step,) = plan.chunk
        self.chunks = range(start // step, -(-stop // step))

    @contextmanager
    def chunk(self, number: int) -> Iterator[np.ndarray[Any, Any]]:
        """Give memory for a whole chunk, and take what the range has of it."""
        (step,) = self.plan.chunk
        first = number * step
        if self.start <= first and first + step <= self.stop:
            yield self.block[first - self.start :][:step]
            return
        whole = self.buffers.take("source.chunk", (step,), self.plan.dtype)
        yield whole
        self.take(number, whole)

    def take(self, number: int, entries: np.ndarray[Any, Any]) -> None:
        """Copy what the range has of a chunk, whose entries end where the array does."""
        first = number * self.plan.chunk[0]
        start, stop = max(self.start, first), min(self.stop, first + len(entries))
        self.block[start - self.start : stop - self.start] = entries[start - first : stop - first]


def _fill(file: int, target: np.ndarray[Any, Any]) -> None:
    count = os.readv(file, [target])  # type: ignore[list-item]
    view = memoryview(target)[count:]  # type: ignore[arg-type]
    while view:
        count = os.readv(file, [view])
        if not count:
            msg = f"the file ended {len(view)} bytes early"
            raise DamagedChunk(msg)
        view = view[count:]


def _verify(file: int, payload: np.ndarray[Any, Any]) -> None:
    stored = np.empty(4, np.uint8)
    _fill(file, stored)
    _compare(payload, stored.tobytes())


def _compare(payload: np.ndarray[Any, Any], stored: bytes) -> None:
    found = int(CRC32C.checksum(payload))
    expected = int.from_bytes(stored, "little")
    if found != expected:
        msg = f"CRC32C checksum is {found:#010x}, {expected:#010x} expected"
        raise DamagedChunk(msg)


def plan_direct(
    array: zarr.Array[Any], name: str, document: Path | None, missing: Missing
) -> DirectArray | None:
    """Return how to decode an array without zarr, or None if only zarr can.

    Parameters
    ----------
    array : zarr.Array
        Of one or two axes, and of an accepted dtype.
    name : str
        Its name in messages.
    document : Path or None
        Its metadata document, if that is a local file; without it only `decode` works.
    missing : Missing
    """
    if not array.dtype.isnative:
        return None
    layout = array.metadata.to_dict()
    plan = _plan_v3(layout) if array.metadata.zarr_format == 3 else _plan_v2(layout)
    if plan is None:
        return None
    prefix, separator, compressor, checksum = plan
    dtype = np.dtype(array.dtype)
    fill = dtype.type(0) if array.fill_value is None else array.fill_value
    chunk = tuple(int(step) for step in array.chunks)
    return DirectArray(
        name,
        "" if document is None else str(document.parent),
        "" if document is None else str(document),
        chunk,
        dtype,
        fill,
        prefix,
        separator,
        compressor,
        checksum,
        missing,
    )


_Plan = tuple[str, str, str | None, bool]


def _plan_v2(layout: dict[str, Any]) -> _Plan | None:
    if layout.get("order") != "C" or layout.get("filters"):
        return None
    compressor = layout.get("compressor")
    codec = None if compressor is None else compressor["id"]
    if codec is not None and codec not in DECODERS:
        return None
    return "", layout["dimension_separator"], codec, False


def _plan_v3(layout: dict[str, Any]) -> _Plan | None:
    encoding = layout["chunk_key_encoding"]
    prefix = {"default": "c", "v2": ""}.get(encoding["name"])
    codecs = [codec["name"].removeprefix("numcodecs.") for codec in layout["codecs"]]
    if prefix is None or layout.get("storage_transformers") or codecs[:1] != ["bytes"]:
        return None
    endian = (layout["codecs"][0].get("configuration") or {}).get("endian")
    # None is for types of one byte.
    if endian is not None and endian != sys.byteorder:
        return None
    # A checksum covers the whole file only if it is the last codec.
    checksum = layout["codecs"][-1]["name"] == "crc32c"
    compressors = codecs[1:-1] if checksum else codecs[1:]
    if len(compressors) > 1 or any(codec not in DECODERS for codec in compressors):
        return None
    compressor = compressors[0] if compressors else None
    return prefix, encoding["configuration"]["separator"], compressor, checksum
