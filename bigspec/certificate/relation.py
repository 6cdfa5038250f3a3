"""The Krylov relation of a run, and its link to the Gaussian start."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

__all__ = ["Relation"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Relation:
    """The relation of the header of `bigspec.certificate`, and its link to the Gaussian start.

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
        Exponent p of the header.
    log_scale : float
        Natural logarithm of the factor that `start` was divided by.
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
