"""The pinned panels of a run on a cluster: results of tasks, each on one worker.

A pinned panel is an ordinary result, so that Dask counts it as managed memory, and the future of it
lives as long as the run. Its task and the tasks that multiply it may run on one worker only, where
the scheduler neither steals nor moves them. With that worker the panel is lost for good: a cluster
that loses workers has no spare memory, and a task bound to a dead worker waits for ever. So the
holder is asked now and then which workers are there, and from then on reads such panels as usual.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any

from bigspec.panels.context import Context, run_panel
from bigspec.panels.layout import Layout
from bigspec.panels.pinned import Pinned, PinnedPanel
from bigspec.panels.reading import read_panel
from bigspec.passes.far_panels import after_its_way
from bigspec.passes.pieces import Shell

__all__ = ["PinnedOnWorkers"]

Graph = dict[Any, Any]


class PinnedOnWorkers(Pinned):
    """The pinned panels of one run, by the workers that hold them.

    Each worker takes as many, because that much is left in the smallest one.

    Parameters
    ----------
    layout : Layout
    workers : sequence of str
        Addresses. Workers that come later hold nothing.
    """

    def __init__(self, layout: Layout, workers: Sequence[str]) -> None:
        super().__init__()
        panels = (index for index in range(layout.panels) if layout.pins(index))
        self._places = {panel: workers[k % len(workers)] for k, panel in enumerate(panels)}
        self._futures: dict[int, Any] = {}
        self._sent: dict[str, int] = {}  # keys that were built into a graph
        self._fresh: set[int] = set()  # panels that are read in the pass that runs

    def __bool__(self) -> bool:
        return bool(self._places)

    @property
    def indices(self) -> frozenset[int]:
        """The panels that need not be read."""
        return frozenset(self._futures)

    def pass_begins(self) -> None:
        """Called before the first round of a pass is built."""
        self._fresh.clear()

    def tasks(self, panel: int, token: str, reference: Any) -> tuple[str, str, Graph] | None:
        """Build the tasks of a pinned panel; None for one that is read as usual.

        Returns
        -------
        key : str
            Of the task that multiplies. Its name is not that of other panels: of tasks of one name
            Dask counts what all of them need.
        worker : str
        graph : dict
        """
        worker = self._places.get(panel)
        if worker is None:
            return None
        graph: Graph = {}
        entries: Any = self._futures.get(panel)
        if entries is None:
            entries = f"bigspec-pinned-{token}-{panel}"
            graph[entries] = (_read, reference, panel)
            self._sent[entries] = panel
            self._fresh.add(panel)
        key = f"bigspec-pinned-panel-{token}-{panel}"
        graph[key] = (_multiply, reference, panel, entries, panel in self._fresh)
        return key, worker, graph

    @property
    def keys(self) -> list[str]:
        """Keys of panels that were built into a graph, and whose futures are to be taken."""
        return list(self._sent)

    def take(self, futures: Iterable[Any]) -> None:
        """Hold the futures of `keys`."""
        for future in futures:
            self._futures[self._sent.pop(future.key)] = future

    def lose(self, workers: Collection[str]) -> bool:
        """Give up the panels of workers that are not among these; whether there are any."""
        lost = [panel for panel, worker in self._places.items() if worker not in workers]
        for panel in lost:
            del self._places[panel]
            self._release(panel)
        return bool(lost)

    def release_unfinished(self) -> None:
        """Take back what is not in memory, to be read again with another context."""
        self._sent.clear()
        for panel, future in list(self._futures.items()):
            if future.status != "finished":
                self._release(panel)

    def drop(self) -> None:
        """Release all panels; none is pinned after it."""
        self._places.clear()
        self._sent.clear()
        for panel in list(self._futures):
            self._release(panel)

    def _release(self, panel: int) -> None:
        future = self._futures.pop(panel, None)
        if future is not None:
            future.release()


def _context(reference: Any) -> Context:
    """Return the context that was sent whole, or in pieces."""
    if isinstance(reference, Context):
        return reference
    shell, *pieces = reference
    assert isinstance(shell, Shell)
    return shell.whole(pieces)


def _read(reference: Any, index: int) -> PinnedPanel:
    context = _context(reference)
    return after_its_way(context, index, partial(read_panel, context, index))


def _multiply(reference: Any, index: int, panel: PinnedPanel, fresh: bool) -> Any:
    return run_panel(_context(reference), index, panel if fresh else panel.again())
