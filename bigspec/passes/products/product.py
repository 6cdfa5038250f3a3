"""Passes over a product ``L R``: ``R^H (L^H L (R V))``, from one read of each factor.

The inner factor L is read once, by the same fused product as in other passes. The outer factor R
comes before and after it, and the second product depends on all of the first. So R is read after
L, and the same read prepares the first product of the next pass (see
`bigspec.passes.products.images`). R is read twice in the first pass, and if its layout does not
allow this. Between the factors lies a block of p rows, p the inner extent. No block of m rows (n
rows, if n > m) is ever formed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from bigspec.algorithms import iterates
from bigspec.errors import MemoryLimitError, NonFiniteError, format_bytes
from bigspec.expressions import Product
from bigspec.kernels import working_dtype
from bigspec.kernels.sums import times_power
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.panels.first import FirstSlab
from bigspec.panels.forward import ForwardContext
from bigspec.panels.layout import Layout
from bigspec.passes.contract import Accuracy, FirstRounds, Forward, Hooks, PassCost, PassResult
from bigspec.passes.executor import Executor
from bigspec.passes.inline import InlineExecutor, nearest
from bigspec.passes.on_cluster import find_executor
from bigspec.passes.products.entries import UNDERESTIMATED, entries_error
from bigspec.passes.products.factors import Cost, Factor, apply_to, columns_of, scaled
from bigspec.passes.products.images import Carried, Images
from bigspec.passes.single import (
    Pass,
    check_adjoint,
    check_tokens,
    forward_result,
    pass_result,
)

__all__ = ["passes_over", "where", "with_factors"]

Array = np.ndarray[Any, Any]


def multiply(
    matrix: Product, layout: Layout, V: Array, images: Images, cost: Cost
) -> tuple[Array, Array, int]:
    """Multiply a block by ``H = K^H K``, K the chain, or ``K K^H`` for panels of columns.

    Between the factors, powers of two scale the block, so that it neither over- nor underflows.

    Returns
    -------
    Z : ndarray (n, b)
    gram : ndarray (b, b)
    exponent : int
        Of both, per factor of K.
    """
    tall = layout.orientation == "rows"
    outer, inner, carries, _ = _factors(matrix, V, layout, cost)
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
        if not (iterates.finite(Z) and iterates.finite(gram)):
            msg = f"{matrix.name}: expected finite products, got a NaN or an infinity"
            raise NonFiniteError(msg)
        plain = before == after == exponent == 0
        if image is None or (plain and images.stands(V, Z, gram)):
            break
        image, images.error = None, 0.0
    if X is not None and plain:
        Y, X = (block.astype(V.dtype, copy=False) for block in (Y, X))
        images.note(V, Y, T, gram, Z, X, facts)
    return Z, np.asarray(gram, V.dtype), before + exponent


MOST_ABOVE = 200  # powers of two that errors may lie above the rest of a product


def _entries_effect(error: float, norm: float, gram: Array, n: int, exponent: int) -> float:
    """Estimate the error of H, scaled, that errors of the entries make.

    The block of the first pass has a random part, and ``n / b ||K V||_F^2`` is about ``||K||_F^2``.
    """
    error, norm = (float(np.ldexp(x, -exponent)) for x in (error, norm))
    size = UNDERESTIMATED * float(np.sqrt(max(np.trace(gram).real, 0.0) * n / len(gram)))
    return 2 * min(norm, size) * error + error * error


def _scale_of(error: float, gram: Array, scale: int) -> int:
    """Return the exponent of a first pass; if only errors are left, it is theirs.

    Their squares must not leave the range of float64.
    """
    own = int(np.frexp(error)[1])
    return own if error and (own > scale + MOST_ABOVE or not np.any(gram)) else scale


def _factors(
    matrix: Product, V: Array, layout: Layout, cost: Cost
) -> tuple[Factor, Factor, bool, int]:
    """Lay out both factors within the memory that the iterates leave.

    Returns
    -------
    outer, inner : Factor
    carries : bool
        Whether images are carried, because they and the panels of the outer factor fit.
    most : int
        Bytes that a pass holds besides the iterates, at most.

    Raises
    ------
    MemoryLimitError
    """
    rows, columns = layout.iterate_length, V.shape[1]
    between = 6 * matrix.left.shape[1] * columns * V.dtype.itemsize
    # Carried: three images and Z. Temporary: W, V - W K and the sums of `Factor.both`.
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
    along: tuple[Literal["rows", "columns"], ...] = (
        ("columns", "rows") if tall else ("rows", "columns")
    )
    widths = [columns_of(part, V) for part in parts]
    if carried < limit // 2:
        with suppress(MemoryLimitError):
            outer, inner = (
                Factor.of(part, width, limit - carried, cost, wanted=wanted)
                for part, width, wanted in zip(parts, widths, along, strict=True)
            )
            return outer, inner, True, between + carried + max(outer.nbytes, inner.nbytes)
    outer = Factor.of(parts[0], widths[0], limit, cost)
    inner = Factor.of(parts[1], widths[1], limit, cost, wanted=along[1])
    return outer, inner, False, between + max(outer.nbytes, inner.nbytes)


def with_factors(layout: Layout, matrix: Matrix, columns: int) -> Layout:
    """Return a layout that counts the memory of a pass over the factors, if there are factors.

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
    *_, most = _factors(matrix, V, layout, Cost())
    return replace(layout, memory=replace(layout.memory, results=0, task=most, tasks=1))


