"""The factor that brings a norm to a limit: the norm of what is stored, in every type."""

import numpy as np
import pytest

from bigspec.certificate.scaling import Storage, factor_above, factor_below, scaled_interval
from bigspec.errors import ArgumentError

TYPES = ["float16", "float32", "float64", "complex64", "complex128"]


def matrix(seed, dtype, shape=(40, 60)):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal(shape)
    return A + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else A


def stored(A, factor, dtype):
    return (A * factor).astype(dtype).astype(np.result_type(dtype, np.float64))


def norm(A):
    return float(np.linalg.norm(A, 2))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("to", [1.0, 0.37, 3e-3])
def test_what_is_stored_keeps_the_limit_and_loses_no_more_than_rounding(dtype, to):
    for seed in range(5):
        A = matrix(seed, dtype)
        storage = Storage.of(np.dtype(dtype), A.size)
        sigma, size = norm(A), float(np.linalg.norm(A))
        slack = 2 * storage.relative * size / sigma + 4 * storage.absolute / to + 1e-13
        f = factor_below(sigma * (1 + 1e-14), size, to, storage)
        assert to * (1 - slack) <= norm(stored(A, f, dtype)) <= to * (1 + 1e-14)
        f = factor_above(sigma * (1 - 1e-14), size, to, storage)
        assert to * (1 - 1e-14) <= norm(stored(A, f, dtype)) <= to * (1 + slack)


@pytest.mark.parametrize("dtype", TYPES)
def test_the_interval_of_what_is_stored_holds_its_norm(dtype):
    A = matrix(7, dtype)
    storage, sigma, size = Storage.of(np.dtype(dtype), A.size), norm(A), np.linalg.norm(A)
    for factor in (1e-3, 1.0, 7.3):
        low, high = scaled_interval(sigma, sigma, size, factor, storage)
        assert low * (1 - 1e-14) <= norm(stored(A, factor, dtype)) <= high * (1 + 1e-14)


def test_rounding_up_of_every_entry_is_covered():
    # All entries equal: rounded the same way, which moves the norm by all of rho.
    A = np.full((30, 30), 1.0)
    storage = Storage.of(np.dtype("float16"), A.size)
    worst = 0.0
    for to in np.linspace(0.5, 1.0, 300):
        f = factor_below(30.0, 30.0, float(to), storage)
        reached = norm(stored(A, f, "float16"))
        assert reached <= to * (1 + 1e-14)
        worst = max(worst, reached / (f * 30) - 1)
    assert worst > 0.9 * storage.unit  # without the margin the limit would not hold


@pytest.mark.parametrize("to", [1e-8, 0.0, 1e-300])
def test_a_limit_that_the_type_cannot_hold_is_refused(to):
    storage = Storage.of(np.dtype("float16"), 10**6)
    for function in (factor_below, factor_above):
        with pytest.raises(ArgumentError, match="to: expected a norm that this type"):
            function(1.0, 2.0, to, storage)


def test_a_factor_beyond_float64_is_refused():
    with pytest.raises(ArgumentError, match="to: expected a norm"):
        factor_below(1e-320, 1e-320, 1.0, Storage.of(np.dtype("float64"), 4))
