"""The squares of ``X + L R^H``, X sparse, without writing it out, even if it mostly cancels."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.kernels.entries import TILE_BYTES

__all__ = ["squares_of_sum"]

Array = np.ndarray[Any, Any]

CANCELLED = 1e-3  # a difference below this share of the squares has lost more than three digits


def squares_of_sum(X: Any, L: Array, R: Array) -> float:
    """Return ``||X + L R^H||_F^2``.

    The squares at stored places are summed directly. Those at other places are all squares of
    ``L R^H`` less its squares at stored places. Where little is left of that, it is written out.

    Parameters
    ----------
    X : csr_array (h, n)
        Without duplicates.
    L, R : ndarray (h, k), (n, k)
    """
    rows = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    beside = np.zeros(len(X.data), X.dtype)
    for left, right in zip(L.T, R.conj().T, strict=True):
        beside += left[rows] * right[X.indices]
    sizes, own = np.abs(X.data + beside) ** 2, np.abs(beside) ** 2
    rest = _squares_of_product(L, R)
    squares = float((sizes - own).sum() + rest)
    if squares < CANCELLED * (float(sizes.sum()) + rest):
        squares = float(sizes.sum()) + _squares_beside(X, own, L, R)
    return max(squares, 0.0)


def _squares_of_product(L: Array, R: Array) -> float:
    """Return ``||L R^H||_F^2``, also where the dyads cancel one another.

    Gram matrices square the terms that cancel, and so lose twice the digits. With ``R = Q T``,
    the norm of ``L T^H`` loses no more digits than the entries do.
    """
    dyads = (L.conj().T @ L) * (R.conj().T @ R).T
    squares = float(np.sum(dyads).real)
    if squares < CANCELLED * float(np.abs(dyads).sum()):
        squares = float(np.sum(np.abs(L @ _triangle(R).conj().T) ** 2))
    return squares


def _triangle(X: Array) -> Array:
    R: Any = np.linalg.qr(X, mode="r")
    return np.asarray(R)


def _squares_of_rows(U: Array, W: Array) -> Array:
    """Return the squared norms of the rows of ``U W^H``; see `_squares_of_product`."""
    whole = np.einsum("ij,jk,ik->i", U, W.conj().T @ W, U.conj()).real
    reach = np.abs(U) @ np.linalg.norm(W, axis=0)
    lost = np.flatnonzero(whole < CANCELLED * reach**2)
    if lost.size:
        whole[lost] = np.sum(np.abs(U[lost] @ _triangle(W).conj().T) ** 2, axis=1)
    return np.asarray(whole)


def _squares_beside(X: Any, own: Array, L: Array, R: Array) -> float:
    """Sum the squares of ``L R^H`` where the CSR array X stores nothing.

    A row (column) with most of its squares at stored places is written out. For the others, the
    squares at stored places are subtracted. Rows or columns are chosen to write fewer entries.

    Parameters
    ----------
    X : csr_array (h, n)
    own : ndarray (entries,)
        Squares at the stored places.
    L, R : ndarray (h, k), (n, k)
    """
    places = sp.csr_array((own, X.indices, X.indptr), shape=X.shape)
    best: tuple[int, float, Array, Any, Array, Array] | None = None
    for U, W, M in ((L, R, places), (R, L, places.T.tocsr())):
        whole = _squares_of_rows(U, W)
        left = whole - np.asarray(M.sum(axis=1)).ravel()
        poor = np.flatnonzero((left < CANCELLED * whole) & (whole > 0))
        across = np.flatnonzero(np.abs(W).any(axis=1))
        cost = poor.size * across.size
        if best is None or cost < best[0]:
            left[poor] = 0.0
            best = cost, float(left.sum()), poor, M, U, W[across]
            columns = across
    assert best is not None
    _, total, poor, M, U, W = best
    step = max(1, TILE_BYTES // 16 // max(len(W), 1))
    for first in range(0, poor.size, step):
        rows = poor[first : first + step]
        part = M[rows]
        part = sp.csr_array((np.ones(part.nnz), part.indices, part.indptr), shape=part.shape)
        blank = part[:, columns].toarray() == 0
        D = np.abs(U[rows] @ W.conj().T)
        total += float(np.sum(D**2, where=blank))
    return total
