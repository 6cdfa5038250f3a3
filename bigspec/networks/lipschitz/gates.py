r"""Activations that multiply a number by a gate of it: x times a sigmoid, an erf or a ramp.

Stretching the argument of ``f`` to ``f(s x) / s`` moves no slope: the slopes of silu, of gelu and
of hard swish lie in one interval whatever stands before x in the gate. So the rounded constants of
a file change the function and no bound. Gelu by tanh has two constants, and its slopes depend on
``q = cubic / k^2``: with ``y = k x`` and ``z = 2 y (1 + q y^2)`` a slope is ``s(z) + y z' s'(z)``,
s the sigmoid. Its derivative by ``log q`` is at most ``(4 u + 3 u^2) exp(-u) <= 3.1``, ``u = |z|``,
as ``2 q |y|^3 <= u``, ``|y| |z'| <= 3 u`` and both ``|s'|`` and ``|s''|`` are at most ``exp(-u)``.

Extremes that have no closed form were computed with thirty digits (mpmath) and rounded outwards:
those of silu at 2.39935728, of mish at 1.49057118 and -2.25637640, of gelu by tanh at 1.41850404.
The exact gelu has them at the roots of ``(2 - x^2) exp(-x^2 / 2)``. A test finds each on a grid.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from bigspec.networks.lipschitz.functions import Activation, Array, as_number

__all__ = [
    "gelu",
    "gelu_tanh",
    "hard_swish",
    "mish",
    "quick_gelu",
    "sigmoid_slope",
    "silu",
]

GELU = (-0.1289041451851549, 1.1289041451851549)
GELU_TANH = (-0.1289930686587718, 1.1289930686587718)
SILU = (-0.0998393201288670, 1.0998393201288670)
MISH = (-0.1125261223894625, 1.0884981612517280)
INNER, TANH_INNER, CUBIC = math.sqrt(0.5), math.sqrt(2 / math.pi), 0.044715
MOVES = 3.2  # slopes of gelu by tanh, by the logarithm of cubic / k^2: 3.1, with what is rounded


def sigmoid_slope(x: Array) -> Array:
    """Return the derivative of the sigmoid."""
    return np.asarray(special.expit(x) * special.expit(-x))


def hard_swish(alpha: Any = 1 / 6) -> Activation:
    """Return ``x clip(alpha x + 1/2, 0, 1)``."""
    alpha = as_number("hard_swish", "alpha", alpha, positive=True)
    return Activation(
        "hard_swish",
        -0.5,
        1.5,
        lambda x: x * np.clip(alpha * x + 0.5, 0, 1),
        lambda x: np.where(
            alpha * x <= -0.5, 0.0, np.where(alpha * x >= 0.5, 1.0, 2 * alpha * x + 0.5)
        ),
        (-0.5 / alpha, 0.5 / alpha),
        bend=math.nextafter(2 * alpha, math.inf),
    )


def gelu(inner: Any = INNER) -> Activation:
    """Return ``x (1 + erf(inner x)) / 2``."""
    inner = as_number("gelu", "inner", inner, positive=True)
    root = math.sqrt(2.0) * inner
    return Activation(
        "gelu",
        *GELU,
        lambda x: x * special.ndtr(root * x),
        lambda x: special.ndtr(root * x) + inner * x * np.exp(-((inner * x) ** 2)) / math.pi**0.5,
        bend=1.13 * inner,  # 2 / pi^(1/2), at 0
    )


def gelu_tanh(k: Any = TANH_INNER, cubic: Any = CUBIC) -> Activation:
    """Return ``x (1 + tanh(k (x + cubic x^3))) / 2``, near the constants that it is known with."""
    k = as_number("gelu_tanh", "k", k, positive=True)
    cubic = as_number("gelu_tanh", "cubic", cubic, positive=True)
    ratio = (cubic / CUBIC) / (k / TANH_INNER) ** 2
    moved = MOVES * abs(math.log(ratio)) * (1 + 1e-9) if ratio != 1.0 else 0.0

    def slope(x: Array) -> Array:
        x = np.clip(x, -1e3, 1e3)  # where it is 0 and 1 in float64: the cube must not overflow
        y = 2 * k * (x + cubic * x**3)
        inner = 2 * k * (1 + 3 * cubic * x * x)
        return np.asarray(special.expit(y) + x * sigmoid_slope(y) * inner)

    return Activation(
        "gelu_tanh",
        GELU_TANH[0] - moved,
        GELU_TANH[1] + moved,
        lambda x: x * special.expit(2 * k * np.clip(x + cubic * x**3, -1e9, 1e9)),
        slope,
        bend=1.003 * k * math.exp(3 * moved),  # k at 0
    )


def silu(beta: Any = 1.0, name: str = "silu") -> Activation:
    """Return ``x sigmoid(beta x)``."""
    beta = as_number(name, "beta", beta, positive=True)
    return Activation(
        name,
        *SILU,
        lambda x: x * special.expit(beta * x),
        lambda x: special.expit(beta * x) + beta * x * sigmoid_slope(beta * x),
        bend=0.5 * beta,
    )


def quick_gelu() -> Activation:
    """Return ``x sigmoid(1.702 x)``."""
    return silu(1.702, "quick_gelu")


def mish() -> Activation:
    """Return ``x tanh(log(1 + exp(x)))``."""

    def slope(x: Array) -> Array:
        t = np.tanh(np.logaddexp(0.0, x))
        return np.asarray(t + x * (1 - t) * (1 + t) * special.expit(x))

    return Activation(
        "mish", *MISH, lambda x: x * np.tanh(np.logaddexp(0.0, x)), slope, bend=0.6443
    )
