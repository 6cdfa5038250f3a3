"""How the numbers of one or more tensors become the matrix of a row."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.errors import DataError
from bigspec.kernels.entries import scale_entries, working_dtype
from bigspec.networks.tensors import Tensor

__all__ = [
    "Form",
    "Kronecker",
    "Masked",
    "Part",
    "Product",
    "Read",
    "Scaled",
    "Spectral",
    "WeightNorm",
    "lengthened",
    "normalised",
    "packed",
    "scale_of",
    "wide",
    "with_alpha",
]

Array = np.ndarray[Any, Any]
Read = Callable[[Tensor], Array]
"""Reads a tensor; a task reads each of its tensors once."""


class Form(ABC):
    """What a row's matrix is made of."""

    @property
    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that are read."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that are held while the matrix is looked at."""

    def load(self, read: Read) -> Array:
        """Return the matrix, as stored where that is possible, else in float64."""
        raise NotImplementedError


@dataclass(frozen=True)
class Part(Form):
    """A tensor, or a part of it, seen as a matrix: `view` folds, `index` cuts.

    Attributes
    ----------
    tensor : Tensor
    view : tuple of int
        Shape in which the tensor is seen before it is cut.
    index : tuple of (int or slice)
    first : int
        The axis that makes the rows of a kernel; the others make the columns.
    """

    tensor: Tensor
    view: tuple[int, ...]
    index: tuple[Any, ...] = ()
    first: int = 0

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensor."""
        return (self.tensor,)

    @property
    def nbytes(self) -> int:
        """Its entries, and four bytes each if they are decoded."""
        return self.tensor.nbytes + (4 * self.tensor.size if packed(self.tensor) else 0)

    def load(self, read: Read) -> Array:
        """Return the part; a view wherever NumPy makes one."""
        whole = read(self.tensor)
        if self.first:
            whole = np.moveaxis(whole, self.first, 0)
        seen = whole.reshape(self.view)
        return seen[self.index] if self.index else seen


@dataclass(frozen=True)
class Spectral(Part):
    """A weight under spectral normalisation, and the vectors of its power iteration."""

    u: Tensor | None = None
    v: Tensor | None = None
    either: bool = False
    """Whether shapes leave open which of the first two axes u and v belong to."""

    def load(self, read: Read) -> Array:
        """Return the matrix; of two that it may be, the one that u and v fit better."""
        first = super().load(read)
        if not self.either or self.u is None or self.v is None:
            return first
        second = np.moveaxis(read(self.tensor), 1, 0).reshape(self.view)
        u, v = wide(read(self.u)), wide(read(self.v))
        with np.errstate(invalid="ignore", over="ignore"):
            fits = [abs(np.vdot(u, wide(one) @ v)) for one in (first, second)]
        return second if fits[1] > fits[0] else first


@dataclass(frozen=True)
class Masked(Form):
    """A pruned weight: what is stored, times a mask of the same shape."""

    weight: Tensor
    mask: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Weight and mask."""
        return self.weight, self.mask

    @property
    def nbytes(self) -> int:
        """Both, and their product in float64."""
        return self.weight.nbytes + self.mask.nbytes + 16 * self.weight.size

    def load(self, read: Read) -> Array:
        """Return the product in float64, its first axis against the others."""
        product = wide(read(self.weight)) * wide(read(self.mask))
        return product.reshape(len(product), -1)


@dataclass(frozen=True)
class Scaled(Form):
    """A weight of 8-bit floats and the scales that it is multiplied by.

    Attributes
    ----------
    weight, scale : Tensor
    block : tuple of int
        Rows and columns that share a scale.
    """

    weight: Tensor
    scale: Tensor
    block: tuple[int, int]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Weight and scale."""
        return self.weight, self.scale

    @property
    def nbytes(self) -> int:
        """The weight, and its product in float64."""
        return self.weight.nbytes + 8 * self.weight.size

    def load(self, read: Read) -> Array:
        """Return weight times scale in float64, which has room for both exactly."""
        m, n = self.weight.shape
        product = np.asarray(read(self.weight)).astype(np.float64)
        scale = np.asarray(read(self.scale)).astype(np.float64)
        (bm, bn) = self.block
        scale = scale.reshape(-(-m // bm), -(-n // bn))
        for k, row in enumerate(scale):
            product[k * bm : (k + 1) * bm] *= np.repeat(row, bn)[:n]
        return product


@dataclass(frozen=True)
class WeightNorm(Form):
    """Weight normalisation: direction v with its slices scaled to the lengths g."""

    g: Tensor
    v: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Lengths and directions."""
        return self.g, self.v

    @property
    def nbytes(self) -> int:
        """The directions, and the weight in float64."""
        return self.v.nbytes + 8 * self.v.size

    def load(self, read: Read) -> Array:
        """Return ``g v / ||v||`` in float64, its first axis against the others."""
        v, g = (wide(read(t)) for t in (self.v, self.g))
        others = tuple(k for k in range(v.ndim) if g.shape[k] == 1)
        weight = lengthened(v, g, others)
        return np.asarray(weight.reshape(len(weight), -1))

    @property
    def by_rows(self) -> bool:
        """Whether each row has a length of its own, which needs that row alone."""
        one = all(length == 1 for length in self.g.shape[1:])
        return one and self.g.shape[0] == self.v.shape[0]


