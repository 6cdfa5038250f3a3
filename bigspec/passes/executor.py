"""Executors of a pass: rounds of panel tasks as Dask graphs, on threads or on a cluster.

A round is a fixed set of panels, summed in a fixed tree. Rounds are added in order, while later
ones are already running. Graphs have the size of the rounds in flight, never of the matrix.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import dask
import dask.order
import dask.threaded
from dask.callbacks import Callback
from dask.system import CPU_COUNT

from bigspec.kernels.partials import Partial
from bigspec.matrices import OperatorMatrix
from bigspec.panels.context import Context, run_panel
from bigspec.panels.fused import sum_partials
from bigspec.panels.layout import Layout
from bigspec.panels.limit import Abandoned, Limit
from bigspec.panels.pinned import Pinned
from bigspec.panels.upcoming import Upcoming
from bigspec.passes.contract import DeadlinePassed, FirstRounds
from bigspec.passes.dask_array import DaskMatrix
from bigspec.passes.pins import PinnedOnWorkers

__all__ = [
    "Executor",
    "OnPanels",
    "OnSum",
    "ThreadExecutor",
    "Wanted",
    "build_round",
    "dask_is_as_it_comes",
    "window",
]

WINDOW = 32  # panels in flight per thread, so that the end of a round does not starve the rest
LEAST_WINDOW = 4  # of many threads; benchmarks/thousand.py
IN_FLIGHT = 12_000  # panels of all threads, between these two

Graph = dict[Any, Any]
OnPanels = Callable[[int], None]
OnSum = Callable[[int, Partial], None]
Wanted = Callable[[], bool]


@dataclass(frozen=True)
class Round:
    """The graph of one round; `root` is its sum, `steps` are the lowest sums of its tree."""

    graph: Graph
    root: str
    steps: dict[str, int] = field(default_factory=dict)  # key of a sum -> panels below it
    bound: dict[str, Graph] = field(default_factory=dict)  # worker -> tasks of its pinned panels


def build_round(
    context: Context,
    reference: Any,
    token: str,
    index: int,
    work: Callable[..., Any] | None = None,
    pins: PinnedOnWorkers | None = None,
) -> Round:
    """Build the tasks of round `index`.

    Parameters
    ----------
    context : Context
    reference : object
        Stands for the context in the graph.
    token : str
        Part of all keys.
    index : int
    work : callable
        Called with the reference, the number of a panel and its chunks, if it has any. By default
        `run_panel`.
    pins : PinnedOnWorkers, optional
        Builds the tasks of panels that stay on workers.
    """
    layout, matrix = context.layout, context.matrix
    first = index * layout.round_panels
    last = min(first + layout.round_panels, layout.panels)
    graph: Graph = {}
    bound: dict[str, Graph] = {}
    keys = []
    for panel in range(first, last):
        if pins is not None and (pinned := pins.tasks(panel, token, reference)) is not None:
            key, worker, tasks = pinned
            bound.setdefault(worker, {}).update(tasks)
            keys.append(key)
            continue
        key = f"bigspec-panel-{token}-{panel}"
        chunks = None
        if context.reads and isinstance(matrix, DaskMatrix) and layout.reads_per_pass == 1:
            chunks, tasks = matrix.chunks(layout, panel)
            graph.update(tasks)
        graph[key] = (work or run_panel, reference, panel, chunks)
        keys.append(key)
    root, steps = _add_tree(graph, keys, f"{token}-{index}", layout.fan_in)
    return Round(graph, root, steps, bound)


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
    """Runs the rounds of a pass and adds their partial sums in order."""

    name: str
    tasks: int
    """Tasks that run at once in one process."""
    local: bool
    """Whether tasks run in this process."""

    @property
    def waiting(self) -> int:
        """Tasks that a worker may begin at once where they wait for a link."""
        return 0

    @property
    def processes(self) -> int:
        """Processes that share the pinned panels."""
        return 1

    def pinned(self, layout: Layout) -> Pinned:
        """Return the holder of the panels that stay in memory over the passes of a run."""
        return Pinned(layout)

    @abstractmethod
    def memory(self) -> int:
        """Return what one process has, in bytes."""

    @abstractmethod
    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run one function where the tasks run, and return its result."""

    @abstractmethod
    def sum_rounds(
        self,
        context: Context,
        done: FirstRounds,
        *,
        on_panels: OnPanels,
        on_sum: OnSum,
        deadline: float | None,
        wanted: Wanted | None = None,
    ) -> Partial:
        """Add the rounds that are not in `done`, and return the sum of all.

        Parameters
        ----------
        context : Context
        done : FirstRounds
        on_panels : callable
            Called with the number of panels summed since the last call.
        on_sum : callable
            Called in order with (rounds, their sum), after every round where that costs little; an
            exception from it ends the pass.
        deadline : float or None
            In the clock of `time.monotonic`.
        wanted : callable, optional
            Asked whether the sum is wanted now, where `on_sum` is not called after every round.
            Without it nobody saves the sum of a pass that is cut short.

        Raises
        ------
        DeadlinePassed
            The deadline passed before the last round was complete.
        """


