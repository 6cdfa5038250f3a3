"""Measures for the planner how long reading and multiplying the first slab take.

Products are timed on a sample of the slab, because a few tiles show the cost of all. The slab
goes on to the first pass, which does not read it again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.kernels import TILE_BYTES, Accumulator, working_dtype
from bigspec.kernels.buffers import Buffers
from bigspec.kernels.sums import SparseSum
from bigspec.matrices import Matrix
from bigspec.panels.first import FirstSlab
from bigspec.panels.layout import Layout
from bigspec.panels.reading import size_of

__all__ = ["Measurement", "measure"]

Array = np.ndarray[Any, Any]

SECONDS = 0.1  # for products; no measurement begins that would end later
# Share of the entries in a sample. Three products of each width with it cost 3 % of the shortest
# run (8 passes of 4 columns).
SHARE = 0.005
TIMES = 3  # the first has page faults that most slabs do not have; another may be disturbed
LEAST = 1 << 14  # with fewer entries, the cost of a call would hide that of the product
SAMPLE = 1 << 20  # entries of a dense sample: two tiles
SPARSE_SAMPLE = 1 << 18
SCATTERED = 1 << 15  # entries if V exceeds the cache, as each may touch a page of its own
CACHED = 32 << 20  # bytes of V
GRAM_FLOPS = 4e8  # of a part of the Gram matrix
GRAM_SHARE = 1600  # flops of it for each entry: 3 % of 14 passes of 16 columns
GRAM_SIDE = 1024  # columns of a sparse sample for the Gram matrix
STEEP = 1.6  # wider blocks never save this factor of passes (`bigspec.algorithms.PASSES`)


@dataclass(frozen=True)
class Measurement:
    """The times of the first slab, in seconds, scaled to a whole pass on one thread.

    Attributes
    ----------
    reading : float
    multiplying : dict
        By block size.
    gram : float or None
        Forming the Gram matrix; None if that was not measured.
    bytes_read : int
        Bytes that the measurement read.
    slab : FirstSlab or None
        The slab, for the first pass.
    seconds : float
        Time that the products took.
    """

    reading: float
    multiplying: dict[int, float]
    gram: float | None
    bytes_read: int
    slab: FirstSlab | None = field(default=None, repr=False, compare=False)
    seconds: float = 0.0


def measure(
    matrix: Matrix, layout: Layout, sizes: Sequence[int], gram: bool, keep: bool = False
) -> Measurement:
    """Read the first slab, and time products of some widths with a part of it.

    Parameters
    ----------
    matrix : Matrix
    layout : Layout
        A layout that reads a slab at once.
    sizes : sequence of int
        Widths to try in this order, until reading and products cost `STEEP` times the cheapest:
        wider blocks then cost more than the passes that they save. It takes at most `SECONDS`.
    gram : bool
        Whether to time the Gram matrix, too.
    keep : bool
        Whether to return the slab. A worker of a cluster does not: another worker may get the
        panel, and the plan does not count a slab that waits on a worker.
    """
    slab = next(layout.slabs(layout.panel(0)))
    rectangle, buffers = layout.rectangle(slab, (0, layout.iterate_length)), Buffers()
    started = time.perf_counter()
    block = matrix.read(*rectangle, buffers)
    reading = time.perf_counter() - started
    scale = layout.along.extent / (slab[1] - slab[0])
    if _is_sparse(block):
        scale = max(1.0, matrix.nbytes / max(1, size_of(block)))
    timer = _Timer(matrix, layout, block, scale)
    multiplying: dict[int, float] = {}
    for b in sizes if timer.tells else ():
        if (seconds := timer.multiplying(b)) is None:
            break
        multiplying[b] = seconds
        costs = [reading * scale + t for t in multiplying.values()]
        if costs[-1] > STEEP * min(costs):
            break
    formed = timer.gram() if gram and multiplying else None
    first = FirstSlab(rectangle, block, buffers) if keep else None
    return Measurement(reading * scale, multiplying, formed, size_of(block), first, timer.spent)


def _is_sparse(block: Any) -> bool:
    return isinstance(block, SparseSum) or sp.issparse(block)


class _Timer:
    """Times products with a part of a slab, and scales them to the whole matrix.

    Attributes
    ----------
    spent : float
        Seconds so far.
    tells : bool
        Whether the matrix has enough entries for a sample that costs little beside a run.
    """

    def __init__(self, matrix: Matrix, layout: Layout, block: Any, slabs: float) -> None:
        self.matrix, self.layout, self.block, self.slabs = matrix, layout, block, slabs
        self.rows = layout.orientation == "rows"
        self.work = working_dtype(matrix.dtype)
        self.buffers, self.spent, self.last = Buffers(), 0.0, 0.0
        n, sparse = layout.iterate_length, _is_sparse(block)
        in_cache = n * 32 * self.work.itemsize <= CACHED
        most = (SPARSE_SAMPLE if in_cache else SCATTERED) if sparse else SAMPLE
        self.allowed = int(SHARE * slabs * _entries(block) / layout.memory.tasks)
        self.tells = self.allowed >= LEAST
        cut = self._sparse if sparse else self._dense
        self.part = cut(min(most, self.allowed))
        self.scale = slabs * _entries(block) / max(1, _entries(self.part))

    def _dense(self, most: int) -> Any:
        """Cut `most` entries: whole rows of S, or parts of 256 rows if rows are long."""
        n, height = self.layout.iterate_length, self.block.shape[0 if self.rows else 1]
        rows = min(height, max(most // n, 256))
        return self._cut(self.block, rows, min(n, max(1, most // rows)))

    def _sparse(self, most: int) -> Any:
        """Cut about `most` entries along the compressed axis."""
        block = self.block
        if isinstance(block, SparseSum):
            height = block.shape[0 if self.rows else 1]
            return self._cut(block, max(1, height * most // max(1, _entries(block))), None)
        if getattr(block, "format", "") not in ("csr", "csc"):
            block = block.tocsr()
        lines = int(np.searchsorted(block.indptr, block.indptr[0] + most, "right")) - 1
        lines = max(1, lines)
        return block[:lines] if block.format == "csr" else block[:, :lines]

    def _cut(self, block: Any, rows: int | None, columns: int | None) -> Any:
        """Cut the first rows and columns of S."""
        both = slice(rows), slice(columns)
        return block[both if self.rows else both[::-1]]

    def _seconds(self, part: Any, V: Array | None, n: int) -> float:
        total = Accumulator(
            V,
            n,
            self.matrix.dtype,
            exponent=0,
            facts=False,
            transposed=not self.rows,
            buffers=self.buffers,
            kernel=self.layout.kernel,
        )
        took = []
        for _ in range(TIMES):
            before = time.perf_counter()
            total.add_slab([(0, part)])
            took.append(time.perf_counter() - before)
            if self.spent + sum(took) + took[-1] > SECONDS:
                break
        self.last = sum(took)
        self.spent += self.last
        return min(took)

    def multiplying(self, b: int) -> float | None:
        """Return the seconds of products with b columns; None if there is no time to measure it."""
        if self.spent + 2 * self.last > SECONDS:
            return None
        n = self.layout.iterate_length
        if not _is_sparse(self.part):
            n = self.part.shape[1 if self.rows else 0]
        V = np.zeros((n, b), self.work)
        # Only the pages of a long V that the sample needs are allocated.
        V[self._rows_read() if _is_sparse(self.part) and V.nbytes > CACHED else slice(None)] = 1.0
        return self._seconds(self.part, V, n) * self.scale

    def _rows_read(self) -> Any:
        """Return the rows of V that a product with the sparse sample reads."""
        part = self.part.S if isinstance(self.part, SparseSum) else self.part
        by_rows = (part.format == "csr") == self.rows
        return part.indices if by_rows else slice(part.shape[1 if self.rows else 0])

    def gram(self) -> float | None:
        """Return the seconds of the Gram matrix, from a part of it."""
        n = self.layout.iterate_length
        if self.spent + self.last > SECONDS or isinstance(self.part, SparseSum):
            return None
        if sp.issparse(self.part):
            some = self._cut(self.part, None, min(n, GRAM_SIDE))
            side = some.shape[1 if self.rows else 0]
            entries = self._seconds(some, None, side)
            # The dense sum of a slab costs the same however few entries there are.
            empty = self._seconds(sp.csr_array(some.shape, dtype=some.dtype), None, side)
            seconds = max(entries - empty, 0.0) * self.scale + empty * self.slabs
            return float(seconds * (n / side) ** 2)
        # The sample is as high as the matrix's tiles, because each tile is added to all of Z.
        height = int(np.clip(TILE_BYTES // self.work.itemsize // n, 64, 1024))
        height = min(height, self.block.shape[0 if self.rows else 1])
        flops = min(GRAM_FLOPS, GRAM_SHARE * self.allowed)
        side = min(n, max(64, int((flops / 2 / height) ** 0.5)))
        part = self._cut(self.block, height, side)
        seconds = self._seconds(part, None, side)
        whole = self.layout.along.extent / height
        return float(seconds * whole * (n / side) ** 2)


def _entries(block: Any) -> int:
    stored: Any = block.S if isinstance(block, SparseSum) else block
    return int(stored.nnz if _is_sparse(stored) else stored.shape[0] * stored.shape[1])
