"""Products ``S_i V`` of one slab with a block, tile by tile, for passes that only go forward."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.kernels import load_tile, scale_entries, working_dtype
from bigspec.kernels.buffers import Buffers
from bigspec.kernels.composed import Factors, SparseSum

__all__ = ["multiply_adjoint", "multiply_slab"]

Array = np.ndarray[Any, Any]

TILE_BYTES = 4 << 20


def multiply_slab(
    tiles: Iterable[tuple[int, Any]],
    height: int,
    V: Array,
    dtype: np.dtype[Any],
    *,
    exponent: int = 0,
    transposed: bool = False,
    buffers: Buffers | None = None,
) -> Array:
    """Return ``2**-exponent S_i V`` for one slab of S.

    Parameters
    ----------
    tiles : iterable of (int, block)
        The slab in pieces across: ``(offset along V, block as stored)``, dense or sparse. Read
        one after another, so that a slab that does not fit at once can be streamed.
    height : int
        Rows of the slab in S.
    V : ndarray (n, b)
        In the working dtype.
    dtype : numpy.dtype
        Stored type of the matrix.
    exponent : int
        Entries are multiplied by ``2**-exponent``, before they can overflow.
    transposed : bool
        Blocks come as stored, A[:, J], and ``S = A^H``.
    buffers : Buffers, optional
        Scratch of this thread.

    Returns
    -------
    ndarray (height, b)
        NaN or infinity in the entries shows in the product.
    """
    buffers = buffers or Buffers()
    work = working_dtype(dtype)
    Y = np.zeros((height, V.shape[1]), work)
    with np.errstate(invalid="ignore", over="ignore"):
        for offset, block in tiles:
            if isinstance(block, SparseSum):
                if block.factors is not None:
                    _add_factors(Y, offset, block.factors, V, exponent, transposed)
                block = block.S
            if sp.issparse(block):
                X: Any = sp.csr_array(block).astype(work)  # type: ignore[call-overload]
                scale_entries(X.data, exponent)
                X = X.conj().T if transposed else X
                Y += X @ V[offset : offset + X.shape[1]]
            else:
                _add_dense(Y, offset, block, V, work, exponent, transposed, buffers)
    return Y


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
    W : ndarray (height, b)
        In the working dtype.
    Z : ndarray (n, b)
    """
    buffers = buffers or Buffers()
    with np.errstate(invalid="ignore", over="ignore"):
        for offset, block in tiles:
            part = Z[offset : offset + block.shape[0 if transposed else 1]]
            if isinstance(block, SparseSum):
                if block.factors is not None:
                    L, R = block.factors.U, block.factors.W
                    L, R = (R, L) if transposed else (L, R)
                    part += R @ (L.conj().T @ W)
                block = block.S
            if sp.issparse(block):
                X: Any = sp.csr_array(block).astype(W.dtype)  # type: ignore[call-overload]
                part += (X if transposed else X.conj().T) @ W
                continue
            width = len(part)
            rows = max(1, TILE_BYTES // W.itemsize // max(width, 1))
            for start in range(0, len(W), rows):
                stop = min(start + rows, len(W))
                tile = block[:, start:stop] if transposed else block[start:stop]
                X = buffers.take("products.tile", tile.shape, W.dtype)
                load_tile(tile, X, 0, conjugate=not transposed, buffers=buffers)
                part += (X if transposed else X.T) @ W[start:stop]


def _add_dense(
    Y: Array,
    offset: int,
    block: Array,
    V: Array,
    work: np.dtype[Any],
    exponent: int,
    transposed: bool,
    buffers: Buffers,
) -> None:
    width = block.shape[0 if transposed else 1]
    rows = max(1, TILE_BYTES // work.itemsize // max(width, 1))
    part = V[offset : offset + width]
    for start in range(0, len(Y), rows):
        stop = min(start + rows, len(Y))
        tile = block[:, start:stop] if transposed else block[start:stop]
        X = buffers.take("products.tile", tile.shape, work)
        load_tile(tile, X, exponent, conjugate=transposed, buffers=buffers)
        Y[start:stop] += (X.T if transposed else X) @ part


def _add_factors(
    Y: Array, offset: int, factors: Factors, V: Array, exponent: int, transposed: bool
) -> None:
    L, R = (factors.W, factors.U) if transposed else (factors.U, factors.W)
    factors = Factors(L, R).scaled(exponent)
    Y += factors.U @ (factors.W.conj().T @ V[offset : offset + len(R)])
