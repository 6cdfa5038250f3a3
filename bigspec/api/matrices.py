"""Public functions that make matrices of matrices: centred, scaled, stacked, of low rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bigspec import expressions
from bigspec.api.arguments import (
    as_bytes,
)
from bigspec.api.data_arrays import is_xarray, open_data_array
from bigspec.errors import (
    ArgumentError,
    NonFiniteError,
    UnsupportedTypeError,
)
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.passes import (
    check_persisted,
    column_sums,
    find_executor,
    is_dask_array,
    open_dask_array,
)
from bigspec.sources import open_source, with_claims
from bigspec.sources.objects import inner
from bigspec.sources.storage_options import Options, as_options

__all__ = [
    "centered",
    "hstack",
    "low_rank",
    "open_matrix",
    "open_within",
    "scaled",
    "standardized",
    "sums_of_columns",
    "vstack",
]

Array = np.ndarray[Any, Any]
low_rank = expressions.low_rank


def centered(
    a: Any, axis: int = 0, *, means: Any = None, memory_limit: int | str | None = None
) -> Matrix:
    """Subtract from each column (axis 0) its mean, or from each row (axis 1), lazily.

    A sparse matrix stays sparse: the means are a term of rank one beside it.

    Parameters
    ----------
    a : path, URL or object
        See `bigspec.open_matrix`.
    axis : {0, 1}
        The axis along which means are taken.
    means : ndarray (n,) or (m,), optional
        Known means. Without them the matrix is read once, here and now.
    memory_limit : int or str, optional
        What one process may hold during that pass.

    Returns
    -------
    Matrix

    Raises
    ------
    ArgumentError, NonFiniteError, UnsupportedTypeError

    Examples
    --------
    >>> import numpy as np, bigspec
    >>> A = np.array([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]])
    >>> round(bigspec.norm(bigspec.centered(A)).value, 6)
    2.828427
    """
    if axis not in (0, 1):
        msg = f"axis: expected 0 (means of columns) or 1 (means of rows), got {axis!r}"
        raise ArgumentError(msg)
    matrix = _opened(a)
    if means is None:
        turned = matrix if axis == 0 else matrix.H
        sums, _ = sums_of_columns(turned, memory_limit)
        means = sums / turned.shape[0]
        means = means if axis == 0 else means.conj()
    return expressions.centered_by(matrix, means, axis)


def scaled(a: Any, *, rows: Any = None, columns: Any = None) -> Matrix:
    """Multiply rows and columns by weights, lazily: ``diag(rows) A diag(columns)``.

    Parameters
    ----------
    a : path, URL or object
    rows : array_like (m,), optional
    columns : array_like (n,), optional

    Returns
    -------
    Matrix

    Raises
    ------
    ArgumentError
        Weights of another length, or not finite.

    Examples
    --------
    >>> import numpy as np, bigspec
    >>> round(bigspec.norm(bigspec.scaled(np.eye(2), columns=[2.0, 3.0])).value, 6)
    3.0
    """
    return expressions.scaled(_opened(a), rows, columns)


def standardized(
    a: Any, *, center: bool = True, ddof: int = 1, memory_limit: int | str | None = None
) -> Matrix:
    """Give each column mean 0 and variance 1, lazily. Reads the matrix once, at this call.

    Parameters
    ----------
    a : path, URL or object
    center : bool
        False divides each column by its root mean square instead.
    ddof : int
        Variances have the denominator ``m - ddof``: 1 as R and pandas, 0 as NumPy and
        scikit-learn. Root mean squares always have m.
    memory_limit : int or str, optional

    Returns
    -------
    Matrix
        A constant column is left as it is (zero, once centred). Means that are ten times the
        deviations cost a second pass, made on the centred matrix, for squares would cancel.

    Raises
    ------
    ArgumentError
        `ddof` is not a whole number from 0 to m - 1.
    NonFiniteError
        An entry is not finite, or so large or small that its square is not.

    Examples
    --------
    >>> import numpy as np, bigspec
    >>> A = np.array([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]])
    >>> round(bigspec.norm(bigspec.standardized(A)).value, 6)
    1.414214
    """
    matrix = _opened(a)
    m = matrix.shape[0]
    whole = isinstance(ddof, (int, np.integer)) and not isinstance(ddof, bool)
    if not whole or not 0 <= ddof < max(m, 2):
        msg = f"ddof: expected a whole number from 0 to {m - 1}, below the rows, got {ddof!r}"
        raise ArgumentError(msg)
    sums, squares = sums_of_columns(matrix, memory_limit)
    lost = ~np.isfinite(squares) | ((squares < LEAST_SQUARES) & (sums != 0))
    if lost.any():
        column = int(np.argmax(lost))
        msg = (
            f"{matrix.name}: expected entries whose squares can be summed, got others in column "
            f"{column}, too large or too small; scale the matrix"
        )
        raise NonFiniteError(msg)
    if not center:
        return expressions.scaled(matrix, None, _inverse(np.sqrt(squares / m)))
    means = sums / m
    moved = expressions.centered_by(matrix, means, 0)
    variances = squares - m * np.abs(means) ** 2
    if np.any(variances < CANCELLED * squares):
        sums, squares = sums_of_columns(moved, memory_limit)
        variances = squares - np.abs(sums) ** 2 / m  # the means are rounded
        variances[variances <= CONSTANT * squares] = 0.0
    deviations = np.sqrt(variances / max(m - ddof, 1))
    made = expressions.scaled(moved, None, _inverse(deviations))
    return replace(made, name=f"standardized({matrix.name})")


LEAST_SQUARES = 2.0**-900  # below it, squares have lost digits to underflow
CANCELLED = 1e-2  # of the squares: below it, their difference has lost more than two digits
CONSTANT = 1e-11  # of the squares about a rounded mean: what rounding leaves of a constant column


def _inverse(sizes: Array) -> Array:
    """Return 1/sizes, and 1 where a size is 0."""
    return np.asarray(1.0 / np.where(sizes > 0, sizes, 1.0))


def vstack(matrices: Sequence[Any]) -> Matrix:
    """Put matrices one below the other, lazily. They may be all that `open_matrix` accepts."""
    return expressions.stack([_opened(a) for a in matrices], 0)


def hstack(matrices: Sequence[Any]) -> Matrix:
    """Put matrices side by side, lazily. They may be all that `open_matrix` accepts."""
    return expressions.stack([_opened(a) for a in matrices], 1)


def _opened(a: Any) -> Matrix:
    return open_within(a, None)


def sums_of_columns(matrix: Matrix, memory_limit: int | str | None) -> tuple[Array, Array]:
    """Return the sums of the columns and of their squared magnitudes, from one pass.

    Raises
    ------
    NonFiniteError, UnsupportedTypeError
    """
    if isinstance(matrix, OperatorMatrix):
        msg = f"{matrix.name}: expected a matrix with entries to take means of, got an operator"
        raise UnsupportedTypeError(msg)
    check_persisted(matrix)
    executor = find_executor(matrix.resident)
    return column_sums(matrix, executor, as_bytes(memory_limit) or executor.memory() // 2)


def open_matrix(
    a: Any,
    *,
    rows: Sequence[str] | str | None = None,
    fill: complex | None = None,
    raw: bool = False,
    missing_chunks: str = "fill",
    storage_options: Mapping[str, Any] | None = None,
    upper: float | None = None,
    frobenius: float | None = None,
) -> Matrix:
    """Open anything bigspec can multiply.

    No entry is read, with two exceptions. Files (.npz, .mtx) and unsorted binsparse matrices are
    loaded whole, and of sparse groups the pointers (or coordinates) are read.

    Parameters
    ----------
    a : str, path, zarr or dask array, zarr group, ndarray, SciPy or pydata sparse, operator, Matrix
        Paths and URLs name a Zarr array or a sparse group of AnnData's or binsparse's; paths also
        an HDF5, netCDF, MATLAB 7.3, .npy, .npz or Matrix Market file, or a folder of 10x's. ``::``
        goes inside a file or store. Taken too: AnnData objects, xarray's DataArrays, h5py's data
        sets and groups, and other operators with `shape` and `matvec`/`rmatvec` or ``@`` (PyLops,
        sigpy).
    rows : sequence of str, optional
        Dimensions of a netCDF variable, Zarr array, HDF5 dataset or DataArray that make the rows,
        in this order; the others make the columns, in theirs. Needed where there are more than two.
    fill : number, optional
        Taken for their missing values, in unpacked units.
    raw : bool
        Take the stored numbers, whatever attributes say of scale, offset and missing values.
    missing_chunks : {"fill", "error"}
        By the rules of Zarr and HDF5 a chunk that is not there holds the fill value; a result says
        how many there were (`Estimate.missing_chunks`). ``"error"`` refuses the first one with its
        name. In a sparse group a missing chunk is an error, unless nothing but 0 can be meant, or
        it is one of values whose fill value is not 0.
    storage_options : mapping, optional
        Credentials, endpoint and settings of a URL, by fsspec's names (``key``, ``secret``,
        ``token``, ``anon``, ``endpoint_url``, ``client_kwargs``) or those of obstore. A mapping
        under the name of a protocol, ``{"s3": {"anon": True}}``, is for URLs of that protocol.
        They go to the workers with the matrix, and into no result, log or checkpoint.
    upper, frobenius : float, optional
        Of an operator: what its norm, and its Frobenius norm, is known not to exceed. A result
        whose upper end rests on this word says so. A run whose products disprove it fails.

    Returns
    -------
    Matrix

    Raises
    ------
    MissingSourceError, SourceError, StoreUnavailableError
        The source cannot be opened.
    DataError, UnsupportedTypeError
        It was opened and is no numeric 2-D matrix. A missing value is found when it is read.
    ArgumentError
        `rows`, `fill` or `raw` for what has no dimensions or attributes, or not of this one;
        `storage_options` without a URL, or with an option that its client does not have;
        `upper` or `frobenius` that is not a number from 0 on, or not for an operator;
        ``missing_chunks="error"`` for a dask array, or for a matrix that is open.
    MemoryLimitError
        It would have to be loaded, and does not fit.

    Examples
    --------
    >>> import bigspec
    >>> A = bigspec.open_matrix("examples/data/fashion_mnist.zarr")
    >>> A.shape, str(A.dtype)
    ((10000, 784), 'uint8')
    >>> bigspec.norm(A - A[:, :784]).upper
    0.0
    """
    opened = open_within(
        a,
        None,
        rows=rows,
        fill=fill,
        raw=raw,
        missing_chunks=missing_chunks,
        storage=as_options(storage_options, a),
    )
    return with_claims(opened, upper, frobenius)


def open_within(
    a: Any,
    limit: int | None,
    *,
    rows: Sequence[str] | str | None = None,
    fill: complex | None = None,
    raw: bool = False,
    missing_chunks: str = "fill",
    multiplied: bool = False,
    storage: Options | None = None,
) -> Matrix:
    """Open a matrix. Whatever it loads or reads to open it must fit `limit`.

    `multiplied`: it is multiplied as it is, so that its vectors must fit as well.

    Raises
    ------
    MemoryLimitError
    """
    a = inner(a)
    if is_xarray(a):
        memory = limit or find_executor(True).memory() // 2
        return open_data_array(a, memory, rows, fill, raw=raw, missing_chunks=missing_chunks)
    if is_dask_array(a) and rows is None and fill is None and not raw:
        if missing_chunks == "error":
            msg = (
                "missing_chunks: expected a store, got a dask array, which reads its chunks by "
                "itself; open the Zarr array or the path that it was made from"
            )
            raise ArgumentError(msg)
        return open_dask_array(a)
    memory = limit or find_executor(True).memory() // 2
    # A store is multiplied by a cluster, if there is one, and a file here.
    most = limit or max(memory, find_executor(False).memory() // 2) if multiplied else None
    return open_source(a, memory, rows, fill, raw, missing_chunks, most, storage)
