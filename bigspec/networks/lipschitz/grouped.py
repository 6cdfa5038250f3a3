r"""Steps that act on groups of numbers: softmax, sorting, maxima, layer normalisation.

*Softmax.* ``J = diag(p) - p p^T`` is positive semidefinite, and the sum of magnitudes of its row i
is ``2 p_i (1 - p_i) <= 1 / 2`` (Gershgorin): slopes in [0, 1/2], attained at ``p = (1/2, 1/2)``.
``||J(p) - J(q)|| <= max |p - q| + 2 ||p - q|| <= 3/2`` times the distance of the points.

*Sorting and maxima.* Where no two numbers tie, J is a permutation, or chooses one number of each
group. Groups do not overlap, so distances do not grow. Slopes in [-1, 1] (Anil, Lucas and Grosse,
ICML 2019).

*Layer normalisation* of n numbers: with ``u = x - mean(x)`` and ``s^2 = ||u||^2 / n + eps``,
``J = P (I / s - u u^T / (n s^3)) P``, P the projection that takes the mean away. It is symmetric;
its eigenvalues are 0, 1 / s, and ``eps / s^3`` along u. So slopes lie in [0, eps^(-1/2)], and the
upper end is attained at constant x: epsilon alone keeps the constant finite. RMS normalisation is
the same without P. The derivative of J is at most ``6 / (n^(1/2) s^2)``: 1 from ``1 / s``, 2 and 3
from the dyad, as ``||u|| <= n^(1/2) s``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.errors import ArgumentError
from bigspec.networks.lipschitz.steps import EVALUATION, Local, Point, Step, lengths

__all__ = ["GroupSort", "Grouped", "Maxima", "Normalised", "Softmax"]

Array = np.ndarray[Any, Any]


class Grouped(Step):
    """A step that acts on consecutive groups.

    Parameters
    ----------
    label : str
    size : int or None
        Numbers in a group; None if all are one group.
    """

    def __init__(self, label: str, size: int | None) -> None:
        self.label, self.size = label, size

    def fit(self, inputs: int) -> None:
        """Learn how many numbers there are.

        Raises
        ------
        ArgumentError
            They are no whole number of groups.
        """
        size = self.size or inputs
        if inputs % size:
            msg = f"{self.label}: expected a multiple of {size} numbers, got {inputs}"
            raise ArgumentError(msg)
        self.inputs, self.outputs = inputs, self._outputs(inputs, size)

    def fit_before(self, outputs: int) -> int:
        """Learn how many numbers there are from how many it must give, and return that."""
        self.fit(outputs)
        return outputs

    def _outputs(self, inputs: int, size: int) -> int:
        return inputs

    def forward(self, point: Point) -> tuple[Point, Local]:
        """Apply it to every group."""
        n, p = point.x.shape
        size = self.size or n
        # groups first, then the numbers of each, then the columns
        image, local = self._apply(point.x.reshape(n // size, size, p), point.error)
        return Point(image.x.reshape(-1, p), image.error), _Groups(local, size)

    @abstractmethod
    def _apply(self, x: Array, error: Array) -> tuple[Point, _Inner]:
        """Apply it to an array (groups, size, p)."""


class _Inner:
    """A derivative on arrays (groups, size, p); `largest` bounds its norm everywhere."""

    largest: float = 1.0

    def push(self, v: Array, lengths_: Array) -> tuple[Array, Array]:
        """Return ``J v`` and how far it may be off for the point and rounding alone."""
        raise NotImplementedError

    def pull(self, u: Array) -> Array:
        """Return ``J^T u``."""
        raise NotImplementedError

    def at(self, column: int) -> _Inner:
        """Return the derivative at one point."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Groups(Local):
    inner: _Inner
    size: int

    def push(self, v: Point) -> Point:
        n, p = v.x.shape
        y, off = self.inner.push(v.x.reshape(n // self.size, self.size, p), lengths(v.x))
        return Point(y.reshape(-1, p), self.inner.largest * v.error + off)

    def pull(self, u: Array) -> Array:
        groups = self.inner.pull(u.reshape(-1, *self._inside(u), u.shape[1]))
        return groups.reshape(-1, u.shape[1])

    def _inside(self, u: Array) -> tuple[int]:
        inside = self.size
        if isinstance(self.inner, _Chosen):
            inside = self.inner.places.shape[1]
        return (inside,)

    def at(self, column: int) -> Local:
        return _Groups(self.inner.at(column), self.size)


class Softmax(Grouped):
    """``exp(x) / sum(exp(x))`` of each group."""

    low, high = 0.0, 0.5

    def _apply(self, x: Array, error: Array) -> tuple[Point, _Inner]:
        p = np.exp(x - x.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        # The exponent of a small number has the error of the difference: relative u |x|.
        spread_ = 2 + np.abs(x).max(axis=(0, 1))
        rounded = (x.shape[1] + spread_) * EVALUATION * math.sqrt(len(x))
        return Point(p, 0.5 * error + rounded), _SoftmaxSlopes(p, 1.5 * error + 3 * rounded)


@dataclass(frozen=True)
class _SoftmaxSlopes(_Inner):
    p: Array
    off: Array
    largest: float = 0.5

    def push(self, v: Array, lengths_: Array) -> tuple[Array, Array]:
        y = self.p * (v - (self.p * v).sum(axis=1, keepdims=True))
        return y, (self.off + (v.shape[1] + 2) * EVALUATION) * lengths_

    def pull(self, u: Array) -> Array:
        return self.push(u, np.zeros(u.shape[2]))[0]

    def at(self, column: int) -> _Inner:
        here = slice(column, column + 1)
        return _SoftmaxSlopes(self.p[..., here], self.off[here])


@dataclass(frozen=True)
class _Chosen(_Inner):
    """Numbers of each group by their places; `unsure` groups had a tie within the error."""

    places: Array
    unsure: Array
    size: int
    largest: float = 1.0

    def push(self, v: Array, lengths_: Array) -> tuple[Array, Array]:
        places = np.broadcast_to(self.places, (*self.places.shape[:2], v.shape[2]))
        y = np.take_along_axis(v, places, axis=1)
        norms = np.linalg.norm(np.where(self.unsure, v, 0.0), axis=(0, 1))
        return y, 2 * norms * (1 + v.size * EVALUATION)

    def pull(self, u: Array) -> Array:
        out = np.zeros((len(u), self.size, u.shape[2]))
        places = np.broadcast_to(self.places, u.shape)
        np.put_along_axis(out, places, u, axis=1)
        return out

    def at(self, column: int) -> _Inner:
        here = slice(column, column + 1)
        return _Chosen(self.places[..., here], self.unsure[..., here], self.size)


def _ties(ordered: Array, error: Array) -> Array:
    """Return whether neighbours in an ordered group are nearer than two errors."""
    gaps = np.diff(ordered, axis=1)
    fine = 2 * error + EVALUATION * np.abs(ordered).max(axis=1, keepdims=True)
    return np.asarray((np.abs(gaps) <= fine).any(axis=1, keepdims=True))


class GroupSort(Grouped):
    """Each group in descending order; of groups of two it is MaxMin."""

    low, high = -1.0, 1.0

    def _apply(self, x: Array, error: Array) -> tuple[Point, _Inner]:
        places = np.argsort(-x, axis=1, kind="stable")
        ordered = np.take_along_axis(x, places, axis=1)
        return Point(ordered, error), _Chosen(places, _ties(ordered, error), x.shape[1])


class Maxima(Grouped):
    """The largest number of each group: maxout."""

    low, high = -1.0, 1.0

    def fit_before(self, outputs: int) -> int:
        """Learn how many numbers there are from how many it must give, and return that."""
        inputs = outputs * (self.size or 1)
        self.fit(inputs)
        return inputs

    def _outputs(self, inputs: int, size: int) -> int:
        return inputs // size

    def _apply(self, x: Array, error: Array) -> tuple[Point, _Inner]:
        places = np.argmax(x, axis=1, keepdims=True)
        ordered = -np.sort(-x, axis=1)[:, :2]
        return Point(x.max(axis=1, keepdims=True), error), _Chosen(
            places, _ties(ordered, error), x.shape[1]
        )


class Normalised(Grouped):
    """Layer normalisation without its weights, or RMS normalisation.

    Parameters
    ----------
    label : str
    size : int or None
    epsilon : float
    centred : bool
        Whether the mean is taken away.
    """

    def __init__(self, label: str, size: int | None, epsilon: float, *, centred: bool) -> None:
        super().__init__(label, size)
        real = isinstance(epsilon, (int, float)) and not isinstance(epsilon, bool)
        if not (real and math.isfinite(epsilon) and epsilon > 0):
            msg = (
                f"{label}: expected epsilon > 0, got {epsilon!r}: without it the map has no "
                "Lipschitz constant, as its slope at constant inputs is epsilon^(-1/2)"
            )
            raise ArgumentError(msg)
        self.epsilon, self.centred, self.low = float(epsilon), centred, 0.0
        self.high = math.nextafter(math.nextafter(self.epsilon**-0.5, math.inf), math.inf)

    def _apply(self, x: Array, error: Array) -> tuple[Point, _Inner]:
        n = x.shape[1]
        u = x - x.mean(axis=1, keepdims=True) if self.centred else x
        s = np.sqrt((u * u).mean(axis=1, keepdims=True) + self.epsilon)
        # The rounding of u counts as one of x: at most so much of its length.
        rounded = error + (n + 8) * EVALUATION * np.linalg.norm(x, axis=1).max(axis=0)
        least = np.maximum(s - rounded / math.sqrt(n), self.epsilon**0.5).min(axis=(0, 1))
        slopes = _NormalisedSlopes(
            u, s, 6 * rounded / (math.sqrt(n) * least**2), self.high, self.centred
        )
        y = u / s
        loss = (n + 8) * EVALUATION * math.sqrt(x.shape[0] * n)
        return Point(y, self.high * (error + rounded) + loss), slopes


@dataclass(frozen=True)
class _NormalisedSlopes(_Inner):
    u: Array
    s: Array
    off: Array
    largest: float
    centred: bool = True

    def push(self, v: Array, lengths_: Array) -> tuple[Array, Array]:
        n = v.shape[1]
        w = v - v.mean(axis=1, keepdims=True) if self.centred else v
        along = (self.u * w).sum(axis=1, keepdims=True) / (n * self.s**2)
        y = (w - self.u * along) / self.s
        return y, (self.off + (n + 8) * EVALUATION * self.largest) * lengths_

    def pull(self, u: Array) -> Array:
        return self.push(u, np.zeros(u.shape[2]))[0]

    def at(self, column: int) -> _Inner:
        here = slice(column, column + 1)
        return _NormalisedSlopes(
            self.u[..., here], self.s[..., here], self.off[here], self.largest, self.centred
        )
