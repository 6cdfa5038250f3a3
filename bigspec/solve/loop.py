"""The only loop: step, certify, report, stop. The stop rule is the interval and nothing else."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bigspec.algorithms import Algorithm, Bounds
from bigspec.certificate import TopBounds
from bigspec.checkpoint import Keeper
from bigspec.passes import Begun, DeadlinePassed, Pass
from bigspec.results import Interval, Observer, PassRecord
from bigspec.solve.budget import Budget
from bigspec.solve.running import Progress, in_units
from bigspec.solve.saving import Saving
from bigspec.solve.status import status_text

__all__ = ["Outcome", "solve"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    intervals : tuple of Interval
        Of sigma_1, sigma_2 ..., as many as were asked for.
    history : tuple of PassRecord
    converged : bool
    status : str
    vector : ndarray or None
        Unit iterate that attains the lower bound, or a block of them; None if the algorithm kept
        no basis.
    frobenius : float or None
    exponent : int
        The algorithm worked on ``2**-exponent A``.
    saved : str or None
        The checkpoint that holds it.
    stopped_by : str
        ``"converged"``, ``"gate"``, ``"exhausted"``, ``"memory"``, ``"passes"`` or ``"time"``.
    state : State or None
        Of the algorithm, after the last pass.
    """

    intervals: tuple[Interval, ...]
    history: tuple[PassRecord, ...]
    converged: bool
    status: str
    vector: Array | None
    frobenius: float | None
    stopped_by: str
    exponent: int = 0
    saved: str | None = None
    state: Any = None

    @property
    def interval(self) -> Interval:
        """The interval of sigma_1."""
        return self.intervals[0]


def solve(
    passes: Pass,
    algorithm: Algorithm[Any],
    budget: Budget,
    *,
    entropy: int,
    failure_probability: float,
    start: Array | None = None,
    observer: Observer | None = None,
    progress: Progress | None = None,
    keeper: Keeper | None = None,
) -> Outcome:
    """Run an algorithm until its interval is narrow enough or the budget is used up.

    Parameters
    ----------
    passes : Pass
    algorithm : Algorithm
    budget : Budget
    entropy : int
        Recorded entropy of the start block.
    failure_probability : float
    start : ndarray (n, s), optional
        Warm-start vectors.
    observer : Observer, optional
    progress : Progress, optional
        Of a run that was interrupted, to go on from.
    keeper : Keeper, optional
        Saves the run.

    Returns
    -------
    Outcome
    """
    observer, progress = observer or Observer(), progress or Progress()
    if budget.time_limit is not None:
        passes.deadline = time.monotonic() + budget.time_limit
    passes.tokens, passes.resume = progress.tokens, progress.begun
    passes.carried, passes.failure_probability = progress.carried, failure_probability
    saving = Saving(keeper, observer, passes, progress)
    reason = _stop(progress, algorithm, budget)
    passes.accuracy = budget.rtol * _share_of_the_least(progress.running.intervals)
    if reason in ("", "exhausted") and progress.state is not None and passes.outdated:
        # The relation holds their errors for good. The bounds so far stay: a new relation from
        # the same start rests on the same event.
        passes.carried, passes.resume, reason = None, Begun(), ""
        progress = replace(progress, state=None, carried=None, begun=Begun())
    try:
        while not reason:
            number = len(progress.history) + 1
            observer.pass_started(number, passes.layout.panels)
            saving.progress = progress
            passes.accuracy = budget.rtol * _share_of_the_least(progress.running.intervals)
            before = time.monotonic() - progress.begun.seconds
            if progress.state is None:
                state = algorithm.init(passes, entropy, start)
            else:
                state = algorithm.step(passes, progress.state)
            bounds = algorithm.bounds(state, failure_probability, complex_=passes.complex_)
            if state.facts is not None and state.facts.largest == 0.0:
                bounds = bounds.of_zero()
            running = progress.running.updated(bounds, state.exponent)
            seconds = time.monotonic() - before
            record = running.record(
                _record(number, running.interval, bounds, state, passes, seconds)
            )
            history = (*progress.history, record)
            progress = replace(
                progress,
                state=state,
                running=running,
                history=history,
                begun=Begun(),
                tokens=passes.tokens,
                carried=passes.carried,
            )
            saving.stepped(progress)
            observer.pass_finished(record)
            reason = _stop(progress, algorithm, budget)
            if not reason:
                saving.step()
        saving.finish(reason)
    except DeadlinePassed:
        reason = "time"
        saving.finish(reason)
    except BaseException as error:
        saving.interrupted(error)
        raise
    outcome = _outcome(progress, algorithm, reason, budget, failure_probability)
    return replace(outcome, saved=saving.where)


def _outcome(
    progress: Progress,
    algorithm: Algorithm[Any],
    reason: str,
    budget: Budget,
    failure_probability: float,
) -> Outcome:
    state, running = progress.state, progress.running
    history = progress.history
    facts, exponent = (state.facts, state.exponent) if state is not None else (None, 0)
    return Outcome(
        intervals=running.intervals,
        history=history,
        converged=reason == "converged",
        status=status_text(reason, running, history, budget, failure_probability),
        vector=algorithm.vector(state) if state is not None else None,
        frobenius=None if facts is None else in_units(facts.frobenius_squared, exponent),
        stopped_by=reason,
        exponent=exponent,
        state=state,
    )


def _stop(progress: Progress, algorithm: Algorithm[Any], budget: Budget) -> str:
    """Name the reason to stop now, or nothing."""
    if not progress.history:
        return ""
    record = progress.history[-1]
    if record.width <= budget.rtol:
        return "converged"
    if budget.gate is not None and budget.gate.decides(record.lower, record.upper):
        return "gate"
    if progress.state.exhausted or progress.running.stalled(budget.rtol):
        return "exhausted"
    if not algorithm.has_room(progress.state):
        return "memory"
    if budget.max_passes is not None and record.number >= budget.max_passes:
        return "passes"
    return ""


def _share_of_the_least(intervals: tuple[Interval, ...]) -> float:
    """Return ``l_k / l_1``: errors are of the size of l_1, and widths are relative."""
    largest, least = intervals[0].lower, intervals[-1].lower
    return (least / largest) ** 2 if largest > 0 else 0.0


def _record(
    number: int,
    interval: Interval,
    bounds: Bounds | TopBounds,
    state: Any,
    passes: Pass,
    seconds: float,
) -> PassRecord:
    cost = passes.last
    assert cost is not None
    return PassRecord(
        number=number,
        lower=interval.lower,
        upper=interval.upper,
        upper_bound=interval.upper_bound,
        lower_bound=interval.lower_bound,
        deterministic=interval.deterministic,
        ritz_values=tuple(in_units(value, state.exponent) for value in bounds.ritz_values),
        bytes_read=cost.bytes_read,
        seconds=seconds,
        seconds_reading=cost.seconds_reading,
        seconds_multiplying=cost.seconds_multiplying,
        panels=cost.panels,
        retries=cost.retries,
    )
