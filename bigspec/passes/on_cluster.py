"""Passes on a `distributed.Client`; lost rounds are sent again."""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import dask

from bigspec.errors import BigspecError, ClusterError
from bigspec.kernels.partials import Partial
from bigspec.panels.context import Context, run_panel
from bigspec.panels.fused import sum_partials
from bigspec.panels.limit import Abandoned, Limit
from bigspec.panels.rows import Rows
from bigspec.passes.connection import WORKER_TIMEOUT
from bigspec.passes.contract import DeadlinePassed, FirstRounds
from bigspec.passes.executor import (
    Executor,
    OnPanels,
    OnSum,
    ThreadExecutor,
    build_round,
    window,
)
from bigspec.passes.far_panels import run_far_panel
from bigspec.passes.lacking import naming_what_workers_lack

__all__ = ["ClusterExecutor", "current_client", "find_executor", "lost_scheduler"]

LOGGER = logging.getLogger("bigspec.cluster")

DISTRIBUTED = {"distributed", "dask.distributed"}
WAITING = 8  # tasks of a thread, at most, where they wait for a link most of the time
ATTEMPTS = 4  # times in a row that rounds are sent again, at least
RETURN = 60.0  # seconds to wait for a worker when all are gone, or for any progress
MOMENT = 0.05
PAUSES = 0.1, 5.0  # seconds before rounds are sent again: at first, and at most


class ClusterExecutor(Executor):
    """A `distributed.Client`: panels run on workers, and lost rounds are sent again."""

    local = False

    def __init__(self, client: Any) -> None:
        self.client = client
        if client.asynchronous:
            msg = (
                "Dask client: expected a call from outside its event loop, got one from within, "
                "which would wait for itself; await asyncio.to_thread(bigspec.norm, ...)"
            )
            raise ClusterError(msg)
        threads = client.nthreads()
        if not threads:
            _wait_for_a_worker(client)
            threads = client.nthreads()
        self.tasks = max(threads.values())
        self.threads = sum(threads.values())
        self.name = (
            f"{len(threads)} Dask worker(s), {self.threads} thread(s), "
            f"scheduler {client.scheduler.address}"
        )

    @property
    def waiting(self) -> int:
        """Tasks that a worker may begin, most of which then wait outside of its threads."""
        return WAITING * self.tasks

    def memory(self) -> int:
        """Return the smallest memory limit of the workers."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        limits = [worker["memory_limit"] for worker in workers if worker["memory_limit"]]
        return int(min(limits, default=2 << 30))

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Submit it as one task."""
        key = f"bigspec-{function.__name__}-{uuid.uuid4().hex}"
        from distributed.scheduler import KilledWorker

        with _out_of_the_pool(), naming_what_workers_lack(self.client):
            try:
                return self.client.submit(function, *args, key=key, pure=False).result()
            except (CancelledError, KilledWorker) as error:
                msg = f"Dask cluster: lost a task ({type(error).__name__}: {error})"
                raise ClusterError(msg) from error

    def sum_rounds(
        self,
        context: Context,
        done: FirstRounds,
        *,
        on_panels: OnPanels,
        on_sum: OnSum,
        deadline: float | None,
    ) -> Partial:
        """Add the rounds; see `Executor.sum_rounds`."""
        in_flight = window(context.layout, self.threads)
        total, context = done.total, replace(context, limit=Limit(deadline))
        with _out_of_the_pool(), naming_what_workers_lack(self.client):
            flight = _Flight(self.client, context, done.rounds, on_panels)
            try:
                for index in range(done.rounds, context.layout.rounds):
                    while flight.next < min(index + in_flight, context.layout.rounds):
                        flight.launch()
                    part = flight.land()
                    total = part if total is None else sum_partials([total, part])
                    on_sum(index + 1, total)
            except Abandoned:  # a task saw the deadline before this process did
                raise DeadlinePassed from None
            finally:
                flight.cancel()
        assert total is not None
        return total


