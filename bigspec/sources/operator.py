"""A SciPy LinearOperator as a matrix known only by its action."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

from bigspec.errors import ArgumentError, BigspecError, DataError, UnsupportedTypeError
from bigspec.kernels.entries import plain_array
from bigspec.matrices import Claims, Grid, Matrix, OperatorMatrix
from bigspec.sources.checks import check_dtype, check_shape

__all__ = ["LinearOperatorMatrix", "open_operator", "with_claims"]

Array = np.ndarray[Any, Any]


class _NoAdjointError(Exception):
    """The operator cannot multiply by its adjoint."""


@dataclass(frozen=True)
class LinearOperatorMatrix(OperatorMatrix):
    """A `scipy.sparse.linalg.LinearOperator`, multiplied a block at a time.

    Attributes
    ----------
    operator : scipy.sparse.linalg.LinearOperator
        What the user passed. Its own ``matmat`` and ``rmatmat`` are called. SciPy's are not: they
        hand (n, 1) columns to ``matvec``, and a function that works along the last axis does
        something else with these, and so does its adjoint, so no test would notice. Such an
        operator gets one-dimensional vectors.
    compared : list
        Not empty once a product was compared with that of one vector.
    said : Claims
        What the user says of its norms.
    """

    operator: LinearOperator[Any] = field(repr=False, compare=False)
    compared: list[bool] = field(default_factory=list, repr=False, compare=False)
    said: Claims = field(default_factory=Claims, repr=False)

    @property
    def claims(self) -> Claims:
        """What the user says of its norms."""
        return self.said

    @property
    def identity(self) -> dict[str, Any]:
        """Shape, dtype and the class of the operator.

        The action cannot be hashed: the caller vouches that a checkpoint belongs to the same
        operator.
        """
        kind = type(self.operator)
        known = {
            "where": "operator",
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "chunks": list(self.shape),
            "token": f"{kind.__module__}.{kind.__qualname__}",
        }
        # The bounds of a saved run rest on these claims. A key only where there is one keeps older
        # runs valid.
        pairs = (("upper", self.said.upper), ("frobenius", self.said.frobenius))
        said = {name: value for name, value in pairs if math.isfinite(value)}
        return known | {"given": said} if said else known

    def apply(self, V: Array) -> Array:
        """Return ``A @ V`` for V (n, b); the first time, compare a column with one vector's."""
        operator = self.operator
        if not _has_own(operator, "_matmat"):
            product = self._by_vectors("matvec", V, self.shape[0])
        else:
            product = self._block("matmat", V, self.shape[0])
        if not self.compared:
            self._compare(V, product)
            self.compared.append(True)
        return product

    def apply_adjoint(self, Y: Array) -> Array:
        """Return ``A.conj().T @ Y`` for Y (m, b)."""
        try:
            if not _has_own(self.operator, "_rmatmat"):
                return self._by_vectors("rmatvec", Y, self.shape[1])
            return self._block("rmatmat", Y, self.shape[1])
        except _NoAdjointError as error:
            msg = (
                f"{self.name}: expected an operator with rmatvec (or rmatmat), which multiplies "
                "by the adjoint, got one without; pass rmatvec=lambda y: A.conj().T @ y to "
                "LinearOperator, or define _rmatvec or _adjoint in the subclass"
            )
            raise UnsupportedTypeError(msg) from error.__cause__

    def _by_vectors(self, method: str, V: Array, length: int) -> Array:
        """Multiply the columns one by one, as one-dimensional vectors."""
        columns = [self._called(method, np.ascontiguousarray(v), (length,)) for v in V.T]
        out = np.empty((length, V.shape[1]), np.result_type(*columns))
        for number, column in enumerate(columns):
            out[:, number] = column
        return out

    def _block(self, method: str, V: Array, length: int) -> Array:
        return self._called(method, V, (length, V.shape[1]))

    def _called(self, method: str, V: Array, shape: tuple[int, ...]) -> Array:
        """Call the user's code with a read-only array, and copy what it returns."""
        given = V.view()
        given.flags.writeable = False
        # The user's own function: SciPy's method around it would drop the mask of a result.
        own = {"matvec": "_matvec", "rmatvec": "_rmatvec"}.get(method, method)
        function: Callable[[Array], Any] = getattr(self.operator, own)
        try:
            output = function(given)
        except BigspecError:
            raise
        except Exception as error:
            missing = isinstance(error, NotImplementedError) or "'NoneType'" in str(error)
            if method.startswith("r") and missing:
                raise _NoAdjointError from error
            advice = ""
            if "read-only" in str(error):
                advice = (
                    "; what is passed to it belongs to the run and is read-only: copy it first, "
                    "np.array(v)"
                )
            msg = (
                f"{self.name}: expected {method} to multiply an array of shape {V.shape} and dtype "
                f"{V.dtype}, got {type(error).__name__}: {error}{advice}"
            )
            raise DataError(msg) from error
        return self._checked(output, method, shape)

    def _compare(self, V: Array, product: Array) -> None:
        """Compare the first column with the product of one vector, times i if it is complex.

        Raises
        ------
        DataError
            ``matmat`` multiplies by another matrix than ``matvec``, or ``matvec`` is linear over
            the real numbers only.
        """
        complex_ = self.dtype.kind == "c" and V.dtype.kind == "c"
        if not complex_ and not _has_own(self.operator, "_matmat"):
            return
        v, y, shape = np.ascontiguousarray(V[:, 0]), product[:, 0], (self.shape[0],)
        if complex_ and not self._agree(self._called("matvec", 1j * v, shape), 1j * y):
            if self._agree(self._called("matvec", v, shape), y):
                msg = (
                    f"{self.name}: expected an operator that is linear over the complex numbers, "
                    "got A(i v) that is not i A(v): it is linear over the real numbers only. Its "
                    "norm is that of a real operator of twice the extents, on real and imaginary "
                    "parts; pass that one, with a real dtype"
                )
                raise DataError(msg)
        elif complex_ or self._agree(self._called("matvec", v, shape), y):
            return
        msg = (
            f"{self.name}: expected matmat to multiply each column as matvec does, got another "
            "product for the first one; a function that works along the last axis (axis=-1) needs "
            "axis=0 there, or leave matmat out"
        )
        raise DataError(msg)

    def _agree(self, one: Array, other: Array) -> bool:
        """Whether two products are equal to rounding; NaNs and infinities are found elsewhere."""
        if not (np.isfinite(one).all() and np.isfinite(other).all()):
            return True
        single = self.dtype.kind in "fc" and np.finfo(self.dtype).eps > 1e-10
        size = max(float(np.abs(one).max()), float(np.abs(other).max()))
        return float(np.abs(one - other).max()) <= (1e-2 if single else 1e-6) * size

    def _checked(self, output: Any, method: str, shape: tuple[int, ...]) -> Array:
        if sp.issparse(output):
            msg = (
                f"{self.name}: expected {method} to return a NumPy array, got a SciPy sparse one; "
                "return its .toarray()"
            )
            raise DataError(msg)
        # A copy, for an operator may use its memory again. NumPy's own would drop a mask.
        product: Array = np.array(plain_array(output, f"{self.name}: what {method} returns"))
        if len(shape) == 1 and product.shape == (*shape, 1):
            product = product[:, 0]
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


