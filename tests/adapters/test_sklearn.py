"""scikit-learn's own checks and tests of TruncatedSVD and PCA with bigspec's in their place.

`LEFT_OUT` names what is not run, and why. A solver that scikit-learn's tests name is ours; the
exact ones ("full", "covariance_eigh") stay scikit-learn's, as the reference that ours is compared
with. Below are tests of what scikit-learn's do not see: stores, intervals, scores on disk.
"""

import copy
import importlib
import inspect
import sys
import types
from functools import partial

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from scipy.sparse.linalg import aslinearoperator
from sklearn.decomposition import PCA as REFERENCE
from sklearn.decomposition import TruncatedSVD as REFERENCE_SVD
from sklearn.decomposition.tests import test_pca as upstream_pca
from sklearn.decomposition.tests import test_truncated_svd as upstream_svd
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import bigspec
from bigspec.sklearn import PCA, TruncatedSVD

MLE = "n_components='mle' needs all singular values"
SOLVERS = "is about how scikit-learn chooses among its solvers"
HELPERS = "calls scikit-learn's helpers alone, no estimator"
ARRAY_API = "is about arrays of PyTorch and CuPy"
LEFT_OUT = {
    "test_n_components_mle": MLE,
    "test_n_components_mle_error": MLE,
    "test_pca_dim": MLE,
    "test_infer_dim_1": HELPERS,
    "test_infer_dim_2": HELPERS,
    "test_infer_dim_3": HELPERS,
    "test_mle_redundant_data": MLE,
    "test_fit_mle_too_few_samples": MLE,
    "test_mle_simple_case": MLE,
    "test_small_eigenvalues_mle": HELPERS,
    "test_assess_dimension_bad_rank": HELPERS,
    "test_assess_dimension_rank_one": HELPERS,
    "test_sparse_pca_solver_error": SOLVERS,
    "test_pca_svd_solver_auto": SOLVERS,
    "test_n_components_none": "None is min(X.shape) components, which ARPACK cannot have",
    "test_pca_validation": "asserts the words of scikit-learn's messages",
    "test_pca_array_api_compliance": ARRAY_API,
    "test_pca_mle_array_api_compliance": ARRAY_API,
    "test_array_api_error_and_warnings_on_unsupported_params": ARRAY_API,
    "test_too_many_components": "n_components = min(X.shape), which ARPACK refuses, is allowed",
}
ONE = {name: ["bigspec"] for name in ("svd_solver", "solver", "algo", "other_svd_solver")}
ONE |= {"density": [0.1], "scale": [10], "sparse_container": [sp.csr_array, sp.csc_matrix]}
"""One case, or two, of what scikit-learn runs 144 of."""
DROPPED = {
    "algorithm",
    "copy",
    "iterated_power",
    "n_iter",
    "power_iteration_normalizer",
    "svd_solver",
}
EXACT = {"full", "covariance_eigh"}


def ours(kind, reference, n_components=None, **given):
    """Make ours, as narrow as rounding allows, or the reference where an exact one is asked for."""
    if given.get("svd_solver") in EXACT:
        return reference(n_components, **given)
    given = {"tol": 0.0, "random_state": 0} | {
        k: v for k, v in given.items() if k not in DROPPED | {"n_iter"}
    }
    return kind(2 if n_components is None and kind is TruncatedSVD else n_components, **given)


def once(function):
    """Return a test that is run for one solver, ours."""
    marks = []
    for mark in function.pytestmark if hasattr(function, "pytestmark") else []:
        names = mark.args[0] if mark.name == "parametrize" else ""
        if names in ONE:
            mark = pytest.mark.parametrize(names, ONE[names]).mark
        marks.append(mark)
    made = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__
    )
    made.pytestmark = marks
    made.__signature__ = inspect.signature(function)
    return made


def upstream_tests(module):
    return {
        name: once(test)
        for name, test in vars(module).items()
        if name.startswith("test_") and name not in LEFT_OUT
    }


@pytest.fixture(autouse=True)
def _in_their_place(monkeypatch):
    for module in (upstream_pca, upstream_svd):
        monkeypatch.setattr(module, "PCA", partial(ours, PCA, REFERENCE))
    monkeypatch.setattr(upstream_svd, "TruncatedSVD", partial(ours, TruncatedSVD, REFERENCE_SVD))


@pytest.fixture
def global_random_seed():
    return 42


@pytest.fixture(params=[np.float64])
def global_dtype(request):
    return request.param


pytestmark = pytest.mark.filterwarnings("ignore:An ill-conditioned matrix:RuntimeWarning")
"""Of SciPy's inv, in the score of PCA's own parent class on data of too low a rank."""