def _wait_for_a_worker(client: Any) -> None:
    """Wait for a worker with a task, because an adaptive cluster starts workers for waiting tasks.

    Raises
    ------
    ClusterError
        No worker came in time.
    """
    where, patience = client.scheduler.address, WORKER_TIMEOUT
    LOGGER.warning("scheduler %s: no worker yet; waiting for one, %g s at most", where, patience)
    future = client.submit(int, key=f"bigspec-arrival-{uuid.uuid4().hex}", pure=False)
    try:
        future.result(timeout=patience)
    except Exception as error:  # TimeoutError, or the scheduler's own if it gives up first
        msg = (
            f"scheduler {where}: expected at least one worker within {patience:g} s, got none "
            f"({type(error).__name__}); start workers, or see why the cluster starts none"
        )
        raise ClusterError(msg) from error
    finally:
        future.release()


@contextmanager
def _out_of_the_pool() -> Iterator[None]:
    """Give up the slot of the task around this call, if any: the panels need it meanwhile."""
    from distributed import get_worker, worker_client

    try:
        get_worker()
    except ValueError:  # no task
        yield
        return
    with worker_client():
        yield


class _Flight:
    """The rounds of one pass that are on the cluster."""

    def __init__(self, client: Any, context: Context, first: int, on_panels: OnPanels) -> None:
        self.client, self.context, self.limit = client, context, context.limit
        self.address = client.scheduler.address  # a client that has been closed forgets it
        self.on_panels, self.next = on_panels, first
        far = context.layout.memory.tasks > max(client.nthreads().values(), default=0)
        self.run = run_far_panel if far else run_panel
        self.failures, self.failing_since = 0, 0.0
        self.reported = 0  # panels of the oldest round that were reported
        self.rounds: deque[tuple[int, dict[Any, int], Any]] = deque()
        self._send_context()

    def _send_context(self) -> None:
        # Each copy has a new key. Scattering equal content twice would reuse the key, and can hang
        # while the first copy is being released. The scheduler's own timeout is two seconds.
        for attempt in range(1, ATTEMPTS + 1):
            self.token = uuid.uuid4().hex
            key = f"bigspec-iterate-{self.token}"
            try:
                self.reference = self._guard(
                    self.client.scatter, {key: self.context}, timeout=self._patience(RETURN)
                )[key]
            except BigspecError:
                raise
            except OSError as error:  # its worker has just died
                if attempt == ATTEMPTS:
                    msg = f"Dask cluster: expected to take the iterate block, got {error}"
                    raise ClusterError(msg) from error
            else:
                return

    def launch(self) -> None:
        """Submit the next round."""
        self._submit(self.next)
        self.next += 1

    def _submit(self, index: int) -> None:
        one = build_round(self.context, self.reference, self.token, index, self.run)
        keys = [*one.steps, one.root]
        futures = self._guard(self.client.get, one.graph, keys, sync=False)
        steps = dict(zip(futures[:-1], one.steps.values(), strict=True))
        self.rounds.append((index, steps, futures[-1]))

    def land(self) -> Any:
        """Return the sum of the oldest round; if it was lost, send everything again."""
        from distributed.scheduler import KilledWorker

        while True:
            _, steps, root = self.rounds[0]
            try:
                self._watch(steps, root)
                result = self._guard(root.result, timeout=self._patience(None))
            except (CancelledError, KilledWorker) as error:
                self._send_again(error)
                continue
            self.rounds.popleft()
            self.failures = self.reported = 0
            assert isinstance(result, (Partial, Rows))
            return result

    def _watch(self, steps: dict[Any, int], root: Any) -> None:
        """Report sums as they complete, but only once if a round is sent again."""
        from distributed import wait

        waiting, summed = dict(steps), 0
        while waiting:
            self.limit.check()
            left = self._patience(None)
            done = self._guard(
                wait, list(waiting), timeout=left, return_when="FIRST_COMPLETED"
            ).done
            for future in done:
                panels = waiting.pop(future)
                if future.status == "finished":
                    summed += panels
                if summed > self.reported:
                    new, self.reported = summed - self.reported, summed
                    self.on_panels(new)
            if root.status in ("error", "cancelled", "lost"):
                return

    def _send_again(self, error: BaseException) -> None:
        """Resubmit all rounds in flight with a fresh copy of the context.

        The loss of a block does not show a fault: it may have gone several times to a worker that
        had just died. Dask blames a task only after several workers have died during it.
        """
        from distributed.scheduler import KilledWorker

        self.failures += 1
        if self.failures == 1:
            self.failing_since = time.monotonic()
        stuck = time.monotonic() - self.failing_since > RETURN
        if self.failures >= ATTEMPTS and (stuck or isinstance(error, KilledWorker)):
            msg = (
                f"Dask cluster: expected the pass to survive, got {type(error).__name__} "
                f"{self.failures} times ({error}). Workers may be running out of memory: give "
                "them more, or pass a smaller memory_limit."
            )
            raise ClusterError(msg) from error
        pause = self._patience(min(PAUSES[0] * 2.0 ** (self.failures - 1), PAUSES[1]))
        time.sleep(pause or 0.0)
        self.limit.check()
        lost = [index for index, _, _ in self.rounds]
        self.cancel()
        self._send_context()
        for index in lost:
            self._submit(index)

    def cancel(self) -> None:
        """Release everything on the cluster, even if a traceback still refers to it."""
        for _, steps, root in self.rounds:
            for future in (*steps, root):
                future.release()
        self.rounds.clear()
        self.reference = None

    def _patience(self, most: float | None) -> float | None:
        """Return the seconds to wait: until just after the deadline, or `most`."""
        left = self.limit.left
        if left is None:
            return most
        left = max(left, 0.0) + MOMENT  # a timer that rounds must not fire before the deadline
        return left if most is None else min(left, most)

    def _guard(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call into the client; a lost scheduler is a `ClusterError`, the deadline `Abandoned`."""
        try:
            return call(*args, **options)
        except BigspecError:
            raise
        except (OSError, TimeoutError) as error:
            if isinstance(error, TimeoutError):
                self.limit.check()
            elif self.client.status == "running":
                raise
            if self.client.status != "running":
                raise lost_scheduler(self.address, error) from error
            msg = (
                f"Dask scheduler {self.address}: expected an answer and a worker within "
                f"{RETURN:g} s, got {type(error).__name__}: {error}. Check that workers run."
            )
            raise ClusterError(msg) from error


def find_executor(matrix_is_resident: bool) -> Executor:
    """Return the current client's cluster, or this process.

    A matrix in the memory of this process is multiplied here even if a client is active, because
    sending it through the scheduler costs more than the products.

    Raises
    ------
    ClusterError
        No worker came in time, or Dask is configured for a cluster and there is none.
    """
    client = None if matrix_is_resident else current_client()
    if client is not None:
        return ClusterExecutor(client)
    if current_client() is None and dask.config.get("scheduler", None) in DISTRIBUTED:
        msg = (
            "Dask: expected a client, for its configuration asks for the distributed scheduler, "
            "got none; start one (distributed.Client), or set scheduler='threads'"
        )
        raise ClusterError(msg)
    return ThreadExecutor()


def current_client() -> Any:
    """Return the client that passes would run on, None if there is none."""
    import sys

    if "distributed" not in sys.modules:  # then there is no client, and the import is slow
        return None
    from distributed import get_client

    try:
        return get_client()
    except ValueError:
        return None


def lost_scheduler(where: str, error: Exception) -> ClusterError:
    """Return what is said of a scheduler that is no longer there."""
    return ClusterError(
        f"Dask scheduler {where}: lost ({type(error).__name__}: {error}). Start one, and "
        "workers, and run it again."
    )
