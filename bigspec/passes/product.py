"""Passes over a product ``L R``: ``R^H (L^H L (R V))``, from one read of each factor.

The inner factor L is read once, by the fused product of every other pass. The outer one comes
before and after it, and what comes after depends on all of what came before: it is read after,
and the same read prepares what comes before in the next pass (see `bigspec.passes.images`). In the
first pass, and where its layout does not allow that, it is read twice. What lies between the
factors is a block of p rows, p the inner extent; nothing of m rows (n rows, if n > m) is ever
formed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from bigspec.blocks import times_power
from bigspec.errors import MemoryLimitError, NonFiniteError
from bigspec.expressions import Product
from bigspec.layout import Layout, format_bytes
from bigspec.matrices import Matrix
from bigspec.partials import Partial
from bigspec.passes.entries import UNDERESTIMATED, entries_error
from bigspec.passes.executors import Executor
from bigspec.passes.factors import Cost, Factor, apply_to, columns_of, scaled
from bigspec.passes.forward import ForwardContext
from bigspec.passes.images import Images
from bigspec.passes.runner import Pass, PassResult
from bigspec.passes.tasks import Context

__all__ = ["passes_over", "with_factors"]

Array = np.ndarray[Any, Any]


def run_product(context: ProductContext) -> Partial:
    """Multiply a block by ``H = K^H K``, K the product, or ``K K^H`` for panels of columns.

    Between the factors the block is scaled by powers of two, so that neither over- nor underflows.
    """
    matrix, V, images = context.matrix, context.V, context.images
    assert isinstance(matrix, Product)
    assert V is not None
    assert images is not None
    started, cost = time.perf_counter(), Cost(context.deadline, context.on_panels)
    tall = context.layout.orientation == "rows"
    outer, inner, carries, _ = _factors(matrix, V, context.layout, cost)
    limit = inner.limit
    error, norm = entries_error(matrix, limit, cost) if context.exponent is None else (0.0, 0.0)
    image = images.find(V) if carries else None
    while True:
        reads = 1 if image is not None else 2
        cost.panels = (
            cost.done + inner.panels(fused=True, adjoint=not tall) + reads * outer.panels()
        )
        Y, before = scaled(outer.times(V, adjoint=not tall) if image is None else image)
        T, gram, exponent, facts = inner.fused(Y, adjoint=not tall)
        T, after = scaled(T)
        Z, X = outer.both(T, adjoint=tall) if carries else (outer.times(T, adjoint=tall), None)
        Z = times_power(np.ascontiguousarray(Z, V.dtype), after - before)
        if not (np.isfinite(Z).all() and np.isfinite(gram).all()):
            msg = f"{matrix.name}: expected finite products, got a NaN or an infinity"
            raise NonFiniteError(msg)
        plain = before == after == exponent == 0
        if image is None or (plain and images.stands(V, Z, gram)):
            break
        image, images.error = None, 0.0
    if X is not None and plain:
        Y, X = (block.astype(V.dtype, copy=False) for block in (Y, X))
        images.note(V, Y, T, gram, Z, X, facts)
    if error:
        images.entries = _entries_effect(error, norm, gram, len(V), before + exponent)
    part = Partial(
        Z,
        np.asarray(gram, V.dtype),
        before + exponent,
        None,
        np.array([cost.token], np.uint32),
        cost.bytes_read,
        0.0,
        time.perf_counter() - started,
    )
    return part if context.exponent is None else part.rescaled(context.exponent)


def _entries_effect(error: float, norm: float, gram: Array, n: int, exponent: int) -> float:
    """Estimate the error of H, scaled, that errors of the entries make.

    The block of the first pass has a random part, and ``n / b ||K V||_F^2`` is about ``||K||_F^2``.
    """
    error, norm = (float(np.ldexp(x, -exponent)) for x in (error, norm))
    size = UNDERESTIMATED * float(np.sqrt(max(np.trace(gram).real, 0.0) * n / len(gram)))
    return 2 * min(norm, size) * error + error**2


def _factors(
    matrix: Product, V: Array, layout: Layout, cost: Cost
) -> tuple[Factor, Factor, bool, int]:
    """Lay out both factors within what the iterates leave.

    Returns
    -------
    outer, inner : Factor
    carries : bool
        Whether images are carried: where they and the outer factor's panels for them fit.
    held : int
        Bytes that a pass holds besides the iterates, at most.

    Raises
    ------
    MemoryLimitError
    """
    rows, columns = layout.iterate_length, V.shape[1]
    between = 6 * matrix.left.shape[1] * columns * V.dtype.itemsize
    # Three images and Z are carried, and W, V - W K and the sums of `Factor.both` are made.
    carried = 4 * (matrix.left.shape[1] + rows) * columns * V.dtype.itemsize
    limit = layout.memory.limit - layout.memory.iterates - between
    if limit <= 0:
        least = format_bytes(layout.memory.iterates + between)
        msg = (
            f"memory_limit: expected at least {least} for the iterates of {matrix.name} and the "
            f"blocks between its factors, got {format_bytes(layout.memory.limit)}. Give more "
            "memory, or a smaller block_size"
        )
        raise MemoryLimitError(msg)
    tall = layout.orientation == "rows"
    parts = (matrix.right, matrix.left) if tall else (matrix.left, matrix.right)
    swept: tuple[Literal["rows", "columns"], ...] = (
        ("columns", "rows") if tall else ("rows", "columns")
    )
    widths = [columns_of(part, V) for part in parts]
    if carried < limit // 2:
        with suppress(MemoryLimitError):
            outer, inner = (
                Factor.of(part, width, limit - carried, cost, wanted=wanted)
                for part, width, wanted in zip(parts, widths, swept, strict=True)
            )
            return outer, inner, True, between + carried + max(outer.nbytes, inner.nbytes)
    outer = Factor.of(parts[0], widths[0], limit, cost)
    inner = Factor.of(parts[1], widths[1], limit, cost, wanted=swept[1])
    return outer, inner, False, between + max(outer.nbytes, inner.nbytes)


def with_factors(layout: Layout, matrix: Matrix, columns: int) -> Layout:
    """Return a layout that counts what a pass over the factors holds, if the matrix is a product.

    Parameters
    ----------
    layout : Layout
    matrix : Matrix
    columns : int
        Of a block.

    Raises
    ------
    MemoryLimitError
        The factors do not fit.
    """
    if not isinstance(matrix, Product):
        return layout
    V = np.empty((0, columns), matrix.dtype)
    *_, held = _factors(matrix, V, layout, Cost())
    return replace(layout, memory=replace(layout.memory, results=0, task=held, tasks=1))


@dataclass(frozen=True, eq=False)
class ProductContext(Context):
    """A pass over a product runs here, as passes over its factors.

    Attributes
    ----------
    images : Images or None
        Where the outer factor's first product may come from.
    deadline : float or None
        As of `Pass`.
    on_panels : callable or None
        As of `Cost`.
    """

    images: Images | None = None
    deadline: float | None = None
    on_panels: Callable[[int, int, int], None] | None = None

    def at_once(self) -> Partial:
        """Run it."""
        return run_product(self)


@dataclass(frozen=True, eq=False)
class ProductForward(ForwardContext):
    """A forward pass over a product; `deadline` is that of `Pass`."""

    deadline: float | None = None

    def apply(self, V: Array, *, adjoint: bool) -> Array:
        """Multiply one factor after the other."""
        limit = self.layout.memory.limit
        return apply_to(self.matrix, V, limit, Cost(self.deadline), adjoint=adjoint)


class ProductPass(Pass):
    """Passes over a product of matrices."""

    def run(self, V: Array | None, *, exponent: int | None = None) -> PassResult:
        """Read the factors and return ``H V``; see `Pass.run`.

        The error of an image that was not read adds to the defect, and in the first pass what
        errors of the factors' entries make.
        """
        self._images = Images(self.carried, self.accuracy, self.failure_probability)
        self._started = time.monotonic()
        result = super().run(V, exponent=exponent)
        self.carried = self._images.after
        # The entries' part is a bound; the defect, which is multiplied by 8, an estimate.
        unseen = self._images.effect + self._images.entries / 8
        self.last = replace(result, defect=result.defect + unseen)
        return self.last

    @property
    def outdated(self) -> bool:
        """Whether images of earlier passes spoil the accuracy asked for now."""
        return Images(self.carried, self.accuracy, self.failure_probability).outdated

    def _check_adjoint(self, defect: float, size: float) -> None:
        """Leave the test to products with an operator: other adjoints are right, by their making.

        Factors that cancel round by more than the test allows; the interval says so.
        """
        assert isinstance(self.matrix, Product)
        if self.matrix.has_operator:
            super()._check_adjoint(defect, size)

    def _context(self, V: Array | None, exponent: int | None) -> Context:
        return ProductContext(
            self.matrix,
            self.layout,
            V,
            exponent,
            False,
            images=self._images,
            deadline=self.deadline,
            on_panels=self._panels_done,
        )

    def _panels_done(self, done: int, panels: int, bytes_read: int) -> None:
        if self.on_panels is not None:
            self.on_panels(done, panels, bytes_read, time.monotonic() - self._started)

    def _forward_context(self, V: Array, exponent: int, target: Any) -> ForwardContext:
        return ProductForward(
            self.matrix, self.layout, V, exponent, False, target=target, deadline=self.deadline
        )


def passes_over(
    matrix: Matrix,
    layout: Layout,
    executor: Executor,
    *,
    on_panels: Callable[[int, int, int, float], None] | None = None,
) -> Pass:
    """Return the passes over a matrix, products included; see `Pass`."""
    kind = ProductPass if isinstance(matrix, Product) else Pass
    return kind(matrix, layout, executor, on_panels=on_panels)
