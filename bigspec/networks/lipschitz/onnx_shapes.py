"""Nodes of ONNX that move numbers and change none: reshapes, transposes, slices, padding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bigspec.networks.lipschitz.onnx_values import Flow, Node, moved, sliced

__all__ = ["SHAPES"]

Array = np.ndarray[Any, Any]
FLOATS = {1, 10, 11, 16}  # TensorProto: float, float16, double, bfloat16; rounding is not bounded


def _same(node: Node) -> Flow:
    return node.flow.then(node.flow.shape)


def _dropout(node: Node) -> Flow:
    training = node.array(2, "training_mode", needed=False)
    if training is not None and np.any(training):
        msg = "it is in training mode; export the model in eval mode"
        raise node.refuse(msg)
    return _same(node)


def _cast(node: Node) -> Flow:
    if node.get("to") not in FLOATS:
        msg = "a cast to whole numbers jumps, so it has no Lipschitz constant"
        raise node.refuse(msg)
    return _same(node)


def _reshape(node: Node) -> Flow:
    flow, wanted = node.flow, [int(v) for v in node.array(1, "a shape")]
    zero = node.get("allowzero", 0)
    sizes = [flow.shape[k] if v == 0 and not zero else v for k, v in enumerate(wanted)]
    return flow.then(np.empty(flow.shape, np.int8).reshape(sizes).shape)


def _flatten(node: Node) -> Flow:
    axis = node.get("axis", 1)
    first = math.prod(node.flow.shape[:axis])
    return node.flow.then((first, node.flow.size // first))


def _squeezed(node: Node) -> Flow:
    axes = node.inputs[1] if len(node.inputs) > 1 else node.get("axes")
    given = None if axes is None else tuple(int(a) for a in np.atleast_1d(axes))
    empty = np.empty(node.flow.shape, np.int8)
    if node.op == "Squeeze":
        return node.flow.then(np.squeeze(empty, given).shape)
    if given is None:
        msg = "expected axes, got none"
        raise node.refuse(msg)
    return node.flow.then(np.expand_dims(empty, given).shape)


def _places(flow: Flow) -> Array:
    return np.arange(flow.size).reshape(flow.shape)


def _transpose(node: Node) -> Flow:
    return moved(node.flow, np.transpose(_places(node.flow), node.get("perm")), node.name)


def _slice(node: Node) -> Flow:
    data = _places(node.flow)
    if len(node.inputs) < 3:
        starts, ends = node.get("starts"), node.get("ends")
        axes = node.get("axes", range(len(starts)))
        return moved(node.flow, sliced(data, starts, ends, axes, [1] * len(starts)), node.name)
    starts, ends = node.array(1, "starts"), node.array(2, "ends")
    axes = node.array(3, "axes", needed=False)
    steps = node.array(4, "steps", needed=False)
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), int) if steps is None else steps
    return moved(node.flow, sliced(data, starts, ends, axes, steps), node.name)


def _pad(node: Node) -> Flow:
    if node.get("mode", "constant") != "constant":
        msg = "only padding with a constant is understood; use conv's own padding mode"
        raise node.refuse(msg)
    pads = node.array(1, "pads", needed=False)
    pads = node.get("pads") if pads is None else pads
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        msg = "padding of chosen axes is not understood"
        raise node.refuse(msg)
    half = len(pads) // 2
    pairs = [(int(pads[k]), int(pads[half + k])) for k in range(half)]
    if min(min(pair) for pair in pairs) < 0:
        msg = "negative padding is not understood; export a Slice"
        raise node.refuse(msg)
    # A constant other than 0 moves images and no differences: of it the bound says the same. The
    # lower end would be taken elsewhere, so it is refused.
    value = node.array(2, "a value", needed=False)
    value = node.get("value", 0.0) if value is None else np.asarray(value).reshape(-1)[:1]
    if np.any(np.asarray(value, float) != 0.0):
        msg = "padding with another number than 0 is not understood"
        raise node.refuse(msg)
    return moved(node.flow, np.pad(_places(node.flow), pairs, constant_values=-1), node.name)


SHAPES: dict[str, Callable[[Node], Flow]] = {
    "Cast": _cast,
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Identity": _same,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeezed,
    "Transpose": _transpose,
    "Unsqueeze": _squeezed,
}
"""By their types."""
