"""Decompressing one chunk into memory of a known size, and refusing any other size.

The numcodecs functions accept a destination that is too large and leave its end as it was;
headers are therefore compared with the size that the array's metadata gives first, which also
keeps a corrupted header from steering a read or a write.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numcodecs
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DECODERS", "DamagedChunk"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_BLOSC, _LZ4, _ZSTD = numcodecs.Blosc(), numcodecs.LZ4(), numcodecs.Zstd()
_BLOSC_HEADER = 16
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class DamagedChunk(ValueError):  # noqa: N818 - never leaves this package: a ChunkError does
    """What is stored is not an encoding of one whole chunk."""


def _expect(found: int, expected: int) -> None:
    if found != expected:
        msg = f"it decodes to {found} bytes, {expected} expected"
        raise DamagedChunk(msg)


def _blosc(encoded: Bytes, out: Bytes) -> None:
    if encoded.nbytes < _BLOSC_HEADER:
        msg = f"{encoded.nbytes} bytes stored, fewer than a Blosc header has"
        raise DamagedChunk(msg)
    # Blosc 1 header: 4 bytes of versions and flags, then decoded, block and encoded sizes.
    decoded, _block, stored = np.frombuffer(encoded[4:_BLOSC_HEADER].tobytes(), "<u4").tolist()
    _expect(decoded, out.nbytes)
    if not _BLOSC_HEADER <= stored <= encoded.nbytes:
        msg = f"{encoded.nbytes} bytes stored, {stored} expected by the Blosc header"
        raise DamagedChunk(msg)
    _BLOSC.decode(encoded[:stored], out=out)


def _lz4(encoded: Bytes, out: Bytes) -> None:
    if encoded.nbytes < 4:
        msg = f"{encoded.nbytes} bytes stored, fewer than an LZ4 header has"
        raise DamagedChunk(msg)
    _expect(int.from_bytes(encoded[:4].tobytes(), "little"), out.nbytes)
    _LZ4.decode(encoded, out=out)


def _zstd(encoded: Bytes, out: Bytes) -> None:
    declared = _zstd_content_size(encoded[:18].tobytes())
    if declared == out.nbytes:
        _ZSTD.decode(encoded, out=out)
        return
    if declared is not None and declared > out.nbytes:
        _expect(declared, out.nbytes)  # before memory of that size is asked for
    # Streaming writers leave the size out, and the first of several frames has only its own.
    decoded = np.frombuffer(_ZSTD.decode(encoded), np.uint8)
    _expect(decoded.nbytes, out.nbytes)
    out[:] = decoded


def _zstd_content_size(header: bytes) -> int | None:
    """Return the decoded size that a zstd frame header declares (RFC 8878, 3.1.1.1)."""
    if len(header) < 6 or header[:4] != _ZSTD_MAGIC:
        return None
    descriptor = header[4]
    flag, single_segment, dictionary = descriptor >> 6, descriptor >> 5 & 1, descriptor & 3
    if flag == 0 and not single_segment:
        return None
    start = 5 + (1 - single_segment) + (0, 1, 2, 4)[dictionary]
    size = int.from_bytes(header[start : start + (1, 2, 4, 8)[flag]], "little")
    return size + 256 if flag == 1 else size


def _zlib(encoded: Bytes, out: Bytes) -> None:
    _inflate(encoded, out, zlib.MAX_WBITS)


def _gzip(encoded: Bytes, out: Bytes) -> None:
    _inflate(encoded, out, zlib.MAX_WBITS + 16)


def _inflate(encoded: Bytes, out: Bytes, window: int) -> None:
    """Inflate one zlib stream, or the members of a gzip file, never past the expected size."""
    rest = encoded.tobytes()
    filled = 0
    while True:
        stream = zlib.decompressobj(window)
        piece = stream.decompress(rest, out.nbytes - filled + 1)
        if filled + len(piece) > out.nbytes:
            msg = f"it decodes to more than the {out.nbytes} bytes expected"
            raise DamagedChunk(msg)
        out[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
        filled += len(piece)
        if not stream.eof:
            msg = "the compressed data ends early"
            raise DamagedChunk(msg)
        # A gzip file may hold further members, and zeros as padding.
        rest = stream.unused_data.lstrip(b"\0")
        if window == zlib.MAX_WBITS or not rest:
            break
    _expect(filled, out.nbytes)


DECODERS: dict[str, Callable[[Bytes, Bytes], None]] = {
    "blosc": _blosc,
    "gzip": _gzip,
    "lz4": _lz4,
    "zlib": _zlib,
    "zstd": _zstd,
}
"""Decoder of each compressor that can work without zarr: ``decode(encoded, out)``."""
