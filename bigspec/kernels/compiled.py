"""The compiled products of the optional package `bigspec_compiled`, where entries allow them.

NumPy has to convert a tile to float64 before it multiplies. The compiled loops convert in
registers. Both sum in float64. The order of the sums differs, and so do the last bits: the choice
is part of `bigspec.panels.layout.Layout.cut`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

__all__ = ["COMPILED", "NUMPY", "Compiled", "available", "multiplies"]

Array = np.ndarray[Any, Any]

NUMPY, COMPILED = "numpy", "compiled 1"
STRIP_BYTES = 1 << 19  # of entries that stay in the cache from the first product to the second


@lru_cache(maxsize=1)
def available() -> bool:
    """Whether this process has the package, in the revision that gives these bits."""
    try:
        import bigspec_compiled
    except ImportError:
        return False
    return f"compiled {bigspec_compiled.REVISION}" == COMPILED


def multiplies(dtype: np.dtype[Any]) -> bool:
    """Whether the compiled products take entries of this type."""
    return dtype.char in "fd"


class Compiled:
    """The compiled products of slabs.

    Raises
    ------
    ImportError
        This process does not have the package. On a worker, the error of the cluster names it.
    """

    def __init__(self) -> None:
        import bigspec_compiled

        if not available():
            msg = f"bigspec_compiled: expected {COMPILED!r}, got {bigspec_compiled.REVISION}"
            raise ImportError(msg)
        self.forward, self.backward = bigspec_compiled.forward, bigspec_compiled.backward

    def takes(self, blocks: Sequence[tuple[int, Any]]) -> bool:
        """Whether all blocks of a slab can be read as they lie."""
        return all(
            isinstance(block, np.ndarray)
            and multiplies(block.dtype)
            and block.dtype.isnative
            and block.flags.aligned
            for _, block in blocks
        )

    def add(self, total: Any, blocks: Sequence[tuple[int, Any]]) -> None:
        """Add a slab to the sums of an `Accumulator`, strip by strip."""
        V, Z = total.V, total.Z
        parts = [(offset, block.T if total.transposed else block) for offset, block in blocks]
        height = len(parts[0][1])
        row = sum(part.shape[1] * part.itemsize for _, part in parts)
        step = min(max(STRIP_BYTES // row, 64), 1024)
        for start in range(0, height, step):
            stop = min(start + step, height)
            Y = total.buffers.take("kernel.rows", (stop - start, V.shape[1]), V.dtype)
            Y.fill(0)
            for offset, part in parts:
                self.forward(part[start:stop], V[offset : offset + part.shape[1]], Y)
            for offset, part in parts:
                self.backward(part[start:stop], Y, Z[offset : offset + part.shape[1]])
            total.gram += Y.T @ Y
