"""Adjoints, multiples and scalings of any matrix: of an operator that has its own, that one."""

from __future__ import annotations

from typing import Any

import numpy as np

from bigspec.expressions import combination
from bigspec.expressions.weights import weights_of
from bigspec.matrices import Matrix, OperatorMatrix

__all__ = ["adjoint", "multiple", "scaled"]

Array = np.ndarray[Any, Any]


def adjoint(matrix: Matrix) -> Matrix:
    """Return ``A^H`` (the transpose of a real matrix)."""
    own = matrix.adjoint() if isinstance(matrix, OperatorMatrix) else None
    return combination.adjoint(matrix) if own is None else own


def multiple(matrix: Matrix, scalar: complex) -> Matrix:
    """Multiply by a number."""
    number = np.asarray(scalar)
    if isinstance(matrix, OperatorMatrix) and number.ndim == 0 and number.dtype.kind in "iufc":
        own = matrix.weighted(scalar, None) if np.isfinite(number) else None
        if own is not None:
            return own
    return combination.multiple(matrix, scalar)


def scaled(matrix: Matrix, rows: Array | None, columns: Array | None) -> Matrix:
    """Return ``diag(rows) A diag(columns)``.

    Raises
    ------
    ArgumentError
        The weights do not fit, or are not finite.
    UnsupportedTypeError
        An operator that cannot be scaled.
    """
    if isinstance(matrix, OperatorMatrix):
        parts = (("rows", rows, matrix.shape[0]), ("columns", columns, matrix.shape[1]))
        left, right = (weights_of(part, side, size) for side, part, size in parts)
        own = matrix.weighted(left, right)
        if own is not None:
            return own
    return combination.scaled(matrix, rows, columns)
