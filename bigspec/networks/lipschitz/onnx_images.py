"""Nodes of ONNX on images: convolutions, means and maxima over windows, and changes of size.

A change of size is a matrix: of the nearest number it chooses one a row, by lines it is the
Kronecker product of one small matrix an axis. A whole factor of the nearest number is a
transposed convolution of each channel with ones; its norm is the root of the product of factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.api.convolutions import conv
from bigspec.api.matrices import open_within
from bigspec.networks.lipschitz.images import MaxPool, average_pool, inner_means
from bigspec.networks.lipschitz.onnx_values import Flow, Node, moved
from bigspec.networks.lipschitz.steps import Linear

__all__ = ["IMAGES", "mean_along"]

AUTO = {"NOTSET", "", "VALID", "SAME_UPPER", "SAME_LOWER"}
COORDINATES = {"asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"}
NEAREST: dict[str, Callable[[Fraction], int]] = {
    "round_prefer_floor": lambda x: math.ceil(x - Fraction(1, 2)),
    "round_prefer_ceil": lambda x: math.floor(x + Fraction(1, 2)),
    "floor": math.floor,
    "ceil": math.ceil,
}
MOST_ENTRIES = 1 << 25  # of a change of size by lines


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
    return strides, dilations, list(zip(pads[:d], pads[d:], strict=True))


def _images(node: Node) -> Flow:
    """Return the input, which must be one image: a transposition may have moved the batch."""
    if len(node.flow.shape) < 3 or node.flow.shape[0] != 1:
        msg = f"expected one image, (1, channels, positions..), got a shape {node.flow.shape}"
        raise node.refuse(msg)
    return node.flow


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


def _pool(node: Node) -> Flow:
    flow, size = _images(node), tuple(node.get("kernel_shape"))
    strides, dilations, pads = _geometry(node, size)
    if any(v != 1 for v in dilations):
        msg = "dilation of windows is not understood"
        raise node.refuse(msg)
    beyond = _beyond(node, size, strides, pads)
    whole = [(before, after + more) for (before, after), more in zip(pads, beyond, strict=True)]
    if node.op != "AveragePool":
        step = MaxPool(flow.shape[1:], size, strides, whole, node.name)
        return flow.then((1, *step.output_shape), step)
    if any(map(any, whole)) and not node.get("count_include_pad", 0):
        inner, shape = inner_means(flow.shape[1:], size, strides, whole, node.name)
        return flow.then((1, *shape), inner)
    if any(beyond):
        msg = "ceil_mode with counted padding is not understood; export with windows that fit"
        raise node.refuse(msg)
    means = average_pool(flow.shape[1:], size, tuple(strides), pads, node.name)
    shape = means.matrix.output_shape  # type: ignore[attr-defined]
    return flow.then((1, *shape), means)


def _beyond(
    node: Node, size: tuple[int, ...], strides: list[int], pads: list[tuple[int, int]]
) -> list[int]:
    """Return how far the last window of each axis reaches beyond the padding, by ceil_mode."""
    found = []
    for n, k, s, (before, after) in zip(node.flow.shape[2:], size, strides, pads, strict=True):
        steps = -(-(n + before + after - k) // s)
        if steps * s >= n + before:  # it must not begin in the padding
            steps -= 1
        more = steps * s + k - (n + before + after)
        found.append(max(more, 0) if node.get("ceil_mode", 0) else 0)
    return found


def _global_pool(node: Node) -> Flow:
    flow = _images(node) if node.op == "GlobalMaxPool" else node.flow
    size = flow.shape[2:]
    if node.op == "GlobalMaxPool":
        step = MaxPool(flow.shape[1:], size, size, [(0, 0)] * len(size), node.name)
        return flow.then((1, *step.output_shape), step)
    return mean_along(node, tuple(range(2, len(flow.shape))), keep=True)


def mean_along(node: Node, axes: tuple[int, ...], *, keep: bool) -> Flow:
    """Return means along some axes."""
    flow = node.flow
    count = math.prod(flow.shape[axis] for axis in axes)
    kept = tuple(1 if k in axes else n for k, n in enumerate(flow.shape))
    rows = np.broadcast_to(np.arange(math.prod(kept)).reshape(kept), flow.shape).reshape(-1)
    entries = (np.full(flow.size, 1.0 / count), (rows, np.arange(flow.size)))
    matrix = sp.csr_array(entries, shape=(math.prod(kept), flow.size))
    shape = kept if keep else tuple(n for k, n in enumerate(flow.shape) if k not in axes)
    mark = ("mean", *axes) if keep else ()
    return flow.then(shape, Linear(open_within(matrix, None), node.name, weights=1), mark=mark)


def _resize(node: Node) -> Flow:
    flow = node.flow
    mode, coordinates, nearest = _kind(node)
    scales = _scales(node)
    sizes = [size for size, _ in scales]
    if min(sizes) < 1:
        msg = f"expected sizes of at least 1, got {sizes}"
        raise node.refuse(msg)
    axes = [
        [_coordinate(i, n, size, scale, coordinates) for i in range(size)]
        for n, (size, scale) in zip(flow.shape, scales, strict=True)
    ]
    if mode == "nearest":
        rows = [
            np.clip([NEAREST[nearest](x) for x in xs], 0, n - 1)
            for n, xs in zip(flow.shape, axes, strict=True)
        ]
        return _repeated(flow, rows, node)
    if math.prod(sizes) * 2 ** sum(n != m for n, m in zip(sizes, flow.shape, strict=True)) > (
        MOST_ENTRIES
    ):
        msg = f"expected at most {MOST_ENTRIES} entries of its matrix, got more; resize fewer rows"
        raise node.refuse(msg)
    matrix, changed = sp.csr_array(sp.eye_array(1)), 0
    for n, xs in zip(flow.shape, axes, strict=True):
        factor = _lines(n, xs)
        changed += factor.nnz != n
        matrix = sp.csr_array(sp.kron(matrix, factor, format="csr"))
    return flow.then(sizes, Linear(open_within(matrix, None), node.name, weights=changed))


def _kind(node: Node) -> tuple[str, str, str]:
    """Return the mode, how places are counted, and which place is the nearest."""
    old = node.op == "Upsample" or node.opset < 11
    mode = node.get("mode", "nearest")
    coordinates = "asymmetric" if old else "half_pixel"
    coordinates = node.get("coordinate_transformation_mode", coordinates)
    nearest = node.get("nearest_mode", "floor" if old else "round_prefer_floor")
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    said = {"mode": mode, "coordinate_transformation_mode": coordinates, "nearest_mode": nearest,
            "keep_aspect_ratio_policy": policy, "antialias": node.get("antialias", 0)}  # fmt: skip
    known: dict[str, Any] = {
        "mode": {"nearest", "linear"},
        "coordinate_transformation_mode": COORDINATES,
        "nearest_mode": NEAREST,
        "keep_aspect_ratio_policy": {"stretch"},
        "antialias": {0},
    }
    for key, value in said.items():
        if value not in known[key]:
            expected = " or ".join(map(repr, sorted(known[key])))
            msg = f"{key}: expected {expected}, got {value!r}, whose matrix is not made here"
            raise node.refuse(msg)
    return mode, coordinates, nearest


def _scales(node: Node) -> list[tuple[int, Fraction]]:
    """Return for each axis its new size, and the factor."""
    shape = node.flow.shape
    chosen = node.get("axes", list(range(len(shape))))
    old = node.op == "Upsample" or node.opset < 11
    given = node.array(1 if old else 2, "scales", needed=False)
    given = node.get("scales") if given is None else given
    sizes = None if old else node.array(3, "sizes", needed=False)
    found = [(n, Fraction(1)) for n in shape]
    if given is not None and np.size(given):
        factors = [Fraction(float(v)) for v in np.ravel(given)]
        pairs = [(math.floor(shape[a] * v), v) for a, v in zip(chosen, factors, strict=True)]
    elif sizes is not None:
        pairs = [(int(v), Fraction(int(v), shape[a])) for a, v in zip(chosen, sizes, strict=True)]
    else:
        msg = "expected scales or sizes, got neither"
        raise node.refuse(msg)
    for axis, pair in zip(chosen, pairs, strict=True):
        found[axis] = pair
    return found


def _coordinate(i: int, n: int, size: int, scale: Fraction, kind: str) -> Fraction:
    """Return the place that the i-th of `size` numbers is taken from, among n."""
    if kind == "align_corners":
        return Fraction(i * (n - 1), size - 1) if size > 1 else Fraction(0)
    if kind == "asymmetric":
        return Fraction(i) / scale
    if kind == "pytorch_half_pixel" and size == 1:
        return Fraction(0)
    return (Fraction(2 * i + 1) / scale - 1) / 2


def _lines(n: int, places: list[Fraction]) -> Any:
    """Return the matrix that takes numbers between two neighbours; the last ones are repeated."""
    rows, columns, weights = [], [], []
    for row, place in enumerate(places):
        x = min(max(place, Fraction(0)), Fraction(n - 1))
        first = math.floor(x)
        for column, weight in ((first, 1 - (x - first)), (first + 1, x - first)):
            if weight:
                rows.append(row)
                columns.append(column)
                weights.append(float(weight))
    return sp.csr_array((weights, (rows, columns)), shape=(len(places), n))


def _repeated(flow: Flow, rows: list[Any], node: Node) -> Flow:
    """Return numbers of a value, chosen along each axis."""
    factors = [len(chosen) // n for chosen, n in zip(rows, flow.shape, strict=True)]
    whole = all(
        np.array_equal(chosen, np.repeat(np.arange(n), f))
        for chosen, n, f in zip(rows, flow.shape, factors, strict=True)
    )
    if whole and 3 <= len(factors) <= 5 and factors[:2] == [1, 1] and max(factors) > 1:
        channels = flow.shape[1]
        ones = np.ones((channels, 1, *factors[2:]))
        matrix = conv(ones, flow.shape[1:], stride=factors[2:], groups=channels, transposed=True)
        return flow.then((1, *matrix.output_shape), Linear(matrix, node.name))
    places = np.arange(flow.size).reshape(flow.shape)
    return moved(flow, places[np.ix_(*rows)], node.name)


IMAGES: dict[str, Callable[[Node], Flow]] = {
    "AveragePool": _pool,
    "Conv": _conv,
    "ConvTranspose": _conv,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "MaxPool": _pool,
    "Resize": _resize,
    "Upsample": _resize,
}
"""By their types."""
