"""Rounding: its unit, and the error of products as the facts of the entries bound it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["FACTS_MARGIN", "UNIT_ROUNDOFF", "Facts", "hermitian", "product_error"]

Array = np.ndarray[Any, Any]


UNIT_ROUNDOFF = float(np.finfo(np.float64).eps) / 2
FACTS_MARGIN = 1e-10  # relative error of the facts
NEGLIGIBLE = 1e-8  # a smaller relative change of a rounding margin is not reported


def hermitian(X: Array) -> Array:
    """Return the Hermitian part of a square matrix."""
    return np.asarray((X + X.conj().T) / 2)


@dataclass(frozen=True)
class Facts:
    """Facts about the entries, which the first pass collects for free, in (scaled) units of A.

    Attributes
    ----------
    frobenius_squared : float
    one_norm, inf_norm : float
        Largest absolute column and row sum.
    largest : float
        Largest magnitude of an entry.
    nonnegative : bool
        All entries are real and >= 0.
    magnitude_squared : float
        For sums of matrices whose terms may cancel, a bound of ``||sum of |terms| ||_F^2``, which
        rounding is relative to. 0 if rounding is relative to the entries.
    chain : float
        Longest sums of sparse entries whose values repeat, along a row plus down a column. 0 if
        values do not repeat, or are summed in blocks.
    terms : float
        Most terms of an inner product, if rows or columns are known to have fewer than their
        length. 0 if not.
    given : bool
        Whether they are the word of the matrix's owner, who says nothing of how products round.

    Sums of equal entries round the same way at every term, so their errors grow with their
    length: 2.5e-11 for the squares of 2^24 equal entries. `FACTS_MARGIN` covers that, and `chain`
    covers longer sums.
    """

    frobenius_squared: float
    one_norm: float
    inf_norm: float
    largest: float
    nonnegative: bool
    magnitude_squared: float = 0.0
    chain: float = 0.0
    terms: float = 0.0
    given: bool = False

    @property
    def trace_error(self) -> float:
        """Bound of the error of `frobenius_squared`."""
        return FACTS_MARGIN * max(self.frobenius_squared, self.magnitude_squared)

    @property
    def sums_squared(self) -> float:
        """``||A||_1 ||A||_inf``, an upper bound of l_1, with its margin."""
        margin = max(FACTS_MARGIN, self.chain * UNIT_ROUNDOFF)
        sums = self.one_norm * self.inf_norm * (1 + 2 * margin)
        # Plus the Frobenius norm of the rounding of terms that cancel.
        cancelled = FACTS_MARGIN * np.sqrt(self.magnitude_squared)
        return float((np.sqrt(sums) + cancelled) ** 2) if cancelled else sums

    @property
    def absolute_norm_squared(self) -> float:
        """Return an upper bound of ``|| |A| ||_2^2``, the scale of rounding errors."""
        return min(self.frobenius_squared, self.one_norm * self.inf_norm)


def product_error(facts: Facts, n: int, depth: float, *, complex_: bool = False) -> float:
    """Bound ``||fl(A^H (A V)) - H V||_2`` for a block V with orthonormal columns.

    Inner products of length n (``A V``) and sums of `depth` terms (``A^H Y``: rows of a
    sub-block, then sub-blocks, then panels) in float64. By the probabilistic error analysis of
    Higham & Mary (SIAM J. Sci. Comput. 2019, Thm 3.1) each contributes
    ``lambda sqrt(length) u |A| |V|`` except with probability ``2 exp(-lambda^2 / 2)``;
    lambda = 8 makes that 2.5e-14. Sums of equal terms are no random walk. If the values of sparse
    entries repeat, which are added in one chain, and the worst case ``length u |A| |V|`` is more,
    it counts. The norm of ``|A|`` is bounded by the facts. The rounding margin that bigspec states
    is this model, not a worst case over all roundings.
    """
    if facts.terms > 0.0:
        n, depth = min(n, int(facts.terms)), min(depth, facts.terms)
    factor = 8.0 * (np.sqrt(n) + np.sqrt(depth) + 4.0)
    factor = max(factor, facts.chain) * (2.0 if complex_ else 1.0)
    scale = facts.absolute_norm_squared
    if facts.magnitude_squared > 0.0:
        # Terms T_t may cancel: A V is off by e = factor u M, M = || sum |T_t| ||_F, and so are the
        # entries of A where they are written out; A^H (A V) is off by 2 ||A|| e + e^2. The facts
        # are those of what was written out, so ||A|| may be e more than they say.
        error = factor * UNIT_ROUNDOFF * np.sqrt(facts.magnitude_squared)
        if error > NEGLIGIBLE * np.sqrt(scale):
            scale = (np.sqrt(scale) + error) ** 2
        return float(error * (2.0 * np.sqrt(scale) + error) + factor * UNIT_ROUNDOFF * scale)
    return float(factor * UNIT_ROUNDOFF * scale)
