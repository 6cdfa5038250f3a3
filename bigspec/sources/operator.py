"""A SciPy LinearOperator as a matrix known only by its action."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bigspec.errors import DataError, UnsupportedTypeError
from bigspec.matrices import Grid, OperatorMatrix
from bigspec.sources.checks import check_dtype, check_shape

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

__all__ = ["LinearOperatorMatrix", "open_operator"]


@dataclass(frozen=True)
class LinearOperatorMatrix(OperatorMatrix):
    """A `scipy.sparse.linalg.LinearOperator`, multiplied a block at a time.

    Attributes
    ----------
    operator : scipy.sparse.linalg.LinearOperator
        What the user passed; its ``matmat`` and ``rmatmat`` are the only things called.
    """

    operator: LinearOperator[Any] = field(repr=False, compare=False)

    @property
    def identity(self) -> dict[str, Any]:
        """Shape, dtype and the class of the operator.

        The action cannot be hashed: that a checkpoint belongs to the same operator is the
        caller's word.
        """
        kind = type(self.operator)
        return {
            "where": "operator",
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "chunks": list(self.shape),
            "token": f"{kind.__module__}.{kind.__qualname__}",
        }

    def apply(self, V: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return ``A @ V`` for V (n, b)."""
        return self._checked(self.operator.matmat(V), "matmat", (self.shape[0], V.shape[1]))

    def apply_adjoint(self, Y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return ``A.conj().T @ Y`` for Y (m, b)."""
        try:
            product = self.operator.rmatmat(Y)
        except (NotImplementedError, TypeError) as error:
            # SciPy's own operator without rmatvec calls None when several columns come.
            if isinstance(error, TypeError) and "'NoneType'" not in str(error):
                raise
            msg = (
                f"{self.name}: expected an operator with rmatvec (or rmatmat), which multiplies "
                "by the adjoint, got one without; pass rmatvec=lambda y: A.conj().T @ y to "
                "LinearOperator, or define _rmatvec or _adjoint in the subclass"
            )
            raise UnsupportedTypeError(msg) from error
        return self._checked(product, "rmatmat", (self.shape[1], Y.shape[1]))

    def _checked(self, output: Any, method: str, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
        product: np.ndarray[Any, Any] = np.asarray(output)
        if product.shape != shape:
            msg = f"{self.name}: expected {method} to return shape {shape}, got {product.shape}"
            raise DataError(msg)
        check_dtype(product.dtype, f"{self.name}: what {method} returns")
        if product.dtype.kind == "c" and self.dtype.kind != "c":
            # The iterates were drawn real because the operator said so; a complex matrix has
            # its leading singular vectors elsewhere.
            msg = (
                f"{self.name}: expected {method} to return real numbers, as its dtype "
                f"{self.dtype} says, got {product.dtype}; build it with dtype='complex128'"
            )
            raise UnsupportedTypeError(msg)
        return product


def open_operator(a: LinearOperator[Any]) -> LinearOperatorMatrix:
    """Wrap a LinearOperator; no product is made.

    Raises
    ------
    DataError
        An extent is zero.
    UnsupportedTypeError
        Its dtype is not a numeric one.
    """
    name = f"LinearOperator {tuple(a.shape)}"
    # SciPy always sets a dtype; a subclass that skipped its constructor may hold None.
    dtype = check_dtype(np.dtype(np.float64 if a.dtype is None else a.dtype), name)
    shape = check_shape(a.shape, name)
    grids = (Grid(shape[0], shape[0]), Grid(shape[1], shape[1]))
    return LinearOperatorMatrix(shape, dtype, name, grids, a, resident=True)
