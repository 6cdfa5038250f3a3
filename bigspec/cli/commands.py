"""The commands: options in, one call of the Python door, results out."""

from __future__ import annotations

import sys
from contextlib import nullcontext

import click

from bigspec.api import norm, plan, show
from bigspec.checkpoint import Checkpoint
from bigspec.cli.expression import expressed, expression_options
from bigspec.cli.options import (
    cluster_of,
    debug_option,
    json_option,
    limit,
    matrix_of,
    netcdf_options,
    seconds_or_text,
    shared_options,
    writable_place,
)
from bigspec.cli.output import conclude, deliver
from bigspec.cli.statuses import SAVED, STATUSES, Command
from bigspec.interrupts import terminable
from bigspec.progress import LiveProgress
from bigspec.results import Observer

__all__ = ["Quiet", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bigspec")
def main() -> None:
    """Certified spectral norm of a matrix that does not fit in memory."""


@main.command("norm", cls=Command, epilog=STATUSES)
@shared_options
@expression_options
@netcdf_options
@click.option("--seed", type=int, metavar="N", help="Of the random start; recorded in any case.")
@click.option(
    "--start",
    metavar="FILE|URL",
    help="Start from old vectors: .npz, .npy, a Zarr array, or another run's checkpoint.",
)
@click.option(
    "--checkpoint",
    metavar="URL",
    help="Save the run there, and go on with the one saved there.",
)
@click.option(
    "--checkpoint-interval",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="S",
    help="Seconds of work that a failure may cost.",
)
@click.option("--keep-blocks", is_flag=True, help="Keep all steps' blocks in the checkpoint.")
@click.option("--steal", is_flag=True, help="Take the checkpoint from a process that runs on it.")
@click.option("--max-passes", type=int, metavar="N", help="Stop after so many passes.")
@click.option("--time-limit", callback=seconds_or_text, metavar="T", help="Such as 90 or 30min.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, writable=True),
    callback=writable_place,
    metavar="FILE.html",
    help="Write a self-contained page about the run.",
)
@click.option(
    "--max-norm",
    type=float,
    callback=limit,
    metavar="X",
    help="A gate: exit with 3 if the norm exceeds X, with 4 if that is undecided.",
)
@click.option("--quiet", is_flag=True, help="Show no progress on stderr.")
def norm_command(
    source: str,
    rtol: float,
    failure_probability: float,
    algorithm: str,
    block_size: int | None,
    memory_limit: int | str | None,
    scheduler: str | None,
    scheduler_file: str | None,
    workers: int | None,
    json_file: str | None,
    minus: str | None,
    center: bool,
    scale: str | None,
    rows: str | None,
    fill: float | None,
    seed: int | None,
    start: str | None,
    checkpoint: str | None,
    checkpoint_interval: float,
    keep_blocks: bool,
    steal: bool,
    max_passes: int | None,
    time_limit: float | str | None,
    report: str | None,
    max_norm: float | None,
    quiet: bool,
) -> None:
    """Compute the largest singular value of SRC as a certified interval.

    SRC is a path or URL of a supported store, such as A.zarr or s3://bucket/A.zarr.
    """
    cluster = cluster_of(scheduler, scheduler_file, workers, memory_limit)
    watcher = nullcontext(Quiet()) if quiet else LiveProgress(sys.stderr)
    kept = None
    if checkpoint is not None:
        kept = Checkpoint(checkpoint, checkpoint_interval, keep_blocks, steal)
    elif keep_blocks or steal:
        msg = "--keep-blocks and --steal need --checkpoint URL"
        raise click.UsageError(msg)
    # The cluster is left last: the bar is gone before its shutdown has anything to say.
    with terminable(), cluster, watcher as observer:
        estimate = norm(
            expressed(matrix_of(source, rows, fill), minus, center, scale, memory_limit),
            rtol=rtol,
            failure_probability=failure_probability,
            algorithm=algorithm,
            block_size=block_size,
            start=start,
            seed=seed,
            checkpoint=kept,
            max_passes=max_passes,
            time_limit=time_limit,
            memory_limit=memory_limit,
            progress=observer,
        )
    conclude(estimate, max_norm, json_file, report)
    if estimate.checkpoint is not None and estimate.stopped_by == "time":
        where = estimate.checkpoint
        message = f"the time limit is used up. Everything up to here is saved in {where}"
        click.echo(f"bigspec: {message}: run the same command again to go on.", err=True)
        raise click.exceptions.Exit(SAVED)


@main.command("show", cls=Command)
@click.argument("run", metavar="RUN")
@json_option
@debug_option
def show_command(run: str, json_file: str | None) -> None:
    """Say what the checkpoint RUN holds: interval so far, passes, when, where, what comes next."""
    saved = show(run)
    deliver(str(saved), saved.to_dict(), json_file)


@main.command("plan", cls=Command)
@shared_options
@netcdf_options
@click.option("-k", "count", type=int, metavar="K", help="Plan `svds` of K triplets, not `norm`.")
def plan_command(
    source: str,
    rtol: float,
    failure_probability: float,
    algorithm: str,
    block_size: int | None,
    memory_limit: int | str | None,
    scheduler: str | None,
    scheduler_file: str | None,
    workers: int | None,
    json_file: str | None,
    rows: str | None,
    fill: float | None,
    count: int | None,
) -> None:
    """Say what a run on SRC would read, hold and cost, without reading it."""
    with cluster_of(scheduler, scheduler_file, workers, memory_limit):
        planned = plan(
            matrix_of(source, rows, fill),
            rtol=rtol,
            failure_probability=failure_probability,
            algorithm=algorithm,
            block_size=block_size,
            memory_limit=memory_limit,
            k=count,
        )
    deliver(str(planned), planned.to_dict(), json_file)


class Quiet(Observer):
    """Says nothing but warnings."""

    def warned(self, message: str) -> None:
        """Write it on stderr."""
        click.echo(f"bigspec: warning: {message}", err=True)
