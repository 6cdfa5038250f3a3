r"""Bounds of l_1 .. l_k together: counting eigenvalues in windows, then Lehmann below them.

Notation of the package: ``H x_i = l_i x_i``, relation ``H V = V T + V_+ B E^H + R``, Ritz pairs
``(theta_j, y_j)``, start components ``c_j`` (columns of C), residual components ``f_j`` (rows of
F), ``p_j = ||c_j|| (||f_j|| + eps)``. b is the number of Gaussian columns.

**The event.** Let M >= k + 1. For every window J of at most r consecutive indices in 1 .. M,
``sigma_min(G^H X_J)^2 >= q_|J|``. ``X_J`` has orthonormal columns that do not depend on G, so
``G^H X_J`` is a Gaussian b x |J| matrix. With quantiles at ``delta / (r M)``, a union over sizes
and positions gives the event a probability of at least 1 - delta. It does not depend on the pass:
all passes hold together.

**Columns without their own Ritz values.** Let D be a set of Ritz indices, and l an eigenvalue
with unit eigenvector x. Outside D, ``(Y^H V^H x)_j = (f_j f + (Y^H R^H x)_j) / (l - theta_j)``
with ``f = V_+^H x``, so

    G^H x = (a combination of c_j, j in D) + e,
    ||e|| <= w_s(l)^(1/2) + sum_{j <= s, j not in D} p_j / |l - theta_j|,

where ``w_s`` is the Christoffel function of the Ritz pairs after the s-th, margin included.

**Counting.** Cut ``[tau, ceiling]``, ceiling >= l_1, into intervals at points between
theta_1 .. theta_s, so that interval g holds the Ritz values of ``D_g``, d_g of them. If
``(d_g + 1) ||e||^2 < q_{d_g + 1}`` for every l in interval g, then at most d_g of l_1 .. l_M lie in
it. For those in an interval have consecutive indices, and d_g + 1 of them would make
``G^H X_J = (rank <= d_g) + E`` with ``sigma_min <= ||E||_2 <= (d_g + 1)^(1/2) max ||e||``. If this
is so for all intervals, at most s of l_1 .. l_M are >= tau, hence

    l_{s+1} <= tau.

One interval gives the bound of section 3 of the method, which needs q_{s+1} and so b > s. With
cuts in the gaps of the spectrum, each interval needs only the much larger q_2 or q_3. So the block
need only be wider than the largest cluster, and wide blocks gain too (``docs/method.md``). Dynamic
programming finds such cuts, if there are any.

**Lehmann, restricted.** If ``l_{s+1} <= tau < theta_s``, put ``D = Theta_s - tau > 0`` (the s
largest pairs only). For z in ``(H - tau) V Y_s``, the Rayleigh quotient of ``(H - tau)^{-1}`` is
``y^H D y / y^H (D^2 + F_s F_s^H) y``; its positive eigenvalues are ``1/(l_i - tau)``, i <= s, in
reverse order, and Ritz values on a subspace lie below them. Substituting ``y -> D^{-1/2} y``,

    l_i <= tau + lambda_i( D + D^{-1/2} F_s F_s^H D^{-1/2} ),    i <= s:

one backward stable Hermitian eigenproblem of order s for all i. (The full pencil of order N has a
slightly smaller excess, and a squared condition number.) With ``R``, the relation is exact for a
Hermitian matrix within 2 eps of H, so tau and the result are both moved by that much.

**Lower bounds.** ``theta_i <= l_i`` (Courant-Fischer). The half step: the singular values of
``H V Y_s Theta_s^{-1/2}`` are within ``eps theta_s^{-1/2}`` of ``lambda_i(Theta_s + K K^H)^(1/2)``,
``K = Theta_s^{-1/2} F_s`` (Weyl), and at most ``l_i^(1/2) ||A V Y_s Theta_s^{-1/2}||``, whose norm
is at most ``(1 + eps / theta_s)^(1/2)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.certificate.quantiles import smallest_singular_quantile
from bigspec.certificate.relation import Relation
from bigspec.certificate.rounding import UNIT_ROUNDOFF

__all__ = ["Windows", "counting_bound", "lehmann_values", "promising_gaps", "windows"]

Array = np.ndarray[Any, Any]

POINTS_AN_OCTAVE = 8
NARROWEST = 1e-5  # and not below this share of ||F||, where the scan would lose its digits
LARGE = 1e300
BATCH = 1 << 18  # entries at once in the scan
GAPS = (3, 1)  # gaps to try: behind l_k, and before it
NEAREST = 0.02  # tau lies at least this share of the gap above theta_{s+1}


@dataclass(frozen=True)
class Windows:
    """The event: thresholds of windows of consecutive eigenvectors.

    Attributes
    ----------
    count : int
        M, the number of eigenvectors in the event.
    roots : ndarray (r,)
        ``(q_d / d)^(1/2)`` for windows of d = 1 .. r eigenvectors.
    """

    count: int
    roots: Array


def windows(k: int, n: int, b: int, delta: float, *, complex_: bool = False) -> Windows:
    """Choose M and r from k, the order n and the block size b alone, and spend `delta`."""
    count = min(n, k + max(8, k // 4))
    r = max(1, min(b - 3, count))
    share = delta / (r * count)
    sizes = np.arange(1, r + 1)
    q = [smallest_singular_quantile(share, b, int(d), complex_=complex_) for d in sizes]
    return Windows(count, np.sqrt(np.array(q) / sizes))


def counting_bound(relation: Relation, event: Windows, s: int, ceiling: float) -> float:
    """Return tau < theta_s with ``l_{s+1} <= tau``; infinity if none is certified.

    Parameters
    ----------
    relation : Relation
        With an orthonormal basis.
    event : Windows
    s : int
        ``1 <= s < min(event.count, N)``.
    ceiling : float
        An upper bound of l_1.
    """
    theta = relation.theta
    if not theta[s - 1] > theta[s] or not np.isfinite(ceiling):
        return np.inf
    size = np.linalg.norm(relation.F[: s + 1], axis=1) + relation.eps
    p = np.linalg.norm(relation.C[:, : s + 1], axis=0) * size
    if theta[s - 1] - theta[s] <= NARROWEST * np.linalg.norm(relation.F[s:]):
        return np.inf
    # If the pairs after the s-th rule out nothing even at theta_s, no cut can help.
    at_theta = float(theta[s - 1]) - theta[s:]
    if _christoffel_roots(relation.C[:, s:], relation.F[s:], at_theta[None])[0] >= event.roots[0]:
        return np.inf
    t, low = _low_part(relation, s, max(ceiling, float(theta[0])))
    low += relation.start_defect
    cuts = _cuts(theta[: s + 1], p)
    cuts[0] = t[-1]
    envelope = low[np.maximum(np.searchsorted(t, cuts, side="right") - 1, 0)]
    above, below = np.zeros(s + 1), np.zeros(s + 1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for e in range(1, s + 1):
            above[e] = _finite(np.sum(p[:e] / (theta[:e] - cuts[e])))
            below[e] = _finite(np.sum(p[e:s] / (cuts[e] - theta[e:s])))
    reached = np.zeros(s + 1, bool)  # reached[e]: at most e eigenvalues lie above cut e
    reached[0] = True
    width = min(len(event.roots) - 1, s)
    for e in range(1, s + 1):
        start = np.arange(max(e - width, 0), e)
        passed = above[start] + below[e] + envelope[e] < event.roots[e - start]
        reached[e] = bool(np.any(passed & reached[start]))
    best = np.inf
    for a in range(max(s - width, 0), s + 1):
        if reached[a]:
            inside = np.flatnonzero(low + above[a] < event.roots[s - a])
            if inside.size:
                best = min(best, float(t[inside[0]]))
    return best if best < theta[s - 1] else np.inf


def _finite(value: float) -> float:
    """Replace a sum over equal Ritz values, which is infinite, by one that rules nothing out."""
    return min(float(value), LARGE) if not np.isnan(value) else LARGE


def _cuts(theta: Array, p: Array) -> Array:
    """Cut every gap, nearer to the side that converged further; cut 0 is not set."""
    share = p[1:] / np.maximum(p[1:] + p[:-1], np.finfo(float).tiny)
    return np.append(np.inf, theta[1:] + np.clip(share, 0.1, 0.9) * (theta[:-1] - theta[1:]))


def _low_part(relation: Relation, s: int, ceiling: float) -> tuple[Array, Array]:
    """Evaluate ``w_s^(1/2)`` on a grid up to `ceiling`, as its maximum from there on.

    ``||C M (I + M^H M)^{-1/2}||`` with ``M = (t - Theta)^{-1} F`` is formed from b x b Gram
    matrices. That squares the condition number of M, and perturbs the square of the norm by about
    ``u (1 + ||M||^2) ||C||^2``: 4 times that is added, and the grid stays away from theta_{s+1}.

    Returns
    -------
    t : ndarray (g,)
        Ascending, from a little above theta_{s+1}.
    low : ndarray (g,)
        Descending.
    """
    theta, C, F = relation.theta[s:], relation.C[:, s:], relation.F[s:]
    gap = float(relation.theta[s - 1] - theta[0])
    norm = float(np.linalg.norm(F, 2)) if F.size else 0.0
    # As near to theta_{s+1} as w falls with this residual, but no nearer than Lehmann needs.
    first = max(min(NEAREST * gap, norm), NARROWEST * norm, 4 * relation.eps)
    last = max(ceiling - float(theta[0]), 2 * first)
    count = 2 + int(POINTS_AN_OCTAVE * np.log2(last / first))
    shift = first * np.geomspace(1.0, last / first, count)
    size = float(np.linalg.norm(C, 2))
    root = _christoffel_roots(C, F, shift[:, None] + (theta[0] - theta))
    root = np.sqrt(root**2 + 4 * UNIT_ROUNDOFF * (1 + (norm / shift) ** 2) * size**2)
    root = root * (1 + relation.eps / shift) + relation.eps * size / shift
    return theta[0] + shift, np.maximum.accumulate(root[::-1])[::-1]


def _christoffel_roots(C: Array, F: Array, distances: Array) -> Array:
    """Evaluate ``||C M (I + M^H M)^{-1/2}||``, ``M = F / distance``, for rows of distances."""
    count, b = len(distances), F.shape[1]
    roots = np.zeros(count)
    step = max(1, BATCH // max(F.size, 1))
    for first in range(0, count if b else 0, step):
        part = slice(first, first + step)
        M = F / distances[part, :, None]
        X = C @ M
        inverse = np.linalg.inv(np.eye(b) + M.conj().swapaxes(1, 2) @ M)
        squares = np.linalg.eigvalsh(X @ inverse @ X.conj().swapaxes(1, 2))[:, -1]
        roots[part] = np.sqrt(np.maximum(squares, 0.0))
    return roots


def lehmann_values(relation: Relation, s: int, tau: float) -> Array:
    """Bound l_1 .. l_s given ``l_{s+1} <= tau < theta_s``.

    Returns
    -------
    ndarray (s,)
        Descending; infinite if tau is not below theta_s by more than the rounding margin.
    """
    moved = tau + 2 * relation.eps
    D = relation.theta[:s] - moved
    if not D[-1] > 0.0:
        return np.full(s, np.inf)
    K = relation.F[:s] / np.sqrt(D)[:, None]
    values = np.linalg.eigvalsh(np.diag(D) + K @ K.conj().T)[::-1]
    return np.asarray(moved + values + 2 * relation.eps)


def promising_gaps(relation: Relation, k: int, most: int) -> list[int]:
    """Positions s of the gaps between theta_s and theta_{s+1} to try.

    Relatively wide gaps give better Lehmann bounds. Gaps that are wide beside the residuals on
    both sides can be counted sooner.
    """
    if most < 2:
        return []
    theta, size = relation.theta[:most], np.linalg.norm(relation.F[:most], axis=1)
    gap = theta[:-1] - theta[1:]
    least = 1e-30 * abs(float(theta[0])) + relation.eps
    wide = np.argsort(-gap / np.maximum(theta[:-1], least), kind="stable") + 1
    sure = np.argsort(-gap / (size[:-1] + size[1:] + least), kind="stable") + 1
    chosen: list[int] = []
    for order in (wide, sure):
        chosen += [int(s) for s in order if s >= k][: GAPS[0]]
        chosen += [int(s) for s in order if s < k][: GAPS[1]]
    return list(dict.fromkeys(chosen))
