"""Activations that act on each number by itself, and the interval that their slopes lie in.

A table of names. `low` and `high` enclose every slope of the function, rounded outwards: with
``c = (low + high) / 2`` and ``r = (high - low) / 2`` the function is c times the identity plus r
times a map that stretches no distance. `bend` bounds how fast the slope changes between two kinks,
so that a slope at a rounded number has a known error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from bigspec.errors import ArgumentError
from bigspec.networks.lipschitz.functions import REAL, Activation, as_number
from bigspec.networks.lipschitz.gates import (
    gelu,
    gelu_tanh,
    hard_swish,
    mish,
    quick_gelu,
    sigmoid_slope,
    silu,
)

__all__ = ["ACTIVATIONS", "activation"]

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017
TANH_BEND, SIGMOID_BEND = 0.7698003589195012, 0.0962250448649378  # 4 / 27^(1/2), 108^(-1/2)


def activation(name: str, *parameters: Any) -> Activation:
    """Return an activation of the table.

    Raises
    ------
    ArgumentError
        The parameters are not those of this activation.
    """
    names, make = ACTIVATIONS[name]
    if len(parameters) > len(names):
        known = ", ".join(names) or "no parameter"
        msg = f"{name}: expected at most {known}, got {parameters!r}"
        raise ArgumentError(msg)
    return make(*parameters)


def _identity() -> Activation:
    return Activation("identity", 1.0, 1.0, lambda x: x, np.ones_like)


def _relu() -> Activation:
    return _leaky("relu", 0.0)


def _leaky_relu(alpha: Any = 0.01) -> Activation:
    return _leaky("leaky_relu", as_number("leaky_relu", "the slope below 0", alpha))


def _leaky(name: str, alpha: float) -> Activation:
    return Activation(
        name,
        min(alpha, 1.0),
        max(alpha, 1.0),
        lambda x: np.where(x > 0, x, alpha * x),
        lambda x: np.where(x > 0, 1.0, alpha),
        (0.0,),
    )


def _prelu(alpha: Any = 0.25) -> Activation:
    slopes = np.asarray(alpha)
    real = slopes.dtype.kind in "iuf" and slopes.ndim <= 1 and slopes.size
    if not real or not np.isfinite(slopes).all():
        msg = f"prelu: expected one finite slope below 0, or one a unit, got shape {slopes.shape}"
        raise ArgumentError(msg)
    column = slopes.astype(float).reshape(-1, 1)
    return Activation(
        "prelu",
        min(float(slopes.min()), 1.0),
        max(float(slopes.max()), 1.0),
        lambda x: np.where(x > 0, x, column * x),
        lambda x: np.where(x > 0, 1.0, column + 0 * x),
        (0.0,),
        inputs=len(column) if len(column) > 1 else None,
    )


def _abs() -> Activation:
    return Activation("abs", -1.0, 1.0, np.abs, np.sign, (0.0,))


def _clip(low: Any = -1.0, high: Any = 1.0, name: str = "hardtanh") -> Activation:
    given = (low, high)
    low, high = (float(end) if isinstance(end, REAL) else math.nan for end in given)
    if not low < high:
        msg = (
            f"{name}: expected two numbers, the lower one first, got {given[0]!r} and {given[1]!r}"
        )
        raise ArgumentError(msg)
    kinks = tuple(end for end in (low, high) if math.isfinite(end))
    return Activation(
        name,
        0.0,
        1.0,
        lambda x: np.clip(x, low, high),
        lambda x: ((x > low) & (x < high)).astype(float),
        kinks,
    )


def _relu6() -> Activation:
    return _clip(0.0, 6.0, "relu6")


def _softshrink(width: Any = 0.5) -> Activation:
    width = as_number("softshrink", "the width", width, positive=True)
    return Activation(
        "softshrink",
        0.0,
        1.0,
        lambda x: np.sign(x) * np.maximum(np.abs(x) - width, 0.0),
        lambda x: (np.abs(x) > width).astype(float),
        (-width, width),
    )


def _hard_sigmoid(alpha: Any = 1 / 6, beta: Any = 0.5) -> Activation:
    alpha = as_number("hard_sigmoid", "alpha", alpha, positive=True)
    beta = as_number("hard_sigmoid", "beta", beta)
    return Activation(
        "hard_sigmoid",
        0.0,
        alpha,
        lambda x: np.clip(alpha * x + beta, 0.0, 1.0),
        lambda x: alpha * ((alpha * x + beta > 0) & (alpha * x + beta < 1)),
        (-beta / alpha, (1 - beta) / alpha),
    )


def _elu(alpha: Any = 1.0) -> Activation:
    alpha = as_number("elu", "alpha", alpha)
    return Activation(
        "elu",
        min(alpha, 0.0),
        max(alpha, 1.0),
        lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0))),
        () if alpha == 1.0 else (0.0,),
        bend=abs(alpha),
    )


def _celu(alpha: Any = 1.0) -> Activation:
    alpha = as_number("celu", "alpha", alpha, positive=True)
    return Activation(
        "celu",
        0.0,
        1.0,
        lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha)),
        lambda x: np.where(x > 0, 1.0, np.exp(np.minimum(x, 0) / alpha)),
        bend=math.nextafter(1 / alpha, math.inf),
    )


def _selu() -> Activation:
    steep = math.nextafter(SELU_ALPHA * SELU_SCALE, 2)
    return Activation(
        "selu",
        0.0,
        steep,
        lambda x: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(np.minimum(x, 0))),
        lambda x: SELU_SCALE * np.where(x > 0, 1.0, SELU_ALPHA * np.exp(np.minimum(x, 0))),
        (0.0,),
        bend=steep,
    )


def _softplus(beta: Any = 1.0) -> Activation:
    beta = as_number("softplus", "beta", beta, positive=True)
    return Activation(
        "softplus",
        0.0,
        1.0,
        lambda x: np.logaddexp(0.0, beta * x) / beta,
        lambda x: special.expit(beta * x),
        bend=beta / 4,
    )


def _softsign() -> Activation:
    return Activation(
        "softsign", 0.0, 1.0, lambda x: x / (1 + abs(x)), lambda x: (1 + abs(x)) ** -2.0, bend=2.0
    )


def _sigmoid() -> Activation:
    return Activation("sigmoid", 0.0, 0.25, special.expit, sigmoid_slope, bend=SIGMOID_BEND)


def _tanh() -> Activation:
    return Activation("tanh", 0.0, 1.0, np.tanh, lambda x: 4 * sigmoid_slope(2 * x), bend=TANH_BEND)


def _arctan() -> Activation:
    return Activation("arctan", 0.0, 1.0, np.arctan, lambda x: 1 / (1 + x * x), bend=0.65)


def _erf() -> Activation:
    steep = 2 / math.sqrt(math.pi)
    return Activation(
        "erf",
        0.0,
        math.nextafter(steep, 2),
        special.erf,
        lambda x: steep * np.exp(-x * x),
        bend=0.97,
    )


def _sin() -> Activation:
    return Activation("sin", -1.0, 1.0, np.sin, np.cos, bend=1.0)


ACTIVATIONS: dict[str, tuple[tuple[str, ...], Callable[..., Activation]]] = {
    "abs": ((), _abs),
    "arctan": ((), _arctan),
    "celu": (("alpha",), _celu),
    "elu": (("alpha",), _elu),
    "erf": ((), _erf),
    "gelu": ((), gelu),
    "gelu_tanh": ((), gelu_tanh),
    "hard_sigmoid": (("alpha", "beta"), _hard_sigmoid),
    "hard_swish": ((), hard_swish),
    "hardtanh": (("low", "high"), _clip),
    "identity": ((), _identity),
    "leaky_relu": (("alpha",), _leaky_relu),
    "mish": ((), mish),
    "prelu": (("alpha",), _prelu),
    "quick_gelu": ((), quick_gelu),
    "relu": ((), _relu),
    "relu6": ((), _relu6),
    "selu": ((), _selu),
    "sigmoid": ((), _sigmoid),
    "silu": (("beta",), silu),
    "sin": ((), _sin),
    "softplus": (("beta",), _softplus),
    "softshrink": (("width",), _softshrink),
    "softsign": ((), _softsign),
    "tanh": ((), _tanh),
}
"""Names, with those of their parameters, in order."""
