"""What runs on a worker (or a thread): one panel, from its bytes to its partial sum.

Knows no Dask: these are the plain functions that the graphs of `bigspec.passes` call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp

from bigspec.blocks import times_power
from bigspec.buffers import Buffers
from bigspec.errors import DataError, NonFiniteError
from bigspec.kernels import Accumulator, NonFiniteFound, safe_exponent, working_dtype
from bigspec.layout import Layout
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.partials import Partial, merge
from bigspec.passes.strips import Strips
from bigspec.sources.memory import canonical, from_pydata_sparse, is_pydata_sparse
from bigspec.tokens import block_token

__all__ = [
    "Abandoned",
    "Context",
    "Measurement",
    "as_block",
    "measure",
    "run_blocks",
    "run_operator",
    "run_panel",
    "size_of",
    "sum_partials",
]

Array = np.ndarray[Any, Any]

MEASURED_BYTES = 4 << 20  # of a sparse matrix
LIFT = 960  # operators below 2**-LIFT multiply blocks times 2**LIFT
STEEP = 2.5  # no wider block saves so many passes (`bigspec.planning.PASSES`)


class Abandoned(Exception):  # noqa: N818
    """Nobody waits for this pass any more: it was interrupted, or its time is up."""


@dataclass(frozen=True, eq=False)
class Context:
    """What every task of one pass needs; sent to each worker once.

    Attributes
    ----------
    matrix : Matrix
    layout : Layout
    V : ndarray (n, b) or None
        None for the Gram matrix.
    exponent : int or None
        None in the first pass.
    facts : bool
    buffers : Buffers
        Scratch of the threads of one process, for the length of the pass.
    """

    reads: ClassVar[bool] = True  # whether the tasks need the entries of the matrix

    matrix: Matrix
    layout: Layout
    V: Array | None
    exponent: int | None
    facts: bool
    buffers: Buffers = field(default_factory=lambda: Buffers(threading.Event()))

    def task(self, reference: Any, panel: int) -> tuple[Any, ...]:
        """Return the task of a panel; `reference` stands for this context in the graph."""
        return (run_panel, reference, panel)

    def blocks_task(self, reference: Any, panel: int, pieces: Any) -> tuple[Any, ...]:
        """Return the task of a panel whose chunks are results of other tasks."""
        return (run_blocks, reference, panel, pieces)

    def at_once(self) -> Any:
        """Run the whole pass of an operator, here."""
        return run_operator(self)

    def accumulator(self) -> Accumulator:
        """Return an empty sum for one panel."""
        return Accumulator(
            self.V,
            self.layout.iterate_length,
            self.matrix.dtype,
            exponent=self.exponent,
            facts=self.facts,
            transposed=self.layout.orientation == "columns",
            buffers=self.buffers,
        )


def run_panel(context: Context, index: int) -> Partial:
    """Read one panel slab by slab and return its partial sum."""
    matrix, layout, buffers = context.matrix, context.layout, context.buffers
    retries = buffers.retries
    reading, read_bytes, token, started = 0.0, 0, 0, time.perf_counter()
    total = context.accumulator()
    across = next(layout.tiles())

    def blocks(slab: tuple[int, int], tile: tuple[int, int]) -> tuple[int, Any]:
        nonlocal reading, read_bytes, token
        before = time.perf_counter()
        block = matrix.read(*layout.rectangle(slab, tile), buffers)
        reading += time.perf_counter() - before
        read_bytes += size_of(block)
        token = block_token(block, token)
        return tile[0], block

    def streamed(slab: tuple[int, int]) -> Iterator[tuple[int, Any]]:
        return (blocks(slab, tile) for tile in layout.tiles())

    for slab in layout.slabs(layout.panel(index)):
        if buffers.abandoned is not None and buffers.abandoned.is_set():
            raise Abandoned
        try:
            if layout.reads_per_pass == 1:
                total.add_slab([blocks(slab, across)])
            else:
                total.add_streamed(partial(streamed, slab), slab[1] - slab[0])
        except NonFiniteFound as found:
            raise _non_finite(context, slab, found, index) from None
    seconds = time.perf_counter() - started
    return replace(
        total.partial(),
        tokens=np.array([token], np.uint32),
        bytes_read=read_bytes,
        seconds_reading=reading,
        seconds_multiplying=seconds - reading,
        retries=buffers.retries - retries,
    )


def run_blocks(context: Context, index: int, pieces: Sequence[Sequence[Any]]) -> Partial:
    """Multiply a panel whose chunks are results of other tasks (a dask array).

    `pieces` are the chunks of the panel, ``pieces[i][j]`` in the order of the array's rows and
    columns.
    """
    layout, started = context.layout, time.perf_counter()
    total = context.accumulator()
    read_bytes, token = 0, 0
    strips = pieces if layout.orientation == "rows" else list(zip(*pieces, strict=True))
    first = layout.panel(index).first
    for number, strip in enumerate(strips, start=first):
        offsets = [layout.across.cut(j) for j in range(len(strip))]
        blocks = [as_block(block) for block in strip]
        for block in blocks:
            read_bytes += size_of(block)
            token = block_token(block, token)
        try:
            total.add_slab(list(zip(offsets, blocks, strict=True)))
        except NonFiniteFound as found:
            slab = layout.swept.cut(number), layout.swept.cut(number + 1)
            raise _non_finite(context, slab, found, index) from None
    seconds = time.perf_counter() - started
    return replace(
        total.partial(),
        tokens=np.array([token], np.uint32),
        bytes_read=read_bytes,
        seconds_multiplying=seconds,
    )


def run_operator(context: Context) -> Partial:
    """Apply an operator and its adjoint to the whole block."""
    matrix, V = context.matrix, context.V
    assert isinstance(matrix, OperatorMatrix)
    assert V is not None
    rows = context.layout.orientation == "rows"
    started = time.perf_counter()
    multiply = matrix.apply if rows else matrix.apply_adjoint
    back = matrix.apply_adjoint if rows else matrix.apply
    Y, exponent, lift = _first_product(multiply, V, context.exponent)
    # Scaled between the products by the square, so that neither over- nor underflows. What that
    # would take out of range comes after the second product.
    after = min(exponent + LIFT, 0)
    scaled = times_power(times_power(Y, -exponent - lift), after - exponent) if exponent else Y
    Z = times_power(back(scaled), -after) if after else back(scaled)
    if not (np.isfinite(Y).all() and np.isfinite(Z).all()):
        msg = f"{matrix.name}: expected finite products, got a NaN or an infinity"
        raise NonFiniteError(msg)
    Y = Y.astype(V.dtype, copy=False)
    Z = np.array(Z, dtype=V.dtype, order="C")  # a copy: an operator may use its memory again
    seconds = time.perf_counter() - started
    Y = times_power(Y, -exponent - lift) if exponent else Y
    return Partial(Z, Y.conj().T @ Y, exponent, None, seconds_multiplying=seconds)


def _first_product(
    multiply: Callable[[Array], Array], V: Array, known: int | None
) -> tuple[Array, int, int]:
    """Return ``2**lift A V``, the exponent of A, and the lift: products below it lose digits."""
    lift = LIFT if known is not None and known < -LIFT else 0
    Y = multiply(times_power(V, lift) if lift else V)
    if known is not None:
        return Y, known, lift
    exponent = safe_exponent(np.abs(Y).max())
    if np.abs(Y).max() < 2.0**-LIFT:  # zero, too: products may all have vanished
        Y, lift = multiply(times_power(V, LIFT)), LIFT
        exponent = safe_exponent(np.abs(Y).max() * 2.0**-LIFT)
        if Y.any() and exponent == 0:
            exponent = int(np.frexp(np.abs(Y).max())[1]) - LIFT
    return Y, exponent, lift


@dataclass(frozen=True)
class Measurement:
    """What the first slab cost, scaled to a whole pass on one thread, in seconds.

    Attributes
    ----------
    reading : float
    multiplying : dict
        By block size.
    gram : float or None
        Forming the Gram matrix.
    bytes_read : int
        What the measurement itself read.
    """

    reading: float
    multiplying: dict[int, float]
    gram: float | None
    bytes_read: int


def measure(matrix: Matrix, layout: Layout, sizes: Sequence[int], gram: bool) -> Measurement:
    """Read the first slab (of a sparse matrix, a part) once, and time products of some widths.

    Widths are tried in the order given, until two in a row cost `STEEP` times the cheapest with
    reading: wider blocks would take longer to measure than they could save.
    """
    buffers = Buffers()
    panel, swept = layout.panel(0), layout.swept
    slab = next(layout.slabs(panel))
    if matrix.piece_nbytes is not None:  # sparse: pieces are even, and a part tells enough
        pieces = max(1, MEASURED_BYTES // matrix.piece_nbytes)
        slab = slab[0], min(slab[1], swept.cut(min(panel.first + pieces, panel.last)))
    whole = (0, layout.iterate_length)
    started = time.perf_counter()
    block = matrix.read(*layout.rectangle(slab, whole), buffers)
    reading = time.perf_counter() - started
    scale = swept.extent / (slab[1] - slab[0])
    if matrix.piece_nbytes is not None:
        scale = max(1.0, matrix.nbytes / size_of(block))

    def seconds(V: Array | None) -> float:
        context = Context(matrix, layout, V, 0, facts=False, buffers=buffers)
        total, best = context.accumulator(), float("inf")
        for _ in range(2):  # the second time without page faults, as most slabs of a panel
            before = time.perf_counter()
            total.add_slab([(0, block)])
            best = min(best, time.perf_counter() - before)
        return best * scale

    dtype = working_dtype(matrix.dtype)
    multiplying: dict[int, float] = {}
    for b in sizes:
        multiplying[b] = seconds(np.ones((layout.iterate_length, b), dtype))
        costs = [reading * scale + t for t in multiplying.values()]
        if len(costs) > 2 and min(costs[-2:]) > STEEP * min(costs):
            break
    gram_seconds = seconds(None) if gram else None
    return Measurement(reading * scale, multiplying, gram_seconds, size_of(block))


def sum_partials(parts: Sequence[Any]) -> Any:
    """Add partial sums, or join strips, in the order given."""
    return Strips.joined(parts) if isinstance(parts[0], Strips) else merge(parts)


def as_block(block: Any) -> Any:
    """Return a chunk as an ndarray, or as a CSR or CSC block without duplicates."""
    if isinstance(block, np.ndarray):
        return block
    if is_pydata_sparse(block):
        block = from_pydata_sparse(block, "dask array")
    if sp.issparse(block):
        return canonical(block)
    msg = (
        f"dask array: expected chunks that are NumPy arrays, SciPy or pydata sparse arrays, got "
        f"{type(block).__module__}.{type(block).__qualname__}; map_blocks them to one of these"
    )
    raise DataError(msg)


def size_of(block: Any) -> int:
    """Return the bytes of a block that was read."""
    if hasattr(block, "indptr"):
        return int(block.data.nbytes + block.indices.nbytes + block.indptr.nbytes)
    return int(block.nbytes)


def _non_finite(
    context: Context, slab: tuple[int, int], found: NonFiniteFound, index: int
) -> NonFiniteError | DataError:
    """Build the error that names the entry, its chunk and its panel."""
    row, column = found.args
    matrix = context.matrix
    if (row, column) == (-1, -1):
        return DataError(
            f"{matrix.name}: products overflowed in panel {index} although all its entries are "
            "finite now: the matrix changed while it was being read. Run again on a stable copy."
        )
    if context.layout.orientation == "rows":
        row += slab[0]
    else:
        column += slab[0]
    return NonFiniteError(
        f"{matrix.name}: expected finite entries, got a NaN or infinity first at "
        f"[{row}, {column}], in {matrix.chunk_at(row, column)}, panel {index}. "
        "Mend or mask the data: no norm exists."
    )
