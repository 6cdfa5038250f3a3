"""How one chunk is decoded into memory of a known size; any other size is refused.

The functions of numcodecs accept a destination that is too large, and leave its end unchanged. So
each header is first compared with the size in the array's metadata. That also keeps a corrupted
header from steering a read or a write.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numcodecs
import numpy as np
from numcodecs import blosc, lz4, zstd

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DECODERS", "FILLERS", "DamagedChunk", "lzma_filler"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_BLOSC, _LZ4, _ZSTD = numcodecs.Blosc(), numcodecs.LZ4(), numcodecs.Zstd()
SMALL = 1 << 20
"""Up to this many bytes the functions behind these classes are called directly: the classes take
longer to check their arguments than to decode a small chunk."""
_BLOSC_HEADER = 16
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPED = 0x184D2A50
_ZSTD_BLOCK = 128 << 10
FAR = 16 << 20
"""A zstd frame without a size may decode to twice the expected bytes, and this many more."""
DICTIONARY_BYTES = 256 << 20
"""The largest dictionary of lzma; numcodecs' highest preset takes a quarter of it."""


class DamagedChunk(ValueError):  # noqa: N818 - never leaves this package: a ChunkError does
    """The stored bytes are not an encoding of one whole chunk."""


def _expect(found: int, expected: int) -> None:
    if found != expected:
        msg = f"it decodes to {found} bytes, {expected} expected"
        raise DamagedChunk(msg)


def _fit(found: int, out: Bytes) -> int:
    if found > out.nbytes:
        _expect(found, out.nbytes)
    return found


def _decoded(codec: Any, plain: Callable[..., Any], encoded: Bytes, out: Bytes) -> None:
    if encoded.nbytes <= SMALL and out.nbytes <= SMALL:
        plain(encoded, out)
    else:
        codec.decode(encoded, out=out)


def _blosc(encoded: Bytes, out: Bytes) -> int:
    if encoded.nbytes < _BLOSC_HEADER:
        msg = f"{encoded.nbytes} bytes stored, fewer than a Blosc header has"
        raise DamagedChunk(msg)
    # Blosc 1 header: 4 bytes of versions and flags, then decoded, block and encoded sizes.
    decoded, _block, stored = np.frombuffer(encoded[4:_BLOSC_HEADER].tobytes(), "<u4").tolist()
    _fit(decoded, out)
    if not _BLOSC_HEADER <= stored <= encoded.nbytes:
        msg = f"{encoded.nbytes} bytes stored, {stored} expected by the Blosc header"
        raise DamagedChunk(msg)
    if decoded:  # c-blosc would call an empty chunk damaged
        _decoded(_BLOSC, blosc.decompress, encoded[:stored], out[:decoded])
    return int(decoded)


def _lz4(encoded: Bytes, out: Bytes) -> int:
    if encoded.nbytes < 4:
        msg = f"{encoded.nbytes} bytes stored, fewer than an LZ4 header has"
        raise DamagedChunk(msg)
    size = _fit(int.from_bytes(encoded[:4].tobytes(), "little"), out)
    if size:
        _decoded(_LZ4, lz4.decompress, encoded, out[:size])
    return size


def _zstd(encoded: Bytes, out: Bytes) -> int:
    if (
        encoded.nbytes <= SMALL
        and _zstd_content_size(encoded[:18].tobytes()) == out.nbytes <= SMALL
    ):
        # Nearly all small chunks end here. libzstd stays within both; errors get names below.
        with suppress(RuntimeError, ValueError):
            zstd.decompress(encoded, out)
            return out.nbytes
    filled, at = 0, 0
    raw = encoded.tobytes()
    while at < len(raw) or not raw:
        frame = _zstd_frame(raw, at)
        if frame is None:
            msg = f"there is no whole zstd frame at byte {at}"
            raise DamagedChunk(msg)
        if frame.size is not None:
            size = _fit(filled + frame.size, out) - filled
            if size:
                place = out[filled : filled + size]
                _decoded(_ZSTD, zstd.decompress, encoded[at : frame.stop], place)
        else:
            size = _zstd_unsized(encoded[at:], frame, out[filled:])
        filled, at = filled + size, frame.stop
    return filled


def _zstd_unsized(encoded: Bytes, frame: _Frame, out: Bytes) -> int:
    """Decode a frame of a streaming writer, which does not state its size.

    libzstd would decode the whole frame, of any length. If its blocks may be long, it gets a
    header with the size of `out`, and stops there.
    """
    raw = encoded[: frame.length].tobytes()
    if frame.most > 2 * out.nbytes + FAR:
        _ZSTD.decode(_sized(raw, out.nbytes), out=out)
        return out.nbytes
    decoded = np.frombuffer(_ZSTD.decode(raw), np.uint8)
    size = _fit(decoded.nbytes, out)
    out[:size] = decoded
    return size


@dataclass(frozen=True)
class _Frame:
    """A zstd frame: its length, its end, its decoded size (or None), and a bound on that size."""

    length: int
    stop: int
    size: int | None
    most: int


