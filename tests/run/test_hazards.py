"""The hazards that every release must survive (method, section 10), each by its situation."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator

import bigspec
from bigspec.errors import NonFiniteError
from tests.matrices import clustered, contains, decaying, largest_singular_value, with_spectrum

ITERATIVE = ["lanczos", "power"]
ALGORITHMS = [*ITERATIVE, "gram"]


def assert_brackets(est, sigma):
    assert contains(est, sigma), (est.lower / sigma - 1, est.upper / sigma - 1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("exponent", [-1060, -1000, -500, 0, 500, 1000])
def test_entries_of_extreme_magnitude(algorithm, exponent):
    base = decaying(60, 40)
    est = bigspec.norm(np.ldexp(base, exponent), algorithm=algorithm, seed=1)
    plain = bigspec.norm(base, algorithm=algorithm, seed=1)
    if exponent > -1000:  # no entry is subnormal: scaling by a power of two changes no bit
        assert est.lower == np.ldexp(plain.lower, exponent)
        assert est.upper == np.ldexp(plain.upper, exponent)
        assert est.frobenius == np.ldexp(plain.frobenius, exponent)
    else:
        assert est.lower <= np.ldexp(1.0, exponent) * (1 + 1e-3) <= est.upper * (1 + 2e-3)
    assert est.converged


def test_entries_of_1e300_beside_entries_of_1e_minus_300():
    A = decaying(60, 40)
    A[::2] *= 1e300
    A[1::2] *= 1e-300
    est = bigspec.norm(A, algorithm="lanczos", rtol=1e-6)
    assert_brackets(est, 1e300 * largest_singular_value(A[::2] / 1e300))


def test_norm_beyond_the_largest_float_has_an_infinite_upper_end():
    est = bigspec.norm(np.full((400, 300), 1.7e308), algorithm="lanczos")
    assert est.lower == np.finfo(float).max
    assert est.upper == np.inf
    assert est.to_dict()["upper"] is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("shape", [(1, 1), (30, 20), (3, 50), (1, 9)])
def test_zero_matrix_is_zero_with_certainty(algorithm, shape):
    est = bigspec.norm(np.zeros(shape), algorithm=algorithm)
    assert (est.lower, est.upper, est.passes) == (0.0, 0.0, 1)
    assert est.converged
    assert est.deterministic
    assert est.stable_rank == (0.0, 0.0)
    vector = est.right if est.right is not None else est.left
    assert np.linalg.norm(vector) == pytest.approx(1.0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3), (300, 5), (5, 300)])
@pytest.mark.parametrize("dtype", ["f8", "c16"])
def test_thin_matrices_with_fewer_columns_than_the_block(algorithm, shape, dtype):
    rng = np.random.default_rng(1)
    A = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(complex)
    A = A if dtype == "c16" else A.real.copy()
    est = bigspec.norm(A, algorithm=algorithm, rtol=1e-9, max_passes=60)
    assert_brackets(est, largest_singular_value(A))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("rank", [1, 2, 17])
@pytest.mark.parametrize("complex_", [False, True])
def test_low_rank_ends_in_two_passes(algorithm, rank, complex_):
    A = with_spectrum(80, 50, np.linspace(3, 1, rank), complex_=complex_)
    est = bigspec.norm(A, algorithm=algorithm, rtol=1e-9, max_passes=60)
    assert_brackets(est, 3.0)
    assert est.converged
    if rank <= 16:
        assert est.passes <= 2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("n", [1, 7, 16, 100])
def test_identity(algorithm, n):
    est = bigspec.norm(np.eye(n), algorithm=algorithm, rtol=1e-10)
    assert_brackets(est, 1.0)
    assert est.converged


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_orthogonal_matrix(algorithm):
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((200, 200)))[0]
    est = bigspec.norm(Q, algorithm=algorithm, rtol=1e-2, max_passes=40)
    assert_brackets(est, 1.0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("equal", [2, 5, 30])
def test_equal_largest_singular_values(algorithm, equal):
    sigma = np.concatenate([np.ones(equal), 0.5 / np.arange(1, 60 - equal)])
    est = bigspec.norm(with_spectrum(90, 60, sigma), algorithm=algorithm, rtol=1e-5, max_passes=60)
    assert_brackets(est, 1.0)
    assert est.converged


@pytest.mark.parametrize("gap", [1e-3, 1e-8, 1e-15])
@pytest.mark.parametrize("b", [1, 4, 16])
def test_cluster_at_the_top(gap, b):
    A = clustered(300, 200, top=8, gap=gap)
    est = bigspec.norm(A, algorithm="lanczos", block_size=b, rtol=1e-10, max_passes=80)
    assert_brackets(est, 1.0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16"])
def test_non_finite_entries_are_an_error_that_names_the_place(algorithm, bad, dtype):
    A = decaying(40, 30).astype(dtype)
    A[13, 29] = bad
    with pytest.raises(NonFiniteError, match=r"first at \[13, 29\]"):
        bigspec.norm(A, algorithm=algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2"])
def test_small_types_do_not_wrap_or_overflow(algorithm, dtype):
    rng = np.random.default_rng(0)
    kind = np.dtype(dtype).kind
    if kind == "f":
        A = (rng.standard_normal((60, 40)) * 6e3).astype(dtype)
    elif kind == "b":
        A = rng.random((60, 40)) < 0.5
    else:
        info = np.iinfo(dtype)
        A = rng.integers(info.min, info.max, (60, 40), dtype=dtype, endpoint=True)
    est = bigspec.norm(A, algorithm=algorithm, rtol=1e-6, max_passes=60)
    assert_brackets(est, largest_singular_value(A.astype(float)))


@pytest.mark.parametrize("extra", [1, 5, 16])
def test_rank_deficient_residual_block(extra):
    """The Krylov space becomes invariant in the middle of a block."""
    sigma = np.concatenate([np.linspace(2, 1, 16 + extra)])
    est = bigspec.norm(
        with_spectrum(200, 150, sigma), algorithm="lanczos", block_size=16, rtol=1e-11
    )
    assert_brackets(est, 2.0)
    assert est.passes <= 3


def test_float32_rounding_is_in_the_interval():
    """Stored in float32, multiplied in float64: the interval is that of the stored values."""
    A = decaying(300, 200).astype("f4")
    est = bigspec.norm(A, algorithm="lanczos", rtol=1e-10)
    assert est.converged
    assert_brackets(est, largest_singular_value(A.astype(float)))


def test_rtol_below_rounding_ends_honestly():
    est = bigspec.norm(decaying(60, 40), algorithm="lanczos", rtol=1e-15, max_passes=50)
    assert not est.converged
    assert est.passes < 50
    assert "rounding margin" in est.status
    assert_brackets(est, 1.0)


def test_sparse_without_entries():
    est = bigspec.norm(sp.csr_array((30, 20)), algorithm="lanczos")
    assert (est.lower, est.upper) == (0.0, 0.0)


@settings(max_examples=150, deadline=None)
@given(
    m=st.integers(1, 30),
    n=st.integers(1, 30),
    b=st.integers(1, 20),
    kind=st.sampled_from(["f4", "f8", "c16"]),
    algorithm=st.sampled_from(ALGORITHMS),
    shape=st.sampled_from(["gaussian", "graded", "ones", "sparse", "integers"]),
    seed=st.integers(0, 2**32),
)
def test_any_small_matrix_is_bracketed(m, n, b, kind, algorithm, shape, seed):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n))
    if kind == "c16":
        A = A + 1j * rng.standard_normal((m, n))
    if shape == "graded":
        A = A * np.logspace(0, -rng.integers(1, 30), n)
    elif shape == "ones":
        A = np.ones_like(A)
    elif shape == "sparse":
        A = A * (rng.random((m, n)) < 0.1)
    elif shape == "integers":
        A = np.round(A)
    A = A.astype(kind)
    block = None if algorithm == "gram" else b
    est = bigspec.norm(A, algorithm=algorithm, block_size=block, rtol=1e-8, max_passes=25)
    assert_brackets(est, largest_singular_value(A))


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1.0, 1e170, 1e300])
def test_operators_of_extreme_size(scale):
    A = decaying(60, 40) * scale
    operator = LinearOperator(
        A.shape, matvec=lambda x: A @ x, rmatvec=lambda y: A.T @ y, dtype=float
    )
    est = bigspec.norm(operator, rtol=1e-6, seed=1)
    assert est.converged
    assert contains(est, scale * largest_singular_value(A / scale))
