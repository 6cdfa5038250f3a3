"""Lower quantiles of Gaussian matrices: the only place where probability enters."""

from __future__ import annotations

import math
from functools import lru_cache

from scipy.special import gammaincinv

__all__ = ["column_quantile", "smallest_singular_quantile"]


def column_quantile(delta: float, b: int, *, complex_: bool = False) -> float:
    """Return q with ``P(||G^H x||^2 < q) = delta`` for a fixed unit x and Gaussian G (n, b).

    Real: ``||G^H x||^2`` is chi-square with b degrees of freedom. Complex (real and imaginary
    parts N(0, 1/2)): Gamma(b, 1). Both are incomplete gamma functions, which SciPy inverts
    accurately down to delta = 1e-300; ``chi2.ppf`` wraps the same function.
    """
    if complex_:
        return float(gammaincinv(b, delta))
    return 2.0 * float(gammaincinv(b / 2, delta))


@lru_cache(maxsize=256)
def smallest_singular_quantile(delta: float, b: int, r: int, *, complex_: bool = False) -> float:
    """Return q with ``P(sigma_min(G)^2 < q) <= delta`` for a Gaussian G of shape (b, r), r <= b.

    The larger of two valid lower quantiles. For the first, ``sigma_min^2`` is at least the
    smallest squared distance of a column from the span of the others, divided by r. Each distance
    is chi-square with ``p = b - r + 1`` degrees of freedom, and a union bound covers the r
    columns. For r = 1 it is exact. The second, real only, is ``(p / (e sqrt b) delta^(1/p))^2``
    (Chen & Dongarra 2005; Halko, Martinsson & Tropp 2011, Prop. 10.4).
    """
    p = b - r + 1
    union = column_quantile(delta / r, p, complex_=complex_) / r
    if complex_ or r == 1:
        return union
    tail = (p / (math.e * math.sqrt(b)) * float(delta) ** (1.0 / p)) ** 2
    return float(max(union, tail))
