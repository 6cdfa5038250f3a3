"""Passes on a `distributed.Client`; lost rounds are sent again."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import dask

from bigspec.errors import ClusterError
from bigspec.kernels.partials import Partial
from bigspec.panels.context import Context
from bigspec.panels.layout import Layout
from bigspec.panels.limit import Abandoned, Limit
from bigspec.panels.pinned import Pinned
from bigspec.passes.connection import WORKER_TIMEOUT
from bigspec.passes.contract import DeadlinePassed, FirstRounds
from bigspec.passes.executor import (
    Executor,
    OnPanels,
    OnSum,
    ThreadExecutor,
    Wanted,
    window,
)
from bigspec.passes.flight import Flight, HolderLost
from bigspec.passes.missing_modules import naming_what_workers_lack
from bigspec.passes.pins import PinnedOnWorkers

__all__ = ["ClusterExecutor", "current_client", "find_executor"]

LOGGER = logging.getLogger("bigspec.cluster")

DISTRIBUTED = {"distributed", "dask.distributed"}
WAITING = 8  # tasks of a thread, at most, where they wait for a link most of the time


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
        self.workers = sorted(threads)
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

    @property
    def processes(self) -> int:
        """The workers that were there at first."""
        return len(self.workers)

    def pinned(self, layout: Layout) -> Pinned:
        """Return the holder of the panels that stay on workers."""
        return PinnedOnWorkers(layout, self.workers) if layout.pinned_panels else Pinned()

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
        wanted: Wanted | None = None,
    ) -> Partial:
        """Add the rounds; see `Executor.sum_rounds`."""
        layout = context.layout
        in_flight = window(layout, self.threads)
        context = replace(context, limit=Limit(deadline))
        with _out_of_the_pool(), naming_what_workers_lack(self.client):
            flight = Flight(self.client, context, done, on_panels)
            try:
                while flight.base.rounds < layout.rounds:
                    if _advance(flight, in_flight, wanted):
                        assert flight.base.total is not None
                        on_sum(flight.base.rounds, flight.base.total)
            except (Abandoned, KeyboardInterrupt) as error:
                last = None if wanted is None else flight.last()
                if last is not None and last.total is not None:
                    on_sum(last.rounds, last.total)
                if isinstance(error, Abandoned):  # a task may see it before this process does
                    raise DeadlinePassed from None
                raise
            except BaseException:
                context.pinned.drop()
                raise
            finally:
                flight.cancel()
        assert flight.base.total is not None
        return flight.base.total


def _advance(flight: Flight, in_flight: int, wanted: Wanted | None) -> bool:
    """Wait for one more round; return whether this process holds a new sum now."""
    from distributed.scheduler import KilledWorker

    rounds = flight.context.layout.rounds
    try:
        flight.launch(min(flight.landed + in_flight, flight.added + 2 * in_flight, rounds))
        if not flight.due:
            flight.land()
        if flight.due or (wanted is not None and wanted()):
            flight.fetch()
            return True
    except HolderLost:
        flight.take_back()
    except (CancelledError, KilledWorker) as error:
        flight.send_again(error)
    return False


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
