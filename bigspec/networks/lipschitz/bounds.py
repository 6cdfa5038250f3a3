r"""Upper ends of a Lipschitz constant, from norms of chains of matrices alone.

A stack is ``T = W_m f_(m-1) W_(m-1) .. f_1 W_1``. Every ``f_i`` is ``c_i Id + r_i Q_i`` where
``Q_i`` stretches no distance. For an activation with slopes in [a, b] that is so with
``c = (a + b) / 2`` and ``r = (b - a) / 2``: the slopes of ``(f - c Id) / r`` lie in [-1, 1].

Let ``T_k`` end after ``W_k``, and d mean a difference of two images. Expand the identity part of
the last activation, then of the one before, and so on:

    d T_m = (prod c_i) W_m .. W_1 d x
          + sum_k r_k (c_(k+1) .. c_(m-1)) W_m .. W_(k+1) d(Q_k T_k).

``Q_k`` stretches nothing, so ``theta_m = sup |d T_m| / |d x|`` is at most

    |c_1 .. c_(m-1)| ||W_m .. W_1|| + sum_k r_k |c_(k+1) .. c_(m-1)| ||W_m .. W_(k+1)|| theta_k.

For c = r = 1/2 this is Combettes and Pesquet (SIAM J. Math. Data Sci. 2, 2020), summed in another
order. As ``|c| + r = max(|a|, |b|)`` and a chain has at most the product of its norms, it is never
above the product of all norms and all largest slopes. It is linear in m norms a stage, and any
chain may be cut: ``||W_j .. W_i|| <= ||W_j .. W_(s+1)|| ||W_s .. W_i||``.

If all ``f_i`` are elementwise, ``T' = W_m D_(m-1) W_(m-1) .. D_1 W_1`` with
``|D_i| <= beta_i = max(|a_i|, |b_i|)``. Entry by entry ``|T'| <= prod beta |W_m| .. |W_1|``, and
the norm of a matrix is at most that of a nonnegative one whose entries are no smaller. Where each
W has entries of one sign, that chain of absolute values is ``W_m .. W_1`` itself, up to its sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from bigspec.certificate.rounding import UNIT_ROUNDOFF

__all__ = ["Spread", "cover", "one_sign", "product", "recursion", "spread"]

Chain = Callable[[int, int], float]


class Spread(NamedTuple):
    """Centre and radius of the slopes of a step."""

    centre: float
    radius: float

    @property
    def most(self) -> float:
        """The largest slope in magnitude."""
        return abs(self.centre) + self.radius


def spread(low: float, high: float) -> Spread:
    """Return a centre and a radius that enclose ``[low, high]``, whatever is rounded."""
    centre = low / 2 + high / 2
    radius = max(high - centre, centre - low)
    exact = Fraction(centre)
    if radius < max(Fraction(high) - exact, exact - Fraction(low)):
        radius = math.nextafter(radius, math.inf)
    return Spread(centre, radius)


def cover(norms: Mapping[tuple[int, int], float], m: int) -> Chain:
    """Return upper ends for all chains: the least over all ways of cutting one into known ones.

    Parameters
    ----------
    norms : mapping of (i, j) to float
        Upper ends of ``||W_j .. W_i||``, ``1 <= i <= j <= m``; those of ``i = j`` are there.
    m : int
    """
    least: dict[tuple[int, int], float] = {}
    for width in range(m):
        for i in range(1, m - width + 1):
            j = i + width
            cuts = (least[i, s] * least[s + 1, j] for s in range(i, j))
            least[i, j] = min([norms.get((i, j), math.inf), *cuts])
    return lambda i, j: least[i, j]


def _up(value: float, m: int) -> float:
    """Round outwards: so many products and sums of positive numbers."""
    return value * (1 + 4 * (m + 4) ** 2 * UNIT_ROUNDOFF)


def product(spreads: Sequence[Spread], chain: Chain) -> float:
    """Return the product of all norms and of all largest slopes."""
    m = len(spreads) + 1
    value = math.prod(chain(i, i) for i in range(1, m + 1)) * math.prod(s.most for s in spreads)
    return _up(value, m)


def recursion(spreads: Sequence[Spread], chain: Chain) -> float:
    """Return ``theta_m`` of the header.

    Parameters
    ----------
    spreads : sequence of Spread
        Of ``f_1 .. f_(m-1)``.
    chain : callable
        ``chain(i, j)`` is at least ``||W_j .. W_i||``.
    """
    m = len(spreads) + 1
    theta = [1.0]
    for j in range(1, m + 1):
        total, passed = 0.0, 1.0  # |c_(k+1) .. c_(j-1)|
        for k in range(j - 1, 0, -1):
            if passed:
                total += spreads[k - 1].radius * passed * chain(k + 1, j) * theta[k]
            passed *= abs(spreads[k - 1].centre)
        theta.append(total + (passed * chain(1, j) if passed else 0.0))
    return _up(theta[m], m)


def one_sign(spreads: Sequence[Spread], whole: float) -> float:
    """Return the bound of a stack of matrices of one sign each, from ``||W_m .. W_1||``."""
    return _up(whole * math.prod(s.most for s in spreads), len(spreads) + 1)
