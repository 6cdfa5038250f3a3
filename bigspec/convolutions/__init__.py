"""Convolutions as matrices, with the norms that are known in closed form."""

from bigspec.convolutions.geometry import MODES, Axis, most_outputs
from bigspec.convolutions.matrix import (
    SYMBOL,
    Convolution,
    convolution,
    norm_of_all_sizes,
)

__all__ = [
    "MODES",
    "SYMBOL",
    "Axis",
    "Convolution",
    "convolution",
    "most_outputs",
    "norm_of_all_sizes",
]
