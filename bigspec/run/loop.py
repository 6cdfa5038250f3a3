"""The only loop: step, bound, report, stop. Only the interval decides when a run has converged."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bigspec.algorithms import Algorithm
from bigspec.certificate import Bounds
from bigspec.checkpoint import Writer
from bigspec.errors import DataError
from bigspec.passes import (
    Accuracy,
    DeadlinePassed,
    FirstRounds,
    Hooks,
    Pass,
    PassCost,
    PassResult,
)
from bigspec.results import Interval, PassRecord
from bigspec.run.known import Known, in_units
from bigspec.run.saving import Saving
from bigspec.run.state import RunState
from bigspec.run.status import status_text
from bigspec.run.stop import Budget, reason_to_stop
from bigspec.watch import Observer

__all__ = ["Outcome", "basis_nbytes", "solve"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    intervals : tuple of Interval
        The intervals of sigma_1, sigma_2, ...
    history : tuple of PassRecord
    converged : bool
    status : str
    vector : ndarray or None
        Unit vector that attains the lower bound, or a block of k vectors; None if the algorithm
        has no basis.
    frobenius : float or None
    exponent : int
        The algorithm worked on ``2**-exponent A``.
    saved : str or None
        The checkpoint, if it holds the end of this run.
    stopped_by : str
        ``"converged"``, ``"gate"``, ``"exhausted"``, ``"memory"``, ``"passes"``, ``"time"`` or
        ``"interrupted"``.
    state : State or None
        The state of the algorithm after the last pass.
    tokens : ndarray of uint32 or None
        Content tokens of the first pass.
    deadline : float or None
        The end of this call's time limit, on the clock of `time.monotonic`.
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
    tokens: Array | None = None
    deadline: float | None = None

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
    progress: RunState | None = None,
    writer: Writer | None = None,
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
    progress : RunState, optional
        The progress of an interrupted run to continue.
    writer : Writer, optional
        Saves the run.

    Returns
    -------
    Outcome

    Raises
    ------
    KeyboardInterrupt
        Its ``outcome`` is the outcome so far, once a pass is complete.
    """
    observer, progress = observer or Observer(), progress or RunState()
    deadline = None if budget.time_limit is None else time.monotonic() + budget.time_limit
    saving = Saving(writer, observer, progress)
    hooks = Hooks(observer.panels_done, saving.round_summed, deadline, saving.wanted)
    reason = reason_to_stop(progress, algorithm, budget)
    accuracy = _accuracy(progress, budget, failure_probability)
    if reason in ("", "exhausted") and passes.outdated(progress.carried, accuracy):
        # Their errors would stay in the relation for good. The bounds so far stay: a new relation
        # from the same start rests on the same event. The save stays until the new first pass.
        progress, reason = progress.anew(), ""
    try:
        while not reason:
            observer.pass_started(len(progress.history) + 1, passes.layout.panels)
            before = time.monotonic() - progress.first_rounds.seconds
            accuracy = _accuracy(progress, budget, failure_probability)
            passes.make_room(basis_nbytes(progress.state))
            one = _OnePass(passes, progress, accuracy, hooks)
            if progress.state is None:
                state = algorithm.init(one, entropy, start)
            else:
                state = algorithm.step(one, progress.state)
            bounds = algorithm.bounds(state, failure_probability, complex_=passes.complex_)
            progress = _after(progress, state, bounds, one, time.monotonic() - before)
            saving.pass_finished(progress)
            observer.pass_finished(progress.history[-1])
            reason = reason_to_stop(progress, algorithm, budget)
            if not reason:
                saving.step()
        saving.finish(reason)
    except DeadlinePassed:
        reason = "time"
        saving.finish(reason)
    except BaseException as error:
        saving.interrupted(error)
        if isinstance(error, KeyboardInterrupt) and progress.history:
            known = _outcome(progress, algorithm, "interrupted", budget, failure_probability)
            error.outcome = replace(known, saved=saving.where)  # type: ignore[attr-defined]
        raise
    outcome = _outcome(progress, algorithm, reason, budget, failure_probability)
    return replace(outcome, saved=saving.where, tokens=progress.tokens, deadline=deadline)


