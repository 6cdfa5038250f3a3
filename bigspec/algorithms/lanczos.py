"""Randomized block Lanczos on ``H = A^H A``: the fewest passes for an interval.

After k passes, with unit blocks ``V = [V_1 .. V_k]`` and the residual block ``V_+``,

    H V = V T + V_+ B E_k^H,    T block tridiagonal (A_j on, B_j below the diagonal).

Three blocks of memory carry the recurrence. While the basis fits it is kept: residual blocks
are orthogonalised against all of it, twice, and singular vectors can be formed. When it no
longer fits it is dropped, and the certificate uses ``||f|| <= 1`` alone, which needs no
orthogonality (Golub & Underwood 1977 for the block recurrence; Paige 1980 for its rounding).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from bigspec.algorithms.contract import Bounds, Products
from bigspec.algorithms.rounding import rounding
from bigspec.algorithms.start import start_block
from bigspec.certificate import (
    Facts,
    Relation,
    UpperBound,
    at_rounding_floor,
    collatz_wielandt,
    half_step,
    upper_bounds,
)
from bigspec.dense import UNIT_ROUNDOFF, hermitian, orthogonalize, rank_revealing_qr

__all__ = ["Lanczos", "LanczosState"]

Array = np.ndarray[Any, Any]

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
    basis: tuple[Array, ...]
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
class Lanczos:
    """Randomized block Lanczos.

    Parameters
    ----------
    block_size : int
        Gaussian columns b of the start block.
    basis_bytes : int
        Keep the basis while it takes at most so many bytes.
    """

    name: ClassVar[str] = "lanczos"

    block_size: int = 16
    basis_bytes: int = 0

    def init(self, passes: Products, entropy: int, start: Array | None) -> LanczosState:
        """Draw the start block and make the first pass."""
        V, tie, start_defect = start_block(
            passes.length, self.block_size, entropy, start, complex_=passes.complex_
        )
        result = passes.run(V)
        empty = LanczosState(
            passes=0,
            exponent=result.exponent,
            facts=result.facts,
            V_last=V[:, :0],
            V_next=V,
            T=np.zeros((0, 0), V.dtype),
            B=np.zeros((V.shape[1], 0), V.dtype),
            tie=tie,
            basis=(),
            eps=0.0,
            start_defect=start_defect,
        )
        return self._extend(passes, empty, result)

    def step(self, passes: Products, state: LanczosState) -> LanczosState:
        """Multiply the residual block by H and extend the relation."""
        return self._extend(passes, state, passes.run(state.V_next, exponent=state.exponent))

    def _extend(self, passes: Products, state: LanczosState, result: Any) -> LanczosState:
        V, Z = state.V_next, result.Z
        A = hermitian(V.conj().T @ Z)
        W = Z - V @ A
        if state.passes:
            W -= state.V_last @ state.B.conj().T
        T = _bordered(state.T, state.B, A)
        eps = max(state.eps, rounding(passes, state.facts or result.facts, result, T))
        basis = self._kept(state, V)
        # Without the basis, three blocks in a row are kept orthonormal: an ill-conditioned B
        # would otherwise lose even that, and with it the relation.
        near = list(basis or (state.V_last, V))
        W = orthogonalize(W, near)
        room = passes.length - sum(block.shape[1] for block in near)
        tolerance = eps / (8 * np.sqrt(state.passes + 1))  # below rounding: nothing is lost
        V_next, B, _ = rank_revealing_qr(W, tolerance, max(room, 0))
        if V_next.shape[1]:
            V_next = np.linalg.qr(orthogonalize(V_next, near))[0]
            B = V_next.conj().T @ W
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
        return replace(after, collatz=min(state.collatz, _collatz(after)))

    def _kept(self, state: LanczosState, V: Array) -> tuple[Array, ...]:
        """Return the basis with V, or nothing if it does not fit (then for good)."""
        if state.passes and not state.basis:
            return ()
        basis = (*state.basis, V)
        return basis if sum(block.nbytes for block in basis) <= self.basis_bytes else ()

    def bounds(self, state: LanczosState, delta: float, *, complex_: bool) -> Bounds:
        """Bound l_1 from the relation and the facts."""
        relation = state.relation
        theta = float(relation.theta[0])
        lower, name = theta - 2 * relation.eps, "Ritz value"
        if relation.orthonormal and theta > 0:
            half, _ = half_step(relation)
            lower, name = max((lower, name), (half, "left Ritz value"))
        uppers = upper_bounds(relation, state.facts, delta, complex_=complex_)
        if np.isfinite(state.collatz):
            uppers.append(UpperBound(state.collatz, "Collatz-Wielandt", True))
        ritz = tuple(float(t) for t in relation.theta[:8])
        return Bounds(max(lower, 0.0), name, tuple(uppers), ritz, relation.eps)

    def vector(self, state: LanczosState) -> Array | None:
        """Form the unit vector of the half step from the basis, if it was kept."""
        if not state.basis:
            return None
        relation = state.relation
        if relation.theta[0] <= 0:
            return np.ascontiguousarray(state.basis[0][:, 0])
        _, y = half_step(relation)
        head = relation.ritz[1] @ y[: len(state.T)]
        v = _combine(state.basis, head)
        v += state.V_next @ y[len(state.T) :]
        return v


def _bordered(T: Array, B: Array, A: Array) -> Array:
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


def _collatz(state: LanczosState) -> float:
    """Collatz-Wielandt bound at the leading Ritz vector, for non-negative matrices."""
    if state.facts is None or not state.facts.nonnegative or not state.basis:
        return np.inf
    relation = state.relation
    y = relation.ritz[1][:, 0]
    w = _combine(state.basis, y)
    if w.sum() < 0:
        w, y = -w, -y
    Hw = _combine(state.basis, state.T @ y)
    Hw += state.V_next @ (state.B @ y[len(y) - state.B.shape[1] :])
    return collatz_wielandt(w, Hw, 2 * state.eps)


def _combine(basis: tuple[Array, ...], y: Array) -> Array:
    """Return ``V y`` for V given in blocks."""
    out = np.zeros(len(basis[0]), np.result_type(basis[0], y))
    start = 0
    for block in basis:
        stop = start + block.shape[1]
        out += block @ y[start:stop]
        start = stop
    return out
