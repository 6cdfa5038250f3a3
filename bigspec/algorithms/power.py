"""Randomized block power iteration on ``H = A^H A``: two blocks of memory, the simplest state.

With ``V_{j+1} R_{j+1} = H V_j`` and ``G = [V_1 R_0]_G``, an eigenvector x of H with eigenvalue
t has ``G^H x = t^{-j} (R_j .. R_0)_G^H V_{j+1}^H x``. The pass over ``V_{j+1}`` also gives its
one-block Krylov relation, so the same certificate applies, with ``t^{-j}`` in front; it implies
``l_1^{2k} <= ||R_k .. R_0||^2 / q(delta)``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from bigspec.algorithms import iterates
from bigspec.algorithms.contract import Products
from bigspec.algorithms.rounding import rounding
from bigspec.algorithms.start import start_block
from bigspec.certificate import (
    Bounds,
    Facts,
    Relation,
    at_rounding_floor,
    bound_largest,
    half_step,
)
from bigspec.certificate.rounding import hermitian

__all__ = ["Power", "PowerState"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class PowerState:
    """The last block, its image, and the accumulated small factors.

    Attributes
    ----------
    passes : int
    exponent : int
    facts : Facts or None
    V : ndarray (n, b)
        Last block multiplied, ``V_k`` after k passes.
    Z : ndarray (n, b)
        ``H V_k``.
    product : ndarray (b_G, b)
        ``(R_{k-1} .. R_0)^H``, rows of G, divided by ``exp(log_scale)``.
    log_scale : float
    log_norms : tuple of float
        Logarithms of ``||(R_j .. R_0)_G||``, j = 0 .. k-2: sizes of past rounding errors.
    eps : float
    start_defect : float
        Rounding of the tie.
    """

    passes: int
    exponent: int
    facts: Facts | None
    V: Array
    Z: Array
    product: Array
    log_scale: float
    log_norms: tuple[float, ...]
    eps: float
    start_defect: float = 0.0

    @property
    def exhausted(self) -> bool:
        """Whether the block is invariant, or the rounding margin rules the interval."""
        return self.relation.B.shape[0] == 0 or at_rounding_floor(self.relation)

    @cached_property
    def relation(self) -> Relation:
        """One-block relation ``H V = V A + V_+ B`` tied to the start through the powers."""
        A = hermitian(iterates.inner(self.V, self.Z))
        W = iterates.difference(self.Z, self.V, A)
        iterates.subtract(W, self.V, iterates.inner(self.V, W))
        room = self.V.shape[0] - self.V.shape[1]
        _, B, dropped = iterates.rank_revealing_qr(W, self.eps / 8, room)
        # 1.25: each step's QR dropped at most eps / 8.
        return Relation(
            A,
            B,
            self.product,
            1.25 * self.eps + dropped,
            orthonormal=True,
            power=self.passes - 1,
            log_scale=self.log_scale,
            start_defect=self.start_defect,
            past=self.log_norms,
        )


@dataclass(frozen=True)
class Power:
    """Randomized block power iteration.

    Parameters
    ----------
    block_size : int
        Gaussian columns of the start block.
    """

    name: ClassVar[str] = "power"

    block_size: int = 16

    def init(self, passes: Products, entropy: int, start: Array | None) -> PowerState:
        """Draw the start block and make the first pass."""
        V, tie, start_defect = start_block(
            passes.length, self.block_size, entropy, start, complex_=passes.complex_
        )
        result = passes.run(V)
        eps = rounding(passes, result.facts, result, result.Z)
        return PowerState(
            1, result.exponent, result.facts, V, result.Z, tie, 0.0, (), eps, start_defect
        )

    def step(self, passes: Products, state: PowerState) -> PowerState:
        """Orthonormalise the image, and multiply it by H."""
        V, R, _ = iterates.rank_revealing_qr(state.Z, state.eps / 8, state.V.shape[1])
        size = max(float(np.linalg.norm(state.product, 2)), np.finfo(float).tiny)
        product = (state.product / size) @ R.conj().T
        result = passes.run(V, exponent=state.exponent)
        return replace(
            state,
            passes=state.passes + 1,
            V=V,
            Z=result.Z,
            product=product,
            log_scale=state.log_scale + float(np.log(size)),
            log_norms=(*state.log_norms, state.log_scale + float(np.log(size))),
            eps=max(state.eps, rounding(passes, state.facts, result, result.Z)),
        )

    def bounds(self, state: PowerState, delta: float, *, complex_: bool) -> Bounds:
        """Bound l_1 from the one-block relation, the powers and the facts."""
        return bound_largest(state.relation, state.facts, delta, complex_=complex_)

    def has_room(self, state: PowerState) -> bool:
        """Whether another step fits: always, because the state does not grow."""
        return True

    def vector(self, state: PowerState) -> Array | None:
        """Form the unit vector of the half step, which is the image of a vector in the block."""
        relation = state.relation
        if relation.theta[0] <= 0:
            return iterates.column(state.V, 0)
        _, c = half_step(relation)
        head = c[: len(relation.theta)]
        y = np.divide(head, relation.theta, out=np.zeros_like(head), where=head != 0)
        return iterates.normalized(iterates.apply(state.Z, relation.ritz[1] @ y))

    def leading(self, state: PowerState, count: int) -> Array | None:
        """Form the images of the leading Ritz vectors of the block."""
        v = self.vector(state)
        assert v is not None
        others = iterates.apply(state.Z, state.relation.ritz[1][:, 1:count])
        return iterates.beside(v, iterates.normalized(others))
