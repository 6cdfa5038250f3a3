"""Sums and squares of the columns of one panel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.kernels import TILE_BYTES, working_dtype
from bigspec.kernels.buffers import Buffers
from bigspec.kernels.entries import Values
from bigspec.kernels.partials import Partial
from bigspec.kernels.sparse import SparseTile, add_column_sums
from bigspec.kernels.sums import SparseSum, SumBlock, TermBlock
from bigspec.panels.context import Context
from bigspec.panels.reading import Chunks, Reader

__all__ = ["SumsContext"]

Array = np.ndarray[Any, Any]

UNIT_ROUNDOFF = float(np.finfo(np.float64).eps) / 2
ROWS = 512  # rows added in one chain
CHANCE = 4.0  # standard deviations of a chain's rounding, by the rounding model


@dataclass(frozen=True, eq=False)
class SumsContext(Context):
    """The context of tasks that sum columns."""

    @property
    def sum_nbytes(self) -> int:
        """Bytes of the sums and the squares of all columns."""
        return 2 * self.matrix.shape[1] * working_dtype(self.matrix.dtype).itemsize

    def work(self, index: int, chunks: Chunks | None = None) -> Partial:
        """Return the sums of all columns over one panel; zero for columns outside of it."""
        reader, rows = Reader(self, index, chunks), self.layout.orientation == "rows"
        work = working_dtype(self.matrix.dtype)
        Z = np.zeros((self.matrix.shape[1], 2), work)
        with np.errstate(over="ignore", invalid="ignore"):
            for slab in reader.slabs():
                for offset, block in slab.tiles():
                    first = offset if rows else slab.start
                    _add(Z[first : first + block.shape[1]], block, work, self.buffers)
        nothing = np.zeros((0, 0), work)
        return Partial(Z, nothing, 0, None, reader.tokens, **reader.cost())


def _add(Z: Array, block: Any, work: np.dtype[Any], buffers: Buffers) -> None:
    if isinstance(block, SparseSum):
        blocks = (TermBlock(sp.csr_array(block.S)),)
        block = SumBlock(block.shape, work, blocks, block.factors) if block.factors else block.S
    if sp.issparse(block):
        tile = SparseTile.of(0, block, transposed=False, distinct=True)
        sums, squares = _sums_of_sparse(tile, Values(work, 0, False, buffers))
        Z[:, 0] += sums
        Z[:, 1] += squares
        return
    step = max(1, TILE_BYTES // work.itemsize // block.shape[1])
    for start in range(0, block.shape[0], step):
        part = block[start : start + step]
        X = buffers.take("sums.tile", part.shape, work)
        if isinstance(part, SumBlock):
            part.fill(X, buffers)
        else:
            np.copyto(X, part, casting="unsafe")
        sums, squares = _sums_of_dense(X)
        Z[:, 0] += sums
        Z[:, 1] += squares


def _sums_of_dense(X: Array) -> tuple[Array, Array]:
    """Sum the columns and their squares; many rows are summed in parts."""
    sums, squares = _sums(X)
    if len(X) <= ROWS:
        return sums, squares
    pairs = [_sums(X[first : first + ROWS]) for first in range(0, len(X), ROWS)]
    blocked, blocked_squares = (np.sum(list(parts), axis=0) for parts in zip(*pairs, strict=True))
    squares = _better(squares, blocked_squares, len(X), np.abs(blocked_squares))
    return _better(sums, blocked, len(X), np.sqrt(len(X) * np.abs(squares))), squares


def _sums(X: Array) -> tuple[Array, Array]:
    return X.sum(axis=0), np.einsum("ij,ij->j", X.conj(), X)


def _sums_of_sparse(tile: SparseTile, values: Values) -> tuple[Array, Array]:
    """Sum the columns and their squares; many compressed rows are summed in parts.

    Compressed columns are added pairwise (`numpy.add.reduceat`), not in one chain.
    """
    sums, squares = np.zeros(tile.width, values.work), np.zeros(tile.width)
    add_column_sums(tile, sums, squares, values)
    height = tile.height
    if not tile.by_rows or height <= ROWS:
        return sums, squares
    blocked, blocked_squares = np.zeros_like(sums), np.zeros_like(squares)
    # Each part adds a vector of all columns, so few entries are not cut into many parts.
    entries = int(tile.indptr[-1] - tile.indptr[0])
    step = max(ROWS, -(-height * tile.width // max(entries, 1)))
    for first in range(0, height, step):
        part, part_squares = np.zeros_like(sums), np.zeros_like(squares)
        rows = tile.rows(first, min(first + step, height))
        add_column_sums(rows, part, part_squares, values)
        blocked += part
        blocked_squares += part_squares
    squares = _better(squares, blocked_squares, height, np.abs(blocked_squares))
    return _better(sums, blocked, height, np.sqrt(height * np.abs(squares))), squares


def _better(plain: Array, blocked: Array, terms: int, scale: Array) -> Array:
    """Return the sums of one chain, or those of blocks where the two differ by more than chance.

    Equal terms are rounded the same way at every step, so the errors of a chain add up to 1e-11
    of the sum for 1e5 rows. If the mean is 1e12 standard deviations, it is useless then.
    """
    bound = CHANCE * np.sqrt(terms) * UNIT_ROUNDOFF * scale  # a NaN stays a NaN
    return np.asarray(np.where(np.abs(plain - blocked) > bound, blocked, plain))
