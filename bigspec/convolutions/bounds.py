r"""The upper end of a convolution's norm: the theorem of circulants, and why it holds with edges.

In each axis, tap t of the convolution is a 0/1 matrix ``S_t`` from input to output positions. If
``S_t = R Z^u(t) E`` with the same R and E for all taps and Z the cyclic shift of N positions, then
``A = sum_t K_t x S_t x ..`` is R's of a circular convolution of E's, and

    ||A|| <= prod_axes ||R|| ||E|| max_w ||F(w)||,    w on the grid of N frequencies

(Sedghi, Gupta and Long 2019 for the circular one). For zeros beyond the edges R chooses rows and E
puts zeros beside the image: both have norm 1, for every N at which nothing comes round
(`bigspec.convolutions.geometry.phases`). Then Z may also multiply what comes round by
``exp(i phi)``, which shifts the grid to ``(2 pi j + phi) / N``: of all these grids the best counts.
For a circular convolution and its own N, R and E are the identity, and the bound is the norm. For
reflected and replicated edges E copies positions before the zeros: ``E^H E`` is diagonal, with the
number of copies, and ``||E||^2`` the largest of them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from bigspec.certificate.definite import largest_eigenvalue
from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.convolutions.geometry import Axis
from bigspec.convolutions.grids import best_grid, sharpened
from bigspec.convolutions.peak import LEVELS, Grid, Peak, over_all, over_grid
from bigspec.convolutions.products import correlate, scatter
from bigspec.convolutions.symbol import WIDTH, Symbol

__all__ = ["norm_bound", "of_small_groups"]

Array = np.ndarray[Any, Any]

FINER = 0.7
TRIES = 3  # grids that are chosen to miss the peaks, each with those that the last one met
SMALL_ORDER, SMALL_FLOPS = 600, 2e10  # of the matrices of groups, and of all their squares
DEAR = 2e7  # flops of a frequency from which on one grid is enough


def of_small_groups(kernel: Array, axes: tuple[Axis, ...]) -> float | None:
    """Bound the norm by that of each group's own matrix, where these are small; else None.

    A depthwise layer on a small image: the edges are most of it, and no grid bounds it closely.

    Parameters
    ----------
    kernel : ndarray (groups, outputs, inputs, taps..)
    axes : tuple of Axis
    """
    groups, outputs, inputs = kernel.shape[:3]
    made = outputs * math.prod(axis.out for axis in axes)
    given = inputs * math.prod(axis.size for axis in axes)
    order, length = min(made, given), max(made, given)
    if order > SMALL_ORDER or length > 4 * SMALL_ORDER:
        return None
    if groups * order**2 * length > SMALL_FLOPS:
        return None
    above, eye = 0.0, np.eye(order)
    taps = math.prod(axis.taps for axis in axes)  # may meet in one entry
    for own in np.split(kernel, groups):
        rows = correlate(own, axes, eye) if given == order else scatter(own, axes, eye)
        H = rows.conj().T @ rows
        error = 4 * (length + taps + 2) * UNIT_ROUNDOFF * float(np.trace(H).real)
        top = largest_eigenvalue((H + H.conj().T) / 2, WIDTH).upper
        above = max(above, math.sqrt(top + error) * (1 + 4 * UNIT_ROUNDOFF))
    return above


def norm_bound(symbol: Symbol) -> Peak:
    """Bound the norm of the convolution that a symbol comes from.

    Parameters
    ----------
    symbol : Symbol

    Returns
    -------
    Peak
        Its `lower` is attained by the circular convolution, not by this one.
    """
    peak = over_all(symbol, _levels(symbol))
    factor = math.sqrt(math.prod(axis.factor for axis in symbol.axes)) * (1 + 1e-15)
    if all(axis.circular or not axis.degree for axis in symbol.axes):
        sizes = tuple(axis.least if axis.degree else 1 for axis in symbol.axes)
        found = over_grid(symbol, Grid(sizes, (0,) * len(sizes)), peak)
        return replace(found, upper=min(found.upper, peak.upper) * factor,
                       groups=peak.groups, others=peak.others)  # fmt: skip
    upper, places = peak.upper, tuple(sharpened(symbol, place) for place in peak.places)
    sharp = places
    for _ in range(TRIES if symbol.flops < DEAR else 1):
        found = over_grid(symbol, best_grid(symbol, places), peak)
        upper = min(upper, found.upper)
        if not found.complete or not found.places:
            break
        places = (*places, found.places[0])
    return replace(peak, upper=upper * factor, places=sharp)


def _levels(symbol: Symbol) -> int:
    """Return how fine the search over all frequencies must be, for images of this size.

    Edges cost about ``(n pi / 2 N)^2`` of the norm, and the search leaves little open beside that.
    """
    finest = max((FINER * axis.least / axis.degree for axis in symbol.axes if axis.degree),
                 default=1.0)  # fmt: skip
    return next((level for level in range(1, LEVELS) if 3**level >= finest), LEVELS)
