"""scikit-learn's PCA over `bigspec.svds` of the centred matrix."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn import decomposition
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

from bigspec.adapters.sklearn_data import Data, open_data, project, relative, triplets
from bigspec.api.matrices import centered, sums_of_columns
from bigspec.errors import ArgumentError
from bigspec.matrices import Matrix
from bigspec.results.records import stable_rank
from bigspec.results.triplets import Triplets

__all__ = ["PCA"]

Array = np.ndarray[Any, Any]

FIRST_TRY = 32
"""Components of the first run for a share of the variance; each further run has twice as many."""


class PCA(decomposition.PCA):  # type: ignore[misc]
    """scikit-learn's PCA of a matrix that need not fit in memory, with intervals.

    The matrix is centred lazily: a sparse one stays sparse, and nothing is copied.

    Parameters
    ----------
    n_components : int, float or None
        Number of components; or a share of the variance between 0 and 1, which costs a run for
        each doubling of the components from 32 on; None for ``min(n_samples, n_features)``.
    whiten : bool
        Divide the scores by their standard deviations.
    tol, n_iter, n_oversamples, random_state
        See `TruncatedSVD`.
    failure_probability, memory_limit, time_limit, checkpoint, progress
        See `bigspec.svds`.

    Attributes
    ----------
    components_ : ndarray (n_components_, n_features)
    mean_ : ndarray (n_features,)
    singular_values_ : ndarray (n_components_,)
        Singular values of the centred matrix.
    singular_values_lower_, singular_values_upper_ : ndarray (n_components_,)
        Their intervals, which all hold together with probability at least
        ``1 - failure_probability``.
    explained_variance_, explained_variance_ratio_ : ndarray (n_components_,)
    explained_variance_ratio_lower_, explained_variance_ratio_upper_ : ndarray (n_components_,)
        Intervals of the eigenvalues of the covariance matrix, divided by their sum. They hold
        together with those of the singular values.
    noise_variance_ : float
    n_components_, n_samples_, n_features_in_ : int
    triplets_ : Triplets
        The whole answer of `bigspec.svds`.

    Notes
    -----
    Cost out of core: one pass for the means, those of `bigspec.svds`, and one for each
    `transform`. ``n_components="mle"`` needs all singular values: scikit-learn has it.
    """

    __metadata_request__transform: ClassVar[dict[str, str]] = {"store": UNUSED}

    def __init__(
        self,
        n_components: float | None = None,
        *,
        whiten: bool = False,
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
        self.whiten = whiten
        self.tol = tol
        self.n_iter = n_iter
        self.n_oversamples = n_oversamples
        self.random_state = random_state
        self.failure_probability = failure_probability
        self.memory_limit = memory_limit
        self.time_limit = time_limit
        self.checkpoint = checkpoint
        self.progress = progress

    def fit(self, X: Any, y: Any = None) -> PCA:
        """Find the components.

        Parameters
        ----------
        X : path, URL or object (n_samples, n_features)
            Anything that scikit-learn or `bigspec.open_matrix` takes, except operators, which have
            no means.
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
        """Return the scores of the centred X, from one pass over it.

        Parameters
        ----------
        X : path, URL or object (n_samples, n_features)
        store : path or URL, optional
            Write the scores there, panel by panel, as a Zarr array with chunks of whole rows.

        Returns
        -------
        ndarray or zarr.Array (n_samples, n_components_)

        Raises
        ------
        MemoryLimitError
            The scores do not fit in memory, and there is no `store`.
        """
        check_is_fitted(self)
        return self._project(open_data(self, X, reset=False), store)

    def __sklearn_tags__(self) -> Any:
        # The tags of PCA's parent, because PCA's own depend on a solver, which is absent here.
        tags = super(decomposition.PCA, self).__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.sparse = True
        return tags

    def _project(self, data: Data, store: Any) -> Any:
        V = self.components_.conj().T.astype(np.result_type(self.components_, np.float64))
        if self.whiten:
            deviations = np.sqrt(self.explained_variance_)
            V = V / np.maximum(deviations, np.finfo(deviations.dtype).eps)
        moved = centered(data.matrix, means=self.mean_)
        return project(self, data, moved, V, store)

    def _fit(self, data: Data) -> None:
        m, n = data.matrix.shape
        if m < 2:
            msg = f"X: expected at least 2 samples, which a variance needs, got n_samples = {m}"
            raise ArgumentError(msg)
        means = sums_of_columns(data.matrix, self.memory_limit)[0] / m
        moved = centered(data.matrix, means=means)
        tri, k = self._run(data, moved, min(m, n))
        self._keep(tri, k, (m, n), means, data)

    def _run(self, data: Data, moved: Matrix, most: int) -> tuple[Triplets, int]:
        """Make the run, or as many as it takes to explain a share of the variance."""
        wanted = most if self.n_components is None else self.n_components
        whole = isinstance(wanted, (int, np.integer)) and not isinstance(wanted, bool)
        share = isinstance(wanted, (float, np.floating)) and wanted < 1
        if not (whole or share) or not 0 < wanted <= most:
            msg = (
                f"n_components: expected a whole number from 1 to {most}, a share of the variance "
                f"between 0 and 1, or None, got {wanted!r}"
            )
            raise ArgumentError(msg)
        if whole:
            return triplets(self, data, moved, int(wanted)), int(wanted)
        k = min(FIRST_TRY, most) if most > 8 * FIRST_TRY else most
        tri = triplets(self, data, moved, k)
        while k < most and tri.s @ tri.s <= wanted * float(tri.frobenius or 0.0) ** 2:
            k = min(2 * k, most)
            tri = triplets(self, data, moved, k)
        shares = np.cumsum(relative(tri.s**2, float(tri.frobenius or 0.0) ** 2))
        return tri, min(int(np.searchsorted(shares, wanted, side="right")) + 1, k)

    def _keep(
        self, tri: Triplets, k: int, shape: tuple[int, int], means: Array, data: Data
    ) -> None:
        """Set the attributes of the fitted estimator."""
        m, n = shape
        real = data.values_dtype
        whole = float(tri.frobenius or 0.0) ** 2
        values = tri.s[:k]
        self.triplets_ = tri
        self.mean_ = means.astype(data.dtype, copy=False)
        self.components_ = tri.vh[:k].astype(data.dtype)  # type: ignore[index]
        self.n_components_, self.n_samples_ = k, m
        self.singular_values_ = values.astype(real)
        self.singular_values_lower_ = tri.lower[:k].copy()
        self.singular_values_upper_ = tri.upper[:k].copy()
        self.explained_variance_ = (values**2 / (m - 1)).astype(real)
        self.explained_variance_ratio_ = relative(values**2, whole).astype(real)
        ends = [
            _share(tri.frobenius, one.lower, one.upper, one.rounding) for one in tri.intervals[:k]
        ]
        self.explained_variance_ratio_lower_, self.explained_variance_ratio_upper_ = np.array(
            ends
        ).T
        left = max(whole - float(values @ values), 0.0) / (m - 1)
        rest = min(m, n) - k
        self.noise_variance_ = left / rest if rest else 0.0


def _share(
    frobenius: float | None, lower: float, upper: float, rounding: float
) -> tuple[float, float]:
    """Return an interval of ``sigma^2 / ||A||_F^2``, the inverse of the stable rank's."""
    ratio = stable_rank(frobenius, lower, upper, rounding)
    if ratio is None or ratio.upper == 0.0:
        return np.nan, np.nan
    return 1.0 / ratio.upper, 1.0 / ratio.lower
