"""Products of one slab in one direction, ``S_i V`` or ``S_i^H W``, tile by tile."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.kernels.buffers import Buffers
from bigspec.kernels.entries import Values, loaded_ranges
from bigspec.kernels.sparse import SparseTile, add_backward, add_forward
from bigspec.kernels.sums import Factors, SparseSum

__all__ = ["multiply_adjoint", "multiply_slab"]

Array = np.ndarray[Any, Any]


def multiply_slab(
    tiles: Iterable[tuple[int, Any]],
    V: Array,
    Y: Array,
    *,
    exponent: int = 0,
    transposed: bool = False,
    buffers: Buffers | None = None,
) -> None:
    """Write ``2**-exponent S_i V`` for one slab of S to Y.

    Parameters
    ----------
    tiles : iterable of (int, block)
        The slab, cut across: ``(offset along V, block as stored)``, dense or sparse. One tile is
        read at a time, so a slab that does not fit can be streamed.
    V : ndarray (n, b)
        In the working type of the matrix, C-contiguous.
    Y : ndarray (rows of the slab in S, b)
        Zeros of that type, C-contiguous. It shows any NaN or infinity of the entries.
    exponent : int
        Entries are multiplied by ``2**-exponent``, before they can overflow.
    transposed : bool
        Blocks come as stored, A[:, J], and ``S = A^H``.
    buffers : Buffers, optional
        Scratch of this thread.
    """
    buffers = buffers or Buffers()
    values = Values(Y.dtype, exponent, transposed, buffers)
    with np.errstate(invalid="ignore", over="ignore"):
        for number, (offset, block) in enumerate(tiles):
            S, factors = _terms(block)
            if sp.issparse(S):
                tile = SparseTile.of(offset, S, transposed=transposed, distinct=False)
                # The first tile is added to nothing, so the bits are those of sums of whole tiles.
                product = Y if number == 0 else _zeros("one_way.rows", Y, buffers)
                add_forward(tile, V, product, values)
                if number:
                    Y += product
            else:
                width = S.shape[0 if transposed else 1]
                for rows, X in loaded_ranges(S, values):
                    Y[rows] += X @ V[offset : offset + width]
            if factors is not None:
                _add_factors(Y, offset, factors, V, exponent, transposed)


def multiply_adjoint(
    tiles: Iterable[tuple[int, Any]],
    W: Array,
    Z: Array,
    *,
    transposed: bool = False,
    buffers: Buffers | None = None,
) -> None:
    """Add ``S_i^H W`` to Z for one slab of S.

    Parameters
    ----------
    tiles, transposed, buffers
        As for `multiply_slab`.
    W : ndarray (rows of the slab in S, b)
        In the working type, C-contiguous.
    Z : ndarray (n, b)
    """
    buffers = buffers or Buffers()
    values = Values(W.dtype, 0, transposed, buffers)
    with np.errstate(invalid="ignore", over="ignore"):
        for offset, block in tiles:
            S, factors = _terms(block)
            part = Z[offset : offset + S.shape[0 if transposed else 1]]
            if factors is not None:
                L, R = (factors.W, factors.U) if transposed else (factors.U, factors.W)
                part += R @ (L.conj().T @ W)
            if sp.issparse(S):
                tile = SparseTile.of(0, S, transposed=transposed, distinct=False)
                product = _zeros("kernel.product", part, buffers)
                add_backward(tile, W, product, values)
                part += product
            else:
                for rows, X in loaded_ranges(S, values, adjoint=True):
                    part += X @ W[rows]


def _terms(block: Any) -> tuple[Any, Factors | None]:
    """Return the block that is multiplied entry by entry, and the factors beside it."""
    return (block.S, block.factors) if isinstance(block, SparseSum) else (block, None)


def _zeros(name: str, like: Array, buffers: Buffers) -> Array:
    zeros = buffers.take(name, like.shape, like.dtype)
    zeros.fill(0)
    return zeros


def _add_factors(
    Y: Array, offset: int, factors: Factors, V: Array, exponent: int, transposed: bool
) -> None:
    L, R = (factors.W, factors.U) if transposed else (factors.U, factors.W)
    factors = Factors(L, R).scaled(exponent)
    Y += factors.U @ (factors.W.conj().T @ V[offset : offset + len(R)])
