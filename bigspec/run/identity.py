"""The description of a run in a checkpoint, and whether this call may continue it."""

from __future__ import annotations

import json
import os
import platform
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np

from bigspec.algorithms import REGISTRY, Algorithm
from bigspec.checkpoint import Checkpoint, Writer, array_digest
from bigspec.errors import (
    ArgumentError,
    CheckpointError,
    MemoryLimitError,
    ResumeError,
)
from bigspec.matrices import Matrix
from bigspec.names import NOWHERE, bare, shown
from bigspec.passes import Executor
from bigspec.results.text import counted
from bigspec.run import Known, RunState, saved_types
from bigspec.run.checks import check_run_state
from bigspec.run.options import RunOptions
from bigspec.run.plan import ALGORITHMS, Plan, Wishes, check_algorithm, check_wishes
from bigspec.run.planner import make_plan, resume_plan
from bigspec.run.start import OwnStart, Start, entropy_of, start_vectors
from bigspec.watch import Observer

__all__ = [
    "as_checkpoint",
    "begin",
    "check_place",
    "checkpoint_of",
    "prepare",
    "resume",
    "versions",
]

Array = np.ndarray[Any, Any]

OWN = "the matrix's own"  # the start of a run whose caller gave none


@contextmanager
def checkpoint_of(
    checkpoint: Any, observer: Observer, algorithm: str | Algorithm[Any] = "auto"
) -> Iterator[tuple[Writer | None, RunState | None]]:
    """Own a checkpoint while inside, and load its run. With None, do nothing."""
    options = as_checkpoint(checkpoint)
    if options is None:
        yield None, None
        return
    check_algorithm(algorithm)
    writer = Writer(options, saved_types(algorithm))
    try:
        progress = writer.open()
        if progress is not None:
            check_run_state(progress, writer.store.where)
        while writer.messages:
            observer.warned(shown(writer.messages.popleft()))
        yield writer, progress
    finally:
        writer.close()


def as_checkpoint(checkpoint: Any, storage: dict[str, Any] | None = None) -> Checkpoint | None:
    """Read the `checkpoint` argument; options of its own go before those of the call."""
    if checkpoint is None:
        return None
    if not isinstance(checkpoint, Checkpoint):
        return Checkpoint(checkpoint, storage_options=storage)
    if checkpoint.storage_options is None and storage is not None:
        return replace(checkpoint, storage_options=storage)
    return checkpoint


def check_place(matrix: Matrix) -> None:
    """Refuse to save a run if no other process could recognise its matrix.

    Raises
    ------
    ArgumentError
    """
    if NOWHERE in json.dumps(plain(matrix.identity)) or NOWHERE in matrix.name:
        msg = (
            f"checkpoint: expected a matrix that another process can recognise, got {matrix.name}. "
            "Commit it (icechunk), or give a path or URL, or run without a checkpoint"
        )
        raise ArgumentError(msg)


def begin(chosen: Plan, options: RunOptions, entropy: int, start: Array | None) -> dict[str, Any]:
    """Describe a new run, so that another process can tell it from any other run."""
    event = REGISTRY.of(chosen.algorithm).event
    wishes, failure_probability = options.wishes, options.failure_probability
    return {
        "id": uuid.uuid4().hex,
        "matrix": chosen.matrix.identity,
        "name": chosen.matrix.name,
        "algorithm": chosen.algorithm.name,
        "block_size": chosen.block_size,
        "extra": wishes.extra,
        "count": wishes.count,
        "basis_bytes": chosen.layout.memory.spare,
        "failure_probability": failure_probability,
        "delta_ledger": [{"event": event, "delta": failure_probability}] if event else [],
        "entropy": entropy,
        "start": start_digest(options.start, start),
        "cut": chosen.layout.cut,
        "panels": chosen.layout.panels,
        "choices": list(chosen.choices),
        "measured_bytes": chosen.measured_bytes,
        "versions": versions(),
        "begun": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "by": f"process {os.getpid()} on {socket.gethostname()}",
    }


def prepare(
    old: RunState | None, matrix: Matrix, executor: Executor, options: RunOptions
) -> tuple[Plan, RunState, Array | None]:
    """Plan the rest of the run in a checkpoint, or a new run, and check its warm start.

    Parameters
    ----------
    old : RunState or None
        The run in the checkpoint, if there is one.
    matrix : Matrix
    executor : Executor
    options : RunOptions

    Returns
    -------
    Plan
    RunState
    ndarray or None
        The vectors of a warm start.
    """
    if old is not None:
        chosen, old = resume(old, matrix, executor, options)
        without = isinstance(options.start, OwnStart) and old.run["start"] is None
        chosen, W = _fit_start(None if without else options.start, chosen)
        return chosen, old, W
    wishes, start = options.wishes, options.start
    try:
        chosen, W = _fit_start(start, make_plan(matrix, executor, wishes))
    except MemoryLimitError as error:
        if start is None or not start.optional:
            raise
        wishes = replace(wishes, extra=0)
        chosen, W = make_plan(matrix, executor, wishes), None
        said = f"started cold: no memory for the old vectors ({error})"
        chosen = replace(chosen, choices=(*chosen.choices, said))
    run = begin(chosen, replace(options, wishes=wishes), entropy_of(options.seed, start), W)
    claims = matrix.claims
    known = Known.begin(wishes.count, (claims.upper, claims.upper_name))
    return chosen, RunState(run, known=known), W


def _fit_start(start: Start | None, chosen: Plan) -> tuple[Plan, Array | None]:
    """Check the start vectors. If they are optional and do not fit, start cold and say so."""
    try:
        return chosen, start_vectors(start, chosen)
    except ArgumentError as error:
        if start is None or not start.optional:
            raise
        said = f"started cold: {str(error).removeprefix('start: ')}"
        return replace(chosen, choices=(*chosen.choices, said)), None


