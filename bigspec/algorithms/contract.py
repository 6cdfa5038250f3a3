"""The contract of an algorithm: three functions over a state of arrays and numbers.

A state is a frozen dataclass whose fields are arrays, tuples of arrays, numbers and `Facts`, so
that it can be saved and loaded without code of its own. Everything in it is scaled by
``2**-exponent`` per factor of A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np

from bigspec.certificate import Bounds, Facts

__all__ = ["Algorithm", "BlockStore", "Products", "State", "StoredBlock"]

Array = np.ndarray[Any, Any]


class Product(Protocol):
    """What a pass returns; see `bigspec.passes.PassResult`."""

    Z: Array
    defect: float
    exponent: int
    facts: Facts | None


class Products(Protocol):
    """A pass as an algorithm sees it; see `bigspec.passes.Pass`."""

    @property
    def length(self) -> int:
        """Length of the iterates."""

    @property
    def complex_(self) -> bool:
        """Whether iterates are complex."""

    @property
    def depth(self) -> float:
        """Terms added one after another into an entry of ``H V``."""

    def run(self, V: Array | None, *, exponent: int | None = None) -> Any:
        """Make one pass."""


class State(Protocol):
    """The fields that the state of every algorithm has."""

    @property
    def passes(self) -> int:
        """Number of passes so far."""

    @property
    def exponent(self) -> int:
        """Scale of everything in the state."""

    @property
    def facts(self) -> Facts | None:
        """Facts of the first pass."""

    @property
    def exhausted(self) -> bool:
        """Whether more steps cannot narrow the bounds (invariant subspace, rounding floor)."""


@dataclass(frozen=True)
class StoredBlock:
    """A block of a basis in a store instead of in memory.

    Attributes
    ----------
    block : str
        Its name there.
    shape : tuple of int
    """

    block: str
    shape: tuple[int, int]


class BlockStore(Protocol):
    """A place for blocks that do not fit in memory; see `bigspec.run.CheckpointBlocks`."""

    def put(self, V: Array) -> StoredBlock:
        """Write a block, and return once it is written."""

    def get(self, stored: StoredBlock) -> Array:
        """Read a block back, with the same bits."""


S = TypeVar("S")


class Algorithm(Protocol, Generic[S]):
    """The contract. `init` makes the first pass, each `step` one more.

    You may pass an object of this contract as `algorithm`. It has a `name` that no algorithm of
    bigspec has, and `block_size`, the columns that it multiplies. These attributes are optional:

    - ``blocks``: blocks of the iterate's size that a run holds (6);
    - ``basis_bytes``: bytes of its basis, at most (0);
    - ``entries``: whether it asks for H itself by ``passes.run(None)``, and has no block (False);
    - ``states``: a tuple of `StateType`; without it, a run has no checkpoint.
    """

    name: ClassVar[str]

    def init(self, passes: Products, entropy: int, start: Array | None) -> S:
        """Draw the start block from `entropy`, put `start` before it, make the first pass."""

    def step(self, passes: Products, state: S) -> S:
        """Make one more pass."""

    def bounds(self, state: S, delta: float, *, complex_: bool) -> Bounds:
        """Bound l_1, or l_1 .. l_k, with failure probability `delta`; no pass, no I/O."""

    def has_room(self, state: S) -> bool:
        """Whether another step fits the memory given."""

    def vector(self, state: S) -> Array | None:
        """Return a unit iterate v with ``||S v||^2 >= lower``, if the state can make one.

        With bounds of l_1 .. l_k, k orthonormal iterates as columns.
        """

    def leading(self, state: S, count: int) -> Array | None:
        """Return at most `count` columns for the start of a later run, if the state has them."""