def _zstd_frame(raw: bytes, at: int) -> _Frame | None:
    """Walk over the blocks of a frame (RFC 8878, 3.1.1); None if there is no whole frame."""
    magic = int.from_bytes(raw[at : at + 4], "little")
    if magic & 0xFFFFFFF0 == _ZSTD_SKIPPED and len(raw) >= at + 8:
        stop = at + 8 + int.from_bytes(raw[at + 4 : at + 8], "little")
        return _Frame(stop - at, stop, 0, 0) if stop <= len(raw) else None
    if len(raw) < at + 6 or raw[at : at + 4] != _ZSTD_MAGIC:
        return None
    begin = at + 5 + _zstd_fields(raw[at + 4])[0]
    place, most, last = begin, 0, False
    while not last:
        head = int.from_bytes(raw[place : place + 3], "little")
        last, kind, size = bool(head & 1), head >> 1 & 3, head >> 3
        place += 3 + (1 if kind == 1 else size)
        most += _ZSTD_BLOCK if kind == 2 else size
        if kind == 3 or place > len(raw):
            return None
    stop = place + 4 * (raw[at + 4] >> 2 & 1)
    if stop > len(raw):
        return None
    return _Frame(stop - at, stop, _zstd_content_size(raw[at : at + 18]), most)


def _zstd_fields(descriptor: int) -> tuple[int, int]:
    """Return the bytes between descriptor and blocks, and how many of them hold the size."""
    flag, single_segment, dictionary = descriptor >> 6, descriptor >> 5 & 1, descriptor & 3
    size = single_segment if flag == 0 else 1 << flag
    return (1 - single_segment) + (0, 1, 2, 4)[dictionary] + size, size


def _sized(frame: bytes, size: int) -> bytes:
    """Return a frame whose header has its decoded size."""
    descriptor = frame[4]
    length, width = _zstd_fields(descriptor)
    if width:
        return frame
    head = bytes([descriptor | 0b11000000]) + frame[5 : 5 + length] + size.to_bytes(8, "little")
    return frame[:4] + head + frame[5 + length :]


def _zstd_content_size(header: bytes) -> int | None:
    """Return the decoded size that a zstd frame header declares (RFC 8878, 3.1.1.1)."""
    if len(header) < 6 or header[:4] != _ZSTD_MAGIC:
        return None
    length, width = _zstd_fields(header[4])
    if width == 0:
        return None
    size = int.from_bytes(header[5 + length - width : 5 + length], "little")
    return size + 256 if width == 2 else size


def _zlib(encoded: Bytes, out: Bytes) -> int:
    # Bytes behind the stream are ignored, as zlib.decompress ignores them.
    return _stream(lambda: zlib.decompressobj(zlib.MAX_WBITS), encoded, out, members=False)


def _gzip(encoded: Bytes, out: Bytes) -> int:
    return _stream(lambda: zlib.decompressobj(zlib.MAX_WBITS + 16), encoded, out)


def _bz2(encoded: Bytes, out: Bytes) -> int:
    return _stream(bz2.BZ2Decompressor, encoded, out)


def _stream(start: Callable[[], Any], encoded: Bytes, out: Bytes, *, members: bool = True) -> int:
    """Decode one stream, or several with zeros as padding, never past the end of `out`."""
    rest, filled = encoded.tobytes(), 0
    while True:
        stream = start()
        # One byte more than fits shows a stream that is too long; 0 would mean no limit.
        part = stream.decompress(rest, out.nbytes - filled + 1)
        if filled + len(part) > out.nbytes:
            msg = f"it decodes to more than the {out.nbytes} bytes expected"
            raise DamagedChunk(msg)
        out[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
        filled += len(part)
        if not stream.eof:
            msg = "the compressed data ends early"
            raise DamagedChunk(msg)
        rest = stream.unused_data.lstrip(b"\0")
        if not members or not rest:
            return filled


def lzma_filler(
    format_: int, filters: list[dict[str, Any]] | None
) -> Callable[[Bytes, Bytes], int]:
    """Return a filler for numcodecs' LZMA, with a dictionary of at most 256 MiB."""
    limit = None if format_ == lzma.FORMAT_RAW else DICTIONARY_BYTES
    if any(int(step.get("dict_size", 0)) > DICTIONARY_BYTES for step in filters or ()):
        msg = f"its dictionary is larger than {DICTIONARY_BYTES} bytes"
        raise DamagedChunk(msg)

    def start() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(format=format_, memlimit=limit, filters=filters)

    return lambda encoded, out: _stream(start, encoded, out)


FILLERS: dict[str, Callable[[Bytes, Bytes], int]] = {
    "blosc": _blosc,
    "bz2": _bz2,
    "gzip": _gzip,
    "lz4": _lz4,
    "zlib": _zlib,
    "zstd": _zstd,
}
"""``fill(encoded, out)`` decodes into `out`, and returns how much of it was filled."""


def _exactly(fill: Callable[[Bytes, Bytes], int]) -> Callable[[Bytes, Bytes], None]:
    def decode(encoded: Bytes, out: Bytes) -> None:
        _expect(fill(encoded, out), out.nbytes)

    return decode


DECODERS = {name: _exactly(FILLERS[name]) for name in ("blosc", "gzip", "lz4", "zlib", "zstd")}
"""Compressors that work without zarr: ``decode(encoded, out)`` fills `out`."""
