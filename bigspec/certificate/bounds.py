"""All bounds of l_1, or of l_1 .. l_k, and how the failure probability is spent on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from bigspec.certificate.christoffel import christoffel_bound, exact_crossing, joint_bounds
from bigspec.certificate.counting import (
    Windows,
    counting_bound,
    lehmann_values,
    promising_gaps,
    windows,
)
from bigspec.certificate.quantiles import column_quantile, smallest_singular_quantile
from bigspec.certificate.relation import Relation
from bigspec.certificate.ritz import (
    bordered_frobenius,
    half_step,
    lehmann,
    lower_ends,
)
from bigspec.certificate.rounding import Facts

__all__ = ["GIVEN", "Bounds", "UpperBound", "bound_largest", "bound_leading", "upper_bounds"]

Array = np.ndarray[Any, Any]

AUDIT_ORDER = 200  # exact crossings up to this order: 0.05 s on one core
LARGEST = 1e280  # of the entries of the matrix of the crossings, after the division by root q
TRACE = 1e-6  # relative: a given Frobenius norm is wrong if it is below what was seen by more
GIVEN = " (given)"  # ends the name of a bound that rests on the word of the matrix's owner
SHIFTS = (0.0, 0.01, 0.1, 0.3, 0.6)


class UpperBound(NamedTuple):
    """Upper bounds of l_1 .. l_k, the name of the method, and whether they are certain."""

    values: Array
    name: str
    deterministic: bool


@dataclass(frozen=True)
class Bounds:
    """Bounds of l_1 .. l_k after a step, in the scaled units of H.

    Attributes
    ----------
    lower : ndarray (k,)
    lower_names : tuple of str
    uppers : tuple of UpperBound
    ritz_values : tuple of float
        Largest Ritz values of H, at most eight.
    eps : float
        Rounding margin eps_H.
    """

    lower: Array
    lower_names: tuple[str, ...]
    uppers: tuple[UpperBound, ...]
    ritz_values: tuple[float, ...]
    eps: float

    def of_zero(self) -> Bounds:
        """Return the bounds of a matrix whose entries are all zero; they are certain."""
        certain = tuple(bound for bound in self.uppers if bound.deterministic)
        return replace(self, lower=np.zeros_like(self.lower), uppers=certain)


def bound_largest(
    relation: Relation, facts: Facts | None, delta: float, *, complex_: bool = False
) -> Bounds:
    """Bound l_1 from the relation and the facts; parameters are those of `upper_bounds`."""
    theta = float(relation.theta[0])
    lower, name = theta - 2 * relation.eps, "Ritz value"
    if relation.orthonormal and theta > 0:
        half, _ = half_step(relation)
        lower, name = max((lower, name), (half, "left Ritz value"))
    uppers = upper_bounds(relation, facts, delta, complex_=complex_)
    ends = np.array([max(lower, 0.0)])
    return Bounds(ends, (name,), tuple(uppers), _ritz_values(relation), relation.eps)


def _ritz_values(relation: Relation) -> tuple[float, ...]:
    return tuple(float(t) for t in relation.theta[:8])


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
        Failure probability. Half of it goes to tau_0, and half to one joint event that gives
        tau_1..tau_3 to Lehmann. If the block is too narrow for that, tau_0 gets all of it.
        The split depends on the block alone: all passes must rest on the same two events.
    complex_ : bool
        Whether the start block was complex.
    audit : bool
        Compare the scan for tau_0 with the exact crossings where that is cheap.
    """
    bounds = _certain(relation, facts, 1)
    ceiling = _ceiling(bounds)
    positive = bool(relation.theta[0] > 0)
    if not positive and relation.eps == 0.0:
        # The products vanish exactly: for a Gaussian block that means H = 0.
        bounds.append(UpperBound(np.zeros(1), "Christoffel", False))
        return bounds
    b = len(relation.start)
    r = min(4, b - 4) if b >= 6 else min(b, 2)
    joint = r >= 2
    q = column_quantile(delta / 2 if joint else delta, b, complex_=complex_)
    tau = christoffel_bound(relation, q, ceiling=ceiling)
    if audit and _auditable(relation, tau, q):
        tau = min(max(tau, exact_crossing(relation, q)), ceiling)
    if tau < ceiling:
        bounds.append(UpperBound(np.array([tau]), "Christoffel", False))
    if joint and positive and relation.orthonormal:
        q_joint = smallest_singular_quantile(delta / 2, b, r, complex_=complex_)
        known = min(ceiling, tau)
        value = _best_lehmann(relation, q_joint, r, known)
        if value < known:
            bounds.append(UpperBound(np.array([value]), "Lehmann", False))
    return bounds


