"""Records of a run: intervals, passes, and numbers as JSON takes them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Interval", "PassRecord", "Range", "plain_values", "relative_width"]


ENDS = {"lowers", "uppers"}


class Range(NamedTuple):
    """A closed range of numbers."""

    lower: float
    upper: float


@dataclass(frozen=True)
class Interval:
    """``lower <= sigma_1 <= upper``, and which bounds say so.

    Attributes
    ----------
    lower, upper : float
        In the units of the matrix.
    upper_bound : str
        Name of the active upper bound, such as ``"Christoffel"`` or ``"bordered Frobenius"``.
    lower_bound : str
        Name of the active lower bound.
    deterministic : bool
        True if the active upper bound holds whatever the random start was.
    rounding : float
        Part of ``upper / lower - 1`` that is there for floating-point error alone.
    """

    lower: float
    upper: float
    upper_bound: str
    lower_bound: str
    deterministic: bool
    rounding: float = 0.0


def relative_width(lower: float, upper: float) -> float:
    """Return ``upper / lower - 1``; 0 for ``[0, 0]``, infinity for ``[0, u]``."""
    if upper <= lower:
        return 0.0
    if lower <= 0.0 or math.isinf(upper):
        return math.inf
    return upper / lower - 1.0


@dataclass(frozen=True)
class PassRecord:
    """One pass over the matrix: what it cost and what the interval was after it.

    Attributes
    ----------
    number : int
        Counting from 1.
    lower, upper : float
        The interval of sigma_1 after this pass (running maximum and minimum).
    upper_bound, lower_bound : str
        Names of the active bounds.
    deterministic : bool
        Whether the active upper bound needs no probability.
    ritz_values : tuple of float
        The largest Ritz values of A (square roots of those of A^H A), at most eight.
    bytes_read : int
        Decoded bytes of the matrix that the pass read.
    seconds : float
        Wall time of the pass and of the step that followed it.
    seconds_reading, seconds_multiplying : float
        Time in reading and in products, summed over all threads.
    panels : int
        Tasks of the pass.
    retries : int
        Reads that failed and were tried again.
    lowers, uppers : tuple of float
        In a run of `svds` the intervals of all k values after this pass, largest value first;
        empty in one of `norm`.
    """

    number: int
    lower: float
    upper: float
    upper_bound: str
    lower_bound: str
    deterministic: bool
    ritz_values: tuple[float, ...]
    bytes_read: int
    seconds: float
    seconds_reading: float
    seconds_multiplying: float
    panels: int
    retries: int = 0
    lowers: tuple[float, ...] = ()
    uppers: tuple[float, ...] = ()

    @property
    def width(self) -> float:
        """Relative width ``upper / lower - 1`` after this pass; of several, the largest."""
        return max(map(relative_width, self.lowers or (self.lower,), self.uppers or (self.upper,)))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields; without `lowers` and `uppers` in a run of `norm`."""
        fields = dict(vars(self))
        return fields if self.lowers else {k: v for k, v in fields.items() if k not in ENDS}


def plain_values(value: Any) -> Any:
    """Turn tuples into lists, NumPy scalars into Python's, and non-finite floats into None."""
    if isinstance(value, dict):
        return {str(k): plain_values(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
