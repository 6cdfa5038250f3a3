r"""Positive weights between the layers, for which the product of norms is small.

An elementwise f with slopes in [a, b] stays one when it is scaled: ``g(y) = L f(L^-1 y)`` for a
positive diagonal L has the slopes of f at other points. So ``W_(i+1) f_i W_i`` is the same map as
``(W_(i+1) L^-1) g (L W_i)``, and any positive L gives bounds that hold.
Nothing that is computed here needs a proof: the norms of the scaled matrices are certified after.

The search is for ``l = log L``: ``sum_i log ||L_i W_i L_(i-1)^-1||`` is convex in it. Every matrix
keeps a few dozen orthonormal columns. A step multiplies them once by the scaled matrix and its
adjoint, which is subspace iteration; the Ritz vectors give the gradient, ``u^2`` for the rows and
``-v^2`` for the columns, averaged over the largest Ritz values with weights that sharpen from step
to step, for the largest alone is not differentiable where two meet. Steps are Adam's (Kingma and
Ba, ICLR 2015), and the best weights of all steps are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.api.scores import adjoint_product, scores
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.passes import one_blas_thread

__all__ = ["DENSE", "Action", "action", "find_weights"]

Array = np.ndarray[Any, Any]

COLUMNS = 32
STEPS = 100
RATE = 0.1  # of change of log L in a step, at first; it falls to 0
SHARPNESS = 8.0, 128.0  # exponent of a Ritz value in the average, at first and at last
FIRST = 6  # subspace iterations before a value is compared
MOMENTS = 0.9, 0.99
DENSE = 1 << 25  # entries of all matrices that are held as arrays while weights are sought
LARGEST = 30.0  # of |log L|: weights of a dead unit would grow without end


@dataclass(frozen=True)
class Action:
    """A matrix as its products.

    Attributes
    ----------
    shape : tuple of int
    times, adjoint : callable
    signs : tuple of bool
        Whether all entries are known to be at least 0, and at most 0; of a chain, whether each
        of its factors has entries of one sign.
    """

    shape: tuple[int, int]
    times: Callable[[Array], Array]
    adjoint: Callable[[Array], Array]
    signs: tuple[bool, bool] = (False, False)


def action(factors: Sequence[Matrix], most: int) -> Action:
    """Return a chain, rightmost factor first, as its products.

    Parameters
    ----------
    factors : sequence of Matrix
    most : int
        Entries of one that is held as an array.
    """
    shape = factors[-1].shape[0], factors[0].shape[1]
    parts = [_single(factor, most) for factor in factors]

    def times(V: Array) -> Array:
        for part in parts:
            V = part.times(V)
        return V

    def adjoint(U: Array) -> Array:
        for part in reversed(parts):
            U = part.adjoint(U)
        return U

    known = all(any(part.signs) for part in parts)
    return parts[0] if len(parts) == 1 else Action(shape, times, adjoint, (known, known))


def _single(matrix: Matrix, most: int) -> Action:
    m, n = matrix.shape
    if isinstance(matrix, OperatorMatrix) or m * n > most:
        return Action(
            matrix.shape,
            lambda V: np.asarray(scores(matrix, V)),
            lambda U: adjoint_product(matrix, U),
        )
    array = np.asarray(scores(matrix, np.eye(n)))
    signs = bool((array >= 0).all()), bool((array <= 0).all())
    return Action(matrix.shape, lambda V: array @ V, lambda U: array.T @ U, signs)


def find_weights(
    slots: Sequence[Action | None], ties: Sequence[int], seed: int
) -> list[Array | None]:
    """Return positive weights between consecutive slots; None where there are to be none.

    Parameters
    ----------
    slots : sequence of Action or None
        ``W_1 .. W_m``; None for the identity.
    ties : sequence of int
        For each of the m - 1 places how many numbers in a row share a weight: the positions of a
        channel of a convolution, which stays one, or 1. 0 where no weights may be.
    seed : int
        Of the first columns.

    Notes
    -----
    Cost: of each matrix twice `STEPS` + 2 `FIRST` products with `COLUMNS` columns, half as many of
    its adjoint, and a QR factorisation of these columns in each step.
    """
    if not any(ties):
        return [None] * len(ties)
    rng = np.random.default_rng(seed)
    with one_blas_thread():
        spaces = [None if slot is None else _Space(slot, rng) for slot in slots]
        best = _descend(spaces, ties, _first(spaces, ties))
    return [np.repeat(np.exp(log), tie) if log.size else None
            for log, tie in zip(best, ties, strict=True)]  # fmt: skip


def _first(spaces: Sequence[_Space | None], ties: Sequence[int]) -> list[Array]:
    """Return where the descent begins: at 0, or where rows and columns balance, if that is lower.

    Between two matrices ``L_j^2`` is then the norm of column j of the second over that of row j of
    the first (Osborne 1960), as far as a few random columns show them.
    """
    balanced = []
    for left, right, tie in zip(spaces[:-1], spaces[1:], ties, strict=True):
        if not tie or left is None or right is None:
            balanced.append(np.zeros(0))
            continue
        rows, columns = (e.reshape(-1, tie).sum(axis=1) for e in (left.rows, right.across))
        known = (rows > 0) & (columns > 0)
        ratio = np.where(known, columns, 1.0) / np.where(known, rows, 1.0)
        balanced.append(np.clip(np.log(ratio) / 4, -LARGEST, LARGEST))
    plain = [np.zeros_like(log) for log in balanced]
    values = []
    for logs in (plain, balanced):
        for _ in range(FIRST):
            value, _ = _gradient(spaces, ties, logs, SHARPNESS[0])
        values.append(value)
    return plain if values[0] <= values[1] else balanced


def _descend(
    spaces: Sequence[_Space | None], ties: Sequence[int], logs: list[Array]
) -> list[Array]:
    """Return the logarithms of the best weights of all steps."""
    means, squares = ([np.zeros_like(log) for log in logs] for _ in range(2))
    least, best = np.inf, logs
    for step in range(STEPS):
        progress = step / STEPS
        sharpness = SHARPNESS[0] * (SHARPNESS[1] / SHARPNESS[0]) ** progress
        value, gradients = _gradient(spaces, ties, logs, sharpness)
        if value < least:
            least, best = value, logs
        moved = []
        for k, gradient in enumerate(gradients):
            means[k] = MOMENTS[0] * means[k] + (1 - MOMENTS[0]) * gradient
            squares[k] = MOMENTS[1] * squares[k] + (1 - MOMENTS[1]) * gradient**2
            mean = means[k] / (1 - MOMENTS[0] ** (step + 1))
            size = np.sqrt(squares[k] / (1 - MOMENTS[1] ** (step + 1)))
            change = RATE * (1 - progress) * mean / np.where(size > 0, size, 1.0)
            moved.append(np.clip(logs[k] - change, -LARGEST, LARGEST))
        logs = moved
    return best


def _gradient(
    spaces: Sequence[_Space | None], ties: Sequence[int], logs: Sequence[Array], sharpness: float
) -> tuple[float, list[Array]]:
    """Return the sum of the logarithms of all norms, and its gradient for each place."""
    gradients, total = [np.zeros_like(log) for log in logs], 0.0
    for i, space in enumerate(spaces):
        if space is None:
            continue
        after = i if i < len(logs) and logs[i].size else None
        before = i - 1 if i and logs[i - 1].size else None
        rows = None if after is None else np.repeat(np.exp(logs[after]), ties[after])
        columns = None if before is None else np.repeat(np.exp(-logs[before]), ties[before])
        part, by_row, by_column = space.advance(rows, columns, sharpness)
        total += part
        if after is not None:
            gradients[after] += by_row.reshape(-1, ties[after]).sum(axis=1)
        if before is not None:
            gradients[before] -= by_column.reshape(-1, ties[before]).sum(axis=1)
    return total, gradients


class _Space:
    """Columns near the leading right vectors of a matrix, while it is scaled.

    Parameters
    ----------
    slot : Action
    rng : Generator
    """

    def __init__(self, slot: Action, rng: np.random.Generator) -> None:
        start = rng.standard_normal((slot.shape[1], min(COLUMNS, *slot.shape)))
        # Over its size, so that no square overflows: weights do not mind.
        self.size = float(np.abs(slot.times(start)).max(initial=0.0)) or 1.0
        self.slot, self.columns = slot, np.linalg.qr(start)[0]
        # Squared lengths of rows and columns, times the number of random columns.
        self.rows = np.sum((slot.times(start) / self.size) ** 2, axis=1)
        other = rng.standard_normal((slot.shape[0], start.shape[1]))
        self.across = np.sum((slot.adjoint(other) / self.size) ** 2, axis=1)

    def advance(
        self, rows: Array | None, columns: Array | None, sharpness: float
    ) -> tuple[float, Array, Array]:
        """Return the logarithm of the norm, and its derivatives by both logarithms of weights."""
        image = self._iterate(rows, columns)
        left, values, turn = np.linalg.svd(image, full_matrices=False)
        if not values[0] > 0.0:
            return 0.0, np.zeros(len(image)), np.zeros(len(self.columns))
        share = (values / values[0]) ** sharpness
        share /= share.sum()
        right = self.columns @ turn.T
        return float(np.log(values[0])), left**2 @ share, right**2 @ share

    def _iterate(self, rows: Array | None, columns: Array | None) -> Array:
        """Multiply the columns once, and return what the scaled matrix makes of the new ones."""
        image = self._times(rows, columns)
        image = image if rows is None else rows[:, None] * image
        back = self.slot.adjoint(image) / self.size
        back = back if columns is None else columns[:, None] * back
        self.columns = np.linalg.qr(back)[0]
        return self._times(rows, columns)

    def _times(self, rows: Array | None, columns: Array | None) -> Array:
        V = self.columns if columns is None else columns[:, None] * self.columns
        image = self.slot.times(V) / self.size
        return image if rows is None else rows[:, None] * image
