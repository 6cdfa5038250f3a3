"""Measure how long reading and multiplying the first slab take; the planner chooses by that."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.kernels import working_dtype
from bigspec.kernels.buffers import Buffers
from bigspec.matrices import Matrix
from bigspec.panels.cuts import Layout
from bigspec.panels.fused import FusedContext
from bigspec.panels.reading import size_of

__all__ = ["Measurement", "measure"]

Array = np.ndarray[Any, Any]


MEASURED_BYTES = 4 << 20  # of a sparse matrix


STEEP = 2.5  # no wider block saves so many passes (`bigspec.algorithms.PASSES`)


@dataclass(frozen=True)
class Measurement:
    """The times of the first slab, in seconds, scaled to a whole pass on one thread.

    Attributes
    ----------
    reading : float
    multiplying : dict
        By block size.
    gram : float or None
        Forming the Gram matrix.
    bytes_read : int
        What the measurement itself read.
    """

    reading: float
    multiplying: dict[int, float]
    gram: float | None
    bytes_read: int


def measure(matrix: Matrix, layout: Layout, sizes: Sequence[int], gram: bool) -> Measurement:
    """Read the first slab (a part, if the matrix is sparse) and time products of some widths.

    Widths are tried in the order given, until two in a row cost `STEEP` times the cheapest with
    reading: wider blocks would take longer to measure than they could save.
    """
    buffers = Buffers()
    panel, swept = layout.panel(0), layout.swept
    slab = next(layout.slabs(panel))
    if matrix.piece_nbytes is not None:  # sparse: all parts are alike, so one is enough
        pieces = max(1, MEASURED_BYTES // matrix.piece_nbytes)
        slab = slab[0], min(slab[1], swept.cut(min(panel.first + pieces, panel.last)))
    whole = (0, layout.iterate_length)
    started = time.perf_counter()
    block = matrix.read(*layout.rectangle(slab, whole), buffers)
    reading = time.perf_counter() - started
    scale = swept.extent / (slab[1] - slab[0])
    if matrix.piece_nbytes is not None:
        scale = max(1.0, matrix.nbytes / size_of(block))

    def seconds(V: Array | None) -> float:
        context = FusedContext(matrix, layout, V, 0, facts=False, buffers=buffers)
        total, best = context.accumulator(), float("inf")
        for _ in range(2):  # the second time has no page faults, like most slabs of a panel
            before = time.perf_counter()
            total.add_slab([(0, block)])
            best = min(best, time.perf_counter() - before)
        return best * scale

    dtype = working_dtype(matrix.dtype)
    multiplying: dict[int, float] = {}
    for b in sizes:
        multiplying[b] = seconds(np.ones((layout.iterate_length, b), dtype))
        costs = [reading * scale + t for t in multiplying.values()]
        if len(costs) > 2 and min(costs[-2:]) > STEEP * min(costs):
            break
    gram_seconds = seconds(None) if gram else None
    return Measurement(reading * scale, multiplying, gram_seconds, size_of(block))
