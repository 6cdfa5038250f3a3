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
from bigspec.networks.lipschitz.blocks import blocks_of, push_by_blocks, slopes_at
from bigspec.networks.lipschitz.stack import Stack
from bigspec.networks.lipschitz.steps import Local, Point, lengths

__all__ = ["LowerEnd", "as_points", "lower_end"]

Array = np.ndarray[Any, Any]

POINTS = 32
STEPS = 8  # of power iteration, at all points at once
FINE = 1e-4  # width of the run that finds the vector
CHANCE = 1e-3  # its failure probability: nothing rests on it
LOST = 1e-3  # share of a derivative that rounding may take before it is bounded block by block
TRIED = 2  # points where that is done


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
        Share of ``||J v||`` that covers rounding and slopes that are not sure; 0 where every
        derivative is 0.
    points : int
    """

    def __init__(self, points: int) -> None:
        self.lower, self.rounding, self.points = 0.0, 0.0, points
        self.point: Array | None = None
        self.right: Array | None = None
        self.number: int | None = None

    def found(self, number: int, points: Array, vector: Array, image: Point) -> None:
        """Keep a point and a vector, of image `image` there, if they raise the lower end."""
        lower = float(_certified(image, vector[:, None])[0])
        if lower > self.lower:
            self.lower, self.number = lower, number
            self.point, self.right = points[:, number], vector
            self.rounding = max(0.0, 1 - lower / float(lengths(image.x)[0]))
        elif self.lower == 0.0 and not (image.x == 0.0).all():
            self.rounding = 1.0


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
    with np.errstate(over="ignore", invalid="ignore"):
        _, locals_ = stack.forward(Point(points, np.zeros(p)))
        v = _stretched(locals_, n, p, seed)
        tried = _certified(_pushed(locals_, v), v)
        best = int(np.argmax(tried))
        here = [local.at(best) for local in locals_]
        vectors = np.stack([v[:, best], _leading(here, v[:, best], seed)], axis=1)
        images = _pushed(here, vectors)
        ends = _certified(images, vectors)
        pick = int(np.argmax(ends))
        end.found(best, points, vectors[:, pick], Point(images.x[:, [pick]], images.error[[pick]]))
        if end.lower == 0.0 or end.rounding > LOST:
            _by_blocks(stack, points, seed, end)
    return end


def _by_blocks(stack: Stack, points: Array, seed: int, end: LowerEnd) -> None:
    """Raise a lower end that rounding has taken, where the layers are narrow enough."""
    n, p = points.shape
    blocks = blocks_of(stack, points[:, :1])
    if not blocks:
        return
    locals_ = slopes_at(stack, points)
    v = _stretched(locals_, n, p, seed)
    sizes = lengths(_pushed(locals_, v).x)
    for best in np.argsort(-sizes, kind="stable")[:TRIED].tolist():
        x, vector = points[:, [best]], v[:, best]
        before = end.lower
        end.found(best, points, vector, push_by_blocks(blocks, x, vector[:, None]))
        if end.lower > before:  # else nothing is sure there, and a better vector is no help
            vector = _leading([local.at(best) for local in locals_], vector, seed)
            end.found(best, points, vector, push_by_blocks(blocks, x, vector[:, None]))


def _stretched(locals_: Sequence[Local], n: int, p: int, seed: int) -> Array:
    """Return a vector for each point that its derivative stretches much."""
    v = np.random.default_rng(seed).standard_normal((n, p))
    for _ in range(STEPS):
        v = _unit(_pulled(locals_, _unit(_pushed(locals_, v).x)))
    return v


def _unit(v: Array) -> Array:
    sizes = lengths(v)
    return np.asarray(v / np.where(sizes > 0, sizes, 1.0))


def _pushed(locals_: Sequence[Local], v: Array) -> Point:
    point = Point(v, np.zeros(v.shape[1]))
    for local in locals_:
        point = local.push(point)
    return point


def _pulled(locals_: Sequence[Local], u: Array) -> Array:
    for local in reversed(locals_):
        u = local.pull(u)
    return u


def _certified(point: Point, v: Array) -> Array:
    """Return lower ends of ``||J v|| / ||v||`` from ``J v``; 0 where nothing is sure."""
    slack = 1 + (len(point.x) + 8) * UNIT_ROUNDOFF
    stretched = lengths(point.x) / slack**2 - point.error * slack
    ends = stretched / np.maximum(lengths(v), np.finfo(float).tiny) * (1 - 8 * UNIT_ROUNDOFF)
    return np.asarray(np.where(np.isfinite(ends) & (ends > 0), ends, 0.0))


def _leading(locals_: Sequence[Local], start: Array, seed: int) -> Array:
    """Return a vector near the leading right one; `start` where none is found."""
    image, n = _pushed(locals_, start[:, None]).x, len(start)
    m = len(image)

    def times(V: Array) -> Array:
        return _pushed(locals_, V.reshape(n, -1).astype(float)).x

    def adjoint(U: Array) -> Array:
        return _pulled(locals_, U.reshape(m, -1).astype(float))

    J = LinearOperator(
        (m, n), matvec=times, rmatvec=adjoint, matmat=times, rmatmat=adjoint, dtype=np.float64
    )
    if not np.any(image):
        return start
    est = norm(J, rtol=FINE, failure_probability=CHANCE, seed=seed, right=True)
    return start if est.right is None else np.asarray(est.right)
