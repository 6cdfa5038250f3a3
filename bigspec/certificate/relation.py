"""The Krylov relation, the facts of the first pass, and the rounding model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bigspec.certificate.rounding import UNIT_ROUNDOFF

__all__ = ["FACTS_MARGIN", "Facts", "Relation", "product_error"]

Array = np.ndarray[Any, Any]

FACTS_MARGIN = 1e-10  # relative error of the facts
NEGLIGIBLE = 1e-8  # share by which a rounding margin may change without a word


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
    magnitude_squared : float
        For sums of matrices whose terms may cancel: a bound of ``||sum of |terms| ||_F^2``, what
        rounding is relative to. 0 where that is the entries themselves.
    chain : float
        Longest sums of sparse entries whose values repeat, along a row and down a column: 0 where
        they do not, or are summed in blocks.

    Sums of equal entries round the same way at every term, so their errors grow with their
    length: 2.5e-11 for the squares of 2^24 equal entries. `FACTS_MARGIN` covers that, and `chain`
    what it does not.
    """

    frobenius_squared: float
    one_norm: float
    inf_norm: float
    largest: float
    nonnegative: bool
    magnitude_squared: float = 0.0
    chain: float = 0.0

    @property
    def trace_error(self) -> float:
        """Bound of the error of `frobenius_squared`."""
        return FACTS_MARGIN * max(self.frobenius_squared, self.magnitude_squared)

    @property
    def sums_squared(self) -> float:
        """``||A||_1 ||A||_inf``, an upper bound of l_1, with its margin."""
        margin = max(FACTS_MARGIN, self.chain * UNIT_ROUNDOFF)
        sums = self.one_norm * self.inf_norm * (1 + 2 * margin)
        # Beyond the Frobenius norm of the rounding of terms that cancel.
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
    lambda = 8 makes that 2.5e-14. Sums of equal terms are no random walk: where the values of
    sparse entries repeat, which are added in one chain, the worst case ``length u |A| |V|`` is
    taken if it is more. The norm of ``|A|`` is bounded by the facts. This model, and
    not a worst case over all roundings, is the rounding margin that bigspec states.
    """
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
        Bound on the error of ``G^H x = start V_1^H x`` at a unit x.
    past : tuple of float
        Power iteration: logarithms of ``||(R_j .. R_0)_G||``, j = 0 .. p - 1. The rounding error
        of product j + 1 reaches ``G^H x`` multiplied by the j-th of them and ``t^{-(j+1)}``.
    """

    T: Array
    B: Array
    start: Array
    eps: float
    orthonormal: bool
    power: int = 0
    log_scale: float = 0.0
    start_defect: float = 0.0
    past: tuple[float, ...] = ()

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

    @cached_property
    def dyads(self) -> tuple[Array, Array]:
        """Rows of the dyads ``f_j^H f_j``, (N, b_next^2), and ``c_j f_j``, (N, b_G b_next)."""
        C, F = self.C, self.F
        residuals = F.conj()[:, :, None] * F[:, None, :]
        mixed = C.T[:, :, None] * F[:, None, :]
        return residuals.reshape(len(F), -1), mixed.reshape(len(F), -1)
