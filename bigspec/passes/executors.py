"""Where a pass runs: rounds of panel tasks as Dask graphs, on threads or on a cluster.

A round is a fixed set of panels summed in a fixed tree; rounds are handed back in order while
later ones are already running. Graphs are of the size of the rounds in flight, never of the
matrix.
"""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any

import dask
import dask.threaded
from dask.callbacks import Callback
from dask.system import CPU_COUNT

from bigspec.errors import BigspecError, ClusterError
from bigspec.kernels import Partial
from bigspec.layout import Layout
from bigspec.matrices import OperatorMatrix
from bigspec.passes.dask_array import DaskMatrix
from bigspec.passes.tasks import Context, run_blocks, run_operator, run_panel, sum_partials

__all__ = ["ClusterExecutor", "DeadlinePassed", "Executor", "ThreadExecutor", "find_executor"]

WINDOW = 32  # panels in flight per thread, so that the end of a round does not starve the rest
ATTEMPTS = 4  # times a round is sent again after the cluster lost what it needed

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
        if isinstance(matrix, DaskMatrix):
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
            get = dask.base.get_scheduler() or dask.threaded.get
            options = {"num_workers": running} if running < self.tasks else {}
            with Callback(posttask=finished):
                results = get(graph, [one.root for one in built], **options)
            yield from results


class ClusterExecutor(Executor):
    """A `distributed.Client`: panels on workers, rounds in flight, lost ones sent again."""

    local = False

    def __init__(self, client: Any) -> None:
        self.client = client
        threads = client.nthreads()
        if not threads:
            msg = (
                f"scheduler {client.scheduler.address}: expected at least one worker, got none; "
                "start workers or wait for them with client.wait_for_workers(1)"
            )
            raise ClusterError(msg)
        self.tasks = max(threads.values())
        self.threads = sum(threads.values())
        self.name = (
            f"{len(threads)} Dask worker(s), {self.threads} thread(s), "
            f"scheduler {client.scheduler.address}"
        )

    def memory(self) -> int:
        """Return the smallest memory limit of the workers."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        limits = [worker["memory_limit"] for worker in workers if worker["memory_limit"]]
        return int(min(limits, default=2 << 30))

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Submit it as one task."""
        key = f"bigspec-{function.__name__}-{uuid.uuid4().hex}"
        return self.client.submit(function, *args, key=key, pure=False).result()

    def rounds(
        self, context: Context, *, on_panels: OnPanels, deadline: float | None
    ) -> Iterator[Partial]:
        """Yield round sums; see `Executor.rounds`."""
        flight = _Flight(self.client, context, on_panels, deadline)
        in_flight = window(context.layout, self.threads)
        try:
            for index in range(context.layout.rounds):
                while flight.next < min(index + in_flight, context.layout.rounds):
                    flight.launch()
                yield flight.land()
        finally:
            flight.cancel()


class _Flight:
    """The rounds of one pass that are on the cluster."""

    def __init__(
        self, client: Any, context: Context, on_panels: OnPanels, deadline: float | None
    ) -> None:
        self.client, self.context = client, context
        self.on_panels, self.deadline = on_panels, deadline
        self.next = 0
        self.failures = 0
        self.rounds: deque[tuple[int, dict[Any, int], Any]] = deque()
        self._send_context()

    def _send_context(self) -> None:
        # hash=False: scattering equal content twice reuses one key, and can hang when the
        # first copy is just being released.
        self.token = uuid.uuid4().hex
        self.reference = self._guard(self.client.scatter, self.context, hash=False)

    def launch(self) -> None:
        """Submit the next round."""
        self._submit(self.next)
        self.next += 1

    def _submit(self, index: int) -> None:
        one = build_round(self.context, self.reference, self.token, index)
        keys = [*one.steps, one.root]
        futures = self._guard(self.client.get, one.graph, keys, sync=False)
        steps = dict(zip(futures[:-1], one.steps.values(), strict=True))
        self.rounds.append((index, steps, futures[-1]))

    def land(self) -> Partial:
        """Return the sum of the oldest round, sending everything again if it was lost."""
        from distributed.scheduler import KilledWorker

        while True:
            _, steps, root = self.rounds[0]
            try:
                self._watch(steps, root)
                result = self._guard(root.result)
            except (CancelledError, KilledWorker) as error:
                self._send_again(error)
                continue
            self.rounds.popleft()
            assert isinstance(result, Partial)
            return result

    def _watch(self, steps: dict[Any, int], root: Any) -> None:
        """Report sums as they complete, until the root is done."""
        from distributed import wait

        waiting = dict(steps)
        while waiting:
            left = None if self.deadline is None else self.deadline - time.monotonic()
            if left is not None and left <= 0:
                raise DeadlinePassed
            try:
                done = wait(list(waiting), timeout=left, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                raise DeadlinePassed from None
            for future in done:
                panels = waiting.pop(future)
                if future.status == "finished":
                    self.on_panels(panels)
            if root.status in ("error", "cancelled", "lost"):
                return

    def _send_again(self, error: BaseException) -> None:
        """Resubmit all rounds in flight with a fresh copy of the context."""
        self.failures += 1
        if self.failures >= ATTEMPTS:
            msg = (
                f"Dask cluster: expected the pass to survive, got {type(error).__name__} "
                f"{self.failures} times ({error}). Workers may be running out of memory: give "
                "them more, or pass a smaller memory_limit."
            )
            raise ClusterError(msg) from error
        lost = [index for index, _, _ in self.rounds]
        self.cancel()
        self._send_context()
        for index in lost:
            self._submit(index)

    def cancel(self) -> None:
        """Drop everything that is still on the cluster."""
        self.rounds.clear()
        self.reference = None

    def _guard(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call into the client; a scheduler that is gone becomes a `ClusterError`."""
        try:
            return call(*args, **options)
        except BigspecError:
            raise
        except (OSError, TimeoutError) as error:
            if self.client.status == "running" and not isinstance(error, TimeoutError):
                raise
            msg = f"Dask scheduler: lost ({type(error).__name__}: {error})"
            raise ClusterError(msg) from error


def find_executor(matrix_is_resident: bool) -> Executor:
    """Return the current client's cluster, or this process.

    A matrix that lies in this process's memory is multiplied here even if a client is active:
    sending it through the scheduler costs more than the products.
    """
    client = None if matrix_is_resident else _current_client()
    return ThreadExecutor() if client is None else ClusterExecutor(client)


def _current_client() -> Any:
    import sys

    if "distributed" not in sys.modules:  # then no client can exist, and importing it is slow
        return None
    from distributed import get_client

    try:
        return get_client()
    except ValueError:
        return None
