"""Intervals around matrices known exactly; benchmarks/misses.py draws thousands of them."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import aslinearoperator

import bigspec
from bigspec.errors import ArgumentError
from bigspec.panels.choose_layout import choose_layout
from bigspec.passes import Pass, find_executor, one_blas_thread
from tests.exact import KINDS, extended, misses, singular_values, whole


@pytest.mark.parametrize("kind", KINDS)
def test_no_interval_and_no_vector_misses(kind):
    wrong = {seed: found for seed in range(12) if (found := misses(kind, seed))}
    assert not wrong


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("algorithm", ["gram", "lanczos", "power"])
@pytest.mark.parametrize("stored", [1.0, 0.97])
def test_a_sparse_matrix_that_its_means_cancel(axis, algorithm, stored):
    rng = np.random.default_rng(3)
    X = rng.choice([-1.0, 1.0], (60, 60)) + 2.0**27
    X *= rng.random(X.shape) < stored
    means = np.full(60, 2.0**27)
    exact = X - (means if axis == 0 else means[:, None])
    estimate = bigspec.norm(
        bigspec.centered(sp.csr_array(X), axis, means=means), algorithm=algorithm, seed=1
    )
    norm = np.linalg.norm(exact, 2)
    assert estimate.lower <= norm <= estimate.upper
    frobenius = np.linalg.norm(exact)
    assert estimate.frobenius == pytest.approx(frobenius, rel=1e-7)
    low, high = estimate.stable_rank
    assert 1 <= low <= (frobenius / norm) ** 2 <= high


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["i8", "u8"])
@pytest.mark.parametrize("operator", [False, True])
def test_a_product_whose_factor_cancels_counts_the_rounding_of_its_entries(side, kind, operator):
    rng = np.random.default_rng(2)
    A = np.full((60, 40), 2**62 if kind == "i8" else 2**63 + 2**62, kind)
    A += rng.integers(0, 3000, A.shape).astype(kind)
    B = A - rng.integers(0, 300, A.shape).astype(kind)
    exact = extended(whole(A) - whole(B))
    one = np.eye(40 if side == "left" else 60)
    other = aslinearoperator(one) if operator else one
    D = bigspec.open_matrix(A) - bigspec.open_matrix(B)
    K = D @ other if side == "left" else bigspec.open_matrix(other) @ D
    for options in ({"algorithm": "lanczos"}, {"algorithm": "power", "block_size": 1}):
        estimate = bigspec.norm(K, seed=1, max_passes=4, **options)
        sigma = singular_values(exact)[0]
        assert all(r.lower <= sigma <= r.upper for r in estimate.history)


def test_a_product_of_one_third_of_a_matrix_and_what_it_cancels():
    rng = np.random.default_rng(4)
    Z = 1e12 * rng.standard_normal((50, 30))
    X = Z / 3 + rng.standard_normal(Z.shape)
    K = (bigspec.open_matrix(X) - (1 / 3) * bigspec.open_matrix(Z)) @ np.eye(30)
    estimate = bigspec.norm(K, rtol=1e-12, seed=1)
    sigma = singular_values(extended(whole(X) - Fraction(1 / 3) * whole(Z)))[0]
    assert all(r.lower <= sigma <= r.upper for r in estimate.history)


@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("wide", [False, True])
def test_a_sum_of_many_equal_entries_of_a_sparse_matrix(form, columns, wide):
    m = 1_200_000 * columns
    indices = np.arange(m) % columns
    X = sp.csr_array((np.full(m, 0.1), (np.arange(m), indices)), shape=(m, columns))
    X = (X.T if wide else X).asformat(form)
    exact = np.sqrt(np.longdouble(1_200_000)) * np.longdouble(0.1)
    for options in ({"algorithm": "gram"}, {"algorithm": "power", "block_size": 1}):
        estimate = bigspec.norm(X, seed=1, rtol=1e-13, max_passes=2, **options)
        assert all(r.lower <= exact <= r.upper for r in estimate.history)
        assert estimate.upper / estimate.lower - 1 < 1e-9


def test_chains_are_counted_where_values_repeat_and_nowhere_else():
    rng = np.random.default_rng(0)
    A = sp.random(3000, 40, 0.5, format="csr", rng=rng)
    B = A.copy()
    B.data = np.round(B.data, 1) + 1
    with one_blas_thread():
        chains = []
        for matrix in map(bigspec.open_matrix, (A, B)):
            layout = choose_layout(matrix, 2, blocks=6, limit=1 << 30, tasks=1, local=True)
            chains.append(Pass(matrix, layout, find_executor(True)).run(np.eye(40, 2)).facts.chain)
    longest = np.diff(B.indptr).max() + np.bincount(B.indices).max()
    assert chains[0] == 0.0
    assert longest / 2 < chains[1] <= longest  # of the panel that has most


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array, sp.csc_array])
@pytest.mark.parametrize("ddof", [0, 1])
def test_standardizing_columns_whose_mean_is_far_beyond_their_deviation(form, ddof):
    rng = np.random.default_rng(1)
    X = np.stack([0.1 * (1 + 1e-9 * rng.standard_normal(20_000)), 1e6 + rng.random(20_000)], axis=1)
    exact = X.astype(np.longdouble)
    exact = exact - exact.mean(axis=0)
    exact = exact / np.sqrt((exact**2).sum(axis=0) / (len(X) - ddof))
    estimate = bigspec.norm(bigspec.standardized(form(X), ddof=ddof))
    norm = np.linalg.norm(exact.astype(float), 2)
    assert estimate.lower <= norm <= estimate.upper
    constant = bigspec.standardized(form(np.full((3000, 2), 0.1)), ddof=ddof)
    assert bigspec.norm(constant).lower == 0.0


@pytest.mark.parametrize("ddof", [-1, 5, 1.5, True, None])
def test_a_ddof_that_leaves_nothing_is_refused(ddof):
    with pytest.raises(ArgumentError, match="ddof: expected a whole number from 0 to 4"):
        bigspec.standardized(np.eye(5), ddof=ddof)


@pytest.mark.parametrize("apart", [1e-3, 1e-8, 1e-12])
@pytest.mark.parametrize("beside", [0.0, 1e-9])
def test_dyads_that_cancel_one_another(apart, beside):
    """Their Gram matrices hold squares, and lose twice the digits of the entries."""
    rng = np.random.default_rng(4)
    left, right = rng.standard_normal((50, 1)), rng.standard_normal((40, 1))
    U, W = np.hstack([left, -left]), np.hstack([right, right + apart * rng.random((40, 1))])
    X = sp.random_array((50, 40), density=0.2, rng=rng, format="csr") * beside
    exact = extended(whole(X.toarray()) + whole(U).dot(whole(W.T)))
    estimate = bigspec.norm(bigspec.open_matrix(sp.csr_array(X)) + bigspec.low_rank(U, None, W.T))
    norm, sigma = float(np.sqrt((exact**2).sum())), float(singular_values(exact)[0])
    error = 1e-14 * np.linalg.norm(U) * np.linalg.norm(W)
    assert abs(estimate.frobenius - norm) <= error
    low, high = estimate.stable_rank
    assert low * (1 - 4 * error / norm) <= (norm / sigma) ** 2 <= high * (1 + 4 * error / norm)


EYE = np.eye(6)
AROUND = {
    "itself": lambda d: d,
    "below one another": lambda d: bigspec.vstack([d, d]),
    "beside one another": lambda d: bigspec.hstack([d, d]),
    "a range": lambda d: d[1:4],
    "the first factor": lambda d: d @ EYE,
    "the last factor": lambda d: bigspec.open_matrix(EYE) @ d,
    "a factor of two": lambda d: bigspec.vstack([d, d]) @ EYE,
}


@pytest.mark.parametrize("scale", [2.0**-877, 2.0**-540, 1.0, 2.0**500, 2.0**850])
@pytest.mark.parametrize("algorithm", ["gram", "lanczos", "power"])
@pytest.mark.parametrize("around", AROUND)
def test_terms_that_cancel_to_nothing_at_any_scale(scale, algorithm, around):
    """Squares of the terms, which the margin is relative to, vanish or overflow unscaled."""
    if algorithm == "gram" and "factor" in around:
        algorithm = "auto"
    X, Y = (np.diag(np.full(6, 2**62 + more)) for more in (1, 0))
    norm = scale * (np.sqrt(2.0) if around.endswith(("another", "two")) else 1.0)
    for form in (sp.csr_array, np.asarray):
        difference = scale * bigspec.open_matrix(form(X)) - scale * bigspec.open_matrix(form(Y))
        estimate = bigspec.norm(AROUND[around](difference), algorithm=algorithm)
        assert estimate.lower <= norm * (1 + 1e-12)
        assert norm * (1 - 1e-12) <= estimate.upper < 2.0**40 * scale


@pytest.mark.parametrize("scale", [2.0**-877, 2.0**500, 2.0**850])
def test_terms_that_cancel_in_one_panel_beside_plain_ones(scale, monkeypatch):
    """The scale of a panel of nothing but rounding is not forgotten when sums are added."""
    monkeypatch.setattr("bigspec.panels.choose_layout.PANEL_BYTES", (1, 1))
    X, Y = (sp.csr_array(np.diag(np.full(6, 2**62 + more))) for more in (1, 0))
    difference = scale * bigspec.open_matrix(X) - scale * bigspec.open_matrix(Y)
    for small in (1e-3, 1.0, 1e3):
        plain = bigspec.open_matrix(sp.csr_array(EYE * small))
        for members in ([difference, plain], [plain, difference]):
            estimate = bigspec.norm(bigspec.vstack(members), algorithm="lanczos")
            assert estimate.lower <= np.hypot(scale, small) * (1 + 1e-12)
            assert estimate.upper >= np.hypot(scale, small) * (1 - 1e-12)
