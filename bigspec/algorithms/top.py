"""Block Lanczos for the k largest singular triplets: the same steps, with the whole basis.

The relation and the step are those of `bigspec.algorithms.block_lanczos`. The vectors and the
counting bounds need an orthonormal basis. So the whole basis stays, and every residual block is
orthogonalised against it, twice. Blocks that exceed the memory limit go to a store (the
checkpoint) and are read one by one: four times a step, and once for the vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from bigspec.algorithms import iterates
from bigspec.algorithms.block_lanczos import Basis, LanczosState, Recurrence
from bigspec.algorithms.contract import BlockStore, StoredBlock
from bigspec.certificate import Bounds, Relation, bound_leading, right_coordinates

__all__ = ["TopLanczos", "TopState"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TopState(LanczosState):
    """`LanczosState` whose `basis` is whole; its later blocks may be `StoredBlock`."""

    @property
    def exhausted(self) -> bool:
        """Whether the Krylov space is invariant, so that all outside it is rounding."""
        return bool(self.V_next.shape[1] == 0)

    @cached_property
    def relation(self) -> Relation:
        """The Krylov relation for the certificate."""
        # 1.25: what the deflations dropped, at most eps / (8 sqrt(j)) at step j.
        return Relation(
            self.T,
            self.B,
            self.tie,
            1.25 * self.eps,
            orthonormal=True,
            start_defect=self.start_defect,
        )


@dataclass(frozen=True)
class TopLanczos(Recurrence):
    """Randomized block Lanczos for l_1 .. l_k.

    Parameters
    ----------
    block_size, basis_bytes
        As for `Recurrence`.
    count : int
        k.
    store : BlockStore or None
        Takes the blocks of the basis that exceed `basis_bytes`.
    """

    name: ClassVar[str] = "lanczos"

    count: int = 1
    store: BlockStore | None = field(default=None, compare=False, repr=False)

    def _empty(self, **fields: Any) -> LanczosState:
        return TopState(**fields)

    def _basis_with(self, state: LanczosState, V: Array) -> Basis:
        nbytes = sum(block.nbytes for block in state.basis if not isinstance(block, StoredBlock))
        block: Any = V
        if self.store is not None and nbytes + V.nbytes > self.basis_bytes:
            block = self.store.put(V)
        return (*state.basis, block)

    def _blocks_of(self, basis: Basis) -> Iterable[Array]:
        return _Blocks(basis, self.store)

    def _complete(self, state: LanczosState) -> LanczosState:
        return state

    def has_room(self, state: LanczosState) -> bool:
        """Whether the next block of the basis fits in memory, or goes to the store."""
        nbytes = sum(block.nbytes for block in state.basis if not isinstance(block, StoredBlock))
        return self.store is not None or nbytes + state.V_next.nbytes <= self.basis_bytes

    def bounds(self, state: LanczosState, delta: float, *, complex_: bool) -> Bounds:
        """Bound l_1 .. l_k from the relation and the facts."""
        n = state.V_last.shape[0]
        return bound_leading(state.relation, state.facts, self.count, n, delta, complex_=complex_)

    def vector(self, state: LanczosState) -> Array:
        """Form k orthonormal iterates: those of the half step; fresh ones where N < k."""
        relation = state.relation
        N = len(relation.theta)
        coordinates = right_coordinates(relation, self.count)
        y = relation.ritz[1] @ coordinates[:N]
        V = iterates.apply(state.V_next, coordinates[N:])
        start = 0
        for block in self._blocks_of(state.basis):
            stop = start + block.shape[1]
            iterates.add(V, block, y[start:stop])
            start = stop
        missing = self.count - V.shape[1]
        if missing > 0:
            # The Krylov space is smaller than k. If it is invariant, the other values are zero, as
            # small as rounding, or more often repeated than the block is wide. If not, the run
            # was stopped early, and V has a part outside the basis.
            more = iterates.draw_block(V.shape[0], missing, N, complex_=V.dtype.kind == "c")
            invariant = state.V_next.shape[1] == 0
            near = self._blocks_of(state.basis) if invariant else [V]
            more = iterates.orthonormal(iterates.orthogonalize(more, near))
            if not invariant:  # where little room is left, the first factorisation amplifies V
                more = iterates.orthonormal(iterates.orthogonalize(more, near))
            V = iterates.beside(V, more)
        return V

    def leading(self, state: LanczosState, count: int) -> Array | None:
        """Form k vectors; None if the basis has stored blocks and this run has no store."""
        stored = any(isinstance(block, StoredBlock) for block in state.basis)
        return (
            None
            if stored and self.store is None
            else iterates.columns(self.vector(state), 0, count)
        )


@dataclass(frozen=True)
class _Blocks:
    """The blocks of a basis. Each iteration reads the stored ones again."""

    basis: tuple[Any, ...]
    store: BlockStore | None

    def __iter__(self) -> Iterator[Array]:
        for block in self.basis:
            if isinstance(block, StoredBlock):
                assert self.store is not None
                yield self.store.get(block)
            else:
                yield block
