"""Bounds of l_1 .. l_k after a pass: every bound there is, and the best vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from bigspec.certificate.christoffel import christoffel_bound
from bigspec.certificate.counting import (
    Windows,
    counting_bound,
    half_steps,
    lehmann_values,
    windows,
)
from bigspec.certificate.relation import Facts, Relation

__all__ = ["TopBounds", "UpperBounds", "right_coordinates", "top_bounds"]

Array = np.ndarray[Any, Any]

CUTS = (0.5, 1e-3, 1e-6)  # of theta_k: Ritz pairs that the half step uses
SHIFTS = (0.0, 0.01, 0.1, 0.3, 0.6)
GAPS = (3, 1)  # gaps that are tried of each kind: behind l_k, and before it


class UpperBounds(NamedTuple):
    """Upper bounds of l_1 .. l_k, their name, and whether they hold with certainty."""

    values: Array
    name: str
    deterministic: bool


@dataclass(frozen=True)
class TopBounds:
    """Bounds of l_1 .. l_k after a step, in the scaled units of H.

    Attributes
    ----------
    lower : ndarray (k,)
    lower_names : tuple of str
    uppers : tuple of UpperBounds
    ritz_values : tuple of float
        Largest Ritz values of H, at most eight.
    eps : float
        Rounding margin eps_H.
    """

    lower: Array
    lower_names: tuple[str, ...]
    uppers: tuple[UpperBounds, ...]
    ritz_values: tuple[float, ...]
    eps: float

    def of_zero(self) -> TopBounds:
        """Return what holds with certainty when every entry is zero."""
        certain = tuple(bound for bound in self.uppers if bound.deterministic)
        return replace(self, lower=np.zeros_like(self.lower), uppers=certain)


def top_bounds(
    relation: Relation, facts: Facts | None, k: int, n: int, delta: float, *, complex_: bool
) -> TopBounds:
    """Bound l_1 .. l_k.

    Parameters
    ----------
    relation : Relation
        With an orthonormal basis.
    facts : Facts or None
        None for operators.
    k : int
    n : int
        Order of H.
    delta : float
        Failure probability of all bounds of all passes together: one event, that of
        `bigspec.certificate.counting`, carries them.
    complex_ : bool
        Whether the start block was complex.
    """
    lower, names = _lower(relation, k)
    uppers = _certain(relation, facts, k, n)
    if len(relation.theta) < n:
        known = min((float(bound.values[0]) for bound in uppers), default=np.inf)
        event = windows(k, n, len(relation.start), delta, complex_=complex_)
        uppers += _likely(relation, event, k, known)
    ritz = tuple(float(t) for t in relation.theta[:8])
    return TopBounds(lower, names, tuple(uppers), ritz, relation.eps)


def _lower(relation: Relation, k: int) -> tuple[Array, tuple[str, ...]]:
    theta = relation.theta[:k]
    lower = np.zeros(k)
    lower[: len(theta)] = theta - 2 * relation.eps
    left = np.zeros(k, bool)
    for kept in _kept(relation, k):
        half = half_steps(relation, kept)[0][:k]
        better = half > lower[: len(half)]
        lower[: len(half)][better] = half[better]
        left[: len(half)] |= better
    names = tuple("left Ritz value" if half else "Ritz value" for half in left)
    return np.maximum(lower, 0.0), names


def _kept(relation: Relation, k: int) -> list[int]:
    """Numbers of Ritz pairs for the half step; pairs of the size of rounding are left out."""
    theta = relation.theta
    safe = int(np.count_nonzero(theta > max(16 * relation.eps, 0.0)))
    least = theta[min(k, safe) - 1] if safe else 0.0
    counts = {min(safe, int(np.count_nonzero(theta >= cut * least))) for cut in CUTS}
    return sorted(count for count in counts if count)


def _certain(relation: Relation, facts: Facts | None, k: int, n: int) -> list[UpperBounds]:
    """Bounds that need no probability: norms, the trace, and a basis of the whole space."""
    bounds = []
    theta, eps = relation.theta, relation.eps
    if len(theta) == n:
        bounds.append(UpperBounds(theta[:k] + 2 * eps, "Rayleigh-Ritz on the whole space", True))
    if facts is None:
        return bounds
    frobenius, sums = facts.frobenius_squared + facts.trace_error, facts.sums_squared
    # i l_i <= l_1 + .. + l_i
    bounds.append(UpperBounds(frobenius / np.arange(1, k + 1), "Frobenius", True))
    bounds.append(UpperBounds(np.full(k, sums), "1-inf norm", True))
    bounds.append(UpperBounds(bordered_values(relation, facts, k), "bordered Frobenius", True))
    return bounds


def bordered_values(relation: Relation, facts: Facts, k: int) -> Array:
    """Bound l_1 .. l_k by the trace that the basis has not seen (section 5 of the method).

    H is at most the bordered matrix, continued by ``rest`` times the identity: its i-th
    eigenvalue is the i-th of the border's or ``rest``, whichever is larger (Weyl).
    """
    theta, F = relation.theta, relation.F
    trace_error = (len(theta) + 8) * relation.eps + facts.trace_error
    rest = max(facts.frobenius_squared - float(theta.sum()), 0.0) + trace_error
    border = np.block([[np.diag(theta), F], [F.conj().T, rest * np.eye(F.shape[1])]])
    values = np.full(k, rest)
    top = np.linalg.eigvalsh(border)[::-1][:k]
    values[: len(top)] = np.maximum(top, rest)
    return values + 2 * relation.eps


def _likely(relation: Relation, event: Windows, k: int, known: float) -> list[UpperBounds]:
    """Bounds on the event: counting, and Lehmann's below each count."""
    theta = relation.theta
    if theta[0] <= 0.0 and relation.eps == 0.0:
        # The products vanish exactly: for a Gaussian block that means H = 0.
        return [UpperBounds(np.zeros(k), "Christoffel", False)]
    first = christoffel_bound(relation, float(event.roots[0]) ** 2, ceiling=known)
    bounds = [UpperBounds(np.full(k, first), "Christoffel", False)] if first < known else []
    counted, lehmann = np.full(k, np.inf), np.full(k, np.inf)
    for s in _gaps(relation, k, min(event.count, len(theta))):
        tau = counting_bound(relation, event, s, min(first, known))
        if np.isinf(tau):
            continue
        counted[s:] = np.minimum(counted[s:], tau)
        for share in SHIFTS:
            values = lehmann_values(relation, s, tau + share * (theta[s - 1] - tau))[:k]
            lehmann[: len(values)] = np.minimum(lehmann[: len(values)], values)
    bounds += [UpperBounds(counted, "counting", False), UpperBounds(lehmann, "Lehmann", False)]
    return bounds


