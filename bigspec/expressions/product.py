"""Chains ``A @ B``, which are never formed: a block is multiplied by one factor after the other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.errors import DataError
from bigspec.kernels import working_dtype
from bigspec.matrices import Grid, Matrix, OperatorMatrix, missing_as

__all__ = ["Product", "product"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Product(OperatorMatrix):
    """The matrix ``left @ right``; a pass over it makes passes over its factors.

    Attributes
    ----------
    left, right : Matrix
    """

    left: Matrix
    right: Matrix

    @property
    def nbytes(self) -> int:
        """Bytes that a pass reads: of each factor once (see `bigspec.passes.products.product`)."""
        return self.left.nbytes + self.right.nbytes

    @property
    def missing_as(self) -> str:
        """The value that missing entries count as, for both factors."""
        return missing_as((self.left, self.right))

    @property
    def has_operator(self) -> bool:
        """Whether a factor, or its adjoint, is an operator."""
        return any(
            part.has_operator if isinstance(part, Product) else isinstance(part, OperatorMatrix)
            for part in (self.left, self.right)
        )

    @property
    def identity(self) -> dict[str, Any]:
        """The factors' identities."""
        identities = [self.left.identity, self.right.identity]
        return {
            "where": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "chunks": [part.get("chunks") for part in identities],
            "token": hashlib.sha256(repr(identities).encode()).hexdigest()[:32],
        }

    def apply(self, V: Array) -> Array:
        """Not used: `bigspec.passes` multiplies the factors."""
        raise TypeError(self.name)

    def apply_adjoint(self, Y: Array) -> Array:
        """Not used: `bigspec.passes` multiplies the factors."""
        raise TypeError(self.name)


def product(left: Matrix, right: Matrix) -> Product:
    """Multiply two matrices, lazily.

    Raises
    ------
    DataError
        The inner extents differ.
    """
    if left.shape[1] != right.shape[0]:
        msg = (
            f"{left.name} @ {right.name}: expected as many columns as rows, got shapes "
            f"{left.shape} and {right.shape}; .H is the adjoint"
        )
        raise DataError(msg)
    shape = (left.shape[0], right.shape[1])
    dtype = np.result_type(working_dtype(left.dtype), working_dtype(right.dtype))
    grids = (Grid(shape[0], shape[0]), Grid(shape[1], shape[1]))
    name = f"({left.name} @ {right.name})"
    return Product(shape, dtype, name, grids, left, right, resident=True)
