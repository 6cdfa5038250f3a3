"""Linear operators: products in blocks, and what an operator can get wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import bigspec
from bigspec.errors import DataError, UnsupportedTypeError
from bigspec.kernels.buffers import Buffers
from bigspec.matrices import OperatorMatrix
from bigspec.sources import open_source

RNG = np.random.default_rng(3)
A = RNG.standard_normal((5, 3)) + 1j * RNG.standard_normal((5, 3))


def opened(operator: Any) -> OperatorMatrix:
    matrix = open_source(operator)
    assert isinstance(matrix, OperatorMatrix)
    return matrix


def test_products_are_those_of_the_matrix() -> None:
    matrix = opened(aslinearoperator(A))
    V, Y = np.ones((3, 2)), np.ones((5, 2))
    np.testing.assert_allclose(matrix.apply(V), A @ V)
    np.testing.assert_allclose(matrix.apply_adjoint(Y), A.conj().T @ Y)
    assert matrix.resident
    assert [grid.count for grid in matrix.grids] == [1, 1]


def test_opening_makes_no_product() -> None:
    def never(v: Any) -> Any:
        raise AssertionError

    operator = LinearOperator((5, 3), matvec=never, rmatvec=never, dtype="f4")
    assert opened(operator).dtype == np.float32


def test_has_no_entries() -> None:
    with pytest.raises(TypeError, match="no entries to read"):
        opened(aslinearoperator(A)).read(slice(0, 5), slice(0, 3), Buffers())


def test_a_missing_adjoint_is_named() -> None:
    matrix = opened(LinearOperator((5, 3), matvec=lambda v: A @ v, dtype="c16"))
    with pytest.raises(UnsupportedTypeError, match=r"with rmatvec \(or rmatmat\).*pass rmatvec="):
        matrix.apply_adjoint(np.ones((5, 1)))


def test_complex_products_of_a_real_operator_are_refused() -> None:
    matrix = opened(LinearOperator((5, 3), matvec=lambda v: A @ v, dtype="f8"))
    with pytest.raises(UnsupportedTypeError, match=r"expected matmat to return real.*complex128"):
        matrix.apply(np.ones((3, 1)))


def test_a_product_of_the_wrong_shape_is_refused() -> None:
    matrix = opened(LinearOperator((5, 3), matvec=None, matmat=lambda V: V, dtype="f8"))
    with pytest.raises(DataError, match=r"expected matmat to return shape \(5, 2\), got \(3, 2\)"):
        matrix.apply(np.ones((3, 2)))


def test_an_operator_on_objects_is_refused() -> None:
    operator = LinearOperator((5, 3), matvec=lambda v: A @ v, dtype=object)
    with pytest.raises(UnsupportedTypeError, match=r"LinearOperator \(5, 3\): .*got object"):
        open_source(operator)


def test_an_operator_without_a_dtype_is_taken_as_real() -> None:
    operator = aslinearoperator(A.real)
    operator.dtype = None
    assert opened(operator).dtype == np.float64


def test_an_operator_of_integers() -> None:
    A = np.arange(12).reshape(4, 3)
    est = bigspec.norm(aslinearoperator(A), rtol=1e-10)
    assert est.lower <= np.linalg.norm(A, 2) * (1 + 1e-14)
    assert np.linalg.norm(A, 2) <= est.upper * (1 + 1e-14)
