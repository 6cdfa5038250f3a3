"""Ranges ``A[rows, columns]`` of a matrix, and matrices put beside or below one another."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from bigspec.errors import ArgumentError, DataError, UnsupportedTypeError
from bigspec.expressions.reading import ask_ahead, common_grid, join, read_range
from bigspec.kernels.buffers import Buffers
from bigspec.matrices import (
    PANEL_BYTES,
    SLAB_BYTES,
    Block,
    Grid,
    Matrix,
    OperatorMatrix,
    missing_as,
)

__all__ = ["Part", "Stack", "part", "stack"]


@dataclass(frozen=True)
class Part(Matrix):
    """The range ``matrix[rows, columns]``.

    Attributes
    ----------
    matrix : Matrix
    rows, columns : tuple of int
        Start and stop.
    """

    matrix: Matrix
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """The range's share of the bytes."""
        share = self.shape[0] * self.shape[1] / (self.matrix.shape[0] * self.matrix.shape[1])
        return max(1, math.ceil(self.matrix.nbytes * share))

    @property
    def missing_as(self) -> str:
        """The value that missing entries of the matrix count as."""
        return self.matrix.missing_as

    @property
    def copied_nbytes(self) -> int:
        """Bytes that the matrix copies."""
        return self.matrix.copied_nbytes

    @property
    def carried_nbytes(self) -> int:
        """Bytes that the matrix carries to every worker."""
        return self.matrix.carried_nbytes

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of the matrix, and the range."""
        identity = self.matrix.identity
        return {
            "where": f"{identity['where']}[{_text(self.rows)}, {_text(self.columns)}]",
            "shape": list(self.shape),
            "dtype": identity["dtype"],
            "chunks": identity["chunks"],
            "token": identity["token"],
        }

    @property
    def anywhere(self) -> tuple[bool, bool]:
        """As the matrix."""
        return self.matrix.anywhere

    @property
    def exact(self) -> bool:
        """As the matrix."""
        return getattr(self.matrix, "exact", True)

    def ahead(self, rows: slice, columns: slice, buffers: Buffers) -> None:
        """Request the rectangle of the matrix."""
        ask_ahead(self.matrix, *self._place(rows, columns), buffers)

    def ahead_nbytes(self, slab: int) -> int:
        """Those of the matrix."""
        return self.matrix.ahead_nbytes(slab)

    def read(self, rows: slice, columns: slice, buffers: Buffers) -> Block:
        """Read the rectangle of the matrix."""
        return read_range(self.matrix, *self._place(rows, columns), buffers)

    def _place(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        top, left = self.rows[0], self.columns[0]
        below = slice(rows.start + top, rows.stop + top)
        return below, slice(columns.start + left, columns.stop + left)

    def chunk_at(self, row: int, column: int) -> str:
        """Name the place in the matrix."""
        return self.matrix.chunk_at(row + self.rows[0], column + self.columns[0])


def _text(cut: tuple[int, int]) -> str:
    return f"{cut[0]}:{cut[1]}"


def part(matrix: Matrix, key: Any) -> Part:
    """Return a range of rows and columns.

    Raises
    ------
    ArgumentError
        The key is not one or two slices of step 1, or the range is empty.
    UnsupportedTypeError
        The matrix is an operator, which has no rows to read.
    """
    if isinstance(matrix, OperatorMatrix):
        msg = f"{matrix.name}: expected a matrix with entries to take a range of, got an operator"
        raise UnsupportedTypeError(msg)
    cuts = key if isinstance(key, tuple) else (key, slice(None))
    ok = len(cuts) == 2 and all(isinstance(c, slice) and c.step in (None, 1) for c in cuts)
    if not ok:
        msg = (
            f"A[rows, columns]: expected ranges such as A[:1000, 10:20], got {key!r}; single rows, "
            "steps and lists are not supported"
        )
        raise ArgumentError(msg)
    ranges = [cut.indices(extent)[:2] for cut, extent in zip(cuts, matrix.shape, strict=True)]
    if any(start >= stop for start, stop in ranges):
        msg = (
            f"A[rows, columns]: expected ranges that are not empty, got {ranges} of {matrix.shape}"
        )
        raise ArgumentError(msg)
    rows, columns = ranges
    shape = (rows[1] - rows[0], columns[1] - columns[0])
    grids = tuple(_within(grid, cut) for grid, cut in zip(matrix.grids, ranges, strict=True))
    crossing = sum(
        matrix.most_nbytes(axis, grid) for axis, grid in enumerate(matrix.grids)
        if not matrix.anywhere[axis] and grid.count > 1
    )  # fmt: skip
    return Part(
        shape,
        matrix.dtype,
        f"{matrix.name}[{_text(rows)}, {_text(columns)}]",
        (grids[0], grids[1]),
        matrix,
        rows,
        columns,
        resident=matrix.resident,
        transient_nbytes=matrix.transient_nbytes + crossing,
        cell_nbytes=matrix.cell_nbytes,
        streams=True,
    )


def _within(grid: Grid, cut: tuple[int, int]) -> Grid:
    """Return the cuts inside a range, counted from its start."""
    start, stop = cut
    if (start, stop) == (0, grid.extent):
        return grid
    if grid.cuts is None and start % grid.step == 0:
        return Grid(stop - start, min(grid.step, stop - start))
    first, last = grid.cell(start) + 1, grid.cell(stop - 1)
    inside = [grid.cut(k) for k in range(first, last + 1)]
    return Grid.irregular(tuple(b - a for a, b in pairwise([start, *inside, stop])))


@dataclass(frozen=True)
class Stack(Matrix):
    """Matrices one below the other (axis 0) or beside one another (axis 1).

    Attributes
    ----------
    members : tuple of Matrix
    axis : int
    starts : tuple of int
        Where each member begins, and the extent.
    """

    members: tuple[Matrix, ...]
    axis: int
    starts: tuple[int, ...] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of all members."""
        return sum(member.nbytes for member in self.members)

    @property
    def missing_as(self) -> str:
        """The value that missing entries count as, for all members."""
        return missing_as(self.members)

    @property
    def copied_nbytes(self) -> int:
        """Bytes that the members copy."""
        return sum(member.copied_nbytes for member in self.members)

    @property
    def carried_nbytes(self) -> int:
        """Bytes that the members carry to every worker."""
        return sum(member.carried_nbytes for member in self.members)

    @property
    def exact(self) -> bool:
        """Whether all members are exact."""
        return all(getattr(member, "exact", True) for member in self.members)

    @property
    def identity(self) -> dict[str, Any]:
        """The members' identities."""
        identities = [member.identity for member in self.members]
        return {
            "where": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "chunks": [part["chunks"] for part in identities],
            "token": [part["token"] for part in identities],
        }

    def read(self, rows: slice, columns: slice, buffers: Buffers) -> Block:
        """Read the range from its members; within one member it is that member's block."""
        wanted = (rows, columns)[self.axis]
        blocks = []
        first = bisect_right(self.starts, wanted.start) - 1
        for number in range(first, len(self.members)):
            start, stop = self.starts[number : number + 2]
            if start >= wanted.stop:
                break
            inside = slice(max(wanted.start, start) - start, min(wanted.stop, stop) - start)
            ranges = (inside, columns) if self.axis == 0 else (rows, inside)
            with buffers.within(f"member{number}"):
                blocks.append(read_range(self.members[number], *ranges, buffers))
        return blocks[0] if len(blocks) == 1 else join(blocks, self.axis, buffers)

    def chunk_at(self, row: int, column: int) -> str:
        """Name the place in the member that holds it."""
        position = (row, column)[self.axis]
        number = bisect_right(self.starts, position) - 1
        place = [row, column]
        place[self.axis] -= self.starts[number]
        return f"{self.members[number].chunk_at(*place)} of {self.members[number].name}"


