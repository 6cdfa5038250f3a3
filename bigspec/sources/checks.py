"""The first checks of every source: entries are numbers, the shape is a matrix's, vectors fit."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from bigspec.errors import DataError, MemoryLimitError, UnsupportedTypeError, format_bytes

__all__ = ["check_dtype", "check_memory", "check_shape", "check_vectors", "half_of_memory"]

LEAST_BLOCKS = 5
"""The fewest vectors of a run, each as long as the shorter side: power iteration, one column."""
LONG = 1 << 24
"""From this extent on, pointers take seconds to read or make."""


def half_of_memory() -> int:
    """Return half the bytes of this machine, the default limit for opening a source."""
    return int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_PHYS_PAGES")) // 2


def check_memory(needed: int, what: str) -> None:
    """Refuse an array that takes more than half of the memory of this machine.

    Raises
    ------
    MemoryLimitError
    """
    if needed > half_of_memory():
        msg = (
            f"{what}: expected an array that fits in half of the memory of this machine "
            f"({format_bytes(half_of_memory())}), got one of {format_bytes(needed)}"
        )
        raise MemoryLimitError(msg)


def check_dtype(dtype: np.dtype[Any], name: str) -> np.dtype[Any]:
    """Return `dtype` if its values embed in float64 or complex128.

    Accepted: bool, every integer, float16/32/64 in either byte order, complex64/128, and the
    bfloat16 of ml_dtypes (which NumPy sees as a void type with casts).

    Raises
    ------
    UnsupportedTypeError
        Any other type; also extended precision, which would be rounded silently.
    """
    if dtype.kind in "biu" or (dtype.kind == "f" and dtype.itemsize <= 8):
        return dtype
    if dtype.kind == "c" and dtype.itemsize <= 16:
        return dtype
    if dtype.name == "bfloat16" and _casts_to_float(dtype):
        return dtype
    if dtype.kind in "fc":
        target = "float64" if dtype.kind == "f" else "complex128"
        advice = f"Products are made in {target}: convert with .astype('{target}') first"
    elif dtype.kind == "O":
        advice = "If the objects are numbers, convert with .astype('float64')"
    elif dtype.names is not None:
        advice = "Pass one field of the records that holds numbers"
    else:
        advice = "A spectral norm needs numbers"
    msg = (
        f"{name}: expected entries of type bool, int, float16/32/64, bfloat16 or complex64/128, "
        f"got {dtype}. {advice}"
    )
    raise UnsupportedTypeError(msg)


def _casts_to_float(dtype: np.dtype[Any]) -> bool:
    try:
        np.zeros(1, dtype).astype(np.float64)
    except (TypeError, ValueError):
        return False
    return True


def check_shape(shape: tuple[int, ...], name: str) -> tuple[int, int]:
    """Return `shape` as ``(m, n)`` if it has two positive extents.

    Raises
    ------
    DataError
        The matrix is empty, or does not have two dimensions.
    """
    shape = tuple(int(extent) for extent in shape)
    if len(shape) == 0:
        advice = "a scalar's norm is its absolute value"
    elif len(shape) == 1:
        advice = (
            "reshape it, .reshape(-1, 1) for one column or .reshape(1, -1) for one row, "
            "or use numpy.linalg.norm, which is the same number for a vector"
        )
    elif len(shape) > 2:
        rows, rest = shape[0], math.prod(shape[1:])
        advice = f"flatten all axes but one, for example .reshape({rows}, {rest})"
    elif min(shape) <= 0:
        advice = "a matrix without entries has no singular values"
    else:
        return shape[0], shape[1]
    what = "a matrix with at least one row and one column"
    msg = f"{name}: expected {what}, got shape {shape}; {advice}"
    raise DataError(msg)


def check_vectors(shape: tuple[int, int], vectors: int | None, name: str) -> None:
    """Refuse a matrix whose vectors do not fit, before its pointers are read or made.

    Parameters
    ----------
    shape : tuple of int
    vectors : int or None
        Bytes for its vectors; None if the matrix may never be multiplied.
    name : str

    Raises
    ------
    MemoryLimitError
        Not even the vectors of a run with one column fit.
    """
    needed = LEAST_BLOCKS * 8 * min(shape)
    if vectors is None or needed <= vectors or min(shape) < LONG:
        return
    msg = (
        f"memory_limit: expected at least {format_bytes(needed)} for the vectors of {name} "
        f"{shape}, which are as long as its shorter side, got {format_bytes(vectors)}. Give more "
        "memory, or leave out the rows and columns that are empty"
    )
    raise MemoryLimitError(msg)