def lengthened(v: Array, g: Array, others: tuple[int, ...]) -> Array:
    """Return ``g v / ||v||``, the norms along the axes `others`. `v` is overwritten."""
    # A slice of zeros has no direction: NaN, as its layer computes it.
    with np.errstate(invalid="ignore", divide="ignore"):
        peak = np.maximum(np.abs(v.real), np.abs(v.imag)).max(axis=others, keepdims=True)
        v /= np.where(np.isfinite(peak) & (peak > 0.0), peak, 1.0)
        sizes = np.abs(v)
        return np.asarray(g * (v / np.sqrt(np.sum(sizes * sizes, axis=others, keepdims=True))))


@dataclass(frozen=True)
class Product(Form):
    """A low-rank pair: ``scale * up @ down``.

    Attributes
    ----------
    up, down : Tensor
        Shapes (out, r) and (r, in), further axes of kernels folded.
    alpha : float or Tensor or None
        The scale is alpha / r, or alpha / sqrt(r); None: the factors as they are.
    rooted : bool
        Whether it is the root of r.
    """

    up: Tensor
    down: Tensor
    alpha: float | Tensor | None = None
    rooted: bool = False

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All factors, and alpha where it is one."""
        return with_alpha(self.up, self.down, alpha=self.alpha)

    @property
    def rank(self) -> int:
        """Columns of up."""
        return self.down.shape[0]

    @property
    def nbytes(self) -> int:
        """Factors in float64, twice: their QR factorisations."""
        return 16 * sum(t.size for t in self.tensors)

    def scale(self, read: Read) -> float:
        """Return what the product is multiplied by."""
        return scale_of(self.alpha, self.rank, read, rooted=self.rooted)

    def factors(self, read: Read) -> tuple[Array, Array]:
        """Return ``scale * up`` (m, r) and `down` (r, n) in float64 or complex128."""
        up, down = wide(read(self.up)), wide(read(self.down))
        with np.errstate(over="ignore", invalid="ignore"):
            up = up.reshape(-1, self.rank) * self.scale(read)
        return up, down.reshape(self.rank, -1)


@dataclass(frozen=True)
class Kronecker(Form):
    """``scale * kron(first, second)``; each a matrix, or a pair that is multiplied."""

    first: tuple[Tensor, ...]
    second: tuple[Tensor, ...]
    alpha: float | Tensor | None = None
    rank: int = 1

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All factors, and alpha where it is one."""
        return with_alpha(*self.first, *self.second, alpha=self.alpha)

    @property
    def nbytes(self) -> int:
        """Factors in float64, and what makes their norms."""
        return 32 * sum(t.size for t in self.tensors)

    def factors(self, read: Read) -> tuple[tuple[Array, float], tuple[Array, float], int]:
        """Return each factor with what its rounding adds to its norm, and an exponent.

        The product is ``2**exponent`` times that of the factors, whose entries are near 1.
        """
        (first, error, e), (second, other, f) = (
            _multiplied(part, read) for part in (self.first, self.second)
        )
        scale, g = math.frexp(scale_of(self.alpha, self.rank, read))
        first, error = first * scale, abs(scale) * (error + 2 * UNIT_ROUNDOFF * _size(first))
        return (first, error), (second, other), e + f + g


def with_alpha(*factors: Tensor, alpha: float | Tensor | None) -> tuple[Tensor, ...]:
    """Return the factors, and alpha where it is a tensor."""
    return (*factors, alpha) if isinstance(alpha, Tensor) else factors


def scale_of(alpha: float | Tensor | None, rank: int, read: Read, *, rooted: bool = False) -> float:
    """Return alpha over the rank or its root; 1 if there is no alpha.

    Raises
    ------
    DataError
        A stored alpha is not one finite number.
    """
    if alpha is None:
        return 1.0
    if isinstance(alpha, Tensor):
        stored = np.asarray(read(alpha)).astype(np.float64).ravel()
        if stored.size != 1 or not np.isfinite(stored).all():
            msg = f"{alpha.name}: expected one finite number as alpha, got {stored.size} numbers"
            raise DataError(msg)
        alpha = float(stored[0])
    return float(alpha) / (float(np.sqrt(rank)) if rooted else rank)


def wide(array: Array) -> Array:
    """Return a copy in float64 or complex128."""
    plain = np.asarray(array)
    return plain.astype(working_dtype(plain.dtype))


def normalised(array: Array) -> tuple[Array, int]:
    """Return ``2**-e array``, whose largest entry is about 1, and e; NaN and Inf stay."""
    parts = (array.real, array.imag) if array.dtype.kind == "c" else (array,)
    peak = max(float(np.abs(part).max(initial=0.0)) for part in parts)
    exponent = math.frexp(peak)[1] if math.isfinite(peak) else 0
    scaled = array.copy()
    scale_entries(scaled, exponent)
    return scaled, exponent


def _multiplied(tensors: tuple[Tensor, ...], read: Read) -> tuple[Array, float, int]:
    """Return the product of one or two tensors over ``2**e``, a bound of its error, and e."""
    (first, e), *rest = (normalised(wide(read(t))) for t in tensors)
    first, error = first.reshape(len(first), -1), 0.0
    for other, f in rest:
        other = other.reshape(len(other), -1)
        # Higham, Accuracy and Stability, 3.5: sums of r products, in whatever order.
        error = 4 * (len(other) + 1) * UNIT_ROUNDOFF * _size(first) * _size(other)
        with np.errstate(invalid="ignore"):
            first, e = first @ other, e + f
    return first, error, e


def _size(array: Array) -> float:
    return float(np.linalg.norm(array))


def packed(tensor: Tensor) -> bool:
    """Whether it is decoded to be multiplied: no pass takes such a type as it is stored."""
    return tensor.dtype not in PLAIN


PLAIN = {
    "float64", "float32", "float16", "bfloat16", "complex64", "complex128", "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}  # fmt: skip