def resume(
    progress: RunState, matrix: Matrix, executor: Executor, options: RunOptions
) -> tuple[Plan, RunState]:
    """Check that this call asks for the run in the checkpoint, and plan the rest of it.

    Raises
    ------
    ResumeError
        This call asks for another run; the message names every difference.
    MemoryLimitError
    """
    wishes, seed, start = options.wishes, options.seed, options.start
    check_wishes(matrix, wishes)
    run = progress.run
    if run["algorithm"] not in ALGORITHMS and isinstance(wishes.algorithm, str):
        msg = (
            f"checkpoint: the run was started with the object {run['algorithm']!r}, got "
            f"{wishes.algorithm!r}; give that object as `algorithm`"
        )
        raise ResumeError(msg)
    rows = run["cut"]["orientation"] == "rows"
    if isinstance(start, OwnStart):  # of a run that had no memory for them, none
        now_from = None if run["start"] is None else OWN
    else:
        now_from = start_digest(start, None if start is None else start.side(rows=rows))
    asked = {
        "failure_probability": options.failure_probability,
        "algorithm": run["algorithm"] if wishes.name == "auto" else wishes.name,
        "block_size": _block_size(wishes, run),
        "k": wishes.count or "none (the norm)",
        "seed": run["entropy"] if seed is None else seed,
        "start": now_from,
    }
    before = run | {"seed": run["entropy"], "k": run.get("count") or "none (the norm)"}
    # In a run that an older version saved, the URL may have a password.
    was, now = bare(plain(run["matrix"])), bare(plain(matrix.identity))
    differences = _differences("matrix", was, now)
    differences += [
        f"{name} was {before[name]!r}, is {value!r}"
        for name, value in asked.items()
        if before[name] != value
    ]
    if differences:
        msg = (
            f"checkpoint: it holds another run, of {run['name']} started {run['begun']}: "
            f"{'; '.join(differences)}. Name another place for this run, or ask for that one again"
        )
        raise ResumeError(msg)
    chosen, same_cut = resume_plan(matrix, executor, wishes, run)
    _check_fit(progress, chosen, options, same_cut)
    run = run | {"basis_bytes": min(run["basis_bytes"], chosen.layout.memory.spare)}
    if not same_cut:
        progress = replace(progress, first_rounds=type(progress.first_rounds)(), tokens=None)
        layout = chosen.layout
        run |= {"cut": layout.cut, "panels": layout.panels, "choices": list(chosen.choices)}
    passes = len(progress.history)
    rounds = progress.first_rounds.rounds
    more = f" and {counted(rounds, 'round')}" if rounds else ""
    said = [f"continued from a checkpoint with {counted(passes, 'pass', 'passes')}{more}"]
    now = versions()
    was = {k: v for k, v in run["versions"].items() if v != now.get(k)}
    if was:
        old = ", ".join(f"{name} {number}" for name, number in was.items())
        said.append(
            f"started with {old}: the last bits may differ from those of an uninterrupted run"
        )
    chosen = replace(chosen, choices=(*chosen.choices, *said))
    return chosen, replace(progress, run=run)


def _check_fit(progress: RunState, chosen: Plan, options: RunOptions, same_cut: bool) -> None:
    """Refuse a state that gives its algorithm no bounds, and counts that the layout does not have.

    Raises
    ------
    CheckpointError
    """
    layout, rounds = chosen.layout, progress.first_rounds.rounds
    if same_cut and (progress.run["panels"] != layout.panels or rounds > layout.rounds):
        msg = (
            f"checkpoint: expected {layout.panels} panels in {layout.rounds} rounds, as its cut "
            f"makes of {chosen.matrix.name}, got {progress.run['panels']} panels and {rounds} "
            "rounds of them; name another place"
        )
        raise CheckpointError(msg)
    if progress.state is None:
        return
    complex_ = chosen.matrix.dtype.kind == "c"
    try:
        with np.errstate(all="ignore"):
            chosen.algorithm.bounds(progress.state, options.failure_probability, complex_=complex_)
    except Exception as error:  # an algorithm may raise anything on numbers that are not its own
        msg = (
            f"checkpoint: expected a state that {chosen.algorithm.name} can go on from, got one "
            f"that gives no bounds ({type(error).__name__}: {error}); name another place"
        )
        raise CheckpointError(msg) from error


def _block_size(wishes: Wishes, run: dict[str, Any]) -> int:
    """Return the block size that is asked for, at most the order of the matrix."""
    asked = wishes.block_size or wishes.own_block
    if asked is None:
        return int(run["block_size"])
    order = min(run["matrix"]["shape"])
    return min(asked, int(order))


def _differences(name: str, was: Any, now: Any) -> list[str]:
    if was == now:
        return []
    if isinstance(was, dict) and isinstance(now, dict):
        keys = sorted(was.keys() | now.keys())
        return [
            d for key in keys for d in _differences(f"{name} {key}", was.get(key), now.get(key))
        ]
    return [f"{name} was {was!r}, is {now!r}"]


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def start_digest(start: Start | None, vectors: Array | None) -> str | None:
    """Return what tells the start vectors of a run from others.

    The matrix's own are known by the matrix: another machine may round them in another way.
    """
    if start is None or vectors is None:
        return None
    return OWN if isinstance(start, OwnStart) else array_digest(np.ascontiguousarray(vectors))


def versions() -> dict[str, str]:
    """Return the versions of the packages that compute an answer."""
    return dict(_versions())


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    """Look the versions up once a process, because parsing the packages' metadata takes 3 ms."""
    packages = ("bigspec", "numpy", "scipy", "dask", "distributed", "zarr")
    return {name: version(name) for name in packages} | {"python": platform.python_version()}
