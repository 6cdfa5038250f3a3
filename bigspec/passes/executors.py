"""Where a pass runs: rounds of panel tasks as Dask graphs, on threads or on a cluster.

A round is a fixed set of panels summed in a fixed tree; rounds are handed back in order while
later ones are already running. Graphs are of the size of the rounds in flight, never of the
matrix.
"""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import dask
import dask.threaded
from dask.callbacks import Callback
from dask.system import CPU_COUNT

from bigspec.layout import Layout
from bigspec.matrices import OperatorMatrix
from bigspec.partials import Partial
from bigspec.passes.dask_array import DaskMatrix
from bigspec.passes.tasks import Context, run_blocks, run_operator, run_panel, sum_partials

__all__ = ["DeadlinePassed", "Executor", "ThreadExecutor", "build_round", "window"]

WINDOW = 32  # panels in flight per thread, so that the end of a round does not starve the rest

Graph = dict[Any, Any]
OnPanels = Callable[[int], None]


class DeadlinePassed(Exception):  # noqa: N818
    """The time limit ended a pass before it was complete."""


@dataclass(frozen=True)
class Round:
    """The graph of one round: `root` is its sum, `steps` the lowest sums of its tree."""

    graph: Graph
    root: str
    steps: dict[str, int] = field(default_factory=dict)  # key of a sum -> panels below it


def build_round(context: Context, reference: Any, token: str, index: int) -> Round:
    """Build the tasks of round `index`; `reference` stands for the context in the graph."""
    layout, matrix = context.layout, context.matrix
    first = index * layout.round_panels
    last = min(first + layout.round_panels, layout.panels)
    graph: Graph = {}
    keys = []
    for panel in range(first, last):
        key = f"bigspec-panel-{token}-{panel}"
        if isinstance(matrix, DaskMatrix) and layout.reads_per_pass == 1:
            pieces, tasks = matrix.pieces(layout, panel)
            graph.update(tasks)
            graph[key] = (run_blocks, reference, panel, pieces)
        else:
            graph[key] = (run_panel, reference, panel)
        keys.append(key)
    root, steps = _add_tree(graph, keys, f"{token}-{index}", layout.fan_in)
    return Round(graph, root, steps)


def _add_tree(graph: Graph, keys: list[str], token: str, fan_in: int) -> tuple[str, dict[str, int]]:
    """Add the sums of `keys` in a fixed tree; return its root and the lowest sums' sizes."""
    steps: dict[str, int] = {}
    level = 0
    while len(keys) > 1 or level == 0:
        sums = []
        for start in range(0, len(keys), fan_in):
            below = keys[start : start + fan_in]
            key = f"bigspec-sum-{token}-{level}-{start}"
            graph[key] = (sum_partials, below)
            if level == 0:
                steps[key] = len(below)
            sums.append(key)
        keys, level = sums, level + 1
    return keys[0], steps


class Executor(ABC):
    """Runs the rounds of a pass and yields their partial sums in order."""

    name: str
    tasks: int
    """Tasks that run at once in one process."""
    local: bool
    """Whether tasks run in this process."""

    @abstractmethod
    def memory(self) -> int:
        """Return what one process has, in bytes."""

    @abstractmethod
    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run one function where the tasks run, and return its result."""

    @abstractmethod
    def rounds(
        self, context: Context, *, on_panels: OnPanels, deadline: float | None
    ) -> Iterator[Partial]:
        """Yield the partial sum of each round, in order.

        Parameters
        ----------
        context : Context
        on_panels : callable
            Called with the number of panels newly summed.
        deadline : float or None
            In the clock of `time.monotonic`.

        Raises
        ------
        DeadlinePassed
            The deadline passed before the last round was complete.
        """


def window(layout: Layout, threads: int) -> int:
    """Return how many rounds are in flight on so many threads."""
    return max(2, -(-WINDOW * threads // layout.round_panels))


class ThreadExecutor(Executor):
    """Dask's scheduler of this process, threads unless Dask is configured otherwise."""

    local = True

    def __init__(self) -> None:
        workers = dask.config.get("num_workers", None) or CPU_COUNT
        pool = dask.config.get("pool", None)
        self.tasks = int(getattr(pool, "_max_workers", workers))
        self.name = f"{self.tasks} threads of this process"

    def memory(self) -> int:
        """Return the memory limit of this process (cgroups and rlimits respected)."""
        from distributed.system import MEMORY_LIMIT

        return int(MEMORY_LIMIT)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call it here."""
        return function(*args)

    def rounds(
        self, context: Context, *, on_panels: OnPanels, deadline: float | None
    ) -> Iterator[Partial]:
        """Yield round sums; see `Executor.rounds`."""
        token = uuid.uuid4().hex
        layout = context.layout
        if isinstance(context.matrix, OperatorMatrix):
            yield run_operator(context)
            return
        running = min(layout.memory.tasks, self.tasks)
        in_flight = window(layout, running)

        def finished(key: Any, _result: Any, _dsk: Any, _state: Any, _worker: Any) -> None:
            if str(key).startswith(f"bigspec-panel-{token}"):
                on_panels(1)
            if deadline is not None and time.monotonic() > deadline:
                raise DeadlinePassed

        for first in range(0, layout.rounds, in_flight):
            indices = range(first, min(first + in_flight, layout.rounds))
            built = [build_round(context, context, token, index) for index in indices]
            graph: Graph = {}
            for one in built:
                graph.update(one.graph)
            get = _local_get()
            options = {"num_workers": running} if running < self.tasks else {}
            with Callback(posttask=finished):
                results = get(graph, [one.root for one in built], **options)
            yield from results


def _local_get() -> Callable[..., Any]:
    """Return the scheduler of this process that Dask is configured for; threads by default.

    An active client is passed over: what comes here lies in this process's memory.
    """
    get = dask.base.get_scheduler()
    if get is None or type(getattr(get, "__self__", None)).__module__.startswith("distributed"):
        return dask.threaded.get  # type: ignore[no-any-return]
    return get  # type: ignore[no-any-return]
