"""The Python door to singular triplets: validate once, choose, run, make the vectors."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bigspec.api.arguments import (
    as_budget,
    as_bytes,
    as_count,
    as_options,
    as_probability,
    as_seed,
    as_whole,
)
from bigspec.api.matrices import open_within
from bigspec.errors import ArgumentError
from bigspec.names import shown
from bigspec.results.gate import Gate
from bigspec.results.triplets import Triplets
from bigspec.run.course import Ending, conduct
from bigspec.run.identity import as_checkpoint, versions
from bigspec.run.options import RunOptions
from bigspec.run.plan import Wishes
from bigspec.run.start import load_start, start_of
from bigspec.run.target import owned_target
from bigspec.run.vectors import KVectors
from bigspec.watch import Observer
from bigspec.watch.live import make_observer

__all__ = ["svds"]


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
    pin: bool = True,
    left: bool = True,
    u_store: str | os.PathLike[str] | None = None,
    progress: bool | Observer = False,
    gate: Gate | None = None,
    rows: Sequence[str] | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
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
        Probability, over the random start alone, that any of the k intervals misses.
    block_size : int, optional
        Random columns of the start block. By default k + 8, at least 16: this needs the fewest
        passes, and finds values that are repeated up to k times. If min(m, n) is at most 256, the
        block spans the whole space. If memory is short, it is narrower, which makes more but
        cheaper passes.
    start : Triplets, Estimate, path or URL, or ndarray (n, s), optional
        Warm start: old vectors, put before the fresh random block. The certificate stays exact.
    seed : int, optional
        Entropy of the start block; see `norm`.
    checkpoint : path, URL or Checkpoint, optional
        Save the run there, or continue the one that is saved there; see `norm`. It also holds the
        blocks of the basis that do not fit the memory limit, which are then read four times a
        pass. A finished run makes only its last pass again.
    max_passes : int, optional
        Most passes, without the last one, which makes the vectors.
    time_limit : float or str, optional
        Time of this call, in seconds or as text such as ``"30min"``. If it ends the run, there is
        no last pass: `u` is None, and so is `vh` for panels of columns.
    memory_limit : int or str, optional
        Memory of one process; see `norm`.
    pin : bool
        Let panels stay in memory for later passes; see `norm`.
    left : bool
        Make the left vectors. Without them the run needs no memory for them, and panels of rows
        need no last pass; then `s` is `lower`.
    u_store : str or path, optional
        Write `u` there instead of to memory, as a Zarr array with chunks of whole rows. The panels
        of the last pass write it. Its attribute ``complete`` becomes true at the end.
        The run owns the place, as it owns a checkpoint: a second run there is refused, and the
        place of a killed run is taken over.
    progress : bool or Observer
        Show a live line.
    gate : Gate, optional
        Limits on sigma_1. The run ends as soon as its interval decides them, or undecided at
        `rtol`, and then makes its last pass. The decision is in `Triplets.gate`.
    rows : sequence of str or str, optional
        Dimensions that make the rows, where `a` has names for them; see `open_matrix`.

    Returns
    -------
    Triplets
        ``u, s, vh = svds(a, k)``, with the intervals, the bounds that prove them, and the cost.

    Raises
    ------
    ArgumentError, MemoryLimitError
        Before anything is read. The basis, both sets of vectors (without `u`, if it is stored)
        and the blocks of a pass have to fit; the message has the numbers.
    CheckpointInUseError
        Another run lives on `checkpoint` or `u_store`.
    SourceError, DataError, ChunkError, ClusterError, ResumeError, CheckpointError
        See `norm`.

    Notes
    -----
    Cost: the passes of the run and one more for the vectors, each of ``4 m n b`` flops (the last
    ``2 m n k``); orthogonalisation of ``4 n b N`` a pass for a basis of N columns, which is kept.
    Method: randomized block Lanczos with the basis kept; upper ends by counting eigenvalues in
    windows of the Ritz values and by Lehmann bounds (`bigspec.certificate.counting`). Values below
    about ``1e-7 sigma_1`` cannot be resolved in double precision: their intervals are
    wide, and hold.

    Examples
    --------
    >>> import numpy as np, bigspec
    >>> A = np.diag([3.0, 2.0, 1.0])
    >>> u, s, vh = bigspec.svds(A, 2)
    >>> s.round(6)
    array([3., 2.])
    >>> np.allclose(np.abs(u @ np.diag(s) @ vh), np.diag([3.0, 2.0, 0.0]))
    True
    """
    began = time.monotonic()
    budget = as_budget(rtol, max_passes, time_limit, gate)
    failure_probability = as_probability(failure_probability)
    if u_store is not None and not left:
        msg = f"u_store: expected none with left=False, got {u_store!r}"
        raise ArgumentError(msg)
    storage = as_options(storage_options, a, start, checkpoint, u_store)
    k, seed, loaded = as_count(k), as_seed(seed), load_start(start, storage)
    wishes = Wishes(
        "lanczos",
        as_whole("block_size", block_size),
        memory_limit=as_bytes(memory_limit),
        count=k,
        basis_in_checkpoint=checkpoint is not None,
        left=left,
        left_in_store=u_store is not None,
        pin=bool(pin),
    )
    place = as_checkpoint(checkpoint, storage)
    with owned_target(u_store, options=storage) as target:
        matrix = open_within(a, wishes.memory_limit, rows=rows, multiplied=True, storage=storage)
        loaded = start_of(loaded, matrix)
        wishes = replace(wishes, extra=0 if loaded is None else loaded.columns)
        observer = make_observer(progress)
        options = RunOptions(
            wishes, budget, failure_probability, seed, loaded, place, observer, began
        )
        where = None if target is None else target.where
        last = KVectors(target, left)
        return conduct(matrix, options, last, lambda ending: _triplets(ending, where))


