"""What a network does with a kernel: the convolution that it is part of, as far as a file says.

ONNX says stride, padding, dilation and groups, and with the shape of an input the size of every
image. Then the norm is that of the layer. Other files say nothing but the kernel: it is taken for
a convolution of stride 1 and one group on images of all sizes, which bounds every stride and any
number of groups from above.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.api.convolutions import conv, conv_norm
from bigspec.convolutions import Convolution
from bigspec.networks.tensors import Model, Tensor
from bigspec.results import Interval

__all__ = ["ALL", "ANY", "Layer", "Layers", "layers_for", "layers_of"]

ALL = "all sizes of image"
ANY = f"stride 1, one group, {ALL}"
"""What the norm is of where a file says nothing but the kernel."""
WIDEST = 32

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Layer:
    """A convolution without its kernel.

    Attributes
    ----------
    stride, dilation, output_padding : tuple of int
        Of each axis.
    padding : tuple of (int, int)
    groups : int
    transposed : bool
    shape : tuple of int or None
        Channels and positions of its input; None for all sizes of image.
    known : bool
        Whether the file says all this.
    """

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...] = ()
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    shape: tuple[int, ...] | None = None
    known: bool = False

    @property
    def sized(self) -> bool:
        """Whether it is a matrix."""
        return self.shape is not None

    @property
    def text(self) -> str:
        """What the norm is of, in words."""
        if not self.known:
            return ANY
        stride = _text(self.stride)
        said = [f"stride {stride}"]
        if set(self.dilation) != {1}:
            said.append(f"dilation {_text(self.dilation)}")
        if self.groups > 1:
            said.append(f"{self.groups} groups")
        if self.transposed:
            said.append("transposed")
        where = ALL if self.shape is None else f"input {_text(self.shape)}"
        return ", ".join([*said, where])

    def matrix(self, kernel: Array) -> Convolution:
        """Return the convolution as a matrix; the layer is sized."""
        assert self.shape is not None
        return conv(
            kernel,
            self.shape,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            transposed=self.transposed,
            output_padding=self.output_padding or 0,
        )

    def of_all_sizes(self, kernel: Array) -> Interval:
        """Bracket the norm over all sizes of image."""
        return conv_norm(
            kernel,
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
            transposed=self.transposed,
        )


Layers = Mapping[str, tuple[Layer, ...] | None]
"""By the name of a kernel; None where the graph does not say clearly how a convolution uses it."""


def _text(numbers: tuple[int, ...]) -> str:
    return str(numbers[0]) if len(set(numbers)) == 1 and len(numbers) < 3 else (
        " x ".join(map(str, numbers)))  # fmt: skip


def layers_for(name: str, tensor: Tensor, layers: Layers) -> tuple[Layer, ...]:
    """Return the layers of a kernel: what the file says, or one that bounds them all."""
    axes = len(tensor.shape) - 2
    if axes not in (1, 2, 3):
        return ()
    known = layers.get(name, ())
    if known is None:
        return ()
    if not known and max(tensor.shape[2:]) > WIDEST and "conv" not in name.lower():
        return ()  # a table of positions, more likely
    return known or (Layer((1,) * axes, (1,) * axes),)


def layers_of(model: Model) -> Layers:
    """Return the convolutions that an ONNX graph makes of its kernels.

    Where there is a graph, a tensor that no convolution takes as it lies is none: its axes may be
    in another order, and a node on the way puts them right.
    """
    said_of = model.notes.get("layers")
    if said_of is None:
        return {}
    shapes = model.notes.get("shapes", {})
    found: dict[str, tuple[Layer, ...] | None] = dict.fromkeys(model)
    for name, said in said_of.items():
        if name not in model or not all(one["op"].startswith("Conv") for one in said):
            continue
        made = [_layer(model[name], one, shapes.get(one.get("data"))) for one in said]
        found[name] = None if None in made else tuple(dict.fromkeys(filter(None, made)))
    return found


def _layer(tensor: Tensor, said: Mapping[str, Any], shape: Any) -> Layer | None:
    """Return the layer of a node; None if its attributes do not fit its kernel."""
    taps = tensor.shape[2:]
    d = len(taps)
    stride, dilation = (tuple(said.get(key, [1] * d)) for key in ("strides", "dilations"))
    groups, transposed = int(said.get("group", 1)), said["op"] == "ConvTranspose"
    extra = tuple(said.get("output_padding", [0] * d))
    pads = said.get("pads", [0] * 2 * d)
    if d not in (1, 2, 3) or any(len(x) != d for x in (stride, dilation, extra)) or (
        len(pads) != 2 * d or "output_shape" in said
    ):  # fmt: skip
        return None
    sized = shape is not None and len(shape) == d + 2 and all(shape[1:])
    own = tuple(int(n) for n in shape[1:]) if sized else None
    pairs = tuple(zip(pads[:d], pads[d:], strict=True))
    auto = said.get("auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        if transposed:
            return None
        if own is not None:
            pairs = _same(own[1:], taps, stride, dilation, upper=auto == "SAME_UPPER")
    return Layer(
        stride, dilation, pairs, groups, transposed, extra if transposed else (), own, True
    )


def _same(
    sizes: tuple[int, ...],
    taps: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    *,
    upper: bool,
) -> tuple[tuple[int, int], ...]:
    """Return what ONNX adds so that the output has a stride-th of the input's positions."""
    pairs = []
    for n, k, s, e in zip(sizes, taps, stride, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + e * (k - 1) + 1 - n, 0)
        small, large = total // 2, total - total // 2
        pairs.append((small, large) if upper else (large, small))
    return tuple(pairs)
