r"""What is known of the entries in closed form: Frobenius norm, sums of rows and columns.

An entry of A is the sum of the taps t of an output position j that read one input position, in each
axis. So with ``M[t, t'] = #{j : t and t' read the same position of the input}`` for each axis,

    ||A||_F^2 = sum_{t, t'} prod_axes M[t, t'] <K_t, K_t'>,

which is ``sum_t (uses of t) ||K_t||^2`` where no two taps of a position meet (zeros; circular and
no tap that comes round). With absolute values of K it bounds the square of ``sum of |taps|``, which
rounding is relative to. Row and column sums of ``sum of |taps|`` bound those of ``|A|``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bigspec.convolutions.geometry import Axis
from bigspec.matrices import Claims

__all__ = ["count", "most_uses"]

Array = np.ndarray[Any, Any]

RUN = 1024  # squares added by NumPy; the sums of runs are added exactly


def count(kernel: Array, axes: tuple[Axis, ...], exponent: int) -> Claims:
    """Return the facts of ``2**exponent`` times a kernel (groups, outputs, inputs, taps..)."""
    sizes = np.abs(kernel)
    metrics = [_meetings(axis) for axis in axes]
    frobenius = _square(kernel, metrics)
    meet = any(np.count_nonzero(M - np.diag(M.diagonal())) for M in metrics)
    column = sizes.sum(axis=1)
    for axis in axes:  # taps of the first axis left become its distinct columns, the last one
        column = np.tensordot(column, _uses(axis), axes=(2, 1))
    row = sizes.sum(axis=2)
    for axis in axes:
        row = np.tensordot(row, np.unique(axis.table >= 0, axis=0).astype(float), axes=(2, 1))
    return Claims(
        frobenius=math.sqrt(frobenius),
        one_norm=float(column.max(initial=0.0)),
        inf_norm=float(row.max(initial=0.0)),
        largest=float(sizes.max(initial=0.0)),
        nonnegative=bool(kernel.dtype.kind != "c" and kernel.min() >= 0.0),
        magnitude=math.sqrt(_square(sizes, metrics)) if meet else 0.0,
        exponent=exponent,
        terms=int(np.prod(kernel.shape[3:])) * max(kernel.shape[1:3]),
    )


def most_uses(axis: Axis) -> int:
    """Return how many taps read one input position, at most."""
    table = axis.table
    return int(np.bincount(table[table >= 0].reshape(-1)).max(initial=0))


def _meetings(axis: Axis) -> Array:
    """Return M of the header for an axis: (taps, taps)."""
    table = axis.table
    M = np.diag((table >= 0).sum(axis=0)).astype(float)
    if axis.mode == "zeros":
        return M
    for t in range(axis.taps):
        for other in range(t + 1, axis.taps):
            M[t, other] = M[other, t] = np.count_nonzero(table[:, t] == table[:, other])
    return M


def _uses(axis: Axis) -> Array:
    """Return how often each tap reads an input position, for positions that differ in it."""
    table = axis.table
    uses = np.zeros((axis.size, axis.taps))
    for t in range(axis.taps):
        read = table[:, t]
        uses[:, t] = np.bincount(read[read >= 0], minlength=axis.size)
    return np.unique(uses, axis=0)


def _square(kernel: Array, metrics: list[Array]) -> float:
    """Return ``<K, (M_1 x M_2 x ..) K>``, to about 1e-12 of that of the absolute values."""
    weighted = kernel
    for number, M in enumerate(metrics, start=3):
        if np.count_nonzero(M - np.diag(M.diagonal())):
            weighted = np.moveaxis(np.tensordot(M, weighted, axes=(1, number)), 0, number)
        else:
            shape = [1] * kernel.ndim
            shape[number] = -1
            weighted = weighted * M.diagonal().reshape(shape)
    terms = (weighted * kernel.conj()).real.reshape(-1)
    starts = np.arange(0, len(terms), RUN)
    return max(math.fsum(np.add.reduceat(terms, starts).tolist()), 0.0)
