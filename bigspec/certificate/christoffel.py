"""The block Christoffel function and where it crosses a quantile (method, section 3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from bigspec.certificate.comparison import first_above
from bigspec.certificate.relation import Relation

__all__ = [
    "at_rounding_floor",
    "christoffel",
    "christoffel_bound",
    "exact_crossing",
    "joint_bounds",
]

Array = np.ndarray[Any, Any]

POINTS_AN_OCTAVE = 8
RATIO = 2.0 ** (-1.0 / POINTS_AN_OCTAVE)
CHUNK = 16  # points of the scan at once
TINY = float(np.finfo(float).tiny)
LARGEST_LOG = 300.0  # its square does not overflow
OCTAVES = 60  # scan down to (t - theta)/theta_1 = 2^-60 below the largest possible crossing


def _norm2(X: Array) -> Array:
    """Spectral norms of a stack of small matrices."""
    if min(X.shape[-2:]) == 0:
        return np.zeros(X.shape[:-2])
    if min(X.shape[-2:]) == 1:
        return np.asarray(np.sqrt(np.sum(np.abs(X) ** 2, axis=(-2, -1))))
    return np.asarray(np.linalg.svd(X, compute_uv=False)[..., 0])


def christoffel(relation: Relation, shift: Array, drop: int = 0) -> Array:
    """Evaluate ``w_i(theta_{i+1} + shift)``, i = `drop`: the block Christoffel function.

    Parameters
    ----------
    relation : Relation
    shift : ndarray (s,)
        Positive distances ``t - theta_{i+1}``; differences of t would lose relative accuracy.
    drop : int
        Number i of largest Ritz pairs left out.

    Returns
    -------
    ndarray (s,)
        Upper bounds of ``||G^H x||^2``, rounding margin included.
    """
    theta, C, F = relation.theta[drop:], relation.C[:, drop:], relation.F[drop:]
    D = 1.0 / (shift[:, None] + (theta[0] - theta))
    M = D[:, :, None] * F
    if relation.orthonormal and F.shape[1]:
        # Rows in descending order of size keep Householder QR row-wise stable.
        b = F.shape[1]
        eye = np.broadcast_to(np.eye(b, dtype=F.dtype), (len(shift), b, b))
        M = np.linalg.qr(np.concatenate([M, eye], axis=1))[0][:, : len(theta)]
    root = _norm2(C @ M)
    if relation.eps:
        root = root * (1 + relation.eps * D[:, 0]) + relation.eps * _norm2(C * D[:, None, :])
    if relation.power:
        log_t = np.log(np.maximum(theta[0] + shift, TINY))
        logs = np.log(np.maximum(root, TINY)) + relation.log_scale - relation.power * log_t
        root = np.exp(np.minimum(logs, LARGEST_LOG))
        steps = np.arange(1, relation.power + 1)
        logs = np.asarray(relation.past) - steps * log_t[:, None]
        root = root + relation.eps * np.exp(np.minimum(logs, LARGEST_LOG)).sum(axis=1)
    return np.asarray((root + relation.start_defect) ** 2)


def _highest_shift(relation: Relation, q: float, drop: int) -> float:
    """Return a shift beyond which ``w_i < q`` is certain."""
    theta, C, F = relation.theta[drop:], relation.C[:, drop:], relation.F[drop:]
    c, f = float(_norm2(C)), float(_norm2(F))
    goal = np.sqrt(q) - relation.start_defect
    if goal <= 0.0:
        return np.inf
    if relation.power:
        # From ||Y^H a|| <= 1 (section 7): t^{-p} scale 3 c <= goal / 2, and each of the p past
        # errors <= goal / 2p.
        p = relation.power
        steps = np.arange(1, p + 1)
        sizes = np.asarray(relation.past) + np.log(max(relation.eps, TINY))
        logs = np.append((sizes + np.log(2 * p)) / steps, 0.0)
        logs[-1] = (relation.log_scale + np.log(max(6 * c, TINY))) / p
        logs -= np.log(goal) / np.append(steps, p)
        return float(max(np.exp(min(logs.max(), LARGEST_LOG)) - theta[0], relation.eps, 0.0))
    return float(max(relation.eps, c * (2 * f + relation.eps) / goal))


def christoffel_bound(
    relation: Relation,
    q: float,
    drop: int = 0,
    ceiling: float = np.inf,
    useless: float = np.inf,
) -> float:
    """Return ``tau_i = sup {t > theta_{i+1} : w_i(t) >= q}``.

    ``w`` is not monotone for blocks, so the scan runs from the right over a logarithmic grid. It
    stops at the first crossing and refines it.

    Parameters
    ----------
    relation : Relation
    q : float
        Threshold, ``q(delta)`` or ``q_r / (i + 1)``.
    drop : int
        Number i of Ritz pairs left out; ``l_{i+1} <= tau_i``.
    ceiling : float
        A known bound. The search stays below it, and returns it if it finds nothing better.
    useless : float
        If the bound is not below this, infinity may be returned.
    """
    base = float(relation.theta[drop])
    unit = max(float(relation.theta[0]), relation.eps)
    high = _highest_shift(relation, q, drop)
    if base + high >= ceiling:
        high = max(ceiling - base, 0.0)
        if high <= 2.0**-OCTAVES * unit or not _first_above(relation, q, drop, np.array([high])):
            return ceiling
    if high <= 0.0:
        return base
    if not np.isfinite(high):  # no shift is known where w is below q, so no place to start
        return ceiling
    octaves = OCTAVES + max(0.0, np.log2(high / unit))
    points = int(octaves * POINTS_AN_OCTAVE)
    if high > useless - base > 0.0:
        if useless - base < high * TINY:  # no bound of this size can show the gap
            return np.inf
        last = min(int(POINTS_AN_OCTAVE * np.log2(high / (useless - base))), points - 1)
        point = _grid(high, last - last % CHUNK)[last % CHUNK : last % CHUNK + 1]
        if base + point[0] >= useless and not _first_above(relation, q, drop, point):
            return np.inf
    for first in range(0, points, CHUNK):
        grid = _grid(high, first)
        index = _first_above(relation, q, drop, grid)
        if index < len(grid):
            return base + _refine(relation, q, drop, grid, index)
    return float(base + high * RATIO**points)


def _grid(high: float, first: int) -> Array:
    """Return the points of the scan from the one numbered `first` to the first of the next."""
    return np.asarray(high * RATIO ** np.arange(first, first + CHUNK + 1))


def _first_above(relation: Relation, q: float, drop: int, shifts: Array) -> int:
    """Return the index of the first shift where ``w_drop >= q``; their number if there is none."""

    def value(some: Array) -> Array:
        return christoffel(relation, some, drop)

    return first_above(relation, q, drop, shifts, value)


def _refine(relation: Relation, q: float, drop: int, grid: Array, index: int) -> float:
    """Narrow the bracket around a crossing; return its safe (right) end."""
    if index == 0:
        return float(grid[0])
    right, left = float(grid[index - 1]), float(grid[index])
    for _ in range(3):
        fine = right * np.geomspace(1.0, left / right, 14)[1:-1]
        cut = _first_above(relation, q, drop, fine)
        ends = np.concatenate([[right], fine, [left]])
        right, left = float(ends[cut]), float(ends[cut + 1])
    return right


def at_rounding_floor(relation: Relation) -> bool:
    """Whether the residual adds less to w than the rounding margin does, near theta_1.

    Near means from eps to ``2^27 eps`` beyond theta_1. The margin alone puts the bound there,
    unless the quantile is below 1e-16. Further passes then cannot narrow the interval.
    """
    theta, C, F = relation.theta, relation.C, relation.F
    shifts = relation.eps * 2.0 ** np.arange(28)
    shifts = shifts[(shifts > 0) & (shifts <= abs(theta[0]))]
    for shift in shifts[::-1]:  # one by one: the farthest mostly decides
        D = 1.0 / (shift + (theta[0] - theta))
        if not _norm2(C @ (D[:, None] * F)) <= relation.eps * _norm2(C * D):
            return False
    return bool(shifts.size)


def exact_crossing(relation: Relation, q: float) -> float:
    """Return tau_0 as the largest real eigenvalue above theta_1 of a 2N x 2N matrix.

    ``w(t) = q`` exactly at real eigenvalues of ``[[Theta, F F^H/q], [C^H C - q I, Theta]]``.
    Ignores the rounding margin; trustworthy to relative widths of about 1e-7.
    """
    theta, C, F = relation.theta, relation.C, relation.F
    root = np.sqrt(q)
    D = np.diag(theta)
    upper_right = F @ F.conj().T / root
    lower_left = (C.conj().T @ C - q * np.eye(len(theta))) / root
    values = np.linalg.eigvals(np.block([[D, upper_right], [lower_left, D]]))
    t = values.real
    real = np.abs(values.imag) <= 1e-6 * np.abs(t - theta[0])
    beyond = t[real & (t > theta[0])]
    return float(beyond.max()) if beyond.size else float(theta[0])


def joint_bounds(relation: Relation, q: float, most: int) -> list[float]:
    """Return ``[tau_1, ..., tau_{most-1}]``, all valid on the one event ``sigma_min^2 >= q``.

    If ``l_1..l_{i+1} >= t`` then ``G^H X_{i+1}`` is a matrix of rank at most i plus columns of
    squared norm at most ``w_i``, so ``sigma_min(G^H X_{i+1})^2 <= (i + 1) max w_i``. A tau_i that
    is not below theta_i shows no gap, and is returned as infinity.
    """
    theta = relation.theta
    return [
        christoffel_bound(relation, q / (i + 1), drop=i, useless=float(theta[i - 1]))
        for i in range(1, min(most, len(theta)))
    ]
