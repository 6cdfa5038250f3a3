r"""The upper end of a convolution's norm: the theorem of circulants, and why it holds with edges.

In each axis, tap t of the convolution is a 0/1 matrix ``S_t`` from input to output positions. If
``S_t = R Z^u(t) E`` with the same R and E for all taps and Z the cyclic shift of N positions, then
``A = sum_t K_t x S_t x ..`` is R's of a circular convolution of E's, and

    ||A|| <= prod_axes ||R|| ||E|| max_w ||F(w)||,    w on the grid of N frequencies

(Sedghi, Gupta and Long 2019 for the circular one). For zeros beyond the edges R chooses rows and E
puts zeros beside the image: both have norm 1, for every N at which nothing comes round
(`bigspec.convolutions.geometry.phases`). For a circular convolution and its own N, R and E are the
identity, and the bound is the norm. For reflected and replicated edges E copies positions before
the zeros: ``E^H E`` is diagonal, with the number of copies, and ``||E||^2`` the largest of them.
"""

from __future__ import annotations

import math
from fractions import Fraction

from bigspec.convolutions.peak import TURNS, Grid, Peak, Place, over_grid
from bigspec.convolutions.symbol import Symbol

__all__ = ["norm_bound"]

MORE = 8  # frequencies beyond the fewest that hold the image, among which a grid is chosen
TRIES = 2  # places that grids are chosen to miss


def norm_bound(symbol: Symbol, peak: Peak) -> Peak:
    """Bound the norm of the convolution that a symbol comes from.

    Parameters
    ----------
    symbol : Symbol
    peak : Peak
        Of the symbol over all frequencies.

    Returns
    -------
    Peak
        Its `lower` is attained by the circular convolution, not by this one.
    """
    plain = Grid(tuple(axis.least if axis.degree else 1 for axis in symbol.axes),
                 (0,) * len(symbol.axes))  # fmt: skip
    found = over_grid(symbol, plain, peak)
    factor = math.sqrt(math.prod(axis.factor for axis in symbol.axes))
    upper, places = min(found.upper, peak.upper), found.places
    if not all(axis.circular or not axis.degree for axis in symbol.axes):
        # Beside edges a wave need not fit the image, and the peak may lie between grid points.
        places = peak.places
        for place in places[:TRIES]:
            upper = min(upper, over_grid(symbol, _beside(symbol, place), peak).upper)
    return Peak(found.lower, upper * factor * (1 + 1e-15), places, found.complete)


def _beside(symbol: Symbol, place: Place) -> Grid:
    """Return a grid none of whose points is near a place, nor near its negative for a real kernel.

    Where the place lies a of the way between two points, its negative lies -a. A move by 0 or by a
    half leaves both at the same distance, which is the most that any move leaves.
    """
    sizes, turns = [], []
    for axis, point, size in zip(symbol.axes, place.point, place.sizes, strict=True):
        options = [(0.0, 1, 0)]
        for N in range(axis.least, axis.least + 1 + MORE * bool(axis.degree)):
            if axis.circular or not axis.degree:
                options = [(0.0, axis.least if axis.degree else 1, 0)]
                break
            a = Fraction(point * N, size) % 1
            for turn in (0, TURNS // 2) if symbol.real else range(TURNS):
                away = (a - Fraction(turn, TURNS)) % 1
                options.append((float(min(away, 1 - away)) / N, N, turn))
        _, N, turn = max(options, key=lambda option: option[0])
        sizes.append(N)
        turns.append(turn)
    return Grid(tuple(sizes), tuple(turns))
