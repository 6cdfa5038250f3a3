"""Terms of low rank: factors in memory, and the means that centring takes away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bigspec.errors import ArgumentError
from bigspec.expressions.combination import Combination, combination, total
from bigspec.kernels import working_dtype
from bigspec.kernels.entries import plain_array
from bigspec.kernels.sums import Factors
from bigspec.matrices import Matrix

__all__ = ["centered_by", "low_rank"]

Array = np.ndarray[Any, Any]


def low_rank(U: Any, s: Any = None, Vh: Any = None) -> Combination:
    """Return the matrix ``U @ diag(s) @ Vh`` from factors in memory; it is never written out.

    Parameters
    ----------
    U : array_like (m, k), or a tuple ``(U, s, Vh)``
    s : array_like (k,), optional
        Ones by default.
    Vh : array_like (k, n)

    Returns
    -------
    Matrix
        Subtract it from others: ``bigspec.open_matrix(a) - bigspec.low_rank(U, s, Vh)``.

    Raises
    ------
    ArgumentError
        The factors do not fit together, or are not finite.

    Examples
    --------
    >>> import numpy as np, bigspec
    >>> A = bigspec.open_matrix(np.diag([3.0, 2.0, 1.0]))
    >>> u, s, vh = bigspec.svds(A, 1)
    >>> round(bigspec.norm(A - bigspec.low_rank(u, s, vh)).value, 6)
    2.0
    """
    if isinstance(U, tuple) and s is None and Vh is None and len(U) == 3:
        U, s, Vh = U
    U, Vh = (_factor(part, name) for part, name in ((U, "U"), (Vh, "Vh")))
    k = U.shape[1]
    weights = np.ones(k) if s is None else plain_array(s, "s")
    if weights.shape != (k,) or Vh.shape[0] != k or not np.isfinite(weights).all():
        msg = (
            "low_rank: expected U (m, k), finite s (k,) and Vh (k, n), got shapes "
            f"{U.shape}, {weights.shape} and {Vh.shape}"
        )
        raise ArgumentError(msg)
    factors = Factors(U * weights, np.ascontiguousarray(Vh.conj().T))
    return combination((U.shape[0], Vh.shape[1]), (), factors)


def _factor(part: Any, name: str) -> Array:
    factor = plain_array(part, name)
    if factor.ndim != 2 or factor.dtype.kind not in "biufc" or 0 in factor.shape:
        msg = f"{name}: expected a matrix of numbers, got {factor.dtype} of shape {factor.shape}"
        raise ArgumentError(msg)
    if not np.isfinite(factor).all():
        msg = f"{name}: expected finite numbers, got a NaN or an infinity"
        raise ArgumentError(msg)
    return factor.astype(working_dtype(factor.dtype))


def centered_by(matrix: Matrix, means: Array, axis: int) -> Combination:
    """Subtract given means of the columns (axis 0) or of the rows (axis 1).

    Raises
    ------
    ArgumentError
        The means are not finite numbers of that length.
    """
    extent = matrix.shape[1 - axis]
    mu = plain_array(means, "means")
    if mu.shape != (extent,) or mu.dtype.kind not in "biufc" or not np.isfinite(mu).all():
        msg = f"means: expected {extent} finite numbers, got {mu.dtype} of shape {mu.shape}"
        raise ArgumentError(msg)
    ones = np.ones((matrix.shape[axis], 1))
    column = mu.astype(working_dtype(mu.dtype))[:, None]
    factors = Factors(-ones, column.conj()) if axis == 0 else Factors(-column, ones)
    centred = total((matrix, combination(matrix.shape, (), factors)))
    return replace(centred, name=f"centered({matrix.name})")
