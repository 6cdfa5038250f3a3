"""SciPy's own tests of `svds` with `bigspec.scipy.svds` in its place, for ``which="LM"``.

`LEFT_OUT` names what is not run, and why; cases of other tests that ask for ``which="SM"`` are
skipped one by one. Below are tests of what SciPy's do not see.
"""

import copy
import inspect
from typing import ClassVar

import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from scipy.sparse import linalg
from scipy.sparse.linalg._eigen.tests import test_svds as upstream

import bigspec.scipy

MESSAGES = "asserts the words of SciPy's messages; bigspec's own are in test_svds.py"
SMALLEST = "asks for the smallest singular values, which passes of A^H A cannot give"
LEFT_OUT = {
    "test_svds_input_validation_A": MESSAGES + "; a str is a path here",
    "test_svds_input_validation_k_1": MESSAGES + "; k = min(m, n) is allowed",
    "test_svds_input_validation_k_2": MESSAGES,
    "test_svds_input_validation_tol_1": MESSAGES + "; rtol is the width of an interval, not tol",
    "test_svds_input_validation_tol_2": MESSAGES + "; rtol is the width of an interval, not tol",
    "test_svds_input_validation_which": MESSAGES + "; there is no `which`",
    "test_svds_input_validation_v0_1": MESSAGES + "; start takes any number of vectors",
    "test_svds_input_validation_v0_2": MESSAGES + "; start takes any number of vectors",
    "test_svds_input_validation_v0_3": MESSAGES + "; start may be of integers",
    "test_svds_input_validation_maxiter_1": MESSAGES,
    "test_svds_input_validation_maxiter_2": MESSAGES,
    "test_svds_input_validation_return_singular_vectors": MESSAGES,
    "test_svd_v0": "with v0 given, rng changes nothing: here the certificate needs random columns",
    "test_svds_parameter_tol": "a table of accuracies for each of SciPy's solvers, by name",
    "test_svds_diff0_docstring_example": SMALLEST,
    "test_small_sigma_sparse": SMALLEST,
    "test_small_sigma2": SMALLEST,
    "test_svd_linop": SMALLEST + "; its other half is repeated below",
}


class Adapted(upstream.SVDSCommonTests):
    solver = "bigspec"  # none of SciPy's: nothing is left out, or expected, for the sake of one
    options: ClassVar[dict]

    @pytest.fixture(autouse=True)
    def _adapted(self, monkeypatch):
        def svds(A, *given, which="LM", solver="bigspec", **named):
            if which != "LM":
                pytest.skip(SMALLEST)
            return bigspec.scipy.svds(A, *given, **({"options": self.options} | named))

        monkeypatch.setattr(upstream, "svds", svds)

    @pytest.mark.parametrize(("n", "m", "k"), [(6, 7, 3), (9, 5, 4), (10, 8, 5)])
    @pytest.mark.parametrize("dtype", [float, complex])
    def test_linear_operator_as_matrix(self, n, m, k, dtype):
        rng = np.random.default_rng(1648)
        A = rng.standard_normal((n, m))
        A = A + 1j * rng.standard_normal((n, m)) if dtype is complex else A
        one = upstream.svds(A, k, rng=0)
        two = upstream.svds(upstream.CheckingLinearOperator(A), k, rng=0)
        for left, right in zip(one, two, strict=True):
            np.testing.assert_allclose(np.abs(left), np.abs(right), atol=1e-9)


for _name in LEFT_OUT:
    setattr(Adapted, _name, None)


class TestWholeSpace(Adapted):
    """As a user calls it: these matrices are small, so the block spans the whole space."""

    options: ClassVar[dict] = {}


class TestIterated(Adapted):
    """A block of two columns more than k at most, so that the recurrence works for its answer."""

    options: ClassVar[dict] = {"block_size": 6}
    test_svd_rng_3 = None  # wants vectors to 2e-7; those of a run at the floor are good to 3e-7
    test_svd_LM_ones_matrix = None  # repeated zeros, more often than the block has columns
    test_small_sigma = None  # 20 x 20 of range 1e76: three steps of six columns meet rounding first


def test_every_test_left_out_is_one_of_scipys():
    assert all(hasattr(upstream.SVDSCommonTests, name) for name in LEFT_OUT)


