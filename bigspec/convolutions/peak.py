r"""The largest norm of a symbol: over all frequencies, or over those of one grid.

Let M be the largest of ``||F(w)||`` over all w, and ``f(w) = ||F(w) x||^2`` for a unit x: a
trigonometric polynomial of degree n in one frequency, between 0 and M^2. By Bernstein's inequality
in the form of Szego, ``g = 2 f / M^2 - 1`` has ``|g'| <= n (1 - g^2)^(1/2)``, so
``arccos(f^(1/2) / M)`` changes by at most ``n/2`` times the distance. With the best x at one of two
frequencies, and a step along each axis,

    phi(w) = arccos(||F(w)|| / M)    satisfies    |phi(w) - phi(w')| <= sum_axes n/2 |w - w'|.

1. *A grid bounds all.* Where M is attained phi is 0, and a step to a grid point along one axis
   alone leaves ``||F|| >= M cos(n r / 2)``; then the largest norm over the other frequencies there
   takes the place of M. So on a grid whose points are at most r_d away in each axis

       M <= (largest on the grid) / prod_d cos(n_d r_d / 2).

   With N points, r = pi / N: about ``1 + n^2 pi^2 / (8 N^2)`` an axis. The constant of Pfister and
   Bresler (arXiv 1802.09588) is ``(1 - n / N)^(-1/2)``.
2. *Most of a grid need not be looked at.* A box of frequencies within r_d of its centre w can hold
   a norm above `best` only if ``phi(w) <= arccos(best / M) + sum n_d r_d / 2``. Boxes that cannot
   are dropped, the others are cut in three along each axis. For the largest over all frequencies,
   M is attained and `best` may stand for it.

Only upper bounds of ``||F(w)||`` are compared, so a cheap one that is small enough will do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.convolutions.symbol import Symbol

__all__ = ["LEVELS", "TURNS", "Grid", "Peak", "Place", "affordable", "over_all", "over_grid"]

Array = np.ndarray[Any, Any]

COARSE = 4  # points of the first grid in each axis, times the degree
LEVELS = 4  # of cutting in three: 324 points a degree, and a factor of 1 + 1.2e-5 in each axis
MOST_FLOPS = 2e11  # of all boxes beyond the first grid
MOST_BOXES = 1 << 18
MOST_FIRST, DEAREST = 1 << 21, 1e12  # frequencies and flops of a first grid
TURNS = 16  # parts of the distance of two grid points by which a grid may be moved
LOW = 0.8  # of the largest norm: groups that stay below it are not looked at again
PLACES = 3  # of the highest frequencies that are kept


@dataclass(frozen=True)
class Grid:
    """Frequencies ``2 pi (j + turn / TURNS) / N``, ``0 <= j < N``, in each axis.

    Attributes
    ----------
    sizes : tuple of int
        N of each axis.
    turns : tuple of int
        With 0 or half of `TURNS` in every axis, the grid has -w with each w.
    """

    sizes: tuple[int, ...]
    turns: tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """A frequency ``2 pi point / sizes`` of a group, and the norm of the symbol there.

    Attributes
    ----------
    value : float
    group : int
    point, sizes : tuple of int
    """

    value: float
    group: int
    point: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Peak:
    """The largest norm of a symbol.

    Attributes
    ----------
    lower, upper : float
    places : tuple of Place
        Where it is high, highest first.
    complete : bool
        Whether the search came to its end.
    groups : tuple of int
        Those whose largest norm may come near.
    others : float
        Upper bound of the other groups.
    """

    lower: float
    upper: float
    places: tuple[Place, ...]
    complete: bool
    groups: tuple[int, ...] = ()
    others: float = 0.0


def affordable(symbol: Symbol) -> bool:
    """Whether the first grid of a search takes no more than some minutes: not with 1000 taps."""
    boxes = math.prod(max(COARSE * n, 1) for n in symbol.degrees) * symbol.kernel.shape[0]
    return bool(boxes <= MOST_FIRST and boxes * symbol.flops <= DEAREST)


def over_all(symbol: Symbol, levels: int = LEVELS) -> Peak:
    """Bound the largest norm over all frequencies, and so of every size of image.

    Parameters
    ----------
    symbol : Symbol
    levels : int
        Times that boxes are cut in three; each divides what the bound is too high by by nine.
    """
    coarse = 3**levels
    sizes = tuple(COARSE * n * coarse if n else 1 for n in symbol.degrees)
    # Centred at multiples of the coarse step, 0 and half a turn among them, where many peaks lie.
    boxes = tuple(np.arange(COARSE * n) * coarse - coarse // 2 if n else np.zeros(1, int)
                  for n in symbol.degrees)  # fmt: skip
    sides = tuple(coarse if n else 1 for n in symbol.degrees)
    search = _Search(symbol, sizes)
    groups = range(symbol.kernel.shape[0])
    lists = [_boxes(symbol, boxes, sizes, symbol.real) for _ in groups]
    upper, own = math.inf, np.zeros(0)
    while True:
        # Distance from a centre to the edge of its box, in the plane of all frequencies.
        radii = [math.pi * side / size for side, size in zip(sides, sizes, strict=True)]
        angles = [n * r / 2 if n else 0.0 for n, r in zip(symbol.degrees, radii, strict=True)]
        cut = math.cos(min(sum(angles), math.pi / 2))
        centres = [lows + np.array(sides) // 2 for lows in lists]
        uppers = search.visit(centres, lambda best, cut=cut: cut * best)
        kept = [above >= cut * search.best for above in uppers]
        highest = max(float(a[k].max(initial=0.0)) for a, k in zip(uppers, kept, strict=True))
        factor = math.prod(math.cos(angle) for angle in angles)
        factor *= 1 - 1e-15 * (4 + len(sizes))
        upper = min(upper, max(search.best, highest) / factor)
        if not own.size:
            own = np.array([float(found.max()) for found in uppers]) / factor
        lists = [lows[k] for lows, k in zip(lists, kept, strict=True)]
        cuts = 3 ** sum(side > 1 for side in sides)
        complete = all(side == 1 for side in sides)
        if complete or not search.affords(cuts * sum(map(len, lists))):
            low = own < LOW * search.best
            return Peak(search.best, upper, search.places, complete,
                        tuple(np.flatnonzero(~low).tolist()), float(own[low].max(initial=0.0)),
                        )  # fmt: skip
        lists = [_thirds(lows, sides) for lows in lists]
        sides = tuple(max(side // 3, 1) for side in sides)


def over_grid(symbol: Symbol, grid: Grid, above: Peak) -> Peak:
    """Bound the largest norm over the frequencies of a grid.

    Parameters
    ----------
    symbol : Symbol
    grid : Grid
    above : Peak
        Over all frequencies.
    """
    sizes = grid.sizes
    search = _Search(symbol, sizes, grid.turns)
    corners = tuple(np.arange(0, size, _side(size, n))
                    for size, n in zip(sizes, symbol.degrees, strict=True))  # fmt: skip
    mirrored = symbol.real and all(2 * turn % TURNS == 0 for turn in grid.turns)
    first, none = _boxes(symbol, corners, sizes, mirrored), np.zeros((0, len(sizes)), int)
    lists = [first if g in set(above.groups) else none for g in range(symbol.kernel.shape[0])]
    sides = tuple(map(_side, sizes, symbol.degrees))
    largest, M = 0.0, above.upper
    while True:
        angles = sum(
            n * math.pi * (side // 2) / size
            for n, side, size in zip(symbol.degrees, sides, sizes, strict=True)
        )

        def wanted(best: float, angles: float = angles) -> float:
            turn = math.acos(min(best / M, 1.0)) + angles
            return M * math.cos(turn) * (1 - 1e-14) if turn < math.pi / 2 else 0.0

        centres = [np.minimum(lows + np.array(sides) // 2, np.array(sizes) - 1) for lows in lists]
        if not search.affords(sum(map(len, centres))):
            return Peak(search.best, M, search.places, False)
        uppers = search.visit(centres, wanted)
        kept = [above_ >= wanted(search.best) for above_ in uppers]
        lists = [lows[k] for lows, k in zip(lists, kept, strict=True)]
        if all(side == 1 for side in sides):
            found = (float(a[k].max(initial=0.0)) for a, k in zip(uppers, kept, strict=True))
            largest = max(search.best, above.others, *found)
            return Peak(search.best, min(largest, M), search.places, True)
        lists = [_thirds(lows, sides, sizes) for lows in lists]
        sides = tuple(max(side // 3, 1) for side in sides)


def _side(size: int, degree: int) -> int:
    """Return the side of the first boxes, a power of three."""
    side = 1
    while degree and 3 * side * COARSE * degree <= size:
        side *= 3
    return side


def _boxes(
    symbol: Symbol, lows: tuple[Array, ...], sizes: tuple[int, ...], mirrored: bool
) -> Array:
    """Return the corners of the first boxes; half of them where F(-w) is the conjugate of F(w).

    Of a grid that is shifted by half a step, j and N - 1 - j are such a pair.
    """
    points = np.stack(np.meshgrid(*lows, indexing="ij"), axis=-1).reshape(-1, len(lows))
    if not mirrored:
        return points
    axis = next((i for i, n in enumerate(symbol.degrees) if n), 0)
    return np.asarray(points[2 * points[:, axis] <= sizes[axis]])


def _thirds(lows: Array, sides: tuple[int, ...], sizes: tuple[int, ...] | None = None) -> Array:
    """Cut boxes in three along each axis; drop what lies beyond the grid."""
    steps = [np.arange(3) * (side // 3) if side > 1 else np.zeros(1, int) for side in sides]
    moves = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, len(sides))
    points = (lows[:, None, :] + moves[None]).reshape(-1, len(sides))
    inside = points if sizes is None else points[np.all(points < np.array(sizes), axis=1)]
    return np.asarray(inside)


class _Search:
    """What a search has found so far, and what it has spent."""

    def __init__(
        self, symbol: Symbol, sizes: tuple[int, ...], turns: tuple[int, ...] | None = None
    ) -> None:
        self.symbol, self.turns = symbol, np.array(turns or (0,) * len(sizes))
        self.sizes = tuple(size * TURNS for size in sizes)
        self.best, self.spent = 0.0, 0.0
        self.places: tuple[Place, ...] = ()

    def affords(self, boxes: int) -> bool:
        """Whether so many more frequencies may be looked at."""
        return boxes <= MOST_BOXES and self.spent + boxes * self.symbol.flops <= MOST_FLOPS

    def visit(self, centres: list[Array], wanted: Any) -> list[Array]:
        """Return upper bounds at the centres of each group; remember the highest places."""
        uppers = []
        for group, corners in enumerate(centres):
            if not len(corners):
                uppers.append(np.zeros(0))
                continue
            points = corners * TURNS + self.turns
            found = [np.zeros(0)]
            for some in _slabs(points, self.symbol.slab()):
                lower, upper = self.symbol.norms(group, some, self.sizes, wanted, self.best)
                found.append(upper)
                self._note(group, some, lower)
            self.spent += len(points) * self.symbol.flops
            uppers.append(np.concatenate(found))
        return uppers

    def _near(self, one: Place, other: Place) -> bool:
        """Whether two places belong to one peak; a real kernel has another one at -w."""
        if one.group != other.group:
            return False
        near = []
        for sign in (1, -1) if self.symbol.real else (1,):
            pairs = zip(one.point, other.point, one.sizes, self.symbol.degrees, strict=True)
            turns = [((a - sign * b) % size / size, n) for a, b, size, n in pairs]
            near.append(all(min(turn, 1 - turn) * 4 * n <= 1 for turn, n in turns))
        return any(near)

    def _note(self, group: int, points: Array, lower: Array) -> None:
        first = np.argsort(-lower, kind="stable")[: 4 * PLACES]
        new = tuple(Place(float(lower[i]), group, tuple(points[i].tolist()), self.sizes)
                    for i in first if lower[i] > 0)  # fmt: skip
        kept: list[Place] = []
        for place in sorted({*self.places, *new}, key=lambda one: (-one.value, one.point)):
            if len(kept) < PLACES and not any(self._near(place, other) for other in kept):
                kept.append(place)
        self.places = tuple(kept)
        self.best = max(self.best, *(place.value for place in self.places), 0.0)


def _slabs(points: Array, size: int) -> Iterator[Array]:
    for start in range(0, len(points), size):
        yield points[start : start + size]
