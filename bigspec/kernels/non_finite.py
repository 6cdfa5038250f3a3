"""The place of the first NaN or infinity in a slab, after a product has shown that there is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.kernels.buffers import Buffers
from bigspec.kernels.entries import TILE_BYTES
from bigspec.kernels.sums import Factors, SparseSum, SumBlock

__all__ = ["NonFiniteFound", "first_non_finite"]

Array = np.ndarray[Any, Any]


class NonFiniteFound(Exception):  # noqa: N818
    """A NaN or infinity, with its place relative to the slab: (row, column) of A."""


def first_non_finite(blocks: Sequence[tuple[int, Any]], transposed: bool) -> tuple[int, int]:
    """Return (row, column) of A, from the slab's corner, of its first NaN or infinity."""
    places = []
    for offset, block in blocks:
        if isinstance(block, SumBlock | SparseSum):
            found = _first_in_sum(block)
        elif sp.issparse(block):
            coo: Any = sp.coo_array(block)  # type: ignore[call-overload]
            bad = ~np.isfinite(coo.data)
            found = np.stack([coo.row[bad], coo.col[bad]], axis=1)
        else:
            found = np.argwhere(~np.isfinite(block))
        if len(found):
            row, column = (int(k) for k in found[np.lexsort(found.T[::-1])[0]])
            places.append((row + offset, column) if transposed else (row, column + offset))
    return min(places) if places else (-1, -1)


def _first_in_sum(block: SumBlock | SparseSum) -> Array:
    """Return [[row, column]] of the first entry of a sum that is NaN or infinite, if any."""
    height, width = block.shape
    step, buffers = max(1, TILE_BYTES // 16 // width), Buffers()
    for start in range(0, height, step):
        stop = min(start + step, height)
        if isinstance(block, SumBlock):
            entries = np.empty((stop - start, width), block.dtype)
            with np.errstate(invalid="ignore", over="ignore"):
                block[start:stop].fill(entries, buffers)
        else:
            factors = block.factors
            cut = factors if factors is None else Factors(factors.U[start:stop], factors.W)
            entries = SparseSum(sp.csr_array(block.S)[start:stop], cut, 0).toarray()
        found = np.argwhere(~np.isfinite(entries))
        if len(found):
            return np.asarray(found[:1] + np.array([start, 0]))
    return np.zeros((0, 2), np.int64)
