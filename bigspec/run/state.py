"""What a checkpoint is made of, and how a basis lies in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bigspec.algorithms import (
    GramState,
    LanczosState,
    PowerState,
    StoredBlock,
    TopState,
)
from bigspec.certificate import Facts
from bigspec.checkpoint import Keeper
from bigspec.kernels.partials import Partial, RawFacts
from bigspec.passes import Begun, Carried
from bigspec.results import PassRecord, TripletPass
from bigspec.run.known import Running
from bigspec.run.known_top import RunningTop

__all__ = ["SAVED_TYPES", "KeptBlocks", "Progress"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class KeptBlocks:
    """The blocks of a checkpoint as a shelf for a basis that does not fit in memory."""

    keeper: Keeper

    def put(self, V: np.ndarray[Any, Any]) -> StoredBlock:
        """Write a block under the digest of its content, and wait until it is written."""
        V = np.ascontiguousarray(V)
        return StoredBlock(self.keeper.put_block(V), (V.shape[0], V.shape[1]))

    def get(self, stored: StoredBlock) -> np.ndarray[Any, Any]:
        """Read a block and check that it is the one that was written."""
        return self.keeper.get_block(stored.block)


@dataclass(frozen=True)
class Progress:
    """All that a run knows: what a checkpoint holds, and what another process goes on from.

    Attributes
    ----------
    run : dict
        Which run it is; see `bigspec.run.identity`.
    state : State or None
        Of the algorithm, after the last complete pass.
    running : Running or RunningTop
    history : tuple of PassRecord
    begun : Begun
        The pass after that, as far as it got.
    tokens : ndarray or None
        Content tokens of the panels, from the first pass.
    carried : Carried or None
        What the last pass over a product left for the next one.
    """

    run: dict[str, Any] = field(default_factory=dict)
    state: Any = None
    running: Any = field(default_factory=Running)
    history: tuple[PassRecord, ...] = ()
    begun: Begun = field(default_factory=Begun)
    tokens: Array | None = None
    carried: Carried | None = None

    @property
    def seconds(self) -> float:
        """Wall time of the passes so far, in all processes."""
        return sum(record.seconds for record in self.history) + self.begun.seconds


SAVED_TYPES = (
    Progress,
    Running,
    RunningTop,
    PassRecord,
    TripletPass,
    Begun,
    Carried,
    Partial,
    RawFacts,
    Facts,
    LanczosState,
    PowerState,
    GramState,
    TopState,
    StoredBlock,
)
"""What a `Progress` is made of."""
