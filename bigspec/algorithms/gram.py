"""One-pass Gram matrix: H itself, when its smaller side is at most a few thousand.

Its largest eigenvalue is sigma_1 squared, exactly up to rounding, with no randomness and no
failure probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.linalg as sla

from bigspec.algorithms.contract import Products
from bigspec.certificate import Bounds, Facts, UpperBound, product_error
from bigspec.certificate.rounding import UNIT_ROUNDOFF, hermitian

__all__ = ["Gram", "GramState"]

Array = np.ndarray[Any, Any]

LEADING = 8


@dataclass(frozen=True)
class GramState:
    """Leading eigenpairs of H, and how far they may be off.

    Attributes
    ----------
    passes : int
    exponent : int
    facts : Facts or None
    values : ndarray (k,)
        Largest eigenvalues, descending.
    top : ndarray (n,)
        Unit eigenvector of the largest one.
    eps : float
        Bound of the rounding error of H and of the eigenvalues.
    exhausted : bool
        Always true: there is nothing more to learn.
    """

    passes: int
    exponent: int
    facts: Facts | None
    values: Array
    top: Array
    eps: float
    exhausted: bool = True


@dataclass(frozen=True)
class Gram:
    """Eigenvalues of the accumulated Gram matrix."""

    name: ClassVar[str] = "gram"

    def init(self, passes: Products, entropy: int, start: Array | None) -> GramState:
        """Accumulate H in one pass and take its leading eigenpairs."""
        result = passes.run(None)
        H = hermitian(result.Z)
        n = len(H)
        first = max(0, n - LEADING)
        values, vectors = sla.eigh(H, subset_by_index=(first, n - 1), overwrite_a=True)
        assert result.facts is not None
        eps = product_error(result.facts, 1, passes.depth, complex_=passes.complex_)
        # Backward error of the Hermitian eigensolver (LAPACK Users' Guide, 4.7).
        eps += 8 * UNIT_ROUNDOFF * np.sqrt(n) * float(values[-1])
        top = np.ascontiguousarray(vectors[:, -1])
        return GramState(1, result.exponent, result.facts, values[::-1].copy(), top, eps)

    def step(self, passes: Products, state: GramState) -> GramState:
        """Return the state unchanged, because one pass tells everything."""
        return state

    def bounds(self, state: GramState, delta: float, *, complex_: bool) -> Bounds:
        """Return the largest eigenvalue with its rounding margin."""
        top = float(state.values[0])
        name = "Gram eigenvalue"
        upper = UpperBound(np.array([top + 2 * state.eps]), name, True)
        lower = np.array([max(top - 2 * state.eps, 0.0)])
        return Bounds(lower, (name,), (upper,), tuple(state.values.tolist()), state.eps)

    def has_room(self, state: GramState) -> bool:
        """Whether another step fits: always, because the state does not grow."""
        return True

    def vector(self, state: GramState) -> Array | None:
        """Return the leading eigenvector."""
        return state.top

    def leading(self, state: GramState, count: int) -> Array | None:
        """Return the leading eigenvector, the only one that is stored."""
        return state.top[:, None]
