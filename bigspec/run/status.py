"""The sentence or two about how a run ended."""

from __future__ import annotations

import math

import numpy as np

from bigspec.results import PassRecord, relative_width
from bigspec.results.text import counted, seconds_text, width_text
from bigspec.run.known import Known
from bigspec.run.stop import Budget

__all__ = ["status_text"]


def status_text(
    reason: str,
    known: Known,
    history: tuple[PassRecord, ...],
    budget: Budget,
    failure_probability: float,
) -> str:
    """Say what the run reached, or what ended it and how much is missing."""
    if not history:
        return (
            f"Stopped by time_limit={budget.time_limit:g} s before the first pass was complete, so "
            "nothing is known yet. Give it at least the time of one pass."
        )
    count, trust = counted(len(history), "pass", "passes"), _trust(known, failure_probability)
    several, interval = len(known.intervals) > 1, known.widest
    width = width_text(interval.lower, interval.upper)
    reached = f"{'largest ' if several else ''}relative width {width}"
    missed = f"{reached} > {budget.rtol:g}"
    if reason == "converged":
        return f"Converged in {count}: {reached} <= {budget.rtol:g}. {trust}"
    if reason == "gate" and budget.gate is not None:
        first = known.interval
        outcome = budget.gate.judge(first.lower, first.upper).outcome
        return f"Stopped after {count}: the gate is decided ({outcome}), at {reached}. {trust}"
    if reason == "memory":
        return (
            f"Stopped after {count} at {missed}: the next block of the basis does not fit the "
            f"memory limit. Give more memory, or a checkpoint, which can hold the basis. {trust}"
        )
    if reason == "exhausted" and several:
        wide = sum(relative_width(one.lower, one.upper) > budget.rtol for one in known.intervals)
        return (
            f"Stopped after {count}: {wide} of {len(known.intervals)} relative widths are "
            f"> {budget.rtol:g}. These values are zero, or too small for float64 beside the "
            f"largest; more passes would not narrow them. {trust}"
        )
    if reason == "exhausted":
        return (
            f"Stopped after {count} at {missed}: the rounding margin of float64 "
            f"({interval.rounding:.1e} here, wider with few columns) keeps more passes from "
            f"narrowing it. {trust}"
        )
    spent = (
        f"max_passes={budget.max_passes}"
        if reason == "passes"
        else "an interrupt"
        if reason == "interrupted"
        else f"time_limit={budget.time_limit:g} s"
    )
    more = _missing(history, budget.rtol)
    return f"Stopped by {spent} after {count} at {missed}. {more} {trust}"


def _trust(known: Known, failure_probability: float) -> str:
    """Say how sure the intervals are."""
    hold = "The interval holds" if len(known.intervals) == 1 else "All intervals hold"
    if all(one.deterministic for one in known.intervals):
        trust = f"{hold} with certainty, up to the rounding margin"
        given = any(one.given for one in known.intervals)
        trust += ", if what was given with the matrix is right." if given else "."
    else:
        trust = f"{hold}, except with probability {failure_probability:g} over the random start."
    if not known.failed:
        return trust
    return (
        f"{trust} A probabilistic bound fell below an attained value, so only deterministic bounds "
        "are used. Was the matrix made from the same random numbers as the start block?"
    )


def _missing(history: tuple[PassRecord, ...], rtol: float) -> str:
    """Extrapolate from the last widths how many passes are missing."""
    widths = [record.width for record in history if 0 < record.width < math.inf]
    seconds = float(np.median([record.seconds for record in history]))
    if len(widths) < 2 or not widths[-1] < widths[-2]:
        return "It is too early to say how many more passes it needs."
    rate = math.log(widths[-2] / widths[-1])
    passes = max(1, math.ceil(math.log(widths[-1] / rtol) / rate))
    if passes > 1000:
        return "At this rate it needs more than a thousand more passes."
    return f"At this rate it needs about {passes} more ({seconds_text(passes * seconds)})."
