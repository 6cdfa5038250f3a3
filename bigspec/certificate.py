r"""The certificate: from a Krylov relation and a Gaussian start to an interval for sigma_1.

Everything here is about ``H = A^H A`` with eigenvalues ``l_1 >= l_2 >= ...`` and a relation

    H V = V T + V_+ B E^H + R,    ||R||_2 <= eps,

where V (n, N) has unit blocks, E selects the last block of V, and ``T = Y Theta Y^H``. If
``H x = t x`` with ``||x|| = 1``, then with ``a = V^H x`` and ``f = V_+^H x``

    Y^H a = (t - Theta)^{-1} (F f + Y^H R^H x),     F = Y_last^H B^H,
    G^H x = t^{-p} C Y^H a,                          C = [R_0^H Y_first]_(rows of G),

(p = 0 for Lanczos, p = j for a power iterate after j products). ``w(t)``, the largest
``||G^H x||^2`` that this allows, must be at least the chi-square ``||G^H x_1||^2`` when
``t = l_1``. Values here are in the units of H (squared), scaled by the algorithm. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg as sla

from bigspec.dense import UNIT_ROUNDOFF
from bigspec.quantiles import column_quantile, smallest_singular_quantile

__all__ = [
    "Facts",
    "Relation",
    "UpperBound",
    "bordered_frobenius",
    "christoffel",
    "christoffel_bound",
    "collatz_wielandt",
    "exact_crossing",
    "half_step",
    "joint_bounds",
    "lehmann",
    "product_error",
    "upper_bounds",
]

Array = np.ndarray[Any, Any]

POINTS_AN_OCTAVE = 8
OCTAVES = 60  # scan down to (t - theta)/theta_1 = 2^-60 below the largest possible crossing
AUDIT_ORDER = 320  # exact crossings up to this order: 0.2 s on one core
LEHMANN_SHIFTS = (0.0, 0.01, 0.1, 0.3, 0.6)


@dataclass(frozen=True)
class Facts:
    """What the first pass learns about the entries for free, in the units of A (scaled).

    Attributes
    ----------
    frobenius_squared : float
    one_norm, inf_norm : float
        Largest absolute column and row sum.
    largest : float
        Largest magnitude of an entry.
    nonnegative : bool
        All entries are real and >= 0.
    """

    frobenius_squared: float
    one_norm: float
    inf_norm: float
    largest: float
    nonnegative: bool

    @property
    def absolute_norm_squared(self) -> float:
        """Return an upper bound of ``|| |A| ||_2^2``, the scale of rounding errors."""
        return min(self.frobenius_squared, self.one_norm * self.inf_norm)


class UpperBound(NamedTuple):
    """An upper bound of l_1, its name, and whether it holds with certainty."""

    value: float
    name: str
    deterministic: bool


def product_error(facts: Facts, n: int, depth: float, *, complex_: bool = False) -> float:
    """Bound ``||fl(A^H (A V)) - H V||_2`` for a block V with orthonormal columns.

    Inner products of length n (``A V``) and sums of `depth` terms (``A^H Y``: rows of a
    sub-block, then sub-blocks, then panels) in float64. By the probabilistic error analysis of
    Higham & Mary (SIAM J. Sci. Comput. 2019, Thm 3.1) each contributes
    ``lambda sqrt(length) u |A| |V|`` except with probability ``2 exp(-lambda^2 / 2)``;
    lambda = 8 makes that 2.5e-14. The norm of ``|A|`` is bounded by the facts. This model, and
    not a worst case over all roundings, is the rounding margin that bigspec states.
    """
    factor = 8.0 * (np.sqrt(n) + np.sqrt(depth) + 4.0) * (2.0 if complex_ else 1.0)
    return float(factor * UNIT_ROUNDOFF * facts.absolute_norm_squared)


@dataclass(frozen=True)
class Relation:
    """The relation of the module's head, with what ties it to the Gaussian start.

    Attributes
    ----------
    T : ndarray (N, N)
        Hermitian.
    B : ndarray (b_next, b_last)
        Residual factor of the last block; may have no rows (invariant subspace).
    start : ndarray (b_G, b_first)
        Rows of ``R_0^H`` (or of the accumulated ``(R_j ... R_0)^H``) that belong to G.
    eps : float
        ``eps_H >= ||R||_2``.
    orthonormal : bool
        Whether ``[V, V_+]`` is orthonormal to working precision as a whole. If not, only
        ``||f|| <= 1`` is used (method of section 6).
    power : int
        Exponent p above.
    log_scale : float
        Natural logarithm of the factor taken out of `start`.
    start_defect : float
        Bound on the rounding error of ``G^H x`` for t > theta_1 (power iteration).
    """

    T: Array
    B: Array
    start: Array
    eps: float
    orthonormal: bool
    power: int = 0
    log_scale: float = 0.0
    start_defect: float = 0.0

    @cached_property
    def ritz(self) -> tuple[Array, Array]:
        """Ritz values, descending, and the eigenvectors Y of T."""
        theta, Y = np.linalg.eigh(self.T)
        return theta[::-1], Y[:, ::-1]

    @property
    def theta(self) -> Array:
        """Ritz values of H, descending."""
        return self.ritz[0]

    @cached_property
    def C(self) -> Array:  # noqa: N802
        """Start components in the Ritz basis, (b_G, N)."""
        Y = self.ritz[1]
        return self.start @ Y[: self.start.shape[1]]

    @cached_property
    def F(self) -> Array:  # noqa: N802
        """Residual components in the Ritz basis, (N, b_next)."""
        Y = self.ritz[1]
        last = self.B.shape[1]
        return (self.B @ Y[len(Y) - last :]).conj().T


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
        Positive distances ``t - theta_{i+1}``, given as such to keep their relative accuracy.
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
        log_t = np.log(np.maximum(theta[0] + shift, np.finfo(float).tiny))
        root = root * np.exp(relation.log_scale - relation.power * log_t)
    return np.asarray((root + relation.start_defect) ** 2)


def _highest_shift(relation: Relation, q: float, drop: int) -> float:
    """Return a shift beyond which ``w_i < q`` for sure."""
    theta, C, F = relation.theta[drop:], relation.C[:, drop:], relation.F[drop:]
    c, f = float(_norm2(C)), float(_norm2(F))
    goal = np.sqrt(q) - relation.start_defect
    if goal <= 0.0:
        return np.inf
    if relation.power:
        # ||Y^H a|| <= 1 alone (section 7): t^{-p} scale c (1 + margin) < goal.
        log_t = (relation.log_scale + np.log(3 * c) - np.log(goal)) / relation.power
        return float(max(np.exp(log_t) - theta[0], relation.eps, 0.0))
    return float(max(relation.eps, c * (2 * f + relation.eps) / goal))


def christoffel_bound(
    relation: Relation, q: float, drop: int = 0, ceiling: float = np.inf
) -> float:
    """Return ``tau_i = sup {t > theta_{i+1} : w_i(t) >= q}``.

    ``w`` is not monotone for blocks, so the scan comes from the right on a logarithmic grid
    and stops at the first crossing, which is then refined.

    Parameters
    ----------
    relation : Relation
    q : float
        Threshold, ``q(delta)`` or ``q_r / (i + 1)``.
    drop : int
        Number i of Ritz pairs left out; ``l_{i+1} <= tau_i``.
    ceiling : float
        A bound already known; nothing above it is searched, and it is returned at the worst.
    """
    base = float(relation.theta[drop])
    unit = max(float(relation.theta[0]), relation.eps)
    high = _highest_shift(relation, q, drop)
    if base + high >= ceiling:
        high = max(ceiling - base, 0.0)
        if high <= 2.0**-OCTAVES * unit or christoffel(relation, np.array([high]), drop)[0] >= q:
            return ceiling
    if high <= 0.0:
        return base
    octaves = OCTAVES + max(0.0, np.log2(high / unit))
    points = int(octaves * POINTS_AN_OCTAVE)
    ratio = 2.0 ** (-1.0 / POINTS_AN_OCTAVE)
    chunk = 16
    for first in range(0, points, chunk):
        grid = high * ratio ** np.arange(first, first + chunk + 1)
        above = np.flatnonzero(christoffel(relation, grid, drop) >= q)
        if above.size:
            return base + _refine(relation, q, drop, grid, int(above[0]))
    return float(base + high * ratio**points)


def _refine(relation: Relation, q: float, drop: int, grid: Array, index: int) -> float:
    """Narrow the bracket around a crossing; return its safe (right) end."""
    if index == 0:
        return float(grid[0])
    right, left = float(grid[index - 1]), float(grid[index])
    for _ in range(3):
        fine = np.geomspace(right, left, 14)[1:-1]
        above = np.flatnonzero(christoffel(relation, fine, drop) >= q)
        cut = int(above[0]) if above.size else len(fine)
        ends = np.concatenate([[right], fine, [left]])
        right, left = float(ends[cut]), float(ends[cut + 1])
    return right


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
    squared norm at most ``w_i``, so ``sigma_min(G^H X_{i+1})^2 <= (i + 1) max w_i``.
    """
    count = min(most, len(relation.theta))
    return [christoffel_bound(relation, q / (i + 1), drop=i) for i in range(1, count)]


