r"""The lower end of a stack: a derivative that is there, and a vector that it stretches.

``||J(x) v|| / ||v||`` is no more than the constant, wherever the stack has a derivative, whatever
x and v are. So both are sought in plain arithmetic: of all points the one whose derivative is
largest after a few steps of power iteration, there the leading right vector by block Lanczos. Then
``J(x) v`` is computed once, with a bound of all its rounding; the header of `steps` derives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from bigspec.api.norm import norm
from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.errors import ArgumentError
from bigspec.networks.lipschitz.stack import Stack
from bigspec.networks.lipschitz.steps import Local, Point, lengths

__all__ = ["LowerEnd", "as_points", "lower_end"]

Array = np.ndarray[Any, Any]

POINTS = 32
STEPS = 8  # of power iteration, at all points at once
FINE = 1e-4  # width of the run that finds the vector
CHANCE = 1e-3  # its failure probability: nothing rests on it


class LowerEnd:
    """What is known from below.

    Attributes
    ----------
    lower : float
    point : ndarray (n,) or None
        Where it is attained.
    number : int or None
        Which of the points that is.
    right : ndarray (n,) or None
        Unit vector that the derivative there stretches by at least `lower`.
    rounding : float
        Share of ``||J v||`` that covers rounding and slopes that are not sure.
    points : int
    """

    def __init__(self, points: int) -> None:
        self.lower, self.rounding, self.points = 0.0, 0.0, points
        self.point: Array | None = None
        self.right: Array | None = None
        self.number: int | None = None


def as_points(at: Any, inputs: int, seed: int) -> Array:
    """Return points as columns.

    Parameters
    ----------
    at : array_like (p, n) or (n,) or (p, ...), int or None
        Points, one a row; of more dimensions each is flattened. A number draws so many.

    Raises
    ------
    ArgumentError
        They have other lengths than the stack takes, or are not finite.
    """
    if at is None or isinstance(at, (int, np.integer)):
        count = POINTS if at is None else int(at)
        if isinstance(at, bool) or count < 0:
            msg = f"at: expected points or how many to draw, got {at!r}"
            raise ArgumentError(msg)
        return np.random.default_rng(seed).standard_normal((inputs, count))
    array = np.asarray(at)
    if array.dtype.kind not in "buif" or not array.ndim or not array.size:
        msg = f"at: expected an array of real numbers, got shape {array.shape}, {array.dtype}"
        raise ArgumentError(msg)
    if array.size == inputs:
        array = array.reshape(1, -1)
    rows = array.reshape(len(array), -1).astype(float)
    if rows.shape[1] != inputs:
        msg = (
            f"at: expected points of {inputs} numbers, one a row, got shape {array.shape}; what "
            "has more dimensions is flattened in the order of rows"
        )
        raise ArgumentError(msg)
    if not np.isfinite(rows).all():
        msg = "at: expected finite numbers, got NaN or an infinity"
        raise ArgumentError(msg)
    return np.asarray(rows.T)


def lower_end(stack: Stack, points: Array, seed: int) -> LowerEnd:
    """Return a lower end of the constant of a stack.

    Parameters
    ----------
    stack : Stack
        The sizes of its matrices are known.
    points : ndarray (n, p)
    seed : int
        Of the vectors that are tried.

    Notes
    -----
    Cost: of each matrix `STEPS` + 1 products with p columns and as many of its adjoint, and the
    passes of one run over the derivative.
    """
    n, p = points.shape
    end = LowerEnd(p)
    if not p:
        return end
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore", invalid="ignore"):
        _, locals_ = stack.forward(Point(points, np.zeros(p)))
        v = rng.standard_normal((n, p))
        for _ in range(STEPS):
            v = _unit(_pulled(locals_, _unit(_pushed(locals_, v))))
        tried = _certified(locals_, v)
        best = int(np.argmax(tried))
        if not tried[best] >= 0.0:
            return end
        here = [local.at(best) for local in locals_]
        vectors = [v[:, best], _leading(here, v[:, best], seed)]
        ends = _certified(here, np.stack(vectors, axis=1))
    pick = int(np.argmax(ends))
    end.lower = float(max(ends[pick], 0.0))
    if end.lower > 0.0:
        end.number, end.point, end.right = best, points[:, best], vectors[pick]
        size = float(lengths(_pushed(here, vectors[pick][:, None]))[0])
        end.rounding = max(0.0, 1 - end.lower / size) if size else 0.0
    return end


def _unit(v: Array) -> Array:
    sizes = lengths(v)
    return np.asarray(v / np.where(sizes > 0, sizes, 1.0))


def _pushed(locals_: Sequence[Local], v: Array) -> Array:
    point = Point(v, np.zeros(v.shape[1]))
    for local in locals_:
        point = local.push(point)
    return point.x


def _pulled(locals_: Sequence[Local], u: Array) -> Array:
    for local in reversed(locals_):
        u = local.pull(u)
    return u


def _certified(locals_: Sequence[Local], v: Array) -> Array:
    """Return lower ends of ``||J v|| / ||v||``; 0 where nothing is sure."""
    point = Point(v, np.zeros(v.shape[1]))
    for local in locals_:
        point = local.push(point)
    slack = 1 + (len(point.x) + 8) * UNIT_ROUNDOFF
    stretched = lengths(point.x) / slack**2 - point.error * slack
    ends = stretched / np.maximum(lengths(v), np.finfo(float).tiny) * (1 - 8 * UNIT_ROUNDOFF)
    return np.asarray(np.where(np.isfinite(ends) & (ends > 0), ends, 0.0))


def _leading(locals_: Sequence[Local], start: Array, seed: int) -> Array:
    """Return a vector near the leading right one; `start` where none is found."""
    m, n = len(_pushed(locals_, start[:, None])), len(start)

    def times(V: Array) -> Array:
        return _pushed(locals_, V.reshape(n, -1).astype(float))

    def adjoint(U: Array) -> Array:
        return _pulled(locals_, U.reshape(m, -1).astype(float))

    J = LinearOperator(
        (m, n), matvec=times, rmatvec=adjoint, matmat=times, rmatmat=adjoint, dtype=np.float64
    )
    if not np.any(times(start[:, None])):
        return start
    est = norm(J, rtol=FINE, failure_probability=CHANCE, seed=seed, right=True)
    return start if est.right is None else np.asarray(est.right)
