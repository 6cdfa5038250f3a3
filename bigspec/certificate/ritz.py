"""Bounds from the Ritz pairs alone: Lehmann, the half steps, bordered Frobenius, Collatz."""

from __future__ import annotations

from typing import Any

import numpy as np

from bigspec.certificate.relation import Relation
from bigspec.certificate.rounding import UNIT_ROUNDOFF, Facts

__all__ = [
    "bordered_frobenius",
    "collatz_wielandt",
    "half_step",
    "half_steps",
    "lehmann",
    "lower_ends",
    "pairs_above_rounding",
    "right_coordinates",
]

Array = np.ndarray[Any, Any]

HALF_CUTS = (1e-6, 1e-3, 0.5)  # of theta_1: Ritz pairs that the half step of l_1 uses
CUTS = (0.5, 1e-3, 1e-6)  # of theta_k: Ritz pairs that the half steps use


def lehmann(relation: Relation, s: int, tau: float, ceiling: float = np.inf) -> float:
    """Bound l_1 given ``l_{s+1} <= tau < theta_s``; quadratic in the residual (Lehmann 1949).

    With ``D = Theta - tau`` and the s positive eigenvalues mu of ``D y = mu (D^2 + F F^H) y``,
    ``l_1 <= tau + 1/mu_min``. By Haynsworth's inertia formula ``1/mu_min < nu``, for
    nu > D_1, if and only if the small matrix

        S(nu) = I + F^H [D (D - nu)]^{-1} F        (b x b)

    is positive definite. The search is for that nu: solving the N x N pencil took seven times as
    long as everything else at N = 272. The relation is exact for a Hermitian matrix within 2 eps
    of H, so tau and the result are both moved by that much.

    Parameters
    ----------
    relation : Relation
    s : int
    tau : float
    ceiling : float
        A known bound; infinity is returned if this one is no better.
    """
    theta, F = relation.theta, relation.F
    D = theta - (tau + 2 * relation.eps)
    if np.count_nonzero(D > 0) != s or np.abs(D).min() <= 8 * UNIT_ROUNDOFF * theta[0]:
        return np.inf
    size = np.sum(np.abs(F) ** 2, axis=1)
    base = float(theta[0]) + 2 * relation.eps
    # From here on nu - D_i >= nu - D_1 makes S definite.
    high = min(2 * float(np.sum(size[:s] / D[:s])), ceiling - base)
    if high <= 0.0:
        return base if ceiling > base else np.inf

    def definite(gaps: Array) -> Array:
        """Whether S(D_1 + gap) is positive definite, beyond rounding."""
        c = -1.0 / (D * (gaps[:, None] + (theta[0] - theta)))
        S = np.eye(F.shape[1]) + (F.conj().T * c[:, None, :]) @ F
        return np.asarray(np.linalg.eigvalsh(S)[:, 0] > 16 * UNIT_ROUNDOFF * (np.abs(c) @ size))

    if not definite(np.array([high]))[0]:
        return np.inf
    low = high * 2.0**-60
    for points in (61, 10, 10):
        gaps = high * np.geomspace(1.0, low / high, points)  # scales by powers of two exactly
        failed = np.flatnonzero(~definite(gaps))
        first = int(failed[0]) if failed.size else len(gaps)
        high = float(gaps[max(first - 1, 0)])
        low = float(gaps[first]) if failed.size else low
    return base + high


def half_step(relation: Relation) -> tuple[float, Array]:
    """Lower bound of l_1 from the left Ritz space span(A V), free after the pass.

    It is the largest eigenvalue of the pencil ``(T^2 + E B^H B E^H, T)`` on the Ritz pairs above a
    cut. On a subspace it stays a lower bound. Pairs far below the largest would inflate it, as the
    relation holds only within eps_H. If lambda is the eigenvalue and y its vector,
    ``||H V y|| >= sqrt(lambda y^H T y) - eps ||y||`` and ``y^H V^H H V y <= y^H T y + eps ||y||^2``
    with ``||y||^2 <= y^H T y / theta_min``, so
    ``l_1 >= (sqrt(lambda) - eps / sqrt(theta_min))^2 / (1 + eps / theta_min)``.
    The best of a few cuts is taken.

    Returns
    -------
    lower : float
        Lower bound of l_1, rounding margin subtracted; needs an orthonormal basis.
    y : ndarray (N + b_next,)
        Coordinates in ``[V Y, V_+]`` of a unit vector v with ``||A v||^2 >= lower``.
    """
    theta, F = relation.theta, relation.F
    best, coordinates = -np.inf, np.zeros(0)
    # Two cuts with the same pairs give the same bound.
    for pairs in dict.fromkeys(int(np.count_nonzero(theta > cut * theta[0])) for cut in HALF_CUTS):
        root = np.sqrt(theta[:pairs])
        K = F[:pairs] / root[:, None]
        values, vectors = np.linalg.eigh(np.diag(theta[:pairs]) + K @ K.conj().T)
        least = theta[pairs - 1]
        reached = max(np.sqrt(values[-1]) - relation.eps / np.sqrt(least), 0.0)
        with np.errstate(over="ignore"):  # a margin far above all Ritz values leaves nothing
            lower = reached**2 / (1 + relation.eps / least) - 2 * relation.eps
        if lower > best:
            z = vectors[:, -1] / root
            head = np.concatenate([theta[:pairs] * z, np.zeros(len(theta) - pairs, z.dtype)])
            best, coordinates = float(lower), np.concatenate([head, F[:pairs].conj().T @ z])
    return best, coordinates / np.linalg.norm(coordinates)


