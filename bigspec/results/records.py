"""Records of a run: intervals, passes, and numbers as JSON takes them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    pass

__all__ = ["Interval", "PassRecord", "Range", "TripletPass", "plain_values", "relative_width"]


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
        The interval after this pass (running maximum and minimum).
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

    @property
    def width(self) -> float:
        """Relative width ``upper / lower - 1`` after this pass; of several, the largest."""
        return relative_width(self.lower, self.upper)


@dataclass(frozen=True, kw_only=True)
class TripletPass(PassRecord):
    """One pass of a run for sigma_1 .. sigma_k; `lower` and `upper` are those of sigma_1.

    Attributes
    ----------
    lowers, uppers : tuple of float
        The intervals after this pass, largest value first.
    """

    lowers: tuple[float, ...]
    uppers: tuple[float, ...]

    @property
    def width(self) -> float:
        """Largest of the relative widths ``upper / lower - 1`` after this pass."""
        return max(map(relative_width, self.lowers, self.uppers))


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
