"""The commands: options in, one call of a public function, results out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

import bigspec
from bigspec import history
from bigspec.cli.expression import planned
from bigspec.cli.options import (
    ACCURACY,
    OUTPUT,
    PlanFlags,
    RunFlags,
    cluster_of,
    debug_option,
    json_option,
    storage_option,
    taking,
)
from bigspec.cli.output import deliver, shows_blocks, write, write_figure
from bigspec.cli.performance import performance_option
from bigspec.cli.runs import Inputs, run
from bigspec.cli.statuses import STATUSES, Command, Group
from bigspec.cli.values import option, writable_place
from bigspec.cli.watching import watching_options

if TYPE_CHECKING:
    from bigspec.results import Estimate

__all__ = ["main"]

algorithm_option = option(
    ACCURACY, "--algorithm", type=click.Choice(["auto", "lanczos", "power", "gram"]),
    default="auto", show_default=True,
    help="Algorithm: lanczos needs the fewest passes, power the least memory, gram one pass.",
)  # fmt: skip


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bigspec")
def main() -> None:
    """Certified spectral norm of a matrix that does not fit in memory."""


@main.command("norm", cls=Command, epilog=STATUSES)
@taking(RunFlags)
@algorithm_option
@performance_option
@watching_options
@click.pass_context
def norm_command(ctx: click.Context, flags: RunFlags, algorithm: str) -> None:
    """Compute the largest singular value of SRC as a certified interval.

    SRC is a path or URL of a supported store, such as A.zarr or s3://bucket/A.zarr.
    """

    def compute(inputs: Inputs) -> Estimate:
        return bigspec.norm(
            inputs.matrix,
            rtol=flags.accuracy.rtol,
            failure_probability=flags.accuracy.failure_probability,
            algorithm=algorithm,
            block_size=flags.accuracy.block_size,
            start=inputs.start,
            seed=flags.effort.seed,
            checkpoint=inputs.checkpoint,
            max_passes=flags.effort.max_passes,
            time_limit=flags.effort.time_limit,
            memory_limit=flags.place.memory_limit,
            pin=flags.memory.pin,
            progress=inputs.observer,
            gate=inputs.gate,
            right=False,
            storage_options=flags.storage.wanted(inputs.matrix, inputs.start, inputs.checkpoint),
        )

    run(ctx, flags, compute)


@main.command("show", cls=Command)
@click.argument("run", metavar="RUN")
@storage_option
@json_option
@debug_option
def show_command(run: str, storage_options: dict[str, Any] | None, json_file: str | None) -> None:
    """Show the checkpoint RUN: the interval so far, the passes, when and where, what comes next.

    For a scan: how many of its rows are done.
    """
    saved = bigspec.show(run, storage_options=storage_options)
    deliver(str(saved), saved.to_dict(), json_file)


@main.command("plan", cls=Command)
@taking(PlanFlags)
@algorithm_option
@option(
    ACCURACY,
    "-k",
    "count",
    type=int,
    metavar="K",
    help="Number of triplets, to plan a run of svds.",
)
def plan_command(flags: PlanFlags, algorithm: str, count: int | None) -> None:
    """Show what a run on SRC would read, hold in memory and cost, without reading SRC."""
    flags.storage.checked(flags.source.source, flags.view.minus)
    with cluster_of(flags.place):
        matrix = planned(flags.source, flags.view, flags.storage, flags.place.memory_limit)
        shape = bigspec.plan(
            matrix,
            storage_options=flags.storage.wanted(matrix),
            rtol=flags.accuracy.rtol,
            failure_probability=flags.accuracy.failure_probability,
            algorithm=algorithm,
            block_size=flags.accuracy.block_size,
            memory_limit=flags.place.memory_limit,
            pin=flags.memory.pin,
            k=count,
        )
    if flags.view.center or flags.view.scale == "std":
        said = "means and deviations take one pass of their own, before the run"
        shape = replace(shape, choices=(*shape.choices, said))
    deliver(str(shape), shape.to_dict(), flags.json.json_file)


RUNS = "Runs"
SHOWN = 1000
"""How many runs of a history are shown by default."""
DRAWN = 50_000
"""How many runs the charts of networks show by default."""


@main.command("history", cls=Command)
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False))
@option(RUNS, "--series", metavar="NAME", help="Show only runs of this series.")
@option(
    RUNS,
    "--last",
    type=click.IntRange(min=1),
    metavar="N",
    help="Show only the newest N runs. [default: 1000, in JSON all]",
)
@option(
    RUNS, "--accept", metavar="RUN", help="Accept this run first: it becomes the next reference."
)
@option(
    OUTPUT,
    "--plot",
    type=click.Path(dir_okay=False, writable=True),
    callback=writable_place,
    metavar="FILE.png",
    help="Draw the trend as png, svg or pdf.",
)
@option(
    OUTPUT,
    "--html",
    type=click.Path(dir_okay=False, writable=True),
    callback=writable_place,
    metavar="FILE.html",
    help="Write the history as a self-contained page.",
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
    """List the runs in the history FILE and draw the norm over time, with its intervals."""
    past = bigspec.History(file)
    if accept is not None:
        past.accept(accept)
    # A table, a page and a plot are for people, JSON is for programs: that has all the runs.
    rows = past.rows(series, last if last is not None or json_file is not None else SHOWN)
    data = {"schema": history.SCHEMA, "file": file, "runs": [row.to_dict() for row in rows]}
    if last is None:
        rows = rows[-SHOWN:]
    count = past.count(series)
    left_out = "" if last is not None or count <= SHOWN else (
        f"The newest {SHOWN} of {count} runs are shown; --last N shows N of them"
    )  # fmt: skip
    text = history.table(rows, ascii_only=not shows_blocks())
    deliver(f"{text}\n{left_out}" if left_out else text, data, json_file)
    # A chart of a network has a point for each of hundreds of tensors in each run.
    wide = count > len(rows) and last is None and (html is not None or plot is not None)
    wide = wide and bool(history.layers_by_source(rows))
    drawn = past.rows(series, DRAWN) if wide else rows
    said = "" if len(drawn) == count else left_out.replace(str(SHOWN), str(len(drawn)))
    if html is not None:
        write(html, history.page(drawn, left_out=said))
    if plot is not None:
        write_figure(plot, history.figure(drawn))
