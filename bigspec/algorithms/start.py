"""The start block shared by the iterative algorithms: old vectors first, then fresh Gaussians."""

from __future__ import annotations

from typing import Any

import numpy as np

from bigspec.algorithms import iterates
from bigspec.certificate.rounding import UNIT_ROUNDOFF

__all__ = ["start_block"]

Array = np.ndarray[Any, Any]


def start_block(
    n: int, block_size: int, entropy: int, start: Array | None, *, complex_: bool
) -> tuple[Array, Array, float]:
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
    defect : float
        Bound on the error of that equation for a unit x: rounding of the QR, and the columns
        dropped from a rank-deficient S. It matters for a `failure_probability` so small that
        ``||G^H x||`` may be of the size of rounding.
    """
    b = min(block_size, n)
    S = iterates.draw_block(n, b, entropy, complex_=complex_)
    if start is not None:
        W = iterates.scaled_columns(start, S.dtype)
        S = iterates.beside(iterates.columns(W, 0, n - b), S)
    tolerance = 8 * UNIT_ROUNDOFF * iterates.frobenius(S)
    V, R, _ = iterates.rank_revealing_qr(S, tolerance, S.shape[1])
    # Contiguous, as all arrays of a state: a checkpoint restores their memory order.
    return V, np.ascontiguousarray(R[:, R.shape[1] - b :].conj().T), 2 * tolerance
