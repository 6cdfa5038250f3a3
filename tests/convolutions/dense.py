"""Convolutions written out by NumPy's padding, one tap after another, and random geometries."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

import bigspec
from bigspec.convolutions import Convolution

Array = np.ndarray[Any, Any]

NUMPY_MODES = {"zeros": "constant", "circular": "wrap", "replicate": "edge", "reflect": "reflect"}
MOST = {1: 12, 2: 6, 3: 4}  # positions of an axis


@dataclass(frozen=True)
class Geometry:
    """The arguments of a convolution, and a seed for its kernel."""

    shape: tuple[int, ...]
    outputs: int
    taps: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    mode: str
    groups: int
    seed: int
    complex_: bool = False

    @property
    def kernel(self) -> Array:
        rng = np.random.default_rng(self.seed)
        shape = (self.groups * self.outputs, self.shape[0] // self.groups, *self.taps)
        K = rng.standard_normal(shape)
        if self.complex_:
            K = K + 1j * rng.standard_normal(shape)
        # Some have zeros at their edges, or everywhere.
        return K * (rng.random(shape) < 0.5) if self.seed % 4 == 0 else K

    def matrix(self) -> Convolution:
        return bigspec.conv(
            self.kernel,
            self.shape,
            stride=self.stride,
            padding=self.padding,
            mode=self.mode,
            dilation=self.dilation,
            groups=self.groups,
        )

    def dense(self) -> Array:
        return written_out(
            self.kernel, self.shape, self.stride, self.padding, self.mode, self.dilation,
            self.groups,
        )  # fmt: skip


def written_out(
    K: Array, shape: Any, stride: Any, padding: Any, mode: str, dilation: Any, groups: int
) -> Array:
    """The dense matrix of a convolution."""
    d, n = K.ndim - 2, int(np.prod(shape))
    images = np.eye(n).reshape(n, *shape)
    padded = np.pad(images, [(0, 0), (0, 0), *padding], mode=NUMPY_MODES[mode])  # type: ignore[call-overload]
    outs = [
        (padded.shape[2 + i] - dilation[i] * (K.shape[2 + i] - 1) - 1) // stride[i] + 1
        for i in range(d)
    ]
    Y = np.zeros((n, K.shape[0], *outs), np.result_type(K, float))
    og, ig = K.shape[0] // groups, K.shape[1]
    for tap in itertools.product(*map(range, K.shape[2:])):
        places = tuple(
            slice(t * e, t * e + s * (out - 1) + 1, s)
            for t, e, s, out in zip(tap, dilation, stride, outs, strict=True)
        )
        read = padded[(slice(None), slice(None), *places)]
        for g in range(groups):
            own = K[(slice(g * og, (g + 1) * og), slice(None), *tap)]
            Y[:, g * og : (g + 1) * og] += np.einsum(
                "oc,xc...->xo...", own, read[:, g * ig : (g + 1) * ig]
            )
    return Y.reshape(n, -1).T


@st.composite
def geometries(draw: Any, modes: tuple[str, ...] = tuple(NUMPY_MODES)) -> Geometry:
    """Small convolutions of every kind, each of which has an output."""
    d = draw(st.integers(1, 3))
    mode = draw(st.sampled_from(modes))
    taps = tuple(draw(st.integers(1, min(5, MOST[d]))) for _ in range(d))
    dilation = tuple(draw(st.integers(1, 3)) for _ in range(d))
    sizes, padding = [], []
    for k, e in zip(taps, dilation, strict=True):
        n = draw(st.integers(1, MOST[d]))
        most = {"circular": n, "reflect": n - 1}.get(mode, 4)
        before, after = (draw(st.integers(0, min(most, 4))) for _ in range(2))
        lacking = max(0, e * (k - 1) + 1 - n - before - after)
        sizes.append(n + lacking)
        padding.append((before, after))
    groups = draw(st.sampled_from((1, 1, 2)))
    return Geometry(
        (groups * draw(st.integers(1, 3)), *sizes),
        draw(st.integers(1, 3)),
        taps,
        tuple(draw(st.integers(1, 3)) for _ in range(d)),
        dilation,
        tuple(padding),
        mode,
        groups,
        draw(st.integers(0, 1 << 16)),
        draw(st.booleans()),
    )
