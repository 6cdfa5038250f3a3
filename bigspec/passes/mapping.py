"""Many independent computations, one task each, the largest first, in bounded memory."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_here
from dataclasses import dataclass
from typing import Any

from bigspec.errors import BigspecError, ClusterError
from bigspec.panels.limit import Abandoned, Limit
from bigspec.passes.blas import one_blas_thread
from bigspec.passes.contract import DeadlinePassed
from bigspec.passes.executor import Executor
from bigspec.passes.flight import lost_scheduler
from bigspec.passes.on_cluster import ClusterExecutor

__all__ = ["Job", "map_jobs"]

LOOK = 0.2  # seconds between two checks of the deadline
ATTEMPTS = 4  # tries of a job whose workers die


@dataclass(frozen=True, eq=False)
class Job:
    """One computation.

    Attributes
    ----------
    task : object
        First argument of the function.
    work : float
        Jobs with more work begin first.
    nbytes : int
        Memory that it holds while it runs.
    """

    task: Any
    work: float
    nbytes: int


def map_jobs(
    function: Callable[[Any, Any], Any],
    jobs: Sequence[Job],
    executor: Executor,
    *,
    memory: int,
    on_result: Callable[[Any, Any], None],
    deadline: float | None = None,
) -> None:
    """Call ``function(task, limit)`` for each job, on threads or on the workers of a cluster.

    Parameters
    ----------
    function : callable
        It must call `check` of its second argument now and then, which raises when nobody waits
        for the result any more.
    jobs : sequence of Job
    executor : Executor
        From `find_executor`.
    memory : int
        Bytes that the jobs of one process may hold together. A job that needs more runs alone.
    on_result : callable
        Called in the calling thread with (task, result), in the order in which they end. An
        exception from it ends the rest.
    deadline : float, optional
        In the clock of `time.monotonic`.

    Raises
    ------
    DeadlinePassed
        Some jobs had not ended at the deadline.
    ClusterError
        The cluster was lost, or a job was lost `ATTEMPTS` times.
    """
    order = sorted(jobs, key=lambda job: -job.work)
    limit = Limit(deadline)
    places: _Places
    if isinstance(executor, ClusterExecutor):
        places = _Workers(executor, memory)
    else:
        places = _Threads(executor.tasks, memory)
    try:
        places.run(function, order, limit, on_result)
    except Abandoned:
        raise DeadlinePassed from None
    finally:
        limit.abandon()
        places.close()


class _Room:
    """The threads and the memory of one process, and how much of them is in use."""

    def __init__(self, threads: int, memory: int) -> None:
        self.threads, self.memory, self.in_use, self.running = threads, memory, 0, 0

    @property
    def full(self) -> bool:
        """Whether every thread has a job: then thousands that wait need not be asked."""
        return self.running >= self.threads

    def takes(self, job: Job) -> bool:
        """Whether there is memory for one more."""
        return self.running == 0 or self.in_use + job.nbytes <= self.memory

    def add(self, job: Job, sign: int = 1) -> None:
        """Count a job that begins, or with -1 one that has ended."""
        self.in_use += sign * job.nbytes
        self.running += sign


class _Places:
    """The places where jobs run: a job begins where there is room."""

    def run(
        self,
        function: Callable[[Any, Any], Any],
        order: list[Job],
        limit: Limit,
        on_result: Callable[[Any, Any], None],
    ) -> None:
        """Run all jobs."""
        waiting = list(order)
        running: dict[Any, tuple[Job, _Room]] = {}
        while waiting or running:
            limit.check()
            for room in self.rooms():
                while not room.full:
                    job = next((j for j in waiting if room.takes(j)), None)
                    if job is None:
                        break
                    waiting.remove(job)
                    room.add(job)
                    running[self.begin(room, function, job, limit)] = job, room
            for future in self.ended(list(running)):
                job, room = running.pop(future)
                room.add(job, -1)
                try:
                    result = future.result()
                except Exception as error:
                    if not self.again(job, error):
                        raise
                    waiting.append(job)
                else:
                    on_result(job.task, result)

    def rooms(self) -> list[_Room]:
        raise NotImplementedError

    def begin(self, room: _Room, function: Any, job: Job, limit: Limit) -> Any:
        raise NotImplementedError

    def ended(self, futures: list[Any]) -> list[Any]:
        raise NotImplementedError

    def again(self, job: Job, error: Exception) -> bool:
        """Whether a job that failed is sent again."""
        return False

    def close(self) -> None:
        """Wait for the jobs that still run."""


class _Threads(_Places):
    def __init__(self, threads: int, memory: int) -> None:
        self.room = _Room(threads, memory)
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="bigspec-job")
        self.blas = one_blas_thread()
        self.blas.__enter__()

    def rooms(self) -> list[_Room]:
        return [self.room]

    def begin(self, room: _Room, function: Any, job: Job, limit: Limit) -> Future[Any]:
        return self.pool.submit(function, job.task, limit)

    def ended(self, futures: list[Any]) -> list[Any]:
        done = wait_here(futures, timeout=LOOK, return_when=FIRST_COMPLETED).done
        return [future for future in futures if future in done]

    def close(self) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.blas.__exit__(None, None, None)


class _Workers(_Places):
    """The workers of a client: each job is sent to one that has room for it."""

    def __init__(self, executor: ClusterExecutor, memory: int) -> None:
        self.client, self.memory = executor.client, memory
        self.known: dict[str, _Room] = {}
        self.address: dict[int, str] = {}
        self.failures: dict[int, int] = {}
        self.threads: dict[str, int] = {}
        self.at: dict[str, str] = {}  # key of a future -> address of its worker

    def rooms(self) -> list[_Room]:
        self.threads = self._guard(self.client.nthreads)
        for address, count in self.threads.items():
            if address not in self.known:
                self.known[address] = _Room(count, self.memory)
                self.address[id(self.known[address])] = address
        return [self.known[address] for address in self.threads]

    def begin(self, room: _Room, function: Any, job: Job, limit: Limit) -> Any:
        address = self.address[id(room)]
        future = self._guard(
            self.client.submit, function, job.task, limit, pure=False,
            key=f"bigspec-job-{uuid.uuid4().hex}", workers=[address],
        )  # fmt: skip
        self.at[future.key] = address
        return future

    def ended(self, futures: list[Any]) -> list[Any]:
        from distributed import wait

        if not futures:
            time.sleep(LOOK)  # there is no worker at the moment
            return []
        # A job waits for its worker for ever, even if that has died and another replaced it.
        lost = [future for future in futures if self.at[future.key] not in self.threads]
        for future in lost:
            future.cancel()
        if lost:
            return lost
        try:
            done = self._guard(wait, futures, timeout=LOOK, return_when="FIRST_COMPLETED").done
        except ClusterError as error:
            if isinstance(error.__cause__, TimeoutError) and self.client.status == "running":
                return []
            raise
        return [future for future in futures if future in done]

    def again(self, job: Job, error: Exception) -> bool:
        from distributed.scheduler import KilledWorker

        if not isinstance(error, (CancelledError, KilledWorker)):
            return False
        count = self.failures[id(job)] = self.failures.get(id(job), 0) + 1
        if count < ATTEMPTS:
            return True
        msg = (
            f"Dask cluster: expected a job to survive, got {type(error).__name__} {count} times "
            f"({error}). Workers may be running out of memory: give them more, or pass a smaller "
            "memory_limit"
        )
        raise ClusterError(msg) from error

    def _guard(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            return call(*args, **options)
        except BigspecError:
            raise
        except (OSError, TimeoutError) as error:
            where = self.client.scheduler.address if self.client.scheduler else "of the client"
            raise lost_scheduler(where, error) from error
