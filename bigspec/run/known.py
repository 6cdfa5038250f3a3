"""What a run knows: the interval so far, and all that a checkpoint holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.certificate import Bounds
from bigspec.results import Interval, PassRecord

__all__ = ["Running", "in_units", "unscaled"]

Array = np.ndarray[Any, Any]


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
        attained, (name,) = float(bounds.lower[0]), bounds.lower_names
        lower = unscaled(attained, exponent, down=True)
        if not lower > self.lower:
            lower, name = self.lower, self.lower_name
        certain, likely = self.certain, self.likely
        for bound in bounds.uppers:
            value = (unscaled(float(bound.values[0]), exponent, down=False), bound.name)
            if bound.deterministic:
                certain = min(certain, value)
            else:
                likely = min(likely, value)
        top = float(max(attained, np.finfo(float).tiny))
        failed = self.failed or likely[0] < lower
        return Running(lower, name, certain, likely, failed, 2 * float(bounds.eps) / top)

    @property
    def interval(self) -> Interval:
        """The interval now."""
        deterministic = self.failed or self.certain[0] <= self.likely[0]
        upper, name = self.certain if deterministic else self.likely
        return Interval(
            self.lower, max(upper, self.lower), name, self.lower_name, deterministic, self.rounding
        )

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """The intervals of all singular values that are asked for."""
        return (self.interval,)

    @property
    def widest(self) -> Interval:
        """The interval that the stop rule looks at."""
        return self.interval

    def record(self, plain: PassRecord) -> PassRecord:
        """Put the intervals of all values into the record of a pass."""
        return plain

    def stalled(self, rtol: float) -> bool:
        """Whether rounding keeps further passes from narrowing what is too wide."""
        return False


def unscaled(squared: float, exponent: int, *, down: bool) -> float:
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


def in_units(squared: float, exponent: int) -> float:
    """Return ``sqrt(squared) * 2**exponent``, to nearest; infinity beyond the largest float."""
    try:
        return math.ldexp(math.sqrt(max(squared, 0.0)), exponent)
    except OverflowError:
        return math.inf
