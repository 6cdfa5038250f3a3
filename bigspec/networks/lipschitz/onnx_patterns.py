"""Activations and normalisations that exporters write out in small nodes.

A node whose slope has no bound by itself, such as a square or a product of two values, is kept as a
formula of the newest value that it comes from. Once the formula is a known function, it is a step
of the stack. If that never happens, the first node without a bound is refused by its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bigspec.errors import SourceError
from bigspec.networks.lipschitz.formulas import Applied, Formula, Unclear, X, constant_formula
from bigspec.networks.lipschitz.functions import Activation
from bigspec.networks.lipschitz.gates import (
    CUBIC,
    INNER,
    TANH_INNER,
    gelu,
    gelu_tanh,
    hard_swish,
    mish,
    silu,
)
from bigspec.networks.lipschitz.onnx_layers import coarseness, limits, normalised, scaled_by
from bigspec.networks.lipschitz.onnx_shapes import FLOATS
from bigspec.networks.lipschitz.onnx_values import Flow, Node, Unbounded, branches_of
from bigspec.networks.lipschitz.steps import Elementwise

__all__ = ["pattern"]

SINGLE = 2.0**-21  # a few roundings in float32, which exporters write constants in


Value = Flow | Unbounded


def pattern(node: Node, error: SourceError) -> Value:
    """Return what a node makes, as a formula; as a step where that is known.

    Parameters
    ----------
    node : Node
    error : SourceError
        Why it has no bound by itself.

    Raises
    ------
    SourceError
        The node is in no formula that is understood here.
    """
    values = [value for value in node.inputs if isinstance(value, (Flow, Unbounded))]
    errors = [value.error for value in values if isinstance(value, Unbounded)]
    first = errors[0] if errors else error
    make = RULES.get(node.op) if node.domain in ("", "ai.onnx") else None
    if make is None or not values:
        raise first
    base, _ = branches_of([_flow(value) for value in values])
    try:
        formula, shape = make(node, base)
        found = _known(node, base, formula) if shape == base.shape else None
    except (Unclear, ValueError, IndexError, TypeError):
        raise first from None
    return Unbounded(base, formula, shape, first) if found is None else found


def _flow(value: Value) -> Flow:
    return value.base if isinstance(value, Unbounded) else value


def _said(value: Any, base: Flow) -> tuple[Formula, tuple[int, ...]]:
    """Return an input of a node as a formula of a value, and its shape."""
    if isinstance(value, Unbounded):
        return value.formula.of(_path(value.base, base)), value.shape
    if isinstance(value, Flow):
        return _path(value, base), value.shape
    array = np.asarray(value)
    if value is None or array.size != 1 or array.ndim > len(base.shape):
        raise Unclear
    shape = (1,) * len(base.shape)
    return constant_formula(float(array.reshape(-1)[0]), coarseness(value)), shape


def _path(flow: Flow, base: Flow) -> Formula:
    """Return a value as a formula of an earlier one."""
    line = flow.line()
    place = next(k for k, one in enumerate(line) if one is base)
    formula = X
    for one in reversed(line[:place]):
        assert one.parent is not None
        if one.mark:
            formula = _marked(formula, *one.mark)
        elif one.steps or one.shape != one.parent.shape:
            raise Unclear
    return formula


def _marked(formula: Formula, name: str, *parameters: Any) -> Formula:
    if name == "*":
        return formula.times(*parameters)
    if name == "+":
        return formula.plus(*parameters)
    if name == "centred":
        return formula + formula.applied("mean", *parameters).times(-1.0)
    return formula.applied(name, *parameters)


def _together(shapes: Sequence[tuple[int, ...]], base: Flow) -> tuple[int, ...]:
    """Return the shape of a sum or product: no axis may be stretched beyond the value's own."""
    if any(len(shape) != len(base.shape) for shape in shapes):
        raise Unclear
    return tuple(map(max, *shapes))


def _sum(node: Node, base: Flow) -> tuple[Formula, tuple[int, ...]]:
    (first, one), (second, other) = (_said(value, base) for value in node.inputs)
    return first + (second.times(-1.0) if node.op == "Sub" else second), _together(
        [one, other], base
    )


def _product(node: Node, base: Flow) -> tuple[Formula, tuple[int, ...]]:
    (first, one), (second, other) = (_said(value, base) for value in node.inputs)
    if node.op == "Div":
        second = second.inverse()
    return first * second, _together([one, other], base)


def _power(node: Node, base: Flow) -> tuple[Formula, tuple[int, ...]]:
    formula, shape = _said(node.inputs[0], base)
    exponent = np.asarray(node.inputs[1])
    if isinstance(node.inputs[1], (Flow, Unbounded)) or exponent.size != 1:
        raise Unclear
    if exponent.ndim > len(base.shape):
        raise Unclear
    return formula.power(float(exponent.reshape(-1)[0])), shape


def _mean(node: Node, base: Flow) -> tuple[Formula, tuple[int, ...]]:
    formula, shape = _said(node.inputs[0], base)
    axes = node.axes(len(shape))
    if axes is None or not node.get("keepdims", 1):
        raise Unclear
    kept = tuple(1 if k in axes else n for k, n in enumerate(shape))
    return formula.applied("mean", *axes), kept


def _of(name: str) -> Callable[[Node, Flow], tuple[Formula, tuple[int, ...]]]:
    def rule(node: Node, base: Flow) -> tuple[Formula, tuple[int, ...]]:
        formula, shape = _said(node.inputs[0], base)
        if name == "power":
            return formula.power(0.5 if node.op == "Sqrt" else -1.0), shape
        if name == "hardtanh":
            return formula.applied(name, *limits(node)), shape
        if name == "hard_sigmoid":
            given = float(node.get("alpha", 0.2)), float(node.get("beta", 0.5))
            return formula.applied(name, *given), shape
        return formula.applied(name), shape

    return rule


