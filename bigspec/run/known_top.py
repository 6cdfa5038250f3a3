"""What a run for k singular values knows of them so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from bigspec.certificate import Bounds
from bigspec.results import Interval, PassRecord, TripletPass, relative_width
from bigspec.run.known import unscaled

__all__ = ["RunningTop"]

Ends = tuple[tuple[float, str], ...]

MARGINS = 3.0  # rounding margins of a narrow interval, in units of eps / l_i
FEW, MANY = 16.0, 1e3  # margins within which an interval is at its floor, and near it
LARGE = 1e-2  # of the value: a margin that leaves little to be told
STUCK = 2.0 / 3.0  # what is near its floor, and shrinks by less in a pass, is taken to be there


@dataclass(frozen=True)
class RunningTop:
    """The intervals of sigma_1 .. sigma_k so far, in the units of the matrix.

    As in `Running`: the best of all passes, because their bounds hold together; and if any
    probabilistic bound falls below an attained value, only deterministic ones are kept.

    Attributes
    ----------
    lower, certain, likely : tuple of (float, str)
        Greatest lower, least deterministic and least probabilistic upper bound, with their names.
    failed : bool
    rounding : tuple of float
        Share of the relative width that covers rounding; infinite where nothing is above it.
    before : tuple of float
        Upper ends one pass ago.
    """

    lower: Ends
    certain: Ends
    likely: Ends
    failed: bool = False
    rounding: tuple[float, ...] = ()
    before: tuple[float, ...] = ()

    @classmethod
    def begin(cls, k: int) -> RunningTop:
        """Return what is known of k values before the first pass."""
        nothing = ((math.inf, "none"),) * k
        return cls(((0.0, "none"),) * k, nothing, nothing, False, (math.inf,) * k, (math.inf,) * k)

    def updated(self, bounds: Bounds, exponent: int) -> RunningTop:
        """Take in the bounds after a pass."""
        new = zip(bounds.lower.tolist(), bounds.lower_names, strict=True)
        attained = [(unscaled(value, exponent, down=True), name) for value, name in new]
        lower = tuple(max(*pair, key=_value) for pair in zip(self.lower, attained, strict=True))
        certain, likely = self.certain, self.likely
        for bound in bounds.uppers:
            ends = [(unscaled(v, exponent, down=False), bound.name) for v in bound.values.tolist()]
            if bound.deterministic:
                certain = _least(certain, ends)
            else:
                likely = _least(likely, ends)
        below = any(up[0] < low[0] for up, low in zip(likely, lower, strict=True))
        margin = MARGINS * bounds.eps
        return replace(
            self,
            lower=lower,
            certain=certain,
            likely=likely,
            failed=self.failed or below,
            rounding=tuple(margin / v if v > 0 else math.inf for v in bounds.lower.tolist()),
            before=tuple(interval.upper for interval in self.intervals),
        )

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """The intervals of all singular values that are asked for, largest first."""
        found: list[Interval] = []
        rows = zip(self.lower, self.certain, self.likely, self.rounding, strict=True)
        for (lower, lower_name), certain, likely, rounding in rows:
            deterministic = self.failed or certain[0] <= likely[0]
            upper, name = certain if deterministic else likely
            upper = max(upper, lower)
            if found and found[-1].upper < upper:  # sigma_i <= sigma_{i-1}, and what bounds that
                before = found[-1]
                upper, name, deterministic = before.upper, before.upper_bound, before.deterministic
            found.append(Interval(lower, upper, name, lower_name, deterministic, rounding))
        return tuple(found)

    @property
    def interval(self) -> Interval:
        """The interval of sigma_1."""
        return self.intervals[0]

    @property
    def widest(self) -> Interval:
        """The interval that the stop rule looks at."""
        return max(self.intervals, key=lambda i: relative_width(i.lower, i.upper))

    def record(self, plain: PassRecord) -> TripletPass:
        """Put the intervals of all values into the record of a pass."""
        fields: dict[str, Any] = dict(vars(plain))
        ends = self.intervals
        return TripletPass(
            **fields,
            lowers=tuple(i.lower for i in ends),
            uppers=tuple(i.upper for i in ends),
        )

    def stalled(self, rtol: float) -> bool:
        """Whether rounding keeps further passes from narrowing what is too wide.

        Values whose margin alone exceeds `rtol` cannot reach it. They are left at a few margins;
        or, where the margin is of the size of the value or not far away, once the interval
        shrank by less than a third in the last pass. That ends the effort; the intervals claim
        no more than they are.
        """
        for interval, before in zip(self.intervals, self.before, strict=True):
            width, margin = relative_width(interval.lower, interval.upper), interval.rounding
            if width <= rtol or (rtol < margin < LARGE and width <= FEW * margin):
                continue
            shrinks = interval.upper - interval.lower < STUCK * (before - interval.lower)
            if margin <= rtol or shrinks or not (margin >= LARGE or width <= MANY * margin):
                return False
        return True


def _value(end: tuple[float, str]) -> float:
    return end[0]


def _least(known: Ends, new: list[tuple[float, str]]) -> Ends:
    return tuple(min(*pair, key=_value) for pair in zip(known, new, strict=True))
