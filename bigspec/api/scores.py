"""The product of a matrix with a few columns, in memory or written to a store panel by panel."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from bigspec.errors import ArgumentError, MemoryLimitError, format_bytes
from bigspec.kernels import working_dtype
from bigspec.matrices import Matrix
from bigspec.passes import Pass, find_executor, one_blas_thread
from bigspec.passes.products.factors import Cost, Factor, columns_of
from bigspec.run.target import Target, owned_target
from bigspec.sources.targets import write_rows

__all__ = ["adjoint_product", "scores"]

Array = np.ndarray[Any, Any]

CHUNK_BYTES = 16 << 20
ARGUMENT = "store"


def scores(
    matrix: Matrix,
    V: Array,
    *,
    store: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> Any:
    """Return ``A V``, from one pass over the matrix.

    Parameters
    ----------
    matrix : Matrix (m, n)
    V : ndarray (n, k)
    store : path or URL, optional
        Write the product there, as a Zarr array with chunks of whole rows. The run owns the place
        while it writes; the attribute ``complete`` becomes true at the end.
    limit : int, optional
        Bytes that one process may hold.

    Returns
    -------
    ndarray (m, k) or zarr.Array (m, k)
        float64 or complex128.

    Raises
    ------
    MemoryLimitError
        The product does not fit, and there is no `store`.
    ArgumentError, CheckpointInUseError
        `store` has other contents or another owner.
    NonFiniteError, ChunkError, StoreUnavailableError
    """
    executor = find_executor(matrix.resident)
    limit = limit or executor.memory() // 2
    if matrix.dtype.kind == "c":
        V = V.astype(np.complex128)
    dtype = np.result_type(working_dtype(matrix.dtype), V.dtype)
    needed = matrix.shape[0] * V.shape[1] * dtype.itemsize
    with owned_target(store, ARGUMENT) as target, one_blas_thread():
        factor = Factor.of(matrix, columns_of(matrix, V), limit, Cost(), wanted="rows")
        streamed = target is not None and factor.rows and V.dtype.kind == matrix_kind(matrix)
        if not streamed and needed > limit:
            advice = (
                "Give more memory"
                if store is not None
                else "Give store=, a place for a Zarr array that takes it row by row"
            )
            msg = (
                f"memory_limit: expected at least {format_bytes(needed)} for the product of "
                f"{matrix.name} with {V.shape[1]} columns, got {format_bytes(limit)}. {advice}"
            )
            raise MemoryLimitError(msg)
        if target is None:
            return factor.times(V)
        if streamed:
            return _streamed(factor, V, target)
        return _written(factor.times(V), target)


def adjoint_product(matrix: Matrix, W: Array, limit: int | None = None) -> Array:
    """Return ``A^H W`` for W (m, k), from one pass over a matrix, an operator or a chain."""
    limit = limit or find_executor(matrix.resident).memory() // 2
    with one_blas_thread():
        return Factor.of(matrix, columns_of(matrix, W), limit, Cost()).times(W, adjoint=True)


def matrix_kind(matrix: Matrix) -> str:
    """Return the kind of the working type of products."""
    return working_dtype(matrix.dtype).kind


def _streamed(factor: Factor, V: Array, target: Target) -> Any:
    assert factor.layout is not None
    matrix = factor.matrix
    passes = Pass(matrix, factor.layout, find_executor(matrix.resident))
    rows = passes.target_rows(max(1, CHUNK_BYTES // (V.shape[1] * V.itemsize)))
    if rows is None:
        msg = (
            f"{ARGUMENT}: the chunks of {matrix.name} have different heights, so that two panels "
            f"would write the same chunk of {ARGUMENT}; rechunk its rows to equal sizes"
        )
        raise ArgumentError(msg)
    array = target.create((matrix.shape[0], V.shape[1]), rows, working_dtype(matrix.dtype))
    passes.forward(V, target=array)
    return target.complete(array)


def _written(Y: Array, target: Target) -> Any:
    height = max(1, CHUNK_BYTES // (Y.shape[1] * Y.itemsize))
    array = target.create(Y.shape, height, Y.dtype)
    for first in range(0, len(Y), height):
        stop = min(first + height, len(Y))
        write_rows(array, first, stop, Y[first:stop])
    return target.complete(array)
