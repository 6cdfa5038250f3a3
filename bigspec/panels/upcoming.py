"""Panels that are asked for before their tasks begin, where a matrix comes over a network.

The tasks of a process are as many as its cores: more of them would only share the caches. So the
link is kept full by asking for the panels that come next, whichever task takes them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from bigspec.kernels.buffers import Buffers
from bigspec.matrices import Matrix
from bigspec.panels.first import FirstSlab
from bigspec.panels.layout import Layout
from bigspec.panels.pinned import Pinned

__all__ = ["Upcoming"]


class Upcoming:
    """The next panels of a pass in one process: at most `Layout.panels_ahead` on their way.

    Of each panel its first slab is asked for; its task asks for the others.

    Parameters
    ----------
    matrix : Matrix
    layout : Layout
    first : FirstSlab
        What is read already.
    panels : iterable of int
        In the order in which they will probably be read; in another order they only come later.
    pinned : Pinned, optional
        Panels that are not read.
    """

    def __init__(
        self,
        matrix: Matrix,
        layout: Layout,
        first: FirstSlab,
        panels: Iterable[int],
        pinned: Pinned | None = None,
    ) -> None:
        self._matrix, self._layout, self._first = matrix, layout, first
        self._waiting = iter(panels)
        self._asked: dict[int, dict[Any, Any]] = {}
        self._begun: set[int] = set()
        self._here = frozenset[int]() if pinned is None else pinned.indices
        self._lock = threading.Lock()
        self._closed = False

    def begin(self, index: int, buffers: Buffers) -> None:
        """Hand what was asked for a panel to the thread that reads it, and ask for the next.

        Of a panel that nobody has asked for, such as the first, the slab is asked for before those
        of later panels. Behind them on the link, its thread would wait for most of the pass.
        """
        with self._lock:
            self._begun.add(index)
            asked = self._asked.pop(index, None)
            if asked is None and not self._closed and index not in self._here:
                asked = self._ask(index)
            buffers.ahead.update(asked or {})
            while not self._closed and len(self._asked) < self._layout.panels_ahead:
                panel = next(self._waiting, None)
                if panel is None:
                    break
                if panel not in self._begun and panel not in self._here:
                    self._asked[panel] = self._ask(panel)

    def _ask(self, index: int) -> dict[Any, Any]:
        layout, buffers = self._layout, Buffers()
        slab = next(layout.slabs(layout.panel(index)))
        rectangle = layout.rectangle(slab, (0, layout.iterate_length))
        if not self._first.holds(rectangle):
            self._matrix.ahead(*rectangle, buffers)
        return buffers.ahead

    def cancel(self) -> None:
        """End what is on its way; nothing is asked for after it."""
        with self._lock:
            self._closed = True
            asked, self._asked = self._asked, {}
        for ahead in asked.values():
            for fetch in ahead.values():
                fetch.cancel()
