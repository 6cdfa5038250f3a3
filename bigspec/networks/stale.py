"""The stored vectors of a spectral normalisation, compared with the norm of its weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.networks.forms import Read, Spectral, wide
from bigspec.networks.row import Row

__all__ = ["joined", "with_ratio"]

Array = np.ndarray[Any, Any]
Times = Callable[[Array, bool], Array]

STALE = 0.99  # below it, a stack of 70 such layers is off by a factor of 2


def with_ratio(row: Row, form: Spectral, read: Read, times: Times) -> Row:
    """Compare the stored vectors of a spectral normalisation with the norm.

    Parameters
    ----------
    row : Row
        With its interval.
    form : Spectral
    read : callable
        Reads a tensor.
    times : callable
        Multiplies the weight by a vector, or its adjoint if the second argument is true.
    """
    assert form.u is not None
    u = wide(read(form.u))
    with np.errstate(invalid="ignore", over="ignore"):
        if form.v is None:
            image = times(u, True)
            v = image / (np.linalg.norm(image) or 1.0)
        else:
            v = wide(read(form.v))
        value = float(abs(np.vdot(u, times(v, False))))
    if not math.isfinite(value):
        return replace(row, note=joined(row.note, "NaN or Inf in u or v"))
    assert row.lower is not None
    assert row.upper is not None
    if row.lower == 0.0:
        return row
    sizes = float(np.linalg.norm(u) * np.linalg.norm(v))
    assert row.matrix is not None
    m, n = row.matrix
    error = 16 * (math.sqrt(m) + math.sqrt(n) + 4) * UNIT_ROUNDOFF * sizes * (row.frobenius or 0.0)
    low, high = max(value - error, 0.0) / row.upper, (value + error) / row.lower
    row = replace(row, ratio_lower=low, ratio_upper=high)
    if high < STALE:
        said = (
            f"u is stale: u^T W v is at most {high:.4g} of the norm, so the layer's own norm is at "
            f"least {1 / high if high else math.inf:.4g}, not 1"
        )
        return replace(row, note=joined(row.note, said))
    if low > 1 / STALE:
        said = f"u or v is not a unit vector: u^T W v is at least {low:.4g} times the norm"
        return replace(row, note=joined(row.note, said))
    return row


def joined(*notes: str) -> str:
    """Return notes as one, without the empty ones."""
    return "; ".join(note for note in notes if note)
