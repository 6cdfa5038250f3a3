"""The only loop: step, certify, report, stop. The stop rule is the interval and nothing else."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import numpy as np

from bigspec.algorithms import Algorithm, Bounds, GramState, LanczosState, PowerState
from bigspec.certificate import Facts
from bigspec.checkpoint import Keeper
from bigspec.errors import ArgumentError, CheckpointInUseError, MatrixChangedError
from bigspec.partials import Partial, RawFacts
from bigspec.passes import Begun, DeadlinePassed, Pass
from bigspec.results import Interval, Observer, PassRecord
from bigspec.words import width_text

__all__ = ["SAVED_TYPES", "Budget", "Outcome", "Progress", "Running", "check_budget", "solve"]

Array = np.ndarray[Any, Any]

GRACE = 20.0
"""Seconds that an interrupted run waits for its last save: clusters kill after 30."""


@dataclass(frozen=True)
class Budget:
    """When to stop.

    Attributes
    ----------
    rtol : float
        Stop when ``upper / lower - 1 <= rtol``.
    max_passes : int or None
    time_limit : float or None
        Seconds; a pass that is not complete by then is abandoned.
    """

    rtol: float
    max_passes: int | None = None
    time_limit: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    interval : Interval
    history : tuple of PassRecord
    converged : bool
    status : str
    vector : ndarray or None
        Unit iterate that attains the lower bound; None if the algorithm kept no basis.
    frobenius : float or None
    saved : str or None
        The checkpoint that holds it.
    stopped_by : str
        ``"converged"``, ``"exhausted"``, ``"passes"`` or ``"time"``.
    """

    interval: Interval
    history: tuple[PassRecord, ...]
    converged: bool
    status: str
    vector: Array | None
    frobenius: float | None
    stopped_by: str
    saved: str | None = None


@dataclass(frozen=True)
class Running:
    """The interval so far: running maximum and minimum, in the units of the matrix.

    All passes' bounds hold together (one event for the probabilistic ones), so the best of
    them may be combined. If a probabilistic bound falls below an attained value, the event of
    probability `delta` has happened; then only deterministic bounds are kept.

    Attributes
    ----------
    lower : float
    lower_name : str
    certain, likely : tuple of (float, str)
        Least deterministic and least probabilistic upper bound, with their names.
    failed : bool
        Whether the event of probability `delta` has happened.
    rounding : float
    """

    lower: float = 0.0
    lower_name: str = "none"
    certain: tuple[float, str] = (math.inf, "none")
    likely: tuple[float, str] = (math.inf, "none")
    failed: bool = False
    rounding: float = 0.0

    def updated(self, bounds: Bounds, exponent: int) -> Running:
        """Take in the bounds after a pass."""
        lower, name = _unscaled(bounds.lower, exponent, down=True), bounds.lower_name
        if not lower > self.lower:
            lower, name = self.lower, self.lower_name
        certain, likely = self.certain, self.likely
        for bound in bounds.uppers:
            value = (_unscaled(bound.value, exponent, down=False), bound.name)
            if bound.deterministic:
                certain = min(certain, value)
            else:
                likely = min(likely, value)
        top = max(bounds.lower, np.finfo(float).tiny)
        failed = self.failed or likely[0] < lower
        return Running(lower, name, certain, likely, failed, float(2 * bounds.eps / top))

    @property
    def interval(self) -> Interval:
        """The interval now."""
        deterministic = self.failed or self.certain[0] <= self.likely[0]
        upper, name = self.certain if deterministic else self.likely
        return Interval(
            self.lower, max(upper, self.lower), name, self.lower_name, deterministic, self.rounding
        )


@dataclass(frozen=True)
class Progress:
    """All that a run knows: what a checkpoint holds, and what another process goes on from.

    Attributes
    ----------
    run : dict
        Which run it is; see `bigspec.resuming`.
    state : State or None
        Of the algorithm, after the last complete pass.
    running : Running
    history : tuple of PassRecord
    begun : Begun
        The pass after that, as far as it got.
    tokens : ndarray or None
        Content tokens of the panels, from the first pass.
    """

    run: dict[str, Any] = field(default_factory=dict)
    state: Any = None
    running: Running = Running()
    history: tuple[PassRecord, ...] = ()
    begun: Begun = field(default_factory=Begun)
    tokens: Array | None = None

    @property
    def seconds(self) -> float:
        """Wall time of the passes so far, in all processes."""
        return sum(record.seconds for record in self.history) + self.begun.seconds


