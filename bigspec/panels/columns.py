"""Sums and squares of the columns of one panel."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.kernels import TILE_BYTES, working_dtype
from bigspec.kernels.buffers import Buffers
from bigspec.kernels.composed import Composed, Piece, SparseSum
from bigspec.kernels.partials import Partial
from bigspec.panels.reading import Abandoned, Context, as_block

__all__ = ["SumsContext"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class SumsContext(Context):
    """What every task of a pass needs that sums columns."""

    def task(self, reference: Any, panel: int) -> tuple[Any, ...]:
        """Return the task of a panel."""
        return (sums_panel, reference, panel)

    def blocks_task(self, reference: Any, panel: int, pieces: Any) -> tuple[Any, ...]:
        """Return the task of a panel whose chunks are results of other tasks."""
        return (sums_blocks, reference, panel, pieces)


def sums_panel(context: SumsContext, index: int) -> Partial:
    """Sum the columns of one panel; the sums of all columns, zero where it has none."""
    matrix, layout, buffers = context.matrix, context.layout, context.buffers

    def blocks() -> Iterator[tuple[int, Any]]:
        for slab in layout.slabs(layout.panel(index)):
            for tile in layout.tiles():
                if buffers.abandoned is not None and buffers.abandoned.is_set():
                    raise Abandoned
                rows, columns = layout.rectangle(slab, tile)
                yield columns.start, matrix.read(rows, columns, buffers)

    return _sums(context, blocks())


def sums_blocks(context: SumsContext, index: int, pieces: Sequence[Sequence[Any]]) -> Partial:
    """Sum the columns of a panel whose chunks are results of other tasks (a dask array)."""
    layout, rows = context.layout, context.layout.orientation == "rows"
    grid, first = (layout.across, 0) if rows else (layout.swept, layout.panel(index).first)
    return _sums(
        context,
        ((grid.cut(first + j), as_block(b)) for strip in pieces for j, b in enumerate(strip)),
    )


def _sums(context: SumsContext, blocks: Iterable[tuple[int, Any]]) -> Partial:
    started = time.perf_counter()
    work = working_dtype(context.matrix.dtype)
    Z = np.zeros((context.matrix.shape[1], 2), work)
    with np.errstate(over="ignore", invalid="ignore"):
        for start, block in blocks:
            _add(Z[start : start + block.shape[1]], block, work, context.buffers)
    seconds = time.perf_counter() - started
    return Partial(Z, np.zeros((0, 0), work), 0, None, seconds_multiplying=seconds)


def _add(Z: Array, block: Any, work: np.dtype[Any], buffers: Buffers) -> None:
    if isinstance(block, SparseSum):
        pieces = (Piece(sp.csr_array(block.S)),)
        block = Composed(block.shape, work, pieces, block.factors) if block.factors else block.S
    if sp.issparse(block):
        X: Any = block.astype(work)  # type: ignore[attr-defined]
        Z[:, 0] += np.asarray(X.sum(axis=0)).ravel()
        X.data = np.abs(X.data) ** 2
        Z[:, 1] += np.asarray(X.sum(axis=0)).ravel()
        return
    step = max(1, TILE_BYTES // work.itemsize // block.shape[1])
    for start in range(0, block.shape[0], step):
        part = block[start : start + step]
        X = buffers.take("sums.tile", part.shape, work)
        if isinstance(part, Composed):
            part.fill(X, buffers)
        else:
            np.copyto(X, part, casting="unsafe")
        Z[:, 0] += X.sum(axis=0)
        Z[:, 1] += np.einsum("ij,ij->j", X.conj(), X)
