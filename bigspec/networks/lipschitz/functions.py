"""What an activation is to a stack: its slopes, where they jump, and how fast they change."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.errors import ArgumentError

__all__ = ["REAL", "Activation", "Array", "as_number"]

Array = np.ndarray[Any, Any]
Function = Callable[[Array], Array]
REAL = (int, float, np.integer, np.floating)
"""Types of a parameter that is a number."""


@dataclass(frozen=True)
class Activation:
    """A function of one number.

    Attributes
    ----------
    name : str
    low, high : float
        ``low <= slope <= high``, everywhere.
    value, slope : callable
        Of an array.
    kinks : tuple of float or of arrays
        Where the slope jumps.
    bend : float
        Most that the slope changes a unit, where there is no kink.
    inputs : int or None
        How many numbers it takes; None if any.
    """

    name: str
    low: float
    high: float
    value: Function
    slope: Function
    kinks: tuple[Any, ...] = ()
    bend: float = 0.0
    inputs: int | None = None


def as_number(name: str, what: str, value: Any, *, positive: bool = False) -> float:
    """Return a parameter as a number.

    Raises
    ------
    ArgumentError
        It is no finite number, or not > 0 where it must be.
    """
    real = isinstance(value, REAL) and not isinstance(value, bool)
    if not (real and math.isfinite(value) and (value > 0 or not positive)):
        kind = "a finite number > 0" if positive else "a finite number"
        msg = f"{name}: expected {what} to be {kind}, got {value!r}"
        raise ArgumentError(msg)
    return float(value)
