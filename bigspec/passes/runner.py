"""The pass: from a block V to ``H V``, its cost and the first pass's free facts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from bigspec.certificate import Facts
from bigspec.errors import AdjointError, MatrixChangedError
from bigspec.kernels import working_dtype
from bigspec.layout import Layout
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.partials import Partial
from bigspec.passes.executors import Begun, Executor
from bigspec.passes.forward import FinishContext, ForwardContext
from bigspec.passes.images import Carried
from bigspec.passes.strips import Strips
from bigspec.passes.tasks import Context

__all__ = ["Forward", "Pass", "PassResult", "one_blas_thread"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class PassResult:
    """``Z = H V`` and what the pass saw, all scaled by ``2**-exponent`` per factor of A.

    Attributes
    ----------
    Z : ndarray (n, b)
    gram : ndarray (b, b)
        ``(S V)^H (S V)``.
    defect : float
        ``||V^H Z - (S V)^H (S V)||_2``: zero but for rounding, unless the adjoint is wrong.
    exponent : int
    facts : Facts or None
        In the first pass over a matrix with entries.
    bytes_read, seconds, seconds_reading, seconds_multiplying, panels, retries
        What it cost.
    """

    Z: Array
    gram: Array
    defect: float
    exponent: int
    facts: Facts | None
    bytes_read: int
    seconds: float
    seconds_reading: float
    seconds_multiplying: float
    panels: int
    retries: int


@dataclass(frozen=True)
class Forward:
    """``Y = S V`` and what the pass saw.

    Attributes
    ----------
    Y : ndarray (rows of S, b) or None
        None if it was written to a target.
    R : ndarray (b, b)
        Triangular factor of a QR factorisation of Y, through those of its panels.
    tokens : tuple of tuple of int
        Checksums of what each panel wrote to the target.
    bytes_read, seconds, retries
        What it cost.
    contents : ndarray of uint32
        Content tokens of the panels.
    Z : ndarray (n, b) or None
        ``S^H Y``, if it was asked for.
    """

    Y: Array | None
    R: Array
    tokens: tuple[tuple[int, ...], ...]
    bytes_read: int
    seconds: float
    retries: int
    contents: Array
    Z: Array | None = None


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


_holding = 0
_lock = threading.Lock()
_limits: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold this process's BLAS to one thread while inside, and restore it afterwards.

    Tasks already fill the cores, small eigenproblems gain nothing from threads that spin, and a
    product split over threads does not have the bits of one that is not. The limit is the
    process's, so of several runs at once the last one to end restores it. Workers need nothing:
    Dask starts them with one BLAS thread (``distributed.nanny.pre-spawn-environ``).
    """
    global _holding, _limits
    with _lock:
        if _holding == 0:
            _limits = _controller().limit(limits=1, user_api="blas")
        _holding += 1
    try:
        yield
    finally:
        with _lock:
            _holding -= 1
            if _holding == 0:
                _limits.restore_original_limits()