def _same(node: Node, base: Flow) -> tuple[Formula, tuple[int, ...]]:
    if node.op == "Cast" and node.get("to") not in FLOATS:
        raise Unclear
    formula, shape = _said(node.inputs[0], base)
    return (formula.times(-1.0) if node.op == "Neg" else formula), shape


RULES = {
    "Add": _sum,
    "Cast": _same,
    "Clip": _of("hardtanh"),
    "Div": _product,
    "Erf": _of("erf"),
    "Exp": _of("exp"),
    "HardSigmoid": _of("hard_sigmoid"),
    "Identity": _same,
    "Log": _of("log"),
    "Mul": _product,
    "Neg": _same,
    "Pow": _power,
    "Reciprocal": _of("power"),
    "ReduceMean": _mean,
    "Sigmoid": _of("sigmoid"),
    "Softplus": _of("softplus"),
    "Sqrt": _of("power"),
    "Sub": _sum,
    "Tanh": _of("tanh"),
}
"""Nodes of which formulas are made."""


def _known(node: Node, base: Flow, formula: Formula) -> Flow | None:
    """Return a formula as steps after a value; None if it is no function that is known."""
    terms = formula.table
    if {power for power, _ in terms} == {1} and len(terms) in (1, 2):
        tail = terms.pop((1, ()), None)
        (_, functions), height = next(iter(terms.items()), ((0, ()), 0.0))
        if len(functions) == 1 and tail in (None, height):
            tolerance = max(formula.eps, SINGLE)
            found = _gate(functions[0], tail is not None, tolerance)
            if found is not None:
                step = Elementwise(found[0], node.name)
                made = base.then(base.shape, step, mark=(found[0].name, *found[2]))
                return _times(node, made, height * found[1])
    return _normal(node, base, formula)


def _times(node: Node, flow: Flow, factor: float) -> Flow:
    return flow if factor == 1.0 else scaled_by(node, flow, factor, None, rounded=1)


Gate = tuple[Activation, float, tuple[float, ...]]


def _near(value: float, exact: float, tolerance: float) -> bool:
    return abs(value / exact - 1) <= tolerance


def _gate(gate: Applied, doubled: bool, tolerance: float) -> Gate | None:
    """Return x times a gate, or times ``1 + gate``, as an activation times a number."""
    inner, name = gate.inner.table, gate.name
    a, cube = inner.pop((1, ()), 0.0), inner.pop((3, ()), 0.0)
    if doubled and name == "erf" and not inner and not cube:
        return (gelu(a), 2.0, (a,)) if a and _near(a, INNER, tolerance) else None
    if (doubled and name == "tanh") or (not doubled and name == "sigmoid"):
        if inner or a <= 0:
            return None
        k, factor = (a, 2.0) if doubled else (a / 2, 1.0)
        if not cube:
            return silu(2 * k), factor, (2 * k,)
        known = _near(k, TANH_INNER, tolerance) and _near(cube / a, CUBIC, tolerance)
        return (gelu_tanh(k, cube / a), factor, (k, cube / a)) if known else None
    if doubled:
        return None
    if name == "tanh" and gate.inner == X.applied("softplus"):
        return mish(), 1.0, ()
    ramp = _ramp(gate)
    if ramp is None or not _near(ramp[0], 1 / 6, tolerance) or ramp[1] != 0.5:
        return None
    return hard_swish(ramp[0]), ramp[2], (ramp[0],)


def _ramp(gate: Applied) -> tuple[float, float, float] | None:
    """Return alpha, beta and c of ``c clip(alpha x + beta, 0, 1)``."""
    inner = gate.inner.table
    slope, shift = inner.pop((1, ()), 0.0), inner.pop((0, ()), 0.0)
    if inner or slope <= 0:
        return None
    if gate.name == "hard_sigmoid":
        alpha, beta = gate.parameters
        return alpha * slope, alpha * shift + beta, 1.0
    if gate.name == "hardtanh" and gate.parameters[0] == 0.0 < gate.parameters[1] < math.inf:
        high = gate.parameters[1]
        return slope / high, shift / high, high
    return None


def _normal(node: Node, base: Flow, formula: Formula) -> Flow | None:
    """Return layer or RMS normalisation: ``c (mean(c^2) + epsilon)^(-1/2)``."""
    roots = {f for _, fs, _ in formula.terms for f in fs if f.name == "power"}
    root = roots.pop() if len(roots) == 1 else None
    if root is None or root.parameters != (-0.5,):
        return None
    epsilon = root.inner.table.get((0, ()), 0.0)
    means = [fs[0] for p, fs, _ in root.inner.terms if (p, len(fs)) == (0, 1)]
    for axes in {f.parameters for f in means if f.name == "mean"}:
        for centred in (False, True):
            c = X + X.applied("mean", *axes).times(-1.0) if centred else X
            inverse = (c * c).applied("mean", *axes).plus(epsilon).power(-0.5)
            height = formula.terms[-1][2]
            if height and formula == (c * inverse).times(height):
                places = tuple(int(axis) for axis in axes)
                if base.mark == ("centred", *axes) and base.parent is not None:
                    base, centred = base.parent, True
                made = normalised(node, base, places, epsilon, centred=centred)
                return _times(node, made, height)
    return None
