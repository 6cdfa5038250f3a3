"""When a run stops."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

from bigspec.algorithms import Algorithm
from bigspec.errors import ArgumentError
from bigspec.results.gate import Gate
from bigspec.run.state import RunState

__all__ = ["Budget", "check_budget", "reason_to_stop"]


@dataclass(frozen=True)
class Budget:
    """The limits of a run.

    Attributes
    ----------
    rtol : float
        Stop when ``upper / lower - 1 <= rtol``.
    max_passes : int or None
    time_limit : float or None
        Seconds; an unfinished pass is abandoned then.
    gate : Gate or None
        Stop as soon as the interval decides it.
    """

    rtol: float
    max_passes: int | None = None
    time_limit: float | None = None
    gate: Gate | None = None


def check_budget(budget: Budget) -> None:
    """Raise `ArgumentError` for a budget out of range."""
    if not isinstance(budget.rtol, Real) or not 1e-15 <= budget.rtol < 1.0:
        msg = f"rtol: expected 1e-15 <= rtol < 1, got {budget.rtol!r}; 1e-3 is a common choice"
        raise ArgumentError(msg)
    if not isinstance(budget.gate, (Gate, type(None))):
        msg = f"gate: expected a bigspec.Gate, got {budget.gate!r}"
        raise ArgumentError(msg)
    if budget.max_passes is not None and budget.max_passes < 1:
        msg = f"max_passes: expected at least 1, got {budget.max_passes!r}"
        raise ArgumentError(msg)
    if budget.time_limit is not None and not budget.time_limit > 0:
        msg = f"time_limit: expected positive seconds, got {budget.time_limit!r}"
        raise ArgumentError(msg)


def reason_to_stop(progress: RunState, algorithm: Algorithm[Any], budget: Budget) -> str:
    """Return the reason to stop now; empty if there is none."""
    if not progress.history:
        return ""
    record = progress.history[-1]
    if record.width <= budget.rtol:
        return "converged"
    if budget.gate is not None and budget.gate.decides(record.lower, record.upper):
        return "gate"
    if progress.state.exhausted or progress.known.stalled(budget.rtol):
        return "exhausted"
    if not algorithm.has_room(progress.state):
        return "memory"
    if budget.max_passes is not None and record.number >= budget.max_passes:
        return "passes"
    return ""
