"""The commands: options in, one call of the Python door, results out."""

from __future__ import annotations

import click

from bigspec.api.norm import norm, plan
from bigspec.checkpoint import Checkpoint
from bigspec.cli.expression import expressed, expression_options
from bigspec.cli.gating import gate_options
from bigspec.cli.interrupts import terminable
from bigspec.cli.options import (
    cluster_of,
    debug_option,
    json_option,
    seconds_or_text,
    shared_options,
    writable_place,
)
from bigspec.cli.output import conclude, deliver, ending, shows_blocks, write, write_figure
from bigspec.cli.performance import performance_option, performance_reported, written
from bigspec.cli.reading import Reading, reading_options
from bigspec.cli.recording import gate_of, history_options, past_of, resumable, series_name
from bigspec.cli.statuses import STATUSES, CannotWriteError, Command
from bigspec.cli.watching import say, watched, watching_options
from bigspec.history import SCHEMA as HISTORY_SCHEMA
from bigspec.history import History, figure, page, table
from bigspec.run.described import show

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bigspec")
def main() -> None:
    """Certified spectral norm of a matrix that does not fit in memory."""


@main.command("norm", cls=Command, epilog=STATUSES)
@shared_options
@expression_options
@reading_options
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
@performance_option
@gate_options
@history_options
@click.option("--quiet", is_flag=True, help="Show no progress on stderr.")
@watching_options
@click.pass_context
def norm_command(
    ctx: click.Context,
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
    raw: bool,
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
    min_norm: float | None,
    history: str | None,
    series: str | None,
    warm: bool,
    max_change: float | None,
    quiet: bool,
) -> None:
    """Compute the largest singular value of SRC as a certified interval.

    SRC is a path or URL of a supported store, such as A.zarr or s3://bucket/A.zarr.
    """
    if warm and start is not None:
        msg = "--warm and --start exclude each other: give at most one"
        raise click.UsageError(msg)
    cluster = cluster_of(scheduler, scheduler_file, workers, memory_limit)
    kept = _kept(checkpoint, checkpoint_interval, keep_blocks=keep_blocks, steal=steal)
    changes = max_change is not None
    reading = Reading(rows, fill, raw)
    view = {"--rows": rows, "--fill": fill, "--raw": raw, "--minus": minus}
    view |= {"--center": center, "--scale": scale}
    name = series_name(source, view)
    past = past_of(history, series, name, warm=warm, changes=changes, checkpoint=checkpoint)
    gate = gate_of(past, max_norm, min_norm, max_change)
    old, warm_from = past.start()
    # The cluster is left last: the bar is gone before its shutdown has anything to say.
    resuming = resumable(ctx, checkpoint)
    with terminable(), past.failures(ctx), resuming, cluster, watched(quiet=quiet) as observer:
        if changes:
            past.warn(observer)
        with performance_reported(observer) as performance:
            estimate = norm(
                expressed(source, reading, minus, center, scale, memory_limit),
                rtol=rtol,
                failure_probability=failure_probability,
                algorithm=algorithm,
                block_size=block_size,
                start=start if old is None else old,
                seed=seed,
                checkpoint=kept,
                max_passes=max_passes,
                time_limit=time_limit,
                memory_limit=memory_limit,
                progress=observer,
                gate=gate,
                right=False,
            )
    status, message = ending(estimate)
    try:
        conclude(estimate, json_file, report)
    except CannotWriteError as error:
        if not status:
            raise
        say(ctx, str(error), status, error=True)  # what the gate says matters more
    finally:
        if message:
            say(ctx, message, status)
        status = written(ctx, performance, status)
        status = past.record(ctx, estimate, status, warm_from)
    raise click.exceptions.Exit(status)


def _kept(
    checkpoint: str | None, interval: float, *, keep_blocks: bool, steal: bool
) -> Checkpoint | None:
    if checkpoint is not None:
        return Checkpoint(checkpoint, interval, keep_blocks, steal)
    if keep_blocks or steal:
        msg = "--keep-blocks and --steal need --checkpoint URL"
        raise click.UsageError(msg)
    return None


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
@reading_options
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
    raw: bool,
    count: int | None,
) -> None:
    """Say what a run on SRC would read, hold and cost, without reading it."""
    with cluster_of(scheduler, scheduler_file, workers, memory_limit):
        planned = plan(
            Reading(rows, fill, raw).source(memory_limit, source),
            rtol=rtol,
            failure_probability=failure_probability,
            algorithm=algorithm,
            block_size=block_size,
            memory_limit=memory_limit,
            k=count,
        )
    deliver(str(planned), planned.to_dict(), json_file)


@main.command("history", cls=Command)
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False))
@click.option("--series", metavar="NAME", help="Only runs of this series.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the newest N runs.")
@click.option("--accept", metavar="RUN", help="First accept this run, as the next reference.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, writable=True),
    callback=writable_place,
    metavar="FILE.png",
    help="Draw the trend (png, svg, pdf).",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, writable=True),
    callback=writable_place,
    metavar="FILE.html",
    help="Write a self-contained page of it.",
)
@json_option
@debug_option
def history_command(
    file: str,
    series: str | None,
    last: int | None,
    accept: str | None,
    plot: str | None,
    html: str | None,
    json_file: str | None,
) -> None:
    """List the runs in the history FILE and draw how the norm went, with its intervals."""
    past = History(file)
    if accept is not None:
        past.accept(accept)
    rows = past.rows(series, last)
    data = {"schema": HISTORY_SCHEMA, "file": file, "runs": [row.to_dict() for row in rows]}
    deliver(table(rows, ascii_only=not shows_blocks()), data, json_file)
    if html is not None:
        write(html, page(rows))
    if plot is not None:
        write_figure(plot, figure(rows))
