"""The grid of frequencies that bounds a convolution with zeros beyond its edges most closely.

Any number of frequencies from the fewest on is allowed, and any shift of them: a cyclic shift that
multiplies by a phase what comes round is as good as one that does not, for nothing comes round. So
a grid is chosen whose points lie far from the peaks of the symbol. If there is one peak, a grid
that has it in the middle between its points loses to it, to first order, what the edges lose.

The choice rests on a parabola through each peak. It decides how good the bound is and never
whether it holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from bigspec.convolutions.peak import TURNS, Grid, Place
from bigspec.convolutions.symbol import Symbol

__all__ = ["best_grid", "sharpened"]

Array = np.ndarray[Any, Any]

MORE = {1: (16, 1), 2: (8, 1), 3: (3, 2)}  # frequencies beyond the fewest, and steps of the shift
FINE = 64  # parts of a grid point that the top of a parabola is rounded to
FLOOR = 0.9  # of the highest peak: lower ones are not looked at


@dataclass(frozen=True)
class _Peak:
    """``value - x^T curvature x / 2`` at a distance x of turns from `turns`."""

    value: float
    turns: Array
    curvature: Array


def sharpened(symbol: Symbol, place: Place) -> Place:
    """Return the top of the parabola at a place, which a coarse search has found."""
    peak = _parabola(symbol, place)
    sizes = tuple(size * FINE for size in place.sizes)
    point = tuple(round(t * size) for t, size in zip(peak.turns, sizes, strict=True))
    return Place(peak.value, place.group, point, sizes)


def best_grid(symbol: Symbol, places: tuple[Place, ...]) -> Grid:
    """Return the grid whose highest point near the places is expected to be lowest."""
    peaks = []
    for place in places:
        if place.value < FLOOR * places[0].value:
            continue
        peak = _parabola(symbol, place)
        peaks.append(peak)
        if symbol.real:
            peaks.append(_Peak(peak.value, -peak.turns % 1.0, peak.curvature))
    options = [_options(symbol, number) for number in range(len(symbol.axes))]
    heights = np.full([len(own) for own in options], -np.inf)
    for peak in peaks:
        heights = np.maximum(heights, _heights(peak, options))
    chosen = np.unravel_index(int(np.argmin(heights)), heights.shape)
    pairs = [own[i] for own, i in zip(options, chosen, strict=True)]
    return Grid(tuple(int(N) for N, _ in pairs), tuple(int(turn) for _, turn in pairs))


def _options(symbol: Symbol, number: int) -> Array:
    """Return the numbers of frequencies and shifts of one axis that are allowed: (options, 2)."""
    axis = symbol.axes[number]
    if not axis.degree:
        return np.array([[1, 0]])
    if axis.circular:
        return np.array([[axis.least, 0]])
    more, step = MORE[len(symbol.axes)]
    sizes = range(axis.least, axis.least + min(more, axis.least // 4) + 1)
    return np.array([(N, turn) for N in sizes for turn in range(0, TURNS, step)])


def _heights(peak: _Peak, options: list[Array]) -> Array:
    """Return the highest value on each grid near a peak: one axis for each of the options."""
    d, offsets = len(options), []
    for number, own in enumerate(options):
        N, shift = own[:, 0], own[:, 1] / TURNS
        below = (peak.turns[number] * N - shift) % 1.0
        shape = [1] * d
        shape[number] = -1
        offsets.append([((-below) / N).reshape(shape), ((1 - below) / N).reshape(shape)])
    best: Any = -np.inf
    for corner in product((0, 1), repeat=d):
        x = [offsets[number][side] for number, side in enumerate(corner)]
        lost: Any = 0.0
        for i, j in product(range(d), repeat=2):
            lost = lost + peak.curvature[i, j] * x[i] * x[j] / 2
        best = np.maximum(best, peak.value - lost)
    return np.asarray(np.broadcast_to(best, [len(own) for own in options]))


def _parabola(symbol: Symbol, place: Place) -> _Peak:
    """Fit a parabola to the norms about half a grid step around a place."""
    d = len(symbol.axes)
    # Steps in parts of the place's own, very fine grid.
    steps = [
        max(1, size // max(2 * axis.least, 8 * axis.degree)) if axis.degree else 0
        for size, axis in zip(place.sizes, symbol.axes, strict=True)
    ]
    moves = [np.zeros(d, int)]
    pairs = [(i, j) for i in range(d) for j in range(i, d)]
    unit = np.diag(steps)
    for i, j in pairs:
        step = unit[i] if i == j else unit[i] + unit[j]
        moves += [step, -step]
    points = np.array(place.point) + np.array(moves)
    _, values = symbol.norms(place.group, points, place.sizes, lambda _: 0.0, 0.0)
    sizes = np.array(place.sizes)
    turns = np.where(np.array(steps) > 0, np.array(steps) / sizes, 1.0)
    second = {pair: 2 * values[0] - values[1 + 2 * n] - values[2 + 2 * n]
              for n, pair in enumerate(pairs)}  # fmt: skip
    slope = np.zeros(d)
    curvature = np.zeros((d, d))
    for n, (i, j) in enumerate(pairs):
        if i == j:
            curvature[i, i] = max(second[i, i], 0.0)
            slope[i] = (values[1 + 2 * n] - values[2 + 2 * n]) / 2
        else:
            cross = (second[i, j] - second[i, i] - second[j, j]) / 2
            curvature[i, j] = curvature[j, i] = cross
    # The top lies within a step, or the place is no peak of a parabola.
    move = np.linalg.lstsq(curvature, slope, rcond=1e-6)[0]
    move = move if np.all(np.abs(move) <= 1.0) else np.zeros(d)
    top = float(values[0] + slope @ move - move @ curvature @ move / 2)
    at = (np.array(place.point) / sizes + move * np.where(np.array(steps) > 0, turns, 0.0)) % 1.0
    return _Peak(top, at, curvature / np.outer(turns, turns))
