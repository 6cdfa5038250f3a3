"""The largest eigenvalue by Lanczos and a Cholesky factorisation, against exact values."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigspec.certificate import definite
from bigspec.certificate.definite import largest_eigenvalue

WIDTHS = (0.1, 2e-2, 1e-4, 1e-8, 1e-12, 1e-15)


def path(n):
    """A A^T of the path: tridiagonal integers with eigenvalues 2 - 2 cos(k pi / (n + 1))."""
    return 2.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scale", [-400, 0, 400])
@pytest.mark.parametrize("n", [1, 2, 3, 40, 150])
def test_the_ones_matrix_whose_largest_eigenvalue_is_its_order(n, scale, width):
    inside = largest_eigenvalue(np.ldexp(np.ones((n, n)), scale), width)
    exact = Fraction(n) * Fraction(2) ** scale
    assert Fraction(inside.lower) <= exact <= Fraction(inside.upper)
    assert inside.upper <= inside.lower * (1 + max(width, 1e-10))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_cluster_at_the_top(width):
    n = 120
    inside = largest_eigenvalue(path(n), width)
    exact = 2 + 2 * np.cos(np.pi / (n + 1))
    assert inside.lower <= exact * (1 + 1e-15)
    assert inside.upper >= exact * (1 - 1e-15)
    assert inside.upper <= inside.lower * (1 + max(width, 1e-10))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 1000), min_size=97, max_size=99),
    st.sampled_from(WIDTHS),
    st.integers(-400, 400),
)
def test_any_diagonal_of_integers(values, width, scale):
    exact = Fraction(max(values)) * Fraction(2) ** scale
    inside = largest_eigenvalue(np.ldexp(np.diag(np.array(values, float)), scale), width)
    assert Fraction(inside.lower) <= exact <= Fraction(inside.upper)


def test_complex_entries():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((200, 120)) + 1j * rng.standard_normal((200, 120))
    H = A.conj().T @ A
    H = (H + H.conj().T) / 2
    inside = largest_eigenvalue(H, 1e-2)
    assert inside.method == "Cholesky"
    assert inside.lower <= np.linalg.eigvalsh(H)[-1] <= inside.upper


def test_a_start_orthogonal_to_the_top_is_noticed(monkeypatch):
    """Then every t is below l_1, no factorisation runs through, and all eigenvalues are made."""
    H = np.diag([*np.linspace(1.0, 2.0, 119), 4.0])
    H[-1, :-1] = H[:-1, -1] = 0.0

    def blind(H):
        x = np.ones(len(H))
        x[-1] = 0.0
        return x

    monkeypatch.setattr(definite, "_start", blind)
    inside = largest_eigenvalue(H, 1e-2)
    assert inside.method == "eigenvalues"
    assert inside.lower <= 4.0 <= inside.upper


@pytest.mark.parametrize("below", [1e-13, 1e-9, 1e-3])
def test_no_proof_of_what_is_not_so(below):
    H = np.ones((64, 64))
    assert definite._proved(H, 64.0 * (1 - below), definite._margin(64)) is None


def test_zero_and_an_input_that_stays_as_it_is():
    assert largest_eigenvalue(np.zeros((5, 5)), 1e-2)[:2] == (0.0, 0.0)
    H = path(30)
    before = H.copy()
    largest_eigenvalue(H, 1e-2)
    assert np.array_equal(H, before)
