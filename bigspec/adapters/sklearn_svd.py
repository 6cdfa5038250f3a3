"""scikit-learn's TruncatedSVD over `bigspec.svds`."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn import decomposition
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.sparsefuncs import mean_variance_axis
from sklearn.utils.validation import check_is_fitted

from bigspec.adapters.sklearn_data import Data, open_data, project, relative, triplets
from bigspec.api.matrices import centered, sums_of_columns
from bigspec.api.scores import adjoint_product
from bigspec.matrices import OperatorMatrix

__all__ = ["TruncatedSVD"]

Array = np.ndarray[Any, Any]

CANCELLED = 1e-2
"""Below this share of the mean squares variances have lost digits, and cost a second pass."""


class TruncatedSVD(decomposition.TruncatedSVD):  # type: ignore[misc]
    """scikit-learn's TruncatedSVD of a matrix that need not fit in memory, with intervals.

    Parameters
    ----------
    n_components : int
        Number of components, at most ``min(n_samples, n_features)``.
    tol : float
        The run stops when the interval of each singular value has this relative width; 0 means as
        narrow as rounding allows.
    n_iter : int, optional
        Most passes over the matrix. By default the run goes on until `tol`.
    n_oversamples : int, optional
        Random columns of the start block besides `n_components`; see `bigspec.svds`.
    random_state : int, RandomState instance or None
        Source of the random start block.
    failure_probability, memory_limit, time_limit, checkpoint, progress
        See `bigspec.svds`.

    Attributes
    ----------
    components_ : ndarray (n_components, n_features)
    singular_values_ : ndarray (n_components,)
    singular_values_lower_, singular_values_upper_ : ndarray (n_components,)
        Intervals of the singular values of X, which all hold together with probability at least
        ``1 - failure_probability``.
    explained_variance_, explained_variance_ratio_ : ndarray (n_components,)
        Variances of the scores ``X components_^H``, as in scikit-learn. They have no intervals; see
        `PCA` for these. The ratio is NaN for operators, whose entries nobody can square. Out of
        core a variance is the difference of two means of squares; it has fewer digits if the
        square of the mean is most of it.
    n_features_in_ : int
    triplets_ : Triplets
        The whole answer of `bigspec.svds`.

    Notes
    -----
    Cost out of core: the passes of `bigspec.svds`, one for means and variances, and one for each
    `transform`.
    """

    # `store` is for a direct call: a pipeline has no place to route.
    __metadata_request__transform: ClassVar[dict[str, str]] = {"store": UNUSED}

    def __init__(
        self,
        n_components: int = 2,
        *,
        tol: float = 1e-3,
        n_iter: int | None = None,
        n_oversamples: int | None = None,
        random_state: Any = None,
        failure_probability: float = 1e-6,
        memory_limit: int | str | None = None,
        time_limit: float | str | None = None,
        checkpoint: Any = None,
        progress: Any = False,
    ) -> None:
        self.n_components = n_components
        self.tol = tol
        self.n_iter = n_iter
        self.n_oversamples = n_oversamples
        self.random_state = random_state
        self.failure_probability = failure_probability
        self.memory_limit = memory_limit
        self.time_limit = time_limit
        self.checkpoint = checkpoint
        self.progress = progress

    def fit(self, X: Any, y: Any = None) -> TruncatedSVD:
        """Find the components.

        Parameters
        ----------
        X : path, URL or object (n_samples, n_features)
            Anything that scikit-learn or `bigspec.open_matrix` takes.
        y : None

        Raises
        ------
        ArgumentError, MemoryLimitError, SourceError, DataError, ChunkError, ClusterError
            See `bigspec.svds`.
        """
        self._fit(open_data(self, X, reset=True))
        return self

    def fit_transform(self, X: Any, y: Any = None, *, store: Any = None) -> Any:
        """Find the components, then return the scores of X; see `transform`."""
        data = open_data(self, X, reset=True)
        self._fit(data)
        return self._project(data, store)

    def transform(self, X: Any, *, store: Any = None) -> Any:
        """Return the scores ``X components_^H``, from one pass over X.

        Parameters
        ----------
        X : path, URL or object (n_samples, n_features)
        store : path or URL, optional
            Write the scores there, panel by panel, as a Zarr array with chunks of whole rows.

        Returns
        -------
        ndarray or zarr.Array (n_samples, n_components)

        Raises
        ------
        MemoryLimitError
            The scores do not fit in memory, and there is no `store`.
        """
        check_is_fitted(self)
        return self._project(open_data(self, X, reset=False), store)

    def _project(self, data: Data, store: Any) -> Any:
        return project(self, data, data.matrix, self.components_.conj().T, store)

    def _fit(self, data: Data) -> None:
        tri = triplets(self, data, data.matrix, self.n_components)
        self.triplets_ = tri
        self.components_ = tri.vh.astype(data.dtype, copy=False)  # type: ignore[union-attr]
        self.singular_values_ = tri.s.astype(data.values_dtype, copy=False)
        self.singular_values_lower_, self.singular_values_upper_ = tri.lower, tri.upper
        self.explained_variance_, total = _variances(self, data)
        self.explained_variance_ratio_ = relative(self.explained_variance_, total)


def _variances(estimator: TruncatedSVD, data: Data) -> tuple[Array, float]:
    """Return the variances of the scores, and the sum of all columns' variances."""
    if data.entries is not None:
        Y = data.entries @ estimator.components_.T
        if hasattr(data.entries, "format"):
            _, every = mean_variance_axis(data.entries, axis=0)
        else:
            every = np.var(data.entries, axis=0)
        return np.var(Y, axis=0), float(every.sum())
    m, s = data.matrix.shape[0], estimator.singular_values_
    if isinstance(data.matrix, OperatorMatrix):
        ones = np.full((m, 1), 1.0 / m)
        means = adjoint_product(data.matrix, ones).conj()[:, 0]
        total = np.nan
    else:
        sums, squares = sums_of_columns(data.matrix, estimator.memory_limit)
        means = sums / m
        total = float(squares.sum() / m - (np.abs(means) ** 2).sum())
        if total < CANCELLED * squares.sum() / m:
            moved = centered(data.matrix, means=means)
            total = float(sums_of_columns(moved, estimator.memory_limit)[1].sum() / m)
    middles = np.abs(estimator.components_.conj() @ means) ** 2
    return np.maximum(s**2 / m - middles, 0.0), total
