"""Intervals around matrices known exactly; benchmarks/misses.py draws thousands of them."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import aslinearoperator

import bigspec
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