class ChainPass(Pass):
    """Passes over a chain ``A @ B``, each of which runs passes over the factors."""

    def run(
        self,
        V: Array | None,
        *,
        exponent: int | None = None,
        done: FirstRounds | None = None,
        tokens: Array | None = None,
        carried: Carried | None = None,
        accuracy: Accuracy | None = None,
        hooks: Hooks | None = None,
    ) -> PassResult:
        """Read the factors and return ``H V``; see `Pass.run`.

        The images of the last blocks are carried on. The error of an image that was not read adds
        to the defect. In the first pass the errors of the factors' entries add to it too.
        """
        assert isinstance(self.matrix, Product)
        assert V is not None, "a chain has no Gram matrix"
        started = time.monotonic()
        block = np.ascontiguousarray(V, working_dtype(self.matrix.dtype))
        images = Images(carried, accuracy or Accuracy())
        cost = Cost(hooks or Hooks())
        error, norm = 0.0, 0.0
        if exponent is None:
            _, inner, _, _ = _factors(self.matrix, block, self.layout, cost)
            error, norm = entries_error(self.matrix, inner.limit, cost)
        Z, gram, scale = multiply(self.matrix, self.layout, block, images, cost)
        total = cost.partial(Z, gram, scale)
        total = total.rescaled(_scale_of(error, gram, scale))
        # The part of the entries is a bound. The defect is an estimate, and is multiplied by 8.
        entries = 0.0
        if error:
            entries = _entries_effect(error, norm, total.gram, len(block), total.exponent) / 8
        check_tokens(self.matrix, self.layout, total.tokens, tokens)
        if exponent is not None:
            total = total.rescaled(exponent)
        spent = PassCost(seconds=time.monotonic() - started, panels=max(cost.panels, 1))
        result = pass_result(total, block, spent)
        if self.matrix.has_operator:
            # Other adjoints are right by construction. Factors that cancel round by more than this
            # test allows, and the interval includes that.
            check_adjoint(self.matrix, result)
        unseen = images.effect + entries
        return replace(result, defect=result.defect + unseen, carried=images.after)

    def outdated(self, carried: Any, accuracy: Accuracy) -> bool:
        """Whether images of earlier passes are too inaccurate now."""
        return Images(carried, accuracy).outdated

    def forward(
        self,
        V: Array,
        *,
        exponent: int = 0,
        target: Any = None,
        back: bool = False,
        tokens: Array | None = None,
        hooks: Hooks | None = None,
    ) -> Forward:
        """Multiply by one factor after the other; see `Pass.forward`."""
        assert not back, "one read of a chain does not give both products"
        started = time.monotonic()
        block = np.ascontiguousarray(V, working_dtype(self.matrix.dtype))
        context = ForwardContext(self.matrix, self.layout, block, exponent, False, target=target)
        cost = Cost(hooks or Hooks())
        adjoint = self.layout.orientation != "rows"
        Y = apply_to(self.matrix, block, self.layout.memory.limit, cost, adjoint=adjoint)
        result = forward_result(context.rows_of(Y), time.monotonic() - started)
        return replace(result, cost=cost.spent(result.cost.seconds))


def passes_over(
    matrix: Matrix,
    layout: Layout,
    executor: Executor,
    columns: int,
    first: FirstSlab | None = None,
) -> Pass:
    """Return the passes over a matrix, chains included, with blocks of so many random columns.

    `first` is the slab that planning has read.
    """
    if isinstance(matrix, Product):
        return ChainPass(matrix, layout, executor)
    return Pass(matrix, layout, nearest(matrix, executor, columns), first)


def where(matrix: Matrix, executor: Executor, columns: int) -> str:
    """Name the executor that multiplies a matrix by blocks of so many random columns.

    For a chain, these are the executors of its factors. Factors in the memory of this process are
    multiplied here, operators in the calling thread, the others on the cluster, if there is one.
    """
    if not isinstance(matrix, Product):
        return _nearest(matrix, nearest(matrix, executor, columns))
    parts = _leaves(matrix)
    return " and ".join(sorted({_nearest(part, find_executor(part.resident)) for part in parts}))


def _nearest(matrix: Matrix, executor: Executor) -> str:
    """Name an executor; products of an operator are calls of the user's code in this process."""
    return (InlineExecutor() if isinstance(matrix, OperatorMatrix) else executor).name


def _leaves(matrix: Product) -> Iterator[Matrix]:
    for part in (matrix.left, matrix.right):
        if isinstance(part, Product):
            yield from _leaves(part)
        else:
            yield part
