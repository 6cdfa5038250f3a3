"""The table of activations: slopes on a grid, their extremes, and how fast they change."""

import numpy as np
import pytest

from bigspec.errors import ArgumentError
from bigspec.networks.lipschitz.activations import ACTIVATIONS, activation

CASES = [(name,) for name in sorted(ACTIVATIONS)] + [
    ("leaky_relu", -0.5), ("leaky_relu", 3.0), ("prelu", 0.3), ("elu", 0.5), ("elu", 2.5),
    ("celu", 2.0), ("softplus", 5.0), ("silu", 3.0), ("hard_sigmoid", 0.2, 0.5),
    ("hardtanh", -2.0, 0.5), ("softshrink", 1.5),
]  # fmt: skip
GRID = np.linspace(-30, 30, 40_001)


def made(case):
    return activation(*case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_slope_on_a_grid_lies_in_the_interval_and_its_ends_are_attained(case):
    f = made(case)
    x = GRID[:, None]
    quotients = np.diff(f.value(x), axis=0) / np.diff(x, axis=0)
    slopes = f.slope(x)
    noise = 1e-10  # of a difference quotient with these steps
    assert quotients.min() >= f.low - noise
    assert quotients.max() <= f.high + noise
    assert slopes.min() >= f.low - 1e-14
    assert slopes.max() <= f.high + 1e-14
    assert slopes.min() == pytest.approx(f.low, abs=2e-3)
    assert slopes.max() == pytest.approx(f.high, abs=2e-3)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_slope_is_the_derivative_and_bends_no_faster_than_said(case):
    f = made(case)
    x = GRID[:, None]
    smooth = np.ones(len(x) - 1, bool)
    for kink in f.kinks:
        smooth &= (x[:-1, 0] > kink) | (x[1:, 0] < kink)
    steps = np.diff(x[:, 0])
    inside = (f.slope(x[:-1]) + f.slope(x[1:]))[:, 0] / 2
    quotients = np.diff(f.value(x)[:, 0]) / steps
    # the trapezoidal rule, with a Lipschitz slope
    assert (np.abs(quotients - inside)[smooth] <= f.bend * steps[smooth] + 1e-10).all()
    change = np.abs(np.diff(f.slope(x)[:, 0]))
    assert (change[smooth] <= f.bend * steps[smooth] * (1 + 1e-9) + 1e-14).all()


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "mish"])
def test_extremes_are_rounded_outwards_and_no_further(name):
    f = activation(name)
    fine = np.concatenate([np.linspace(c - 2e-3, c + 2e-3, 40_001) for c in peaks(f)])
    assert f.slope(fine).max() == pytest.approx(f.high, abs=1e-14)
    assert f.slope(fine).min() == pytest.approx(f.low, abs=1e-14)


def peaks(f):
    slopes = f.slope(GRID)
    return GRID[np.argmax(slopes)], GRID[np.argmin(slopes)]


def test_prelu_takes_a_slope_for_each_unit():
    f = activation("prelu", [0.5, -2.0, 3.0])
    assert (f.low, f.high) == (-2.0, 3.0)
    x = -np.ones((3, 2))
    assert f.slope(x)[:, 0].tolist() == [0.5, -2.0, 3.0]
    assert f.value(x)[:, 1].tolist() == [-0.5, 2.0, -3.0]


@pytest.mark.parametrize("x", [-1e300, -800.0, 800.0, 1e300])
@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"sin"}))
def test_no_slope_overflows(name, x):
    f = activation(name)
    with np.errstate(over="ignore", under="ignore"):
        slope = f.slope(np.array([[x]]))[0, 0]
    assert f.low - 1e-14 <= slope <= f.high + 1e-14


@pytest.mark.parametrize(
    "case",
    [
        ("relu", 0.1), ("leaky_relu", "steep"), ("leaky_relu", np.inf), ("elu", None),
        ("softplus", 0.0), ("celu", -1.0), ("hardtanh", 1.0, -1.0), ("prelu", []),
        ("silu", True), ("softshrink", -1.0), ("hardtanh", np.nan, 1.0),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_parameter_is_refused_with_the_name(case):
    with pytest.raises(ArgumentError, match=f"^{case[0]}: expected"):
        activation(*case)
