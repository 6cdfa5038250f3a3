"""The rounding margin eps_H of a pass and of the recurrence around it."""

from __future__ import annotations

from typing import Any

import numpy as np

from bigspec.algorithms import iterates
from bigspec.algorithms.contract import Products
from bigspec.certificate import Facts, product_error
from bigspec.certificate.rounding import UNIT_ROUNDOFF

__all__ = ["rounding"]


def rounding(
    passes: Products, facts: Facts | None, result: Any, small: np.ndarray[Any, Any]
) -> float:
    """Estimate eps_H: from the facts, or from the defect of an operator's dot test.

    Parameters
    ----------
    passes : Products
    facts : Facts or None
    result : PassResult
    small : ndarray
        A matrix of the size of H on the block: T, or H V. Its norm and its columns scale the
        rounding of the recurrence.
    """
    size = iterates.spectral_norm(small)
    recurrence = 16 * UNIT_ROUNDOFF * float(np.sqrt(small.shape[1])) * size
    if facts is None or facts.given:
        return float(8 * result.defect + 4 * recurrence)
    return product_error(facts, passes.length, passes.depth, complex_=passes.complex_) + recurrence