SAVED_TYPES = (
    Progress,
    Running,
    PassRecord,
    Begun,
    Partial,
    RawFacts,
    Facts,
    LanczosState,
    PowerState,
    GramState,
)
"""What a `Progress` is made of."""


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
    saving = _Saving(keeper, observer, passes, progress)
    reason = _stop(progress, budget)
    try:
        while not reason:
            number = len(progress.history) + 1
            observer.pass_started(number, passes.layout.panels)
            saving.progress = progress
            before = time.monotonic() - progress.begun.seconds
            if progress.state is None:
                state = algorithm.init(passes, entropy, start)
            else:
                state = algorithm.step(passes, progress.state)
            bounds = algorithm.bounds(state, failure_probability, complex_=passes.complex_)
            running = progress.running.updated(_exact_zero(bounds, state), state.exponent)
            seconds = time.monotonic() - before
            record = _record(number, running.interval, bounds, state, passes, seconds)
            history = (*progress.history, record)
            progress = replace(
                progress,
                state=state,
                running=running,
                history=history,
                begun=Begun(),
                tokens=passes.tokens,
            )
            saving.stepped(progress)
            observer.pass_finished(record)
            reason = _stop(progress, budget)
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


class _Saving:
    """When the loop saves; without a keeper, never."""

    def __init__(
        self, keeper: Keeper | None, observer: Observer, passes: Pass, progress: Progress
    ) -> None:
        self.keeper, self.observer, self.passes = keeper, observer, passes
        self.progress = progress
        self.saved: Progress | None = progress  # as it was loaded, or nothing worth a save yet
        if keeper is not None:
            passes.on_sum = self._after_round

    @property
    def where(self) -> str | None:
        """The checkpoint that holds all that is known; None if there is none, or not all."""
        return (
            self.keeper.folder.where if self.keeper is not None and self.keeper.complete else None
        )

    def stepped(self, progress: Progress) -> None:
        """Note a complete pass: from here on, `begun` is the next one."""
        self.passes.begun = Begun()
        self.progress = progress

    def _after_round(self, begun: Begun) -> None:
        assert self.keeper is not None
        if self.keeper.due(step=False):
            self._offer("partial", replace(self.progress, begun=begun))

    def step(self) -> None:
        """After a pass."""
        if self.keeper is not None and self.keeper.due(step=True):
            self._offer("step", self.progress)

    def finish(self, reason: str) -> None:
        """At the end: the answer, or as far as the pass got that the time limit ended."""
        if self.keeper is None or not self._anything_new():
            return
        try:
            if reason == "time":
                self._offer("partial", replace(self.progress, begun=self.passes.begun))
            else:
                self._offer("step" if reason == "passes" else "finished", self.progress)
        except CheckpointInUseError as error:  # the answer is there all the same
            self.observer.warned(str(error))
        self.keeper.flush()
        self._tell()

    def interrupted(self, error: BaseException) -> None:
        """Save as far as the pass got, unless the matrix is not what it was."""
        if self.keeper is None or isinstance(error, CheckpointInUseError):
            return
        with suppress(CheckpointInUseError):
            if self._anything_new() and not isinstance(error, MatrixChangedError):
                self._offer("partial", replace(self.progress, begun=self.passes.begun))
            self.keeper.flush(GRACE, strict=True)
        if self.where is not None:
            error.saved = self.where  # type: ignore[attr-defined]
            error.add_note(f"Everything up to here is saved in {self.where}.")
        self._tell()

    def _anything_new(self) -> bool:
        assert self.keeper is not None
        new = self.progress is not self.saved or self.passes.begun.rounds > 0
        return new or not self.keeper.complete

    def _offer(self, kind: str, progress: Progress) -> None:
        assert self.keeper is not None
        self.keeper.offer(kind, progress)
        self.saved = progress
        self._tell()

    def _tell(self) -> None:
        assert self.keeper is not None
        while self.keeper.messages:
            self.observer.warned(self.keeper.messages.popleft())


def _outcome(
    progress: Progress,
    algorithm: Algorithm[Any],
    reason: str,
    budget: Budget,
    failure_probability: float,
) -> Outcome:
    state, running = progress.state, progress.running
    interval, history = running.interval, progress.history
    facts, exponent = (state.facts, state.exponent) if state is not None else (None, 0)
    return Outcome(
        interval=interval,
        history=history,
        converged=reason == "converged",
        status=_status(reason, interval, history, budget, failure_probability, running.failed),
        vector=algorithm.vector(state) if state is not None else None,
        frobenius=None if facts is None else _in_units(facts.frobenius_squared, exponent),
        stopped_by=reason,
    )


def _stop(progress: Progress, budget: Budget) -> str:
    """Name the reason to stop now, or nothing."""
    if not progress.history:
        return ""
    record = progress.history[-1]
    if record.width <= budget.rtol:
        return "converged"
    if progress.state.exhausted:
        return "exhausted"
    if budget.max_passes is not None and record.number >= budget.max_passes:
        return "passes"
    return ""


