r"""The layers of a stack: what they do to points, and how far rounding leads these astray.

A step maps columns. Beside each column travels a bound, in the Euclidean norm, of its distance
from the exact one. At a point it gives a `Local`, its derivative there, with a bound of the same
kind. So the length of ``J v`` is known from below, whatever was rounded on the way.

For a product, ``|fl(W x) - W x| <= g |W| |x|`` with ``g = n u / (1 - n u)`` in any order of the
sums (Higham, Accuracy and Stability, 3.5), and ``|| |W| || <= ||W||_F``. For an activation the
slope at the exact number lies within ``bend e`` of the slope at the rounded one. Where a kink is
within e, only ``[low, high]`` is known of it. By Rademacher's theorem the stack has a derivative
almost everywhere, so that there are points as near as one likes where it has one, with slopes in
these intervals: that derivative is what the bound is about, and no number at a kink is believed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.api.matrices import open_matrix, scaled
from bigspec.api.scores import adjoint_product, scores
from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.errors import UnsupportedTypeError
from bigspec.matrices import Matrix
from bigspec.networks.lipschitz.functions import Activation

__all__ = [
    "EVALUATION",
    "Elementwise",
    "Linear",
    "Local",
    "Point",
    "Scaling",
    "Step",
    "lengths",
    "scaled_columns",
    "scaled_rows",
]

Array = np.ndarray[Any, Any]

EVALUATION = 64 * UNIT_ROUNDOFF
"""Error of a function of one number, of its slope, and of a few operations on them."""
EXTRA = 32  # roundings of an entry besides those of a sum


@dataclass(frozen=True)
class Point:
    """Columns, and how far each may be from the exact one.

    Attributes
    ----------
    x : ndarray (n, p)
    error : ndarray (p,)
    """

    x: Array
    error: Array


def lengths(x: Array) -> Array:
    """Return a bound of the Euclidean norms of columns, from above; no square overflows."""
    peaks = np.abs(x).max(axis=0, initial=0.0)
    units = np.where((peaks > 0) & np.isfinite(peaks), peaks, 1.0)
    norms = np.linalg.norm(x / units, axis=0) * units
    return np.asarray(norms * (1 + (len(x) + 8) * UNIT_ROUNDOFF))


class Local(ABC):
    """The derivative of a step at a point, or at several."""

    @abstractmethod
    def push(self, v: Point) -> Point:
        """Return ``J v``."""

    @abstractmethod
    def pull(self, u: Array) -> Array:
        """Return ``J^T u``, with no bound of its rounding."""

    def at(self, column: int) -> Local:
        """Return the derivative at one of the points."""
        return self


class Step(ABC):
    """A layer.

    Attributes
    ----------
    label : str
        How messages and tables call it.
    low, high : float
        With ``c = (low + high) / 2`` and ``r = (high - low) / 2`` the step is c times the identity
        plus r times a map that stretches no distance.
    elementwise : bool
        Whether it acts on each number by itself, so that a diagonal scaling passes through it.
    inputs, outputs : int or None
        Lengths of vectors; None if it takes any.
    """

    label: str
    low: float
    high: float
    elementwise = False
    inputs: int | None = None
    outputs: int | None = None

    @property
    def linear(self) -> bool:
        """Whether it is a matrix."""
        return False

    @abstractmethod
    def forward(self, point: Point) -> tuple[Point, Local]:
        """Return the images of points, and the derivative there."""


@dataclass
class Linear(Step):
    """A matrix, and a bias that no bound depends on.

    Attributes
    ----------
    matrix : Matrix (m, n)
    label : str
    bias : ndarray (m,) or None
    weights : int
        Rounded diagonal factors in the matrix: of each batch normalisation one.
    size, frobenius, rounding : float
        Upper end of its norm, its Frobenius norm, and the relative rounding of its products; they
        are known once the norms have been computed.
    """

    matrix: Matrix
    label: str
    bias: Array | None = None
    weights: int = 0
    size: float = math.inf
    frobenius: float = math.inf
    rounding: float = 0.0

    @property
    def linear(self) -> bool:
        """It is."""
        return True

    @property
    def inputs(self) -> int:  # type: ignore[override]
        """Columns."""
        return self.matrix.shape[1]

    @property
    def outputs(self) -> int:  # type: ignore[override]
        """Rows."""
        return self.matrix.shape[0]

    def forward(self, point: Point) -> tuple[Point, Local]:
        """Multiply, and add the bias."""
        local = _Product(self)
        image = local.push(point)
        if self.bias is None:
            return image, local
        y = image.x + self.bias[:, None]
        return Point(y, image.error + EVALUATION * lengths(y)), local


@dataclass(frozen=True)
class _Product(Local):
    layer: Linear

    def push(self, v: Point) -> Point:
        layer = self.layer
        m, n = layer.matrix.shape
        rounded = 2 * (max(m, n) + EXTRA) * UNIT_ROUNDOFF
        whole = min(layer.frobenius, math.sqrt(min(m, n)) * layer.size)
        loss = rounded * whole + layer.rounding * layer.size
        y = np.asarray(scores(layer.matrix, v.x))
        return Point(y, layer.size * v.error + loss * lengths(v.x))

    def pull(self, u: Array) -> Array:
        return adjoint_product(self.layer.matrix, u)


@dataclass
class Scaling(Step):
    """A weight for each number, as batch normalisation has once it is trained.

    Attributes
    ----------
    weights : ndarray (n,)
    label : str
    bias : ndarray (n,) or None
    rounded : int
        1 where the weights are rounded, 0 where they are meant as they are.
    """

    weights: Array
    label: str
    bias: Array | None = None
    rounded: int = 0

    @property
    def linear(self) -> bool:
        """It is."""
        return True

    @property
    def inputs(self) -> int:  # type: ignore[override]
        """One for each weight."""
        return len(self.weights)

    @property
    def outputs(self) -> int:  # type: ignore[override]
        """One for each weight."""
        return len(self.weights)

    @property
    def largest(self) -> float:
        """Its norm."""
        return float(np.abs(self.weights).max()) * (1 + 4 * UNIT_ROUNDOFF)

    @property
    def matrix(self) -> Matrix:
        """The diagonal matrix."""
        return _diagonal(self.weights)

    def forward(self, point: Point) -> tuple[Point, Local]:
        """Multiply, and add the bias."""
        error = self.largest * point.error
        y = self.weights[:, None] * point.x
        if self.bias is not None:
            y = y + self.bias[:, None]
        loss = EVALUATION * (lengths(y) + self.largest * lengths(point.x))
        local = _Slopes(self.weights[:, None], np.zeros((1, 1)), self.largest)
        return Point(y, error + loss), local


def scaled_rows(matrix: Matrix, weights: Array) -> list[Matrix]:
    """Return the factors of ``diag(weights) @ matrix``, rightmost first."""
    try:
        return [scaled(matrix, rows=weights)]
    except UnsupportedTypeError:  # an operator that cannot be scaled itself
        return [matrix, _diagonal(weights)]


def scaled_columns(matrix: Matrix, weights: Array) -> list[Matrix]:
    """Return the factors of ``matrix @ diag(weights)``, rightmost first."""
    try:
        return [scaled(matrix, columns=weights)]
    except UnsupportedTypeError:
        return [_diagonal(weights), matrix]


def _diagonal(weights: Array) -> Matrix:
    return open_matrix(sp.csr_array(sp.diags_array(weights)))


@dataclass(frozen=True)
class _Slopes(Local):
    """A diagonal: slopes, how far each may be off, and the largest."""

    slopes: Array
    radii: Array
    largest: float

    def push(self, v: Point) -> Point:
        y = self.slopes * v.x
        unsure = lengths(self.radii * np.abs(v.x)) + EVALUATION * lengths(v.x) * self.largest
        return Point(y, self.largest * v.error + unsure)

    def pull(self, u: Array) -> Array:
        return np.asarray(self.slopes * u)

    def at(self, column: int) -> Local:
        if self.slopes.shape[1] == 1:
            return self
        here = slice(column, column + 1)
        return _Slopes(self.slopes[:, here], self.radii[:, here], self.largest)


class Elementwise(Step):
    """An activation.

    Parameters
    ----------
    activation : Activation
    label : str
    """

    elementwise = True

    def __init__(self, activation: Activation, label: str) -> None:
        self.activation, self.label = activation, label
        self.low, self.high = activation.low, activation.high
        self.inputs = self.outputs = activation.inputs

    def forward(self, point: Point) -> tuple[Point, Local]:
        """Apply it; of a number within its error of a kink, the slope is unsure."""
        x, error, f = point.x, point.error, self.activation
        largest = max(abs(f.low), abs(f.high))
        y, slopes = f.value(x), f.slope(x)
        radii = np.broadcast_to(f.bend * error, x.shape).copy()
        for kink in f.kinks:
            near = np.abs(x - kink) <= error + EVALUATION * (np.abs(x) + abs(kink))
            slopes = np.where(near, (f.low + f.high) / 2, slopes)
            radii = np.where(near, (f.high - f.low) / 2, radii)
        radii += EVALUATION * largest
        image = Point(y, largest * error + EVALUATION * (lengths(y) + lengths(x) * largest))
        return image, _Slopes(np.asarray(slopes), radii, largest)
