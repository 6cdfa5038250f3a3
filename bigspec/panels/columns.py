"""Sums and squares of the columns of one panel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.kernels import TILE_BYTES, working_dtype
from bigspec.kernels.buffers import Buffers
from bigspec.kernels.composed import Composed, Piece, SparseSum
from bigspec.kernels.entries import Values
from bigspec.kernels.partials import Partial
from bigspec.kernels.sparse import SparseTile, add_column_sums
from bigspec.panels.context import Context
from bigspec.panels.reading import Chunks, Reader

__all__ = ["SumsContext"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class SumsContext(Context):
    """What all tasks share that sum columns."""

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
        pieces = (Piece(sp.csr_array(block.S)),)
        block = Composed(block.shape, work, pieces, block.factors) if block.factors else block.S
    if sp.issparse(block):
        tile = SparseTile.of(0, block, transposed=False, distinct=True)
        sums, squares = np.zeros(len(Z), work), np.zeros(len(Z))
        add_column_sums(tile, sums, squares, Values(work, 0, False, buffers))
        Z[:, 0] += sums
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
        Z[:, 0] += X.sum(axis=0)
        Z[:, 1] += np.einsum("ij,ij->j", X.conj(), X)