def stack(matrices: Sequence[Matrix], axis: int) -> Stack:
    """Put matrices one below the other (axis 0) or beside one another (axis 1).

    Raises
    ------
    DataError
        The other extent differs.
    UnsupportedTypeError
        A member is an operator.
    """
    if not matrices:
        msg = "stack: expected at least one matrix, got none"
        raise ArgumentError(msg)
    for matrix in matrices:
        if isinstance(matrix, OperatorMatrix):
            msg = f"{matrix.name}: expected a matrix with entries to stack, got an operator"
            raise UnsupportedTypeError(msg)
        if matrix.shape[1 - axis] != matrices[0].shape[1 - axis]:
            word = "columns" if axis == 0 else "rows"
            msg = (
                f"{matrices[0].name} and {matrix.name}: expected as many {word} in a stack, got "
                f"shapes {matrices[0].shape} and {matrix.shape}"
            )
            raise DataError(msg)
    starts = (0, *accumulate(matrix.shape[axis] for matrix in matrices))
    other = common_grid([(matrix, 1 - axis) for matrix in matrices])
    along = Grid.irregular(tuple(size for m in matrices for size in _sizes(m, axis)))
    shape = (starts[-1], other.extent) if axis == 0 else (other.extent, starts[-1])
    kinds = {matrix.dtype for matrix in matrices}
    complex_ = any(kind.kind == "c" for kind in kinds)
    wide = np.dtype(np.complex128 if complex_ else np.float64)
    uneven = [m.cell_nbytes or 0 for m in matrices if m.cell_nbytes is not None]
    return Stack(
        shape,
        kinds.pop() if len(kinds) == 1 else wide,
        f"{'vstack' if axis == 0 else 'hstack'}({', '.join(m.name for m in matrices)})",
        (along, other) if axis == 0 else (other, along),
        tuple(matrices),
        axis,
        starts,
        resident=all(matrix.resident for matrix in matrices),
        # Blocks are joined where a slab holds more than one member.
        transient_nbytes=max(m.transient_nbytes for m in matrices)
        + 2 * min(SLAB_BYTES, sum(m.nbytes for m in matrices)),
        cell_nbytes=max(m.most_nbytes(axis, m.grids[axis]) for m in matrices) if uneven else None,
    )


def _sizes(matrix: Matrix, axis: int) -> list[int]:
    """Return the cells of a member along the axis; a few if it can be cut anywhere."""
    grid, extent = matrix.grids[axis], matrix.shape[axis]
    if matrix.anywhere[axis] and grid.step == 1:
        cells = max(1, min(extent, matrix.nbytes // PANEL_BYTES[0]))
        edges = [extent * k // cells for k in range(cells + 1)]
    else:
        edges = [grid.cut(k) for k in range(grid.count + 1)]
    return [b - a for a, b in pairwise(edges)]
