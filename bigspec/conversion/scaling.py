"""A matrix times a factor, written: dense arrays in blocks of whole chunks, sparse ones in order.

What is written is compared with the Frobenius norm of the run that the factor comes from, so that
a matrix which changed in between is not written with a norm that is not its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from bigspec.conversion.entries import MatrixStream, Position
from bigspec.conversion.sinks import Sink
from bigspec.conversion.work import Work
from bigspec.errors import (
    ArgumentError,
    MatrixChangedError,
    MemoryLimitError,
    UnsupportedTypeError,
    format_bytes,
)
from bigspec.expressions.reading import read_range
from bigspec.kernels import working_dtype
from bigspec.kernels.buffers import Buffers
from bigspec.kernels.sums import SparseSum, SumBlock
from bigspec.matrices import Matrix
from bigspec.watch import Observer

__all__ = ["KEY", "DenseCopy", "Scaling", "scaling_stream"]

Array = np.ndarray[Any, Any]

KEY = "bigspec"  # of the attribute that says what was done
BLOCK_BYTES = 32 << 20  # of one block in float64
COPIES = 6  # of a block: as it was read, in float64, in the type that is stored, encoded
LEAST = 1e-140  # of numbers whose squares, and sums of these, are far from under- and overflow
SAME = 1e-6  # relative, of two Frobenius norms of the same matrix
READ_BACK = 1 << 20


@dataclass(frozen=True)
class Scaling:
    """What every entry becomes.

    Attributes
    ----------
    factor : float
    dtype : numpy.dtype
        As stored.
    frobenius : float
        Of the matrix before, by the run that the factor comes from.
    note : dict
        What is stored beside the entries.
    """

    factor: float
    dtype: np.dtype[Any]
    frobenius: float
    note: dict[str, Any] = field(repr=False)

    def apply(self, values: Array) -> tuple[Array, float]:
        """Return the entries as they are stored, and the sum of squares of `check` before that.

        Raises
        ------
        ArgumentError
            One is too large for the type.
        """
        work: Array = values.astype(working_dtype(values.dtype))
        with np.errstate(over="ignore"):
            work *= self.factor
            stored = work.astype(self.dtype)
        if not np.isfinite(stored).all():
            msg = (
                f"dtype: expected a type that holds every entry times {self.factor:.6g}, got "
                f"{self.dtype}, whose largest number is {np.finfo(self.dtype).max:.4g}; give a "
                "wider dtype, or another norm"
            )
            raise ArgumentError(msg)
        return stored, self.squares(work)

    @property
    def unit(self) -> float:
        """What entries are divided by before they are squared: 1, unless squares would overflow."""
        wanted = self.factor * self.frobenius
        if LEAST < wanted < 1 / LEAST:
            return 1.0
        return wanted if 0.0 < wanted < math.inf else self.factor

    def squares(self, work: Array) -> float:
        """Return the sum of squares of scaled entries, in units of `unit`."""
        parts = work.reshape(-1).view(np.float64)
        if self.unit != 1.0:
            parts = parts / self.unit
        return float(parts @ parts)

    def check(self, squares: float, name: str) -> None:
        """Compare the sum of the squares of all scaled entries with what the run has seen.

        Raises
        ------
        MatrixChangedError
        """
        found = math.sqrt(squares) * (self.unit / self.factor)
        if not abs(found - self.frobenius) <= SAME * self.frobenius:
            msg = (
                f"{name}: expected the matrix whose norm was computed, of Frobenius norm "
                f"{self.frobenius:.9g}, got one of {found:.9g} while it "
                "was copied; it has changed in between. Run it again"
            )
            raise MatrixChangedError(msg)


@dataclass(frozen=True)
class ScalingStream(MatrixStream):
    """A sparse matrix whose values are scaled as they are read."""

    scaling: Scaling = field(kw_only=True)

    def blocks(self, entries: int, position: Position) -> Iterator[tuple[int, int, Any, Position]]:
        """Read compressed blocks, and scale their values."""
        for start, stop, block, after in super().blocks(entries, position):
            values, _ = self.scaling.apply(block.data)
            scaled = type(block)((values, block.indices, block.indptr), block.shape)
            yield start, stop, scaled, after

    def keep(self, folder: Path) -> tuple[str, ...]:
        """Check what was written, and write the note beside it."""
        group = zarr.open_group(folder, mode="r+", zarr_format=3)
        data: Any = group["data"]
        squares = 0.0
        for start in range(0, data.shape[0], READ_BACK):
            values = np.asarray(data[start : start + READ_BACK])
            values = values.astype(working_dtype(values.dtype))
            squares += self.scaling.squares(values)
        # Here the entries are rounded already.
        unit = float(np.finfo(self.scaling.dtype).eps)
        if unit < SAME:
            self.scaling.check(squares, self.name)
        group.attrs[KEY] = self.scaling.note
        return ()


def scaling_stream(stream: MatrixStream, scaling: Scaling) -> ScalingStream:
    """Return a stream of the same entries, scaled."""
    said = stream.name, stream.shape, scaling.dtype, stream.most, stream.identity, stream.form
    return ScalingStream(*said, matrix=stream.matrix, axis=stream.axis, scaling=scaling)


class DenseCopy:
    """Reads a matrix in blocks of whole chunks of the target, scales and writes them.

    Parameters
    ----------
    matrix : Matrix
    scaling : Scaling
    sink : Sink
        The target; blocks may be written in any order.
    limit : int
        Bytes for all of it.
    threads : int

    Raises
    ------
    MemoryLimitError
        One chunk does not fit.
    """

    def __init__(
        self, matrix: Matrix, scaling: Scaling, sink: Sink, limit: int, threads: int
    ) -> None:
        self.matrix, self.scaling, self.sink = matrix, scaling, sink
        m, n = matrix.shape
        height, width = sink.chunks
        item = working_dtype(matrix.dtype).itemsize
        # A chunk of the source that is read for a part of it is there as a whole.
        least = max(height, matrix.grids[0].step) * max(width, matrix.grids[1].step) * item
        self.threads = max(1, min(threads, limit // (COPIES * least)))
        if COPIES * least > limit:
            msg = (
                f"memory_limit: expected at least {format_bytes(COPIES * least)} to copy chunks "
                f"of {format_bytes(least)}, got {format_bytes(limit)}"
            )
            raise MemoryLimitError(msg)
        room = min(BLOCK_BYTES, limit // (COPIES * self.threads)) // item
        across = max(1, min(-(-n // width), room // (height * width)))
        down = max(1, room // (height * min(n, across * width)))
        self.heights, self.widths = down * height, across * width
        self.blocks = [
            (slice(i, min(i + self.heights, m)), slice(j, min(j + self.widths, n)))
            for i in range(0, m, self.heights)
            for j in range(0, n, self.widths)
        ]

    def run(self, work: Work, observer: Observer, save: Callable[..., None]) -> None:
        """Copy the blocks that are left, several at once; progress is saved after each few."""
        state, total = work.state, self.matrix.shape[0] * self.matrix.shape[1]
        done, squares, size = state["block"], state["squares"], state["bytes_read"]
        began, entries = time.monotonic(), 0
        observer.stage_started("copying", total)
        buffers = Buffers()
        copy = partial(self._copy, buffers)
        with ThreadPoolExecutor(self.threads) as pool:
            while few := self.blocks[done : done + 2 * self.threads]:
                for part, read, count in pool.map(copy, few):
                    squares, size, entries = squares + part, size + read, entries + count
                done += len(few)
                self.sink.flush()
                save(block=done, squares=squares, bytes_read=size)
                observer.stage_advanced(entries, total, size, time.monotonic() - began)
        self.scaling.check(squares, self.matrix.name)

    def _copy(self, buffers: Buffers, place: tuple[slice, slice]) -> tuple[float, int, int]:
        block: Any = read_range(self.matrix, *place, buffers)
        if isinstance(block, SparseSum) and block.factors is None:
            msg = (
                f"{self.matrix.name}: expected a matrix that is stored, got a sum of sparse ones; "
                "store the sum (scipy.sparse, then bigspec.convert), and normalize that"
            )
            raise UnsupportedTypeError(msg)
        read = int(getattr(block, "nbytes", 0))
        values, squares = self.scaling.apply(_dense(block, buffers))
        self.sink.put(*place, values)
        return squares, read, values.size


def _dense(block: Any, buffers: Buffers) -> Array:
    """Return the entries of a block, as passes write them out."""
    if isinstance(block, np.ndarray):
        return block
    if isinstance(block, SumBlock):
        out = np.empty(block.shape, block.dtype)
        with buffers.within("written"):
            block.fill(out, buffers)
        return out
    return np.asarray(block.toarray())
