"""Panels of a forward pass: ``S V``, returned in order or written to a store."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from bigspec.errors import NonFiniteError
from bigspec.kernels.one_way import multiply_adjoint, multiply_slab
from bigspec.kernels.sums import times_power
from bigspec.matrices import OperatorMatrix
from bigspec.panels.context import Context
from bigspec.panels.reading import Chunks, Reader, Slab
from bigspec.panels.rows import Rows
from bigspec.panels.target import write_panel

__all__ = ["ForwardContext"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class ForwardContext(Context):
    """The context of a forward pass.

    Attributes
    ----------
    target : zarr.Array or None
        Takes the rows of ``S V``, panel by panel; no two panels write one chunk.
    back : bool
        Also add up ``S^H (S V)`` from the same read, for which a slab must fit.
    """

    adds: ClassVar[bool] = False

    target: Any = None
    back: bool = False

    def work(self, index: int, chunks: Chunks | None = None) -> Rows:
        """Read one panel slab by slab and multiply it."""
        V, reader = self.V, Reader(self, index, chunks)
        assert V is not None
        first, last = self.layout.extent(index)
        Y = np.zeros((last - first, V.shape[1]), V.dtype)
        Z = np.zeros_like(V) if self.back else None
        for slab in reader.slabs():
            self._multiply(slab, V, Y[slab.start - first : slab.stop - first], Z)
        parts, factor, checksums = self._finished(index, Y)
        return Rows(parts, factor, checksums, **reader.cost(), contents=reader.tokens, Z=Z)

    def _multiply(self, slab: Slab, V: Array, Y: Array, Z: Array | None) -> None:
        """Add ``S_i V`` to Y and, if there is a Z, ``S_i^H Y`` to it."""
        transposed = self.layout.orientation == "columns"
        tiles: Any = slab.tiles() if Z is None else list(slab.tiles())
        exponent = self.exponent or 0
        multiply_slab(tiles, V, Y, exponent=exponent, transposed=transposed, buffers=self.buffers)
        if Z is not None:
            multiply_adjoint(tiles, Y, Z, transposed=transposed, buffers=self.buffers)
        if not np.isfinite(Y).all():
            msg = (
                f"{self.matrix.name}: expected finite products, got a NaN or an infinity in "
                f"{self.layout.orientation} {slab.start} to {slab.stop - 1}. Fix or mask the data"
            )
            raise NonFiniteError(msg)

    def at_once(self) -> Rows:
        """Apply an operator to the whole block in this process."""
        matrix, V = self.matrix, self.V
        assert isinstance(matrix, OperatorMatrix)
        assert V is not None
        started = time.perf_counter()
        tall = self.layout.orientation == "rows"
        rows = self.rows_of(matrix.apply(V) if tall else matrix.apply_adjoint(V))
        return replace(rows, seconds_multiplying=time.perf_counter() - started)

    def rows_of(self, product: Array) -> Rows:
        """Return the rows of ``S V`` from an operator or a chain."""
        assert self.V is not None
        Y = np.array(product, dtype=self.V.dtype, order="C")  # operators reuse memory
        if self.exponent:
            Y = times_power(Y, -self.exponent)
        if not np.isfinite(Y).all():
            msg = f"{self.matrix.name}: expected finite products, got a NaN or an infinity"
            raise NonFiniteError(msg)
        return Rows(*self._finished(0, Y))

    def _finished(self, index: int, Y: Array) -> tuple[tuple[Array, ...], Any, Any]:
        """Factor the rows of a panel, and write or return them: parts, factors, checksums."""
        factor: Any = np.linalg.qr(Y, mode="r")
        if self.target is None:
            return (Y,), (factor,), ((),)
        return (), (factor,), (write_panel(self.target, self.layout, index, Y),)
