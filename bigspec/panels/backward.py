"""Panels of a backward pass: ``S^H W``, slab by slab."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from bigspec.kernels.one_way import multiply_adjoint
from bigspec.kernels.partials import Partial
from bigspec.kernels.tokens import block_token
from bigspec.panels.reading import Abandoned, Context, size_of

__all__ = ["BackwardContext"]


@dataclass(frozen=True, eq=False)
class BackwardContext(Context):
    """What every task needs of ``S^H W``; V holds W (rows of S, b)."""

    reads: ClassVar[bool] = False  # dask arrays are read by their panels, as stores are

    def task(self, reference: Any, panel: int) -> tuple[Any, ...]:
        """Return the task of a panel."""
        return (backward_panel, reference, panel)


def backward_panel(context: BackwardContext, index: int) -> Partial:
    """Read one panel slab by slab and add ``S_i^H W_i``."""
    matrix, layout, buffers, W = context.matrix, context.layout, context.buffers, context.V
    assert W is not None
    started, read_bytes, token = time.perf_counter(), 0, 0
    Z = np.zeros((layout.iterate_length, W.shape[1]), W.dtype)

    def tiles(slab: tuple[int, int]) -> Iterator[tuple[int, Any]]:
        nonlocal read_bytes, token
        for tile in layout.tiles():
            block = matrix.read(*layout.rectangle(slab, tile), buffers)
            read_bytes += size_of(block)
            token = block_token(block, token)
            yield tile[0], block

    for slab in layout.slabs(layout.panel(index)):
        if buffers.abandoned is not None and buffers.abandoned.is_set():
            raise Abandoned
        multiply_adjoint(
            tiles(slab),
            W[slab[0] : slab[1]],
            Z,
            transposed=layout.orientation == "columns",
            buffers=buffers,
        )
    seconds = time.perf_counter() - started
    return Partial(
        Z,
        np.zeros((0, 0), W.dtype),
        0,
        None,
        np.array([token] * matrix.streams, np.uint32),
        bytes_read=read_bytes,
        seconds_multiplying=seconds,
    )
