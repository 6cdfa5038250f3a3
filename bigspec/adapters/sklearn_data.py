"""The data of an estimator: scikit-learn checks what is in memory, bigspec opens the rest."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from bigspec.api.arguments import as_bytes
from bigspec.api.matrices import open_within
from bigspec.api.scores import scores
from bigspec.api.svds import svds
from bigspec.errors import ArgumentError
from bigspec.matrices import Matrix
from bigspec.results.triplets import Triplets

__all__ = ["OWN_PARAMETERS", "Data", "open_data", "project", "relative", "triplets"]

Array = np.ndarray[Any, Any]

STORES = {"anndata", "dask", "h5py", "xarray", "zarr"}
"""Packages whose arrays are read chunk by chunk; scikit-learn would load them."""
LEAST_TOL = 1e-15
OWN_PARAMETERS = ("failure_probability", "memory_limit", "time_limit", "checkpoint", "progress")
"""Parameters of the estimators that `bigspec.svds` takes by the same names."""


@dataclass(frozen=True)
class Data:
    """The data of an estimator.

    Attributes
    ----------
    matrix : Matrix
        The matrix that bigspec reads.
    entries : ndarray or SciPy sparse array, or None
        The entries, checked by scikit-learn; None if they are not in memory.
    """

    matrix: Matrix
    entries: Any

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the results: float32 for float32 in memory, as in scikit-learn."""
        single = self.entries is not None and self.entries.dtype == np.float32
        working = np.dtype(np.complex128 if self.matrix.dtype.kind == "c" else np.float64)
        return np.dtype(np.float32) if single else working

    @property
    def values_dtype(self) -> np.dtype[Any]:
        """Type of the results that are always real."""
        return np.dtype(np.float32 if self.dtype == np.float32 else np.float64)


def open_data(estimator: Any, X: Any, *, reset: bool) -> Data:
    """Check data in memory as scikit-learn does, and open other data.

    Raises
    ------
    ValueError, TypeError
        The error is scikit-learn's, or one of bigspec's, which are also these.
    """
    limit = as_bytes(estimator.memory_limit)
    if _stays(X):
        matrix = open_within(X, limit)
        if reset:
            estimator.n_features_in_ = matrix.shape[1]
            for name in set(vars(estimator)) & {"feature_names_in_"}:
                delattr(estimator, name)
        elif matrix.shape[1] != estimator.n_features_in_:
            msg = (
                f"X: expected {estimator.n_features_in_} features, as in fit, got "
                f"{matrix.shape[1]} in {matrix.name}"
            )
            raise ArgumentError(msg)
        return Data(matrix, None)
    entries = validate_data(
        estimator,
        X,
        reset=reset,
        accept_sparse=("csr", "csc"),
        dtype=(np.float64, np.float32),
        ensure_min_features=2 if reset else 1,
    )
    return Data(open_within(entries, limit), entries)


def _stays(X: Any) -> bool:
    """Whether bigspec reads the data where they lie."""
    if isinstance(X, (str, os.PathLike, Matrix, np.memmap)):
        return True
    known = type(X).__module__.partition(".")[0] in STORES
    return known or any(hasattr(X, name) for name in ("matvec", "rmatvec"))


def triplets(estimator: Any, data: Data, matrix: Matrix, k: int, start: Any = None) -> Triplets:
    """Run `bigspec.svds` with the parameters of an estimator.

    Warns
    -----
    ConvergenceWarning
        The intervals are wider than `tol`; the warning says how wide.
    """
    tol = estimator.tol
    if not isinstance(tol, (int, float, np.number)) or not 0.0 <= tol < 1.0:
        msg = f"tol: expected 0 <= tol < 1, got {tol!r}"
        raise ArgumentError(msg)
    seed = int(check_random_state(estimator.random_state).randint(1 << 31))
    extra = estimator.n_oversamples
    tri = svds(
        matrix,
        k,
        rtol=max(float(tol), LEAST_TOL),
        block_size=None if extra is None else k + extra,
        seed=seed,
        start=start,
        max_passes=estimator.n_iter,
        left=data.entries is not None,  # cheap in memory, and the values are then attained
        **{name: getattr(estimator, name) for name in OWN_PARAMETERS},
    )
    if not tri.converged and tri.stopped_by != "exhausted":
        warnings.warn(tri.status, ConvergenceWarning, stacklevel=4)
    if tri.vh is None:
        msg = (
            f"time_limit: expected enough time for the last pass, which makes the components, got "
            f"{estimator.time_limit!r}; give more, or a checkpoint to go on from"
        )
        raise ArgumentError(msg)
    return tri


def project(estimator: Any, data: Data, matrix: Matrix, V: Array, store: Any) -> Any:
    """Return ``A V``, in memory or in a store, in scikit-learn's type."""
    product = scores(matrix, V, store=store, limit=as_bytes(estimator.memory_limit))
    return product.astype(data.dtype, copy=False) if store is None else product


def relative(part: Array, whole: float) -> Array:
    """Return ``part / whole``; NaN if the whole is 0, because there is nothing to explain."""
    return np.full(part.shape, np.nan) if whole == 0 else part / whole
