"""Panels of a matrix far away, on workers: a task gives up its thread while its entries travel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from bigspec.panels.context import Context, run_panel

__all__ = ["after_its_way", "run_far_panel", "run_far_panel_of_pieces"]

Result = TypeVar("Result")

_LOCK = threading.Lock()
_away = 0
"""Tasks of this process that have given up their thread."""


def run_far_panel(
    context: Context, index: int, chunks: Sequence[Sequence[Any]] | None = None
) -> Any:
    """Do the work of a panel, after its first slab has come while other tasks had the thread."""
    return after_its_way(context, index, partial(run_panel, context, index, chunks))


def after_its_way(context: Context, index: int, work: Callable[[], Result]) -> Result:
    """Call `work`, after the first slab of a panel has come while other tasks had the thread.

    A worker does not know which panels it gets next, so it begins them, and they wait outside of
    its pool. They are as many as the layout counts in the memory of a process. Dask calls this
    seceding.
    """
    global _away  # noqa: PLW0603, RUF100 - it is of the process, as the pool is
    threads = _threads()
    with _LOCK:
        leaves = threads is not None and _away < context.layout.memory.tasks - threads
        _away += leaves
    if leaves:
        try:
            _come(context, index)
        except BaseException:
            context.buffers.drop_ahead()
            raise
        finally:
            with _LOCK:
                _away -= 1
    return work()


def run_far_panel_of_pieces(
    parts: Sequence[Any], index: int, chunks: Sequence[Sequence[Any]] | None = None
) -> Any:
    """Do the same where the block came in pieces; see `bigspec.passes.pieces`."""
    shell, *pieces = parts
    return run_far_panel(shell.whole(pieces), index, chunks)


def _come(context: Context, index: int) -> None:
    """Ask for the first slab, leave the pool of threads until it is here, and come back."""
    from distributed import rejoin, secede

    layout, buffers = context.layout, context.buffers
    slab = next(layout.slabs(layout.panel(index)))
    context.matrix.ahead(*layout.rectangle(slab, (0, layout.iterate_length)), buffers)
    if not buffers.ahead:
        return
    secede()
    try:
        for fetch in list(buffers.ahead.values()):
            fetch.wait()
    finally:
        rejoin()


def _threads() -> int | None:
    """Return how many tasks this worker runs at once; None if this is no task of a worker's."""
    from distributed import get_worker

    try:
        return int(get_worker().state.nthreads)
    except (ValueError, AttributeError):
        return None