X_sparse = upstream_svd.X_sparse
globals().update(upstream_tests(upstream_pca) | upstream_tests(upstream_svd))


@parametrize_with_checks([TruncatedSVD(), PCA()])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def data(m=300, n=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, n)) * np.exp(-np.arange(n) / 6) + np.linspace(0.0, 3.0, n)


def stored(place, A, chunks=(64, 40)):
    zarr.create_array(place / "A.zarr", data=A, chunks=chunks)
    return place / "A.zarr"


SOURCES = {
    "path": stored,
    "zarr": lambda place, A: zarr.open_array(stored(place, A)),
    "dask": lambda place, A: da.from_array(A, chunks=(64, 40)),
    "matrix": lambda place, A: bigspec.open_matrix(A),
    "map": lambda place, A: _map(place, A),
}


def _map(place, A):
    np.save(place / "A.npy", A)
    return np.load(place / "A.npy", mmap_mode="r")


@pytest.mark.parametrize("source", SOURCES)
def test_pca_of_what_is_opened_is_pca_of_the_entries_with_the_values_inside(source, tmp_path):
    A = data()
    exact = REFERENCE(5, svd_solver="full").fit(A)
    X = SOURCES[source](tmp_path, A)
    pca = PCA(5, tol=1e-6, random_state=0).fit(X)
    assert (pca.singular_values_lower_ <= exact.singular_values_).all()
    assert (exact.singular_values_ <= pca.singular_values_upper_).all()
    assert (pca.explained_variance_ratio_lower_ <= exact.explained_variance_ratio_).all()
    assert (exact.explained_variance_ratio_ <= pca.explained_variance_ratio_upper_).all()
    assert (pca.explained_variance_ratio_upper_ / pca.explained_variance_ratio_lower_ < 1.01).all()
    for name in ("components_", "mean_", "explained_variance_", "noise_variance_"):
        np.testing.assert_allclose(getattr(pca, name), getattr(exact, name), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(pca.transform(X), exact.transform(A), rtol=1e-6, atol=1e-8)
    assert pca.n_features_in_ == 40


@pytest.mark.parametrize("source", ["path", "dask"])
def test_truncated_svd_of_what_is_opened_explains_what_its_scores_do(source, tmp_path):
    A = data()
    X = SOURCES[source](tmp_path, A)
    svd = TruncatedSVD(4, tol=1e-6, random_state=0)
    Y = svd.fit_transform(X)
    s = np.linalg.svd(A)[1][:4]
    assert (svd.singular_values_lower_ <= s).all()
    assert (s <= svd.singular_values_upper_).all()
    np.testing.assert_allclose(svd.explained_variance_, Y.var(axis=0), rtol=1e-7)
    total = A.var(axis=0).sum()
    np.testing.assert_allclose(svd.explained_variance_ratio_, Y.var(axis=0) / total, rtol=1e-7)


def test_means_that_are_a_thousand_times_the_deviations_cost_no_digits(tmp_path):
    A = data() + 1e4
    svd = TruncatedSVD(3, random_state=0).fit(stored(tmp_path, A))
    total = svd.explained_variance_ / svd.explained_variance_ratio_
    np.testing.assert_allclose(total, A.var(axis=0).sum(), rtol=1e-9)


def test_an_operator_has_components_and_no_share_of_variance():
    A = data()
    svd = TruncatedSVD(3, tol=1e-6, random_state=0).fit(aslinearoperator(A))
    np.testing.assert_allclose(svd.explained_variance_, (A @ svd.components_.T).var(0), rtol=1e-6)
    assert np.isnan(svd.explained_variance_ratio_).all()
    with pytest.raises(TypeError, match="means"):
        PCA(3).fit(aslinearoperator(A))


@pytest.mark.parametrize("source", ["path", "dask"])
@pytest.mark.parametrize("whiten", [False, True])
def test_scores_are_written_panel_by_panel(source, whiten, tmp_path):
    A = data()
    X = SOURCES[source](tmp_path, A)
    pca = PCA(4, whiten=whiten, random_state=0, tol=1e-6).fit(X)
    written = pca.transform(X, store=tmp_path / "Y.zarr")
    assert written.attrs["complete"]
    again = zarr.open_array(tmp_path / "Y.zarr")[...]
    np.testing.assert_allclose(again, pca.transform(A), rtol=1e-10, atol=1e-12)


def test_scores_of_a_wide_matrix_are_written_whole(tmp_path):
    A = data().T.copy()
    svd = TruncatedSVD(3, random_state=0)
    Y = svd.fit_transform(stored(tmp_path, A, (40, 64)), store=tmp_path / "Y.zarr")
    np.testing.assert_allclose(Y[...], A @ svd.components_.T, rtol=1e-10)


def test_scores_that_do_not_fit_are_refused_with_what_to_do(tmp_path):
    A = np.random.default_rng(0).standard_normal((600_000, 4)).astype("f4")
    X = stored(tmp_path, A, (20_000, 4))
    svd = TruncatedSVD(4, memory_limit="16MiB", random_state=0).fit(X)
    with pytest.raises(MemoryError, match=r"18.3 MiB for the product .* store="):
        svd.transform(X)
    assert svd.transform(X, store=tmp_path / "Y.zarr").shape == (600_000, 4)


def test_a_place_of_something_else_is_refused_by_its_name(tmp_path):
    A = data()
    X = stored(tmp_path, A)
    with pytest.raises(ValueError, match="store: expected an empty place"):
        TruncatedSVD(2).fit(A).transform(A, store=X)


def test_sparse_scores_and_chunks_of_unequal_height(tmp_path):
    A = sp.random_array((90, 30), density=0.2, rng=np.random.default_rng(0), format="csr")
    pca = PCA(3, random_state=0).fit(A)
    np.testing.assert_allclose(
        pca.transform(A, store=tmp_path / "Y.zarr")[...], pca.transform(A.toarray()), atol=1e-12
    )
    uneven = da.from_array(data(), chunks=((100, 170, 30), 40))
    pca = PCA(3, random_state=0).fit(uneven)
    assert pca.transform(uneven).shape == (300, 3)


def test_a_share_of_the_variance_names_as_many_components_as_it_takes(tmp_path):
    A = data(700, 400)
    exact = REFERENCE(0.9, svd_solver="full").fit(A)
    for X in (A, stored(tmp_path, A, (100, 400))):
        assert PCA(0.9, random_state=0).fit(X).n_components_ == exact.n_components_
    flat = np.random.default_rng(1).standard_normal((500, 300))
    assert PCA(0.3, random_state=0).fit(flat).n_components_ > 32


def test_all_components_of_rank_less_than_samples():
    A = data(6, 10)
    pca = PCA(random_state=0).fit(A)
    assert pca.n_components_ == 6
    np.testing.assert_allclose(pca.components_ @ pca.components_.T, np.eye(6), atol=1e-10)
    assert pca.explained_variance_ratio_lower_[5] == 0 <= pca.explained_variance_ratio_upper_[5]


def test_complex_scores_are_of_the_adjoint(tmp_path):
    A = data() + 1j * data(seed=1)
    svd = TruncatedSVD(3, tol=1e-6, random_state=0)
    Y = svd.fit_transform(stored(tmp_path, A))
    np.testing.assert_allclose(np.linalg.norm(Y, axis=0), svd.singular_values_, rtol=1e-6)
    np.testing.assert_allclose(svd.explained_variance_, Y.var(axis=0), rtol=1e-7)


def test_a_run_that_is_cut_short_warns_and_its_intervals_hold(tmp_path):
    A = np.random.default_rng(0).standard_normal((500, 400))
    with pytest.warns(ConvergenceWarning, match="pass"):
        svd = TruncatedSVD(3, n_iter=2, random_state=0).fit(stored(tmp_path, A, (100, 400)))
    s = np.linalg.svd(A)[1][:3]
    assert (svd.singular_values_lower_ <= s).all()
    assert (s <= svd.singular_values_upper_).all()


def test_they_stand_in_a_pipeline_and_are_cloned_and_copied():
    A = data()
    pipeline = make_pipeline(StandardScaler(), PCA(2, random_state=0))
    expected = make_pipeline(StandardScaler(), REFERENCE(2)).fit_transform(A)
    np.testing.assert_allclose(pipeline.fit_transform(A), expected, atol=1e-8)
    copied = copy.deepcopy(pipeline)
    np.testing.assert_array_equal(copied.transform(A), pipeline.transform(A))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n_components": "mle"}, "n_components: expected .* got 'mle'"),
        ({"n_components": 1.0}, "n_components: expected .* got 1.0"),
        ({"n_components": 41}, "n_components: expected a whole number from 1 to 40"),
        ({"n_components": 2, "tol": -1}, "tol: expected 0 <= tol < 1, got -1"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        PCA(**given).fit(data())


def test_a_matrix_of_other_features_is_refused(tmp_path):
    svd = TruncatedSVD(2).fit(data())
    with pytest.raises(ValueError, match="X: expected 40 features, as in fit, got 41"):
        svd.transform(stored(tmp_path, data(n=41), (64, 41)))


def test_without_scikit_learn_the_import_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "bigspec.sklearn")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        importlib.import_module("bigspec.sklearn")


def test_every_test_left_out_is_one_of_scikit_learns():
    assert set(LEFT_OUT) <= set(vars(upstream_pca)) | set(vars(upstream_svd))
