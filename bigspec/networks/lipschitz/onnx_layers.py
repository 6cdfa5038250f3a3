"""The layers of ONNX that are understood, each as steps of a stack."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.api.convolutions import conv
from bigspec.api.matrices import open_within
from bigspec.errors import BigspecError
from bigspec.networks.lipschitz.activations import activation
from bigspec.networks.lipschitz.grouped import Normalised, Softmax
from bigspec.networks.lipschitz.images import MaxPool, average_pool
from bigspec.networks.lipschitz.onnx_shapes import SHAPES
from bigspec.networks.lipschitz.onnx_values import Flow, Mark, Node
from bigspec.networks.lipschitz.steps import Elementwise, Linear, Scaling

__all__ = ["LAYERS", "layer", "scaled_by"]

Array = np.ndarray[Any, Any]
AUTO = {"NOTSET", "", "VALID", "SAME_UPPER", "SAME_LOWER"}


def activated(node: Node, name: str, *parameters: Any) -> Flow:
    """Return a value after an activation of the table."""
    flow = node.flow
    step = Elementwise(activation(name, *parameters), node.name)
    return flow.then(flow.shape, step, mark=(name, *parameters))


def scaled_by(node: Node, flow: Flow, weights: Any, shift: Any, rounded: int = 0) -> Flow:
    """Return ``weights * x + shift``, each broadcast to the shape of x; None for neither."""
    mark: Mark = ()
    parts = []
    for value, sign, neutral in ((weights, "*", 1.0), (shift, "+", 0.0)):
        array = np.asarray(neutral if value is None else value, float)
        if np.broadcast_shapes(array.shape, flow.shape) != flow.shape:
            msg = f"a constant of shape {array.shape} widens one of {flow.shape}"
            raise node.refuse(msg)
        if not np.isfinite(array).all():
            msg = "its constant has a NaN or an infinity"
            raise node.refuse(msg)
        if array.size == 1 and value is not None and (weights is None or shift is None):
            mark = (sign, float(array.reshape(-1)[0]))
        parts.append(np.broadcast_to(array, flow.shape).reshape(-1).copy())
    bias = None if shift is None else parts[1]
    step = Scaling(parts[0], node.name, bias, rounded=rounded)
    return flow.then(flow.shape, step, mark=mark)


def _gemm(node: Node) -> Flow:
    W = np.asarray(node.array(1, "weights"))
    flow, alpha, beta = node.flow, node.get("alpha", 1.0), node.get("beta", 1.0)
    if node.get("transA", 0) or len(flow.shape) != 2:
        msg = "the input must be a row of numbers, not transposed"
        raise node.refuse(msg)
    W = W.T if node.get("transB", 0) else W
    bias = node.array(2, "a bias", needed=False)
    bias = None if bias is None else beta * np.asarray(bias, float)
    return _multiplied(node, W, bias, alpha)


def _matmul(node: Node) -> Flow:
    if not isinstance(node.inputs[0], Flow):
        msg = "weights must be on the right: x @ W"
        raise node.refuse(msg)
    if isinstance(node.inputs[1], Flow):
        msg = (
            "a product of two values that depend on the input has no Lipschitz constant "
            "(attention, gates); bound the parts before and after it, with begin and end"
        )
        raise node.refuse(msg)
    return _multiplied(node, np.asarray(node.inputs[1]), None, 1.0)


def _multiplied(node: Node, W: Array, bias: Any, alpha: float) -> Flow:
    flow = node.flow
    if W.ndim != 2 or flow.shape[-1] != W.shape[0]:
        msg = f"weights of shape {W.shape} do not fit a value of shape {flow.shape}"
        raise node.refuse(msg)
    rows = flow.size // flow.shape[-1]
    if rows != 1:
        msg = f"it acts on {rows} rows, each by itself; bound one row: give input_shape with one"
        raise node.refuse(msg)
    matrix = open_within(np.ascontiguousarray(W.T), None, multiplied=True)
    if alpha != 1.0:
        matrix = float(alpha) * matrix
    shape = (*flow.shape[:-1], W.shape[1])
    values = None if bias is None else np.broadcast_to(bias, shape).reshape(-1).astype(float)
    return flow.then(shape, Linear(matrix, node.names[1] or node.name, values))


def _geometry(node: Node, size: tuple[int, ...]) -> tuple[list[int], list[int], list[Any]]:
    """Return strides, dilations, and pads before and after for each axis."""
    d = len(size)
    strides, dilations = (list(node.get(key, [1] * d)) for key in ("strides", "dilations"))
    pads = list(node.get("pads", [0] * 2 * d))
    auto = node.get("auto_pad", "NOTSET")
    if auto not in AUTO:
        msg = f"auto_pad {auto!r} is not understood"
        raise node.refuse(msg)
    if auto.startswith("SAME"):
        extra = [
            max((-(-n // s) - 1) * s + (k - 1) * w + 1 - n, 0)
            for n, s, k, w in zip(node.flow.shape[2:], strides, size, dilations, strict=True)
        ]
        small, large = [e // 2 for e in extra], [e - e // 2 for e in extra]
        pads = [*small, *large] if auto == "SAME_UPPER" else [*large, *small]
    if node.get("ceil_mode", 0):
        msg = "ceil_mode is not understood; export with windows that fit"
        raise node.refuse(msg)
    return strides, dilations, list(zip(pads[:d], pads[d:], strict=True))


def _conv(node: Node) -> Flow:
    flow, K = _images(node), np.asarray(node.array(1, "a kernel"))
    transposed = node.op == "ConvTranspose"
    strides, dilations, pads = _geometry(node, K.shape[2:])
    extra: dict[str, Any] = {}
    if transposed:
        if node.get("output_shape") is not None or node.get("auto_pad", "NOTSET") != "NOTSET":
            msg = "output_shape and auto_pad are not understood; export with pads"
            raise node.refuse(msg)
        extra = {"transposed": True}
        if node.get("output_padding") is not None:
            extra["output_padding"] = list(node.get("output_padding"))
    matrix = conv(K, flow.shape[1:], stride=strides, padding=pads, dilation=dilations,
                  groups=node.get("group", 1), **extra)  # fmt: skip
    bias = node.array(2, "a bias", needed=False)
    positions = math.prod(matrix.output_shape[1:])
    values = None if bias is None else np.repeat(np.asarray(bias, float), positions)
    layer = Linear(matrix, node.names[1] or node.name, values)
    return flow.then((1, *matrix.output_shape), layer)


def _images(node: Node) -> Flow:
    """Return the input, which must be one image: a transposition may have moved the batch."""
    if len(node.flow.shape) < 3 or node.flow.shape[0] != 1:
        msg = f"expected one image, (1, channels, positions..), got a shape {node.flow.shape}"
        raise node.refuse(msg)
    return node.flow


def _batch_norm(node: Node) -> Flow:
    said = node.get("training_mode", 0) if node.opset >= 14 else node.outputs > 1
    if said or (node.opset < 7 and not node.get("is_test", 0)):
        msg = "it is in training mode; export the model in eval mode"
        raise node.refuse(msg)
    parts = [np.asarray(node.array(k, "its numbers"), float) for k in range(1, 5)]
    flow, epsilon = node.flow, float(node.get("epsilon", 1e-5))
    gamma, beta, mean, variance = (p.reshape(-1, *[1] * (len(flow.shape) - 2)) for p in parts)
    if not (variance + epsilon > 0).all():
        msg = "expected variances and epsilon whose sums are > 0"
        raise node.refuse(msg)
    weights = gamma / np.sqrt(variance + epsilon)
    return scaled_by(node, flow, weights[None], (beta - weights * mean)[None], rounded=1)


def _pool(node: Node) -> Flow:
    flow, size = _images(node), tuple(node.get("kernel_shape"))
    strides, dilations, pads = _geometry(node, size)
    if any(v != 1 for v in dilations):
        msg = "dilation of windows is not understood"
        raise node.refuse(msg)
    if node.op == "AveragePool":
        if any(map(any, pads)) and not node.get("count_include_pad", 0):
            msg = "means that leave padding out are not understood"
            raise node.refuse(msg)
        means = average_pool(flow.shape[1:], size, tuple(strides), pads, node.name)
        shape = means.matrix.output_shape  # type: ignore[attr-defined]
        return flow.then((1, *shape), means)
    step = MaxPool(flow.shape[1:], size, strides, pads, node.name)
    return flow.then((1, *step.output_shape), step)


def _global_pool(node: Node) -> Flow:
    flow = _images(node) if node.op == "GlobalMaxPool" else node.flow
    size = flow.shape[2:]
    if node.op == "GlobalMaxPool":
        step = MaxPool(flow.shape[1:], size, size, [(0, 0)] * len(size), node.name)
        return flow.then((1, *step.output_shape), step)
    return _mean(node, tuple(range(2, len(flow.shape))), keep=True)


def _reduce_mean(node: Node) -> Flow:
    axes = node.array(1, "axes", needed=False)
    axes = node.get("axes") if axes is None else axes
    flow = node.flow
    axes = None if axes is not None and not np.size(axes) else axes
    if axes is None and node.get("noop_with_empty_axes", 0):
        return flow.then(flow.shape)
    given = range(len(flow.shape)) if axes is None else [int(a) for a in np.atleast_1d(axes)]
    return _mean(node, tuple(given), keep=bool(node.get("keepdims", 1)))


def _mean(node: Node, axes: tuple[int, ...], *, keep: bool) -> Flow:
    flow = node.flow
    axes = tuple(axis % len(flow.shape) for axis in axes)
    count = math.prod(flow.shape[axis] for axis in axes)
    kept = tuple(1 if k in axes else n for k, n in enumerate(flow.shape))
    rows = np.broadcast_to(np.arange(math.prod(kept)).reshape(kept), flow.shape).reshape(-1)
    entries = (np.full(flow.size, 1.0 / count), (rows, np.arange(flow.size)))
    matrix = sp.csr_array(entries, shape=(math.prod(kept), flow.size))
    shape = kept if keep else tuple(n for k, n in enumerate(flow.shape) if k not in axes)
    return flow.then(shape, Linear(open_within(matrix, None), node.name, weights=1))


def _softmax(node: Node) -> Flow:
    flow, axis = node.flow, node.get("axis", -1 if node.opset >= 13 else 1)
    if axis % len(flow.shape) != len(flow.shape) - 1:
        msg = "softmax along another axis than the last is not understood"
        raise node.refuse(msg)
    return flow.then(flow.shape, Softmax(node.name, flow.shape[-1]))


def _layer_norm(node: Node) -> Flow:
    flow, axis = node.flow, node.get("axis", -1)
    size = math.prod(flow.shape[axis % len(flow.shape) :])
    epsilon = float(node.get("epsilon", 1e-5))
    centred = node.op == "LayerNormalization"
    made = flow.then(flow.shape, Normalised(node.name, size, epsilon, centred=centred))
    beta = node.array(2, "a bias", needed=False) if centred else None
    return scaled_by(node, made, node.array(1, "its weights"), beta)


def _prelu(node: Node) -> Flow:
    slopes = np.asarray(node.array(1, "slopes"), float)
    flow = node.flow
    if node.opset < 7 and slopes.size > 1 and len(flow.shape) > 2:
        slopes = slopes.reshape(-1, *[1] * (len(flow.shape) - 2))  # one a channel
    each = np.broadcast_to(slopes, flow.shape).reshape(-1)
    step = Elementwise(activation("prelu", each), node.name)
    return flow.then(flow.shape, step)


def _clip(node: Node) -> Flow:
    ends = [node.array(k, "a limit", needed=False) for k in (1, 2)]
    low, high = (
        node.get(key, default) if end is None else float(np.asarray(end).reshape(-1)[0])
        for end, key, default in zip(ends, ("min", "max"), (-math.inf, math.inf), strict=True)
    )
    return activated(node, "hardtanh", low, high)


def _selu(node: Node) -> Flow:
    alpha, gamma = (1.67326319217681884765625, 1.05070102214813232421875)
    if node.opset < 6:
        alpha, gamma = (1.6732, 1.0507)
    alpha, gamma = float(node.get("alpha", alpha)), float(node.get("gamma", gamma))
    return scaled_by(node, activated(node, "elu", alpha), gamma, None)


def _gelu(node: Node) -> Flow:
    kind = node.get("approximate", "none")
    return activated(node, "gelu_tanh" if kind == "tanh" else "gelu")


def _plain(name: str, **defaults: float) -> Callable[[Node], Flow]:
    """Return a layer that is an activation, with the attributes that ONNX gives it."""
    return lambda node: activated(
        node, name, *(float(node.get(key, value)) for key, value in defaults.items())
    )


LAYERS: dict[str, Callable[[Node], Flow]] = {
    **SHAPES,
    "Abs": _plain("abs"),
    "Atan": _plain("arctan"),
    "AveragePool": _pool,
    "BatchNormalization": _batch_norm,
    "Celu": _plain("celu", alpha=1.0),
    "Clip": _clip,
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Elu": _plain("elu", alpha=1.0),
    "Erf": _plain("erf"),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "HardSigmoid": _plain("hard_sigmoid", alpha=0.2, beta=0.5),
    "HardSwish": _plain("hard_swish"),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _plain("leaky_relu", alpha=0.01),
    "MatMul": _matmul,
    "MaxPool": _pool,
    "Mish": _plain("mish"),
    "Neg": lambda node: scaled_by(node, node.flow, -1.0, None),
    "PRelu": _prelu,
    "RMSNormalization": _layer_norm,
    "ReduceMean": _reduce_mean,
    "Relu": _plain("relu"),
    "Selu": _selu,
    "Sigmoid": _plain("sigmoid"),
    "Sin": _plain("sin"),
    "Softmax": _softmax,
    "Softplus": _plain("softplus"),
    "Softsign": _plain("softsign"),
    "Tanh": _plain("tanh"),
}
"""By their types; sums, products and what joins branches are in `onnx_graph`."""


def layer(node: Node) -> Flow:
    """Return what a node makes of its input.

    Raises
    ------
    SourceError
        It is not understood, or its numbers do not fit; names the node and its type.
    """
    make = LAYERS.get(node.op) if node.domain in ("", "ai.onnx") else None
    if make is None:
        known = ", ".join(sorted(LAYERS))
        msg = (
            f"it is not understood. Understood are {known}, sums, and products with constants; "
            "bound the parts before and after it, with begin and end"
        )
        raise node.refuse(msg)
    try:
        return make(node)
    except BigspecError as error:
        if str(error).startswith("node "):
            raise
        raise node.refuse(str(error)) from error
    except (ValueError, IndexError, TypeError) as error:
        raise node.unfit(error) from error
