"""What a checkpoint is made of, and how a basis lies in it."""

from __future__ import annotations

from dataclasses import dataclass
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
from bigspec.partials import Partial, RawFacts
from bigspec.passes import Begun, Carried
from bigspec.results import PassRecord, TripletPass
from bigspec.solve.running import Progress, Running
from bigspec.solve.top import RunningTop

__all__ = ["SAVED_TYPES", "KeptBlocks"]

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
