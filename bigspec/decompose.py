"""The Python door to singular triplets: validate once, choose, run, make the vectors."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bigspec.algorithms import TopLanczos
from bigspec.api import open_within
from bigspec.dense import UNIT_ROUNDOFF
from bigspec.errors import ArgumentError
from bigspec.kernels import working_dtype
from bigspec.options import (
    as_bytes,
    as_count,
    as_seconds,
    as_seed,
    as_whole,
    check_probability,
    load_start,
)
from bigspec.passes import (
    DeadlinePassed,
    Forward,
    Pass,
    find_executor,
    one_blas_thread,
    passes_over,
)
from bigspec.planning import Plan, Wishes
from bigspec.progress import make_observer
from bigspec.results import Observer
from bigspec.resuming import kept, prepared, versions
from bigspec.solve import Budget, KeptBlocks, Outcome, Progress, RunningTop, check_budget, solve
from bigspec.sources.targets import check_target, complete_target, create_target, write_rows
from bigspec.triplets import Triplets

__all__ = ["svds"]

Array = np.ndarray[Any, Any]

CHUNK_BYTES = 16 << 20


def svds(
    a: Any,
    k: int,
    *,
    rtol: float = 1e-3,
    failure_probability: float = 1e-6,
    block_size: int | None = None,
    start: Any = None,
    seed: int | None = None,
    checkpoint: Any = None,
    max_passes: int | None = None,
    time_limit: float | str | None = None,
    memory_limit: int | str | None = None,
    left: bool = True,
    u_store: str | os.PathLike[str] | None = None,
    progress: bool | Observer = False,
) -> Triplets:
    """Compute the k largest singular triplets, each value with a certified interval.

    Parameters
    ----------
    a : path, URL or object
        See `open_matrix`.
    k : int
        Triplets, ``1 <= k <= min(m, n)``.
    rtol : float
        Stop when ``upper / lower - 1 <= rtol`` for all k values.
    failure_probability : float
        Accepted probability, over the random start alone, that any of the k intervals misses.
    block_size : int, optional
        Random columns of the start block. Default: k + 8, at least 16, which needs the fewest
        passes and finds values that are repeated up to k times; the whole space if min(m, n) is
        at most 256; narrower where that does not fit. A narrow block makes more, cheaper passes.
    start : Triplets, Estimate, path or URL, or ndarray (n, s), optional
        Warm start: old vectors, put before the fresh random block. The certificate stays exact.
    seed : int, optional
        Entropy of the start block; see `norm`.
    checkpoint : path, URL or Checkpoint, optional
        Save the run there, and go on with the one that is saved there, to the same bits; see
        `norm`. It also takes the blocks of the basis that do not fit the memory limit, which are
        then read four times a pass. A finished run makes only its last pass again.
    max_passes : int, optional
        Not counting the last pass, which makes the vectors.
    time_limit : float or str, optional
        Seconds, or a text such as ``"30min"``, of this call. If it ends the run, no last pass is
        made: `u` is None, and so is `vh` for panels of columns.
    memory_limit : int or str, optional
        What one process may hold; see `norm`.
    left : bool
        Whether left vectors are wanted. Without them no memory is kept for them, and panels of
        rows need no last pass; then `s` is `lower`.
    u_store : str or path, optional
        Write `u` there as a Zarr array of whole-row chunks, in place of memory, as the panels of
        the last pass make it. Its attribute ``complete`` is true once it is.
    progress : bool or Observer
        Show a live line.

    Returns
    -------
    Triplets
        ``u, s, vh = svds(a, k)``; with the intervals, what they rest on and what they cost.

    Raises
    ------
    ArgumentError, MemoryLimitError
        Before anything is read. The basis, both sets of vectors (without `u`, if it is stored)
        and the blocks of a pass have to fit; the message has the numbers.
    SourceError, DataError, ChunkError, ClusterError, ResumeError, CheckpointError
        See `norm`.

    Notes
    -----
    Cost: the passes of the run and one more for the vectors, each of ``4 m n b`` flops (the last
    ``2 m n k``); orthogonalisation of ``4 n b N`` a pass for a basis of N columns, which is kept.
    Method: randomized block Lanczos with the basis kept; upper ends by counting eigenvalues in
    windows of the Ritz values and by Lehmann bounds (`bigspec.certificate.counting`). Values below
    about ``1e-7 sigma_1`` drown in the rounding of ``A^H A``: their intervals are honestly wide.
    """
    began = time.monotonic()
    budget = Budget(rtol, as_whole("max_passes", max_passes), as_seconds(time_limit))
    check_budget(budget)
    check_probability(failure_probability)
    failure_probability = float(failure_probability)
    if u_store is not None:
        if not left:
            msg = f"u_store: expected none with left=False, got {u_store!r}"
            raise ArgumentError(msg)
        check_target(u_store, "u_store")
    k, seed, loaded = as_count(k), as_seed(seed), load_start(start)
    matrix = open_within(a, as_bytes(memory_limit))
    executor = find_executor(matrix.resident)
    wishes = Wishes(
        "lanczos",
        as_whole("block_size", block_size),
        0 if loaded is None else loaded.columns,
        as_bytes(memory_limit),
        count=k,
        shelved=checkpoint is not None,
        stored=u_store is not None or not left,
    )
    observer = make_observer(progress)
    try:
        with one_blas_thread(), kept(checkpoint, observer) as (keeper, held):
            fresh = Progress(running=RunningTop.begin(k))
            chosen, held, W = prepared(
                held, fresh, executor, matrix, wishes, failure_probability, seed, loaded
            )
            algorithm = chosen.algorithm
            assert isinstance(algorithm, TopLanczos)
            if keeper is not None:
                algorithm = replace(algorithm, shelf=KeptBlocks(keeper))
            layout = chosen.layout.to_dict() | {"where": executor.name}
            passes = passes_over(matrix, chosen.layout, executor, on_panels=observer.panels_done)
            vectors = _Vectors(passes, u_store, left=left)
            vectors.check()
            observer.identified(held.run.get("id", ""))
            observer.run_started(matrix.name, layout)
            outcome = solve(
                passes,
                algorithm,
                budget,
                entropy=held.run["entropy"],
                failure_probability=failure_probability,
                start=W,
                observer=observer,
                progress=held,
                keeper=keeper,
            )
            made = vectors.make(outcome, observer)
        answer = _triplets(chosen, outcome, made, budget, held, layout, began, u_store)
        observer.run_finished(answer)
    finally:
        observer.close()
    return answer


@dataclass(frozen=True)
class _Made:
    """The triplets of the last pass; `forward` is None if there was no time for one."""

    u: Any
    s: Array
    vh: Array | None
    forward: Forward | None


class _Vectors:
    """Makes the vectors in one last pass ``Y = S V`` over orthonormal iterates V.

    With ``Y = P diag(s) W^H``, the triplets of the matrix on span(V) are ``(P, s, V W)`` (Rayleigh
    and Ritz once more). P comes from Y itself where it is in memory; written to a store it is
    ``Y W diag(1/s)``, orthonormal to rounding times ``s_1 / s_i``, with W and s from the triangular
    factor of Y.
    """

    def __init__(self, passes: Pass, u_store: str | os.PathLike[str] | None, *, left: bool) -> None:
        self.passes, self.u_store, self.left = passes, u_store, left
        self.rows = passes.layout.orientation == "rows"

    def check(self) -> None:
        """Refuse a target that panels cannot fill chunk by chunk."""
        if self.u_store is None or not self.rows or self.passes.target_rows(1 << 62) is not None:
            return
        msg = (
            f"u_store: expected panels of equal height in {self.passes.matrix.name}, so that no "
            "two write one chunk, got irregular chunks; rechunk its rows to equal sizes"
        )
        raise ArgumentError(msg)

    def make(self, outcome: Outcome, observer: Observer) -> _Made:
        """Make the last pass, unless the time is up, and return the triplets."""
        lower = np.array([interval.lower for interval in outcome.intervals])
        V = outcome.vector
        if V is None:
            return _Made(None, lower, None, None)
        if outcome.stopped_by != "time" and (self.left or not self.rows):
            observer.pass_started(len(outcome.history) + 1, self.passes.layout.panels)
            with suppress(DeadlinePassed):
                if self.u_store is not None and self.rows:
                    return self._stored(V, outcome)
                return self._in_memory(V, outcome)
        return _Made(None, lower, (V * _phases(V)).conj().T if self.rows else None, None)

    def _in_memory(self, V: Array, outcome: Outcome) -> _Made:
        done = self.passes.forward(V, exponent=outcome.exponent)
        assert done.Y is not None
        P, s, Wh = np.linalg.svd(done.Y, full_matrices=False)
        others = V @ Wh.conj().T
        u, v = (P, others) if self.rows else (others, P)
        phases = _phases(v)
        u, v = u * phases, v * phases
        if self.u_store is not None:
            u = self._written(u)
        return _Made(u if self.left else None, _inside(s, outcome), v.conj().T, done)

    def _stored(self, V: Array, outcome: Outcome) -> _Made:
        assert self.u_store is not None
        m, k = self.passes.layout.swept.extent, V.shape[1]
        dtype = working_dtype(self.passes.matrix.dtype)
        height = self.passes.target_rows(max(1, CHUNK_BYTES // (k * dtype.itemsize)))
        assert height is not None
        target = create_target(self.u_store, (m, k), height, dtype, "u_store")
        done = self.passes.forward(V, exponent=outcome.exponent, target=target)
        _, s, Wh = np.linalg.svd(done.R)
        W = Wh.conj().T
        v = V @ W
        phases = _phases(v)
        least = 2 * UNIT_ROUNDOFF * np.sqrt(m) * s[0]
        inverse = np.divide(1.0, s, out=np.zeros_like(s), where=s > least)
        self.passes.multiply_target(target, W * (inverse * phases), done)
        u = complete_target(target)
        return _Made(u, _inside(s, outcome), (v * phases).conj().T, done)

    def _written(self, u: Array) -> Any:
        assert self.u_store is not None
        height = max(1, CHUNK_BYTES // (u.shape[1] * u.itemsize))
        target = create_target(self.u_store, u.shape, height, u.dtype, "u_store")
        for first in range(0, len(u), height):
            stop = min(first + height, len(u))
            write_rows(target, first, stop, u[first:stop])
        return complete_target(target)


def _phases(v: Array) -> Array:
    """Return factors that make the entry of largest magnitude of each column positive."""
    largest = v[np.argmax(np.abs(v), axis=0), np.arange(v.shape[1])]
    size = np.abs(largest)
    return np.asarray(np.where(size > 0, largest.conj() / np.where(size > 0, size, 1.0), 1.0))


def _inside(s: Array, outcome: Outcome) -> Array:
    """Bring values into the units of the matrix; rounding must not take one out of its interval."""
    lower = np.array([interval.lower for interval in outcome.intervals])
    upper = np.array([interval.upper for interval in outcome.intervals])
    return np.clip(np.ldexp(s, outcome.exponent), lower, upper)


def _triplets(
    chosen: Plan,
    outcome: Outcome,
    made: _Made,
    budget: Budget,
    held: Progress,
    layout: dict[str, Any],
    began: float,
    u_store: str | os.PathLike[str] | None,
) -> Triplets:
    """Assemble the answer."""
    intervals = outcome.intervals
    read = sum(record.bytes_read for record in outcome.history)
    history: Any = outcome.history
    return Triplets(
        u=made.u,
        s=made.s,
        vh=made.vh,
        lower=np.array([interval.lower for interval in intervals]),
        upper=np.array([interval.upper for interval in intervals]),
        failure_probability=held.run["failure_probability"],
        converged=outcome.converged,
        stopped_by=outcome.stopped_by,
        checkpoint=outcome.saved,
        status=outcome.status,
        rtol=budget.rtol,
        u_store=None if u_store is None or made.u is None else os.fspath(u_store),
        upper_bounds=tuple(interval.upper_bound for interval in intervals),
        lower_bounds=tuple(interval.lower_bound for interval in intervals),
        certain=tuple(interval.deterministic for interval in intervals),
        rounding=tuple(interval.rounding for interval in intervals),
        frobenius=outcome.frobenius,
        algorithm=chosen.algorithm.name,
        block_size=chosen.block_size,
        choices=chosen.choices,
        seed=held.run["entropy"],
        matrix=chosen.matrix.identity,
        layout=layout,
        history=history,
        vector_passes=0 if made.forward is None else 1,
        seconds=held.seconds + time.monotonic() - began,
        bytes_read=read + (0 if made.forward is None else made.forward.bytes_read),
        versions=versions(),
    )
