"""Compare the Christoffel function with a threshold, without its values.

A scan for a crossing only needs the side of the threshold. A value costs a QR factorisation and
singular values. The comparison ``||C M (I + M^H M)^{-1/2}|| < r`` costs one Cholesky factorisation
of ``r^2 (I + M^H M) - (C M)^H (C M)``, of order b: fifteen times less. Squaring costs digits, so a
point nearer to the threshold than `MARGIN` stays open, and its value is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.linalg import get_lapack_funcs

from bigspec.certificate.relation import Relation
from bigspec.certificate.rounding import UNIT_ROUNDOFF

__all__ = ["first_above"]

Array = np.ndarray[Any, Any]

MARGIN = 1e-7  # a comparison is clear if the roots of w and q differ by this, relatively
BATCH = 12  # points at once
ENTRIES = 1 << 18  # of an array of forms, at most


def first_above(
    relation: Relation, q: float, drop: int, shifts: Array, value: Callable[[Array], Array]
) -> int:
    """Return the index of the first shift with ``value(shift) >= q``; their number if none.

    Parameters
    ----------
    relation : Relation
    q : float
        Threshold.
    drop : int
        Number of largest Ritz pairs left out.
    shifts : ndarray (s,)
        Positive distances ``t - theta_{drop+1}``.
    value : callable
        `christoffel` of shifts, called only for points that the comparison leaves open.
    """
    goal = float(np.sqrt(q)) - relation.start_defect
    if relation.power or not relation.F.shape[1] or not goal > 0.0:
        above = np.flatnonzero(value(shifts) >= q)
        return int(above[0]) if above.size else len(shifts)
    for index, side in enumerate(_sides(relation, goal, drop, shifts)):
        if side > 0 or (side == 0 and value(shifts[index : index + 1])[0] >= q):
            return index
    return len(shifts)


def _sides(relation: Relation, goal: float, drop: int, shifts: Array) -> Iterator[int]:
    """Yield for each shift -1 if the root is surely below `goal`, 1 if above, 0 if open.

    The rounding margin ``eps`` in the root is only bounded here, by Frobenius norms.
    """
    theta, C, F = relation.theta[drop:], relation.C[:, drop:], relation.F[drop:]
    c, f = np.linalg.norm(C, axis=0), np.linalg.norm(F, axis=1)
    D = 1.0 / (shifts[:, None] + (theta[0] - theta))
    least = (goal - relation.eps * np.sqrt((D * D) @ (c * c))) / (1 + relation.eps * D[:, 0])
    # A sum of dyads bounds the root. Far out it is below already, and nothing else is needed.
    near = np.flatnonzero(~((1 + MARGIN) * (D @ (c * f)) < least)).tolist()
    factor: Any = get_lapack_funcs("potrf", (F, C))
    step, low, high = _points(relation), least * (1 - 2 * MARGIN), goal * (1 + 2 * MARGIN)
    place = 0
    for first in range(0, len(near), step):
        some = near[first : first + step]
        inner, outer, clear = _forms(relation, drop, D[some], low[some])
        for i, point in enumerate(some):
            yield from [-1] * (point - place)
            place = point + 1
            if not clear[i]:
                yield 0
            elif not factor(low[point] ** 2 * outer[i] - inner[i], clean=False)[1]:
                yield -1
            else:
                yield 1 if factor(high**2 * outer[i] - inner[i], clean=False)[1] else 0
    yield from [-1] * (len(shifts) - place)


def _points(relation: Relation) -> int:
    """Return how many points to compare together."""
    return max(1, min(BATCH, ENTRIES // relation.F.size))


def _forms(relation: Relation, drop: int, D: Array, low: Array) -> tuple[Array, Array, Array]:
    """Return ``M^H C^H C M`` and ``I + M^H M``, each (s, b, b), and where they are accurate.

    They are accurate where rounding moves the root by less than `MARGIN`. This is the rounding of
    the products, of the Cholesky factorisation, and of the QR factorisation that they replace.
    """
    C, F = relation.C[:, drop:], relation.F[drop:]
    b = F.shape[1]
    if F.size * b <= ENTRIES:  # one product for all points, with the factor that they share
        residuals, mixed = relation.dyads
        outer = ((D * D) @ residuals[drop:]).reshape(-1, b, b)
        X = (D @ mixed[drop:]).reshape(-1, len(C), b)
    else:
        M = D[:, :, None] * F
        outer, X = M.conj().swapaxes(1, 2) @ M, C @ M
    inner = X.conj().swapaxes(1, 2) @ X
    spread = np.einsum("ijj->i", outer).real.copy()  # ||M||_F^2
    size, unit = float(np.linalg.norm(C)), 4 * (len(F) + b**2) * UNIT_ROUNDOFF
    lost = unit * size * np.sqrt(spread)
    reach = np.sqrt(np.einsum("ijj->i", inner).real) + lost  # >= ||C M||_F
    error = unit * (2 * low**2 * (1 + spread) + reach**2) + 2 * reach * lost
    clear = (low > 0) & (error <= MARGIN * low**2) & (unit * size <= MARGIN * low)
    if relation.orthonormal:
        outer[:, np.arange(b), np.arange(b)] += 1.0
    else:
        outer[:] = np.eye(b)
    return inner, outer, clear
