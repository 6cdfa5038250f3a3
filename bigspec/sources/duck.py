"""Operators of other packages: shape and products, by the names in PyLops and sigpy."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from bigspec.errors import UnsupportedTypeError
from bigspec.sources.operator import LinearOperatorMatrix, open_operator

__all__ = ["is_duck", "open_duck"]

Array = np.ndarray[Any, Any]

ARRAYS = (
    "__array__",
    "__cuda_array_interface__",
    "__dataframe__",
    "__dlpack__",
    "__arrow_c_array__",
)
"""An object with one of these has entries, and is not an operator."""


def is_duck(a: Any) -> bool:
    """Whether an object multiplies vectors, forward and by its adjoint, and is not an array."""
    if isinstance(a, type) or any(hasattr(a, name) for name in ARRAYS):
        return False
    if _is_shaped(a):
        return True
    shape = getattr(a, "shape", None)
    pair = isinstance(shape, (tuple, list)) and len(shape) == 2
    return pair and (callable(getattr(a, "matvec", None)) or hasattr(a, "__matmul__"))


def open_duck(a: Any) -> LinearOperatorMatrix:
    """Wrap it as SciPy's LinearOperator, one vector at a time, without a product.

    The first pass compares its two products, as for SciPy's own.

    Raises
    ------
    UnsupportedTypeError
        It has no adjoint.
    DataError
        An extent is zero.
    """
    kind = f"{type(a).__module__.partition('.')[0]} {type(a).__qualname__}"
    if _is_shaped(a):
        operator = _of_shaped(a)
    else:
        shape = tuple(int(extent) for extent in a.shape)
        dtype = getattr(a, "dtype", None)
        operator = LinearOperator(
            shape,
            matvec=a.matvec if callable(getattr(a, "matvec", None)) else lambda v: a @ v,
            rmatvec=_adjoint(a, kind),
            dtype=np.dtype(np.float64 if dtype is None else dtype),
        )
    return replace(open_operator(operator), name=f"{kind} {operator.shape}")


def _adjoint(a: Any, kind: str) -> Any:
    """Return the product with the adjoint: rmatvec, or `@` of the transpose."""
    if callable(getattr(a, "rmatvec", None)):
        return a.rmatvec
    found = next(
        (part for name in ("H", "adjoint") if (part := getattr(a, name, None)) is not None), None
    )
    if found is not None:
        adjoint = found() if callable(found) and not hasattr(found, "shape") else found
        return adjoint.matvec if hasattr(adjoint, "matvec") else lambda v: adjoint @ v
    if (transpose := getattr(a, "T", None)) is not None:
        return lambda v: np.conj(transpose @ np.conj(v))
    msg = (
        f"{kind}: expected an operator with an adjoint (rmatvec, H, adjoint or T), got one without "
        "it; wrap it in scipy.sparse.linalg.LinearOperator with matvec= and rmatvec="
    )
    raise UnsupportedTypeError(msg)


def _is_shaped(a: Any) -> bool:
    """Whether it maps arrays of one shape to arrays of another, as sigpy's Linop."""
    return all(hasattr(a, name) for name in ("ishape", "oshape", "H")) and callable(a)


def _of_shaped(a: Any) -> LinearOperator[Any]:
    """Flatten inputs and outputs. It has no dtype, and so counts as complex."""
    inputs, outputs, adjoint = tuple(a.ishape), tuple(a.oshape), a.H
    return LinearOperator(
        (math.prod(outputs), math.prod(inputs)),
        matvec=lambda v: np.asarray(a(v.reshape(inputs))).reshape(-1),
        rmatvec=lambda v: np.asarray(adjoint(v.reshape(outputs))).reshape(-1),
        dtype=np.dtype(np.complex128),
    )
