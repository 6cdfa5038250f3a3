"""Activations that act on each number by itself, and the interval that their slopes lie in.

A table of names. `low` and `high` enclose every slope of the function, rounded outwards: with
``c = (low + high) / 2`` and ``r = (high - low) / 2`` the function is c times the identity plus r
times a map that stretches no distance. `bend` bounds how fast the slope changes between two kinks,
so that a slope at a rounded number has a known error.

Extremes that have no closed form were computed with thirty digits (mpmath) and rounded outwards:
those of silu at 2.39935728, of mish at 1.49057118 and -2.25637640, of gelu by tanh at 1.41850404.
The exact gelu has them at the roots of ``(2 - x^2) exp(-x^2 / 2)``. A test finds each on a grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from bigspec.errors import ArgumentError

__all__ = ["ACTIVATIONS", "Activation", "activation"]

Array = np.ndarray[Any, Any]
Function = Callable[[Array], Array]

REAL = (int, float, np.integer, np.floating)
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017
GELU = (-0.1289041451851549, 1.1289041451851549)
GELU_TANH = (-0.1289930686587718, 1.1289930686587718)
SILU = (-0.0998393201288670, 1.0998393201288670)
MISH = (-0.1125261223894625, 1.0884981612517280)
TANH_BEND, SIGMOID_BEND = 0.7698003589195012, 0.0962250448649378  # 4 / 27^(1/2), 108^(-1/2)


@dataclass(frozen=True)
class Activation:
    """A function of one number.

    Attributes
    ----------
    name : str
    low, high : float
        ``low <= slope <= high``, everywhere.
    value, slope : callable
        Of an array.
    kinks : tuple of float or of arrays
        Where the slope jumps.
    bend : float
        Most that the slope changes a unit, where there is no kink.
    inputs : int or None
        How many numbers it takes; None if any.
    """

    name: str
    low: float
    high: float
    value: Function
    slope: Function
    kinks: tuple[Any, ...] = ()
    bend: float = 0.0
    inputs: int | None = None


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


def _number(name: str, what: str, value: Any, *, positive: bool = False) -> float:
    real = isinstance(value, REAL) and not isinstance(value, bool)
    if not (real and math.isfinite(value) and (value > 0 or not positive)):
        kind = "a finite number > 0" if positive else "a finite number"
        msg = f"{name}: expected {what} to be {kind}, got {value!r}"
        raise ArgumentError(msg)
    return float(value)


def _identity() -> Activation:
    return Activation("identity", 1.0, 1.0, lambda x: x, np.ones_like)


def _relu() -> Activation:
    return _leaky("relu", 0.0)


def _leaky_relu(alpha: Any = 0.01) -> Activation:
    return _leaky("leaky_relu", _number("leaky_relu", "the slope below 0", alpha))


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
    width = _number("softshrink", "the width", width, positive=True)
    return Activation(
        "softshrink",
        0.0,
        1.0,
        lambda x: np.sign(x) * np.maximum(np.abs(x) - width, 0.0),
        lambda x: (np.abs(x) > width).astype(float),
        (-width, width),
    )


def _hard_sigmoid(alpha: Any = 1 / 6, beta: Any = 0.5) -> Activation:
    alpha = _number("hard_sigmoid", "alpha", alpha, positive=True)
    beta = _number("hard_sigmoid", "beta", beta)
    return Activation(
        "hard_sigmoid",
        0.0,
        alpha,
        lambda x: np.clip(alpha * x + beta, 0.0, 1.0),
        lambda x: alpha * ((alpha * x + beta > 0) & (alpha * x + beta < 1)),
        (-beta / alpha, (1 - beta) / alpha),
    )


def _hard_swish() -> Activation:
    return Activation(
        "hard_swish",
        -0.5,
        1.5,
        lambda x: x * np.clip(x + 3, 0, 6) / 6,
        lambda x: np.where(x <= -3, 0.0, np.where(x >= 3, 1.0, (2 * x + 3) / 6)),
        (-3.0, 3.0),
        bend=math.nextafter(1 / 3, 1),
    )


def _elu(alpha: Any = 1.0) -> Activation:
    alpha = _number("elu", "alpha", alpha)
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
    alpha = _number("celu", "alpha", alpha, positive=True)
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
    beta = _number("softplus", "beta", beta, positive=True)
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
    return Activation("sigmoid", 0.0, 0.25, special.expit, _sigmoid_slope, bend=SIGMOID_BEND)


def _sigmoid_slope(x: Array) -> Array:
    return np.asarray(special.expit(x) * special.expit(-x))


def _tanh() -> Activation:
    return Activation(
        "tanh", 0.0, 1.0, np.tanh, lambda x: 4 * _sigmoid_slope(2 * x), bend=TANH_BEND
    )


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


def _gelu() -> Activation:
    return Activation(
        "gelu",
        *GELU,
        lambda x: x * special.ndtr(x),
        lambda x: special.ndtr(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi),
        bend=0.8,
    )


def _gelu_tanh() -> Activation:
    k, cubic = math.sqrt(2 / math.pi), 0.044715

    def slope(x: Array) -> Array:
        x = np.clip(x, -1e3, 1e3)  # where it is 0 and 1 in float64: the cube must not overflow
        y = 2 * k * (x + cubic * x**3)
        inner = 2 * k * (1 + 3 * cubic * x * x)
        return np.asarray(special.expit(y) + x * _sigmoid_slope(y) * inner)

    return Activation(
        "gelu_tanh",
        *GELU_TANH,
        lambda x: x * special.expit(2 * k * np.clip(x + cubic * x**3, -1e9, 1e9)),
        slope,
        bend=0.8,
    )


def _silu(beta: Any = 1.0, name: str = "silu") -> Activation:
    beta = _number(name, "beta", beta, positive=True)
    return Activation(
        name,
        *SILU,
        lambda x: x * special.expit(beta * x),
        lambda x: special.expit(beta * x) + beta * x * _sigmoid_slope(beta * x),
        bend=0.5 * beta,
    )


def _quick_gelu() -> Activation:
    return _silu(1.702, "quick_gelu")


def _mish() -> Activation:
    def slope(x: Array) -> Array:
        t = np.tanh(np.logaddexp(0.0, x))
        return np.asarray(t + x * (1 - t) * (1 + t) * special.expit(x))

    return Activation(
        "mish", *MISH, lambda x: x * np.tanh(np.logaddexp(0.0, x)), slope, bend=0.6443
    )


ACTIVATIONS: dict[str, tuple[tuple[str, ...], Callable[..., Activation]]] = {
    "abs": ((), _abs),
    "arctan": ((), _arctan),
    "celu": (("alpha",), _celu),
    "elu": (("alpha",), _elu),
    "erf": ((), _erf),
    "gelu": ((), _gelu),
    "gelu_tanh": ((), _gelu_tanh),
    "hard_sigmoid": (("alpha", "beta"), _hard_sigmoid),
    "hard_swish": ((), _hard_swish),
    "hardtanh": (("low", "high"), _clip),
    "identity": ((), _identity),
    "leaky_relu": (("alpha",), _leaky_relu),
    "mish": ((), _mish),
    "prelu": (("alpha",), _prelu),
    "quick_gelu": ((), _quick_gelu),
    "relu": ((), _relu),
    "relu6": ((), _relu6),
    "selu": ((), _selu),
    "sigmoid": ((), _sigmoid),
    "silu": (("beta",), _silu),
    "sin": ((), _sin),
    "softplus": (("beta",), _softplus),
    "softshrink": (("width",), _softshrink),
    "softsign": ((), _softsign),
    "tanh": ((), _tanh),
}
"""Names, with those of their parameters, in order."""
