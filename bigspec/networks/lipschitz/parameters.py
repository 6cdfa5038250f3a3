"""Parameters of layers, each checked once: by place or by name, vectors and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bigspec.errors import ArgumentError

__all__ = [
    "ARRAYS",
    "by_name",
    "group_size",
    "in_order",
    "needed",
    "nonnegative",
    "optional",
    "parameters",
    "vector",
]

Array = np.ndarray[Any, Any]


ARRAYS = {"alpha", "beta", "bias", "gamma", "kernel", "mean", "variance", "weights"}
"""Parameters that are arrays: in a file, the paths of some."""


def parameters(given: tuple[Any, ...], names: tuple[str, ...], where: str) -> Any:
    """Return parameters by their places, or by names where they are one dict."""
    if len(given) == 1 and isinstance(given[0], Mapping):
        unknown = sorted(set(given[0]) - set(names))
        if unknown:
            known = ", ".join(names) or "none"
            msg = f"{where}: unknown parameter {unknown[0]!r}; known: {known}"
            raise ArgumentError(msg)
        return dict(given[0])
    if names and len(given) > len(names):
        msg = f"{where}: expected at most {', '.join(names)}, got {len(given)} parameters"
        raise ArgumentError(msg)
    return given


def by_name(values: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Return parameters by their names."""
    return dict(zip(names, values, strict=False)) if isinstance(values, tuple) else dict(values)


def in_order(values: Any, names: tuple[str, ...], label: str) -> tuple[Any, ...]:
    """Return parameters by their places; one that is left out ends them."""
    if isinstance(values, tuple):
        return values
    given = [name in values for name in names]
    if given != sorted(given, reverse=True):
        msg = f"{label}: expected {names[given.index(False)]} before {names[given.index(True)]}"
        raise ArgumentError(msg)
    return tuple(values[name] for name in names if name in values)


def nonnegative(value: Any, what: str) -> float:
    """Return a finite number from 0 on."""
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not (real and np.isfinite(value) and value >= 0):
        msg = f"{what}: expected a finite number >= 0, got {value!r}"
        raise ArgumentError(msg)
    return float(value)


def needed(get: Mapping[str, Any], key: str, label: str) -> Any:
    """Return a parameter that must be there."""
    if get.get(key) is None:
        msg = f"{label}: expected {key}, got none"
        raise ArgumentError(msg)
    return get[key]


def optional(get: Mapping[str, Any], key: str, label: str, length: int) -> Array | None:
    """Return a vector of a known length, or None."""
    if get.get(key) is None:
        return None
    values = vector(get[key], f"{label}: {key}")
    if len(values) != length:
        msg = f"{label}: expected {key} of length {length}, got {len(values)}"
        raise ArgumentError(msg)
    return values


def group_size(value: Any, label: str) -> int | None:
    """Return how many numbers a group has; None if it is not said."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        msg = f"{label}: expected a number of at least 1 in a group, got {value!r}"
        raise ArgumentError(msg)
    return int(value)


def vector(values: Any, what: str) -> Array:
    """Return a vector of finite numbers in float64."""
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        msg = f"{what}: expected a vector of finite numbers, got shape {array.shape}, {array.dtype}"
        raise ArgumentError(msg)
    return array.astype(float)