def half_steps(relation: Relation, pairs: int) -> tuple[Array, Array]:
    """Lower bounds of l_1, l_2, .. from the left Ritz space of the first `pairs` Ritz pairs.

    Returns
    -------
    lower : ndarray (pairs,)
    coordinates : ndarray (N + b_next, pairs)
        In ``[V Y, V_+]``: right vectors ``A^H u_i``, not normalised.
    """
    theta, F = relation.theta[:pairs], relation.F[:pairs]
    root = np.sqrt(theta)
    K = F / root[:, None]
    values, vectors = np.linalg.eigh(np.diag(theta) + K @ K.conj().T)
    values, vectors = values[::-1], vectors[:, ::-1]
    least = theta[-1]
    reached = np.maximum(np.sqrt(np.maximum(values, 0)) - relation.eps / np.sqrt(least), 0.0)
    lower = reached**2 / (1 + relation.eps / least) - 2 * relation.eps
    z = vectors / root[:, None]
    blank = np.zeros((len(relation.theta) - pairs, pairs), z.dtype)
    return lower, np.concatenate([theta[:, None] * z, blank, F.conj().T @ z])


def pairs_above_rounding(relation: Relation, k: int) -> list[int]:
    """Return how many Ritz pairs the half steps try; pairs of the size of rounding are left out."""
    theta = relation.theta
    safe = int(np.count_nonzero(theta > max(16 * relation.eps, 0.0)))
    least = theta[min(k, safe) - 1] if safe else 0.0
    counts = {min(safe, int(np.count_nonzero(theta >= cut * least))) for cut in CUTS}
    return sorted(count for count in counts if count)


def right_coordinates(relation: Relation, k: int) -> Array:
    """Return coordinates in ``[V Y, V_+]`` of k orthonormal vectors near x_1 .. x_k.

    They are right vectors ``A^H u_i`` of the left Ritz vectors above rounding, and Ritz vectors
    after them. The left Ritz vectors come from the cut with the best lower ends. For unit u and
    ``v = A^H u / ||A^H u||``, ``||A v|| >= ||A^H u||``, so the first i vectors attain the i-th
    lower end.

    Returns
    -------
    ndarray (N + b_next, min(k, N))
    """
    N, b = relation.F.shape
    count = min(k, N)
    pairs = _best_cut(relation, count)
    if not pairs:
        return np.eye(N + b, count, dtype=relation.T.dtype)
    _, half = half_steps(relation, pairs)
    half = half[:, :count] / np.linalg.norm(half[:, :count], axis=0)
    others = np.eye(N + b, count, dtype=half.dtype)[:, half.shape[1] :]
    return np.asarray(np.linalg.qr(np.concatenate([half, others], axis=1))[0])


def lower_ends(relation: Relation, k: int) -> tuple[Array, Array]:
    """Lower bounds of l_1 .. l_k: the best of the Ritz values and of the half steps of all cuts.

    Returns
    -------
    lower : ndarray (k,)
    left : ndarray (k,) of bool
        Where a half step gave it.
    """
    theta = relation.theta[:k]
    lower, left = np.zeros(k), np.zeros(k, bool)
    lower[: len(theta)] = theta - 2 * relation.eps
    for pairs in pairs_above_rounding(relation, k):
        half = half_steps(relation, pairs)[0][:k]
        better = half > lower[: len(half)]
        lower[: len(half)][better] = half[better]
        left[: len(half)] |= better
    return np.maximum(lower, 0.0), left


def _best_cut(relation: Relation, count: int) -> int:
    """Return how many Ritz pairs give the best lower ends; the fewest, of equals up to rounding."""
    lower, _ = lower_ends(relation, count)
    chosen, least = 0, np.inf
    for pairs in pairs_above_rounding(relation, count):
        half = half_steps(relation, pairs)[0][:count]
        attained = np.concatenate([half, relation.theta[len(half) : count] - 2 * relation.eps])
        missing = np.maximum(lower - np.maximum(attained, 0.0), 0.0)
        if np.all(missing <= relation.eps):
            return pairs
        worst = float(np.max(missing / np.maximum(lower, relation.eps)))
        if worst < least:
            chosen, least = pairs, worst
    return chosen


def bordered_frobenius(relation: Relation, facts: Facts, k: int = 1) -> Array:
    """Bound l_1 .. l_k with certainty by the trace outside the span of the basis.

    The part of H outside span(V) is positive semidefinite with trace ``||A||_F^2 - tr T``, hence
    below that trace times the identity. So H is at most the bordered matrix, continued by ``rest``
    times the identity. Its i-th eigenvalue is the larger of ``rest`` and the i-th one of the
    bordered matrix (Weyl; section 5 of the method).

    Returns
    -------
    ndarray (k,)
    """
    theta, F = relation.theta, relation.F
    trace_error = (len(theta) + 8) * relation.eps + facts.trace_error
    rest = max(facts.frobenius_squared - float(theta.sum()), 0.0) + trace_error
    border = np.block([[np.diag(theta), F], [F.conj().T, rest * np.eye(F.shape[1])]])
    values = np.full(k, rest)
    top = np.linalg.eigvalsh(border)[::-1][:k]
    values[: len(top)] = np.maximum(top, rest)
    return values + 2 * relation.eps


def collatz_wielandt(w: Array, Hw: Array, error: float) -> float:
    """Bound l_1 of an entrywise non-negative H by ``max_j (H w)_j / w_j`` for w > 0.

    Infinity unless w is positive. Entries that rounding makes negative spoil the bound, but never
    make it wrong.
    """
    if not np.all(w > 0):
        return np.inf
    return float(np.max((Hw + error) / w))
