"""Arguments of the public functions, each checked once."""

from __future__ import annotations

import re
from numbers import Real
from typing import Any

import numpy as np

from bigspec.errors import ArgumentError
from bigspec.passes import parse_bytes, parse_timedelta
from bigspec.run import Budget, check_budget
from bigspec.sources.storage_options import as_options, is_url

__all__ = [
    "as_budget",
    "as_bytes",
    "as_count",
    "as_options",
    "as_probability",
    "as_seconds",
    "as_seed",
    "as_whole",
    "is_url",
]


def as_probability(value: float) -> float:
    """Check a failure probability."""
    if not isinstance(value, Real) or not 1e-300 <= value < 1.0:
        msg = (
            f"failure_probability: expected 1e-300 <= p < 1, got {value!r}; the default 1e-6 costs "
            "next to nothing"
        )
        raise ArgumentError(msg)
    return float(value)


def as_budget(
    rtol: Any, max_passes: Any = None, time_limit: Any = None, gate: Any = None
) -> Budget:
    """Check what ends a run."""
    budget = Budget(rtol, as_whole("max_passes", max_passes), as_seconds(time_limit), gate)
    check_budget(budget)
    return budget


def as_whole(name: str, value: Any) -> int | None:
    """Check an optional integer."""
    if value is None:
        return None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        msg = f"{name}: expected an integer, got {value!r}"
        raise ArgumentError(msg)
    return int(value)


def as_count(k: Any) -> int:
    """Check a number of singular triplets."""
    number = as_whole("k", k)
    if number is None or number < 1:
        msg = f"k: expected an integer of at least 1, got {k!r}"
        raise ArgumentError(msg)
    return number


def as_bytes(value: int | str | None) -> int | None:
    """Read an optional amount of memory."""
    if value is None:
        return None
    try:
        count = int(parse_bytes(value))
    except (ValueError, TypeError, AttributeError):
        count = 0
    if count <= 0:
        msg = f"memory_limit: expected bytes or a text such as '4GiB', got {value!r}"
        raise ArgumentError(msg)
    return count


def as_seconds(value: float | str | None, name: str = "time_limit") -> float | None:
    """Read an optional duration."""
    if value is None:
        return None
    if isinstance(value, str) and re.search(r"[\d ]min$", value):
        value = value.removesuffix("in")  # Dask knows 30m and 30minutes, the help speaks of 30min
    try:
        return float(parse_timedelta(value))
    except (ValueError, TypeError, KeyError):
        msg = f"{name}: expected positive seconds or a text such as '30min', got {value!r}"
        raise ArgumentError(msg) from None


def as_seed(seed: Any) -> int | None:
    """Check an optional seed."""
    number = as_whole("seed", seed)
    if number is not None and number < 0:
        msg = f"seed: expected a non-negative integer, got {seed!r}"
        raise ArgumentError(msg)
    return number
