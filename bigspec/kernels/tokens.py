"""Content tokens: a checksum of sampled entries shows that a panel has changed."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

__all__ = ["LEAST", "STRIDE", "block_token"]

STRIDE = 1021
"""Distance of sampled entries. It is prime, so that samples drift over the columns. A change of
this many neighbouring entries is always seen; a change of a few may be missed."""
LEAST = 4096
"""The fewest samples of a small block: all or nearly all of its entries."""


def block_token(block: Any, token: int = 0) -> int:
    """Fold a block, dense or sparse, into a CRC-32 of sampled entries.

    One entry in `STRIDE` is read, in the order of rows. That costs next to nothing beside the
    products (benchmarks/README.md), and the token is the same for every memory order.

    Parameters
    ----------
    block : ndarray, SciPy CSR/CSC block, or a sum of such
    token : int
        Token of the blocks before this one.
    """
    if hasattr(block, "leaves"):
        for leaf in block.leaves():
            token = block_token(leaf, token)
        return token
    if hasattr(block, "indptr"):
        for part in (block.indptr, block.indices, block.data):
            token = _fold(part, token)
        return token
    return _fold(block, token)


def _fold(entries: np.ndarray[Any, Any], token: int) -> int:
    stride = min(STRIDE, max(1, entries.size // LEAST) | 1)
    if entries.flags.c_contiguous:
        sample = entries.reshape(-1)[::stride]
    else:
        sample = entries[np.unravel_index(np.arange(0, entries.size, stride), entries.shape)]
    return zlib.crc32(np.ascontiguousarray(sample).view(np.uint8).data, token)
