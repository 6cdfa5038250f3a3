"""A Zarr store whose chunks are ranges of one file behind a URL.

The index of the ranges is made once, and travels with the array to the processes that read it.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numcodecs
import numpy as np
from zarr.abc.store import Store

from bigspec.errors import ChunkError, MissingSourceError, SourceError
from bigspec.sources.decoders import DamagedChunk
from bigspec.sources.fetching import part_of
from bigspec.sources.hdf5_pipeline import Pipeline

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from bigspec.sources.file_bytes import RemoteContent

__all__ = ["RangeStore", "Ranges"]

EVERY = 1.0
"""Seconds after which a read asks again whether the file is the same."""
SPARE = 1 << 16
"""A chunk may take twice the bytes of its entries, and this many more."""


@dataclass(frozen=True)
class Ranges:
    """Where the chunks of an array lie in a file, and what zarr is told of their encoding.

    Attributes
    ----------
    shape, chunks : tuple of int
    dtype : numpy.dtype
        Of what zarr decodes.
    fill : object
        Value of a chunk that is not there; None for no value.
    codecs : tuple of dict
        numcodecs' configurations, in the order in which they encoded.
    starts, lengths : numpy.ndarray
        Of every chunk, in C order; a length of 0 means that it is not there.
    masks : dict
        By the number of a chunk, the filters that it was stored without, if they differ from those
        of most chunks.
    pipeline : Pipeline or None
        Decodes what numcodecs cannot: all chunks if `whole`, and else those in `masks`.
    whole : bool
    inline : bytes
        The entries, where HDF5 keeps them in the header of the dataset.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: Any
    codecs: tuple[dict[str, Any], ...]
    starts: np.ndarray[Any, np.dtype[np.int64]] = field(repr=False)
    lengths: np.ndarray[Any, np.dtype[np.int64]] = field(repr=False)
    masks: dict[int, int] = field(default_factory=dict, repr=False)
    pipeline: Pipeline | None = field(default=None, repr=False)
    whole: bool = False
    inline: bytes = field(default=b"", repr=False)

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of chunks along each dimension."""
        return tuple(-(-n // step) for n, step in zip(self.shape, self.chunks, strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes of a decoded chunk."""
        return math.prod(self.chunks) * self.dtype.itemsize

    @property
    def end(self) -> int:
        """The byte of the file behind all chunks."""
        return 0 if self.inline else int((self.starts + self.lengths).max(initial=0))

    @property
    def digest(self) -> str:
        """A hash of the index."""
        held = hashlib.sha256(repr((self.shape, self.chunks, self.dtype.str)).encode())
        for part in (self.starts, self.lengths):
            held.update(np.ascontiguousarray(part, "<i8").data)
        held.update(self.inline)
        return held.hexdigest()[:32]

    def number(self, key: str) -> int:
        """Return the number of a chunk by its key, such as ``3.0``; -1 if it is none."""
        parts = key.split(".")
        if len(parts) != len(self.grid) or not all(part.isdecimal() for part in parts):
            return -1
        places = tuple(map(int, parts))
        if any(place >= count for place, count in zip(places, self.grid, strict=True)):
            return -1
        return int(np.ravel_multi_index(places, self.grid))

    def completed(self, stored: bytes, number: int) -> bytes:
        """Return a chunk as zarr expects it: encoded by `codecs`, and padded at the edge."""
        if self.pipeline is not None and (self.whole or number in self.masks):
            made = self.pipeline.decode(stored, self.masks.get(number, 0))
            value: Any = np.ascontiguousarray(made, self.dtype).tobytes()
            for config in self.codecs:
                value = numcodecs.get_codec(_quick(config)).encode(value)
            return bytes(value)
        if not self.codecs and len(stored) < self.nbytes:
            return stored + bytes(self.nbytes - len(stored))
        return stored