class _OnePass:
    """The pass that an algorithm gets. It runs once, with what the run knows so far.

    Attributes
    ----------
    result : PassResult or None
        Result of the pass, once the algorithm has made it.
    """

    def __init__(self, passes: Pass, known: RunState, accuracy: Accuracy, hooks: Hooks) -> None:
        self.passes, self.known, self.accuracy, self.hooks = passes, known, accuracy, hooks
        self.length, self.complex_, self.depth = passes.length, passes.complex_, passes.depth
        self.result: PassResult | None = None

    def run(self, V: Array | None, *, exponent: int | None = None) -> PassResult:
        """Make the pass."""
        assert self.result is None, "init and step make one pass each"
        self.result = self.passes.run(
            V,
            exponent=exponent,
            done=self.known.first_rounds,
            tokens=self.known.tokens,
            carried=self.known.carried,
            accuracy=self.accuracy,
            hooks=self.hooks,
        )
        return self.result


def basis_nbytes(state: Any) -> int:
    """Return the bytes of a basis after the next pass, which adds a block to it."""
    blocks = [one.nbytes for one in getattr(state, "basis", ()) if isinstance(one, np.ndarray)]
    return sum(blocks) + max(blocks, default=0)


def _after(
    progress: RunState, state: Any, bounds: Bounds, one: _OnePass, seconds: float
) -> RunState:
    """Return the progress after a pass."""
    result = one.result
    assert result is not None, "init and step make one pass each"
    if state.facts is not None and state.facts.largest == 0.0:
        bounds = bounds.of_zero()
    known = progress.known.updated(bounds, state.exponent)
    if (wrong := known.contradicted) is not None:
        msg = (
            f"{one.passes.matrix.name}: expected `{wrong}`, which was given with the matrix, "
            "to hold, got products that disprove it (it stretches a vector "
            f"{known.interval.lower:.6g} times); give a larger bound, or none"
        )
        raise DataError(msg)
    cost = replace(result.cost, seconds=seconds)
    record = _record(len(progress.history) + 1, known, bounds, state.exponent, cost)
    return replace(
        progress,
        state=state,
        known=known,
        history=(*progress.history, record),
        first_rounds=FirstRounds(),
        tokens=result.tokens if progress.tokens is None else progress.tokens,
        carried=result.carried,
    )


def _outcome(
    progress: RunState,
    algorithm: Algorithm[Any],
    reason: str,
    budget: Budget,
    failure_probability: float,
) -> Outcome:
    state, known = progress.state, progress.known
    history = progress.history
    facts, exponent = (state.facts, state.exponent) if state is not None else (None, 0)
    facts = None if facts is not None and facts.given else facts  # a bound is not the norm
    return Outcome(
        intervals=known.intervals,
        history=history,
        converged=reason == "converged",
        status=status_text(reason, known, history, budget, failure_probability),
        vector=algorithm.vector(state) if state is not None else None,
        frobenius=None if facts is None else in_units(facts.frobenius_squared, exponent),
        stopped_by=reason,
        exponent=exponent,
        state=state,
    )


def _accuracy(progress: RunState, budget: Budget, failure_probability: float) -> Accuracy:
    """Say how much error a pass over a chain may trade for reads, relative to l_1."""
    intervals = progress.known.intervals
    largest, least = intervals[0].lower, intervals[-1].lower
    share = (least / largest) ** 2 if largest > 0 else 0.0
    return Accuracy(budget.rtol * share, failure_probability)


def _record(number: int, known: Known, bounds: Bounds, exponent: int, cost: PassCost) -> PassRecord:
    interval, (lowers, uppers) = known.interval, known.ends
    return PassRecord(
        number=number,
        lower=interval.lower,
        upper=interval.upper,
        upper_bound=interval.upper_bound,
        lower_bound=interval.lower_bound,
        deterministic=interval.deterministic,
        ritz_values=tuple(in_units(value, exponent) for value in bounds.ritz_values),
        bytes_read=cost.bytes_read,
        seconds=cost.seconds,
        seconds_reading=cost.seconds_reading,
        seconds_multiplying=cost.seconds_multiplying,
        panels=cost.panels,
        retries=cost.retries,
        lowers=lowers,
        uppers=uppers,
        chunks=cost.chunks,
        missing_chunks=cost.missing_chunks,
        bytes_pinned=cost.bytes_pinned,
    )
