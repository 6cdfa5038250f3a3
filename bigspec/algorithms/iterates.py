"""Everything that bigspec computes with n x b blocks, the iterates.

Only this code looks inside a block. To an algorithm a block is opaque: it has ``shape``, ``dtype``
and ``nbytes``, comes from `draw_block` or a pass, and goes through these functions. So blocks in a
store or on a GPU need no other algorithm, only other functions here. Small matrices, with no side
of length n, are NumPy arrays everywhere; a vector of length n is a block.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from bigspec.certificate import collatz_wielandt

__all__ = [
    "add",
    "apply",
    "beside",
    "column",
    "columns",
    "combine",
    "difference",
    "draw_block",
    "finite",
    "frobenius",
    "gram_norm",
    "inner",
    "normalized",
    "orthogonalize",
    "orthonormal",
    "parts",
    "phases",
    "positive_ratio",
    "qr",
    "rank_revealing_qr",
    "scaled_columns",
    "spectral_norm",
    "subtract",
    "svd",
    "times_columns",
    "whole",
]

Array = np.ndarray[Any, Any]


# It separates bigspec's random streams from a user's: a matrix made by
# numpy.random.default_rng(s) and a start block from seed s must be independent, or the
# certificate is void.
_STREAM = 0x62696773706563


def draw_block(n: int, b: int, entropy: int, *, complex_: bool = False) -> Array:
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
    rank = min(int(np.count_nonzero(s > tolerance)), most)
    dropped = float(s[rank]) if rank < len(s) else 0.0
    if rank == len(s):
        return Q, R, dropped
    return Q @ U[:, :rank], s[:rank, None] * Vh[:rank], dropped


def orthogonalize(W: Array, basis: Iterable[Array]) -> Array:
    """Subtract from W its components along the blocks of an orthonormal basis, twice.

    Twice is enough (Kahan's remark in Parlett, The Symmetric Eigenvalue Problem, 6.9). Blocks in
    a store are read each time.
    """
    for _ in range(2):
        for V in basis:
            W = W - V @ (V.conj().T @ W)
    return W


def orthonormal(W: Array) -> Array:
    """Return an orthonormal basis of the columns of W, of full rank."""
    return np.linalg.qr(W)[0]


def qr(W: Array) -> tuple[Array, Array]:
    """Factor ``W = Q R`` with orthonormal Q (n x b) and triangular R (b x b)."""
    Q, R = np.linalg.qr(W)
    return Q, R


def svd(W: Array) -> tuple[Array, Array, Array]:
    """Factor ``W = P diag(s) X^H`` with P (n x b) and the small ``X^H`` (b x b)."""
    P, s, Xh = np.linalg.svd(W, full_matrices=False)
    return P, s, Xh


def inner(V: Array, W: Array) -> Array:
    """Return the small matrix ``V^H W``."""
    return np.asarray(V.conj().T @ W)


def apply(V: Array, C: Array) -> Array:
    """Return ``V C`` for a small matrix or vector C."""
    return np.asarray(V @ C)


def difference(W: Array, V: Array, C: Array) -> Array:
    """Return ``W - V C``."""
    return np.asarray(W - V @ C)


def subtract(W: Array, V: Array, C: Array) -> None:
    """Update W to ``W - V C``."""
    W -= V @ C


def add(W: Array, V: Array, C: Array) -> None:
    """Update W to ``W + V C``."""
    W += V @ C


def combine(basis: Iterable[Array], C: Array) -> Array:
    """Return ``V C`` for V given in blocks; C is a vector or a matrix."""
    out, start = None, 0
    for block in basis:
        if out is None:
            out = np.zeros((len(block), *C.shape[1:]), np.result_type(block, C))
        stop = start + block.shape[1]
        out += block @ C[start:stop]
        start = stop
    assert out is not None
    return out


def columns(V: Array, first: int, stop: int) -> Array:
    """Return some columns of a block."""
    return V[:, first:stop]


def column(V: Array, number: int) -> Array:
    """Return one column of a block, as a vector."""
    return np.ascontiguousarray(V[:, number])


def beside(*parts: Array) -> Array:
    """Put blocks and vectors beside one another."""
    return np.column_stack(parts)


def normalized(V: Array) -> Array:
    """Divide a vector, or each column that is not zero, by its norm."""
    if V.ndim == 1:
        return np.asarray(V / np.linalg.norm(V))
    norms = np.linalg.norm(V, axis=0)
    return np.asarray(V / np.where(norms > 0, norms, 1.0))


def scaled_columns(W: Array, dtype: Any) -> Array:
    """Bring old vectors to the size of Gaussian columns, and drop those that are zero."""
    W = np.asarray(W, dtype)
    peaks = np.maximum(np.abs(W.real), np.abs(W.imag)).max(axis=0)  # norms may overflow
    W = W[:, peaks > 0] / peaks[peaks > 0]
    return np.asarray(W * (np.sqrt(len(W)) / np.linalg.norm(W, axis=0)))


def times_columns(W: Array, factors: Array) -> Array:
    """Multiply each column by its factor."""
    return np.asarray(W * factors)


def phases(W: Array) -> Array:
    """Return factors that make the entry of largest magnitude of each column positive."""
    largest = W[np.argmax(np.abs(W), axis=0), np.arange(W.shape[1])]
    size = np.abs(largest)
    return np.asarray(np.where(size > 0, largest.conj() / np.where(size > 0, size, 1.0), 1.0))


def parts(W: Array) -> Array:
    """Put the real and the imaginary parts of a complex block beside one another."""
    return np.concatenate([W.real, W.imag], axis=1)


def whole(parts: Array) -> Array:
    """Return the complex block of real and imaginary `parts`."""
    b = parts.shape[1] // 2
    return np.asarray(parts[:, :b] + 1j * parts[:, b:])


def finite(W: Array) -> bool:
    """Tell whether every entry is finite."""
    return bool(np.isfinite(W).all())


def gram_norm(W: Array) -> float:
    """Return the 2-norm of a block through its Gram matrix; infinity where that overflows."""
    if not W.size:
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        gram = W.conj().T @ W
    return float(np.sqrt(np.linalg.norm(gram, 2))) if np.isfinite(gram).all() else np.inf


def frobenius(W: Array) -> float:
    """Return the Frobenius norm."""
    return float(np.linalg.norm(W))


def spectral_norm(W: Array) -> float:
    """Return the largest singular value of a block, or of a small matrix."""
    return float(np.linalg.norm(W, 2))


def positive_ratio(w: Array, Hw: Array, error: float) -> float:
    """Bound l_1 of a non-negative H by `collatz_wielandt` at w or -w."""
    if w.sum() < 0:
        w, Hw = -w, -Hw
    return collatz_wielandt(w, Hw, error)
