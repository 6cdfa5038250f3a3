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
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal
from zlib import crc32

import numpy as np

from bigspec.blocks import times_power
from bigspec.certificate import Facts
from bigspec.errors import MatrixChangedError, MemoryLimitError, NonFiniteError
from bigspec.expressions import Product
from bigspec.kernels import safe_exponent, working_dtype
from bigspec.layout import Layout, choose_layout, format_bytes
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.partials import Partial
from bigspec.passes.executors import Begun, Executor
from bigspec.passes.forward import ForwardContext
from bigspec.passes.images import Images
from bigspec.passes.on_cluster import find_executor
from bigspec.passes.runner import Pass, PassResult
from bigspec.passes.tasks import Abandoned, Context, size_of
from bigspec.products import multiply_adjoint
from bigspec.tokens import block_token

__all__ = ["passes_over"]

Array = np.ndarray[Any, Any]


@dataclass
class Cost:
    """What the passes over the factors of one product share: when they end, what they cost.

    Attributes
    ----------
    deadline : float or None
    on_panels : callable or None
        Called with (panels done, panels in all, bytes read), of all passes over all factors.
    panels, done, bytes_read : int
    tokens : dict
        Of the content of each factor.
    """

    deadline: float | None = None
    on_panels: Callable[[int, int, int], None] | None = None
    panels: int = 0
    done: int = 0
    bytes_read: int = 0
    tokens: dict[int, int] = field(default_factory=dict)

    def panels_done(self, count: int, bytes_read: int) -> None:
        """Tell that so many panels more are done, and what this pass over a factor has read."""
        self.done += count
        if self.on_panels is not None:
            self.panels = max(self.panels, self.done)
            self.on_panels(self.done, self.panels, self.bytes_read + bytes_read)

    def add(self, matrix: Matrix, other: Any, tokens: Any) -> None:
        """Add a pass over a factor, and compare its panels with those of an earlier one."""
        self.bytes_read += other.bytes_read
        if not len(tokens):  # operators, and dask arrays read by panels instead of chunks
            return
        token = crc32(np.asarray(tokens, np.uint32).tobytes())
        if self.tokens.setdefault(id(matrix), token) != token:
            msg = (
                f"{matrix.name}: expected the same entries in both reads of a pass, got others. "
                "The matrix changed during the run, or was read wrongly: no interval holds. Start "
                "a new run on a matrix that stays."
            )
            raise MatrixChangedError(msg)

    @property
    def token(self) -> int:
        """Of the factors, whichever was read first."""
        return crc32(np.asarray(sorted(self.tokens.values()), np.uint32).tobytes())


