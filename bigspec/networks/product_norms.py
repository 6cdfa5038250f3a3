r"""The norms of products whose factors are small: low-rank pairs, Kronecker products, u and v.

*A low-rank pair.* With ``U = Q_1 R_1`` and ``D^H = Q_2 R_2``, the singular values of ``U D`` are
those of the r x r matrix ``R_1 R_2^H``. Householder's QR of an m x r matrix is backward stable:
``U + E = Q_1 R_1`` with ``||E||_F <= c u ||U||_F``, c of the order of ``m r`` in the worst case and
of ``sqrt(m) r`` in the probabilistic model of Higham and Mary that bigspec uses throughout. The
product and its singular values add the same with m = r. So the norm is off by at most

    8 r (sqrt m + sqrt n + 2 sqrt r + 8) u ||U||_F ||D||_F ,

twice that for complex factors. Both are first scaled by powers of 2, so that no square over- or
underflows.

*A Kronecker product.* ``||A x B|| = ||A|| ||B||``, and the same holds for Frobenius norms, largest
entries and largest rows and columns.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.networks.dense import Survey, ends_in_units, in_units
from bigspec.networks.forms import normalised
from bigspec.results import Interval

__all__ = ["kronecker_norm", "kronecker_survey", "product_norm", "product_survey"]

Array = np.ndarray[Any, Any]

ROWS = 256


def product_norm(up: Array, down: Array) -> Interval:
    """Bracket the norm of ``up @ down``, float64 or complex128, shapes (m, r) and (r, n)."""
    (m, r), n = up.shape, down.shape[1]
    (up, first_exponent), (down, second_exponent) = normalised(up), normalised(down)
    first, second = (np.asarray(np.linalg.qr(part, mode="r")) for part in (up, down.T))
    top = float(np.linalg.norm(first @ second.T, 2))
    size = float(np.linalg.norm(up)) * float(np.linalg.norm(down))
    margin = 8 * r * (math.sqrt(m) + math.sqrt(n) + 2 * math.sqrt(r) + 8) * UNIT_ROUNDOFF * size
    margin *= 2 if "c" in (up.dtype.kind, down.dtype.kind) else 1
    name = "QR of both factors"
    ends = ends_in_units(max(top - margin, 0.0), top + margin, first_exponent + second_exponent)
    return Interval(*ends, name, name, True, _share(margin, top))


def product_survey(up: Array, down: Array) -> Survey:
    """Return what a look at the entries of ``up @ down`` shows; they are made in blocks of rows."""
    m, n = len(up), down.shape[1]
    bad = int(np.count_nonzero(~np.isfinite(up)) + np.count_nonzero(~np.isfinite(down)))
    if bad:
        return Survey((m, n), bad, 0, *(math.nan,) * 5, None)
    (up, first_exponent), (down, second_exponent) = normalised(up), normalised(down)
    largest = row = squares = 0.0
    total: complex = 0.0
    columns = np.zeros(n)
    for start in range(0, m, ROWS):
        block = up[start : start + ROWS] @ down
        sizes = np.abs(block)
        lengths = np.einsum("ij,ij->i", sizes, sizes)
        largest = max(largest, float(sizes.max(initial=0.0)))
        row = max(row, float(lengths.max(initial=0.0)))
        squares += float(lengths.sum())
        total += complex(block.sum())
        columns += np.einsum("ij,ij->j", sizes, sizes)
    variance = max(squares / (m * n) - abs(total / (m * n)) ** 2, 0.0)
    exponent = first_exponent + second_exponent
    column = float(columns.max(initial=0.0))
    return Survey(
        shape=(m, n),
        non_finite=0,
        exponent=exponent,
        largest=in_units(largest, exponent),
        largest_row=in_units(math.sqrt(row), exponent),
        largest_column=in_units(math.sqrt(column), exponent),
        frobenius_squared=squares,
        deviation=in_units(math.sqrt(variance), exponent),
        gram=None,
    )


def kronecker_norm(first: Interval, second: Interval, exponent: int) -> Interval:
    """Bracket ``2**exponent ||A x B||`` from both norms."""
    up = 1 + 2 * UNIT_ROUNDOFF
    low, high = first.lower * second.lower / up, first.upper * second.upper * up
    return Interval(
        *ends_in_units(low, high, exponent),
        f"{first.upper_bound} of both factors",
        f"{first.lower_bound} of both factors",
        first.deterministic and second.deterministic,
        first.rounding + second.rounding,
    )


def kronecker_survey(a: Survey, b: Survey, exponent: int) -> Survey:
    """Return what a look at the entries of ``2**exponent A x B`` would show."""
    shape = a.shape[0] * b.shape[0], a.shape[1] * b.shape[1]
    if a.non_finite or b.non_finite:
        return Survey(shape, a.non_finite + b.non_finite, 0, *(math.nan,) * 5, None)
    squares = a.frobenius**2 * b.frobenius**2
    return Survey(
        shape,
        0,
        exponent,
        in_units(a.largest * b.largest, exponent),
        in_units(a.largest_row * b.largest_row, exponent),
        in_units(a.largest_column * b.largest_column, exponent),
        squares,
        in_units(_deviation(a, b, squares, shape), exponent),
        None,
    )


def _deviation(a: Survey, b: Survey, squares: float, shape: tuple[int, int]) -> float:
    """Return the deviation of the entries: their mean is the product of both means."""
    means = []
    for one in (a, b):
        count = one.shape[0] * one.shape[1]
        means.append(max(one.frobenius**2 / count - one.deviation**2, 0.0))
    return math.sqrt(max(squares / (shape[0] * shape[1]) - means[0] * means[1], 0.0))


def _share(margin: float, top: float) -> float:
    return 2 * margin / top if top > 0.0 else 0.0
