"""The Python door: validate once, choose, run, present."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bigspec.algorithms import Algorithm
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
from bigspec.passes import check_persisted, find_executor
from bigspec.results import Estimate
from bigspec.results.gate import Gate
from bigspec.run.course import Ending, conduct
from bigspec.run.identity import as_checkpoint, versions
from bigspec.run.options import RunOptions
from bigspec.run.plan import Plan, Wishes
from bigspec.run.planner import make_plan
from bigspec.run.start import load_start, start_of, vectors_when_asked
from bigspec.run.vectors import OneVector
from bigspec.watch import Observer
from bigspec.watch.live import make_observer

__all__ = ["norm", "plan"]


def plan(
    a: Any,
    *,
    rtol: float = 1e-3,
    failure_probability: float = 1e-6,
    algorithm: str | Algorithm[Any] = "auto",
    block_size: int | None = None,
    memory_limit: int | str | None = None,
    pin: bool = True,
    k: int | None = None,
    rows: Sequence[str] | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Plan:
    """Plan a run of `norm`, or of `svds` if `k` is given, without reading an entry.

    The plan says what the run would read, hold in memory and choose. The parameters are those of
    `norm`. Where `norm` measures the first slab to choose, the plan shows the default.

    Raises
    ------
    MemoryLimitError
        The run cannot fit; the message has the numbers.

    Examples
    --------
    >>> import bigspec
    >>> planned = bigspec.plan("examples/data/fashion_mnist.zarr", memory_limit="64MiB")
    >>> planned.algorithm.name, planned.block_size
    ('gram', 784)
    """
    budget = as_budget(rtol)
    as_probability(failure_probability)
    storage = as_options(storage_options, a)
    matrix = open_within(a, as_bytes(memory_limit), rows=rows, multiplied=True, storage=storage)
    wishes = Wishes(
        algorithm,
        as_whole("block_size", block_size),
        matrix.start_columns,
        as_bytes(memory_limit),
        as_count(k) if k is not None else 0,
        rtol=float(budget.rtol),
        pin=bool(pin),
    )
    check_persisted(matrix)
    return make_plan(matrix, find_executor(matrix.resident), wishes, look=False)


def norm(
    a: Any,
    *,
    rtol: float = 1e-3,
    failure_probability: float = 1e-6,
    algorithm: str | Algorithm[Any] = "auto",
    block_size: int | None = None,
    start: Any = None,
    seed: int | None = None,
    checkpoint: Any = None,
    max_passes: int | None = None,
    time_limit: float | str | None = None,
    memory_limit: int | str | None = None,
    pin: bool = True,
    progress: bool | Observer = False,
    gate: Gate | None = None,
    right: bool | None = None,
    rows: Sequence[str] | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Estimate:
    """Bracket the spectral norm (largest singular value) of a matrix that need not fit in memory.

    Parameters
    ----------
    a : path, URL or object
        See `open_matrix`.
    rtol : float
        Stop when ``upper / lower - 1 <= rtol``.
    failure_probability : float
        Probability, over the random start alone, that the interval misses. Small values cost
        almost nothing.
    algorithm : {"auto", "lanczos", "power", "gram"} or Algorithm
        Block Lanczos needs the fewest passes, block power iteration the least memory. The Gram
        matrix needs one pass, if the smaller side is at most a few thousand. An object of your own
        needs the methods of `bigspec.algorithms.Algorithm`.
    block_size : int, optional
        Random columns of the start block. By default 16; for large matrices bigspec times the
        first slab and chooses.
    start : Estimate, path or URL, or ndarray (n, s), optional
        Warm start: old vectors, put before the fresh random block. The certificate stays exact.
        A path names an .npz or .npy file, a Zarr array, or the checkpoint of another run.
    seed : int, optional
        Entropy of the start block; fresh and recorded by default. It must not be one that the
        matrix depends on (a matrix made with vectors of an earlier run, say).
    checkpoint : path, URL or Checkpoint, optional
        Save the run there. If a run is saved there, continue it: the same call again gives the
        same bits. A finished run returns its answer without reading the matrix. ``rtol``, budgets,
        memory and cluster may change between calls.
    max_passes : int, optional
        Most passes, including those of earlier calls on the same checkpoint.
    time_limit : float or str, optional
        Time of this call, in seconds or as text such as ``"30min"``. The pass that is running at
        the limit is abandoned. With a checkpoint the next call continues it.
    memory_limit : int or str, optional
        Memory of one process (a worker, or this process if there is no cluster), in bytes or as
        text such as ``"4GiB"``. By default half of what the process has.
    pin : bool
        Let panels of a matrix in a store stay in memory, decoded, as many as fit: at most 0.55 of
        `memory_limit` is in use then. Later passes read the others only, with the same bits. What
        stays is not compared with the store again.
    progress : bool or Observer
        Show a live line.
    gate : Gate, optional
        Limits on the norm. The run ends as soon as the interval decides them, or undecided at
        `rtol`. The decision is in `Estimate.gate`.
    right : bool, optional
        Make the right vector of a wide matrix too. It takes one more pass if panels are columns.
        By default only for arrays and sparse matrices in memory, without a gate.
    rows : sequence of str or str, optional
        Dimensions that make the rows, where `a` has names for them; see `open_matrix`.
    storage_options : mapping, optional
        Credentials, endpoint and settings for the URLs of this call: of `a`, `start` and
        `checkpoint`; see `open_matrix`.

    Returns
    -------
    Estimate
        The interval, the bounds that prove it, and the cost.

    Raises
    ------
    ArgumentError, MemoryLimitError
        Before anything is read.
    SourceError, DataError, ChunkError, ClusterError
        See `bigspec.errors`. If there is a checkpoint, ``error.saved`` says that everything up
        to the error is in it.
    ResumeError, CheckpointError, CheckpointInUseError
        The checkpoint holds another run, every step of it is damaged, or another process is using
        it.

    Notes
    -----
    Cost: each pass reads the matrix once (twice if the plan says so) and multiplies
    ``4 m n b`` flops. With an active `distributed.Client` the passes run on its workers, otherwise
    on Dask's threads in this process. A matrix in this process's memory is always multiplied here,
    and in the calling thread if a pass takes some milliseconds.
    Method: randomized block Lanczos with a block Christoffel-function bound; for a single vector
    it is due to Hochstenbach, J. Sci. Comput. 57 (2013).

    Examples
    --------
    >>> import numpy as np, bigspec
    >>> A = np.diag([3.0, 2.0, 1.0])
    >>> est = bigspec.norm(A)
    >>> bool(est.lower <= 3.0 <= est.upper), est.converged, est.passes
    (True, True, 1)
    >>> print(f"{est:.4g}")
    3

    A file, a limit, and a run that goes on where it was killed:

    >>> est = bigspec.norm(
    ...     "examples/data/fashion_mnist.zarr",
    ...     gate=bigspec.Gate(max_norm=3e5),
    ...     checkpoint="run",
    ... )
    >>> est.gate.outcome
    'passed'
    >>> bigspec.show("run").finished
    True
    """
    began = time.monotonic()
    budget = as_budget(rtol, max_passes, time_limit, gate)
    failure_probability = as_probability(failure_probability)
    storage = as_options(storage_options, a, start, checkpoint)
    seed, loaded = as_seed(seed), load_start(start, storage)
    wishes = Wishes(
        algorithm,
        as_whole("block_size", block_size),
        memory_limit=as_bytes(memory_limit),
        rtol=float(budget.rtol),
        pin=bool(pin),
    )
    matrix = open_within(a, wishes.memory_limit, rows=rows, multiplied=True, storage=storage)
    loaded = start_of(loaded, matrix)
    wishes = replace(wishes, extra=0 if loaded is None else loaded.columns)
    observer = make_observer(progress)
    place = as_checkpoint(checkpoint, storage)
    options = RunOptions(wishes, budget, failure_probability, seed, loaded, place, observer, began)
    return conduct(matrix, options, OneVector(right, gated=gate is not None), _estimate)


def _estimate(ending: Ending) -> Estimate:
    """Assemble the answer."""
    outcome, plan, options = ending.outcome, ending.plan, ending.options
    interval, gate = outcome.interval, options.budget.gate
    return Estimate(
        lower=interval.lower,
        upper=interval.upper,
        failure_probability=options.failure_probability,
        converged=outcome.converged,
        stopped_by=outcome.stopped_by,
        checkpoint=outcome.saved,
        status=outcome.status,
        rtol=options.budget.rtol,
        right=ending.vectors.right,
        left=ending.vectors.left,
        frobenius=outcome.frobenius,
        upper_bound=interval.upper_bound,
        lower_bound=interval.lower_bound,
        deterministic=interval.deterministic,
        rounding=interval.rounding,
        algorithm=plan.algorithm.name,
        block_size=plan.block_size,
        choices=plan.choices,
        seed=ending.run["entropy"],
        matrix=plan.matrix.identity,
        layout=ending.layout,
        history=outcome.history,
        seconds=ending.seconds,
        bytes_read=ending.bytes_read,
        versions=versions(),
        gate=None if gate is None else gate.judge(interval.lower, interval.upper),
        run_id=ending.run.get("id", ""),
        start_columns=ending.start_columns,
        missing_as=ending.missing_as,
        vector_missing_chunks=ending.vectors.missing_chunks,
        ritz_vectors=vectors_when_asked(plan.algorithm, outcome.state, plan.block_size),
    )
