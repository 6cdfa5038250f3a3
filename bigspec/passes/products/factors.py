"""Products with one factor of a chain: with it, with its adjoint, or with both from one read."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal
from zlib import crc32

import numpy as np

from bigspec.algorithms import iterates
from bigspec.certificate import Facts
from bigspec.errors import MatrixChangedError
from bigspec.expressions import Product
from bigspec.kernels import safe_exponent, working_dtype
from bigspec.kernels.partials import Partial
from bigspec.kernels.sums import times_power
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.panels.backward import BackwardContext
from bigspec.panels.choose_layout import choose_layout
from bigspec.panels.layout import Layout
from bigspec.passes.contract import FirstRounds, Hooks, PassCost, PassResult
from bigspec.passes.on_cluster import find_executor
from bigspec.passes.single import Pass

__all__ = ["Cost", "Factor", "apply_to", "columns_of", "scaled"]

Array = np.ndarray[Any, Any]


@dataclass
class Cost:
    """The deadline and the cost that passes over the factors of one product share.

    Attributes
    ----------
    hooks : Hooks
        They count the panels of all passes over all factors.
    panels, done : int
    bytes_read, retries : int
    reading, multiplying : float
        Seconds, summed over all threads.
    tokens : dict
        Content tokens of each factor.
    chunks : dict
        Chunks of each factor, counted once, and how many of them are not in its store.
    """

    hooks: Hooks = field(default_factory=Hooks)
    panels: int = 0
    done: int = 0
    bytes_read: int = 0
    retries: int = 0
    reading: float = 0.0
    multiplying: float = 0.0
    tokens: dict[int, int] = field(default_factory=dict)
    chunks: dict[int, tuple[int, int]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def panels_done(self, count: int, bytes_read: int) -> None:
        """Report so many more panels, and the bytes that this pass over a factor has read."""
        self.done += count
        self.panels = max(self.panels, self.done)
        if self.hooks.on_panels is not None:
            seconds = time.monotonic() - self.started
            self.hooks.on_panels(self.done, self.panels, self.bytes_read + bytes_read, seconds)

    def add(self, matrix: Matrix, spent: PassCost, tokens: Any) -> None:
        """Add a pass over a factor, and compare its panels with those of an earlier one."""
        self.bytes_read += spent.bytes_read
        self.retries += spent.retries
        self.reading += spent.seconds_reading
        self.multiplying += spent.seconds_multiplying
        counted = spent.chunks, spent.missing_chunks
        self.chunks[id(matrix)] = max(self.chunks.get(id(matrix), (0, 0)), counted)
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

    def spent(self, seconds: float) -> PassCost:
        """Return the cost of all passes over the factors."""
        return PassCost(
            self.bytes_read,
            seconds,
            self.reading,
            self.multiplying,
            self.panels,
            self.retries,
            *self.counted,
        )

    def partial(self, Z: Array, gram: Array, exponent: int) -> Partial:
        """Return the product of all factors as the sum of a pass."""
        tokens = np.array([self.token], np.uint32)
        spent = self.bytes_read, self.reading, self.multiplying, self.retries
        return Partial(Z, gram, exponent, None, tokens, *spent, *self.counted)

    @property
    def counted(self) -> tuple[int, int]:
        """Chunks of all factors, and how many of them are not in the store."""
        counts = self.chunks.values()
        return sum(chunks for chunks, _ in counts), sum(missing for _, missing in counts)

    @property
    def token(self) -> int:
        """The token of the factor that was read first."""
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

        Panels have the orientation `wanted` if one read of them is enough.
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
            waiting=executor.waiting,
        )
        return cls(matrix, layout, limit, cost)

    def panels(self, *, fused: bool = False, adjoint: bool = False) -> int:
        """Return how many panels a product has; 0 if it has no layout."""
        if self.layout is None:
            return 0
        return self.layout.panels * (2 if fused and self.rows == adjoint else 1)

    @property
    def nbytes(self) -> int:
        """Bytes that a pass over it holds; 0 if it has no layout."""
        return 0 if self.layout is None else self.layout.memory.total

    @property
    def rows(self) -> bool:
        """Whether panels are rows."""
        return self.layout is not None and self.layout.orientation == "rows"

    def times(self, V: Array, *, adjoint: bool = False) -> Array:
        """Return ``M V``, or ``M^H V``."""
        if self._splits(V):
            return iterates.whole(self.times(iterates.parts(V), adjoint=adjoint))
        if self.layout is None:
            return apply_to(self.matrix, V, self.limit, self.cost, adjoint=adjoint)
        return self._forward(V)[0] if self.rows != adjoint else self._backward(V)

    def both(self, V: Array, *, adjoint: bool) -> tuple[Array, Array | None]:
        """Return ``M V`` and, if the same read gives it, ``M^H M V``, of M or its adjoint."""
        if self._splits(V):
            Y, Z = self.both(iterates.parts(V), adjoint=adjoint)
            return iterates.whole(Y), None if Z is None else iterates.whole(Z)
        if self.layout is None or self.rows == adjoint or self.layout.reads_per_pass > 1:
            return self.times(V, adjoint=adjoint), None
        return self._forward(V, back=True)

    def fused(self, V: Array, *, adjoint: bool = False) -> tuple[Array, Array, int, Facts | None]:
        """Return ``M^H M V``, ``V^H M^H M V``, exponent and facts, of M or its adjoint."""
        if self._splits(V):
            Z, G, exponent, facts = self.fused(iterates.parts(V), adjoint=adjoint)
            b = V.shape[1]
            gram = G[:b, :b] + G[b:, b:] + 1j * (G[:b, b:] - G[b:, :b])
            return iterates.whole(Z), gram, exponent, facts
        if isinstance(self.matrix, Product):
            return self._fused_product(self.matrix, V, adjoint=adjoint)
        if self.layout is None or self.rows == adjoint:
            Y, exponent = scaled(self.times(V, adjoint=adjoint))
            Z = times_power(self.times(Y, adjoint=not adjoint), -exponent)
            return Z, iterates.inner(Y, Y), exponent, None
        result = self._run(V)
        return result.Z, result.gram, result.exponent, result.facts

    def _run(self, V: Array) -> PassResult:
        """Run a pass over this factor alone."""
        assert self.layout is not None
        passes = Pass(self.matrix, self.layout, find_executor(self.matrix.resident))
        result = passes.run(V, hooks=self._hooks())
        self.cost.add(self.matrix, result.cost, result.tokens)
        return result

    @property
    def length(self) -> int:
        """Length of the iterates of its own passes."""
        assert self.layout is not None
        return self.layout.iterate_length

    def facts(self, V: Array) -> tuple[Facts, int]:
        """Read it once; return its facts and their exponent. V is any block."""
        result = self._run(V)
        assert result.facts is not None
        return result.facts, result.exponent

    def _fused_product(
        self, matrix: Product, V: Array, *, adjoint: bool
    ) -> tuple[Array, Array, int, None]:
        parts = (matrix.left, matrix.right) if adjoint else (matrix.right, matrix.left)
        outer, inner = (
            Factor.of(part, columns_of(part, V), self.limit, self.cost) for part in parts
        )
        Y, before = scaled(outer.times(V, adjoint=adjoint))
        T, gram, exponent, _ = inner.fused(Y, adjoint=adjoint)
        T, after = scaled(T)
        Z = times_power(outer.times(T, adjoint=not adjoint), after - before)
        return Z, gram, before + exponent, None

    def _splits(self, V: Array) -> bool:
        """Whether a real factor multiplies real and imaginary parts of a complex block."""
        return V.dtype.kind == "c" and self.matrix.dtype.kind != "c"

    def _hooks(self) -> Hooks:
        """Return hooks that count the panels of this pass among those of the chain."""
        before = 0

        def panels_done(done: int, _panels: int, bytes_read: int, _seconds: float) -> None:
            nonlocal before
            self.cost.panels_done(done - before, bytes_read)
            before = done

        return Hooks(panels_done, deadline=self.cost.hooks.deadline)

    def _forward(self, V: Array, *, back: bool = False) -> tuple[Array, Array | None]:
        assert self.layout is not None
        passes = Pass(self.matrix, self.layout, find_executor(self.matrix.resident))
        done = passes.forward(V, back=back, hooks=self._hooks())
        assert done.Y is not None
        self.cost.add(self.matrix, done.cost, done.tokens)
        return done.Y, done.Z

    def _backward(self, W: Array) -> Array:
        assert self.layout is not None
        executor = find_executor(self.matrix.resident)
        block = np.ascontiguousarray(W, working_dtype(self.matrix.dtype))
        context = BackwardContext(self.matrix, self.layout, block, 0, False)
        total = executor.sum_rounds(
            context,
            FirstRounds(),
            on_panels=lambda count: self.cost.panels_done(count, 0),
            on_sum=lambda *_: None,
            deadline=self.cost.hooks.deadline,
        )
        spent = PassCost(
            total.bytes_read,
            seconds_reading=total.seconds_reading,
            seconds_multiplying=total.seconds_multiplying,
            retries=total.retries,
            chunks=total.chunks,
            missing_chunks=total.missing_chunks,
        )
        self.cost.add(self.matrix, spent, total.tokens)
        return total.Z


def apply_to(matrix: Matrix, V: Array, limit: int, cost: Cost, *, adjoint: bool) -> Array:
    """Return ``M V`` (``M^H V``) of an operator, a product included."""
    assert isinstance(matrix, OperatorMatrix)
    if not isinstance(matrix, Product):
        return matrix.apply_adjoint(V) if adjoint else matrix.apply(V)
    parts = (matrix.left, matrix.right) if adjoint else (matrix.right, matrix.left)
    for part in parts:
        V = Factor.of(part, columns_of(part, V), limit, cost).times(V, adjoint=adjoint)
    return V


def columns_of(matrix: Matrix, V: Array) -> int:
    """Columns that a factor multiplies: real ones of a complex block count twice."""
    return int(V.shape[1]) * (2 if V.dtype.kind == "c" and matrix.dtype.kind != "c" else 1)


def scaled(Y: Array) -> tuple[Array, int]:
    """Return ``2**-e Y``, and e: 0 in the safe range."""
    exponent = safe_exponent(float(np.abs(Y).max(initial=0.0)))
    return times_power(Y, -exponent) if exponent else Y, exponent
