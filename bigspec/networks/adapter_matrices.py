r"""Adapters whose matrix is made in memory: LoHa, and differences of Kronecker products.

The matrix R that is made differs from the one that is meant by rounding alone, and the norm by at
most the Frobenius norm of that. With ``g_r = (r + 1) u`` for sums of r products in any order
(Higham, Accuracy and Stability, 3.5), ``M_k = |A_k| |B_k|``, and s the scale:

- LoHa, ``s (A_1 B_1) o (A_2 B_2)``, entry by entry: each product is off by at most ``g_r M_k``, and
  its size is at most ``M_k``. Multiplying rounds twice more. So the error is at most
  ``|s| (g_1 + g_2 + 4 u) M_1 o M_2`` to first order, and `GUARD` times that with the rest.
- ``A x B``: where A and B are off by a and b in the Frobenius norm, the product is off by at most
  ``a ||B||_F + ||A||_F b + a b + u ||A||_F ||B||_F``.
- A difference adds both errors, and ``u ||R||_F``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.networks.dense import in_units
from bigspec.networks.forms import Form, Kronecker, Read, normalised, scale_of, wide, with_alpha
from bigspec.networks.tensors import Tensor

__all__ = ["Hadamard", "dense_of", "difference_of"]

Array = np.ndarray[Any, Any]

GUARD = 4  # also covers complex products
TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Hadamard(Form):
    """LoHa: ``scale * (a_1 b_1) o (a_2 b_2)``, an entrywise product of two low-rank ones.

    Attributes
    ----------
    first, second : (Tensor, Tensor)
        Shapes (m, r) and (r, n).
    alpha : float or Tensor or None
        The scale is alpha / r; None: as it is.
    """

    first: tuple[Tensor, Tensor]
    second: tuple[Tensor, Tensor]
    alpha: float | Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All factors, and alpha where it is one."""
        return with_alpha(*self.first, *self.second, alpha=self.alpha)

    @property
    def nbytes(self) -> int:
        """Both products, the sizes of their terms, and the result, in float64."""
        m, n = self.first[0].shape[0], self.first[1].size // self.first[1].shape[0]
        return 16 * sum(tensor.size for tensor in self.tensors) + 48 * m * n

    def dense(self, read: Read) -> tuple[Array, float]:
        """Return the matrix, and a bound of its error in the Frobenius norm."""
        (P, M, e, r), (Q, N, f, t) = (_multiplied(pair, read) for pair in (self.first, self.second))
        scale, g = math.frexp(scale_of(self.alpha, self.first[1].shape[0], read))
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            P *= Q
            M *= N
            error = GUARD * abs(scale) * (r + t + 6) * UNIT_ROUNDOFF * float(np.linalg.norm(M))
            return _in_units(P * scale, error, e + f + g)


def dense_of(form: Hadamard | Kronecker, read: Read) -> tuple[Array, float]:
    """Return the matrix of a form, and a bound of its error in the Frobenius norm."""
    if isinstance(form, Hadamard):
        return form.dense(read)
    (A, a), (B, b), exponent = form.factors(read)
    size, other = float(np.linalg.norm(A)), float(np.linalg.norm(B))
    error = a * other + size * b + a * b + GUARD * UNIT_ROUNDOFF * size * other
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return _in_units(np.kron(A, B), error, exponent)


def difference_of(
    first: Hadamard | Kronecker, second: Hadamard | Kronecker, read: Read
) -> tuple[Array, Array, float, float]:
    """Return ``A - B``, B, and bounds of the errors of both."""
    (A, a), (B, b) = (dense_of(form, read) for form in (first, second))
    with np.errstate(over="ignore", invalid="ignore"):
        A -= B
        return A, B, a + b + GUARD * UNIT_ROUNDOFF * _length(A), b


def _length(array: Array) -> float:
    """Return the Frobenius norm, whose squares neither over- nor underflow."""
    scaled, exponent = normalised(array)
    return in_units(float(np.linalg.norm(scaled)), exponent)


def _multiplied(pair: tuple[Tensor, Tensor], read: Read) -> tuple[Array, Array, int, int]:
    """Return ``a b`` and ``|a| |b|`` over ``2**e``, e, and the length of the sums."""
    (a, e), (b, f) = (normalised(wide(read(tensor))) for tensor in pair)
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    with np.errstate(invalid="ignore", under="ignore"):
        return a @ b, np.abs(a) @ np.abs(b), e + f, len(b)


def _in_units(array: Array, error: float, exponent: int) -> tuple[Array, float]:
    """Return both times ``2**exponent``; what underflows counts as an error."""
    scaled = np.ldexp(array, exponent) if array.dtype.kind == "f" else array * 2.0**exponent
    lost = TINY * array.size
    return scaled, in_units(error, exponent) * (1 + 4 * UNIT_ROUNDOFF) + lost