def with_claims(matrix: Matrix, upper: float | None, frobenius: float | None) -> Matrix:
    """Return an operator with bounds of its norms that the user gives with it.

    Raises
    ------
    ArgumentError
        Not a number from 0 on, or the matrix is not an operator of the user's.
    """
    if upper is None and frobenius is None:
        return matrix
    values = {}
    for name, value in (("upper", upper), ("frobenius", frobenius)):
        number = math.inf if value is None else value
        real = isinstance(number, (int, float, np.integer, np.floating))
        if not real or isinstance(number, bool) or not (number >= 0.0) or (
            value is not None and math.isinf(number)
        ):  # fmt: skip
            msg = f"{name}: expected a number from 0 on that bounds the norm, got {value!r}"
            raise ArgumentError(msg)
        values[name] = float(number)
    if not isinstance(matrix, LinearOperatorMatrix):
        msg = (
            f"upper and frobenius: expected an operator, whose entries nobody sees, got "
            f"{matrix.name}; leave them out, bigspec finds them itself"
        )
        raise ArgumentError(msg)
    known = values["frobenius"]
    said = Claims(values["upper"], "upper (given)", known, largest=known, given=True)
    return replace(matrix, said=said)


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


def _has_own(operator: LinearOperator[Any], method: str) -> bool:
    """Whether ``_matmat`` (``_rmatmat``) is the operator's own and not SciPy's loop over columns.

    SciPy's sums, products, multiples and adjoints of operators have one if all their parts do.
    """
    kind, parts = type(operator), getattr(operator, "args", ())
    inside = [part for part in parts if isinstance(part, LinearOperator)]
    if kind.__module__.startswith("scipy.") and inside:
        flipped = kind.__name__ in ("_AdjointLinearOperator", "_TransposedLinearOperator")
        if flipped:
            method = "_rmatmat" if method == "_matmat" else "_matmat"
        return all(_has_own(part, method) for part in inside)
    if kind.__name__ == "_CustomLinearOperator" and kind.__module__.startswith("scipy."):
        name = "matmat" if method == "_matmat" else "rmatmat"
        return getattr(operator, f"_CustomLinearOperator__{name}_impl", None) is not None
    if getattr(kind, method) is not getattr(LinearOperator, method):
        return True
    if method == "_rmatmat" and kind._adjoint is not LinearOperator._adjoint:
        return _has_own(operator.H, "_matmat")
    return False
