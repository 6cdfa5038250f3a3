"""Rounding: its unit, and the error of products from the facts."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["UNIT_ROUNDOFF", "hermitian"]

Array = np.ndarray[Any, Any]


UNIT_ROUNDOFF = float(np.finfo(np.float64).eps) / 2


def hermitian(X: Array) -> Array:
    """Return the Hermitian part of a square matrix."""
    return np.asarray((X + X.conj().T) / 2)
