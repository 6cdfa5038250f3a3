"""Chunks that other tasks have computed, checked against the description of their dask array.

Dask does not check that tasks return the shape, chunks and dtype that the array states. A wrong
chunk would silently make another matrix, so each one is checked before it is read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.errors import DataError
from bigspec.kernels.entries import unmasked
from bigspec.matrices import Matrix
from bigspec.sources.checks import check_dtype
from bigspec.sources.memory import canonical, from_pydata_sparse, is_pydata_sparse

__all__ = ["checked_chunk"]


def checked_chunk(chunk: Any, matrix: Matrix, place: tuple[int, int]) -> Any:
    """Return a chunk as a plain ndarray, or as a CSR or CSC block without duplicates.

    Parameters
    ----------
    chunk : object
        The result of a task.
    matrix : Matrix
        The dask array, with its name, dtype and chunks.
    place : tuple of int
        Its index ``(i, j)`` in ``array.blocks``.

    Raises
    ------
    DataError
        It has masked entries, another shape, complex entries in a real array, or entries that the
        array's dtype cannot hold; or it is no array.
    UnsupportedTypeError
        Its entries are not numbers, or in extended precision.
    """
    rows, columns = (
        (grid.cut(k), grid.cut(k + 1)) for grid, k in zip(matrix.grids, place, strict=True)
    )
    name = (
        f"{matrix.name}: chunk {place} (rows {rows[0]} to {rows[1] - 1}, "
        f"columns {columns[0]} to {columns[1] - 1})"
    )
    block = _as_block(chunk, name)
    shape = rows[1] - rows[0], columns[1] - columns[0]
    if block.shape != shape:
        msg = (
            f"{name}: expected the shape {shape} that the array's chunks say, got {block.shape}. "
            "Say with map_blocks(..., chunks=...) what the chunks become, or make them so"
        )
        raise DataError(msg)
    _check_kind(block.dtype, matrix.dtype, name)
    return block


def _as_block(chunk: Any, name: str) -> Any:
    if isinstance(chunk, np.ndarray):
        check_dtype(chunk.dtype, name)
        return np.asarray(unmasked(chunk, name))
    if is_pydata_sparse(chunk):
        check_dtype(chunk.dtype, name)
        chunk = from_pydata_sparse(chunk, name)
    block: Any = chunk
    if sp.issparse(chunk):
        check_dtype(block.dtype, name)
        # With another number of dimensions it has no CSR form; the caller refuses its shape.
        return canonical(block) if block.ndim == 2 else block
    if isinstance(chunk, (np.generic, complex, float, int)):
        return np.asarray(chunk)
    msg = (
        f"{name}: expected a NumPy array, a SciPy or a pydata sparse array, got "
        f"{type(chunk).__module__}.{type(chunk).__qualname__}; map_blocks the chunks to one of "
        "these"
    )
    raise DataError(msg)


def _check_kind(dtype: np.dtype[Any], declared: np.dtype[Any], name: str) -> None:
    """Refuse entries that the array's dtype cannot hold.

    The plan counts bytes by that dtype. The kernels look for entries whose squares overflow only
    in types that have such entries. A sum of integers is exact only up to 32 bits.
    """
    if np.can_cast(dtype, declared, "safe"):
        return
    msg = (
        f"{name}: expected entries of the array's dtype {declared}, got {dtype}, which it cannot "
        f"hold. Say map_blocks(..., dtype={str(dtype)!r}), or convert each chunk"
    )
    raise DataError(msg)
