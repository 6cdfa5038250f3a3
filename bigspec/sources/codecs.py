"""The codecs of a Zarr array that may run, and none beyond the size in its metadata.

Metadata may come from strangers. It may name a codec that runs code (numcodecs' pickle), and a
chunk of some kilobytes may decode to gigabytes. So names are checked before the first byte is
read, and compressors are replaced by `bigspec.sources.decoders`, which fill memory of that size.
"""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numcodecs.abc import Codec
from numcodecs.compat import ensure_contiguous_ndarray
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import ShardingCodec

from bigspec.errors import SourceError
from bigspec.sources.decoders import FILLERS, DamagedChunk, lzma_filler

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer

__all__ = ["capped", "check_codecs", "zarr_scratch"]

COMPRESSORS = {*FILLERS, "lzma"}
CHECKSUMS = {"adler32", "crc32", "crc32c", "fletcher32", "jenkins_lookup3"}
FILTERS = {
    "astype", "bitround", "delta", "fixedscaleoffset", "packbits", "quantize", "shuffle",
}  # fmt: skip
ALLOWED = COMPRESSORS | CHECKSUMS | FILTERS
ZARR_3 = {"bytes", "transpose", "cast_value", "scale_offset"}
WIDEST = 16
"""Most bytes of an element behind a filter: those of complex128."""
SPARE = 1 << 16


def check_codecs(array: zarr.Array[Any], name: str) -> None:
    """Refuse an array with a codec that may do more than decode numbers.

    Raises
    ------
    SourceError
        Names the codec.
    """
    for codec in _names(array):
        if codec not in ALLOWED | ZARR_3:
            msg = (
                f"{name}: expected codecs that decode numbers ({', '.join(sorted(ALLOWED))}), got "
                f"{codec[:40]!a}, which is not run; write the array again, with blosc or zstd"
            )
            raise SourceError(msg)


def _names(array: zarr.Array[Any]) -> list[str]:
    metadata: Any = array.metadata
    if metadata.zarr_format == 2:
        codecs = [*(metadata.filters or ()), metadata.compressor]
        return [str(codec.codec_id) for codec in codecs if codec is not None]
    return [name for codec in metadata.codecs for name in _names_v3(codec)]


def _names_v3(codec: Any) -> list[str]:
    if isinstance(codec, ShardingCodec):
        return [name for inner in (*codec.codecs, *codec.index_codecs) for name in _names_v3(inner)]
    return [_name(codec)]


def _name(codec: Any) -> str:
    return str(codec.to_dict()["name"]).removeprefix("numcodecs.")


def capped(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return the same array, with compressors that fail beyond the size in its metadata."""
    metadata: Any = copy.copy(array.metadata)
    if metadata.zarr_format == 2:
        elements = math.prod(metadata.chunks)
        size = elements * int(array.dtype.itemsize)
        filtered = bool(metadata.filters)
        most = elements * WIDEST + SPARE if filtered else size
        filters = tuple(_capped_v2(step, most, False) for step in metadata.filters or ())
        object.__setattr__(
            metadata, "compressor", _capped_v2(metadata.compressor, most, not filtered)
        )
        object.__setattr__(metadata, "filters", filters or metadata.filters)
    else:
        object.__setattr__(metadata, "codecs", _capped_v3(metadata.codecs))
    inner = array.async_array
    return zarr.Array(type(inner)(metadata, inner.store_path, inner.config))


def _capped_v2(codec: Any, most: int, exact: bool) -> Any:
    if codec is None or codec.codec_id not in COMPRESSORS:
        return codec
    return CappedNumcodec(codec, most, exact)


def _capped_v3(codecs: Any) -> tuple[Any, ...]:
    chain: list[Any] = []
    exact = all(_name(codec) not in FILTERS for codec in codecs)
    for codec in codecs:
        if isinstance(codec, ShardingCodec):
            chain.append(
                ShardingCodec(
                    chunk_shape=codec.chunk_shape,
                    codecs=_capped_v3(codec.codecs),
                    index_codecs=codec.index_codecs,
                    index_location=codec.index_location,
                )
            )
        elif _name(codec) in COMPRESSORS:
            chain.append(CappedCodec(codec, exact))
            exact = False  # the size between two compressors is not declared
        else:
            exact = exact and _name(codec) not in CHECKSUMS  # these add bytes of their own
            chain.append(codec)
    return tuple(chain)


def _decode(codec: Any, encoded: Any, most: int, exact: bool) -> np.ndarray[Any, Any]:
    """Decode to exactly `most` bytes, or to no more than that."""
    name = getattr(codec, "codec_id", None) or _name(codec)
    if name == "lzma":
        inner = getattr(codec, "_codec", codec)
        fill: Callable[[Any, Any], int] = lzma_filler(inner.format, inner.filters)
    else:
        fill = FILLERS[name]
    raw = np.frombuffer(encoded, np.uint8)
    out = np.empty(most, np.uint8)
    filled = fill(raw, out)
    if exact and filled != most:
        msg = f"it decodes to {filled} bytes, {most} expected"
        raise DamagedChunk(msg)
    return out[:filled]


class CappedNumcodec(Codec):  # type: ignore[misc]
    """A numcodecs compressor that decodes to `most` bytes (or fewer, unless `exact`)."""

    def __init__(self, inner: Any, most: int, exact: bool) -> None:
        self.inner, self.most, self.exact = inner, most, exact
        self.codec_id = inner.codec_id

    def encode(self, buf: Any) -> Any:
        """Encode as the compressor does."""
        return self.inner.encode(buf)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Decode, never beyond the limit."""
        return _decode(self.inner, ensure_contiguous_ndarray(buf), self.most, self.exact)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the compressor."""
        return dict(self.inner.get_config())


@dataclass(frozen=True)
class CappedCodec(BytesBytesCodec):
    """A compressor of Zarr 3, decoded to the bytes of a chunk (some more, unless `exact`)."""

    inner: Any
    exact: bool
    is_fixed_size = False

    def to_dict(self) -> dict[str, Any]:
        """Return the codec as in the metadata."""
        return dict(self.inner.to_dict())

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        elements = math.prod(chunk_spec.shape)
        itemsize = int(chunk_spec.dtype.to_native_dtype().itemsize)
        most = elements * itemsize if self.exact else elements * WIDEST + SPARE
        decoded = _decode(self.inner, chunk_bytes.as_numpy_array(), most, self.exact)
        return chunk_spec.prototype.buffer.from_array_like(decoded)

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Unknown."""
        raise NotImplementedError


def zarr_scratch(array: zarr.Array[Any], chunks: int) -> int:
    """Return the bytes of zarr's encoded, decoded and filtered copies of so many chunks."""
    at_once = min(int(zarr.config.get("async.concurrency") or 10), chunks)
    chunk = math.prod(array.shards or array.chunks) * int(array.dtype.itemsize)
    return at_once * (2 + len(array.filters or ())) * chunk
