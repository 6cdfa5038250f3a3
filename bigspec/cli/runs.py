"""How `norm` and `svds` run: from their common options to an answer, its files and a status."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from bigspec.cli.expression import expressed
from bigspec.cli.interrupts import terminable
from bigspec.cli.options import RunFlags, cluster_of
from bigspec.cli.output import conclude, ending
from bigspec.cli.performance import performance_reported, written
from bigspec.cli.recording import gate_of, past_of, resumable
from bigspec.cli.statuses import CannotWriteError, explained
from bigspec.cli.watching import say, watched

if TYPE_CHECKING:
    from bigspec.checkpoint import Checkpoint
    from bigspec.results import Estimate, Gate, Triplets
    from bigspec.watch import Observer

__all__ = ["Inputs", "run"]


@dataclass(frozen=True)
class Inputs:
    """The options of a run as arguments of a public function.

    Attributes
    ----------
    matrix : str or Matrix
    start : Start, str or None
    checkpoint : Checkpoint or None
    gate : Gate or None
    observer : Observer
    """

    matrix: Any
    start: Any
    checkpoint: Checkpoint | None
    gate: Gate | None
    observer: Observer


def run(
    ctx: click.Context,
    flags: RunFlags,
    compute: Callable[[Inputs], Estimate | Triplets],
    save: Callable[[Any], bool] = lambda _: False,
    target: str | None = None,
) -> None:
    """Run, show the answer, write its files, record it, and exit with its status.

    Parameters
    ----------
    ctx : Context
    flags : RunFlags
    compute : callable
        Calls the public function.
    save : callable
        Writes what else was asked for; returns whether there was no time for any of it.
    target : str, optional
        Where vectors go, if that is a store.
    """
    if flags.past.warm and flags.effort.start is not None:
        msg = "--warm and --start exclude each other: give at most one"
        raise click.UsageError(msg)
    flags.storage.checked(
        flags.source.source,
        flags.view.minus,
        flags.effort.start,
        flags.saving.checkpoint,
        target,
    )
    cluster, checkpoint = cluster_of(flags.place), flags.saving.options()
    past, changes = past_of(flags), flags.past.max_change is not None
    gate = gate_of(past, flags.past)
    old, warm_from = past.start()
    resuming = resumable(ctx, flags.saving.checkpoint, flags.storage)
    # The cluster is left last: the bar is gone before its shutdown has anything to say.
    with (
        terminable(),
        past.failures(ctx),
        resuming,
        cluster,
        watched(quiet=flags.output.quiet) as observer,
    ):
        if changes:
            past.warn(observer)
        with performance_reported(observer) as performance:
            matrix = expressed(flags.source, flags.view, flags.storage, flags.place.memory_limit)
            start = flags.effort.start if old is None else old
            answer, stopped = _answered(compute, Inputs(matrix, start, checkpoint, gate, observer))
    place = flags.saving.checkpoint
    status, message = stopped or ending(answer, asked=place)
    try:
        try:
            conclude(answer, flags.json.json_file, flags.output.report)
        finally:
            lacking = save(answer)
            status, message = stopped or ending(answer, lacking=lacking, asked=place)
    except CannotWriteError as error:
        if not status:
            raise
        say(ctx, str(error), status, error=True)  # what the gate says matters more
    finally:
        if message:
            say(ctx, message, status, error=stopped is not None)
        status = written(ctx, performance, status)
        status = past.record(ctx, answer, status, warm_from)
    raise click.exceptions.Exit(status)


def _answered(
    compute: Callable[[Inputs], Estimate | Triplets], inputs: Inputs
) -> tuple[Estimate | Triplets, tuple[int, str] | None]:
    """Return the answer; if the run was interrupted and is not saved, the interval by then.

    Its exit status and message come beside it.
    """
    try:
        return compute(inputs), None
    except KeyboardInterrupt as error:
        answer = getattr(error, "estimate", None)
        if answer is None or hasattr(error, "saved"):
            raise
        return answer, explained(error)
