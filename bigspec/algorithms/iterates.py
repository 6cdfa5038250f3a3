"""Small dense algebra on n x b blocks: start blocks, rank-revealing QR, orthogonalisation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["gaussian_block", "orthogonalize", "rank_revealing_qr"]

Array = np.ndarray[Any, Any]


# Sets bigspec's streams apart from any a user would seed with: a matrix made by
# numpy.random.default_rng(s) and a start block from seed s must be independent, or the
# certificate is void.
_STREAM = 0x62696773706563


def gaussian_block(n: int, b: int, entropy: int, *, complex_: bool = False) -> Array:
    """Draw the standard Gaussian start block from recorded entropy.

    Parameters
    ----------
    n, b : int
        Shape of the block.
    entropy : int
        The recorded seed; the same entropy gives the same block.
    complex_ : bool
        Draw real and imaginary parts from N(0, 1/2).

    Returns
    -------
    ndarray (n, b), float64 or complex128
        Row-major. Only Gaussian starts are valid: Rademacher and uniform ones break the
        chi-square law that the certificate rests on.
    """
    sequence = np.random.SeedSequence(entropy, spawn_key=(_STREAM,))
    generator = np.random.Generator(np.random.PCG64DXSM(sequence))
    if complex_:
        parts = generator.standard_normal((n, b, 2))
        return np.asarray((parts * np.sqrt(0.5)).view(np.complex128)[..., 0])
    return generator.standard_normal((n, b))


def rank_revealing_qr(W: Array, tolerance: float, most: int) -> tuple[Array, Array, float]:
    """Factor ``W = Q B`` with orthonormal Q, dropping directions below `tolerance`.

    A rank-deficient residual block leaves columns in a QR factor that are rounding noise, not
    orthogonal to the basis. They are dropped rather than kept: QR of W, SVD of its small factor.

    Parameters
    ----------
    W : ndarray (n, b)
    tolerance : float
        Singular values of W at or below it are dropped.
    most : int
        Largest number of columns to keep.

    Returns
    -------
    Q : ndarray (n, r), B : ndarray (r, b), dropped : float
        ``||W - Q B||_2 = dropped``.
    """
    Q, R = np.linalg.qr(W)
    U, s, Vh = np.linalg.svd(R)
    kept = min(int(np.count_nonzero(s > tolerance)), most)
    dropped = float(s[kept]) if kept < len(s) else 0.0
    if kept == len(s):
        return Q, R, dropped
    return Q @ U[:, :kept], s[:kept, None] * Vh[:kept], dropped


def orthogonalize(W: Array, basis: Iterable[Array]) -> Array:
    """Subtract from W its components along the blocks of an orthonormal basis, twice.

    Twice is enough (Kahan's remark in Parlett, The Symmetric Eigenvalue Problem, 6.9). Blocks
    that lie in a store are read each time.
    """
    for _ in range(2):
        for V in basis:
            W = W - V @ (V.conj().T @ W)
    return W