@dataclass(frozen=True)
class Factor:
    """A factor with its layout: products with it and its adjoint, and both fused."""

    matrix: Matrix
    layout: Layout | None
    limit: int
    cost: Cost = field(repr=False)

    @classmethod
    def of(
        cls,
        matrix: Matrix,
        columns: int,
        limit: int,
        cost: Cost,
        *,
        wanted: Literal["rows", "columns"] | None = None,
    ) -> Factor:
        """Lay out a factor for blocks of so many real columns, or complex ones if it is complex.

        Panels are of the orientation wanted, where one read of them is enough.
        """
        if isinstance(matrix, OperatorMatrix):
            return cls(matrix, None, limit, cost)
        executor = find_executor(matrix.resident)
        most = limit if executor.local else min(limit, executor.memory() // 2)
        layout = choose_layout(
            matrix,
            columns,
            blocks=3,
            limit=most,
            tasks=executor.tasks,
            local=executor.local,
            wanted=wanted,
        )
        return cls(matrix, layout, limit, cost)

    def panels(self, *, fused: bool = False, adjoint: bool = False) -> int:
        """Return how many panels a product has, as far as its layout tells."""
        if self.layout is None:
            return 0
        return self.layout.panels * (2 if fused and self.rows == adjoint else 1)

    @property
    def rows(self) -> bool:
        """Whether panels are rows."""
        return self.layout is not None and self.layout.orientation == "rows"

    def times(self, V: Array, *, adjoint: bool = False) -> Array:
        """Return ``M V``, or ``M^H V``."""
        if self._splits(V):
            return _whole(self.times(_parts(V), adjoint=adjoint))
        if self.layout is None:
            return _operator(self.matrix, V, self.limit, self.cost, adjoint=adjoint)
        return self._forward(V) if self.rows != adjoint else self._backward(V)

    def both(self, V: Array, *, adjoint: bool) -> tuple[Array, Array | None]:
        """Return ``M V`` and, if the same read gives it, ``M^H M V``; with the adjoint, of it."""
        if self._splits(V):
            Y, Z = self.both(_parts(V), adjoint=adjoint)
            return _whole(Y), None if Z is None else _whole(Z)
        if self.layout is None or self.rows == adjoint or self.layout.reads_per_pass > 1:
            return self.times(V, adjoint=adjoint), None
        done = self._passes().forward(V, back=True)
        assert done.Y is not None
        self.cost.add(self.matrix, done, done.contents)
        return done.Y, done.Z

    def fused(self, V: Array, *, adjoint: bool = False) -> tuple[Array, Array, int, Facts | None]:
        """Return ``M^H M V``, ``V^H M^H M V``, or those of ``M^H``, their exponent, and facts."""
        if self._splits(V):
            Z, G, exponent, facts = self.fused(_parts(V), adjoint=adjoint)
            b = V.shape[1]
            gram = G[:b, :b] + G[b:, b:] + 1j * (G[:b, b:] - G[b:, :b])
            return _whole(Z), gram, exponent, facts
        if isinstance(self.matrix, Product):
            return self._fused_product(self.matrix, V, adjoint=adjoint)
        if self.layout is None or self.rows == adjoint:
            Y, exponent = _scaled(self.times(V, adjoint=adjoint))
            Z = times_power(self.times(Y, adjoint=not adjoint), -exponent)
            return Z, Y.conj().T @ Y, exponent, None
        passes = self._passes()
        result = passes.run(V)
        self.cost.add(self.matrix, result, passes.tokens)
        return result.Z, result.gram, result.exponent, result.facts

    def _fused_product(
        self, matrix: Product, V: Array, *, adjoint: bool
    ) -> tuple[Array, Array, int, None]:
        parts = (matrix.left, matrix.right) if adjoint else (matrix.right, matrix.left)
        outer, inner = (Factor.of(part, _columns(part, V), self.limit, self.cost) for part in parts)
        Y, before = _scaled(outer.times(V, adjoint=adjoint))
        T, gram, exponent, _ = inner.fused(Y, adjoint=adjoint)
        T, after = _scaled(T)
        Z = times_power(outer.times(T, adjoint=not adjoint), after - before)
        return Z, gram, before + exponent, None

    def _splits(self, V: Array) -> bool:
        """Whether a real factor meets a complex block, whose parts it then multiplies."""
        return V.dtype.kind == "c" and self.matrix.dtype.kind != "c"

    def _passes(self) -> Pass:
        assert self.layout is not None
        executor, before = find_executor(self.matrix.resident), 0

        def panels_done(done: int, _panels: int, bytes_read: int, _seconds: float) -> None:
            nonlocal before
            self.cost.panels_done(done - before, bytes_read)
            before = done

        return Pass(
            self.matrix,
            self.layout,
            executor,
            on_panels=panels_done,
            deadline=self.cost.deadline,
        )

    def _forward(self, V: Array) -> Array:
        done = self._passes().forward(V)
        assert done.Y is not None
        self.cost.add(self.matrix, done, done.contents)
        return done.Y

    def _backward(self, W: Array) -> Array:
        assert self.layout is not None
        executor = find_executor(self.matrix.resident)
        block = np.ascontiguousarray(W, working_dtype(self.matrix.dtype))
        context = BackwardContext(self.matrix, self.layout, block, 0, False)
        total = executor.sum_rounds(
            context,
            Begun(),
            on_panels=lambda count: self.cost.panels_done(count, 0),
            on_sum=lambda *_: None,
            deadline=self.cost.deadline,
        )
        self.cost.add(self.matrix, total, total.tokens)
        return total.Z


@dataclass(frozen=True, eq=False)
class BackwardContext(Context):
    """What every task needs of ``S^H W``; V holds W (rows of S, b)."""

    reads: ClassVar[bool] = False  # dask arrays are read by their panels, as stores are

    def task(self, reference: Any, panel: int) -> tuple[Any, ...]:
        """Return the task of a panel."""
        return (backward_panel, reference, panel)


def backward_panel(context: BackwardContext, index: int) -> Partial:
    """Read one panel slab by slab and add ``S_i^H W_i``."""
    matrix, layout, buffers, W = context.matrix, context.layout, context.buffers, context.V
    assert W is not None
    started, read_bytes, token = time.perf_counter(), 0, 0
    Z = np.zeros((layout.iterate_length, W.shape[1]), W.dtype)

    def tiles(slab: tuple[int, int]) -> Iterator[tuple[int, Any]]:
        nonlocal read_bytes, token
        for tile in layout.tiles():
            block = matrix.read(*layout.rectangle(slab, tile), buffers)
            read_bytes += size_of(block)
            token = block_token(block, token)
            yield tile[0], block

    for slab in layout.slabs(layout.panel(index)):
        if buffers.abandoned is not None and buffers.abandoned.is_set():
            raise Abandoned
        multiply_adjoint(
            tiles(slab),
            W[slab[0] : slab[1]],
            Z,
            transposed=layout.orientation == "columns",
            buffers=buffers,
        )
    seconds = time.perf_counter() - started
    return Partial(
        Z,
        np.zeros((0, 0), W.dtype),
        0,
        None,
        np.array([token] * matrix.streams, np.uint32),
        bytes_read=read_bytes,
        seconds_multiplying=seconds,
    )


def run_product(context: ProductContext) -> Partial:
    """Multiply a block by ``H = K^H K``, K the product, or ``K K^H`` for panels of columns.

    Between the factors the block is scaled by powers of two, so that neither over- nor underflows.
    """
    matrix, V = context.matrix, context.V
    assert isinstance(matrix, Product)
    assert V is not None
    started, cost = time.perf_counter(), Cost(context.deadline, context.on_panels)
    tall = context.layout.orientation == "rows"
    between = 6 * matrix.left.shape[1] * V.shape[1] * V.dtype.itemsize
    memory, images = context.layout.memory, context.images
    limit = memory.limit - memory.iterates - between
    if limit <= 0:
        msg = (
            f"memory_limit: expected at least {format_bytes(memory.iterates + between)} for the "
            f"iterates of {matrix.name} and the blocks between its factors, got "
            f"{format_bytes(memory.limit)}. Give more memory, or a smaller block_size"
        )
        raise MemoryLimitError(msg)
    # Three images and Z are carried, and W, V - W K and the sums of `both` are made.
    carried = (between // 6 + V.nbytes) * 4
    factors = None
    if images is not None and carried < limit // 2:
        with suppress(MemoryLimitError):
            factors = _factors(matrix, V, limit - carried, cost, tall=tall, carries=True)
    carries = factors is not None
    outer, inner = factors or _factors(matrix, V, limit, cost, tall=tall, carries=False)
    image = images.find(V) if carries and images is not None else None
    while True:
        reads = 1 if image is not None else 2
        cost.panels = (
            cost.done + inner.panels(fused=True, adjoint=not tall) + reads * outer.panels()
        )
        Y, before = _scaled(outer.times(V, adjoint=not tall) if image is None else image)
        T, gram, exponent, facts = inner.fused(Y, adjoint=not tall)
        T, after = _scaled(T)
        Z, X = outer.both(T, adjoint=tall) if carries else (outer.times(T, adjoint=tall), None)
        Z = times_power(np.ascontiguousarray(Z, V.dtype), after - before)
        if not (np.isfinite(Z).all() and np.isfinite(gram).all()):
            msg = f"{matrix.name}: expected finite products, got a NaN or an infinity"
            raise NonFiniteError(msg)
        plain = before == after == exponent == 0
        if image is None or images is None or (plain and images.stands(V, Z, gram)):
            break
        image, images.error = None, 0.0
    if images is not None and X is not None and plain:
        Y, X = (block.astype(V.dtype, copy=False) for block in (Y, X))
        images.note(V, Y, T, gram, Z, X, facts)
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


def _factors(
    matrix: Product, V: Array, limit: int, cost: Cost, *, tall: bool, carries: bool
) -> tuple[Factor, Factor]:
    """Lay out the outer and the inner factor for a pass; where images are carried, for those."""
    parts = (matrix.right, matrix.left) if tall else (matrix.left, matrix.right)
    swept: tuple[Literal["rows", "columns"], ...] = (
        ("columns", "rows") if tall else ("rows", "columns")
    )
    columns = [_columns(part, V) for part in parts]
    return (
        Factor.of(parts[0], columns[0], limit, cost, wanted=swept[0] if carries else None),
        Factor.of(parts[1], columns[1], limit, cost, wanted=swept[1]),
    )


def _columns(matrix: Matrix, V: Array) -> int:
    """Columns that a factor multiplies: real ones of a complex block count twice."""
    return int(V.shape[1]) * (2 if V.dtype.kind == "c" and matrix.dtype.kind != "c" else 1)


def _parts(V: Array) -> Array:
    return np.concatenate([V.real, V.imag], axis=1)


def _whole(parts: Array) -> Array:
    b = parts.shape[1] // 2
    return np.asarray(parts[:, :b] + 1j * parts[:, b:])


def _scaled(Y: Array) -> tuple[Array, int]:
    """Return ``2**-e Y``, and e: 0 in the safe range."""
    exponent = safe_exponent(float(np.abs(Y).max(initial=0.0)))
    return times_power(Y, -exponent) if exponent else Y, exponent


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
        return _operator(self.matrix, V, limit, Cost(self.deadline), adjoint=adjoint)


class ProductPass(Pass):
    """Passes over a product of matrices."""

    def run(self, V: Array | None, *, exponent: int | None = None) -> PassResult:
        """Read the factors and return ``H V``; see `Pass.run`.

        The error of an image that was not read adds to the defect.
        """
        self._images = Images(self.carried, self.accuracy, self.failure_probability)
        self._started = time.monotonic()
        result = super().run(V, exponent=exponent)
        self.carried = self._images.after
        self.last = replace(result, defect=result.defect + self._images.effect)
        return self.last

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


def _operator(matrix: Matrix, V: Array, limit: int, cost: Cost, *, adjoint: bool) -> Array:
    assert isinstance(matrix, OperatorMatrix)
    if not isinstance(matrix, Product):
        return matrix.apply_adjoint(V) if adjoint else matrix.apply(V)
    parts = (matrix.left, matrix.right) if adjoint else (matrix.right, matrix.left)
    for part in parts:
        V = Factor.of(part, _columns(part, V), limit, cost).times(V, adjoint=adjoint)
    return V