def lehmann(relation: Relation, s: int, tau: float) -> float:
    """Bound l_1 given ``l_{s+1} <= tau < theta_s``; quadratic in the residual (Lehmann 1949).

    With ``D = Theta - tau`` and the positive eigenvalues mu of ``D y = mu (D^2 + F F^H) y``,
    ``l_1 <= tau + 1/mu_min``. Solved in the variables ``z = D y``, where the right-hand matrix
    is ``I + D^{-1} F F^H D^{-1}``. The relation is exact for a Hermitian matrix within 2 eps of
    H, so tau and the result are both moved by that much.

    Returns
    -------
    float
        Infinity if the pencil does not give exactly s positive values.
    """
    tau = tau + 2 * relation.eps
    D = relation.theta - tau
    if D[s - 1] <= 0 or np.any(np.abs(D) <= 8 * UNIT_ROUNDOFF * relation.theta[0]):
        return np.inf
    K = relation.F / D[:, None]
    inner = np.eye(len(D)) + K @ K.conj().T
    try:
        mu = sla.eigh(np.diag(1.0 / D), inner, eigvals_only=True)
    except np.linalg.LinAlgError:
        return np.inf
    positive = mu[mu > 0]
    if len(positive) != s:
        return np.inf
    # eigh is accurate to a few units of the largest |mu|; charge that to the smallest one.
    smallest = positive[0] - 16 * UNIT_ROUNDOFF * np.abs(mu).max()
    return float(tau + 1.0 / smallest + 2 * relation.eps) if smallest > 0 else np.inf