def _triplets(ending: Ending, u_store: str | None) -> Triplets:
    """Assemble the answer."""
    outcome, plan, options, vectors = (
        ending.outcome, ending.plan, ending.options, ending.vectors,
    )  # fmt: skip
    intervals, gate, u, v = outcome.intervals, options.budget.gate, vectors.left, vectors.right
    first = outcome.interval
    # What a later run starts from: for panels of columns the left vectors, wherever `u` went.
    iterates = None if isinstance(u, np.ndarray) else outcome.vector
    return Triplets(
        u=u,
        s=vectors.s,
        vh=None if v is None else v.conj().T,
        lower=np.array([interval.lower for interval in intervals]),
        upper=np.array([interval.upper for interval in intervals]),
        failure_probability=options.failure_probability,
        converged=outcome.converged,
        stopped_by=outcome.stopped_by,
        checkpoint=outcome.saved,
        status=outcome.status,
        rtol=options.budget.rtol,
        u_store=None if u is None or u_store is None else shown(u_store),
        upper_bounds=tuple(interval.upper_bound for interval in intervals),
        lower_bounds=tuple(interval.lower_bound for interval in intervals),
        certain=tuple(interval.deterministic for interval in intervals),
        rounding=tuple(one.rounding if one.lower > 0 else math.inf for one in intervals),
        frobenius=outcome.frobenius,
        algorithm=plan.algorithm.name,
        block_size=plan.block_size,
        choices=plan.choices,
        seed=ending.run["entropy"],
        matrix=plan.matrix.identity,
        layout=ending.layout,
        history=outcome.history,
        vector_passes=vectors.passes,
        seconds=ending.seconds,
        bytes_read=ending.bytes_read,
        versions=versions(),
        gate=None if gate is None else gate.judge(first.lower, first.upper),
        run_id=ending.run.get("id", ""),
        start_columns=ending.start_columns,
        missing_as=ending.missing_as,
        vector_missing_chunks=ending.vectors.missing_chunks,
        iterates=iterates if plan.layout.orientation == "columns" else None,
    )
