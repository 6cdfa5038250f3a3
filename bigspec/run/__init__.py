"""One run: its plan, start, loop, interval so far, and saves."""

from bigspec.run.known import Known
from bigspec.run.loop import Outcome, solve
from bigspec.run.state import SAVED_TYPES, CheckpointBlocks, RunState, saved_types
from bigspec.run.stop import Budget, check_budget

__all__ = [
    "SAVED_TYPES",
    "Budget",
    "CheckpointBlocks",
    "Known",
    "Outcome",
    "RunState",
    "check_budget",
    "saved_types",
    "solve",
]
