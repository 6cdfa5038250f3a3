"""The first slab: planning reads it, and the first pass uses it without a second read."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from bigspec.kernels.buffers import Buffers

__all__ = ["FirstSlab"]

Rectangle = tuple[slice, slice]


class FirstSlab:
    """A slab that waits for the first pass and is dropped after it.

    Algorithms cut slabs of different heights, so a dense slab is also given out in parts. It never
    leaves the process: a pass that runs in another process reads for itself.

    Parameters
    ----------
    rectangle : tuple of slice, optional
        Rows and columns of the block; None if no slab waits.
    block : Block
    buffers : Buffers
        Of the thread that read it, which is this one.
    """

    def __init__(
        self, rectangle: Rectangle | None = None, block: Any = None, buffers: Buffers | None = None
    ) -> None:
        self.rectangle, self._block, self._lock = rectangle, block, threading.Lock()
        self._left = 0 if rectangle is None else _size(rectangle)
        # The counts are copied now, because another thread does not see them.
        read = buffers or Buffers()
        self._counts = read.retries, read.chunks, read.missing_chunks

    def holds(self, rectangle: Rectangle) -> bool:
        """Whether this rectangle waits, or can be cut from the one that waits."""
        if self.rectangle is None or rectangle == self.rectangle:
            return self.rectangle is not None
        pairs = zip(rectangle, self.rectangle, strict=True)
        inside = all(own.start <= one.start and one.stop <= own.stop for one, own in pairs)
        return inside and isinstance(self._block, np.ndarray)

    def take(self, rectangle: Rectangle, buffers: Buffers) -> Any:
        """Return the block of a rectangle, once; None if it does not wait.

        The first call adds the retries and chunks of the whole read to `buffers`.
        """
        if self.rectangle is None:
            return None
        with self._lock:
            if not self.holds(rectangle):
                return None
            retries, chunks, missing = self._counts
            buffers.retries += retries
            buffers.chunks += chunks
            buffers.missing_chunks += missing
            self._counts, block = (0, 0, 0), self._block
            if rectangle != self.rectangle:
                pairs = zip(rectangle, self.rectangle, strict=True)
                place = tuple(
                    slice(one.start - own.start, one.stop - own.start) for one, own in pairs
                )
                block = np.ascontiguousarray(block[place])
            self._left -= _size(rectangle)
            if self._left <= 0:
                self.rectangle = self._block = None
            return block

    def drop(self) -> None:
        """Drop the rest of the slab, at the end of a pass."""
        with self._lock:
            self.rectangle = self._block = None

    def __reduce__(self) -> tuple[type[FirstSlab], tuple[()]]:
        return (FirstSlab, ())


def _size(rectangle: Rectangle) -> int:
    rows, columns = rectangle
    return int(rows.stop - rows.start) * int(columns.stop - columns.start)
