r"""Bounds of sigma_1 of a matrix that has moved since its singular values were certified.

Let ``s_i(W_0) <= upper_i`` for i = 1 .. k, known once, and ``||W - W_0||_2 <= drift``. By Weyl,
``s_i(W) <= upper_i + drift`` for all i, whatever W is: no new event, and no union over steps. That
bounds sigma_1 to first order in the drift. The values behind it are used for more.

**Lehmann on a block.** Let ``H = W^H W`` have eigenvalues ``l_1 >= l_2 >= ..``, and let
``l_{s+1} <= tau``. For any block V (n, b), orthonormal or not, and ``z = (H - tau) V y``,

    z^H (H - tau)^{-1} z / z^H z = y^H A_1 y / y^H A_2 y,
    A_1 = V^H (H - tau) V,    A_2 = V^H (H - tau)^2 V.

``(H - tau)^{-1}`` has at most s positive eigenvalues, and the least of them is
``1 / (l_1 - tau)``. If ``0 < y^H A_2 y <= nu y^H A_1 y`` on a subspace of dimension s, its s-th
eigenvalue is at least ``1 / nu`` by Courant and Fischer, so it has s positive ones, and

    l_1 <= tau + nu.

(If ``H - tau`` is singular, a tau slightly larger will do.) With the Ritz vectors of the s largest
Ritz values theta, nu exceeds ``theta_1 - tau`` by about ``||r_1||^2 / (theta_1 - tau)``, quadratic
in the residual r_1 of today's block: the drift enters through tau alone.

**Rounding.** With ``M_0 = V^H V``, ``M_1 = (W V)^H (W V)`` and ``M_2 = (H V)^H (H V)``,
``A_1 = M_1 - tau M_0`` and ``A_2 = M_2 - 2 tau M_1 + tau^2 M_0``. Each Gram matrix is off by at
most an e_i that `gram_errors` bounds in the worst case, so

    A_1 >= A_1' - e_1 - tau e_0,    A_2 <= A_2' + e_2 + 2 tau e_1 + tau^2 e_0

for the computed A'. That ``nu A_1 - A_2`` is positive definite on the subspace is shown by a
Cholesky factorisation that runs to its end, with the margin of `bigspec.certificate.definite`.

**Lower ends.** ``||W^H u|| <= sigma_1`` for ``u = W V y / ||W V y||``, and by Weyl
``sigma_1(W) >= lower_0 - drift``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bigspec.certificate.rounding import UNIT_ROUNDOFF, hermitian

__all__ = ["Anchor", "Bracket", "Grams", "bound_after", "gram_errors", "grown"]

Array = np.ndarray[Any, Any]

SHARES = (0.0, 0.1, 0.3, 0.6)  # of the way from tau to theta_s
TRIES = (1e-12, 1e-9, 1e-6)  # relative, by which nu is raised until the factorisation succeeds
FINE = 64 * UNIT_ROUNDOFF
TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Anchor:
    """What was certified of W_0.

    Attributes
    ----------
    lower : float
        ``lower <= sigma_1(W_0)``.
    uppers : ndarray (k,)
        ``sigma_i(W_0) <= uppers[i - 1]``.
    """

    lower: float
    uppers: Array


@dataclass(frozen=True)
class Grams:
    """One pass over W with a block V (n, b): three Gram matrices of order b, and their errors.

    Attributes
    ----------
    vectors, forward, both : ndarray (b, b)
        ``V^H V``, ``(W V)^H (W V)``, ``(W^H W V)^H (W^H W V)``, as computed.
    errors : tuple of float
        Bounds of the spectral norms of their errors.
    """

    vectors: Array
    forward: Array
    both: Array
    errors: tuple[float, float, float]


class Bracket(NamedTuple):
    """``lower <= sigma_1(W) <= upper``.

    Attributes
    ----------
    lower, upper : float
    name : str
        Of the bound behind `upper`: "Lehmann", "Weyl" or "norms".
    y : ndarray (b,)
        Coordinates of the leading Ritz vector ``V y``.
    """

    lower: float
    upper: float
    name: str
    y: Array


def grown(count: float, *, complex_: bool = False) -> float:
    """Bound the relative error of a sum of `count` products, in any order of summing.

    ``gamma_k = k u / (1 - k u)`` (Higham, Accuracy and Stability, section 3.1), for k twice the
    number of terms, and four times of complex ones, which covers complex products.
    """
    k = (4.0 if complex_ else 2.0) * (count + 2.0) * UNIT_ROUNDOFF
    return k / (1.0 - k)


def gram_errors(
    shape: tuple[int, int], sizes: tuple[float, float, float], norm: float, *, complex_: bool
) -> tuple[float, float, float]:
    """Bound the errors of the Gram matrices of a pass over W (m, n), products in float64.

    ``Y' = W V + E``, ``||E||_F <= g_n ||W||_F ||V||_F``, and ``Z' = W^H Y' + E'``,
    ``||E'||_F <= g_m ||W||_F ||Y'||_F``; ``W^H E`` comes to that. A Gram matrix adds its own
    rounding.

    Parameters
    ----------
    shape : tuple of int
    sizes : tuple of float
        Frobenius norms of V, of the computed ``W V``, and of the computed ``W^H W V``.
    norm : float
        A bound of ``|| |W| ||_F``.
    complex_ : bool
    """
    m, n = shape
    tall, wide = grown(m, complex_=complex_), grown(n, complex_=complex_)
    v, y, z = (size * (1 + grown(1e6)) for size in sizes)
    first = wide * norm * v
    second = tall * norm * y + norm * first
    return (
        wide * v * v,
        tall * y * y + first * (2 * y + first),
        wide * z * z + second * (2 * z + second),
    )


def bound_after(grams: Grams, anchor: Anchor, drift: float, norm: float = math.inf) -> Bracket:
    """Bound sigma_1 of the matrix that a pass has seen, and that has moved since its anchor.

    Parameters
    ----------
    grams : Grams
    anchor : Anchor
    drift : float
        ``||W - W_0||_2`` at most.
    norm : float
        Another bound of ``||W||_2``, such as the Frobenius norm.
    """
    b = len(grams.vectors)
    theta, Y = np.linalg.eigh(hermitian(grams.forward))
    theta, Y = theta[::-1], Y[:, ::-1]
    lower = max(_attained(grams, Y[:, 0]), (anchor.lower - drift) * (1 - FINE), 0.0)
    uppers = (anchor.uppers + drift) * (1 + FINE)
    upper, name = min((float(uppers[0]), "Weyl"), (norm, "norms"))
    limits = np.square(uppers[1 : b + 1]) * (1 + FINE)
    value = _lehmann(grams, theta, Y, limits)
    if value < upper * upper:
        upper, name = math.sqrt(value) * (1 + FINE), "Lehmann"
    if lower > upper:  # attained, so the event of small probability has happened
        upper, name = norm, "norms"
    return Bracket(min(lower, upper), upper, name, Y[:, 0])


def _attained(grams: Grams, y: Array) -> float:
    """Bound sigma_1 from below by ``||W^H u||``, ``u`` along ``W V y``."""
    _, first, second = grams.errors
    square = float(np.real(np.vdot(y, y)))
    top = float(np.real(np.vdot(y, grams.both @ y))) - 2 * second * square
    base = float(np.real(np.vdot(y, grams.forward @ y))) + 2 * first * square
    if not (top > 0.0 and base > 0.0):
        return 0.0
    fine = grown(len(y) ** 2, complex_=True)
    return math.sqrt(top / base) * (1 - 8 * fine)


def _lehmann(grams: Grams, theta: Array, Y: Array, limits: Array) -> float:
    """Return the bound of l_1 by the most promising tau; infinity if none is certified."""
    count = min(len(theta), len(limits))
    if not theta[0] > 0.0:
        return math.inf
    G = hermitian(Y.conj().T @ grams.both @ Y) - np.diag(theta * theta)  # F F^H, V orthonormal
    guesses = []
    for s in range(1, count + 1):
        gap = float(theta[s - 1] - limits[s - 1])
        if not gap > 0.0:
            continue
        for share in SHARES:
            tau = float(limits[s - 1]) + share * gap
            D = theta[:s] - tau
            C = np.zeros((len(theta), len(theta)), G.dtype)
            C[:s, :s] = np.diag(D) + G[:s, :s] / np.sqrt(D)[:, None] / np.sqrt(D)
            guesses.append((s, tau, C))
    if not guesses:
        return math.inf
    tops = np.linalg.eigvalsh(np.stack([C for _, _, C in guesses]))[:, -1]
    values = np.array([tau for _, tau, _ in guesses]) + tops
    best = int(np.argmin(values))
    s, tau, _ = guesses[best]
    nu = max(float(tops[best]), float(theta[0]) - tau)
    for more in TRIES:
        raised = nu + more * float(theta[0])
        if _proved(grams, Y[:, :s], tau, raised):
            return (tau + raised) * (1 + FINE)
    return math.inf


def _proved(grams: Grams, X: Array, tau: float, nu: float) -> bool:
    """Whether ``nu A_1 - A_2`` is positive definite on the span of X (b, s), rounding included."""
    zeroth, first, second = grams.errors
    s = X.shape[1]
    # nu A_1 - A_2 in terms of the Gram matrices, and the norm that its errors can have.
    weights = (-nu * tau - tau * tau, nu + 2 * tau, -1.0)
    parts = (grams.vectors, grams.forward, grams.both)
    total = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    error = sum(abs(w) * e for w, e in zip(weights, (zeroth, first, second), strict=True))
    size = sum(abs(w) * float(np.linalg.norm(p)) for w, p in zip(weights, parts, strict=True))
    # Forming the sum and the congruence, X being orthonormal up to rounding.
    error = 2 * error + grown(4 * len(X), complex_=True) * len(X) * size
    N = hermitian(X.conj().T @ np.asarray(total) @ X)
    trace = float(np.sum(np.abs(np.diagonal(N))))
    g = grown(2 * (s + 1), complex_=True)
    N = N - (error + 2 * g * trace + TINY) * np.eye(s)
    try:
        np.linalg.cholesky(N)
    except np.linalg.LinAlgError:
        return False
    return True
