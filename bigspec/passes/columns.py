"""Sums and squares of the columns in one pass, for centring and scaling."""

from __future__ import annotations

from typing import Any

import numpy as np

from bigspec.errors import NonFiniteError
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.panels.choose_layout import choose_layout
from bigspec.panels.columns import SumsContext
from bigspec.passes.contract import FirstRounds
from bigspec.passes.executor import Executor

__all__ = ["column_sums"]

Array = np.ndarray[Any, Any]


def column_sums(matrix: Matrix, executor: Executor, limit: int) -> tuple[Array, Array]:
    """Read the matrix once; return the sums of the columns and of their squared magnitudes.

    Parameters
    ----------
    matrix : Matrix
    executor : Executor
    limit : int
        Bytes that one process may hold.

    Returns
    -------
    sums : ndarray (n,), float64 or complex128
    squares : ndarray (n,), float64
        Infinite or too small where a square leaves the range of float64.

    Raises
    ------
    NonFiniteError
        A sum is not finite: a NaN or an infinity lies in the column, or it overflows.
    """
    assert not isinstance(matrix, OperatorMatrix)
    layout = choose_layout(
        matrix,
        2,
        blocks=2,
        limit=limit,
        tasks=executor.tasks,
        local=executor.local,
        waiting=executor.waiting,
    )
    context = SumsContext(matrix, layout, None, None, False)
    total = executor.sum_rounds(
        context, FirstRounds(), on_panels=lambda _: None, on_sum=lambda *_: None, deadline=None
    )
    sums, squares = total.Z[:, 0], total.Z[:, 1].real
    bad = ~np.isfinite(sums)
    if bad.any():
        column = int(np.argmax(bad))
        msg = (
            f"{matrix.name}: expected finite entries that can be summed, got others in column "
            f"{column}; fix or mask the data, or scale it"
        )
        raise NonFiniteError(msg)
    return sums, np.ascontiguousarray(squares)
