"""Panels of a fused pass: ``S^H (S V)`` and the facts, from one read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bigspec.errors import NonFiniteError
from bigspec.kernels import Accumulator, NonFiniteFound, safe_exponent
from bigspec.kernels.partials import Partial, merge
from bigspec.kernels.sums import times_power
from bigspec.matrices import OperatorMatrix
from bigspec.panels.context import Context
from bigspec.panels.reading import Chunks, Reader, non_finite
from bigspec.panels.rows import Rows

__all__ = ["FusedContext", "add_in_order", "run_operator", "sum_partials"]

Array = np.ndarray[Any, Any]

LIFT = 960  # operators below 2**-LIFT multiply blocks times 2**LIFT


@dataclass(frozen=True, eq=False)
class FusedContext(Context):
    """The context of the fused pass ``S^H (S V)``."""

    def work(self, index: int, chunks: Chunks | None = None) -> Partial:
        """Read one panel slab by slab and return its partial sum."""
        reader, total = Reader(self, index, chunks), self.accumulator()
        for slab in reader.slabs():
            try:
                if self.layout.reads_per_pass == 1:
                    total.add_slab(list(slab.tiles()))
                else:
                    total.add_streamed(slab.tiles, slab.height)
            except NonFiniteFound as found:
                raise non_finite(self, slab, found, index) from None
        return replace(total.partial(), tokens=reader.tokens, **reader.cost())

    def at_once(self) -> Any:
        """Run the whole pass of an operator in this process."""
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
            kernel=self.layout.kernel,
        )


def run_operator(context: FusedContext) -> Partial:
    """Apply an operator and its adjoint to the whole block."""
    matrix, V = context.matrix, context.V
    assert isinstance(matrix, OperatorMatrix)
    assert V is not None
    rows = context.layout.orientation == "rows"
    started = time.perf_counter()
    multiply = matrix.apply if rows else matrix.apply_adjoint
    back = matrix.apply_adjoint if rows else matrix.apply
    Y, exponent, lift = _first_product(multiply, V, context.exponent)
    # The square of the scale is applied between the products, so that neither over- nor
    # underflows. The part that would leave the range is applied after the second product.
    after = min(exponent + LIFT, 0)
    scaled = times_power(times_power(Y, -exponent - lift), after - exponent) if exponent else Y
    Z = times_power(back(scaled), -after) if after else back(scaled)
    if not (np.isfinite(Y).all() and np.isfinite(Z).all()):
        msg = f"{matrix.name}: expected finite products, got a NaN or an infinity"
        raise NonFiniteError(msg)
    Y = Y.astype(V.dtype, copy=False)
    Z = np.array(Z, dtype=V.dtype, order="C")  # a copy: an operator may reuse its memory
    seconds = time.perf_counter() - started
    Y = times_power(Y, -exponent - lift) if exponent else Y
    return Partial(Z, Y.conj().T @ Y, exponent, None, seconds_multiplying=seconds)


def _first_product(
    multiply: Callable[[Array], Array], V: Array, known: int | None
) -> tuple[Array, int, int]:
    """Return ``2**lift A V``, the exponent of A, and the lift, which saves the digits of tiny A."""
    lift = LIFT if known is not None and known < -LIFT else 0
    Y = multiply(times_power(V, lift) if lift else V)
    if known is not None:
        return Y, known, lift
    exponent = safe_exponent(np.abs(Y).max())
    if np.abs(Y).max() < 2.0**-LIFT:  # also for zero: all products may have underflowed
        Y, lift = multiply(times_power(V, LIFT)), LIFT
        exponent = safe_exponent(np.abs(Y).max() * 2.0**-LIFT)
        if Y.any() and exponent == 0:
            exponent = int(np.frexp(np.abs(Y).max())[1]) - LIFT
    return Y, exponent, lift


def add_in_order(total: Any, parts: Sequence[Any]) -> Any:
    """Add partial sums to `total` one after another; None is no sum yet."""
    for part in parts:
        total = part if total is None else sum_partials([total, part])
    return total


def sum_partials(parts: Sequence[Any]) -> Any:
    """Add partial sums, or join rows, in the order given."""
    return Rows.joined(parts) if isinstance(parts[0], Rows) else merge(parts)
