"""The two products of a convolution: patches times kernel, and what they add to the input.

A block is ``(channels, positions.., columns)``, its columns last, so a tap reads contiguous rows of
all columns. A few output rows at a time, the patches are copied side by side, ``(channels x taps,
positions x columns)``, and one product of matrices does the rest. Columns are taken in turn where a
padded copy of all of them would be large.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from bigspec.convolutions.geometry import Axis

__all__ = ["WORK_BYTES", "correlate", "scatter"]

Array = np.ndarray[Any, Any]

PATCHES_BYTES = 4 << 20  # side by side at once: they are read back from the cache
PADDED_BYTES = 32 << 20  # of the padded copy
WORK_BYTES = 3 * (PATCHES_BYTES + PADDED_BYTES)
"""What a product holds for a moment besides its operand and its result, about."""


@dataclass(frozen=True)
class _Shapes:
    """Extents of the blocks of one product.

    Attributes
    ----------
    groups, outputs, inputs : int
        Groups, and channels of a group.
    axes : tuple of Axis
    """

    groups: int
    outputs: int
    inputs: int
    axes: tuple[Axis, ...]

    @classmethod
    def of(cls, kernel: Array, axes: tuple[Axis, ...]) -> _Shapes:
        groups, outputs, inputs = kernel.shape[:3]
        return cls(groups, outputs, inputs, axes)

    @property
    def given(self) -> tuple[int, ...]:
        return (self.groups * self.inputs, *(axis.size for axis in self.axes))

    @property
    def made(self) -> tuple[int, ...]:
        return (self.groups * self.outputs, *(axis.out for axis in self.axes))

    @property
    def padded(self) -> tuple[int, ...]:
        return (self.groups * self.inputs, *(axis.padded for axis in self.axes))

    @property
    def taps(self) -> int:
        return int(np.prod([axis.taps for axis in self.axes]))

    @property
    def row(self) -> int:
        """Entries of the patches of one row of output positions, for one column."""
        others = int(np.prod([axis.out for axis in self.axes[1:]]))
        return self.groups * self.inputs * self.taps * others

    def columns(self, b: int, itemsize: int) -> Iterator[slice]:
        """Yield ranges of columns whose padded copy, and patches of a row, are not too large."""
        one = itemsize * max(int(np.prod(self.padded)), self.row)
        step = max(1, min(b, PADDED_BYTES // one))
        for start in range(0, b, step):
            yield slice(start, min(start + step, b))

    def rows(self, columns: int, itemsize: int) -> Iterator[slice]:
        """Yield ranges of the first output axis whose patches fit the cache."""
        step = max(1, PATCHES_BYTES // (itemsize * self.row * columns))
        for start in range(0, self.axes[0].out, step):
            yield slice(start, min(start + step, self.axes[0].out))


def correlate(kernel: Array, axes: tuple[Axis, ...], V: Array) -> Array:
    """Return ``A V`` for a kernel (groups, outputs, inputs, taps..) and a block V (n, b)."""
    shapes, dtype = _Shapes.of(kernel, axes), np.result_type(kernel, V)
    flat = kernel.reshape(shapes.groups, shapes.outputs, -1).astype(dtype, copy=False)
    b = V.shape[1]
    X, Y = V.reshape(*shapes.given, b), np.empty((*shapes.made, b), dtype)
    for columns in shapes.columns(b, dtype.itemsize):
        padded = _padded(X[..., columns].astype(dtype, copy=False), axes)
        for rows in shapes.rows(padded.shape[-1], dtype.itemsize):
            patches = np.ascontiguousarray(_patches(padded, axes, rows))
            made = flat @ patches.reshape(shapes.groups, flat.shape[2], -1)
            inside = (rows.stop - rows.start, *shapes.made[2:], padded.shape[-1])
            Y[:, rows, ..., columns] = made.reshape(shapes.made[0], *inside)
    return Y.reshape(-1, b)


def scatter(kernel: Array, axes: tuple[Axis, ...], W: Array) -> Array:
    """Return ``A^H W`` for a block W (m, b): the adjoint of `correlate`."""
    shapes, dtype = _Shapes.of(kernel, axes), np.result_type(kernel, W)
    flat = kernel.reshape(shapes.groups, shapes.outputs, -1).conj().astype(dtype, copy=False)
    flat, b = np.ascontiguousarray(flat.transpose(0, 2, 1)), W.shape[1]
    Y, X = W.reshape(*shapes.made, b), np.empty((*shapes.given, b), dtype)
    taps = tuple(axis.taps for axis in axes)
    for columns in shapes.columns(b, dtype.itemsize):
        width = columns.stop - columns.start
        total = np.zeros((*shapes.padded, width), dtype)
        for rows in shapes.rows(width, dtype.itemsize):
            given = np.ascontiguousarray(Y[:, rows, ..., columns], dtype)
            made = flat @ given.reshape(shapes.groups, shapes.outputs, -1)
            _add(made.reshape(shapes.given[0], *taps, *given.shape[1:]), total, axes, rows)
        X[..., columns] = _folded(total, axes)
    return X.reshape(-1, b)


def _padded(X: Array, axes: tuple[Axis, ...]) -> Array:
    """Return the block with padding, contiguous."""
    inside = [slice(axis.before, axis.before + axis.size) for axis in axes]
    if all(axis.mode == "zeros" for axis in axes):
        if not any(axis.before or axis.after for axis in axes):
            return np.ascontiguousarray(X)
        shape = (X.shape[0], *(axis.padded for axis in axes), X.shape[-1])
        padded = np.zeros(shape, X.dtype)
        padded[(slice(None), *inside)] = X
        return padded
    for number, axis in enumerate(axes, start=1):
        X = np.take(X, axis.index, axis=number)
    return np.ascontiguousarray(X)


def _patches(padded: Array, axes: tuple[Axis, ...], rows: slice) -> Array:
    """View the padded block as (channels, taps.., output positions.., columns)."""
    channel, *steps, column = padded.strides
    first = padded[:, axes[0].stride * rows.start :]
    outs = (rows.stop - rows.start, *(axis.out for axis in axes[1:]))
    shape = (padded.shape[0], *(axis.taps for axis in axes), *outs, padded.shape[-1])
    strides = (
        channel,
        *(step * axis.dilation for step, axis in zip(steps, axes, strict=True)),
        *(step * axis.stride for step, axis in zip(steps, axes, strict=True)),
        column,
    )
    return as_strided(first, shape, strides, writeable=False)


def _add(patches: Array, total: Array, axes: tuple[Axis, ...], rows: slice) -> None:
    """Add patches to the padded positions that they were taken from."""
    starts = (rows.start, *(0 for _ in axes[1:]))
    outs = (rows.stop - rows.start, *(axis.out for axis in axes[1:]))
    # Positions of one tap are distinct, and so are taps of one position: the shorter is looped.
    loops: list[list[tuple[Any, Any, slice]]] = []
    for axis, start, out in zip(axes, starts, outs, strict=True):
        first, d, s = axis.stride * start, axis.dilation, axis.stride
        if axis.taps <= out:
            last = s * (out - 1) + 1
            loops.append(
                [(t, slice(None), slice(first + d * t, first + d * t + last, s))
                 for t in range(axis.taps)]
            )  # fmt: skip
        else:
            loops.append(
                [(slice(None), j, slice(first + s * j, first + s * j + axis.span, d))
                 for j in range(out)]
            )  # fmt: skip
    whole, d = slice(None), len(axes)
    # Each axis beside itself: of its taps and its positions, one is a single one.
    order = (0, *(side + number for number in range(1, d + 1) for side in (0, d)), 2 * d + 1)
    for chosen in product(*loops):
        taps, positions, places = zip(*chosen, strict=True)
        # Slices alone: an index that is a number is one of length 1, so that axes stay in order.
        kept = [_range(index) for index in (*taps, *positions)]
        part = patches[(whole, *kept, whole)]
        target = total[(whole, *places, whole)]
        target += part.transpose(order).reshape(target.shape)


def _range(index: Any) -> slice:
    return index if isinstance(index, slice) else slice(index, index + 1)


def _folded(total: Array, axes: tuple[Axis, ...]) -> Array:
    """Add padded positions to the input positions that they are copies of."""
    for number, axis in enumerate(axes, start=1):
        inside = slice(axis.before, axis.before + axis.size)
        lead = (slice(None),) * number
        kept = total[(*lead, inside)]
        if axis.mode != "zeros" and (axis.before or axis.after):
            kept = kept.copy()
            index = axis.index
            for place in (*range(axis.before), *range(axis.before + axis.size, axis.padded)):
                kept[(*lead, index[place])] += total[(*lead, place)]
        total = kept
    return total
