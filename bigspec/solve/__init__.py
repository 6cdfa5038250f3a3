"""The only loop, and what it runs on: a budget, what is known so far, and when that is saved."""

from bigspec.solve.budget import Budget, check_budget
from bigspec.solve.loop import Outcome, solve
from bigspec.solve.running import SAVED_TYPES, Progress, Running

__all__ = ["SAVED_TYPES", "Budget", "Outcome", "Progress", "Running", "check_budget", "solve"]
