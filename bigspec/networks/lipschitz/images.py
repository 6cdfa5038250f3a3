r"""Layers on images: convolutions, means and maxima over windows.

*Means over windows* are a convolution of every channel with a constant kernel: linear, with a norm
of its own. Padding counts as zeros, as PyTorch's default has it.

*Maxima over windows.* ``|max_w x - max_w y| <= max_w |x - y|``, so the square of the distance of
two outputs is at most the sum, over all windows, of the squares in them: the constant is at most
``q^(1/2)``, q the most windows that one position lies in, ``ceil(k / s)`` an axis. It is attained
where one position is the largest of q windows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.api.convolutions import conv
from bigspec.api.matrices import open_within
from bigspec.convolutions import Convolution
from bigspec.errors import ArgumentError
from bigspec.networks.lipschitz.parameters import needed, vector
from bigspec.networks.lipschitz.steps import EVALUATION, Linear, Local, Point, Step, lengths

__all__ = [
    "CONV",
    "POOL",
    "MaxPool",
    "average_pool",
    "conv_layer",
    "image_after",
    "inner_means",
    "per_channel",
    "pool_layer",
]

Array = np.ndarray[Any, Any]
Image = tuple[int, ...]

CONV = (
    "kernel", "input_shape", "stride", "padding", "mode", "dilation", "groups", "transposed",
    "output_padding", "bias",
)  # fmt: skip
POOL = ("size", "stride", "padding", "input_shape")
MOST_INDICES = 1 << 26


def _image(get: Mapping[str, Any], image: Image | None, label: str) -> Image:
    given = get.get("input_shape")
    if given is None:
        if image is None:
            msg = f"{label}: expected input_shape, channels and positions, got none"
            raise ArgumentError(msg)
        return image
    listed = isinstance(given, (tuple, list, np.ndarray)) and len(given) >= 2
    if not listed or not all(_whole(extent) and extent > 0 for extent in given):
        msg = f"{label}: expected input_shape as channels and positions, got {given!r}"
        raise ArgumentError(msg)
    return tuple(map(int, given))


def _whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def conv_layer(get: Mapping[str, Any], image: Image | None, label: str) -> Linear:
    """Make a convolution of its parameters; its bias has one number a channel.

    Raises
    ------
    ArgumentError
    """
    rest = {key: get[key] for key in CONV[2:-1] if get.get(key) is not None}
    try:
        kernel = np.asarray(needed(get, "kernel", label))
    except ValueError as error:  # lists of several lengths
        msg = f"{label}: expected a kernel (out, in / groups, k..), got lists ({error})"
        raise ArgumentError(msg) from error
    try:
        matrix = conv(kernel, _image(get, image, label), **rest)
    except ArgumentError as error:
        msg = f"{label}: {error}"
        raise ArgumentError(msg) from error
    return Linear(matrix, label, per_channel(get.get("bias"), matrix.output_shape, label))


def per_channel(values: Any, image: Image | None, label: str) -> Array | None:
    """Return a vector; one number a channel of an image is repeated at its positions."""
    if values is None:
        return None
    found = vector(values, label)
    if image is not None and len(found) == image[0] != math.prod(image):
        found = np.repeat(found, math.prod(image[1:]))
    return found


def _axes(get: Mapping[str, Any], key: str, d: int, default: Any, label: str) -> tuple[int, ...]:
    value = default if get.get(key) is None else get[key]
    each = tuple(value) if isinstance(value, (tuple, list, np.ndarray)) else (value,) * d
    least = 0 if key == "padding" else 1
    if len(each) != d or not all(_whole(v) and v >= least for v in each):
        msg = f"{label}: expected {key} as a whole number or {d} of them, got {value!r}"
        raise ArgumentError(msg)
    return tuple(int(v) for v in each)


def pool_layer(name: str, get: Mapping[str, Any], image: Image | None, label: str) -> Step:
    """Make means or maxima over windows.

    Raises
    ------
    ArgumentError
    """
    shape = _image(get, image, label)
    d = len(shape) - 1
    if name == "global_avg_pool":
        return average_pool(shape, shape[1:], shape[1:], (0,) * d, label)
    size = _axes(get, "size", d, needed(get, "size", label), label)
    stride = _axes(get, "stride", d, size, label)
    padding = _axes(get, "padding", d, 0, label)
    if any(2 * pad > k for pad, k in zip(padding, size, strict=True)):
        msg = f"{label}: expected padding of at most half of {size}, got {padding}"
        raise ArgumentError(msg)
    if name == "avg_pool":
        return average_pool(shape, size, stride, padding, label)
    pads = [(pad, pad) for pad in padding]
    return MaxPool(shape, size, stride, pads, label)


def average_pool(
    image: Image, size: Image, stride: Image, padding: Sequence[Any], label: str
) -> Linear:
    """Return means over windows as a convolution of each channel."""
    kernel = np.full((image[0], 1, *size), 1.0 / math.prod(size))
    try:
        matrix = conv(kernel, image, stride=stride, padding=list(padding), groups=image[0])
    except ArgumentError as error:
        msg = f"{label}: {error}"
        raise ArgumentError(msg) from error
    return Linear(matrix, label, weights=1)  # 1 / k is rounded


def inner_means(
    image: Image, size: Sequence[int], stride: Sequence[int], pads: Sequence[Any], label: str
) -> tuple[Linear, Image]:
    """Return means over the part of each window that lies in the image, and their shape."""
    windows, shape = _windows(image, size, stride, pads, label)
    inputs = math.prod(image)
    rows, places = np.nonzero(windows < inputs)
    counts = np.bincount(rows, minlength=len(windows))
    if not counts.all():
        msg = f"{label}: expected windows that reach into the image, got one of padding alone"
        raise ArgumentError(msg)
    entries = (1.0 / counts[rows], (rows, windows[rows, places]))
    matrix = sp.csr_array(entries, shape=(len(windows), inputs))
    return Linear(open_within(matrix, None), label, weights=1), shape


class MaxPool(Step):
    """Maxima over windows of every channel.

    Parameters
    ----------
    image : tuple of int
        Channels and positions.
    size, stride : tuple of int
    pads : sequence of (int, int)
        Before and after, for each axis; what stands there is never the largest.
    label : str
    """

    def __init__(
        self,
        image: Image,
        size: Sequence[int],
        stride: Sequence[int],
        pads: Sequence[tuple[int, int]],
        label: str,
    ) -> None:
        self.label, self.image = label, image
        self.windows, self.output_shape = _windows(image, size, stride, pads, label)
        self.inputs, self.outputs = math.prod(image), math.prod(self.output_shape)
        inside = self.windows[self.windows < self.inputs]
        overlap = int(np.bincount(inside, minlength=self.inputs).max())
        self.high = math.nextafter(math.sqrt(overlap), math.inf) if overlap > 1 else 1.0
        self.low = -self.high

    def forward(self, point: Point) -> tuple[Point, Local]:
        """Take the largest of each window; where another is as near as two errors, it is unsure."""
        n, p = point.x.shape
        padded = np.vstack([point.x, np.full((1, p), -np.inf)])
        values = padded[self.windows]  # (outputs, k, p)
        first = values.argmax(axis=1)
        places = np.take_along_axis(self.windows[:, :, None], first[:, None], axis=1)[:, 0]
        y = values.max(axis=1)
        np.put_along_axis(values, first[:, None], -np.inf, axis=1)
        gap = 2 * point.error + EVALUATION * np.abs(y)
        unsure = values.max(axis=1) >= y - gap
        local = _Largest(places, unsure, self.windows, n, self.high)
        return Point(y, self.high * point.error + EVALUATION * lengths(y)), local


def _windows(
    image: Image, size: Sequence[int], stride: Sequence[int], pads: Sequence[Any], label: str
) -> tuple[Array, Image]:
    """Return flat places (outputs, k), of padding one past the last; and the shape of outputs."""
    starts = [
        np.arange(-before, n + after - k + 1, s)
        for n, k, s, (before, after) in zip(image[1:], size, stride, pads, strict=True)
    ]
    outs = tuple(len(start) for start in starts)
    if not all(outs):
        msg = f"{label}: expected windows that fit into {image[1:]}, got {tuple(size)}"
        raise ArgumentError(msg)
    if image[0] * math.prod(outs) * math.prod(size) > MOST_INDICES:
        msg = f"{label}: expected at most {MOST_INDICES} places in all windows, got more"
        raise ArgumentError(msg)
    positions = math.prod(image[1:])
    table = []
    for offset in itertools.product(*map(range, size)):
        grids = np.meshgrid(
            *(start + o for start, o in zip(starts, offset, strict=True)), indexing="ij"
        )
        inside = np.ones(grids[0].shape, bool)
        flat = np.zeros(grids[0].shape, int)
        for grid, n in zip(grids, image[1:], strict=True):
            inside &= (grid >= 0) & (grid < n)
            flat = flat * n + grid
        table.append((flat.ravel(), inside.ravel()))
    places = np.stack([flat for flat, _ in table], axis=1)
    known = np.stack([inside for _, inside in table], axis=1)
    channels = np.arange(image[0])[:, None, None] * positions
    whole = np.where(known[None], places[None] + channels, image[0] * positions)
    return whole.reshape(-1, whole.shape[-1]), (image[0], *outs)


@dataclass(frozen=True)
class _Largest(Local):
    places: Array
    unsure: Array
    windows: Array
    inputs: int
    high: float

    def push(self, v: Point) -> Point:
        places = np.broadcast_to(self.places, (len(self.places), v.x.shape[1]))
        y = np.take_along_axis(v.x, places, axis=0)
        off = np.zeros(v.x.shape[1])
        if self.unsure.any():
            padded = np.vstack([np.abs(v.x), np.zeros((1, v.x.shape[1]))])
            most = padded[self.windows].max(axis=1)
            off = lengths(np.where(self.unsure, 2 * most, 0.0))
        return Point(y, self.high * v.error + off)

    def pull(self, u: Array) -> Array:
        out = np.zeros((self.inputs, u.shape[1]))
        places = np.broadcast_to(self.places, u.shape)
        np.add.at(out, (places, np.arange(u.shape[1])), u)
        return out

    def at(self, column: int) -> Local:
        here = slice(column, column + 1)
        return _Largest(
            self.places[:, here], self.unsure[:, here], self.windows, self.inputs, self.high
        )


def image_after(step: Step, image: Image | None) -> Image | None:
    """Return channels and positions of what a step gives; None where it is no image."""
    if isinstance(step, MaxPool):
        return step.output_shape
    if isinstance(step, Linear):
        return step.matrix.output_shape if isinstance(step.matrix, Convolution) else None
    return image if step.elementwise or step.linear else None
