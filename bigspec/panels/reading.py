"""The loop that reads every panel: slabs, tiles, bytes, tokens, retries, chunks, the time limit.

A panel comes from a store, tile by tile, or as the chunks of a dask array, which other tasks
computed. The code that multiplies sees no difference.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

import numpy as np

from bigspec.errors import DataError, NonFiniteError
from bigspec.kernels import NonFiniteFound
from bigspec.kernels.tokens import block_token
from bigspec.panels.chunks import checked_chunk
from bigspec.panels.context import Context

__all__ = ["Chunks", "Cost", "Reader", "Slab", "non_finite", "size_of"]

Array = np.ndarray[Any, Any]
Chunks = Sequence[Sequence[Any]]
"""Chunks of a panel, ``chunks[i][j]`` in the order of the array's rows and columns."""


class Cost(TypedDict):
    """The cost of a panel, by the field names of a `Partial`."""

    bytes_read: int
    seconds_reading: float
    seconds_multiplying: float
    retries: int
    chunks: int
    missing_chunks: int


@dataclass(frozen=True)
class Slab:
    """A range that a task reads at once: ``start <= k < stop`` on the axis that panels divide.

    Attributes
    ----------
    start, stop : int
    tiles : callable
        Each call reads the slab: it yields ``(offset along the iterate, block as stored)``. A
        block is valid until the next one.
    """

    start: int
    stop: int
    tiles: Callable[[], Iterator[tuple[int, Any]]]

    @property
    def height(self) -> int:
        """Rows of the slab in S."""
        return self.stop - self.start


class Reader:
    """Reads one panel and counts the cost.

    Parameters
    ----------
    context : Context
    index : int
        Number of the panel.
    chunks : sequence of sequences, optional
        The chunks of the panel, if other tasks have computed them.

    Attributes
    ----------
    index : int
    token : int
        Token of all blocks so far, in the order of reading.
    bytes_read : int
    """

    def __init__(self, context: Context, index: int, chunks: Chunks | None = None) -> None:
        self.context, self.index, self.chunks = context, index, chunks
        self.token, self.bytes_read, self._reading = 0, 0, 0.0
        self._retries, self._started = context.buffers.retries, time.perf_counter()
        self._chunks, self._missing, self._slabs = 0, 0, set[tuple[int, int]]()

    def slabs(self) -> Iterator[Slab]:
        """Yield the slabs of the panel in their order."""
        layout = self.context.layout
        panel = layout.panel(self.index)
        if self.chunks is None:
            cuts = list(layout.slabs(panel))
            for number, cut in enumerate(cuts, start=1):
                after = cuts[number] if layout.ahead and number < len(cuts) else None
                yield Slab(*cut, partial(self._stored, cut, after))
            return
        rows = layout.orientation == "rows"
        slabs = self.chunks if rows else list(zip(*self.chunks, strict=True))
        for number, chunks in enumerate(slabs, start=panel.first):
            cut = layout.along.cut(number), layout.along.cut(number + 1)
            yield Slab(*cut, partial(self._computed, number, chunks))

    def _stored(
        self, slab: tuple[int, int], after: tuple[int, int] | None
    ) -> Iterator[tuple[int, Any]]:
        context, layout, buffers = self.context, self.context.layout, self.context.buffers
        fresh = slab not in self._slabs  # a pass may read a slab twice, but counts its chunks once
        self._slabs.add(slab)
        for tile in layout.tiles():
            context.limit.check()
            chunks, missing = buffers.chunks, buffers.missing_chunks
            before = time.perf_counter()
            rectangle = layout.rectangle(slab, tile)
            block = context.first.take(rectangle, buffers)
            if block is None:
                block = context.matrix.read(*rectangle, buffers)
            if after is not None:
                self._ask(after)
            self._reading += time.perf_counter() - before
            self._chunks += fresh * (buffers.chunks - chunks)
            self._missing += fresh * (buffers.missing_chunks - missing)
            self._count(block)
            yield tile[0], block

    def _ask(self, slab: tuple[int, int]) -> None:
        """Request the next slab, which travels while this one is multiplied."""
        context, whole = self.context, (0, self.context.layout.iterate_length)
        rectangle = context.layout.rectangle(slab, whole)
        if not context.first.holds(rectangle):
            context.matrix.ahead(*rectangle, context.buffers)

    def _computed(self, along: int, chunks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        rows = self.context.layout.orientation == "rows"
        for number, chunk in enumerate(chunks):
            self.context.limit.check()
            before = time.perf_counter()
            place = (along, number) if rows else (number, along)
            block = checked_chunk(chunk, self.context.matrix, place)
            self._reading += time.perf_counter() - before
            self._count(block)
            yield self.context.layout.across.cut(number), block

    def _count(self, block: Any) -> None:
        self.bytes_read += size_of(block)
        self.token = block_token(block, self.token)

    @property
    def tokens(self) -> Array:
        """The token, as an array that can be joined with those of other panels."""
        return np.array([self.token], np.uint32)

    def cost(self) -> Cost:
        """Return the cost of the panel so far."""
        seconds = time.perf_counter() - self._started
        return {
            "bytes_read": self.bytes_read,
            "seconds_reading": self._reading,
            "seconds_multiplying": seconds - self._reading,
            "retries": self.context.buffers.retries - self._retries,
            "chunks": self._chunks,
            "missing_chunks": self._missing,
        }


def size_of(block: Any) -> int:
    """Return the bytes of a block that was read."""
    if hasattr(block, "indptr"):
        return int(block.data.nbytes + block.indices.nbytes + block.indptr.nbytes)
    return int(block.nbytes)


def non_finite(
    context: Context, slab: Slab, found: NonFiniteFound, index: int
) -> NonFiniteError | DataError:
    """Build the error that names the entry, its chunk and its panel."""
    row, column = found.args
    matrix = context.matrix
    if (row, column) == (-1, -1):
        return DataError(
            f"{matrix.name}: products overflowed in panel {index} although all its entries are "
            "finite now: the matrix changed while it was being read. Run again on a stable copy."
        )
    if context.layout.orientation == "rows":
        row += slab.start
    else:
        column += slab.start
    return NonFiniteError(
        f"{matrix.name}: expected finite entries, got a NaN or infinity first at "
        f"[{row}, {column}], in {matrix.chunk_at(row, column)}, panel {index}. "
        "Fix or mask the data: no norm exists."
    )
