"""The block Lanczos recurrence on ``H = A^H A``, shared by the algorithms that stand on it.

After k passes, with unit blocks ``V = [V_1 .. V_k]`` and the residual block ``V_+``,

    H V = V T + V_+ B E_k^H,    T block tridiagonal (A_j on, B_j below the diagonal)

(Golub & Underwood 1977 for the block recurrence; Paige 1980 for its rounding).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from bigspec.algorithms import iterates
from bigspec.algorithms.contract import Products
from bigspec.algorithms.rounding import rounding
from bigspec.algorithms.start import start_block
from bigspec.certificate import Facts, Relation, at_rounding_floor
from bigspec.certificate.rounding import UNIT_ROUNDOFF, hermitian

__all__ = ["Basis", "LanczosState", "Recurrence"]

Array = np.ndarray[Any, Any]
Basis = tuple[Any, ...]  # arrays; names of blocks where a store has them

LOSS_LIMIT = 1e-7  # estimated loss of orthogonality beyond which only ||f|| <= 1 is used


@dataclass(frozen=True)
class LanczosState:
    """The relation after `passes` passes, and what the next step needs.

    Attributes
    ----------
    passes : int
    exponent : int
    facts : Facts or None
    V_last : ndarray (n, b)
        Last block multiplied.
    V_next : ndarray (n, b')
        Residual block ``V_+``; may have no columns (invariant subspace).
    T : ndarray (N, N)
    B : ndarray (b', b)
    tie : ndarray (b_G, b_1)
        Ties the start to G; see `start_block`.
    basis : tuple of ndarray
        ``V_1 .. V_k`` while it fits; empty once dropped.
    eps : float
        ``eps_H``, rounding of the products so far.
    start_defect : float
        Rounding of the tie.
    narrowest : float
        Smallest singular value of ``B_1 .. B_{k-1}``.
    collatz : float
        Collatz-Wielandt bound of the best positive vector so far.
    """

    passes: int
    exponent: int
    facts: Facts | None
    V_last: Array
    V_next: Array
    T: Array
    B: Array
    tie: Array
    basis: Basis
    eps: float
    start_defect: float = 0.0
    narrowest: float = np.inf
    collatz: float = np.inf

    @property
    def exhausted(self) -> bool:
        """Whether the Krylov space is invariant, or the rounding margin rules the interval."""
        return self.V_next.shape[1] == 0 or at_rounding_floor(self.relation)

    @cached_property
    def relation(self) -> Relation:
        """The Krylov relation for the certificate."""
        # 1.25: what the deflations dropped, at most eps / (8 sqrt(j)) at step j.
        eps = 1.25 * self.eps
        relation = Relation(
            self.T,
            self.B,
            self.tie,
            eps,
            orthonormal=bool(self.basis),
            start_defect=self.start_defect,
        )
        if self.basis or self.B.size == 0:
            return relation
        # Paige: orthogonality is lost as Ritz pairs converge, at the rate eps / residual; in
        # blocks also where a B that divides a residual block is ill-conditioned.
        residuals = np.linalg.norm(relation.F, axis=1)
        divisor = max(min(residuals.min(), self.narrowest), 1e-300)
        loss = max(self.eps, UNIT_ROUNDOFF * relation.theta[0]) / divisor
        return replace(relation, orthonormal=bool(loss <= LOSS_LIMIT))


@dataclass(frozen=True)
class Recurrence:
    """The steps of the recurrence; the algorithms say which blocks of the basis stay.

    Parameters
    ----------
    block_size : int
        Gaussian columns b of the start block.
    basis_bytes : int
        Keep the basis in memory while it takes at most this many bytes.
    """

    block_size: int = 16
    basis_bytes: int = 0

    def init(self, passes: Products, entropy: int, start: Array | None) -> LanczosState:
        """Draw the start block and make the first pass."""
        V, tie, start_defect = start_block(
            passes.length, self.block_size, entropy, start, complex_=passes.complex_
        )
        result = passes.run(V)
        empty = self._empty(
            passes=0,
            exponent=result.exponent,
            facts=result.facts,
            V_last=iterates.columns(V, 0, 0),
            V_next=V,
            T=np.zeros((0, 0), V.dtype),
            B=np.zeros((V.shape[1], 0), V.dtype),
            tie=tie,
            basis=(),
            eps=0.0,
            start_defect=start_defect,
        )
        return self._extend(passes, empty, result)

    def _empty(self, **fields: Any) -> LanczosState:
        """Return the state before the first pass."""
        return LanczosState(**fields)

    def step(self, passes: Products, state: LanczosState) -> LanczosState:
        """Multiply the residual block by H and extend the relation."""
        return self._extend(passes, state, passes.run(state.V_next, exponent=state.exponent))

    def _extend(self, passes: Products, state: LanczosState, result: Any) -> LanczosState:
        V, Z = state.V_next, result.Z
        A = hermitian(iterates.inner(V, Z))
        W = iterates.difference(Z, V, A)
        if state.passes:
            iterates.subtract(W, state.V_last, state.B.conj().T)
        T = _append(state.T, state.B, A)
        eps = max(state.eps, rounding(passes, state.facts or result.facts, result, T))
        basis = self._basis_with(state, V)
        # Without the basis, three blocks in a row are kept orthonormal: an ill-conditioned B
        # would otherwise lose even that, and with it the relation.
        near = self._blocks_of(basis) if basis else [state.V_last, V]
        W = iterates.orthogonalize(W, near)
        room = passes.length - sum(block.shape[1] for block in basis or near)
        tolerance = eps / (8 * np.sqrt(state.passes + 1))  # below rounding: nothing is lost
        V_next, B, _ = iterates.rank_revealing_qr(W, tolerance, max(room, 0))
        if V_next.shape[1]:
            V_next = iterates.orthonormal(iterates.orthogonalize(V_next, near))
            B = iterates.inner(V_next, W)
        after = replace(
            state,
            passes=state.passes + 1,
            V_last=V,
            V_next=V_next,
            T=T,
            B=B,
            basis=basis,
            eps=eps,
            narrowest=min(state.narrowest, _smallest(state.B)),
        )
        return self._complete(after)

    def _blocks_of(self, basis: Basis) -> Iterable[Array]:
        """Return the blocks of the basis, which may be iterated several times."""
        return basis

    def _complete(self, state: LanczosState) -> LanczosState:
        """Add the best bound so far to the state."""
        return state

    def _basis_with(self, state: LanczosState, V: Array) -> Basis:
        """Return the basis after the pass over V."""
        raise NotImplementedError


def _append(T: Array, B: Array, A: Array) -> Array:
    """Append a diagonal block A, tied to the last one by B."""
    N, b, last = len(T), len(A), B.shape[1]
    out = np.zeros((N + b, N + b), A.dtype)
    out[:N, :N], out[N:, N:] = T, A
    out[N:, N - last : N] = B
    out[N - last : N, N:] = B.conj().T
    return out


def _smallest(B: Array) -> float:
    """Return the smallest singular value of a residual factor; infinity before the first."""
    return float(np.linalg.svd(B, compute_uv=False).min()) if B.size else np.inf
