r"""The derivative of a deep stack at one point, with the growth of errors measured block by block.

Norm by norm, a bound of rounding grows with the product of all norms: after some 27 layers of
Gaussian weights and ReLU nothing is left of 53 bits. At one point the derivative of a block of
layers is a matrix B, whose norm is far below the product of the norms in it. Let e bound the
distance of the computed point from the exact one. The slopes that a step allows for cover all
points within e, so the derivative there differs from B by at most rho, the length of the bounds of
its columns. By the mean value theorem the block stretches e to at most ``(||B|| + rho) e``, and the
errors of the vector that is pushed likewise. The rounding within a block is bounded as everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bigspec.certificate.definite import largest_eigenvalue
from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.networks.lipschitz.stack import Branches, Stack
from bigspec.networks.lipschitz.steps import EVALUATION, Linear, Local, Point, Step, lengths

__all__ = ["narrow", "push_by_blocks", "slopes_at"]

Array = np.ndarray[Any, Any]

GROWTH = 1e3  # of the product of norms in a block: of 1, 10, .. 1e5 the one that reached deepest
MOST_COLUMNS = 4096  # of the derivative of a block, which is formed
MOST_WORK = 1e11  # multiplications for all blocks: seconds


def slopes_at(stack: Stack, points: Array) -> list[Local]:
    """Return the derivatives at points, as if nothing had been rounded before each step."""
    x, locals_ = points, []
    for step in stack.steps:
        image, local = step.forward(Point(x, np.zeros(x.shape[1])))
        x = image.x
        locals_.append(local)
    return locals_


def narrow(stack: Stack, x: Array) -> bool:
    """Return whether the derivatives of blocks can be formed."""
    return _blocks(stack, x) is not None


def push_by_blocks(stack: Stack, x: Array, v: Array) -> Point:
    """Return ``J(x) v`` with a bound of its error, of a stack that is narrow.

    Parameters
    ----------
    stack : Stack
        The sizes of its matrices are known.
    x, v : ndarray (n, 1)
    """
    point, vector = Point(x, np.zeros(1)), Point(v, np.zeros(1))
    for block in _blocks(stack, x) or [list(stack.steps)]:
        point, vector = _through(block, point, vector)
    return vector


def _blocks(stack: Stack, x: Array) -> list[list[Step]] | None:
    """Return the steps in blocks; None where their derivatives would cost too much."""
    blocks: list[list[Step]] = []
    grown, columns, work = math.inf, 0, 0.0
    for step in stack.steps:
        image, local = step.forward(Point(x, np.zeros(1)))
        growth = float(local.push(Point(np.zeros_like(x), np.ones(1))).error[0])
        if grown * max(growth, 1.0) > GROWTH:
            blocks.append([])
            grown, columns = 1.0, len(x)
        blocks[-1].append(step)
        grown *= max(growth, 1.0)
        work += columns * _entries(step)
        if columns > MOST_COLUMNS or not work <= MOST_WORK:
            return None
        x = image.x
    return blocks


def _entries(step: Step) -> float:
    """Return the multiplications of a step with one column, as if its matrices were full."""
    if isinstance(step, Branches):
        return sum(_entries(inner) for branch in step.branches for inner in branch.steps)
    return float(math.prod(step.matrix.shape)) if isinstance(step, Linear) else 0.0


def _through(block: Sequence[Step], point: Point, vector: Point) -> tuple[Point, Point]:
    """Return a point and a vector after a block."""
    wide, exact = point, Point(point.x, np.zeros(1))
    locals_ = []
    for step in block:
        wide, local = step.forward(wide)
        exact, _ = step.forward(exact)
        locals_.append(local)
    n = len(point.x)
    most = _norm(_pushed(locals_, Point(np.eye(n), np.zeros(n))))
    image = Point(wide.x, _less(wide.error, most * point.error + exact.error))
    pushed = _pushed(locals_, vector)
    rounded = _pushed(locals_, Point(vector.x, np.zeros(1))).error
    return image, Point(pushed.x, _less(pushed.error, most * vector.error + rounded))


def _pushed(locals_: Sequence[Local], point: Point) -> Point:
    for local in locals_:
        point = local.push(point)
    return point


def _less(first: Array, second: Array) -> Array:
    return np.asarray(np.fmin(first, second * (1 + EVALUATION)))


def _norm(columns: Point) -> float:
    """Return a bound of the norm of a matrix that is known up to the errors of its columns."""
    B, off = columns.x, float(lengths(columns.error[:, None])[0])
    m, n = B.shape
    peak = float(np.abs(B).max(initial=0.0))
    if peak == 0.0 or not (math.isfinite(peak) and math.isfinite(off)):
        return off if peak == 0.0 else math.inf
    B = B / peak
    G = B.T @ B if n <= m else B @ B.T
    total = float(lengths(B.reshape(-1, 1))[0]) ** 2
    square = largest_eigenvalue((G + G.T) / 2, 1e-3).upper + (m + n + 8) * UNIT_ROUNDOFF * total
    return (math.sqrt(square) * peak + off) * (1 + EVALUATION)
