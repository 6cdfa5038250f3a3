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

__all__ = ["blocks_of", "push_by_blocks", "slopes_at"]

Array = np.ndarray[Any, Any]

GROWTH = 1e3  # of the product of norms in a block: of 1, 10, .. 1e5 the one that reached deepest
MOST_COLUMNS = 4096  # of the derivative of a block, which is formed
MOST_WORK = 3e10  # multiplications for all blocks: seconds
SLOPPY = 0.05  # relative width of the norm of a block, whose upper end alone is used


def slopes_at(stack: Stack, points: Array) -> list[Local]:
    """Return the derivatives at points, as if nothing had been rounded before each step."""
    x, locals_ = points, []
    for step in stack.steps:
        image, local = step.forward(Point(x, np.zeros(x.shape[1])))
        x = image.x
        locals_.append(local)
    return locals_


def push_by_blocks(blocks: Sequence[Sequence[Step]], x: Array, v: Array) -> Point:
    """Return ``J(x) v`` with a bound of its error.

    Parameters
    ----------
    blocks : sequence of sequence of Step
        The sizes of their matrices are known.
    x, v : ndarray (n, 1)
    """
    point, vector = Point(x, np.zeros(1)), Point(v, np.zeros(1))
    for block in blocks:
        point, vector = _through(block, point, vector)
    return vector


def blocks_of(stack: Stack, x: Array) -> list[list[Step]]:
    """Return the steps in blocks; none where their derivatives would cost too much.

    Parameters
    ----------
    stack : Stack
    x : ndarray (n, 1)
        A point.
    """
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
            return []
        x = image.x
    return blocks


def _entries(step: Step) -> float:
    """Return the multiplications of a step with one column, as if its matrices were full."""
    if isinstance(step, Branches):
        return sum(_entries(inner) for branch in step.branches for inner in branch.steps)
    return float(math.prod(step.matrix.shape)) if isinstance(step, Linear) else 0.0


def _through(block: Sequence[Step], point: Point, vector: Point) -> tuple[Point, Point]:
    """Return a point and a vector after a block."""
    n = len(point.x)
    # Beside each other: with the errors so far, and with none, which shows the rounding of the
    # block alone. The derivative is that of the first.
    pair = Point(np.repeat(point.x, 2, axis=1), np.array([point.error[0], 0.0]))
    columns = Point(
        np.hstack([np.eye(n), np.repeat(vector.x, 2, axis=1)]),
        np.concatenate([np.zeros(n), vector.error, [0.0]]),
    )
    for step in block:
        pair, local = step.forward(pair)
        columns = local.at(0).push(columns)
    most = _norm(Point(columns.x[:, :n], columns.error[:n]))
    image = _less(pair, most * point.error)
    return image, _less(Point(columns.x[:, n:], columns.error[n:]), most * vector.error)


def _less(pair: Point, stretched: Array) -> Point:
    """Return the first column, with the smaller bound of its error."""
    whole = (stretched + pair.error[1]) * (1 + EVALUATION)
    return Point(pair.x[:, :1], np.fmin(pair.error[:1], whole))


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
    square = largest_eigenvalue((G + G.T) / 2, SLOPPY).upper + (m + n + 8) * UNIT_ROUNDOFF * total
    return (math.sqrt(square) * peak + off) * (1 + EVALUATION)
