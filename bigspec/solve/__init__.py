"""The only loop, and what it runs on: a budget, what is known so far, and when that is saved."""

from bigspec.solve.budget import Budget, check_budget
from bigspec.solve.loop import Outcome, solve
from bigspec.solve.running import Progress, Running
from bigspec.solve.saved import SAVED_TYPES, KeptBlocks
from bigspec.solve.top import RunningTop

__all__ = [
    "SAVED_TYPES",
    "Budget",
    "KeptBlocks",
    "Outcome",
    "Progress",
    "Running",
    "RunningTop",
    "check_budget",
    "solve",
]
