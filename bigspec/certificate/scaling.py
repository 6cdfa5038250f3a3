r"""The factor that brings a norm to a limit, with the rounding of what is written.

Let ``lower <= ||W|| <= upper``, f a factor in float64, and W' what is stored of ``f W``: each real
component w becomes ``fl_s(fl(f w))``, rounded to float64 and then to the type s that is stored,

    |w' - f w| <= rho f |w| + eta,    rho = (1 + u) (1 + u_s) - 1,

where u and u_s are the unit roundoffs, and eta is half the smallest positive number of each type,
for what underflows. With c components that are stored and S at least ``|| |W| ||_2`` (the Frobenius
norm is), Perron-Frobenius and Cauchy-Schwarz give

    f (lower - rho S) - sqrt(c) eta  <=  ||W'||  <=  f (upper + rho S) + sqrt(c) eta.

Both ends are a worst case over all roundings. `FINE` covers the few roundings of these formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.errors import ArgumentError

__all__ = ["Storage", "factor_above", "factor_below", "scaled_interval"]

FINE = 32 * UNIT_ROUNDOFF
SMALLEST = 5e-324  # of float64


@dataclass(frozen=True)
class Storage:
    """How entries are stored, and how many.

    Attributes
    ----------
    unit : float
        Unit roundoff of the type.
    smallest : float
        Its smallest positive number, subnormal if it has such.
    components : int
        Real numbers that are stored: two of a complex entry; of a sparse matrix those stored.
    work : float
        Unit roundoff of the type that products are made in, float64's if nothing else is said.
    """

    unit: float
    smallest: float
    components: int
    work: float = UNIT_ROUNDOFF

    @classmethod
    def of(cls, dtype: np.dtype[Any], entries: int) -> Storage:
        """Return that of a NumPy type, for a number of entries."""
        kind = np.finfo(dtype)
        unit = float(kind.eps) / 2
        return cls(unit, float(kind.smallest_subnormal), entries * (1 + (dtype.kind == "c")))

    @property
    def relative(self) -> float:
        """The rho of the header."""
        return self.unit + self.work * (1.0 + self.unit)

    @property
    def absolute(self) -> float:
        """The term ``sqrt(c) eta`` of the header."""
        return math.sqrt(self.components) * (self.smallest + SMALLEST) / 2


def factor_below(upper: float, size: float, to: float, storage: Storage) -> float:
    """Return f such that what is stored of ``f W`` has a norm of at most `to`.

    Parameters
    ----------
    upper : float
        ``||W|| <= upper``, positive.
    size : float
        At least ``|| |W| ||_2``, such as the Frobenius norm.
    to : float
    storage : Storage

    Raises
    ------
    ArgumentError
        What underflows in this type may alone reach `to`, or the factor overflows.
    """
    room = to - storage.absolute
    factor = room / (upper + storage.relative * size) * (1 - FINE)
    return _checked(factor if room > to / 2 else 0.0, to, storage)


def factor_above(lower: float, size: float, to: float, storage: Storage) -> float:
    """Return f such that what is stored of ``f W`` has a norm of at least `to`.

    Parameters
    ----------
    lower : float
        ``||W|| >= lower``.
    size, to, storage
        As of `factor_below`.

    Raises
    ------
    ArgumentError
        Rounding to this type may take more than half of the norm, or the factor overflows.
    """
    left = lower - storage.relative * size
    fits = left > lower / 2 and storage.absolute < to / 2
    factor = (to + storage.absolute) / left * (1 + FINE) if fits else 0.0
    return _checked(factor, to, storage)


def scaled_interval(
    lower: float, upper: float, size: float, factor: float, storage: Storage
) -> tuple[float, float]:
    """Return the interval of the norm of what is stored of ``factor W``, rounded outwards."""
    rounding = storage.relative * size
    least = factor * (lower - rounding) * (1 - FINE) - storage.absolute
    most = factor * (upper + rounding) * (1 + FINE) + storage.absolute
    return max(least, 0.0), most


def _checked(factor: float, to: float, storage: Storage) -> float:
    if factor > 0.0 and math.isfinite(factor):
        return factor
    msg = (
        f"to: expected a norm that this type can be brought to, got {to!r} for a type of unit "
        f"roundoff {storage.unit:.1e} whose smallest number is {storage.smallest:.1e}; give a "
        "wider dtype, or another norm"
    )
    raise ArgumentError(msg)
