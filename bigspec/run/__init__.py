"""The only loop, and what it runs on: a budget, what is known so far, and when that is saved."""

from bigspec.run.known import Known
from bigspec.run.loop import Outcome, solve
from bigspec.run.state import SAVED_TYPES, KeptBlocks, Progress
from bigspec.run.stop import Budget, check_budget

__all__ = [
    "SAVED_TYPES",
    "Budget",
    "KeptBlocks",
    "Known",
    "Outcome",
    "Progress",
    "check_budget",
    "solve",
]
