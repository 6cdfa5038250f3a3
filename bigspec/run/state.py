"""All that a run saves, its names in a checkpoint, and the blocks of its basis there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bigspec.algorithms import REGISTRY, StoredBlock
from bigspec.certificate import Facts
from bigspec.checkpoint import Codec, Former, Wire, Writer
from bigspec.errors import ArgumentError
from bigspec.kernels.partials import Partial, RawFacts
from bigspec.passes import Carried, FirstRounds
from bigspec.results import PassRecord
from bigspec.run.known import Known, known_of_k, known_of_one

__all__ = ["SAVED_TYPES", "CheckpointBlocks", "RunState", "saved_types"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class CheckpointBlocks:
    """Stores blocks of a basis in a checkpoint if they do not fit in memory."""

    writer: Writer

    def put(self, V: np.ndarray[Any, Any]) -> StoredBlock:
        """Write a block under the digest of its content; return when it is written."""
        V = np.ascontiguousarray(V)
        return StoredBlock(self.writer.put_block(V), (V.shape[0], V.shape[1]))

    def get(self, stored: StoredBlock) -> np.ndarray[Any, Any]:
        """Read a block, and check its digest."""
        return self.writer.get_block(stored.block)


@dataclass(frozen=True)
class RunState:
    """All that a run knows. A checkpoint saves it, and another process can continue from it.

    Attributes
    ----------
    run : dict
        The description of the run; see `bigspec.run.identity`.
    state : State or None
        State of the algorithm after the last complete pass.
    known : Known
    history : tuple of PassRecord
    first_rounds : FirstRounds
        The rounds of the next pass that are already summed.
    tokens : ndarray or None
        Content tokens (checksums) of the panels, from the first pass.
    carried : Carried or None
        The images that the last pass over a chain ``A @ B`` leaves for the next one.
    """

    run: dict[str, Any] = field(default_factory=dict)
    state: Any = None
    known: Known = field(default_factory=Known)
    history: tuple[PassRecord, ...] = ()
    first_rounds: FirstRounds = field(default_factory=FirstRounds)
    tokens: Array | None = None
    carried: Carried | None = None

    def anew(self) -> RunState:
        """Return the same bounds without the state, so that a new relation begins."""
        return replace(self, state=None, carried=None, first_rounds=FirstRounds())

    @property
    def seconds(self) -> float:
        """Wall time of the passes so far, in all processes."""
        return sum(record.seconds for record in self.history) + self.first_rounds.seconds


PASS = (
    "number lower upper upper_bound lower_bound deterministic ritz_values bytes_read seconds "
    "seconds_reading seconds_multiplying panels retries"
)

SAVED_TYPES: tuple[Wire | Former, ...] = (
    Wire(
        RunState,
        "Progress",
        "run state running history begun tokens carried",
        {"running": "known", "begun": "first_rounds"},
    ),
    Wire(Known, "Known", "lower certain likely failed rounding before"),
    Former("Running", "lower lower_name certain likely failed rounding", known_of_one),
    Former("RunningTop", "lower certain likely failed rounding before", known_of_k),
    Wire(PassRecord, "PassRecord", f"{PASS} lowers uppers chunks missing_chunks bytes_pinned"),
    Former("TripletPass", f"{PASS} lowers uppers", PassRecord),
    Wire(FirstRounds, "Begun", "rounds total seconds"),
    Wire(Carried, "Carried", "blocks images errors Z X outer inner whole effect"),
    Wire(
        Partial,
        "Partial",
        "Z gram exponent facts tokens bytes_read seconds_reading seconds_multiplying retries "
        "chunks missing_chunks bytes_pinned",
    ),
    Wire(RawFacts, "RawFacts", "squares column_sums row_sum largest nonnegative magnitude chain"),
    Wire(
        Facts,
        "Facts",
        "frobenius_squared one_norm inf_norm largest nonnegative magnitude_squared chain terms "
        "given",
    ),
    *(Wire(one.kind, one.name, one.fields, one.renamed) for one in REGISTRY.states),
    Wire(StoredBlock, "StoredBlock", "block shape"),
)
"""The parts of a `RunState` by their names in records: read `Wire` before you rename anything."""


def saved_types(algorithm: Any = "auto") -> tuple[Wire | Former, ...]:
    """Return the types that a run with this algorithm saves.

    Parameters
    ----------
    algorithm : str or Algorithm
        An object of an unregistered class names its own state types.

    Raises
    ------
    ArgumentError
        It names no states, misses a field of one, or takes a name that is in use.
    """
    if isinstance(algorithm, str) or type(algorithm) in {row.kind for row in REGISTRY.rows}:
        return SAVED_TYPES
    states = REGISTRY.of(algorithm).states
    if not states:
        msg = (
            f"checkpoint: {algorithm.name!r} does not name the classes of its states, so they "
            f"cannot be saved. Give {type(algorithm).__name__} an attribute `states`, a "
            "tuple of bigspec.algorithms.StateType, or run it without a checkpoint"
        )
        raise ArgumentError(msg)
    try:
        types = (
            *SAVED_TYPES,
            *(Wire(one.kind, one.name, one.fields, one.renamed) for one in states),
        )
        Codec(types)
    except ValueError as error:
        msg = f"algorithm: the states of {algorithm.name!r} cannot be saved: {error}"
        raise ArgumentError(msg) from error
    return types