def half_step(relation: Relation) -> tuple[float, Array]:
    """Lower bound of l_1 from the left Ritz space span(A V), free after the pass.

    The largest eigenvalue of the pencil ``(T^2 + E B^H B E^H, T)``, on the Ritz pairs above a
    cut: a subspace keeps it a lower bound, and a relation that holds only within eps_H lets
    components far below the largest one inflate it by ``4 eps_H / theta_min``, which is charged.
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
    for cut in (1e-6, 1e-3, 0.5):
        kept = int(np.count_nonzero(theta > cut * theta[0]))
        root = np.sqrt(theta[:kept])
        K = F[:kept] / root[:, None]
        values, vectors = np.linalg.eigh(np.diag(theta[:kept]) + K @ K.conj().T)
        lower = values[-1] / (1 + 4 * relation.eps / theta[kept - 1]) - 2 * relation.eps
        if lower > best:
            z = vectors[:, -1] / root
            head = np.concatenate([theta[:kept] * z, np.zeros(len(theta) - kept, z.dtype)])
            best, coordinates = float(lower), np.concatenate([head, F[:kept].conj().T @ z])
    return best, coordinates / np.linalg.norm(coordinates)


def bordered_frobenius(relation: Relation, facts: Facts) -> float:
    """Deterministic upper bound of l_1 from the trace that the basis has not seen.

    The part of H outside span(V) is positive semidefinite with trace
    ``||A||_F^2 - tr T``, hence below that trace times the identity.
    """
    theta, F = relation.theta, relation.F
    b = F.shape[1]
    trace_error = (len(theta) + 8) * relation.eps + 1e-13 * facts.frobenius_squared
    rest = max(facts.frobenius_squared - float(theta.sum()), 0.0) + trace_error
    border = np.block([[np.diag(theta), F], [F.conj().T, rest * np.eye(b)]])
    top = float(np.linalg.eigvalsh(border)[-1])
    return max(top, rest) + 2 * relation.eps


def collatz_wielandt(w: Array, Hw: Array, error: float) -> float:
    """Bound l_1 of an entrywise non-negative H by ``max_j (H w)_j / w_j`` for w > 0.

    Infinity unless w is positive. Entries below zero by rounding make it useless, not wrong.
    """
    if not np.all(w > 0):
        return np.inf
    return float(np.max((Hw + error) / w))


def upper_bounds(
    relation: Relation,
    facts: Facts | None,
    delta: float,
    *,
    complex_: bool = False,
    audit: bool = True,
) -> list[UpperBound]:
    """Return every upper bound of l_1 that the relation and the facts support.

    Parameters
    ----------
    relation : Relation
    facts : Facts or None
        None for operators.
    delta : float
        Failure probability: half of it for tau_0, half for one joint event that gives
        tau_1..tau_3 to Lehmann; all of it for tau_0 where a joint event is out of reach.
    complex_ : bool
        Whether the start block was complex.
    audit : bool
        Compare the scan for tau_0 with the exact crossings where that is cheap.
    """
    bounds = []
    ceiling = np.inf
    if facts is not None:
        sums = facts.one_norm * facts.inf_norm * (1 + 1e-13)
        frobenius = facts.frobenius_squared * (1 + 1e-13)
        bounds += [UpperBound(frobenius, "Frobenius", True), UpperBound(sums, "1-inf norm", True)]
        if relation.orthonormal:
            bordered = bordered_frobenius(relation, facts)
            bounds.append(UpperBound(bordered, "bordered Frobenius", True))
        ceiling = min(bound.value for bound in bounds)
    if relation.theta[0] <= 0:
        # The products vanish: for a Gaussian block that means H = 0, up to rounding.
        bounds.append(UpperBound(2 * relation.eps, "Christoffel", False))
        return bounds
    b = len(relation.start)
    r = min(4, b - 4) if b >= 6 else min(b, 2)
    joint = relation.orthonormal and r >= 2
    q = column_quantile(delta / 2 if joint else delta, b, complex_=complex_)
    tau = christoffel_bound(relation, q, ceiling=ceiling)
    if audit and _auditable(relation, tau):
        tau = min(max(tau, exact_crossing(relation, q)), ceiling)
    if tau < ceiling:
        bounds.append(UpperBound(tau, "Christoffel", False))
    if joint:
        q_joint = smallest_singular_quantile(delta / 2, b, r, complex_=complex_)
        bounds.append(UpperBound(_best_lehmann(relation, q_joint, r), "Lehmann", False))
    return bounds


def _auditable(relation: Relation, tau: float) -> bool:
    """Whether exact crossings are cheap, and wide enough to be meaningful."""
    if relation.power or not relation.orthonormal or 2 * len(relation.theta) > AUDIT_ORDER:
        return False
    top = float(relation.theta[0])
    return tau > top * (1 + 1e-7) and relation.eps < 1e-9 * top


def _best_lehmann(relation: Relation, q: float, r: int) -> float:
    """Return the smallest Lehmann bound over the joint bounds and a few shifts of each."""
    theta = relation.theta
    best = np.inf
    for s, tau in enumerate(joint_bounds(relation, q, r), start=1):
        if not tau < theta[s - 1]:
            continue
        shifted = [tau + x * (theta[s - 1] - tau) for x in LEHMANN_SHIFTS]
        best = min(best, *(lehmann(relation, s, t) for t in shifted))
    return best