def _gaps(relation: Relation, k: int, most: int) -> list[int]:
    """Positions s of the gaps between theta_s and theta_{s+1} that are tried.

    Relatively wide ones give the better Lehmann bounds, those that are wide beside the residuals at
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


def right_coordinates(relation: Relation, k: int) -> Array:
    """Return coordinates in ``[V Y, V_+]`` of k orthonormal vectors near x_1 .. x_k.

    Right vectors ``A^H u_i`` of the left Ritz vectors where they are above rounding, Ritz
    vectors after them. The left Ritz vectors are those of one cut, whose lower ends are the best
    of all cuts: ``||A v|| >= ||A^H u||`` for ``v = A^H u / ||A^H u||`` and unit u, so the first i
    vectors attain the i-th lower end.

    Returns
    -------
    ndarray (N + b_next, min(k, N))
    """
    N, b = relation.F.shape
    count = min(k, N)
    kept = _best_cut(relation, count)
    if not kept:
        return np.eye(N + b, count, dtype=relation.T.dtype)
    _, half = half_steps(relation, kept)
    half = half[:, :count] / np.linalg.norm(half[:, :count], axis=0)
    others = np.eye(N + b, count, dtype=half.dtype)[:, half.shape[1] :]
    return np.asarray(np.linalg.qr(np.concatenate([half, others], axis=1))[0])


def _best_cut(relation: Relation, count: int) -> int:
    """Return how many Ritz pairs give the best lower ends; of equals, to rounding, the fewest."""
    lower, _ = _lower(relation, count)
    chosen, least = 0, np.inf
    for kept in _kept(relation, count):
        half = half_steps(relation, kept)[0][:count]
        attained = np.concatenate([half, relation.theta[len(half) : count] - 2 * relation.eps])
        missing = np.maximum(lower - np.maximum(attained, 0.0), 0.0)
        if np.all(missing <= relation.eps):
            return kept
        worst = float(np.max(missing / np.maximum(lower, relation.eps)))
        if worst < least:
            chosen, least = kept, worst
    return chosen
