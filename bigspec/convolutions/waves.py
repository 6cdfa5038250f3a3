"""Vectors near the leading singular ones of a convolution: plane waves under a window.

At a frequency where the symbol is largest, with singular vectors u and v there, a wave of that
frequency and of amplitudes v is what the convolution stretches most, to one of amplitudes u, were
there no edges. Where zeros lie beyond the edges, the wave goes to zero there as the half wave of a
string does. That is the difference of two waves, of frequencies a little higher and a little lower,
each of which is given the amplitudes of its own frequency.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from bigspec.convolutions.geometry import Axis
from bigspec.convolutions.peak import Place
from bigspec.convolutions.symbol import Symbol

__all__ = ["waves"]

Array = np.ndarray[Any, Any]


def waves(
    symbol: Symbol, axes: tuple[Axis, ...], places: tuple[Place, ...], *, left: bool
) -> Array:
    """Return waves at some places: (input positions, waves), or output positions if `left`.

    Of a real kernel, the real and the imaginary part of each.
    """
    W = np.stack([_Wave(symbol, axes, place, left).sum() for place in places], axis=1)
    return np.concatenate([W.real, W.imag], axis=1) if symbol.real else W


@dataclass(frozen=True)
class _Wave:
    """A wave at a place; on the side of the output if `left`."""

    symbol: Symbol
    axes: tuple[Axis, ...]
    place: Place
    left: bool

    @property
    def extents(self) -> tuple[int, ...]:
        return tuple(axis.out if self.left else axis.size for axis in self.axes)

    def sum(self) -> Array:
        """Return the sum of the waves that make up the windows."""
        signs = [
            (-1, 1) if axis.mode == "zeros" and part.degree else (0,)
            for axis, part in zip(self.axes, self.symbol.axes, strict=True)
        ]
        groups, outputs, channels = self.symbol.kernel.shape[:3]
        inputs = channels // int(np.prod([len(part.residues) for part in self.symbol.axes]))
        total = np.zeros((groups, outputs if self.left else inputs, *self.extents), complex)
        middle = self.amplitudes((0,) * len(self.axes))
        for moves in product(*signs):
            own = self.amplitudes(moves)
            turn = np.vdot(own, middle)  # singular vectors have no phase of their own
            own = own * (turn / abs(turn) if turn else 1.0)
            sign = float(np.prod([move or 1 for move in moves]))
            spread = own.reshape(-1, *(1 for _ in self.axes)) if self.left else (
                _spread(own, self.symbol, self.axes, inputs))  # fmt: skip
            wave = sign * np.broadcast_to(spread, total.shape[1:]).astype(complex)
            for number, move in enumerate(moves):
                shape = [1] * wave.ndim
                shape[1 + number] = -1
                wave *= self.along(number, move).reshape(shape)
            total[self.place.group] += wave
        return total.reshape(-1)

    def amplitudes(self, moves: tuple[int, ...]) -> Array:
        """Return the leading singular vector of the symbol, at a frequency moved a little."""
        point, sizes = [], []
        for number, move in enumerate(moves):
            around, part = 2 * (self.extents[number] + 1), self.symbol.axes[number]
            step = part.step * (1 if self.left else self.axes[number].stride)
            size = self.place.sizes[number]
            point.append(self.place.point[number] * around + move * size * step)
            sizes.append(size * around)
        F = self.symbol.at(self.place.group, np.array([point]), tuple(sizes))[0]
        u, _, vh = np.linalg.svd(F, full_matrices=False)
        return np.asarray(u[:, 0] if self.left else vh[0].conj())

    def along(self, number: int, move: int) -> Array:
        """Return the wave along one axis."""
        axis, part, extent = self.axes[number], self.symbol.axes[number], self.extents[number]
        w = 2 * np.pi * self.place.point[number] / self.place.sizes[number] / part.step
        q = np.arange(extent)
        envelope = np.exp(1j * move * np.pi * (q + 1) / (extent + 1))
        if self.left:
            return np.asarray(envelope * np.exp(1j * w * q))
        q = q + part.shift
        first = np.zeros(axis.stride, int)
        first[list(part.residues)] = part.firsts
        return np.asarray(envelope * np.exp(1j * w * (q // axis.stride - first[q % axis.stride])))


def _spread(v: Array, symbol: Symbol, axes: tuple[Axis, ...], inputs: int) -> Array:
    """Give each input position the amplitudes of its residue: (inputs, positions..)."""
    amplitudes = v.reshape(*(len(axis.residues) for axis in symbol.axes), inputs)
    for number, (part, axis) in enumerate(zip(symbol.axes, axes, strict=True)):
        row = np.full(axis.stride, len(part.residues))
        row[list(part.residues)] = np.arange(len(part.residues))
        padding = [(0, 0)] * amplitudes.ndim
        padding[number] = (0, 1)  # the last row is for residues that no tap reads
        residues = (np.arange(axis.size) + part.shift) % axis.stride
        amplitudes = np.take(np.pad(amplitudes, padding), row[residues], axis=number)
    return np.moveaxis(amplitudes, -1, 0)
