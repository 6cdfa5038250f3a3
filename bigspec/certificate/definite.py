r"""The largest eigenvalue of a matrix in memory, between a Rayleigh quotient and a Cholesky factor.

All eigenvalues of H of order n cost ``4/3 n^3`` flops at half the speed of the processor. A proof
that ``l_1 <= t`` costs ``n^3 / 3`` at full speed: the Cholesky factorisation of ``t I - H`` runs to
its end. A few Lanczos steps find the t to try, and the vector that attains the lower end.

*Upper end.* If the factorisation of the floating-point matrix ``M`` runs to completion, its
factor satisfies ``R^H R = M + D`` with ``|D| <= g |R|^H |R|``, ``g = c u / (1 - c u)``, c = n + 1
(Higham, Accuracy and Stability, Theorem 10.3, for any order of the sums). The diagonal of
``R^H R`` is at most that of ``M`` over ``1 - g``, so ``||D||_2 <= g ||R||_F^2`` is at most
``g / (1 - g) tr M``, and ``l_min(M) >= -||D||_2`` (Demmel; Rump, BIT 46, 2006). Forming ``M``
rounds the diagonal alone, by ``u`` times its largest entry. So

    l_1(H) <= t + g / (1 - g) tr(t I - H) + u max_i |t - h_ii|.

This is a worst case over all roundings, not a model. `GUARD` times c leaves room for a triangular
solve that multiplies by reciprocals, and for complex arithmetic.

*Lower end.* ``l_1 >= x^H H x / x^H x`` at any x. Sums of n products, twice, err by at most
``2 g |x|^H |H| |x| <= 2 g tr(H) x^H x``, as ``|| |H| ||_2 <= ||H||_F <= tr H`` for a positive
semidefinite H; half of `GUARD` is for an H that is semidefinite only up to rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.linalg as sla

from bigspec.certificate.rounding import UNIT_ROUNDOFF

__all__ = ["Enclosure", "largest_eigenvalue", "proved_bound"]

Array = np.ndarray[Any, Any]

GUARD = 4
SMALL = 96  # up to this order all eigenvalues cost less than a dozen calls from Python
STEPS = 12, 24, 48  # Lanczos steps before each try of a factorisation
AIM = 0.8  # share of the requested width between the Rayleigh quotient and the first t
FINEST = 8.0  # a width below this many margins is left to the eigenvalues
TINY = float(np.finfo(np.float64).tiny)


class Enclosure(NamedTuple):
    """``lower <= l_1(H) <= upper``, rounding of this computation included.

    Attributes
    ----------
    lower, upper : float
    method : str
        ``"Cholesky"`` or ``"eigenvalues"``.
    """

    lower: float
    upper: float
    method: str


def largest_eigenvalue(H: Array, width: float) -> Enclosure:
    """Bracket the largest eigenvalue of a positive semidefinite matrix.

    Parameters
    ----------
    H : ndarray (n, n)
        Exactly Hermitian, positive semidefinite up to rounding, float64 or complex128. Squares of
        its entries must neither overflow nor underflow noticeably. It is not changed.
    width : float
        Relative width to aim at. The result is usually narrower. It is wider only if rounding
        does not allow this width.

    Returns
    -------
    Enclosure
        Nothing in it is random. With ``"eigenvalues"``, the margin is the backward error of
        LAPACK's solver.

    Notes
    -----
    Cost: ``n^3 / 3`` flops, 12 to 84 Lanczos steps of ``2 n^2`` flops, and two copies of H. It
    falls back on `eigvalsh` if n is at most `SMALL`, the width is near rounding, or a
    factorisation failed three times.
    """
    n = len(H)
    trace = float(np.sum(H.diagonal().real))
    if trace == 0.0:
        return Enclosure(0.0, 0.0, "eigenvalues")
    slack = _margin(n)
    if n > SMALL and width > FINEST * slack * n:
        x = _start(H)
        for steps in STEPS:
            x = _lanczos(H, x, steps)
            lower, quotient = _rayleigh(H, x, slack * trace)
            t = quotient * (1 + AIM * width)
            upper = _proved(H, t, slack)
            if upper is not None:
                return Enclosure(lower, upper, "Cholesky")
    top = float(np.linalg.eigvalsh(H)[-1])
    # Backward error of the Hermitian eigensolver (LAPACK Users' Guide, 4.7).
    margin = 8 * UNIT_ROUNDOFF * float(np.sqrt(n)) * abs(top) + n * TINY
    return Enclosure(max(top - margin, 0.0), top + margin, "eigenvalues")


def _margin(n: int) -> float:
    """Return ``g / (1 - g)`` of the header."""
    g = GUARD * (n + 1) * UNIT_ROUNDOFF
    g = g / (1 - g)
    return g / (1 - g)


def _start(H: Array) -> Array:
    """Return ``H x`` for one random x of each order, which is an eigenvector only by chance."""
    x = np.random.default_rng(20230426).standard_normal(len(H))
    return np.asarray(H @ x)


def _lanczos(H: Array, x: Array, steps: int) -> Array:
    """Return the leading Ritz vector of the Krylov space of x, fully orthogonalised."""
    n = len(H)
    steps = min(steps, n)
    V = np.zeros((steps, n), H.dtype)
    alpha, beta = np.zeros(steps), np.zeros(steps)
    size = float(np.linalg.norm(x))
    if not size > 0.0:
        x, size = np.ones(n, H.dtype), float(np.sqrt(n))
    V[0], made = x / size, steps
    for k in range(steps):
        w = H @ V[k]
        alpha[k] = float(np.real(np.vdot(V[k], w)))
        for _ in range(2):
            w = w - V[: k + 1].T @ (V[: k + 1].conj() @ w)
        beta[k] = float(np.linalg.norm(w))
        if k + 1 == steps or not beta[k] > 1e-14 * abs(alpha[0]):
            made = k + 1
            break
        V[k + 1] = w / beta[k]
    T = np.diag(alpha[:made]) + np.diag(beta[: made - 1], 1) + np.diag(beta[: made - 1], -1)
    return np.asarray(np.linalg.eigh(T)[1][:, -1] @ V[:made])


def _rayleigh(H: Array, x: Array, error: float) -> tuple[float, float]:
    """Return a lower bound of l_1 and the Rayleigh quotient behind it."""
    square = float(np.real(np.vdot(x, x)))
    quotient = float(np.real(np.vdot(x, H @ x))) / square
    return max(quotient - error - 4 * UNIT_ROUNDOFF * abs(quotient), 0.0), quotient


def proved_bound(H: Array, t: float) -> float | None:
    """Return an upper bound of l_1 near t, or None if a factorisation does not prove it.

    Parameters
    ----------
    H : ndarray (n, n)
        See `largest_eigenvalue`.
    t : float
    """
    return _proved(H, t, _margin(len(H)))


def _proved(H: Array, t: float, slack: float) -> float | None:
    """Return an upper bound of l_1 near t, or None if the factorisation fails."""
    M = np.array(-H, order="F")  # Fortran order: LAPACK factors it in place
    diagonal = np.einsum("ii->i", M)
    diagonal += t
    trace, largest = float(np.sum(diagonal.real)), float(np.max(np.abs(diagonal)))
    factor: Any = sla.get_lapack_funcs("potrf", (M,))
    _, info = factor(M, lower=False, overwrite_a=True, clean=False)
    if info != 0:
        return None
    n = len(H)
    bound = t + slack * trace + UNIT_ROUNDOFF * largest + n * n * TINY
    return bound * (1 + 4 * UNIT_ROUNDOFF)