def window(layout: Layout, threads: int) -> int:
    """Return how many rounds are in flight on so many threads."""
    each = min(WINDOW, max(LEAST_WINDOW, IN_FLIGHT // threads))
    return max(2, -(-each * threads // layout.round_panels))


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

    def sum_rounds(
        self,
        context: Context,
        done: FirstRounds,
        *,
        on_panels: OnPanels,
        on_sum: OnSum,
        deadline: float | None,
        wanted: Wanted | None = None,
    ) -> Partial:
        """Add the rounds; see `Executor.sum_rounds`."""
        layout = context.layout
        if isinstance(context.matrix, OperatorMatrix):
            return context.at_once()  # type: ignore[no-any-return]
        running = min(layout.memory.tasks, self.tasks)
        token, in_flight = uuid.uuid4().hex, window(layout, running)
        upcoming = None
        if layout.panels_ahead and context.reads:
            expected = _in_order(context, token, done.rounds, in_flight)
            upcoming = Upcoming(context.matrix, layout, context.first, expected, context.pinned)
        context = replace(context, limit=Limit(deadline), upcoming=upcoming)
        options: dict[str, Any] = {"num_workers": running} if running != self.tasks else {}
        total, reported = done.total, done.rounds
        counted = done.rounds * layout.round_panels
        sums: dict[str, int] = {}

        def finished(key: Any, result: Any, _dsk: Any, _state: Any, _worker: Any) -> None:
            nonlocal reported, counted
            if str(key).startswith(f"bigspec-panel-{token}"):
                counted += 1
                on_panels(1)
            elif key in sums:
                reported = sums[key]
                on_sum(reported, result)
            context.limit.check()

        # Passed as an argument, not registered. All threads share Dask's register, so the deadline
        # of another run would end this one. The user's own callbacks are passed along.
        options["callbacks"] = [*Callback.active, Callback(posttask=finished)._callback]
        try:
            for first in range(done.rounds, layout.rounds, in_flight):
                last = min(first + in_flight, layout.rounds)
                graph, sums = _chain(context, token, range(first, last), total)
                (total,) = _local_get()(graph, list(sums)[-1:], **options)
                assert total is not None
                if reported < last:  # the user's own scheduler may not call callbacks
                    panels = min(last * layout.round_panels, layout.panels)
                    on_panels(panels - counted)
                    counted = panels
                    on_sum(last, total)
        except BaseException as error:
            context.limit.abandon()  # threads of the pool stop before their next read
            if isinstance(error, Abandoned):
                raise DeadlinePassed from None
            raise
        finally:
            if upcoming is not None:
                upcoming.cancel()
        assert total is not None
        return total


def _in_order(context: Context, token: str, done: int, in_flight: int) -> Iterator[int]:
    """Yield the panels of the rounds after `done`, in the order in which Dask's threads begin them.

    Dask orders the tasks of each graph so that few sums wait, and panels come in any order.
    """
    layout = context.layout
    for first in range(done, layout.rounds, in_flight):
        graph, _ = _chain(context, token, range(first, min(first + in_flight, layout.rounds)), None)
        order = dask.order.order(graph)
        for key in sorted(order, key=order.__getitem__):
            if key.startswith(f"bigspec-panel-{token}"):
                yield int(key.rpartition("-")[2])


def _chain(
    context: Context, token: str, indices: range, total: Partial | None
) -> tuple[Graph, dict[str, int]]:
    """Build rounds whose sums are added one after another to `total`.

    Returns the graph, and for each key of a running sum the number of its rounds.
    """
    graph: Graph = {}
    sums: dict[str, int] = {}
    before: Any = total
    for index in indices:
        one = build_round(context, context, token, index)
        graph.update(one.graph)
        key = f"bigspec-total-{token}-{index}"
        graph[key] = (sum_partials, [one.root] if before is None else [before, one.root])
        sums[key] = index + 1
        before = key
    return graph, sums


def _local_get() -> Callable[..., Any]:
    """Return the scheduler of this process that Dask is configured for; threads by default.

    An active client is ignored, because these matrices lie in the memory of this process.
    """
    return _configured() or dask.threaded.get


def _configured() -> Callable[..., Any] | None:
    get: Callable[..., Any] | None = dask.base.get_scheduler()
    if type(getattr(get, "__self__", None)).__module__.startswith("distributed"):
        return None
    return get


def dask_is_as_it_comes() -> bool:
    """Whether Dask has no settings of the user: scheduler, pool, number of threads or callbacks."""
    configured = any(dask.config.get(name, None) is not None for name in ("pool", "num_workers"))
    return not configured and not Callback.active and _configured() is None
