"""Convolutions as matrices, with the norms that are known in closed form."""

from bigspec.convolutions.geometry import MODES, Axis, most_outputs
from bigspec.convolutions.matrix import Convolution, convolution

__all__ = ["MODES", "Axis", "Convolution", "convolution", "most_outputs"]
