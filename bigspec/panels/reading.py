"""The loop that reads every panel: slabs, tiles, bytes, tokens, retries, chunks, the time limit.

A panel comes from a store, tile by tile, or as the chunks of a dask array, which other tasks
computed, or from memory, where an earlier pass left it. The code that multiplies sees no
difference.
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
from bigspec.panels.pinned import PinnedPanel, copied

__all__ = ["Chunks", "Cost", "Reader", "Slab", "non_finite", "read_panel", "size_of"]

Array = np.ndarray[Any, Any]
Chunks = Sequence[Sequence[Any]] | PinnedPanel
"""Chunks of a panel, ``chunks[i][j]`` in the order of the array's rows and columns; or slabs."""


class Cost(TypedDict):
    """The cost of a panel, by the field names of a `Partial`."""

    bytes_read: int
    seconds_reading: float
    seconds_multiplying: float
    retries: int
    chunks: int
    missing_chunks: int
    bytes_pinned: int


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
    chunks : sequence of sequences or PinnedPanel, optional
        The chunks of the panel, if other tasks have computed them, or its slabs.
    keep : bool
        Whether the caller asks for the panel afterwards, to pin it.

    Attributes
    ----------
    index : int
    token : int
        Token of all blocks so far, in the order of reading.
    bytes_read : int
    """

    def __init__(
        self, context: Context, index: int, chunks: Chunks | None = None, *, keep: bool = False
    ) -> None:
        self.context, self.index = context, index
        self.token, self.bytes_read, self._reading = 0, 0, 0.0
        self._retries, self._started = context.buffers.retries, time.perf_counter()
        self._chunks, self._missing, self._slabs = 0, 0, set[tuple[int, int]]()
        pinned = chunks if isinstance(chunks, PinnedPanel) else context.pinned.get(index)
        self.pinned: PinnedPanel | None = pinned
        self.chunks = None if isinstance(chunks, PinnedPanel) else chunks
        stays = keep or context.pinned.wants(index)
        self._copies: list[Any] | None = [] if stays and pinned is None else None

    def slabs(self) -> Iterator[Slab]:
        """Yield the slabs of the panel in their order."""
        layout = self.context.layout
        panel = layout.panel(self.index)
        if self.pinned is not None:
            for cut, block in zip(layout.slabs(panel), self.pinned.slabs, strict=True):
                yield Slab(*cut, partial(self._from_memory, block))
            return
        if self.chunks is None:
            cuts = list(layout.slabs(panel))
            for number, cut in enumerate(cuts, start=1):
                after = cuts[number] if layout.ahead and number < len(cuts) else None
                yield Slab(*cut, partial(self._stored, cut, after))
            if self._copies is not None:  # all slabs, or none: a pass that fails leaves no part
                self.context.pinned.keep(self.index, self.panel())
            return
        rows = layout.orientation == "rows"
        slabs = self.chunks if rows else list(zip(*self.chunks, strict=True))
        for number, chunks in enumerate(slabs, start=panel.first):
            cut = layout.along.cut(number), layout.along.cut(number + 1)
            yield Slab(*cut, partial(self._computed, number, chunks))

    def panel(self) -> PinnedPanel:
        """Return the slabs that were read, if they were to be kept."""
        assert self._copies is not None
        cost = self.cost()
        return PinnedPanel(
            tuple(self._copies),
            self.token,
            self.bytes_read,
            cost["chunks"],
            cost["missing_chunks"],
            self.bytes_read,
            cost["seconds_reading"],
            cost["retries"],
        )

    def _from_memory(self, block: Any) -> Iterator[tuple[int, Any]]:
        self.context.limit.check()
        yield self.context.layout.across.cut(0), block

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
            own = rectangle == context.first.rectangle  # then nobody else has its memory
            block = context.first.take(rectangle, buffers)
            if block is None:
                block, own = context.matrix.read(*rectangle, buffers), False
            if after is not None:
                self._ask(after)
            if self._copies is not None and fresh:
                block = block if own else copied(block)
                self._copies.append(block)
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
        token = self.token if self.pinned is None else self.pinned.token
        return np.array([token], np.uint32)

    def cost(self) -> Cost:
        """Return the cost of the panel so far."""
        seconds, pinned = time.perf_counter() - self._started, self.pinned
        if pinned is not None:
            return {
                "bytes_read": pinned.bytes_read,
                "seconds_reading": pinned.seconds_reading,
                "seconds_multiplying": seconds,
                "retries": pinned.retries,
                "chunks": pinned.chunks,
                "missing_chunks": pinned.missing_chunks,
                "bytes_pinned": pinned.bytes_pinned,
            }
        return {
            "bytes_read": self.bytes_read,
            "seconds_reading": self._reading,
            "seconds_multiplying": seconds - self._reading,
            "retries": self.context.buffers.retries - self._retries,
            "chunks": self._chunks,
            "missing_chunks": self._missing,
            "bytes_pinned": 0,
        }


def read_panel(context: Context, index: int) -> PinnedPanel:
    """Read one panel and multiply nothing: what a task returns that pins it."""
    try:
        reader = Reader(context, index, keep=True)
        for slab in reader.slabs():
            for _ in slab.tiles():
                pass
        return reader.panel()
    finally:
        context.buffers.drop_ahead()


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
