"""How the numbers of one or more tensors become the matrix of a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.errors import DataError
from bigspec.networks.tensors import Tensor

__all__ = [
    "Form",
    "Kronecker",
    "Part",
    "Product",
    "Read",
    "Scaled",
    "Spectral",
    "WeightNorm",
    "packed",
    "scale_of",
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
        """Its entries, four bytes each if the file has them packed."""
        return max(self.tensor.nbytes, 4 * self.tensor.size if packed(self.tensor) else 0)

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
        v, g = (np.asarray(read(t)).astype(np.float64) for t in (self.v, self.g))
        others = tuple(k for k in range(v.ndim) if g.shape[k] == 1)
        weight = g * (v / np.sqrt(np.sum(v * v, axis=others, keepdims=True)))
        return np.asarray(weight.reshape(len(weight), -1))


@dataclass(frozen=True)
class Product(Form):
    """A low-rank pair: ``scale * up @ down``.

    Attributes
    ----------
    up, down : tuple of Tensor
        Shapes (out, r) and (r, in), further axes of kernels folded; each a tensor, or two that
        are multiplied.
    alpha : float or Tensor or None
        The scale is alpha / r, or alpha / sqrt(r); None: the factors as they are.
    rooted : bool
        Whether it is the root of r.
    """

    up: tuple[Tensor, ...]
    down: tuple[Tensor, ...]
    alpha: float | Tensor | None = None
    rooted: bool = False

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All factors, and alpha where it is one."""
        alpha = (self.alpha,) if isinstance(self.alpha, Tensor) else ()
        return (*self.up, *self.down, *alpha)

    @property
    def rank(self) -> int:
        """Columns of up."""
        return self.down[0].shape[0]

    @property
    def nbytes(self) -> int:
        """Factors in float64, twice: their QR factorisations."""
        return 16 * sum(t.size for t in self.tensors)

    def scale(self, read: Read) -> float:
        """Return what the product is multiplied by."""
        return scale_of(self.alpha, self.rank, read, rooted=self.rooted)

    def factors(self, read: Read) -> tuple[Array, Array]:
        """Return ``scale * up`` (m, r) and `down` (r, n) in float64."""
        up, down = _multiplied(self.up, read), _multiplied(self.down, read)
        return up.reshape(-1, self.rank) * self.scale(read), down.reshape(self.rank, -1)


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
        alpha = (self.alpha,) if isinstance(self.alpha, Tensor) else ()
        return (*self.first, *self.second, *alpha)

    @property
    def nbytes(self) -> int:
        """Factors in float64, and what makes their norms."""
        return 32 * sum(t.size for t in self.tensors)

    def factors(self, read: Read) -> tuple[Array, Array]:
        """Return the scaled first factor and the second one in float64."""
        first, second = (_multiplied(part, read) for part in (self.first, self.second))
        first = first.reshape(len(first), -1) * scale_of(self.alpha, self.rank, read)
        return first, second.reshape(len(second), -1)


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


def _multiplied(tensors: tuple[Tensor, ...], read: Read) -> Array:
    first, *rest = (np.asarray(read(t)).astype(np.float64) for t in tensors)
    for other in rest:
        first = first.reshape(len(first), -1) @ other.reshape(len(other), -1)
    return np.asarray(first)


def packed(tensor: Tensor) -> bool:
    """Whether reading it decodes it: its type is none of NumPy's or of ml_dtypes."""
    return tensor.dtype not in PLAIN and not tensor.dtype.startswith("float8")


PLAIN = {
    "float64", "float32", "float16", "bfloat16", "complex64", "complex128", "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}  # fmt: skip
