"""The start block shared by the iterative algorithms: old vectors first, then fresh Gaussians."""

from __future__ import annotations

from typing import Any

import numpy as np

from bigspec.dense import UNIT_ROUNDOFF, gaussian_block, rank_revealing_qr

__all__ = ["start_block"]

Array = np.ndarray[Any, Any]


def start_block(
    n: int, block_size: int, entropy: int, start: Array | None, *, complex_: bool
) -> tuple[Array, Array]:
    """Factor the start block ``S = [W, G] = V_1 R_0`` (section 8).

    Parameters
    ----------
    n, block_size : int
        Shape of the Gaussian part, cut to at most n columns.
    entropy : int
    start : ndarray (n, s) or None
        Old vectors W; scaled to the size of Gaussian columns, zero columns dropped.

    Returns
    -------
    V_1 : ndarray (n, s + b)
    tie : ndarray (b, s + b)
        Rows of ``R_0^H`` that belong to G: ``G^H x = tie V_1^H x`` for every x.
    """
    b = min(block_size, n)
    S = gaussian_block(n, b, entropy, complex_=complex_)
    if start is not None:
        W = np.asarray(start, S.dtype)
        norms = np.linalg.norm(W, axis=0)
        W = W[:, norms > 0] * (np.sqrt(n) / norms[norms > 0])
        S = np.concatenate([W[:, : n - b], S], axis=1)
    tolerance = 8 * UNIT_ROUNDOFF * float(np.linalg.norm(S))
    V, R, _ = rank_revealing_qr(S, tolerance, S.shape[1])
    return V, R[:, R.shape[1] - b :].conj().T
