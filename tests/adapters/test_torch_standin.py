"""The parametrization through a stand-in for PyTorch's protocol: it needs no PyTorch."""

import copy
import importlib
import sys

import numpy as np
import pytest

import bigspec
from bigspec.errors import ArgumentError, NonFiniteError
from tests.adapters import standin


@pytest.fixture
def door():
    with standin.in_place_of_torch() as module:
        yield module


def weight(shape, seed=0, dtype="f4"):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal(shape)
    return (A + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else A).astype(dtype)


def linear(shape=(20, 30), **options):
    return standin.layer("Linear", weight(shape, **options))


def norm(A, dim=0):
    matrix = np.moveaxis(np.asarray(A), dim, 0).reshape(A.shape[dim], -1)
    return float(np.linalg.norm(matrix.astype(np.result_type(matrix, "f8")), 2))


def the(module):
    return module.parametrizations["weight"][0]


def trained(module, steps, size=1e-3):
    rng = np.random.default_rng(4)
    for _ in range(steps):
        original = module.originals["weight"]
        original += (size * rng.standard_normal(original.shape)).astype(original.dtype)
        yield module.weight


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8"])
def test_at_every_step_the_quotient_has_a_norm_of_at_most_one(door, dtype):
    module = door.spectral_norm(linear(dtype=dtype))
    least = 0.97 if dtype == "f2" else 0.99
    for quotient in trained(module, 15):
        assert quotient.dtype == dtype
        assert least <= norm(quotient) <= 1.0
        last = the(module).last
        assert last.lower * (1 - 1e-12) <= norm(module.originals["weight"])
        assert norm(module.originals["weight"]) <= last.upper * (1 + 1e-12)


@pytest.mark.parametrize(
    ("kind", "shape", "dim"),
    [
        ("Linear", (20, 30), 0),
        ("Conv2d", (6, 4, 3, 3), 0),
        ("ConvTranspose1d", (4, 6, 3), 1),
        ("ConvTranspose3d", (4, 6, 2, 2, 2), 1),
    ],
)
def test_rows_are_those_of_torch(door, kind, shape, dim):
    module = door.spectral_norm(standin.layer(kind, weight(shape)))
    assert the(module).dim == dim
    assert 0.99 <= norm(module.weight, dim) <= 1.0
    other = door.spectral_norm(standin.layer(kind, weight(shape)), dim=1 - dim)
    assert 0.99 <= norm(other.weight, 1 - dim) <= 1.0


@pytest.mark.parametrize("transposed", [False, True])
def test_with_an_input_shape_the_norm_is_that_of_the_convolution(door, transposed):
    shape, image = ((3, 2, 3, 3), (3, 5, 6)) if transposed else ((2, 3, 3, 3), (3, 5, 6))
    settings = {"stride": (2, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    extra = {"output_padding": (0, 0)} if transposed else {}
    kind = "ConvTranspose2d" if transposed else "Conv2d"
    module = standin.layer(kind, weight(shape), padding_mode="zeros", **settings, **extra)
    door.spectral_norm(module, input_shape=image, rtol=0.05, block=4)
    for quotient in trained(module, 2):
        A = bigspec.conv(np.asarray(quotient, "f8"), image, transposed=transposed, **settings)
        assert 0.94 <= np.linalg.norm(A.apply(np.eye(A.shape[1])), 2) <= 1.0


def test_buffers_survive_a_copy_a_cast_and_a_state(door):
    module = door.spectral_norm(linear())
    list(trained(module, 3))
    saved = the(module).state_dict()
    twin = copy.deepcopy(module)
    again = door.spectral_norm(linear(seed=9))
    again.originals = copy.deepcopy(module.originals)
    the(again).load_state_dict(saved)
    expected = np.asarray(module.weight)
    for other in (twin, again):
        np.testing.assert_array_equal(the(other).forward(other.originals["weight"]), expected)
    the(module).half()
    for name, value in the(module).state_dict().items():
        assert value.dtype == saved[name].dtype
    module.originals["weight"] = module.originals["weight"].to(np.dtype("f2"))
    assert norm(module.weight) <= 1.0


def test_in_eval_mode_nothing_changes_and_loaded_weights_are_certified(door):
    module = door.spectral_norm(linear())
    the(module).training = False
    before = the(module).state_dict()
    module.originals["weight"] = standin.as_tensor(3 * weight((20, 30), seed=5))
    assert 0.99 <= norm(module.weight) <= 1.0
    assert the(module).last.certified
    for name, value in the(module).state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_zeros_stay_zero_and_nan_is_an_error(door):
    module = door.spectral_norm(standin.layer("Linear", np.zeros((4, 5), "f4")))
    np.testing.assert_array_equal(module.weight, np.zeros((4, 5)))
    module.originals["weight"][1, 2] = np.nan
    with pytest.raises(NonFiniteError, match="weight: expected finite entries, got a NaN"):
        module.weight  # noqa: B018


@pytest.mark.parametrize("scale", [1e-12, 3e-13, 1e-30, 1e-44])
def test_weights_near_the_least_divisor_have_a_norm_of_at_most_one(door, scale):
    module = door.spectral_norm(standin.layer("Linear", (weight((4, 5)) * scale).astype("f4")))
    quotient = norm(module.weight)
    assert np.isfinite(quotient)
    assert quotient <= 1.0


def test_small_numbers_of_half_precision_cost_next_to_nothing(door):
    A = weight((300, 400), dtype="f4").astype("f2")
    module = door.spectral_norm(standin.layer("Linear", A))
    assert 0.985 <= norm(module.weight) <= 1.0


def test_a_vector_is_divided_by_its_length(door):
    module = door.spectral_norm(standin.layer("LayerNorm", weight((7,))))
    assert np.linalg.norm(module.weight) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"name": "strength"}, "name: expected a parameter of Linear, got 'strength'"),
        ({"name": "count"}, "name: expected a floating parameter, got 'count' of int64"),
        ({"block": 0}, "block: expected a whole number of at least 1, got 0"),
        ({"n_power_iterations": -1}, "n_power_iterations: expected a whole number of at least 0"),
        ({"certify_every": 0}, "certify_every: expected a whole number of at least 1"),
        ({"rtol": 1.0}, "rtol: expected a number between 0 and 1, got 1.0"),
        ({"eps": 0.0}, "eps: expected a number between 0 and 1, got 0.0"),
        ({"failure_probability": 0.0}, "failure_probability: expected a number between 0 and 1"),
        ({"input_shape": (1, 4, 4)}, "input_shape: expected None, or a convolution's weight"),
    ],
)
def test_what_it_refuses(door, options, why):
    module = linear()
    module.count = standin.as_tensor(np.arange(4).reshape(2, 2))
    with pytest.raises(ArgumentError, match=why):
        door.spectral_norm(module, **options)


def test_without_torch_the_door_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "bigspec.torch", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"bigspec\.torch needs PyTorch: pip install torch"):
        importlib.import_module("bigspec.torch")
