"""Panels of a matrix far away, on workers: a task leaves its thread while its entries travel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from bigspec.panels.context import Context, run_panel
from bigspec.panels.limit import Limit

__all__ = ["after_its_way", "run_far_panel", "run_far_panel_of_pieces"]

Result = TypeVar("Result")


class _Tasks:
    """The tasks of one worker: how many there are, and how many of them multiply at once."""

    def __init__(self, threads: int) -> None:
        self._changed, self._count = threading.Condition(), 0
        self.products = threading.Semaphore(threads)

    @contextmanager
    def one_more(self, most: int, limit: Limit) -> Iterator[None]:
        """Wait until there are fewer than `most`, and be one of them."""
        with self._changed:
            while not self._changed.wait_for(lambda: self._count < most, _patience(limit)):
                limit.check()
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()  # tasks of several runs wait, each for its own count


_LOCK = threading.Lock()
_WORKERS: WeakKeyDictionary[Any, _Tasks] = WeakKeyDictionary()


def run_far_panel(
    context: Context, index: int, chunks: Sequence[Sequence[Any]] | None = None
) -> Any:
    """Do the work of a panel, after its first slab has come while other tasks had the thread."""
    return after_its_way(context, index, partial(run_panel, context, index, chunks))


def after_its_way(context: Context, index: int, work: Callable[[], Result]) -> Result:
    """Call `work`, after the first slab of a panel has come while other tasks had the thread.

    A worker does not know which panels it gets next, so it begins them, and they wait outside of
    its pool, which Dask calls seceding. They are as many as the layout counts in the memory of a
    process; the next one waits in the pool, before it asks for anything. They do not come back to
    the pool, where the one that waits has the thread: of those whose slab has come, as many
    multiply at once as the worker has threads.
    """
    tasks = _tasks()
    if tasks is None:
        return work()
    with tasks.one_more(context.layout.memory.tasks, context.limit):
        try:
            _come(context, index)
            with tasks.products:
                return work()
        except BaseException:
            context.buffers.drop_ahead()
            raise


def run_far_panel_of_pieces(
    parts: Sequence[Any], index: int, chunks: Sequence[Sequence[Any]] | None = None
) -> Any:
    """Do the same where the block came in pieces; see `bigspec.passes.pieces`."""
    shell, *pieces = parts
    return run_far_panel(shell.whole(pieces), index, chunks)


def _come(context: Context, index: int) -> None:
    """Ask for the first slab, leave the pool of threads, and wait until it is here."""
    from distributed import secede

    layout, buffers = context.layout, context.buffers
    slab = next(layout.slabs(layout.panel(index)))
    context.matrix.ahead(*layout.rectangle(slab, (0, layout.iterate_length)), buffers)
    secede()
    for fetch in list(buffers.ahead.values()):
        while not fetch.wait(_patience(context.limit)):
            context.limit.check()


def _patience(limit: Limit) -> float | None:
    """Return the seconds until the deadline: a task that waits longer has the place of another."""
    return None if limit.left is None else max(limit.left, 0.0)


def _tasks() -> _Tasks | None:
    """Return the tasks of this worker; None if this is no task of a worker's."""
    from distributed import get_worker

    try:
        worker = get_worker()
        threads = int(worker.state.nthreads)
    except (ValueError, AttributeError):
        return None
    with _LOCK:
        return _WORKERS.setdefault(worker, _Tasks(threads))