def _ceiling(bounds: list[UpperBound]) -> float:
    """Return the least bound of l_1 that rests on nobody's word: searches begin below it."""
    own = (float(bound.values[0]) for bound in bounds if not bound.name.endswith(GIVEN))
    return min(own, default=np.inf)


def _certain(relation: Relation, facts: Facts | None, k: int) -> list[UpperBound]:
    """Bounds that need no probability: norms, and the trace."""
    if facts is None:
        return []
    frobenius, sums = facts.frobenius_squared + facts.trace_error, facts.sums_squared
    # i l_i <= l_1 + .. + l_i
    word = GIVEN if facts.given else ""
    bounds = [UpperBound(frobenius / np.arange(1, k + 1), f"Frobenius{word}", True)]
    if np.isfinite(sums):
        bounds.append(UpperBound(np.full(k, sums), "1-inf norm", True))
    if relation.orthonormal:
        bordered = bordered_frobenius(relation, facts, k)
        if facts.given and float(relation.theta.sum()) > frobenius * (1 + TRACE):
            bordered = np.zeros(k)  # disproved: 0 is below what is attained, and the run says so
        bounds.append(UpperBound(bordered, f"bordered Frobenius{word}", True))
    return bounds


def _auditable(relation: Relation, tau: float, q: float) -> bool:
    """Whether exact crossings are cheap, and the interval wide enough for their accuracy.

    They are of no use where the quantile is 0, or so small that their matrix overflows.
    """
    largest = float(np.linalg.norm(relation.F)) ** 2
    if not largest < LARGEST * np.sqrt(q):
        return False
    if relation.power or not relation.orthonormal or 2 * len(relation.theta) > AUDIT_ORDER:
        return False
    top = float(relation.theta[0])
    return tau > top * (1 + 1e-7) and relation.eps < 1e-9 * top


def _best_lehmann(relation: Relation, q: float, r: int, known: float) -> float:
    """Return the smallest Lehmann bound over the joint bounds and a few shifts of each."""
    theta = relation.theta
    best = known
    for s, tau in enumerate(joint_bounds(relation, q, r), start=1):
        if not tau < theta[s - 1]:
            continue
        shifted = [tau + x * (theta[s - 1] - tau) for x in SHIFTS]
        for t in shifted:
            best = min(best, lehmann(relation, s, t, best))
    return best


def bound_leading(
    relation: Relation, facts: Facts | None, k: int, n: int, delta: float, *, complex_: bool
) -> Bounds:
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
        Failure probability of all bounds of all passes together. They rest on one event, that of
        `bigspec.certificate.counting`.
    complex_ : bool
        Whether the start block was complex.
    """
    theta, eps = relation.theta, relation.eps
    lower, left = lower_ends(relation, k)
    names = tuple("left Ritz value" if half else "Ritz value" for half in left)
    uppers = []
    if len(theta) == n:
        uppers = [UpperBound(theta[:k] + 2 * eps, "Rayleigh-Ritz on the whole space", True)]
    uppers += _certain(relation, facts, k)
    if len(theta) < n:
        known = _ceiling(uppers)
        event = windows(k, n, len(relation.start), delta, complex_=complex_)
        uppers += _likely(relation, event, k, known)
    return Bounds(lower, names, tuple(uppers), _ritz_values(relation), eps)


def _likely(relation: Relation, event: Windows, k: int, known: float) -> list[UpperBound]:
    """Bounds that hold on the event: counting, and Lehmann's below each count."""
    theta = relation.theta
    if theta[0] <= 0.0 and relation.eps == 0.0:
        # The products vanish exactly: for a Gaussian block that means H = 0.
        return [UpperBound(np.zeros(k), "Christoffel", False)]
    first = christoffel_bound(relation, float(event.roots[0]) ** 2, ceiling=known)
    bounds = [UpperBound(np.full(k, first), "Christoffel", False)] if first < known else []
    counted, lehmann = np.full(k, np.inf), np.full(k, np.inf)
    for s in promising_gaps(relation, k, min(event.count, len(theta))):
        tau = counting_bound(relation, event, s, min(first, known))
        if np.isinf(tau):
            continue
        counted[s:] = np.minimum(counted[s:], tau)
        for share in SHIFTS:
            values = lehmann_values(relation, s, tau + share * (theta[s - 1] - tau))[:k]
            lehmann[: len(values)] = np.minimum(lehmann[: len(values)], values)
    bounds += [UpperBound(counted, "counting", False), UpperBound(lehmann, "Lehmann", False)]
    return bounds
