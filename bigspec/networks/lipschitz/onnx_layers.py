"""The layers of ONNX that are understood, each as steps of a stack."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bigspec.api.matrices import open_within
from bigspec.errors import BigspecError
from bigspec.networks.lipschitz.activations import activation
from bigspec.networks.lipschitz.grouped import Grouped, Normalised, Softmax
from bigspec.networks.lipschitz.onnx_images import IMAGES, mean_along
from bigspec.networks.lipschitz.onnx_shapes import SHAPES
from bigspec.networks.lipschitz.onnx_values import Flow, Mark, Node, moved
from bigspec.networks.lipschitz.refused import REFUSED_NODES
from bigspec.networks.lipschitz.steps import Elementwise, Linear, Scaling

__all__ = ["LAYERS", "coarseness", "layer", "limits", "normalised", "scaled_by"]

Array = np.ndarray[Any, Any]


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
            mark = (sign, float(array.reshape(-1)[0]), coarseness(value))
        parts.append(np.broadcast_to(array, flow.shape).reshape(-1).copy())
    bias = None if shift is None else parts[1]
    step = Scaling(parts[0], node.name, bias, rounded=rounded)
    both = weights is not None and shift is not None
    return flow.then(flow.shape, step, mark=() if both else mark)


def coarseness(value: Any) -> float:
    """Return how coarse the numbers are that a constant was rounded to; 0 of whole numbers."""
    dtype = np.asarray(value).dtype
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0


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


def _reduce_mean(node: Node) -> Flow:
    flow = node.flow
    axes = node.axes(len(flow.shape))
    if axes is None:
        return flow.then(flow.shape)
    return mean_along(node, axes, keep=bool(node.get("keepdims", 1)))


def _softmax(node: Node) -> Flow:
    flow, axis = node.flow, node.get("axis", -1 if node.opset >= 13 else 1)
    axes: tuple[int, ...] = (axis % len(flow.shape),)
    if node.opset < 13:  # then the value is a matrix whose rows end it
        axes = tuple(range(axes[0], len(flow.shape)))
    return _grouped(node, flow, axes, lambda size: Softmax(node.name, size))


def _grouped(node: Node, flow: Flow, axes: tuple[int, ...], make: Callable[[int], Grouped]) -> Flow:
    """Return a value after a step on groups of numbers that lie along some axes."""
    order = (*(k for k in range(len(flow.shape)) if k not in axes), *axes)
    turned = moved(flow, np.transpose(np.arange(flow.size).reshape(flow.shape), order), node.name)
    step = make(math.prod(flow.shape[axis] for axis in axes))
    made = turned.then(turned.shape, step)
    places = np.arange(flow.size).reshape(turned.shape)
    return moved(made, np.transpose(places, np.argsort(order)), node.name)


def normalised(
    node: Node, flow: Flow, axes: tuple[int, ...], epsilon: float, *, centred: bool
) -> Flow:
    """Return a value over the root of its mean square along some axes, maybe centred before."""
    return _grouped(
        node, flow, axes, lambda size: Normalised(node.name, size, epsilon, centred=centred)
    )


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
    return activated(node, "hardtanh", *limits(node))


def limits(node: Node) -> tuple[float, float]:
    """Return the ends of a Clip."""
    return node.number(1, "min", -math.inf), node.number(2, "max", math.inf)


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
    **IMAGES,
    **SHAPES,
    "Abs": _plain("abs"),
    "Atan": _plain("arctan"),
    "BatchNormalization": _batch_norm,
    "Celu": _plain("celu", alpha=1.0),
    "Clip": _clip,
    "Elu": _plain("elu", alpha=1.0),
    "Erf": _plain("erf"),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "HardSigmoid": _plain("hard_sigmoid", alpha=0.2, beta=0.5),
    "HardSwish": _plain("hard_swish"),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _plain("leaky_relu", alpha=0.01),
    "MatMul": _matmul,
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
    if node.op in REFUSED_NODES:
        raise node.refuse(REFUSED_NODES[node.op])
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
