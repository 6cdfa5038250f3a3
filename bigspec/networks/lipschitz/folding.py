"""Fewer steps for the same map: weights become part of matrices, linear branches one matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.api.matrices import open_within, vstack
from bigspec.errors import ArgumentError
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.networks.lipschitz.stack import Branches
from bigspec.networks.lipschitz.steps import Linear, Scaling, Step, scaled_rows

__all__ = ["folded", "one_matrix"]

Array = np.ndarray[Any, Any]


def folded(steps: Sequence[Step]) -> list[Step]:
    """Return steps in which weights after a matrix, or after other weights, are part of these.

    Raises
    ------
    ArgumentError
        There are not as many weights as numbers.
    """
    found: list[Step] = []
    for step in steps:
        last = found[-1] if found else None
        if isinstance(step, Scaling) and isinstance(last, (Linear, Scaling)):
            if last.outputs != step.inputs:
                msg = (
                    f"{step.label}: expected {last.outputs} weights, as {last.label} gives "
                    f"{last.outputs} numbers, got {step.inputs}"
                )
                raise ArgumentError(msg)
            made = _joined(last, step)
            if made is not None:
                found[-1] = made
                continue
        found.append(step)
    return found


def _joined(last: Linear | Scaling, step: Scaling) -> Linear | Scaling | None:
    """Return both as one; None if the matrix cannot be scaled."""
    bias = None if last.bias is None else step.weights * last.bias
    if step.bias is not None:
        bias = step.bias if bias is None else bias + step.bias
    if (step.weights == 1.0).all():
        return replace(last, bias=bias)
    label = f"{step.label} {last.label}"
    if isinstance(last, Scaling):
        weights = step.weights * last.weights
        return Scaling(weights, label, bias, rounded=last.rounded + step.rounded + 1)
    made = scaled_rows(last.matrix, step.weights)
    if len(made) > 1:
        return None
    return Linear(made[0], label, bias, weights=last.weights + max(step.rounded, 1))


def one_matrix(branches: Branches) -> Linear | None:
    """Return branches of single matrices, or of nothing, as one matrix: its norm is tighter.

    Returns
    -------
    Linear or None
        None if a branch is more than that, or its matrix is an operator.
    """
    parts: list[Matrix] = []
    biases: list[Array | None] = []
    weights = 0
    if branches.inputs is None:
        return None
    for branch in branches.branches:
        step = branch.steps[0] if len(branch.steps) == 1 else None
        if isinstance(step, Linear) and not isinstance(step.matrix, OperatorMatrix):
            parts.append(step.matrix)
            biases.append(step.bias)
            weights += step.weights
        elif not branch.steps:
            parts.append(open_within(sp.csr_array(sp.eye_array(branches.inputs)), None))
            biases.append(None)
        else:
            return None
    if weights:  # their rounding is charged to the norm of the sum, which may cancel
        return None
    shifts = [
        np.zeros(part.shape[0]) if bias is None else bias
        for part, bias in zip(parts, biases, strict=True)
    ]
    if branches.kind == "concat":
        return Linear(vstack(parts), branches.label, np.concatenate(shifts))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return Linear(total, branches.label, np.sum(shifts, axis=0))
