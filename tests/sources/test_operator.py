"""Linear operators: products in blocks, and what an operator can get wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import fft, ndimage
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
    with pytest.raises(UnsupportedTypeError, match=r"expected matvec to return real.*complex128"):
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


# Functions of the last axis ------------------------------------------------------------------

N = 40


def of(function: Any, adjoint: Any = None, dtype: Any = "f8", **options: Any) -> Any:
    return LinearOperator(
        (N, N), matvec=function, rmatvec=adjoint or function, dtype=dtype, **options
    )


def blurred(x: Any) -> Any:
    return ndimage.convolve1d(x, [1.0, 2.0, 1.0], mode="constant")


ALONG_THE_LAST_AXIS = {
    "convolution": (blurred, blurred),
    "sine transform": (lambda x: fft.dst(x, type=1), lambda x: fft.dst(x, type=1)),
    "sums": (lambda x: np.cumsum(x, -1), lambda x: np.cumsum(x[..., ::-1], -1)[..., ::-1]),
    "centring": (lambda x: x - x.mean(-1, keepdims=True),) * 2,
}


@pytest.mark.parametrize("name", ALONG_THE_LAST_AXIS)
@pytest.mark.parametrize("made", ["plain", "sum", "product", "adjoint", "multiple"])
def test_functions_of_the_last_axis_are_given_vectors(name: str, made: str) -> None:
    function, adjoint = ALONG_THE_LAST_AXIS[name]
    A = np.column_stack([function(e) for e in np.eye(N)])
    op = of(function, adjoint)
    op, A = {
        "plain": (op, A),
        "sum": (op + op, 2 * A),
        "product": (op @ op, A @ A),
        "adjoint": (op.H, A.T),
        "multiple": (3.0 * op, 3 * A),
    }[made]
    estimate = bigspec.norm(op, rtol=1e-6, seed=1)
    exact = np.linalg.norm(A, 2)
    assert estimate.lower <= exact * (1 + 1e-14)
    assert exact <= estimate.upper * (1 + 1e-14)


def test_a_matmat_that_is_not_matvec_by_columns_is_refused() -> None:
    with pytest.raises(DataError, match=r"expected matmat to multiply each column as matvec.*axis"):
        bigspec.norm(of(blurred, matmat=blurred, rmatmat=blurred))
    product = bigspec.open_matrix(of(blurred, matmat=blurred, rmatmat=blurred)) @ np.eye(N)
    with pytest.raises(DataError, match="expected matmat to multiply each column"):
        bigspec.norm(product)


def real_part(x: Any) -> Any:
    return x.real + 0j


@pytest.mark.parametrize("function", [real_part, np.conj])
def test_an_operator_that_is_linear_over_the_reals_only_is_named(function: Any) -> None:
    with pytest.raises(DataError, match=r"A\(i v\) that is not i A\(v\).*real numbers only"):
        bigspec.norm(of(function, dtype="c16"))
    with pytest.raises(DataError, match="real numbers only"):
        bigspec.svds(of(function, dtype="c16", matmat=function, rmatmat=function), 2)


def test_what_an_operator_is_given_is_read_only_and_what_it_returns_is_copied() -> None:
    def doubled(x: Any) -> Any:
        x *= 2
        return x

    for options in ({}, {"matmat": doubled, "rmatmat": doubled}):
        with pytest.raises(DataError, match=r"is read-only: copy it first, np\.array"):
            bigspec.norm(of(doubled, **options))
    memory: dict[Any, Any] = {}

    def tripled(x: Any) -> Any:
        return np.multiply(x, 3.0, out=memory.setdefault(x.shape, np.empty(x.shape)))

    for options in ({}, {"matmat": tripled, "rmatmat": tripled}):
        estimate = bigspec.norm(of(tripled, **options), rtol=1e-10)
        assert estimate.lower <= 3.0 <= estimate.upper


def test_errors_of_an_operator_are_told_with_its_name() -> None:
    def fails(x: Any) -> Any:
        raise ArithmeticError(f"no such bias in {x.shape}")

    with pytest.raises(
        DataError, match=r"LinearOperator \(40, 40\): .*ArithmeticError: no such bias in "
    ):
        bigspec.norm(of(fails))
    with pytest.raises(DataError, match=r"rmatvec to multiply .*ArithmeticError"):
        bigspec.norm(of(blurred, fails))


@pytest.mark.parametrize("size", [1e-300, 1e-308, 1e-310, 5e-320, 1e306])
@pytest.mark.parametrize("complex_", [False, True])
def test_operators_at_both_ends_of_the_numbers(size: float, complex_: bool) -> None:
    rng = np.random.default_rng(0)
    A = rng.standard_normal((N, N)) + 1j * complex_ * rng.standard_normal((N, N))
    A = A if complex_ else A.real
    exact = np.linalg.norm(A, 2)
    bound = (1 + 1e-13) + 40 * 5e-324 / size  # rounding of the entries
    estimate = bigspec.norm(aslinearoperator(A * size), rtol=1e-6, seed=1)
    assert estimate.lower / size <= exact * bound
    assert exact <= estimate.upper / size * bound


def returning(method: str, change: Any) -> LinearOperator[Any]:
    """Return the operator of a real matrix whose `method` returns something else than an array."""
    R = A.real
    functions: dict[str, Any] = {
        "matvec": lambda v: R @ v, "rmatvec": lambda y: R.T @ y,
        "matmat": lambda V: R @ V, "rmatmat": lambda Y: R.T @ Y,
    }  # fmt: skip
    if not method.endswith("mat"):
        functions = {name: functions[name] for name in ("matvec", "rmatvec")}
    plain = functions[method]
    functions[method] = lambda x: change(plain(x))
    return LinearOperator(R.shape, dtype=float, **functions)


def hidden(y: Any) -> Any:
    return np.ma.masked_array(y, mask=np.arange(y.size).reshape(y.shape) == 0)


RETURNED = {
    "masked": (hidden, "expected every entry to have a value, got 1 masked"),
    "sparse": (lambda y: sp.csr_array(np.atleast_2d(y)), "got a SciPy sparse one; return its"),
    "objects": (lambda y: y.astype(object), "expected entries of type"),
    "one number": (lambda y: y.sum(), r"return shape .*, got \(\)"),
    "extended precision": (lambda y: y.astype(np.longdouble), "expected entries of type"),
    "text": (lambda y: y.astype(str), "expected entries of type"),
    "nothing": (lambda _: None, "return shape|expected entries of type"),
}


@pytest.mark.parametrize("name", RETURNED)
@pytest.mark.parametrize("method", ["matvec", "rmatvec", "matmat", "rmatmat"])
def test_what_an_operator_returns_is_an_array_of_numbers(name: str, method: str) -> None:
    change, said = RETURNED[name]
    with pytest.raises(DataError, match=said):
        bigspec.norm(returning(method, change), algorithm="lanczos")


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("method", ["matvec", "rmatvec", "matmat", "rmatmat"])
def test_what_is_as_good_as_an_array_is_taken(method: str) -> None:
    """A mask that hides nothing, and numpy's matrix where two dimensions are asked for."""
    expected = np.linalg.norm(A.real, 2)
    changes: list[Any] = [np.ma.masked_array]
    changes += [np.asmatrix] if method.endswith("mat") else [lambda y: y[:, None]]
    for change in changes:
        estimate = bigspec.norm(returning(method, change), algorithm="lanczos")
        assert estimate.lower <= expected * (1 + 1e-12) <= estimate.upper * (1 + 2e-12)