def decaying(m=60, n=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, n)) * np.exp(-np.arange(n) / 5)


def test_the_signature_is_scipys():
    ours, theirs = (inspect.signature(f).parameters for f in (bigspec.scipy.svds, linalg.svds))
    assert list(ours) == list(theirs)
    for name in theirs:
        assert (ours[name].default, ours[name].kind) == (theirs[name].default, theirs[name].kind)


def test_code_that_changes_its_import_gets_the_same_triplets_in_the_same_order():
    A = decaying()
    ours, theirs = bigspec.scipy.svds(A, 4), linalg.svds(A, 4)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-12)
    for one, other in ((ours[0], theirs[0]), (ours[2].T, theirs[2].T)):
        np.testing.assert_allclose(np.abs(one.T @ other), np.eye(4), atol=1e-6)


def test_a_path_is_taken_too(tmp_path):
    A = decaying()
    zarr.create_array(tmp_path / "A.zarr", data=A, chunks=(20, 40))
    s = bigspec.scipy.svds(tmp_path / "A.zarr", k=3, return_singular_vectors=False)
    np.testing.assert_allclose(s, np.linalg.svd(A)[1][2::-1], rtol=1e-12)


@pytest.mark.parametrize("rng", [7, np.random.RandomState(7), np.random.SeedSequence(7)])
def test_the_same_rng_gives_the_same_bits(rng):
    again = copy.deepcopy(rng)
    one, two = (bigspec.scipy.svds(decaying(), 3, random_state=r)[0] for r in (rng, again))
    assert (one == two).all()


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("form", [sp.csr_array, sp.csc_array, np.array])
def test_v0_is_of_the_shorter_side_whichever_side_is_iterated(wide, form):
    A = decaying().T if wide else decaying()
    u, s, vh = np.linalg.svd(A)
    v0 = u[:, 0] if wide else vh[0]
    options = {"block_size": 4}
    found = bigspec.scipy.svds(form(A), 1, v0=v0, tol=1e-9, options=options, maxiter=30)
    np.testing.assert_allclose(found[1], s[:1], rtol=1e-9)


def test_too_few_passes_are_scipys_error_with_what_had_converged():
    A = np.diag(np.concatenate([[1e3], np.linspace(1.0, 1.2, 299)]))
    with pytest.raises(linalg.ArpackNoConvergence, match=r"1/3 intervals .* passes") as caught:
        bigspec.scipy.svds(A, 3, tol=1e-6, maxiter=3, rng=0, options={"block_size": 8})
    np.testing.assert_allclose(caught.value.eigenvalues, [1e6])
    np.testing.assert_allclose(np.abs(caught.value.eigenvectors), np.eye(300, 1), atol=1e-6)


def test_ncv_is_the_width_of_the_block():
    with pytest.raises(ValueError, match="ncv: expected more vectors than k = 3, got 3"):
        bigspec.scipy.svds(decaying(), 3, ncv=3)
    with pytest.raises(ValueError, match="block_size"):
        bigspec.scipy.svds(decaying(), 3, ncv=8, options={"block_size": 8})
    A = decaying(400, 300)
    with pytest.raises(linalg.ArpackNoConvergence):
        bigspec.scipy.svds(A, 3, ncv=4, maxiter=2, rng=0)
    bigspec.scipy.svds(A, 3, ncv=100, maxiter=2, rng=0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"which": "SM"}, "which: expected 'LM'"),
        ({"solver": "magma"}, "solver: expected one of"),
        ({"tol": -1}, "tol: expected a number of at least 0, got -1"),
        ({"tol": float("nan")}, "tol: expected"),
        ({"return_singular_vectors": "w"}, "return_singular_vectors: expected"),
        ({"options": {"u_store": "u.zarr"}}, "options: expected .*, got u_store"),
        ({"v0": np.ones(60)}, r"v0: expected shape \(40,\), the smaller of \(60, 40\)"),
        ({"rng": 1, "random_state": 1}, "rng: expected it or random_state"),
        ({"rng": "seven"}, "rng: expected an integer or"),
        ({"k": 41}, "41"),
    ],
)
def test_what_cannot_be_done_is_said_before_a_pass(given, words):
    with pytest.raises(ValueError, match=words):
        bigspec.scipy.svds(decaying(), **given)
