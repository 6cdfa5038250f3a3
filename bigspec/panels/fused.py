"""Panels of a fused pass: ``S^H (S V)`` and the facts, from one read."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from bigspec.errors import NonFiniteError
from bigspec.kernels import Accumulator, NonFiniteFound, safe_exponent
from bigspec.kernels.composed import times_power
from bigspec.kernels.partials import Partial, merge
from bigspec.kernels.tokens import block_token
from bigspec.matrices import OperatorMatrix
from bigspec.panels.reading import Abandoned, Context, as_block, non_finite, size_of
from bigspec.panels.strips import Strips

__all__ = ["FusedContext", "run_blocks", "run_operator", "run_panel", "sum_partials"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class FusedContext(Context):
    """What every task needs of the fused pass ``S^H (S V)``."""

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


def run_panel(context: FusedContext, index: int) -> Partial:
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
            raise non_finite(context, slab, found, index) from None
    seconds = time.perf_counter() - started
    return replace(
        total.partial(),
        tokens=np.array([token], np.uint32),
        bytes_read=read_bytes,
        seconds_reading=reading,
        seconds_multiplying=seconds - reading,
        retries=buffers.retries - retries,
    )


def run_blocks(context: FusedContext, index: int, pieces: Sequence[Sequence[Any]]) -> Partial:
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
            raise non_finite(context, slab, found, index) from None
    seconds = time.perf_counter() - started
    return replace(
        total.partial(),
        tokens=np.array([token], np.uint32),
        bytes_read=read_bytes,
        seconds_multiplying=seconds,
    )


def run_operator(context: FusedContext) -> Partial:
    """Apply an operator and its adjoint to the whole block."""
    matrix, V = context.matrix, context.V
    assert isinstance(matrix, OperatorMatrix)
    assert V is not None
    rows = context.layout.orientation == "rows"
    started = time.perf_counter()
    Y = matrix.apply(V) if rows else matrix.apply_adjoint(V)
    exponent = safe_exponent(np.abs(Y).max()) if context.exponent is None else context.exponent
    # Scaled between the products by the square, so that neither over- nor underflows.
    scaled = times_power(times_power(Y, -exponent), -exponent) if exponent else Y
    Z = matrix.apply_adjoint(scaled) if rows else matrix.apply(scaled)
    if not (np.isfinite(Y).all() and np.isfinite(Z).all()):
        msg = f"{matrix.name}: expected finite products, got a NaN or an infinity"
        raise NonFiniteError(msg)
    Y = Y.astype(V.dtype, copy=False)
    Z = np.array(Z, dtype=V.dtype, order="C")  # a copy: an operator may use its memory again
    seconds = time.perf_counter() - started
    Y = times_power(Y, -exponent) if exponent else Y
    return Partial(Z, Y.conj().T @ Y, exponent, None, seconds_multiplying=seconds)


def sum_partials(parts: Sequence[Any]) -> Any:
    """Add partial sums, or join strips, in the order given."""
    return Strips.joined(parts) if isinstance(parts[0], Strips) else merge(parts)