class Pass:
    """Passes over one matrix: `run` reads it once and multiplies a block by H.

    Parameters
    ----------
    matrix : Matrix
    layout : Layout
    executor : Executor
    on_panels : callable, optional
        Called with (panels summed so far, panels, bytes read so far, seconds of this pass).
    deadline : float, optional
        In the clock of `time.monotonic`; a pass not complete by then raises `DeadlinePassed`.

    Attributes
    ----------
    resume : Begun
        What the next `run` goes on from; it is used once.
    begun : Begun
        The last pass as far as it got.
    on_sum : callable or None
        Called with a `Begun` after every round.
    tokens : ndarray or None
        Content tokens of the panels, from the first complete pass; later ones must match.
    last : PassResult or None
    accuracy, failure_probability : float
        Of the interval that is asked for, its relative width, in units of the norm: what passes
        may trade for reads.
    carried : Carried or None
        What a pass over a product leaves for the next one.
    """

    def __init__(
        self,
        matrix: Matrix,
        layout: Layout,
        executor: Executor,
        *,
        on_panels: Callable[[int, int, int, float], None] | None = None,
        deadline: float | None = None,
    ) -> None:
        self.matrix, self.layout, self.executor = matrix, layout, executor
        self.on_panels, self.deadline = on_panels, deadline
        self.resume = self.begun = Begun()
        self.on_sum: Callable[[Begun], None] | None = None
        self.tokens: Array | None = None
        self.last: PassResult | None = None
        self.accuracy, self.failure_probability = 0.0, 1.0
        self.carried: Carried | None = None

    @property
    def length(self) -> int:
        """Length of the iterates."""
        return self.layout.iterate_length

    @property
    def outdated(self) -> bool:
        """Whether earlier passes were made less accurately than is asked for now: never here."""
        return False

    @property
    def complex_(self) -> bool:
        """Whether iterates are complex."""
        return working_dtype(self.matrix.dtype).kind == "c"

    @property
    def depth(self) -> float:
        """Terms added one after another into an entry of Z, for the rounding model."""
        longest = self.layout.swept.step * self.layout.panel_pieces
        return float(min(longest, self.layout.swept.extent) + self.layout.panels)

    def run(self, V: Array | None, *, exponent: int | None = None) -> PassResult:
        """Read the matrix once and return ``H V``; with ``V=None``, H itself.

        To be called within `one_blas_thread`, as `bigspec.norm` does.

        Parameters
        ----------
        V : ndarray (n, b) or None
        exponent : int or None
            That of the first pass; None makes this a first pass, which collects the facts.

        Raises
        ------
        DeadlinePassed, NonFiniteError, ChunkError, StoreUnavailableError, AdjointError,
        MatrixChangedError
        """
        started = time.monotonic()
        dtype = working_dtype(self.matrix.dtype)
        block = None if V is None else np.ascontiguousarray(V, dtype)
        context = self._context(block, exponent)
        begun, self.resume = self.resume, Begun()
        self.begun, panels = begun, self.layout.panels
        done = min(begun.rounds * self.layout.round_panels, panels)

        def seconds() -> float:
            return begun.seconds + time.monotonic() - started

        def panels_done(count: int) -> None:
            nonlocal done
            done += count
            if self.on_panels is not None:
                read = self.matrix.nbytes * self.layout.reads_per_pass * done // panels
                self.on_panels(done, panels, read, seconds())

        def summed(rounds: int, total: Partial) -> None:
            self._check_tokens(total.tokens)
            self.begun = Begun(rounds, total, seconds())
            if self.on_sum is not None:
                self.on_sum(self.begun)

        total = self.executor.sum_rounds(
            context, begun, on_panels=panels_done, on_sum=summed, deadline=self.deadline
        )
        self._check_tokens(total.tokens)  # also of what has no rounds
        if self.tokens is None:
            self.tokens = total.tokens
        if exponent is not None:
            total = total.rescaled(exponent)
        self.last = self._result(total, block, seconds())
        return self.last

    def forward(
        self, V: Array, *, exponent: int = 0, target: Any = None, back: bool = False
    ) -> Forward:
        """Read the matrix once and return ``2**-exponent S V`` (``S = A`` for panels of rows).

        Parameters
        ----------
        V : ndarray (n, b)
        exponent : int
        target : zarr.Array (rows of S, b), optional
            Takes the rows as the panels make them, in place of memory; see `target_rows` for
            the chunks it must have. It is complete when this returns.
        back : bool
            Also return ``S^H Y``, from the same read: for layouts that read a slab at once, and
            without a target.

        Raises
        ------
        DeadlinePassed, NonFiniteError, ChunkError, StoreUnavailableError, MatrixChangedError
        """
        started = time.monotonic()
        block = np.ascontiguousarray(V, working_dtype(self.matrix.dtype))
        context = self._forward_context(block, exponent, target)
        if back:
            context = replace(context, back=True)
        strips: Any = self._rounds(context)
        if self.layout.reads_per_pass == 1:  # else passes of sums read, and count, tiles twice
            self._check_tokens(strips.contents)
        R = strips.factors[0]
        for factor in strips.factors[1:]:
            R = np.linalg.qr(np.concatenate([R, factor]), mode="r")
        Y = None
        if target is None:
            Y = strips.parts[0] if len(strips.parts) == 1 else np.concatenate(strips.parts)
        seconds = time.monotonic() - started
        return Forward(
            Y,
            R,
            strips.tokens,
            strips.bytes_read,
            seconds,
            strips.retries,
            strips.contents,
            strips.Z,
        )

    def _context(self, V: Array | None, exponent: int | None) -> Context:
        return Context(self.matrix, self.layout, V, exponent, exponent is None)

    def _forward_context(self, V: Array, exponent: int, target: Any) -> ForwardContext:
        return ForwardContext(self.matrix, self.layout, V, exponent, False, target=target)

    def multiply_target(self, target: Any, T: Array, done: Forward) -> None:
        """Replace the rows Y that `forward` wrote to `target` by ``Y T``, panel by panel."""
        context = FinishContext(
            self.matrix, self.layout, None, 0, False, target=target, T=T, tokens=done.tokens
        )
        self._rounds(context)

    def _rounds(self, context: ForwardContext) -> Strips:
        done, panels, started = 0, self.layout.panels, time.monotonic()

        def panels_done(count: int) -> None:
            nonlocal done
            done += count
            if self.on_panels is not None and context.reads:
                read = self.matrix.nbytes * done // panels
                self.on_panels(done, panels, read, time.monotonic() - started)

        strips: Any = self.executor.sum_rounds(
            context,
            Begun(),
            on_panels=panels_done,
            on_sum=lambda _rounds, _total: None,
            deadline=self.deadline,
        )
        assert isinstance(strips, Strips)
        return strips

    def target_rows(self, most: int) -> int | None:
        """Return how many rows a chunk of a target may have, at most about `most`.

        No two panels may write one chunk, so panels must be of equal height, and chunks divide
        them. None if they are not (irregular chunks of a dask array).
        """
        swept = self.layout.swept
        panels = [self.layout.panel(i) for i in range(self.layout.panels)]
        heights = {swept.cut(p.last) - swept.cut(p.first) for p in panels[:-1]}
        last = swept.extent - swept.cut(panels[-1].first)
        height = heights.pop() if heights else last
        if heights or last > height:
            return None
        parts = next(q for q in range(1, height + 1) if height % q == 0 and height // q <= most)
        return height // parts if 16 * height >= parts * most else height

    def _check_tokens(self, tokens: Array) -> None:
        """Compare panels as they were read now with the first pass."""
        if self.tokens is None:
            return
        changed = np.flatnonzero(tokens != self.tokens[: len(tokens)])
        if not changed.size:
            return
        index = int(changed[0])
        panel = self.layout.panel(index)
        swept, rows = self.layout.swept, self.layout.orientation == "rows"
        first, last = swept.cut(panel.first), swept.cut(panel.last) - 1
        place = (first, 0) if rows else (0, first)
        msg = (
            f"{self.matrix.name}: expected the entries of the first pass, got others in panel "
            f"{index} ({self.layout.orientation} {first} to {last}, from "
            f"{self.matrix.chunk_at(*place)} on; {changed.size} panel(s) in all so far). The "
            "matrix changed during the run, or was read wrongly: no interval holds. Start a new "
            "run on a matrix that stays."
        )
        raise MatrixChangedError(msg)

    def _result(self, total: Partial, V: Array | None, seconds: float) -> PassResult:
        defect = 0.0
        if V is not None:
            difference = V.conj().T @ total.Z - total.gram
            defect = float(np.linalg.norm(difference, 2))
            if isinstance(self.matrix, OperatorMatrix):
                self._check_adjoint(defect, float(np.linalg.norm(total.gram, 2)))
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
        return PassResult(
            total.Z,
            total.gram,
            defect,
            total.exponent,
            facts,
            total.bytes_read,
            seconds,
            total.seconds_reading,
            total.seconds_multiplying,
            self.layout.panels,
            total.retries,
        )

    def _check_adjoint(self, defect: float, size: float) -> None:
        """Compare ``<V, A^H A V>`` with ``<A V, A V>``: the dot test at no extra product."""
        dtype = self.matrix.dtype
        single = dtype.kind in "fc" and np.finfo(dtype).eps > 1e-10
        if defect > (1e-2 if single else 1e-6) * size:
            msg = (
                f"{self.matrix.name}: expected rmatvec to be the adjoint of matvec, got "
                f"<v, A^H A v> and <A v, A v> that differ by {defect / size:.1e} relatively. "
                "Check conjugation and scaling in rmatvec."
            )
            raise AdjointError(msg)
