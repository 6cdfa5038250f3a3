"""Layers on images: convolutions in a stack, weights a channel, means and maxima over windows."""

import numpy as np
import pytest

import bigspec
from bigspec.errors import ArgumentError
from tests.networks.lipschitz.test_lipschitz import sampled, spectral

RNG = np.random.default_rng(3)
K1, K2 = RNG.standard_normal((4, 2, 3)), RNG.standard_normal((3, 4, 3))
CONV1 = ("conv", {"kernel": K1, "input_shape": [2, 7], "padding": 1})
CONV2 = ("conv", {"kernel": K2, "stride": 2})


def dense(kernel, shape, **rest):
    A = bigspec.conv(kernel, shape, **rest)
    return A.matmat(np.eye(A.shape[1]))


A1, A2 = dense(K1, (2, 7), padding=1), dense(K2, (4, 7), stride=2)


def test_convolutions_are_the_dense_stack():
    found = bigspec.lipschitz([CONV1, "relu", CONV2], seed=1)
    here = bigspec.lipschitz([A1, "relu", A2], seed=1)
    values = {b.name: b.upper for b in found.bounds}
    for bound in here.bounds:  # weights a channel are not as free as weights a position
        near = 0.1 if bound.name.startswith("rescaled") else 1e-2
        assert values[bound.name] == pytest.approx(bound.upper, rel=near), bound.name
    assert values["recursion"] == pytest.approx(
        (spectral(A2 @ A1) + spectral(A2) * spectral(A1)) / 2, rel=1e-2
    )
    assert found.lower == pytest.approx(here.lower, rel=1e-6)


def test_numbers_a_channel_are_repeated_at_its_positions():
    gamma, bias = np.array([1.0, 2.0, -1.0, 0.5]), np.arange(4.0)
    norm = ("batch_norm", gamma, np.ones(4), 0.0, bias)
    conv = ("conv", {**CONV1[1], "bias": bias})
    found = bigspec.lipschitz([conv, norm, ("prelu", [0.1, 0.2, 0.3, 0.4]), CONV2], seed=1)
    each = np.repeat(gamma, 7)[:, None]
    slopes = np.repeat([0.1, 0.2, 0.3, 0.4], 7)[:, None]

    def function(x):
        y = each * (A1 @ x + np.repeat(bias, 7)[:, None]) + np.repeat(bias, 7)[:, None]
        return A2 @ np.where(y > 0, y, slopes * y)

    assert sampled(function, 14) <= found.upper
    step = 1e-6 * found.right[:, None]
    x = found.point[:, None]
    slope = np.linalg.norm(function(x + step) - function(x - step)) / 2e-6
    assert found.lower == pytest.approx(slope, rel=1e-5)


def windows(x, k, s, pad, value):
    """Windows of each channel of columns (channels * n, p): (channels, outputs, k, p)."""
    x = x.reshape(2, -1, x.shape[1])
    x = np.pad(x, [(0, 0), (pad, pad), (0, 0)], constant_values=value)
    starts = range(0, x.shape[1] - k + 1, s)
    return np.stack([x[:, first : first + k] for first in starts], axis=1)


@pytest.mark.parametrize(("k", "s", "pad"), [(2, 2, 0), (3, 1, 1), (3, 2, 0), (4, 2, 1)])
def test_pools_are_bounded_and_attained(k, s, pad):
    stack = [("max_pool", {"size": k, "stride": s, "padding": pad, "input_shape": [2, 9]})]
    eye = np.eye(18)
    found = bigspec.lipschitz([eye, *stack], seed=1, at=200)
    function = lambda x: windows(x, k, s, pad, -np.inf).max(axis=2).reshape(-1, x.shape[1])  # noqa: E731
    assert found.outputs == len(function(np.zeros((18, 1))))
    assert sampled(function, 18) <= found.upper * (1 + 1e-12)
    assert found.upper == pytest.approx(np.sqrt(-(-k // s)))
    x = found.point[:, None]
    step = 1e-6 * found.right[:, None]
    slope = np.linalg.norm(function(x + step) - function(x - step)) / 2e-6
    assert found.lower == pytest.approx(slope, rel=1e-6)
    one = 1e-3 * RNG.standard_normal(18)
    one[4] = 5.0  # the largest of every window that it lies in
    best = bigspec.lipschitz([eye, *stack], seed=1, at=one)
    assert best.lower >= 0.99 * best.upper or pad or k % s
    means = bigspec.lipschitz([eye, ("avg_pool", *[stack[0][1][n] for n in ("size", "stride",
                               "padding", "input_shape")])], seed=1)  # fmt: skip
    columns = [windows(e[:, None], k, s, pad, 0.0).mean(axis=2).ravel() for e in eye]
    assert means.upper == pytest.approx(spectral(np.array(columns).T), rel=1e-3)


def test_a_tie_within_a_window_is_not_believed():
    pool = ("max_pool", {"size": 2, "input_shape": [1, 4]})
    found = bigspec.lipschitz([np.eye(4), pool], at=np.ones((1, 4)), seed=1)
    assert found.lower == pytest.approx(0.0, abs=1e-9)


def test_two_dimensions_and_a_global_mean():
    K = RNG.standard_normal((3, 2, 3, 3))
    layers = [
        ("conv", {"kernel": K, "input_shape": [2, 6, 6], "padding": "same"}),
        "relu", ("max_pool", 2), "tanh", ("global_avg_pool",), RNG.standard_normal((4, 3)),
    ]  # fmt: skip
    found = bigspec.lipschitz(layers, seed=1)
    assert (found.inputs, found.outputs) == (72, 4)
    assert 0 < found.lower < found.upper
    whole = spectral(dense(K, (2, 6, 6), padding=1)) * spectral(layers[-1]) / 3
    assert found.upper <= whole * (1 + 1e-2)  # of means over nine positions the norm is 1/3


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([("conv", {"kernel": K1})], "expected input_shape"),
        ([("conv", {"kernel": K1, "input_shape": [3, 7]})], r"layers\[0\] conv"),
        ([A1, ("max_pool", 2)], "expected input_shape"),
        ([CONV1, ("max_pool", 20)], "windows that fit"),
        ([CONV1, ("max_pool", 2, 1, 2)], "padding of at most half"),
        ([CONV1, ("max_pool", 0)], "expected size"),
    ],
)
def test_wrong_geometry_is_named(layers, message):
    with pytest.raises(ArgumentError, match=message):
        bigspec.lipschitz(layers)


def test_weights_a_channel_keep_the_certain_bound_of_a_convolution():
    K = RNG.standard_normal((8, 2, 3))
    first = ("conv", {"kernel": K, "input_shape": [2, 100]})
    second = ("conv", {"kernel": K.transpose(1, 0, 2)})
    found = bigspec.lipschitz([first, "relu", second], seed=1, rtol=0.1)
    names = [one for one in found.norms if one.scaled and "@" not in one.name]
    assert len(names) == 2
    assert all(one.deterministic for one in names)