def _exact_zero(bounds: Bounds, state: Any) -> Bounds:
    """Give the zero matrix its exact answer: its Frobenius norm is 0, with certainty."""
    if state.facts is None or state.facts.largest > 0.0:
        return bounds
    return replace(bounds, lower=0.0, uppers=tuple(u for u in bounds.uppers if u.deterministic))


def _unscaled(squared: float, exponent: int, *, down: bool) -> float:
    """Return ``sqrt(squared) * 2**exponent``, rounded outwards."""
    if not squared > 0.0:
        return 0.0
    if math.isinf(squared):
        return math.inf
    root = math.nextafter(math.sqrt(squared), 0.0 if down else math.inf)
    try:
        value = math.ldexp(root, exponent)
    except OverflowError:
        return float(np.finfo(float).max) if down else math.inf
    if value < np.finfo(float).tiny:  # ldexp rounds to nearest among subnormal numbers
        value = math.nextafter(value, 0.0 if down else math.inf)
    return value


def _in_units(squared: float, exponent: int) -> float:
    """Return ``sqrt(squared) * 2**exponent``, to nearest; infinity beyond the largest float."""
    try:
        return math.ldexp(math.sqrt(max(squared, 0.0)), exponent)
    except OverflowError:
        return math.inf


def _record(
    number: int, interval: Interval, bounds: Bounds, state: Any, passes: Pass, seconds: float
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
        ritz_values=tuple(_in_units(value, state.exponent) for value in bounds.ritz_values),
        bytes_read=cost.bytes_read,
        seconds=seconds,
        seconds_reading=cost.seconds_reading,
        seconds_multiplying=cost.seconds_multiplying,
        panels=cost.panels,
        retries=cost.retries,
    )


def _status(
    reason: str,
    interval: Interval,
    history: tuple[PassRecord, ...],
    budget: Budget,
    failure_probability: float,
    failed: bool,
) -> str:
    """Say in a sentence or two what was reached, or what ended the run and what is missing."""
    width = width_text(interval.lower, interval.upper)
    count = f"{len(history)} pass{'es' if len(history) != 1 else ''}"
    trust = (
        "with certainty, up to the rounding margin"
        if interval.deterministic
        else f"except with probability {failure_probability:g} over the random start"
    )
    note = ""
    if failed:
        note = (
            " A probabilistic bound fell below an attained value, so only deterministic bounds "
            "are used; was the matrix made from the same random numbers as the start block?"
        )
    if not history:
        return (
            f"Stopped by time_limit={budget.time_limit:g} s before the first pass was complete: "
            "nothing is known yet. Give it at least the time of one pass."
        )
    if reason == "converged":
        return f"Converged in {count}: relative width {width} <= {budget.rtol:g}, {trust}.{note}"
    if reason == "exhausted":
        return (
            f"Stopped after {count} at relative width {width} > {budget.rtol:g}: the rounding "
            f"margin of float64 ({interval.rounding:.1e} here) is reached, and further passes "
            f"would not narrow the interval, which holds {trust}.{note}"
        )
    spent = (
        f"max_passes={budget.max_passes}"
        if reason == "passes"
        else f"time_limit={budget.time_limit:g} s"
    )
    return (
        f"Stopped by {spent} after {count} at relative width {width} > {budget.rtol:g}; the "
        f"interval holds {trust}. {_missing(history, budget.rtol)}{note}"
    )


def _missing(history: tuple[PassRecord, ...], rtol: float) -> str:
    """Guess how many passes are missing from how fast the width has been falling."""
    widths = [record.width for record in history if 0 < record.width < math.inf]
    seconds = float(np.median([record.seconds for record in history]))
    if len(widths) < 2 or not widths[-1] < widths[-2]:
        return "How many passes are missing cannot be told from so few."
    rate = math.log(widths[-2] / widths[-1])
    passes = max(1, math.ceil(math.log(widths[-1] / rtol) / rate))
    if passes > 1000:
        return "At this rate it would take more than a thousand further passes."
    return f"At this rate about {passes} more would be needed ({passes * seconds:.3g} s)."


def check_budget(budget: Budget) -> None:
    """Raise `ArgumentError` for a budget out of range."""
    if not isinstance(budget.rtol, Real) or not 1e-15 <= budget.rtol < 1.0:
        msg = f"rtol: expected 1e-15 <= rtol < 1, got {budget.rtol!r}; 1e-3 is a common choice"
        raise ArgumentError(msg)
    if budget.max_passes is not None and budget.max_passes < 1:
        msg = f"max_passes: expected at least 1, got {budget.max_passes!r}"
        raise ArgumentError(msg)
    if budget.time_limit is not None and not budget.time_limit > 0:
        msg = f"time_limit: expected positive seconds, got {budget.time_limit!r}"
        raise ArgumentError(msg)
