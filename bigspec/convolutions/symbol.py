r"""The symbol: a convolution at one frequency is a small matrix, out channels x in channels.

With the input cut into residues of the stride (`bigspec.convolutions.geometry.Phases`) it is

    F(w) = [ sum_v K[o, (r, c), v] exp(i w v) ],        (r, c) the residues' channels,

and ``f(w) = ||F(w) x||^2`` is, for a fixed x, a trigonometric polynomial of degree (taps - 1) in
each frequency, and not negative. Groups are blocks of a diagonal: each has a symbol of its own.

*Rounding.* Angles are ``2 pi j / N`` with ``j v`` reduced by N as whole numbers, so a factor
``exp(i w v)`` is off by at most 14 u an axis. F is a sum of T terms, so entry by entry
``|fl(F) - F| <= (c T + 16 d) u sum_t |K_t|``, c = 2 for a real kernel and 4 for a complex one. Its
Frobenius norm is added to every singular value. ``F F^H`` of inner length k is off by at most
``4 (k + 2) u ||F||_F^2`` in the Frobenius norm; all of that is a worst case.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg.blas import zherk

from bigspec.certificate.definite import largest_eigenvalue, proved_bound
from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.convolutions.geometry import Axis, Phases, phases

__all__ = ["SLAB_BYTES", "WIDTH", "Symbol"]

Array = np.ndarray[Any, Any]

SLAB_BYTES = 32 << 20  # of symbols at once
SMALL = 96  # up to this order, all eigenvalues of many matrices at once
WIDTH = 1e-6  # relative, of larger ones
BATCH = 32  # of small ones, the most promising first


@dataclass(frozen=True)
class Symbol:
    """The symbol of a convolution.

    Attributes
    ----------
    kernel : ndarray (groups, outputs, channels, taps..)
        Channels are residues times inputs of a group, residues first.
    axes : tuple of Phases
    """

    kernel: Array = field(repr=False)
    axes: tuple[Phases, ...]

    @classmethod
    def of(cls, kernel: Array, axes: tuple[Axis, ...]) -> Symbol:
        """Cut a kernel (groups, outputs, inputs, taps..) that is not zero into residues."""
        d = len(axes)
        parts = []
        for number, axis in enumerate(axes):
            others = tuple(i for i in range(kernel.ndim) if i != 3 + number)
            there = np.flatnonzero(np.any(kernel != 0, axis=others))
            parts.append(phases(axis, int(there[0]), int(there[-1])))
        padding = [(0, 0)] * 3 + [(0, 1)] * d
        K = np.pad(kernel, padding)  # the last position of each axis is the zero of short residues
        for number, (part, axis) in enumerate(zip(parts, axes, strict=True)):
            index = np.full((len(part.taps), part.longest), axis.taps)
            for row, taps in enumerate(part.taps):
                index[row, : len(taps)] = taps
            # (.., taps, ..) becomes (.., residues, taps, ..)
            K = np.take(K, index, axis=3 + 2 * number)
        order = [0, 1, *(3 + 2 * i for i in range(d)), 2, *(4 + 2 * i for i in range(d))]
        K = K.transpose(order)
        groups, outputs = K.shape[:2]
        return cls(np.ascontiguousarray(K.reshape(groups, outputs, -1, *K.shape[3 + d :])),
                   tuple(parts))  # fmt: skip

    @property
    def degrees(self) -> tuple[int, ...]:
        """Degree of ``||F(w) x||^2`` in each frequency."""
        return tuple(axis.degree for axis in self.axes)

    @property
    def real(self) -> bool:
        """Whether the kernel is real, so that F(-w) is the conjugate of F(w)."""
        return bool(self.kernel.dtype.kind != "c")

    @property
    def flops(self) -> float:
        """Flops of one group's norm at one frequency, about."""
        _, outputs, channels = self.kernel.shape[:3]
        taps, small = int(np.prod(self.kernel.shape[3:])), min(outputs, channels)
        return float(outputs * channels * (4.0 * taps + 4.0 * small) + 4.0 * small**3)

    @cached_property
    def errors(self) -> Array:
        """Bound of the error of each group's symbols, in the Frobenius norm: (groups,)."""
        sizes = np.abs(self.kernel).reshape(*self.kernel.shape[:3], -1)
        terms = sizes.shape[-1] * (2 if self.real else 4) + 16 * len(self.axes)
        return np.asarray(1.01 * terms * UNIT_ROUNDOFF * np.sqrt((sizes.sum(-1) ** 2).sum((1, 2))))

    def at(self, group: int, points: Array, sizes: tuple[int, ...]) -> Array:
        """Return F at frequencies ``2 pi points / sizes`` of one group: (points, out, channels)."""
        wave = np.ones((len(points), 1), complex)
        for number, size in enumerate(sizes):
            turns = points[:, number : number + 1] * np.arange(self.kernel.shape[3 + number]) % size
            turns = np.where(2 * turns > size, turns - size, turns)
            one = np.exp(2j * np.pi * (turns / size))
            wave = (wave[:, :, None] * one[:, None, :]).reshape(len(points), -1)
        K = self.kernel[group]
        flat = K.reshape(K.shape[0] * K.shape[1], -1).T
        if self.real:
            F = np.empty((len(points), flat.shape[1]), complex)
            F.real, F.imag = wave.real @ flat, wave.imag @ flat
        else:
            F = wave @ flat
        return np.asarray(F.reshape(len(points), *K.shape[:2]))

    def flattened(self) -> float:
        """Bound the norm of the flattened kernel, out rows, of all groups."""
        above = 0.0
        for K in self.kernel:
            G = _squares(K.reshape(1, len(K), -1).astype(complex))
            error = 4 * (K[0].size + 2) * UNIT_ROUNDOFF * np.einsum("wii->w", G).real
            above = max(above, float(_largest(G, error, 0.0)[1][0]))
        return above * (1 + 8 * UNIT_ROUNDOFF)

    def slab(self) -> int:
        """Return how many frequencies are looked at together."""
        return max(1, SLAB_BYTES // (16 * int(np.prod(self.kernel.shape[1:3]))))

    def norms(
        self, group: int, points: Array, sizes: tuple[int, ...], wanted: Any, floor: float
    ) -> tuple[Array, Array]:
        """Bound ``||F||_2`` at some frequencies of one group, as closely as somebody cares.

        Parameters
        ----------
        group, points, sizes
            See `at`.
        wanted : callable
            Of the largest norm attained so far, the least norm that matters.
        floor : float
            The largest norm attained elsewhere.

        Returns
        -------
        lower, upper : ndarray (points,)
            Where the upper bound is below what matters, it is the cheap ``||F F^H||_F^(1/2)``, and
            the lower one 0.
        """
        F = self.at(group, points, sizes)
        G, inner = _squares(F), max(F.shape[1:])
        order = G.shape[1]
        trace = np.einsum("wii->w", G).real
        error = 4 * (inner + 2) * UNIT_ROUNDOFF * trace + float(np.finfo(float).tiny)
        cheap = np.linalg.norm(G, axis=(1, 2)) * (1 + order * order * UNIT_ROUNDOFF) + error
        own = float(self.errors[group])
        upper, lower = np.sqrt(cheap) * (1 + 4 * UNIT_ROUNDOFF) + own, np.zeros(len(points))
        best, turn = floor, np.argsort(-upper)
        step = BATCH if order <= SMALL else 1
        for start in range(0, len(turn), step):
            some = turn[start : start + step]
            some = some[upper[some] >= wanted(best)]
            if not some.size:
                break
            low, high = _largest(G[some], error[some], max(wanted(best) - own, 0.0))
            lower[some] = np.maximum(low * (1 - 4 * UNIT_ROUNDOFF) - own, 0.0)
            upper[some] = np.minimum(upper[some], high * (1 + 4 * UNIT_ROUNDOFF) + own)
            best = max(best, float(lower[some].max()))
        return lower, upper


def _squares(F: Array) -> Array:
    """Return ``F F^H`` or ``F^H F``, whichever is smaller, of each symbol."""
    wide = F.shape[1] <= F.shape[2]
    if min(F.shape[1:]) <= SMALL:
        adjoint = F.conj().swapaxes(1, 2)
        return np.asarray(F @ adjoint if wide else adjoint @ F)
    G = np.empty((len(F), min(F.shape[1:]), min(F.shape[1:])), F.dtype)
    for number, one in enumerate(F):  # half of the flops
        half = zherk(1.0, one.T, trans=2 if wide else 0, lower=0)  # of the conjugate; see one.T
        G[number] = np.tril(half.T) + np.tril(half.T, -1).conj().T
    return G


def _largest(G: Array, error: Array, floor: float) -> tuple[Array, Array]:
    """Bound the roots of the largest eigenvalues of matrices, each off by at most `error`.

    Of a large one that is proved to be below `floor`, nothing else is found.
    """
    order = G.shape[1]
    if order > SMALL:
        found = []
        for M, off in zip(G, error, strict=True):
            proved = proved_bound(M, max(floor * floor - float(off), 0.0))
            found.append(largest_eigenvalue(M, WIDTH) if proved is None else (0.0, proved))
        low, high = np.array([one[0] for one in found]), np.array([one[1] for one in found])
    else:
        top = np.linalg.eigvalsh(G)[:, -1]
        # The reduction to tridiagonal form is backward stable: `order` reflections, a few u each.
        margin = 16 * order * UNIT_ROUNDOFF * np.linalg.norm(G, axis=(1, 2))
        low, high = top - margin, top + margin
    return np.sqrt(np.maximum(low - error, 0.0)), np.sqrt(np.maximum(high, 0.0) + error)
