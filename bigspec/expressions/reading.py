"""Reads ranges that do not lie on a matrix's cuts, without reading chunks twice in a row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.kernels.buffers import Buffers
from bigspec.kernels.sums import SparseSum, SumBlock, TermBlock, frobenius
from bigspec.matrices import Block, Grid, Matrix

__all__ = ["ask_ahead", "common_grid", "join", "read_range"]

COARSER = 4
"""A grid of common multiples may be this many times coarser than the largest step."""


def read_range(matrix: Matrix, rows: slice, columns: slice, buffers: Buffers) -> Block:
    """Read any rectangle: read whole chunks, and cut them to the rectangle.

    The thread keeps the entries beyond the end, because the next range usually begins there. So a
    panel reads each chunk once; only the chunks at its beginning are read twice.
    """
    wanted = (rows, columns)
    covered = (_covering(matrix, 0, rows), _covering(matrix, 1, columns))
    if covered == wanted:
        return matrix.read(rows, columns, buffers)
    crossed = [axis for axis in (0, 1) if covered[axis] != wanted[axis]]
    if len(crossed) == 1:
        return _continued(matrix, crossed[0], wanted, covered[crossed[0]], buffers)
    block: Any = matrix.read(*covered, buffers)
    inside = [
        slice(w.start - c.start, w.stop - c.start) for w, c in zip(wanted, covered, strict=True)
    ]
    return block[inside[0], inside[1]]  # type: ignore[no-any-return]


def ask_ahead(matrix: Matrix, rows: slice, columns: slice, buffers: Buffers) -> None:
    """Request the range that is read next, if it has whole chunks."""
    if (_covering(matrix, 0, rows), _covering(matrix, 1, columns)) == (rows, columns):
        matrix.ahead(rows, columns, buffers)


def _covering(matrix: Matrix, axis: int, wanted: slice) -> slice:
    """Return the smallest range on the cuts that contains the wanted one."""
    if matrix.anywhere[axis]:
        return wanted
    grid = matrix.grids[axis]
    first, last = grid.cell(wanted.start), grid.cell(wanted.stop - 1) + 1
    return slice(grid.cut(first), grid.cut(last))


def _continued(
    matrix: Matrix, axis: int, wanted: tuple[slice, ...], covered: slice, buffers: Buffers
) -> Block:
    """Read along one axis, from the chunks in which the last read ended."""
    name, other = buffers.name("aligned"), wanted[1 - axis]
    start, stop = wanted[axis].start, wanted[axis].stop
    last_read = buffers.state.pop(name, None)  # (matrix, other, first position, entries)
    parts: list[Any] = []
    if last_read is not None and last_read[:2] == (id(matrix), (other.start, other.stop)):
        tail_start, tail = last_read[2:]
        tail_stop = tail_start + tail.shape[axis]
        if tail_start <= start < tail_stop:
            last = min(stop, tail_stop)
            parts.append(_along(tail, axis, start - tail_start, last - tail_start))
            if stop < tail_stop:
                buffers.state[name] = last_read
            covered, start = slice(tail_stop, covered.stop), tail_stop
    if start < stop:
        ranges = (covered, other) if axis == 0 else (other, covered)
        block = matrix.read(*ranges, buffers)
        parts.append(_along(block, axis, start - covered.start, stop - covered.start))
        if stop < covered.stop:
            tail = _along(block, axis, stop - covered.start, covered.stop - covered.start)
            if not isinstance(tail, (SumBlock, SparseSum)):
                read = (id(matrix), (other.start, other.stop), stop, tail.copy())
                buffers.state[name] = read
    return parts[0] if len(parts) == 1 else join(parts, axis, buffers)


def join(blocks: Sequence[Any], axis: int, buffers: Buffers) -> Block:
    """Join blocks along an axis; the result is sparse if all of them are."""
    if all(sp.issparse(block) for block in blocks):
        stack = sp.vstack if axis == 0 else sp.hstack
        return stack([*blocks], format=blocks[0].format)  # type: ignore[no-any-return]
    shape = list(blocks[0].shape)
    shape[axis] = sum(block.shape[axis] for block in blocks)
    kinds = [block.dtype if not isinstance(block, SparseSum) else block.S.dtype for block in blocks]
    dtype = kinds[0] if len(set(kinds)) == 1 else np.result_type(*map(_wide, kinds))
    out = buffers.take("aligned.joined", tuple(shape), dtype)
    start = 0
    for block in blocks:
        stop = start + block.shape[axis]
        part = _along(out, axis, start, stop)
        if isinstance(block, SumBlock):
            with buffers.within("joined"):
                block.fill(part, buffers)
        elif isinstance(block, SparseSum) or sp.issparse(block):
            part[...] = block.toarray()  # type: ignore[union-attr]
        else:
            part[...] = block
        start = stop
    sums = [block for block in blocks if isinstance(block, (SumBlock, SparseSum))]
    if any(block.rounded for block in sums):  # their sum bounds what rounding is relative to
        terms = math.hypot(*(frobenius(block) for block in blocks))
        return SumBlock(
            (shape[0], shape[1]), dtype, (TermBlock(out),), None, exact=False, terms=terms
        )
    return out


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.complex128 if dtype.kind == "c" else np.float64)


def _along(block: Any, axis: int, start: int, stop: int) -> Any:
    return block[start:stop] if axis == 0 else block[:, start:stop]


def common_grid(members: Sequence[tuple[Matrix, int]]) -> Grid:
    """Return a grid on which all matrices of one extent can be cut.

    It has common multiples of regular steps if these are not much coarser. Otherwise it is the
    coarsest grid, and the other matrices are read across its cuts (`read_range`).

    Parameters
    ----------
    members : sequence of (Matrix, axis)
    """
    extent = members[0][0].shape[members[0][1]]
    chunked = [matrix.grids[axis] for matrix, axis in members if not matrix.anywhere[axis]]
    if not chunked:
        return _advised([matrix.grids[axis] for matrix, axis in members], extent)
    if any(grid.count == 1 for grid in chunked):
        return Grid(extent, extent)
    if len(set(chunked)) == 1:
        return chunked[0]
    coarsest = max(chunked, key=lambda grid: grid.step)
    if all(grid.cuts is None for grid in chunked):
        step = math.lcm(*(grid.step for grid in chunked))
        return Grid(extent, step) if step <= COARSER * coarsest.step else coarsest
    cuts = set.intersection(*(_cuts(grid) for grid in chunked))
    return _through(cuts) if len(cuts) - 1 >= coarsest.count / COARSER else coarsest


def _advised(grids: list[Grid], extent: int) -> Grid:
    """Join the grids of stores that can be cut anywhere; their cuts are only advice."""
    fixed = [grid for grid in grids if grid.step > 1 or grid.count == 1]
    if not fixed:
        return Grid(extent, 1)
    return fixed[0] if len(set(fixed)) == 1 else _through(set.union(*(_cuts(g) for g in fixed)))


def _cuts(grid: Grid) -> set[int]:
    return set(grid.cuts or (grid.cut(k) for k in range(grid.count + 1)))


def _through(cuts: set[int]) -> Grid:
    return Grid.irregular(tuple(int(size) for size in np.diff(sorted(cuts))))
