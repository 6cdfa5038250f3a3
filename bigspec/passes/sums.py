"""Sums and squares of the columns in one pass: what centring and scaling are made from."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.blocks import Composed, Piece, SparseSum
from bigspec.buffers import Buffers
from bigspec.dense import UNIT_ROUNDOFF
from bigspec.errors import NonFiniteError
from bigspec.kernels import TILE_BYTES, working_dtype
from bigspec.layout import choose_layout
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.partials import Partial
from bigspec.passes.executors import Begun, Executor
from bigspec.passes.tasks import Abandoned, Context, as_block

__all__ = ["column_sums"]

Array = np.ndarray[Any, Any]

ROWS = 512  # added in one chain
CHANCE = 4.0  # standard deviations of the rounding of a chain, in the units of the model


def column_sums(matrix: Matrix, executor: Executor, limit: int) -> tuple[Array, Array]:
    """Return the sums of the columns and of their squared magnitudes; reads the matrix once.

    Parameters
    ----------
    matrix : Matrix
    executor : Executor
    limit : int
        Bytes that one process may hold.

    Returns
    -------
    sums : ndarray (n,), float64 or complex128
    squares : ndarray (n,), float64
        Infinite or too small where a square leaves the range of float64.

    Raises
    ------
    NonFiniteError
        A sum is not finite: a NaN or an infinity lies in the column, or it overflows.
    """
    assert not isinstance(matrix, OperatorMatrix)
    layout = choose_layout(
        matrix, 2, blocks=2, limit=limit, tasks=executor.tasks, local=executor.local
    )
    context = SumsContext(matrix, layout, None, None, False)
    total = executor.sum_rounds(
        context, Begun(), on_panels=lambda _: None, on_sum=lambda *_: None, deadline=None
    )
    sums, squares = total.Z[:, 0], total.Z[:, 1].real
    bad = ~np.isfinite(sums)
    if bad.any():
        column = int(np.argmax(bad))
        msg = (
            f"{matrix.name}: expected finite entries that can be summed, got others in column "
            f"{column}; mend or mask the data, or scale it"
        )
        raise NonFiniteError(msg)
    return sums, np.ascontiguousarray(squares)


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
        sizes = X.copy()
        sizes.data = np.abs(X.data) ** 2
        squares = _sums_of_sparse(sizes, None)
        Z[:, 0] += _sums_of_sparse(X, np.sqrt(X.shape[0] * np.abs(squares)))
        Z[:, 1] += squares
        return
    step = max(1, TILE_BYTES // work.itemsize // block.shape[1])
    for start in range(0, block.shape[0], step):
        part = block[start : start + step]
        X = buffers.take("sums.tile", part.shape, work)
        if isinstance(part, Composed):
            part.fill(X, buffers)
        else:
            np.copyto(X, part, casting="unsafe")
        squares = np.einsum("ij,ij->j", X.conj(), X)
        if len(X) <= ROWS:
            Z[:, 0] += X.sum(axis=0)
            Z[:, 1] += squares
            continue
        starts = range(0, len(X), ROWS)
        parts = [X[first : first + ROWS] for first in starts]
        blocked = np.sum([np.einsum("ij,ij->j", part.conj(), part) for part in parts], axis=0)
        squares = _better(squares, blocked, len(X), np.abs(blocked))
        Z[:, 1] += squares
        blocked = np.sum([part.sum(axis=0) for part in parts], axis=0)
        Z[:, 0] += _better(X.sum(axis=0), blocked, len(X), np.sqrt(len(X) * np.abs(squares)))


def _sums_of_sparse(X: Any, scale: Array | None) -> Array:
    """Sum the columns, of many rows in parts."""
    plain = np.asarray(X.sum(axis=0)).ravel()
    if X.shape[0] <= ROWS:
        return plain
    # Each part adds a vector of all columns: not more of those than the entries are worth.
    step = max(ROWS, -(-X.shape[0] * X.shape[1] // max(X.nnz, 1)))
    X = X.tocsr()
    starts = range(0, X.shape[0], step)
    parts = [np.asarray(X[first : first + step].sum(axis=0)).ravel() for first in starts]
    blocked = np.sum(parts, axis=0)
    return _better(plain, blocked, X.shape[0], np.abs(blocked) if scale is None else scale)


def _better(plain: Array, blocked: Array, terms: int, scale: Array) -> Array:
    """Return sums made in blocks where those of one chain are off by more than chance.

    Equal terms are rounded the same way at every step, so that the errors of a chain add up:
    1e-11 of the sum for 1e5 rows, which with a mean of 1e12 deviations is no mean at all.
    """
    bound = CHANCE * np.sqrt(terms) * UNIT_ROUNDOFF * scale  # NaN keeps what was found to be one
    return np.asarray(np.where(np.abs(plain - blocked) > bound, blocked, plain))
