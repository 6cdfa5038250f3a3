r"""Positive weights between the layers, for which the product of norms is small.

An elementwise f with slopes in [a, b] stays one when it is scaled: ``g(y) = L f(L^-1 y)`` for a
positive diagonal L has the slopes of f at other points. So ``W_(i+1) f_i W_i`` is the same map as
``(W_(i+1) L^-1) g (L W_i)``, and any positive L gives bounds that hold.
Nothing that is computed here needs a proof: the norms of the scaled matrices are certified after.

The search is for ``l = log L``. The logarithm of each norm is replaced by that of a Schatten norm,
``log tr(G^p) / (2 p)`` with ``G = M^T M``, which is convex in l, and the trace by one over a few
fixed Gaussian columns: ``||G^(p/2) Omega||_F^2``. It is smooth in l, its gradient needs the same
products once more, and L-BFGS takes a few dozen steps; p grows on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from bigspec.api.scores import adjoint_product, scores
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.passes import one_blas_thread

__all__ = ["Action", "action", "find_weights", "objective"]

Array = np.ndarray[Any, Any]

COLUMNS = 32
SCHEDULE = ((2, 10), (8, 25))  # half of p, and steps of L-BFGS
DENSE = 1 << 23  # entries of a matrix that is held as an array while weights are sought
LARGEST = 30.0  # of |log L|: beyond it a unit is off as well as dead


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


def action(factors: Sequence[Matrix]) -> Action:
    """Return a chain, rightmost factor first, as its products."""
    shape = factors[-1].shape[0], factors[0].shape[1]
    parts = [_single(factor) for factor in factors]

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


def _single(matrix: Matrix) -> Action:
    m, n = matrix.shape
    if isinstance(matrix, OperatorMatrix) or m * n > DENSE:
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
        Of the Gaussian columns.

    Notes
    -----
    Cost: about fifty values and gradients, each of 2 p products of every matrix with 32 columns.
    """
    sizes = [
        slot.shape[0] // tie if slot is not None and tie else 0
        for slot, tie in zip(slots, ties, strict=False)
    ]
    cuts = np.concatenate([[0], np.cumsum(sizes, dtype=int)])
    if not cuts[-1]:
        return [None] * len(sizes)
    rng = np.random.default_rng(seed)
    sketches = [
        None if slot is None else rng.standard_normal((slot.shape[1], min(COLUMNS, *slot.shape)))
        for slot in slots
    ]
    slots = [_of_unit_size(slot, sketch) for slot, sketch in zip(slots, sketches, strict=True)]
    logs = np.zeros(int(cuts[-1]))

    def value(logs: Array, half: int) -> tuple[float, Array]:
        return objective(slots, sketches, (cuts, ties), logs, half)

    with one_blas_thread():
        for half, steps in SCHEDULE:
            found = minimize(
                value,
                logs,
                args=(half,),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": steps, "maxfun": 2 * steps},
            )
            if np.isfinite(found.x).all():
                logs = np.clip(found.x, -LARGEST, LARGEST)
    return [
        np.repeat(np.exp(logs[cuts[i] : cuts[i + 1]]), ties[i]) if size else None
        for i, size in enumerate(sizes)
    ]


def _of_unit_size(slot: Action | None, sketch: Array | None) -> Action | None:
    """Return the matrix over its size, so that no square overflows: weights do not mind."""
    if slot is None or sketch is None:
        return None
    size = float(np.abs(slot.times(sketch)).max(initial=0.0)) or 1.0
    return Action(slot.shape, lambda V: slot.times(V) / size, lambda U: slot.adjoint(U) / size)


def objective(
    slots: Sequence[Action | None],
    sketches: Sequence[Array | None],
    places: tuple[Array, Sequence[int]],
    logs: Array,
    half: int,
) -> tuple[float, Array]:
    """Return the sum of the logarithms of all smoothed norms, and its gradient.

    Parameters
    ----------
    slots, sketches : sequences
        Matrices and Gaussian columns (n, b).
    places : tuple of ndarray and sequence of int
        Where the weights of each place begin in `logs`, and how many numbers share one.
    logs : ndarray
    half : int
        Half of the power p.
    """
    gradient, total = np.zeros_like(logs), 0.0
    logs = np.clip(logs, -2 * LARGEST, 2 * LARGEST)
    (cuts, ties), last = places, len(slots) - 1
    for i, (slot, sketch) in enumerate(zip(slots, sketches, strict=True)):
        if slot is None or sketch is None:
            continue
        out = slice(cuts[i], cuts[i + 1]) if i < last else slice(0, 0)
        into = slice(cuts[i - 1], cuts[i]) if i > 0 else slice(0, 0)
        rows = _column(np.exp(logs[out]), ties[i]) if out.stop > out.start else None
        columns = _column(np.exp(-logs[into]), ties[i - 1]) if into.stop > into.start else None
        part, by_row, by_column = _smoothed(slot, sketch, (rows, columns), half)
        total += part
        if rows is not None:
            gradient[out] += by_row.reshape(-1, ties[i]).sum(axis=1)
        if columns is not None:
            gradient[into] -= by_column.reshape(-1, ties[i - 1]).sum(axis=1)
    return total, gradient


def _column(weights: Array, tie: int) -> Array:
    return np.repeat(weights, tie)[:, None]


def _smoothed(
    slot: Action, sketch: Array, weights: tuple[Array | None, Array | None], half: int
) -> tuple[float, Array, Array]:
    """Return ``log ||G^half Omega||_F^2 / (4 half)`` and its derivatives by the weights.

    With ``Y_j = G^j Omega`` and p = 2 half, the derivative of the square is
    ``2 sum_j tr(Y_(p-1-j)^T dG Y_j)``.
    """
    rows, columns = weights

    def times(V: Array) -> Array:
        Y = slot.times(V if columns is None else columns * V)
        return Y if rows is None else rows * Y

    def adjoint(U: Array) -> Array:
        Z = slot.adjoint(U if rows is None else rows * U)
        return Z if columns is None else columns * Z

    Y, X, logs = [sketch], [], [0.0]
    for _ in range(2 * half):
        X.append(times(Y[-1]))
        image = adjoint(X[-1])
        size = float(np.linalg.norm(image)) or 1.0
        Y.append(image / size)
        logs.append(logs[-1] + np.log(size))
    by_row, by_column = np.zeros(len(X[0])), np.zeros(len(sketch))
    for j in range(half):
        k = 2 * half - 1 - j
        share = np.exp(logs[j] + logs[k] - 2 * logs[half])
        by_row += share * 2 * np.einsum("ij,ij->i", X[k], X[j])
        nexts = np.exp(logs[k + 1] - logs[k]), np.exp(logs[j + 1] - logs[j])
        by_column += share * nexts[0] * np.einsum("ij,ij->i", Y[k + 1], Y[j])
        by_column += share * nexts[1] * np.einsum("ij,ij->i", Y[k], Y[j + 1])
    return logs[half] / (2 * half), by_row / (2 * half), by_column / (2 * half)
