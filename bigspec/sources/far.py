"""Plain arrays far away: chunks are decoded when they come, straight into reused memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bigspec.sources import retries
from bigspec.sources.direct import Range
from bigspec.sources.fetching import Fetch, chunk_keys
from bigspec.sources.missing_chunks import Unsettled, check_length

if TYPE_CHECKING:
    from collections.abc import Callable

    from bigspec.kernels.buffers import Buffers
    from bigspec.sources.array_handle import ArrayHandle
    from bigspec.sources.direct import DirectArray

__all__ = ["FarArray"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FarArray:
    """How to read an array through its store, without zarr's own decoding.

    Attributes
    ----------
    plan : DirectArray
        Decodes a chunk.
    handle : ArrayHandle
        Requests chunks, and decides about missing ones.
    """

    plan: DirectArray
    handle: ArrayHandle

    def read(
        self, rows: slice, columns: slice, buffers: Buffers, one: Callable[[int, int], Array]
    ) -> Array:
        """Read a rectangle of whole chunks into `buffers`.

        Parameters
        ----------
        rows, columns : slice
        buffers : Buffers
        one : callable
            Reads chunk ``(i, j)`` alone, with retries, if it failed among the others; its error
            names the chunk. So one failure does not repeat them all.
        """
        target = _Rectangle(self.plan, rows, columns, buffers)
        return self._read((rows, columns), target, buffers, one)

    def read_range(
        self, start: int, stop: int, buffers: Buffers, scratch: str, one: Callable[[int], Array]
    ) -> Array:
        """Read a range of an array of one axis into the buffer called `scratch`; see `read`."""
        target = _Range(self.plan, start, stop, buffers, scratch)
        return self._read(slice(start, stop), target, buffers, one)

    def _read(
        self,
        selection: Any,
        target: _Rectangle | _Range,
        buffers: Buffers,
        one: Callable[..., Array],
    ) -> Array:
        array = self.handle.open(buffers)
        keys = chunk_keys(array, selection)
        fetch = self.handle.fetch(selection, buffers)
        if fetch is None:
            fetch = Fetch(array.store._store, list(keys))  # type: ignore[attr-defined]
        there: dict[str, bool] = {}
        again: list[str] = []
        try:
            for key, value in fetch:
                if value is None:
                    there[key] = False
                elif self._decoded(value, keys[key], target, buffers):
                    there[key] = True
                else:
                    again.append(key)
        finally:
            fetch.cancel()
        missing = [key for key, found in there.items() if not found]
        try:
            self.handle.settle(there, buffers)
        except Unsettled:
            again += missing
            buffers.retries += 1
            self.handle.settle({key: True for key, found in there.items() if found}, buffers)
        else:
            for key in missing:
                target.fill(keys[key])
        for key in sorted(again, key=keys.__getitem__):
            target.put(keys[key], one(*keys[key]))
        return target.block

    def _decoded(
        self,
        value: Any,
        place: tuple[int, ...],
        target: _Rectangle | _Range,
        buffers: Buffers,
    ) -> bool:
        """Decode the bytes of a chunk; False if it must be read again, alone."""
        if isinstance(value, Exception):
            buffers.retries += retries.is_transient(value)
            return False
        stored = np.frombuffer(value.as_numpy_array(), np.uint8)
        try:
            check_length(stored.nbytes)
            target.decode(stored, place)
        except Exception:  # noqa: BLE001, RUF100 - the read of it alone names the error
            return False
        return True


class _Rectangle:
    """The memory for the decoded chunks of a rectangle."""

    def __init__(self, plan: DirectArray, rows: slice, columns: slice, buffers: Buffers) -> None:
        self.plan, self.buffers = plan, buffers
        (tall, wide), height, width = (
            plan.chunk,
            rows.stop - rows.start,
            columns.stop - columns.start,
        )
        self.first = rows.start // tall, columns.start // wide
        # Chunks of full width are one contiguous array, with the store's padding at ragged edges.
        self.whole = width <= wide
        extent = (-(-height // tall) * tall, wide) if self.whole else (height, width)
        self._all = buffers.take("source.block", extent, plan.dtype)
        self.block = self._all[:height, :width]

    def _part(self, place: tuple[int, ...], memory: Array) -> Array:
        tall, wide = self.plan.chunk
        top, left = (place[0] - self.first[0]) * tall, (place[1] - self.first[1]) * wide
        return memory[top : top + tall, left : left + wide]

    def decode(self, stored: Array, place: tuple[int, ...]) -> None:
        """Decode a chunk into its place."""
        part = self._part(place, self._all)
        if self.whole:
            self.plan.decode(stored, part)
            return
        scratch = self.buffers.take("source.chunk", self.plan.chunk, self.plan.dtype)
        self.plan.decode(stored, scratch)
        part[...] = scratch[: part.shape[0], : part.shape[1]]

    def fill(self, place: tuple[int, ...]) -> None:
        """Fill a chunk that does not exist."""
        self._part(place, self._all)[...] = self.plan.fill

    def put(self, place: tuple[int, ...], entries: Array) -> None:
        """Copy the entries of a chunk that was read alone."""
        self._part(place, self.block)[...] = entries


class _Range(Range):
    """The same for a range of an array of one axis."""

    def decode(self, stored: Array, place: tuple[int, ...]) -> None:
        """Decode a chunk into its place."""
        with self.chunk(place[0]) as part:
            self.plan.decode(stored, part)

    def fill(self, place: tuple[int, ...]) -> None:
        """Fill a chunk that does not exist."""
        with self.chunk(place[0]) as part:
            part[...] = self.plan.fill

    def put(self, place: tuple[int, ...], entries: Array) -> None:
        """Copy the entries of a chunk that was read alone."""
        self.take(place[0], entries)
