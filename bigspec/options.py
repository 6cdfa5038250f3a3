"""Arguments of the public functions, checked once: what was expected, what came, what to do."""

from __future__ import annotations

import os
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from bigspec.errors import ArgumentError, MissingSourceError
from bigspec.passes import parse_bytes, parse_timedelta
from bigspec.planning import Plan
from bigspec.results import Estimate

__all__ = [
    "as_bytes",
    "as_seconds",
    "as_whole",
    "check_probability",
    "entropy_of",
    "load_start",
    "start_vectors",
]

Array = np.ndarray[Any, Any]


def check_probability(value: float) -> None:
    """Raise `ArgumentError` for a failure probability out of range."""
    if not isinstance(value, Real) or not 1e-300 <= value < 1.0:
        msg = (
            f"failure_probability: expected 1e-300 <= p < 1, got {value!r}; the default 1e-6 costs "
            "next to nothing"
        )
        raise ArgumentError(msg)


def as_whole(name: str, value: Any) -> int | None:
    """Check an optional integer."""
    if value is None:
        return None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        msg = f"{name}: expected an integer, got {value!r}"
        raise ArgumentError(msg)
    return int(value)


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


def as_seconds(value: float | str | None) -> float | None:
    """Read an optional duration."""
    if value is None:
        return None
    try:
        return float(parse_timedelta(value))
    except (ValueError, TypeError, KeyError):
        msg = f"time_limit: expected positive seconds or a text such as '30min', got {value!r}"
        raise ArgumentError(msg) from None


def entropy_of(seed: int | None, start: Any) -> int:
    """Return the entropy of the run: the seed given, or fresh."""
    if seed is None:
        return int(np.random.SeedSequence().entropy)  # type: ignore[arg-type]
    number = as_whole("seed", seed)
    assert number is not None
    if number < 0:
        msg = f"seed: expected a non-negative integer, got {seed!r}"
        raise ArgumentError(msg)
    if isinstance(start, Estimate) and start.seed == number:
        msg = (
            f"seed: expected another one than that of the estimate given as start, got {seed} "
            "again; a matrix that depends on the old run would not be independent of the start "
            "block. Leave seed out for fresh entropy."
        )
        raise ArgumentError(msg)
    return number


def load_start(start: Any) -> Array | Estimate | None:
    """Turn `start` into an array of columns or an estimate, without unpickling anything."""
    if start is None or isinstance(start, Estimate):
        return start
    if isinstance(start, (str, os.PathLike)):
        path = Path(start)
        if not path.exists():
            msg = f"start: expected an .npz or .npy file, got {str(path)!r}, which does not exist"
            raise MissingSourceError(msg)
        try:
            with np.load(path, allow_pickle=False) as held:
                names = list(held.keys()) if hasattr(held, "keys") else []
                key = "right" if "right" in names else (names[0] if names else "")
                start = held[key] if names else np.array(held)
        except (ValueError, OSError, TypeError, AttributeError) as error:
            if path.suffix != ".npy":
                msg = f"start: cannot read {str(path)!r} as vectors: {error}"
                raise ArgumentError(msg) from error
            start = _load_npy(path)
    W = np.asarray(start)
    W = W[:, None] if W.ndim == 1 else W
    if W.ndim != 2 or W.dtype.kind not in "biufc" or not np.isfinite(W).all():
        msg = f"start: expected finite numbers of shape (n, s), got {W.dtype} of shape {W.shape}"
        raise ArgumentError(msg)
    return W


def _load_npy(path: Path) -> Array:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (ValueError, OSError) as error:
        msg = f"start: cannot read {str(path)!r} as vectors: {error}"
        raise ArgumentError(msg) from error


def start_vectors(start: Array | Estimate | None, chosen: Plan) -> Array | None:
    """Check the warm start against the iterates of the plan."""
    rows, length = chosen.layout.orientation == "rows", chosen.layout.iterate_length
    side = "right" if rows else "left"
    if isinstance(start, Estimate):
        vector = start.right if rows else start.left
        if vector is None:
            msg = f"start: expected an estimate with a {side} vector, got one without"
            raise ArgumentError(msg)
        start = vector[:, None]
    if start is not None and start.shape[0] != length:
        msg = (
            f"start: expected {side} vectors of length {length} for panels of "
            f"{chosen.layout.orientation} of {chosen.matrix.name}, got shape {start.shape}"
        )
        raise ArgumentError(msg)
    complex_start = start is not None and np.iscomplexobj(start)
    if complex_start and chosen.matrix.dtype.kind != "c":
        msg = "start: expected real vectors for a real matrix, got complex ones; pass real parts"
        raise ArgumentError(msg)
    return start
