"""Randomized block Lanczos on ``H = A^H A``: the fewest passes for an interval.

The relation is that of `bigspec.algorithms.block_lanczos`, and needs three blocks of memory. While
the basis fits in memory, residual blocks are orthogonalised against all of it, twice, and singular
vectors can be formed. When it no longer fits, it is dropped. The certificate then uses only
``||f|| <= 1``, which needs no orthogonality.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from bigspec.algorithms import iterates
from bigspec.algorithms.block_lanczos import Basis, LanczosState, Recurrence
from bigspec.certificate import Bounds, UpperBound, bound_largest, half_step

__all__ = ["Lanczos"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Lanczos(Recurrence):
    """Randomized block Lanczos; see `Recurrence` for its options."""

    name: ClassVar[str] = "lanczos"

    def _complete(self, state: LanczosState) -> LanczosState:
        return replace(state, collatz=min(state.collatz, _collatz(state)))

    def _basis_with(self, state: LanczosState, V: Array) -> Basis:
        """Return the basis with V, or nothing if it does not fit (then for good)."""
        if state.passes and not state.basis:
            return ()
        basis = (*state.basis, V)
        return basis if sum(block.nbytes for block in basis) <= self.basis_bytes else ()

    def bounds(self, state: LanczosState, delta: float, *, complex_: bool) -> Bounds:
        """Bound l_1 from the relation and the facts."""
        bounds = bound_largest(state.relation, state.facts, delta, complex_=complex_)
        if np.isfinite(state.collatz):
            positive = UpperBound(np.array([state.collatz]), "Collatz-Wielandt", True)
            bounds = replace(bounds, uppers=(*bounds.uppers, positive))
        return bounds

    def has_room(self, state: LanczosState) -> bool:
        """Whether another step fits: always, because the basis may be dropped."""
        return True

    def vector(self, state: LanczosState) -> Array | None:
        """Form the unit vector of the half step from the basis, if it was kept."""
        if not state.basis:
            return None
        relation = state.relation
        if relation.theta[0] <= 0:
            return iterates.column(state.basis[0], 0)
        _, y = half_step(relation)
        head = relation.ritz[1] @ y[: len(state.T)]
        v = iterates.combine(state.basis, head)
        iterates.add(v, state.V_next, y[len(state.T) :])
        return v

    def leading(self, state: LanczosState, count: int) -> Array | None:
        """Form the leading Ritz vectors if the basis was kept; `vector` replaces the first."""
        v = self.vector(state)
        if v is None:
            return None
        others = iterates.combine(state.basis, state.relation.ritz[1][:, 1:count])
        return iterates.beside(v, others)


def _collatz(state: LanczosState) -> float:
    """Collatz-Wielandt bound at the leading Ritz vector, for non-negative matrices."""
    if state.facts is None or not state.facts.nonnegative or not state.basis:
        return np.inf
    relation = state.relation
    y = relation.ritz[1][:, 0]
    w = iterates.combine(state.basis, y)
    Hw = iterates.combine(state.basis, state.T @ y)
    iterates.add(Hw, state.V_next, state.B @ y[len(y) - state.B.shape[1] :])
    return iterates.positive_ratio(w, Hw, 2 * state.eps)
