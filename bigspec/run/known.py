"""The intervals of sigma_1 .. sigma_k so far; the norm is k = 1."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bigspec.certificate import GIVEN, Bounds
from bigspec.results import Interval, relative_width

__all__ = ["Known", "in_units", "known_of_k", "known_of_one", "unscaled"]

Array = np.ndarray[Any, Any]
End = tuple[float, str]
Ends = tuple[End, ...]

NOTHING = (math.inf, "none")
FLOOR = 1.5  # widths stay above this many margins (`Known.rounding`) in practice
FEW, MANY = 16.0, 1e3  # an interval of this many floors is at its end, or near it
LARGE = 1e-2  # with a floor of this share of the value, more passes tell little
STUCK = 2.0 / 3.0  # an interval near its floor has reached it if a pass leaves more of it


@dataclass(frozen=True)
class Known:
    """The intervals of sigma_1 .. sigma_k so far, in the units of the matrix.

    The bounds of all passes hold together (one event for the probabilistic ones), so the best of
    them may be combined. If a probabilistic bound falls below an attained value, the event of
    probability `delta` has happened, and only deterministic bounds remain.

    Attributes
    ----------
    lower, certain, likely : tuple of (float, str)
        Greatest lower, least deterministic and least probabilistic upper bound of each value, with
        their names.
    failed : bool
        Whether the event of probability `delta` has happened.
    rounding : tuple of float
        Share of each relative width that covers rounding. Both ends are moved by 2 eps. With
        ``l = theta - 2 eps``, a converged interval is ``((l + 4 eps) / l)^(1/2) - 1`` wide, which
        is ``2 eps / l`` to first order, and never more.
    before : tuple of float
        Upper ends one pass ago. Empty for the norm: its algorithms notice when rounding dominates
        their bounds.
    """

    lower: Ends = ((0.0, "none"),)
    certain: Ends = (NOTHING,)
    likely: Ends = (NOTHING,)
    failed: bool = False
    rounding: tuple[float, ...] = (0.0,)
    before: tuple[float, ...] = ()

    @classmethod
    def begin(cls, k: int, upper: End = NOTHING) -> Known:
        """Return what is known of k values before the first pass; of the norm if k is 0.

        `upper` is a bound of the norm that needs no pass, in the units of the matrix.
        """
        if k == 0:
            return cls(certain=(upper,))
        nothing, infinite = (NOTHING,) * k, (math.inf,) * k
        return cls(((0.0, "none"),) * k, (upper,) * k, nothing, False, infinite, infinite)

    def updated(self, bounds: Bounds, exponent: int) -> Known:
        """Return the intervals after the bounds of one more pass."""
        values = bounds.lower.tolist()
        new = zip(values, bounds.lower_names, strict=True)
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
        margin, tiny = 2 * float(bounds.eps), float(np.finfo(float).tiny)
        return replace(
            self,
            lower=lower,
            certain=certain,
            likely=likely,
            failed=self.failed or below,
            rounding=tuple(margin / max(value, tiny) for value in values),
            before=tuple(interval.upper for interval in self.intervals) if self.before else (),
        )

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """The intervals of all values, largest first."""
        found: list[Interval] = []
        rows = zip(self.lower, self.certain, self.likely, self.rounding, strict=True)
        for (lower, lower_name), certain, likely, rounding in rows:
            deterministic = self.failed or certain[0] <= likely[0]
            upper, name = certain if deterministic else likely
            upper = max(upper, lower)
            if found and found[-1].upper < upper:  # sigma_i <= sigma_{i-1} <= its upper end
                before = found[-1]
                upper, name, deterministic = before.upper, before.upper_bound, before.deterministic
            found.append(Interval(lower, upper, name, lower_name, deterministic, rounding))
        return tuple(found)

    @property
    def contradicted(self) -> str | None:
        """Name of the bound given with the matrix that an attained value disproves."""
        for (lower, _), (upper, name) in zip(self.lower, self.certain, strict=True):
            if name.endswith(GIVEN) and lower > upper:
                return name.removesuffix(GIVEN).rpartition(" ")[2].lower()
        return None

    @property
    def interval(self) -> Interval:
        """The interval of sigma_1."""
        return self.intervals[0]

    @property
    def widest(self) -> Interval:
        """The widest interval, which the stop rule looks at."""
        return max(self.intervals, key=lambda i: relative_width(i.lower, i.upper))

    @property
    def ends(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Lower and upper ends for the record of a pass over k values; empty for the norm."""
        intervals = self.intervals if self.before else ()
        return tuple(one.lower for one in intervals), tuple(one.upper for one in intervals)

    def stalled(self, rtol: float) -> bool:
        """Whether rounding keeps more passes from narrowing the intervals that are too wide.

        An interval whose floor (the rounding margin) exceeds `rtol` counts as done at a width of
        a few floors. If the floor is near the value itself, it also counts as done once it shrank
        by less than a third in the last pass. This only decides when to stop; the intervals hold
        anyway.
        """
        if not self.before:
            return False
        for interval, before in zip(self.intervals, self.before, strict=True):
            width, floor = relative_width(interval.lower, interval.upper), FLOOR * interval.rounding
            if width <= rtol or (rtol < floor < LARGE and width <= FEW * floor):
                continue
            shrinks = interval.upper - interval.lower < STUCK * (before - interval.lower)
            if floor <= rtol or shrinks or not (floor >= LARGE or width <= MANY * floor):
                return False
        return True


def known_of_one(
    lower: float, lower_name: str, certain: End, likely: End, failed: bool, rounding: float
) -> Known:
    """Read a record of the norm that was written before records had k values."""
    return Known(((lower, lower_name),), (certain,), (likely,), failed, (rounding,))


def known_of_k(
    lower: Ends,
    certain: Ends,
    likely: Ends,
    failed: bool,
    rounding: tuple[float, ...],
    before: tuple[float, ...],
) -> Known:
    """Read an old record of k values, which has the floor in place of the margin."""
    return Known(lower, certain, likely, failed, tuple(r / FLOOR for r in rounding), before)


def _value(end: End) -> float:
    return end[0]


def _least(known: Ends, new: list[End]) -> Ends:
    """Return the lower of each two ends; if they are equal, the first by name."""
    return tuple(
        min(old, end) if math.isfinite(end[0]) else old for old, end in zip(known, new, strict=True)
    )


def unscaled(squared: float, exponent: int, *, down: bool) -> float:
    """Return ``sqrt(squared) * 2**exponent``, rounded outwards."""
    if math.isnan(squared):  # no bound at all
        return 0.0 if down else math.inf
    if squared <= 0.0:
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


def in_units(squared: float, exponent: int) -> float:
    """Return ``sqrt(squared) * 2**exponent``, to nearest; infinity beyond the largest float."""
    try:
        return math.ldexp(math.sqrt(max(squared, 0.0)), exponent)
    except OverflowError:
        return math.inf
