"""One axis of a convolution: which input position each tap of each output position reads.

``y[j] = sum_t K[t] x~[stride * j + dilation * t]``, x~ the padded input. Padding is a gather: a
padded position takes an input position, or nothing (-1) where it is a zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["MODES", "Axis", "Phases", "most_outputs", "phases"]

Array = np.ndarray[Any, Any]

MODES = ("zeros", "circular", "replicate", "reflect")


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution from an input of `size` to an output of `out` positions.

    Attributes
    ----------
    size, out : int
        Positions of the input and of the output.
    taps, stride, dilation : int
    before, after : int
        Padding.
    mode : str
        One of `MODES`.
    """

    size: int
    out: int
    taps: int
    stride: int
    dilation: int
    before: int
    after: int
    mode: str

    @property
    def span(self) -> int:
        """Padded positions from the first to the last that one output position reads."""
        return self.dilation * (self.taps - 1) + 1

    @property
    def padded(self) -> int:
        """Positions of the padded input."""
        return self.size + self.before + self.after

    @property
    def index(self) -> Array:
        """Input position of each padded one, -1 for a zero: (padded,)."""
        n, q = self.size, np.arange(-self.before, self.size + self.after)
        if self.mode == "circular":
            return np.asarray(q % n)
        if self.mode == "replicate":
            return np.clip(q, 0, n - 1)
        if self.mode == "reflect":
            period = max(2 * n - 2, 1)
            q = q % period
            return np.minimum(q, period - q) if n > 1 else np.zeros_like(q)
        return np.where((q >= 0) & (q < n), q, -1)

    @property
    def table(self) -> Array:
        """Input position of each tap of each output position, -1 for a zero: (out, taps)."""
        start = self.stride * np.arange(self.out)[:, None]
        return np.asarray(self.index[start + self.dilation * np.arange(self.taps)])

    @property
    def multiplicity(self) -> int:
        """Most padded positions, of those that are read, that hold one input position."""
        used = self.index[: self.stride * (self.out - 1) + self.span]
        used = used[used >= 0]
        return int(np.bincount(used).max()) if used.size else 0

    def to_dict(self) -> dict[str, Any]:
        """Return the axis as JSON-ready values, for an identity."""
        return dict(vars(self))


def most_outputs(padded: int, taps: int, stride: int, dilation: int) -> int:
    """Return how many output positions see the whole kernel; 0 or less if none does."""
    return (padded - dilation * (taps - 1) - 1) // stride + 1


@dataclass(frozen=True)
class Phases:
    """A strided axis as one of stride 1: the input cut into residues of the stride.

    Tap t reads position ``q = dilation * t - before`` of output 0, ``q = stride * u + r``. The taps
    of one residue r are ``stride / g`` apart and their u ``dilation / g``, g the greatest common
    divisor. So the axis is a convolution of stride 1 with one more channel for each residue, whose
    taps are `step` apart. Where its residues begin is a shift, which has no part in the norm.

    Attributes
    ----------
    residues : tuple of int
        Those that a tap reads.
    taps : tuple of tuple of int
        Of each residue, in their order.
    firsts : tuple of int
        The u of the first tap of each residue.
    step : int
        Distance of the u of two taps.
    least : int
        Fewest frequencies whose circular norm is an upper bound, counted in taps of the residues.
    factor : int
        What the square of that bound is multiplied by.
    circular : bool
        Whether the frequencies are those of the convolution itself: no others will do.
    exact : bool
        Whether the convolution is the circular one with so many frequencies.
    shift : int
        Added to an input position before it is cut into residues.
    """

    residues: tuple[int, ...]
    taps: tuple[tuple[int, ...], ...]
    firsts: tuple[int, ...]
    step: int
    least: int
    factor: int
    circular: bool
    exact: bool
    shift: int

    @property
    def longest(self) -> int:
        """Most taps of a residue."""
        return max(map(len, self.taps))

    @property
    def degree(self) -> int:
        """Degree of the squared symbol, a trigonometric polynomial in one frequency."""
        return self.longest - 1


def phases(axis: Axis, first: int, last: int) -> Phases:
    """Cut an axis into residues, with the taps from `first` to `last` alone (others are zero)."""
    s = axis.stride
    circular = axis.mode == "circular" and axis.size % s == 0
    if circular:
        return _cut(axis, first, last, 0)
    if axis.mode != "zeros":
        # The padded image, of which the convolution sees what is there ("valid").
        return _cut(axis, first, last, axis.before)
    # Where residues are counted from is free, and some places need fewer frequencies.
    return min((_cut(axis, first, last, shift) for shift in range(s)), key=lambda one: one.least)


def _cut(axis: Axis, first: int, last: int, shift: int) -> Phases:
    """Cut an axis into residues, counted from `shift` positions before the image."""
    s, d = axis.stride, axis.dilation
    circular = axis.mode == "circular" and axis.size % s == 0
    gathered = not circular and axis.mode != "zeros"
    before = axis.before - shift
    size = axis.padded if gathered else axis.size + shift
    taps: dict[int, list[int]] = {}
    for t in range(first, last + 1):
        taps.setdefault((d * t - before) % s, []).append(t)
    residues = tuple(sorted(taps))
    firsts = tuple((d * taps[r][0] - before) // s for r in residues)
    lasts = [(d * taps[r][-1] - before) // s for r in residues]
    step = d // math.gcd(s, d)
    length = -(-size // s)
    if circular:
        # Frequencies of the residues' grid; those of taps `step` apart are fewer if they share.
        least = length // math.gcd(length, step)
        factor, exact = -(-axis.out // length), axis.out == length
    else:
        # Zeros stand where a window leaves the image, if nothing comes round from the other end.
        least = max(length, length - min(firsts), axis.out + max(lasts))
        least = -(-least // step)
        factor, exact = axis.multiplicity if gathered else 1, False
    return Phases(
        residues,
        tuple(tuple(taps[r]) for r in residues),
        firsts,
        step,
        least,
        factor,
        circular,
        exact,
        shift,
    )
