"""A stack: steps one after the other, and branches that are themselves stacks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.errors import ArgumentError
from bigspec.networks.lipschitz.bounds import Spread
from bigspec.networks.lipschitz.grouped import Grouped
from bigspec.networks.lipschitz.steps import (
    EVALUATION,
    Linear,
    Local,
    Point,
    Scaling,
    Step,
    lengths,
)

__all__ = ["Branches", "Slots", "Stack"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Slots:
    """A stack as ``W_m f_(m-1) .. f_1 W_1``.

    Attributes
    ----------
    matrices : tuple of tuple
        For each W its steps, the first one first; empty for the identity.
    between : tuple of Step
        ``f_1 .. f_(m-1)``.
    """

    matrices: tuple[tuple[Linear | Scaling, ...], ...]
    between: tuple[Step, ...]


class Stack:
    """Steps one after the other; none of them is the identity.

    Parameters
    ----------
    steps : sequence of Step
    label : str
        How messages call it.

    Raises
    ------
    ArgumentError
        One does not take as many numbers as the one before gives.
    """

    def __init__(self, steps: Sequence[Step], label: str = "the stack") -> None:
        self.steps, self.label = tuple(steps), label
        self.inputs: int | None = None
        self.outputs: int | None = None
        before, first = label, next((k for k, step in enumerate(self.steps) if step.inputs), 0)
        needed = self.steps[first].inputs if self.steps else None
        for step in reversed(self.steps[:first]):
            if isinstance(step, Grouped) and needed is not None:
                needed = step.fit_before(needed)
        for step in self.steps:
            if isinstance(step, Grouped) and self.outputs is not None:
                step.fit(self.outputs)
            if isinstance(step, Branches) and step.kind == "concat" and step.outputs is None:
                msg = f"{step.label}: expected a branch with a matrix, got none that has one"
                raise ArgumentError(msg)
            if step.inputs is not None:
                if self.outputs is None:
                    self.inputs = step.inputs
                elif self.outputs != step.inputs:
                    msg = (
                        f"{step.label}: expected {self.outputs} columns, as {before} gives "
                        f"{self.outputs} numbers, got {step.inputs}"
                    )
                    raise ArgumentError(msg)
            if step.outputs is not None:
                self.outputs, before = step.outputs, step.label

    @property
    def slots(self) -> Slots:
        """Its matrices, and what stands between them."""
        matrices: list[list[Linear | Scaling]] = [[]]
        between: list[Step] = []
        for step in self.steps:
            if isinstance(step, (Linear, Scaling)):
                matrices[-1].append(step)
            else:
                between.append(step)
                matrices.append([])
        return Slots(tuple(map(tuple, matrices)), tuple(between))

    @property
    def every(self) -> list[Step]:
        """All steps, those of branches among them."""
        found: list[Step] = []
        for step in self.steps:
            found.append(step)
            if isinstance(step, Branches):
                found += [inner for branch in step.branches for inner in branch.every]
        return found

    def forward(self, point: Point) -> tuple[Point, list[Local]]:
        """Return the images of points, and all derivatives there."""
        locals_ = []
        for step in self.steps:
            point, local = step.forward(point)
            locals_.append(local)
        return point, locals_


class Branches(Step):
    """Stacks with the same input, whose outputs are added or put one below the other.

    Parameters
    ----------
    kind : {"residual", "sum", "concat"}
        A residual adds the input itself.
    branches : sequence of Stack
    label : str
    inputs : int, optional
        How many numbers they take, where that is known.

    Notes
    -----
    With constants ``l_i`` of the branches, a sum of k identities and others is k times the identity
    plus a map with constant ``sum l_i``. Putting below: ``|(f, g)|^2 = |f|^2 + |g|^2``, so
    ``(sum l_i^2)^(1/2)``.
    """

    def __init__(
        self, kind: str, branches: Sequence[Stack], label: str, inputs: int | None = None
    ) -> None:
        given = [*branches, Stack(())] if kind == "residual" else list(branches)
        self.kind, self.branches, self.label = kind, tuple(given), label
        self.inputs = _common([inputs, *(b.inputs for b in given)], label, "takes")
        ends = [b.outputs if b.steps else self.inputs for b in given]
        ends = [self.inputs if end is None else end for end in ends]
        if kind == "concat":
            self.outputs = None if None in ends else sum(end for end in ends if end is not None)
        else:
            self.outputs = _common(ends, label, "gives")

    def spread(self, constants: Sequence[float]) -> Spread:
        """Return centre and radius, from upper ends of the constants of the branches."""
        if self.kind == "concat":
            return Spread(0.0, math.hypot(*constants) * (1 + EVALUATION))
        passing = sum(not branch.steps for branch in self.branches)
        others = [c for c, branch in zip(constants, self.branches, strict=True) if branch.steps]
        return Spread(float(passing), math.fsum(others) * (1 + EVALUATION))

    def forward(self, point: Point) -> tuple[Point, Local]:
        """Apply every branch."""
        parts = [branch.forward(point) for branch in self.branches]
        inner = tuple(tuple(locals_) for _, locals_ in parts)
        local = _Joined(self.kind, inner, tuple(len(image.x) for image, _ in parts))
        return local.join([image for image, _ in parts]), local


def _common(sizes: Sequence[int | None], label: str, verb: str) -> int | None:
    known = {size for size in sizes if size is not None}
    if len(known) > 1:
        msg = (
            f"{label}: expected branches that agree, got one that {verb} {min(known)} numbers "
            f"and one that {verb} {max(known)}"
        )
        raise ArgumentError(msg)
    return known.pop() if known else None


@dataclass(frozen=True)
class _Joined(Local):
    kind: str
    branches: tuple[tuple[Local, ...], ...]
    sizes: tuple[int, ...]
    """Of the outputs."""

    def join(self, images: Sequence[Point]) -> Point:
        """Add the images, or put them one below the other."""
        if self.kind == "concat":
            return Point(
                np.vstack([image.x for image in images]),
                np.asarray(np.linalg.norm([image.error for image in images], axis=0)),
            )
        total = np.sum([image.x for image in images], axis=0)
        sizes = np.sum([lengths(image.x) for image in images], axis=0)
        error = np.sum([image.error for image in images], axis=0)
        return Point(total, error + len(images) * EVALUATION * sizes)

    def push(self, v: Point) -> Point:
        images = []
        for branch in self.branches:
            image = v
            for local in branch:
                image = local.push(image)
            images.append(image)
        return self.join(images)

    def pull(self, u: Array) -> Array:
        if self.kind != "concat":
            return np.asarray(np.sum([_pulled(branch, u) for branch in self.branches], axis=0))
        parts, first = [], 0
        for branch, size in zip(self.branches, self.sizes, strict=True):
            parts.append(_pulled(branch, u[first : first + size]))
            first += size
        return np.asarray(np.sum(parts, axis=0))

    def at(self, column: int) -> Local:
        kept = tuple(tuple(local.at(column) for local in branch) for branch in self.branches)
        return _Joined(self.kind, kept, self.sizes)


def _pulled(branch: Sequence[Local], u: Array) -> Array:
    for local in reversed(branch):
        u = local.pull(u)
    return u
