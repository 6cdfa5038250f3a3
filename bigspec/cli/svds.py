"""The command ``bigspec svds``: singular triplets, the vectors into files."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from bigspec.api.svds import svds
from bigspec.checkpoint import Checkpoint
from bigspec.cli.expression import expressed, expression_options
from bigspec.cli.interrupts import terminable
from bigspec.cli.options import (
    cluster_of,
    seconds_or_text,
    source_options,
    writable_place,
)
from bigspec.cli.output import deliver
from bigspec.cli.performance import performance_option, performance_reported, written
from bigspec.cli.reading import Reading, reading_options
from bigspec.cli.recording import resumable
from bigspec.cli.statuses import SAVED, STATUSES, CannotWriteError, Command
from bigspec.cli.watching import say, watched, watching_options
from bigspec.results.triplets import Triplets

__all__ = ["svds_command"]


@click.command("svds", cls=Command, epilog=STATUSES)
@source_options
@reading_options
@expression_options
@click.option("-k", "count", type=int, required=True, metavar="K", help="How many triplets.")
@click.option("--u", "u_store", metavar="URL", help="Write the left vectors there, as Zarr.")
@click.option(
    "--v",
    "v_file",
    type=click.Path(dir_okay=False, writable=True),
    callback=writable_place,
    metavar="FILE.npz",
    help="Write vh, s, lower and upper there; --start reads it.",
)
@click.option("--seed", type=int, metavar="N", help="Of the random start; recorded in any case.")
@click.option("--start", metavar="FILE|URL", help="Start from old vectors, as for norm.")
@click.option("--checkpoint", metavar="URL", help="Save the run there, and go on with it.")
@click.option("--steal", is_flag=True, help="Take the checkpoint from a process that runs on it.")
@click.option("--max-passes", type=int, metavar="N", help="Stop after so many passes.")
@click.option("--time-limit", callback=seconds_or_text, metavar="T", help="Such as 90 or 30min.")
@performance_option
@click.option("--quiet", is_flag=True, help="Show no progress on stderr.")
@watching_options
@click.pass_context
def svds_command(
    ctx: click.Context,
    source: str,
    rtol: float,
    failure_probability: float,
    block_size: int | None,
    memory_limit: int | str | None,
    scheduler: str | None,
    scheduler_file: str | None,
    workers: int | None,
    json_file: str | None,
    rows: str | None,
    fill: float | None,
    raw: bool,
    minus: str | None,
    center: bool,
    scale: str | None,
    count: int,
    u_store: str | None,
    v_file: str | None,
    seed: int | None,
    start: str | None,
    checkpoint: str | None,
    steal: bool,
    max_passes: int | None,
    time_limit: float | str | None,
    quiet: bool,
) -> None:
    """Compute the K largest singular triplets of SRC, each value as a certified interval.

    With --center these are principal components. Left vectors are made only with --u, which costs
    one more pass.
    """
    if steal and checkpoint is None:
        msg = "--steal needs --checkpoint URL"
        raise click.UsageError(msg)
    kept = None if checkpoint is None else Checkpoint(checkpoint, steal=steal)
    cluster = cluster_of(scheduler, scheduler_file, workers, memory_limit)
    with (
        terminable(),
        resumable(ctx, checkpoint),
        cluster,
        watched(quiet=quiet) as observer,
        performance_reported(observer) as performance,
    ):
        triplets = svds(
            expressed(source, Reading(rows, fill, raw), minus, center, scale, memory_limit),
            count,
            rtol=rtol,
            failure_probability=failure_probability,
            block_size=block_size,
            start=start,
            seed=seed,
            checkpoint=kept,
            max_passes=max_passes,
            time_limit=time_limit,
            memory_limit=memory_limit,
            left=u_store is not None,
            u_store=u_store,
            progress=observer,
        )
    try:
        deliver(triplets.summary(), triplets.to_dict(), json_file)
    finally:
        if v_file is not None:
            _save(v_file, triplets)
    lacking = u_store is not None and triplets.u is None
    if lacking:
        click.echo(f"bigspec: {u_store} is not written: no time was left for a pass", err=True)
    status = 0
    if triplets.checkpoint is not None and (triplets.stopped_by == "time" or lacking):
        message = f"the time limit is used up. Everything up to here is saved in {checkpoint}"
        say(ctx, f"{message}: run the same command again to go on.", SAVED)
        status = SAVED
    raise click.exceptions.Exit(written(ctx, performance, status))


def _save(path: str, tri: Triplets) -> None:
    if tri.vh is None:
        click.echo(f"bigspec: {path} is not written: there was no time for the vectors", err=True)
        return
    try:
        with Path(path).open("wb") as file:
            np.savez(file, vh=tri.vh, s=tri.s, lower=tri.lower, upper=tri.upper)
    except OSError as exc:
        msg = f"cannot write {path!r}: {exc.strerror or exc}; the result is on standard output"
        raise CannotWriteError(msg) from exc
