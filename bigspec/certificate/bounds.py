"""All upper bounds together, and how the failure probability is spent on them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bigspec.certificate.christoffel import christoffel_bound, exact_crossing, joint_bounds
from bigspec.certificate.relation import Facts, Relation
from bigspec.certificate.ritz import bordered_frobenius, lehmann
from bigspec.quantiles import column_quantile, smallest_singular_quantile

__all__ = ["UpperBound", "upper_bounds"]

AUDIT_ORDER = 200  # exact crossings up to this order: 0.05 s on one core
LARGEST = 1e280  # entries of the matrix of the crossings; it is divided by the root of a quantile
LEHMANN_SHIFTS = (0.0, 0.01, 0.1, 0.3, 0.6)


class UpperBound(NamedTuple):
    """An upper bound of l_1, its name, and whether it holds with certainty."""

    value: float
    name: str
    deterministic: bool


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
        tau_1..tau_3 to Lehmann; all of it for tau_0 where the block is too narrow for that.
        The split depends on the block alone: all passes must rest on the same two events.
    complex_ : bool
        Whether the start block was complex.
    audit : bool
        Compare the scan for tau_0 with the exact crossings where that is cheap.
    """
    bounds = []
    ceiling = np.inf
    if facts is not None:
        frobenius, sums = facts.frobenius_squared + facts.trace_error, facts.sums_squared
        bounds += [UpperBound(frobenius, "Frobenius", True), UpperBound(sums, "1-inf norm", True)]
        if relation.orthonormal:
            bordered = bordered_frobenius(relation, facts)
            bounds.append(UpperBound(bordered, "bordered Frobenius", True))
        ceiling = min(bound.value for bound in bounds)
    positive = bool(relation.theta[0] > 0)
    if not positive and relation.eps == 0.0:
        # The products vanish exactly: for a Gaussian block that means H = 0.
        bounds.append(UpperBound(0.0, "Christoffel", False))
        return bounds
    b = len(relation.start)
    r = min(4, b - 4) if b >= 6 else min(b, 2)
    joint = r >= 2
    q = column_quantile(delta / 2 if joint else delta, b, complex_=complex_)
    tau = christoffel_bound(relation, q, ceiling=ceiling)
    if audit and _auditable(relation, tau, q):
        tau = min(max(tau, exact_crossing(relation, q)), ceiling)
    if tau < ceiling:
        bounds.append(UpperBound(tau, "Christoffel", False))
    if joint and positive and relation.orthonormal:
        q_joint = smallest_singular_quantile(delta / 2, b, r, complex_=complex_)
        known = min((bound.value for bound in bounds), default=np.inf)
        value = _best_lehmann(relation, q_joint, r, known)
        if value < known:
            bounds.append(UpperBound(value, "Lehmann", False))
    return bounds


def _auditable(relation: Relation, tau: float, q: float) -> bool:
    """Whether exact crossings are cheap, and wide enough to be meaningful.

    Not where the quantile has vanished, or so nearly that the matrix of the crossings overflows.
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
        shifted = [tau + x * (theta[s - 1] - tau) for x in LEHMANN_SHIFTS]
        for t in shifted:
            best = min(best, lehmann(relation, s, t, best))
    return best
