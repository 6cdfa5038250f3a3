"""Panels of a forward pass: ``S V`` strip by strip, kept in order or written where it belongs.

Knows no Dask: these are the plain functions that the graphs of `bigspec.passes` call.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from zlib import crc32

import numpy as np

from bigspec.errors import NonFiniteError
from bigspec.kernels.composed import times_power
from bigspec.kernels.one_way import multiply_adjoint, multiply_slab
from bigspec.kernels.tokens import block_token
from bigspec.matrices import OperatorMatrix
from bigspec.panels.reading import Abandoned, Context, as_block, size_of
from bigspec.panels.strips import Strips
from bigspec.sources.targets import write_rows

__all__ = ["FinishContext", "ForwardContext", "finish_panel", "operator_rows"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class ForwardContext(Context):
    """What every task of a forward pass needs.

    Attributes
    ----------
    target : zarr.Array or None
        Takes the rows of ``S V``, panel by panel; no two panels write one chunk.
    back : bool
        Also add up ``S^H (S V)``, from the same read: a slab must fit.
    """

    target: Any = None
    back: bool = False

    def task(self, reference: Any, panel: int) -> tuple[Any, ...]:
        """Return the task of a panel."""
        return (forward_panel, reference, panel)

    def blocks_task(self, reference: Any, panel: int, pieces: Any) -> tuple[Any, ...]:
        """Return the task of a panel whose chunks are results of other tasks."""
        return (forward_blocks, reference, panel, pieces)

    def at_once(self) -> Strips:
        """Apply an operator to the whole block, here."""
        function, *_ = self.task(self, 0)
        strips = function(self, 0)
        assert isinstance(strips, Strips)
        return strips


@dataclass(frozen=True, eq=False)
class FinishContext(ForwardContext):
    """What every task needs that multiplies rows of the target from the right.

    Attributes
    ----------
    T : ndarray (b, b)
    tokens : tuple of tuple of int
        Of each panel, as the forward pass gave them.
    """

    reads: ClassVar[bool] = False

    T: Array | None = None
    tokens: tuple[tuple[int, ...], ...] = ()

    def task(self, reference: Any, panel: int) -> tuple[Any, ...]:
        """Return the task of a panel."""
        return (finish_panel, reference, panel)


def forward_panel(context: ForwardContext, index: int) -> Strips:
    """Read one panel slab by slab and multiply it."""
    matrix, layout, buffers = context.matrix, context.layout, context.buffers
    if isinstance(matrix, OperatorMatrix):
        assert context.V is not None
        tall = layout.orientation == "rows"
        return operator_rows(
            context, matrix.apply(context.V) if tall else matrix.apply_adjoint(context.V)
        )
    assert context.V is not None
    retries, reading, read_bytes, content = buffers.retries, 0.0, 0, 0
    started = time.perf_counter()
    rows, Z = [], _nothing_back(context)
    for slab in layout.slabs(layout.panel(index)):
        if buffers.abandoned is not None and buffers.abandoned.is_set():
            raise Abandoned

        def tiles(slab: tuple[int, int] = slab) -> Any:
            nonlocal reading, read_bytes, content
            for tile in layout.tiles():
                before = time.perf_counter()
                block = matrix.read(*layout.rectangle(slab, tile), buffers)
                reading += time.perf_counter() - before
                read_bytes += size_of(block)
                content = block_token(block, content)
                yield tile[0], block

        rows.append(_product(context, tiles(), slab, Z))
    cost = read_bytes, reading, buffers.retries - retries
    return _strip(context, index, rows, cost, started, content, Z)


def forward_blocks(context: ForwardContext, index: int, pieces: Sequence[Sequence[Any]]) -> Strips:
    """Multiply a panel whose chunks are results of other tasks (a dask array)."""
    layout, started = context.layout, time.perf_counter()
    strips = pieces if layout.orientation == "rows" else list(zip(*pieces, strict=True))
    first, read_bytes, content, rows = layout.panel(index).first, 0, 0, []
    Z = _nothing_back(context)
    for number, strip in enumerate(strips, start=first):
        blocks = [(layout.across.cut(j), as_block(block)) for j, block in enumerate(strip)]
        for _, block in blocks:
            read_bytes += size_of(block)
            content = block_token(block, content)
        slab = layout.swept.cut(number), layout.swept.cut(number + 1)
        rows.append(_product(context, blocks, slab, Z))
    return _strip(context, index, rows, (read_bytes, 0.0, 0), started, content, Z)


def _nothing_back(context: ForwardContext) -> Array | None:
    assert context.V is not None
    return np.zeros_like(context.V) if context.back else None


def _product(context: ForwardContext, tiles: Any, slab: tuple[int, int], Z: Array | None) -> Array:
    assert context.V is not None
    transposed = context.layout.orientation == "columns"
    if Z is not None:
        tiles = list(tiles)
    Y = multiply_slab(
        tiles,
        slab[1] - slab[0],
        context.V,
        context.matrix.dtype,
        exponent=context.exponent or 0,
        transposed=transposed,
        buffers=context.buffers,
    )
    if Z is not None:
        multiply_adjoint(tiles, Y, Z, transposed=transposed, buffers=context.buffers)
    if not np.isfinite(Y).all():
        msg = (
            f"{context.matrix.name}: expected finite products, got a NaN or an infinity in "
            f"{context.layout.orientation} {slab[0]} to {slab[1] - 1}. Mend or mask the data"
        )
        raise NonFiniteError(msg)
    return Y


def _strip(
    context: ForwardContext,
    index: int,
    rows: list[Array],
    read: tuple[int, float, int],
    started: float,
    content: int | None,
    Z: Array | None = None,
) -> Strips:
    """Factor, write and describe the rows of a panel; `read` is bytes, seconds and retries."""
    Y = np.ascontiguousarray(rows[0] if len(rows) == 1 else np.concatenate(rows))
    factor: Any = np.linalg.qr(Y, mode="r")
    read_bytes, reading, retries = read
    cost = (read_bytes, reading, time.perf_counter() - started - reading, retries)
    contents = np.array([] if content is None else [content], np.uint32)
    if context.target is None:
        return Strips((Y,), (factor,), ((),), *cost, contents=contents, Z=Z)
    tokens = []
    for start, stop in _chunks(context, index):
        first = _rows(context, index)[0]
        tokens.append(crc32(Y[start - first : stop - first].data))
        write_rows(context.target, start, stop, Y[start - first : stop - first])
    return Strips((), (factor,), (tuple(tokens),), *cost, contents=contents)


def _rows(context: ForwardContext, index: int) -> tuple[int, int]:
    panel, swept = context.layout.panel(index), context.layout.swept
    return swept.cut(panel.first), swept.cut(panel.last)


def _chunks(context: ForwardContext, index: int) -> Iterator[tuple[int, int]]:
    """Yield the rows of the target's chunks in a panel."""
    first, last = _rows(context, index)
    step = context.target.chunks[0]
    for start in range(first, last, step):
        yield start, min(start + step, last)


def operator_rows(context: ForwardContext, product: Array) -> Strips:
    """Return the rows of ``S V`` that an operator or a chain made."""
    assert context.V is not None
    started = time.perf_counter()
    Y = np.array(product, dtype=context.V.dtype, order="C")  # a copy: operators reuse their memory
    if context.exponent:
        Y = times_power(Y, -context.exponent)
    if not np.isfinite(Y).all():
        msg = f"{context.matrix.name}: expected finite products, got a NaN or an infinity"
        raise NonFiniteError(msg)
    return _strip(context, 0, [Y], (0, 0.0, 0), started, None)


def finish_panel(context: FinishContext, index: int) -> Strips:
    """Replace the rows Y of a panel in the target by ``Y T``, once.

    A task may run twice (a worker died after it had written): chunks that are no longer Y, as
    their checksums tell, have been replaced already.
    """
    assert context.T is not None
    for (start, stop), token in zip(_chunks(context, index), context.tokens[index], strict=True):
        Y = np.ascontiguousarray(context.target[start:stop])
        if crc32(Y.data) == token:
            write_rows(context.target, start, stop, Y @ context.T)
    return Strips((), (), ())
