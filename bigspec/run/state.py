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
from bigspec.checkpoint import Former, Wire, Writer
from bigspec.kernels.partials import Partial, RawFacts
from bigspec.passes import Begun, Carried
from bigspec.results import PassRecord
from bigspec.run.known import Known, known_of_k, known_of_one

__all__ = ["SAVED_TYPES", "KeptBlocks", "Progress"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class KeptBlocks:
    """The blocks of a checkpoint as a shelf for a basis that does not fit in memory."""

    writer: Writer

    def put(self, V: np.ndarray[Any, Any]) -> StoredBlock:
        """Write a block under the digest of its content, and wait until it is written."""
        V = np.ascontiguousarray(V)
        return StoredBlock(self.writer.put_block(V), (V.shape[0], V.shape[1]))

    def get(self, stored: StoredBlock) -> np.ndarray[Any, Any]:
        """Read a block and check that it is the one that was written."""
        return self.writer.get_block(stored.block)


@dataclass(frozen=True)
class Progress:
    """All that a run knows: what a checkpoint holds, and what another process goes on from.

    Attributes
    ----------
    run : dict
        Which run it is; see `bigspec.run.identity`.
    state : State or None
        Of the algorithm, after the last complete pass.
    running : Known
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
    running: Known = field(default_factory=Known)
    history: tuple[PassRecord, ...] = ()
    begun: Begun = field(default_factory=Begun)
    tokens: Array | None = None
    carried: Carried | None = None

    @property
    def seconds(self) -> float:
        """Wall time of the passes so far, in all processes."""
        return sum(record.seconds for record in self.history) + self.begun.seconds


PASS = (
    "number lower upper upper_bound lower_bound deterministic ritz_values bytes_read seconds "
    "seconds_reading seconds_multiplying panels retries"
)
RECURRENCE = "passes exponent facts V_last V_next T B tie basis eps start_defect narrowest collatz"

SAVED_TYPES = (
    Wire(Progress, "Progress", "run state running history begun tokens carried"),
    Wire(Known, "Known", "lower certain likely failed rounding before"),
    Former("Running", "lower lower_name certain likely failed rounding", known_of_one),
    Former("RunningTop", "lower certain likely failed rounding before", known_of_k),
    Wire(PassRecord, "PassRecord", f"{PASS} lowers uppers"),
    Former("TripletPass", f"{PASS} lowers uppers", PassRecord),
    Wire(Begun, "Begun", "rounds total seconds"),
    Wire(Carried, "Carried", "blocks images errors Z X outer inner whole"),
    Wire(
        Partial,
        "Partial",
        "Z gram exponent facts tokens bytes_read seconds_reading seconds_multiplying retries",
    ),
    Wire(RawFacts, "RawFacts", "squares column_sums row_sum largest nonnegative magnitude"),
    Wire(
        Facts, "Facts", "frobenius_squared one_norm inf_norm largest nonnegative magnitude_squared"
    ),
    Wire(LanczosState, "LanczosState", RECURRENCE),
    Wire(
        PowerState,
        "PowerState",
        "passes exponent facts V Z product log_scale log_norms eps start_defect",
    ),
    Wire(GramState, "GramState", "passes exponent facts values top eps exhausted"),
    Wire(TopState, "TopState", RECURRENCE),
    Wire(StoredBlock, "StoredBlock", "block shape"),
)
"""What a `Progress` is made of, by the names in records: see `Wire` before you rename anything."""