def _quick(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration that encodes in no time: what it makes is decoded at once."""
    return config | {"level": 0} if config["id"] == "zlib" else config


class RangeStore(Store):
    """Documents of Zarr 2 in memory, chunks in a file behind a URL; for reading.

    Parameters
    ----------
    content : RemoteContent
    place : str
        URL of the file, without secrets.
    documents : dict
        Metadata documents by their keys.
    arrays : dict
        `Ranges` by the path of their array.
    """

    def __init__(
        self,
        content: RemoteContent,
        place: str,
        documents: dict[str, bytes],
        arrays: dict[str, Ranges],
    ) -> None:
        super().__init__(read_only=True)
        self.content, self.place = content, place
        self.documents, self.arrays = documents, arrays
        self.evidence = content.evidence
        self._is_open = True
        self._asked, self._problem = time.monotonic(), ""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_asked": 0.0}

    @property
    def _store(self) -> Store:
        """The store that the file lies in, as zarr's wrappers call it."""
        return self.content.store

    def __str__(self) -> str:
        return f"{self.place}::"

    def __repr__(self) -> str:
        return f"RangeStore({self.place!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeStore) and (
            (self.place, self.evidence, self.documents)
            == (other.place, other.evidence, other.documents)
        )

    __hash__ = None  # type: ignore[assignment]

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return a document, or a chunk.

        Raises
        ------
        MissingSourceError, SourceError
            The file went away, or is another one now.
        """
        if (held := self.documents.get(key)) is not None:
            if key.endswith(".zarray"):
                await self._check()
            return part_of(prototype.buffer.from_bytes(held), byte_range)
        path, _, last = key.rpartition("/")
        ranges = self.arrays.get(path)
        number = -1 if ranges is None else ranges.number(last)
        if ranges is None or number < 0 or not ranges.lengths[number]:
            return None
        value, _ = await asyncio.gather(self._chunk(ranges, number), self._check())
        return part_of(prototype.buffer.from_bytes(value), byte_range)

    async def _chunk(self, ranges: Ranges, number: int) -> bytes:
        start, length = int(ranges.starts[number]), int(ranges.lengths[number])
        if length > 2 * ranges.nbytes + SPARE:
            msg = f"{length} bytes stored for {ranges.nbytes}, which no filter writes"
            raise DamagedChunk(msg)
        if ranges.inline:
            stored = ranges.inline
        else:
            try:
                stored = await self.content.fetch(start, length)
            except FileNotFoundError as error:
                msg = f"{self.content.name}: it went away while it was read"
                raise MissingSourceError(msg) from error
        if len(stored) != length:
            await self._check(now=True)
            msg = (
                f"{self.content.name}: expected {length} bytes at byte {start}, got {len(stored)}; "
                "the file is cut short, or its server sends no ranges: copy it to a disk"
            )
            raise ChunkError(msg)
        if ranges.pipeline is None:
            return ranges.completed(stored, number)
        return await asyncio.to_thread(ranges.completed, stored, number)

    async def _check(self, *, now: bool = False) -> None:
        """Ask, once a second, whether the file is the one that was indexed."""
        if not self._problem and (now or time.monotonic() - self._asked > EVERY):
            self._asked = time.monotonic()
            try:
                evidence = await self.content.asked_again()
            except FileNotFoundError:
                msg = f"{self.content.name}: it went away while it was read"
                raise MissingSourceError(msg) from None
            except BaseException:
                self._asked = 0.0
                raise
            if evidence != self.evidence:
                self._problem = (
                    f"{self.content.name}: it was written again since it was opened; run again "
                    "when nothing writes to it"
                )
        if self._problem:
            raise SourceError(self._problem)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return parts of several values."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def exists(self, key: str) -> bool:
        """Whether a key has a value, by the index."""
        path, _, last = key.rpartition("/")
        ranges = self.arrays.get(path)
        number = -1 if ranges is None else ranges.number(last)
        return key in self.documents or (
            ranges is not None and number >= 0 and bool(ranges.lengths[number])
        )

    supports_writes = False
    supports_deletes = False
    supports_partial_writes = False
    supports_listing = False

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse."""
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        """Refuse."""
        raise NotImplementedError

    async def list(self) -> AsyncIterator[str]:
        """Yield the keys of the documents."""
        for key in self.documents:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield those with this prefix."""
        for key in self.documents:
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names directly below a place."""
        below = f"{prefix.strip('/')}/".lstrip("/")
        names = {
            key.removeprefix(below).partition("/")[0]
            for key in self.documents
            if key.startswith(below)
        }
        for name in sorted(names):
            yield name
