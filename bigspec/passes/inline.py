"""Passes in the calling thread, for matrices so small that Dask would cost more than a pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bigspec.kernels.partials import Partial
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.panels.context import Context, run_panel
from bigspec.panels.fused import sum_partials
from bigspec.panels.limit import Abandoned, Limit
from bigspec.passes.contract import DeadlinePassed, FirstRounds
from bigspec.passes.executor import (
    Executor,
    OnPanels,
    OnSum,
    ThreadExecutor,
    Wanted,
    dask_is_as_it_comes,
)

__all__ = ["InlineExecutor", "nearest"]

MOST_FLOPS = 1e8  # a pass of 5 ms on one core; a graph of a few panels costs 2 to 6 ms
SPARSE = 10  # a flop of a sparse product takes about 10 times as long


class InlineExecutor(ThreadExecutor):
    """The calling thread: the panels one after another, in the fixed tree."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "the calling thread"

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
        if isinstance(context.matrix, OperatorMatrix):
            return context.at_once()  # type: ignore[no-any-return]
        layout, total = context.layout, done.total
        context = replace(context, limit=Limit(deadline))
        try:
            for index in range(done.rounds, layout.rounds):
                first = index * layout.round_panels
                parts: list[Any] = []
                for panel in range(first, min(first + layout.round_panels, layout.panels)):
                    parts.append(run_panel(context, panel))
                    on_panels(1)
                    context.limit.check()
                part = _in_a_tree(parts, layout.fan_in)
                total = sum_partials([part] if total is None else [total, part])
                on_sum(index + 1, total)
        except Abandoned:
            raise DeadlinePassed from None
        assert total is not None
        return total


def _in_a_tree(parts: list[Any], fan_in: int) -> Any:
    """Add partial sums in the same tree as a graph."""
    while True:
        parts = [sum_partials(parts[i : i + fan_in]) for i in range(0, len(parts), fan_in)]
        if len(parts) == 1:
            return parts[0]


def nearest(matrix: Matrix, executor: Executor, columns: int) -> Executor:
    """Return the calling thread if a pass is too small for threads, else the executor itself.

    Such a pass takes a few milliseconds, over entries in the memory of this process. A user who
    has configured Dask (scheduler, pool, number of threads, callbacks) gets that configuration.

    Parameters
    ----------
    matrix : Matrix
    executor : Executor
    columns : int
        Random columns of a block; the order of H for the Gram matrix.
    """
    entries = getattr(matrix, "entries", None)
    here = type(executor) is ThreadExecutor and matrix.resident and dask_is_as_it_comes()
    if not here or entries is None or isinstance(entries, np.memmap):
        return executor
    m, n = matrix.shape
    sparse = hasattr(entries, "indptr")
    work = SPARSE * (int(entries.nnz) + m + n) if sparse else m * n
    return InlineExecutor() if 4.0 * work * columns <= MOST_FLOPS else executor
