"""Checks weights of rows and columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from bigspec.errors import ArgumentError
from bigspec.kernels import working_dtype
from bigspec.kernels.entries import plain_array

__all__ = ["weights_of"]

Array = np.ndarray[Any, Any]


def weights_of(part: Any, name: str, extent: int) -> Array | None:
    """Return finite weights, one for each row or column, or None for none.

    Raises
    ------
    ArgumentError
    """
    if part is None:
        return None
    weights = plain_array(part, name)
    ok = weights.dtype.kind in "biufc" and weights.shape == (extent,)
    if not ok or not np.isfinite(weights).all():
        msg = (
            f"{name}: expected {extent} finite numbers, one for each of the matrix's {name}, got "
            f"{weights.dtype} of shape {weights.shape}"
        )
        raise ArgumentError(msg)
    return weights.astype(working_dtype(weights.dtype))
