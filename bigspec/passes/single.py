"""The pass: from a block V to ``H V`` and its cost, and in the first pass the facts."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np

from bigspec.algorithms import iterates
from bigspec.certificate import Facts
from bigspec.errors import AdjointError, MatrixChangedError
from bigspec.kernels import working_dtype
from bigspec.kernels.partials import Partial
from bigspec.matrices import Claims, Matrix, OperatorMatrix
from bigspec.panels.first import FirstSlab
from bigspec.panels.forward import ForwardContext
from bigspec.panels.fused import FusedContext
from bigspec.panels.layout import Layout
from bigspec.panels.rows import Rows
from bigspec.panels.target import FinishContext
from bigspec.passes.contract import Accuracy, FirstRounds, Forward, Hooks, PassCost, PassResult
from bigspec.passes.executor import Executor

__all__ = ["Pass", "check_adjoint", "check_tokens", "facts_of", "forward_result", "pass_result"]

Array = np.ndarray[Any, Any]


class Pass:
    """Passes over one matrix: `run` reads it once and multiplies a block by H.

    A pass knows nothing of the one before. Everything it needs is an argument, and everything it
    learns is in its result. Only entries stay, of the panels that the layout pins, until `close`.

    Parameters
    ----------
    matrix : Matrix
    layout : Layout
    executor : Executor
    first : FirstSlab, optional
        The slab that planning has read, for the first pass.
    """

    def __init__(
        self,
        matrix: Matrix,
        layout: Layout,
        executor: Executor,
        first: FirstSlab | None = None,
    ) -> None:
        self.matrix, self.layout, self.executor = matrix, layout, executor
        self.first = first or FirstSlab()
        self.pinned = executor.pinned(layout)

    def close(self) -> None:
        """Drop the pinned panels; idempotent."""
        self.pinned.drop()

    def make_room(self, held: int) -> None:
        """Drop pinned panels that do not fit beside `held` bytes of a basis in this process."""
        if self.executor.local:
            self.pinned.make_room(held)

    @property
    def length(self) -> int:
        """Length of the iterates."""
        return self.layout.iterate_length

    @property
    def complex_(self) -> bool:
        """Whether iterates are complex."""
        return working_dtype(self.matrix.dtype).kind == "c"

    @property
    def depth(self) -> float:
        """Terms added one after another into an entry of Z, for the rounding model."""
        longest = self.layout.along.step * self.layout.panel_cells
        return float(min(longest, self.layout.along.extent) + self.layout.panels)

    def outdated(self, carried: Any, accuracy: Accuracy) -> bool:
        """Whether earlier passes were less accurate than `accuracy` asks for: never here."""
        return False

    def run(
        self,
        V: Array | None,
        *,
        exponent: int | None = None,
        done: FirstRounds | None = None,
        tokens: Array | None = None,
        carried: Any = None,
        accuracy: Accuracy | None = None,
        hooks: Hooks | None = None,
    ) -> PassResult:
        """Read the matrix once and return ``H V``; with ``V=None``, H itself.

        Call it within `one_blas_thread`, as `bigspec.norm` does.

        Parameters
        ----------
        V : ndarray (n, b) or None
        exponent : int or None
            That of the first pass. With None this is a first pass, which collects the facts.
        done : FirstRounds, optional
            Rounds of this pass that an earlier process has summed.
        tokens : ndarray of uint32, optional
            Content tokens of the first pass, which the panels must match.
        carried : object, optional
            `PassResult.carried` of the last pass over a chain.
        accuracy : Accuracy, optional
            Error that a pass over a chain may make to save reads. By default none.
        hooks : Hooks, optional

        Raises
        ------
        DeadlinePassed, NonFiniteError, ChunkError, StoreUnavailableError, AdjointError,
        MatrixChangedError
        """
        started, hooks, before = time.monotonic(), hooks or Hooks(), done or FirstRounds()
        block = None if V is None else np.ascontiguousarray(V, working_dtype(self.matrix.dtype))
        context = FusedContext(
            self.matrix,
            self.layout,
            block,
            exponent,
            exponent is None,
            first=self.first,
            pinned=self.pinned,
        )

        def seconds() -> float:
            return before.seconds + time.monotonic() - started

        def summed(rounds: int, total: Partial) -> None:
            check_tokens(self.matrix, self.layout, total.tokens, tokens)
            if hooks.on_rounds is not None:
                hooks.on_rounds(FirstRounds(rounds, total, seconds()))

        count = _Count(self, hooks, self.layout.reads_per_pass, started, before)
        total = self.executor.sum_rounds(
            context,
            before,
            on_panels=count,
            on_sum=summed,
            deadline=hooks.deadline,
            wanted=hooks.wanted,
        )
        check_tokens(self.matrix, self.layout, total.tokens, tokens)  # also of what has no rounds
        self.first.drop()
        if exponent is not None:
            total = total.rescaled(exponent)
        result = pass_result(total, block, PassCost(seconds=seconds(), panels=self.layout.panels))
        if isinstance(self.matrix, OperatorMatrix):
            check_adjoint(self.matrix, result)
            if exponent is None:
                result = replace(result, facts=facts_of(self.matrix.claims, result.exponent))
        return result

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
        """Read the matrix once and return ``2**-exponent S V`` (``S = A`` for panels of rows).

        Parameters
        ----------
        V : ndarray (n, b)
        exponent : int
        target : zarr.Array (rows of S, b), optional
            Panels write their rows there, not to memory. `target_rows` has the chunks that it
            needs. It is complete when this returns.
        back : bool
            Also return ``S^H Y`` from the same read. This needs a layout that reads a slab at
            once, and no target.
        tokens, hooks
            As for `run`.

        Raises
        ------
        DeadlinePassed, NonFiniteError, ChunkError, StoreUnavailableError, MatrixChangedError
        """
        started = time.monotonic()
        block = np.ascontiguousarray(V, working_dtype(self.matrix.dtype))
        context = ForwardContext(
            self.matrix,
            self.layout,
            block,
            exponent,
            False,
            target=target,
            back=back,
            pinned=self.pinned,
        )
        rows = self._rows(context, hooks or Hooks())
        if self.layout.reads_per_pass == 1:  # else sums read tiles twice, and count them twice
            check_tokens(self.matrix, self.layout, rows.contents, tokens)
        return forward_result(rows, time.monotonic() - started)

    def multiply_target(self, target: Any, T: Array, done: Forward) -> None:
        """Replace the rows Y that `forward` wrote to `target` by ``Y T``, panel by panel."""
        context = FinishContext(
            self.matrix, self.layout, None, 0, False, target=target, T=T, tokens=done.checksums
        )
        self._rows(context, Hooks())

    def _rows(self, context: ForwardContext | FinishContext, hooks: Hooks) -> Rows:
        rows: Any = self.executor.sum_rounds(
            context,
            FirstRounds(),
            on_panels=_Count(self, hooks, 1, time.monotonic(), FirstRounds()),
            on_sum=lambda _rounds, _total: None,
            deadline=hooks.deadline,
        )
        assert isinstance(rows, Rows)
        return rows

    def target_rows(self, most: int) -> int | None:
        """Return how many rows a chunk of a target may have, at most about `most`.

        No two panels may write one chunk. So panels must have one height, which the chunks divide.
        None if the heights differ (irregular chunks of a dask array).
        """
        along = self.layout.along
        panels = [self.layout.panel(i) for i in range(self.layout.panels)]
        heights = {along.cut(p.last) - along.cut(p.first) for p in panels[:-1]}
        last = along.extent - along.cut(panels[-1].first)
        height = heights.pop() if heights else last
        if heights or last > height:
            return None
        parts = next(q for q in range(1, height + 1) if height % q == 0 and height // q <= most)
        return height // parts if 16 * height >= parts * most else height


class _Count:
    """Counts the panels that are summed, and reports them to the hook."""

    def __init__(
        self, passes: Pass, hooks: Hooks, reads: int, started: float, before: FirstRounds
    ) -> None:
        layout = passes.layout
        self.panels, self.tell = layout.panels, hooks.on_panels
        share = 1.0 - len(passes.pinned.indices) / layout.panels
        self.nbytes = int(passes.matrix.nbytes * reads * share)  # pinned panels are not read
        self.done = min(before.rounds * layout.round_panels, self.panels)
        self.started = started - before.seconds

    def __call__(self, count: int) -> None:
        self.done += count
        if self.tell is not None:
            read = self.nbytes * self.done // self.panels
            self.tell(self.done, self.panels, read, time.monotonic() - self.started)


def check_tokens(matrix: Matrix, layout: Layout, now: Array, first: Array | None) -> None:
    """Compare the content tokens of panels with those of the first pass.

    Raises
    ------
    MatrixChangedError
    """
    if first is None:
        return
    changed = np.flatnonzero(now != first[: len(now)])
    if not changed.size:
        return
    index = int(changed[0])
    panel = layout.panel(index)
    along, rows = layout.along, layout.orientation == "rows"
    begin, end = along.cut(panel.first), along.cut(panel.last) - 1
    place = (begin, 0) if rows else (0, begin)
    msg = (
        f"{matrix.name}: expected the entries of the first pass, got others in panel "
        f"{index} ({layout.orientation} {begin} to {end}, from "
        f"{matrix.chunk_at(*place)} on; {changed.size} panel(s) in all so far). The "
        "matrix changed during the run, or was read wrongly: no interval holds. Start a new "
        "run on a matrix that stays."
    )
    raise MatrixChangedError(msg)


def pass_result(total: Partial, V: Array | None, cost: PassCost) -> PassResult:
    """Turn the sum of all rounds into a result; seconds and panels come from `cost`."""
    defect = 0.0
    if V is not None:
        defect = iterates.spectral_norm(iterates.inner(V, total.Z) - total.gram)
    facts = None
    if (raw := total.facts) is not None:
        columns = float(raw.column_sums.max())
        facts = Facts(
            raw.squares,
            columns,
            raw.row_sum,
            raw.largest,
            raw.nonnegative,
            raw.magnitude,
            raw.chain,
        )
    spent = PassCost(
        total.bytes_read,
        cost.seconds,
        total.seconds_reading,
        total.seconds_multiplying,
        cost.panels,
        total.retries,
        total.chunks,
        total.missing_chunks,
        total.bytes_pinned,
    )
    return PassResult(total.Z, total.gram, defect, total.exponent, facts, spent, total.tokens)


def facts_of(claims: Claims, exponent: int) -> Facts | None:
    """Return what a matrix claims as facts of a first pass, in its units; None if it is nothing."""
    if not math.isfinite(claims.frobenius):
        return None
    frobenius, one, inf, largest, magnitude = (
        value * 2.0 ** (claims.exponent - exponent)
        for value in (
            claims.frobenius,
            claims.one_norm,
            claims.inf_norm,
            claims.largest,
            claims.magnitude,
        )
    )
    return Facts(
        frobenius**2,
        one,
        inf,
        largest,
        claims.nonnegative,
        magnitude**2,
        terms=float(claims.terms),
        given=claims.given,
    )


def forward_result(rows: Rows, seconds: float) -> Forward:
    """Turn the rows of all panels into the result of a forward pass."""
    R: Any = rows.factors[0]
    for factor in rows.factors[1:]:
        R = np.linalg.qr(np.concatenate([R, factor]), mode="r")
    Y = None
    if rows.parts:
        Y = rows.parts[0] if len(rows.parts) == 1 else np.concatenate(rows.parts)
    cost = PassCost(
        rows.bytes_read,
        seconds,
        rows.seconds_reading,
        rows.seconds_multiplying,
        len(rows.factors),
        rows.retries,
        rows.chunks,
        rows.missing_chunks,
        rows.bytes_pinned,
    )
    return Forward(Y, R, rows.tokens, cost, rows.contents, rows.Z)


def check_adjoint(matrix: Matrix, result: PassResult) -> None:
    """Compare ``<V, A^H A V>`` with ``<A V, A V>``: the dot test, without an extra product.

    Raises
    ------
    AdjointError
    """
    dtype, size = matrix.dtype, float(np.linalg.norm(result.gram, 2))
    single = dtype.kind in "fc" and np.finfo(dtype).eps > 1e-10
    if result.defect > (1e-2 if single else 1e-6) * size:
        msg = (
            f"{matrix.name}: expected rmatvec to be the adjoint of matvec, got "
            f"<v, A^H A v> and <A v, A v> that differ by {result.defect / size:.1e} relatively. "
            "Check conjugation and scaling in rmatvec."
        )
        raise AdjointError(msg)
