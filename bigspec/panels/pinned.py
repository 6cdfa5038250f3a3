"""Panels that stay in memory, decoded, from one pass of a run to the next.

The layout says which (`Layout.pins`). A pinned panel is read once, as any other, and its slabs are
copied as the layout cuts them. Later passes multiply the copies: with the same bits, and without a
look at the store. On a cluster the copies lie on workers; see `bigspec.passes.pins`.
"""

from __future__ import annotations

import threading
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bigspec.kernels.sums import SumBlock
from bigspec.panels.layout import Layout

__all__ = ["Pinned", "PinnedPanel", "copied"]


@dataclass(frozen=True, eq=False)
class PinnedPanel:
    """The slabs of one panel, and what the pass that takes them counts.

    Attributes
    ----------
    slabs : tuple of Block
        In the order of `Layout.slabs`.
    token : int
        Token of all of them.
    nbytes : int
    chunks, missing_chunks : int
        Those of the read. They count in every pass, or the message about missing chunks would go.
    bytes_read, bytes_pinned : int
        Bytes that came from the source in this pass, and from memory.
    seconds_reading : float
    retries : int
    """

    slabs: tuple[Any, ...]
    token: int
    nbytes: int
    chunks: int
    missing_chunks: int
    bytes_read: int
    seconds_reading: float
    retries: int
    bytes_pinned: int = 0

    def again(self) -> PinnedPanel:
        """Return the panel as later passes take it: nothing of it is read."""
        return replace(self, bytes_read=0, bytes_pinned=self.nbytes, seconds_reading=0.0, retries=0)


class Pinned:
    """The pinned panels of one run in this process. It never leaves the process.

    Parameters
    ----------
    layout : Layout, optional
        Without it nothing is pinned.
    """

    def __init__(self, layout: Layout | None = None) -> None:
        self._layout = layout
        self._most = 0 if layout is None else layout.memory.pinned
        self._panels: dict[int, PinnedPanel] = {}
        self._refused: set[int] = set()  # no room: their copies would be made in vain
        self._nbytes = 0
        self._lock = threading.Lock()

    @property
    def indices(self) -> frozenset[int]:
        """The panels that need not be read."""
        with self._lock:
            return frozenset(self._panels)

    def get(self, index: int) -> PinnedPanel | None:
        """Return a panel, if it is here."""
        return self._panels.get(index)

    def wants(self, index: int) -> bool:
        """Whether a panel that is read now is to stay."""
        room = self._nbytes < self._most and index not in self._refused
        return room and self._layout is not None and self._layout.pins(index)

    def keep(self, index: int, panel: PinnedPanel) -> None:
        """Keep a panel that was read whole, unless it has turned out too large."""
        with self._lock:
            if self._nbytes + panel.nbytes > self._most:
                self._refused.add(index)
            elif index not in self._panels:
                self._panels[index] = panel.again()
                self._nbytes += panel.nbytes

    def make_room(self, held: int) -> None:
        """Drop as many panels as the limit asks for, beside `held` bytes of a basis."""
        if self._layout is None or not self._most:
            return
        memory = self._layout.memory
        with self._lock:
            self._most = max(0, min(self._most, memory.spare - held))
            while self._panels and self._nbytes > self._most:
                index, panel = self._panels.popitem()
                self._refused.add(index)
                self._nbytes -= panel.nbytes

    def drop(self) -> None:
        """Drop all panels; none is kept after it."""
        with self._lock:
            self._most = self._nbytes = 0
            self._panels.clear()

    def __reduce__(self) -> tuple[type[Pinned], tuple[()]]:
        return (Pinned, ())


def copied(block: Any) -> Any:
    """Return a block of the same layout in memory of its own: a reader uses its memory again."""
    if isinstance(block, SumBlock):
        parts = tuple(replace(one, block=copied(one.block)) for one in block.blocks)
        return replace(block, blocks=parts)
    if isinstance(block, np.ndarray):
        return block.copy(order="K")
    kept = copy(block)  # a sparse one; its own copy() checks all indices
    kept.data, kept.indices, kept.indptr = (
        part.copy() for part in (block.data, block.indices, block.indptr)
    )
    return kept
