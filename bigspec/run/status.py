"""The status of a run in a sentence or two."""

from __future__ import annotations

import math

import numpy as np

from bigspec.results import Interval, PassRecord, relative_width
from bigspec.results.text import width_text
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
    """Say in a sentence or two what was reached, or what ended the run and what is missing."""
    interval, intervals = known.widest, known.intervals
    width = width_text(interval.lower, interval.upper)
    what = "relative width" if len(intervals) == 1 else "largest relative width"
    are = "interval holds" if len(intervals) == 1 else "intervals hold"
    count = f"{len(history)} pass{'es' if len(history) != 1 else ''}"
    trust = (
        "with certainty, up to the rounding margin"
        if all(one.deterministic for one in intervals)
        else f"except with probability {failure_probability:g} over the random start"
    )
    note = ""
    if known.failed:
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
        return f"Converged in {count}: {what} {width} <= {budget.rtol:g}, {trust}.{note}"
    if reason == "gate" and budget.gate is not None:
        outcome = budget.gate.judge(intervals[0].lower, intervals[0].upper).outcome
        return (
            f"Stopped after {count} because the gate is decided ({outcome}), at {what} "
            f"{width}; the {are} {trust}.{note}"
        )
    if reason == "exhausted" and len(intervals) > 1:
        return (
            f"Stopped after {count} with {_open(intervals, budget.rtol)} of {len(intervals)} "
            f"relative widths > {budget.rtol:g}: these values are zero, or the rounding margin of "
            f"float64 is more than that of them. Further passes would not narrow the intervals, "
            f"which hold {trust}.{note}"
        )
    if reason == "memory":
        return (
            f"Stopped after {count} at {what} {width} > {budget.rtol:g}: the basis does not fit "
            f"the memory limit. Give more, or a checkpoint, which takes it; the {are} {trust}."
            f"{note}"
        )
    if reason == "exhausted":
        return (
            f"Stopped after {count} at relative width {width} > {budget.rtol:g}: the rounding "
            f"margin of float64 ({interval.rounding:.1e} for each product here, more for a narrow "
            f"block) rules the bounds, and further passes would not narrow the interval, which "
            f"holds {trust}.{note}"
        )
    spent = (
        f"max_passes={budget.max_passes}"
        if reason == "passes"
        else "an interrupt"
        if reason == "interrupted"
        else f"time_limit={budget.time_limit:g} s"
    )
    return (
        f"Stopped by {spent} after {count} at {what} {width} > {budget.rtol:g}; the "
        f"{are} {trust}. {_missing(history, budget.rtol)}{note}"
    )


def _open(intervals: tuple[Interval, ...], rtol: float) -> int:
    return sum(relative_width(one.lower, one.upper) > rtol for one in intervals)


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
