"""The command ``bigspec scan``: every matrix of a network, as a table, CSV, JSON and a page."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

import bigspec
from bigspec import history
from bigspec.cli.interrupts import terminable
from bigspec.cli.options import (
    ACCURACY,
    OUTPUT,
    PAST,
    SAVING,
    JsonFlags,
    MemoryFlags,
    OutputFlags,
    PlaceFlags,
    StorageFlags,
    cluster_of,
    taking,
)
from bigspec.cli.output import deliver, unsaved, write
from bigspec.cli.statuses import CANNOT_WRITE, SAVED, STATUSES, CannotWriteError, Command, explained
from bigspec.cli.values import limit, option, seconds_or_text, with_options, writable_place
from bigspec.cli.watching import say, watched, watching_options
from bigspec.errors import HistoryError
from bigspec.names import shown

if TYPE_CHECKING:
    from bigspec.checkpoint import Checkpoint
    from bigspec.history import History
    from bigspec.networks.rows import Scan

__all__ = ["scan_command"]

ROWS = "Rows"
COLUMNS = (
    "norm", "layer", "stable-rank", "edge", "scale", "change", "frobenius", "largest", "width",
    "size", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class ScanFlags:
    """The options that other commands have, too."""

    place: PlaceFlags
    memory: MemoryFlags
    storage: StorageFlags
    output: OutputFlags
    json: JsonFlags


def _own_options(function: Any) -> Any:
    place: dict[str, Any] = {
        "type": click.Path(dir_okay=False, writable=True),
        "callback": writable_place,
    }
    return with_options(function, [
        click.argument("model", metavar="MODEL"),
        option(ROWS, "--minus", metavar="OTHER",
               help="Another model to subtract, tensor by tensor."),
        option(ROWS, "--only", multiple=True, metavar="GLOB",
               help="Take only rows whose names match; may be given several times."),
        option(ROWS, "--not", "leave_out", multiple=True, metavar="GLOB",
               help="Leave out rows whose names match; may be given several times."),
        option(ROWS, "--split", multiple=True, metavar="PATTERN=N",
               help="Cut fused weights into N equal parts, or give the rows of each: "
                    "qkv=4096,1024,1024. Well-known names are cut without it."),
        option(ROWS, "--all", "everything", is_flag=True,
               help="Also list tensors that are not matrices: vectors, integers, scales."),
        option(ROWS, "--input", "inputs", multiple=True, metavar="[NAME=]N,C,H,W",
               help="Shape of the input of an ONNX model, batch first. A convolution then has "
                    "its norm on images of this size; without it, on images of all sizes."),
        option(ROWS, "--missing-chunks", type=click.Choice(["fill", "error"]), default="fill",
               show_default=True,
               help="Count a chunk that is not in the store as the fill value and say so in the "
                    "row (fill), or refuse it (error)."),
        option(ROWS, "--sort", type=click.Choice(["name", *COLUMNS]), metavar="COLUMN",
               help=f"Sort the table: name, or by size of {', '.join(COLUMNS)}."),
        option(ROWS, "--top", type=click.IntRange(min=1), metavar="N",
               help="Show only the first N rows of the table; files have all."),
        option(ACCURACY, "--rtol", type=float, default=1e-2, show_default=True, metavar="F",
               help="Relative width of each interval."),
        option(ACCURACY, "--failure-probability", type=float, default=1e-6, show_default=True,
               metavar="F",
               help="Chance that any interval is wrong, over the random starts alone."),
        option(ACCURACY, "--seed", type=int, metavar="N",
               help="Seed of all random starts (always recorded)."),
        option(ACCURACY, "--time-limit", callback=seconds_or_text, metavar="T",
               help="Stop after this time, such as 90 (seconds) or 30min."),
        option(SAVING, "--checkpoint", metavar="URL",
               help="Save each row there when it is done; the same command goes on from there."),
        option(SAVING, "--steal", is_flag=True,
               help="Take the checkpoint over from the process that is using it."),
        option(PAST, "--max-norm", type=float, callback=limit, metavar="X",
               help="Fail (exit status 3) if a norm exceeds X. The exit status is 4 if that is "
                    "undecided at --rtol, 65 if entries are NaN or infinite."),
        option(PAST, "--gate", type=click.Path(exists=True, dir_okay=False), metavar="FILE.toml",
               help="Limits by patterns of names."),
        option(PAST, "--history", type=click.Path(dir_okay=False), metavar="FILE",
               help="SQLite file to record a row in for each tensor, as series MODEL:TENSOR; the "
                    "report then draws each tensor over the runs in it."),
        option(PAST, "--series", metavar="NAME",
               help="Name in place of MODEL in the series, to compare the steps of a training."),
        option(OUTPUT, "--csv", "csv_file", metavar="FILE", help="Write all rows as CSV.", **place),
    ])  # fmt: skip


@click.command("scan", cls=Command, epilog=STATUSES)
@_own_options
@taking(ScanFlags)
@watching_options
@click.pass_context
def scan_command(ctx: click.Context, /, flags: ScanFlags, **own: Any) -> None:
    """Bracket the norm of every matrix of MODEL, the checkpoint of a network.

    MODEL is safetensors (also sharded), PyTorch, ONNX, GGUF, .npz, Zarr, HDF5 or Keras. Nothing
    in it is ever unpickled or run.
    """
    past = _past(own)
    cluster, checkpoint = cluster_of(flags.place), _checkpoint(own)
    stopped: tuple[int, str] | None = None
    with terminable(), cluster, watched(quiet=flags.output.quiet) as observer:
        found = bigspec.scan(
            own["model"],
            minus=own["minus"],
            only=own["only"],
            leave_out=own["leave_out"],
            rtol=own["rtol"],
            failure_probability=own["failure_probability"],
            split=list(own["split"]),
            everything=own["everything"],
            missing_chunks=own["missing_chunks"],
            seed=own["seed"],
            checkpoint=checkpoint,
            time_limit=own["time_limit"],
            memory_limit=flags.place.memory_limit,
            pin=flags.memory.pin,
            max_norm=own["max_norm"],
            gate=own["gate"],
            progress=observer,
            storage_options=flags.storage.storage_options,
            input_shape=_input_shape(own["inputs"]),
        )
        try:
            found.run()
        except KeyboardInterrupt as error:
            if hasattr(error, "saved") or not hasattr(error, "estimate"):
                raise
            stopped = explained(error)  # there is no checkpoint: what is done is the result
    status, message = stopped or _ending(found, own["checkpoint"])
    failure: CannotWriteError | None = None
    for step in (_deliver, _report):
        try:
            step(found, own, flags)
        except CannotWriteError as error:
            failure = failure or error
        if step is _deliver:  # the report shows the history, with this scan in it
            if message:
                say(ctx, message, status, error=stopped is not None)
            status = _record(ctx, found, past, own, status)
    if failure is not None:
        if not status:
            raise failure
        say(ctx, str(failure), status, error=True)  # what the gate says matters more
    raise click.exceptions.Exit(status)


def _input_shape(texts: tuple[str, ...]) -> tuple[int, ...] | dict[str, tuple[int, ...]] | None:
    """Read the shapes of inputs: one without a name, or several with."""
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, numbers = text.rpartition("=")
        try:
            found[name] = tuple(int(part) for part in numbers.split(","))
        except ValueError as error:
            msg = (
                f"--input: expected numbers such as 1,3,224,224, or NAME=1,3,224,224, got {text!r}"
            )
            raise click.UsageError(msg) from error
    if "" in found and len(texts) > 1:
        msg = f"--input: expected a name for each of {len(texts)} shapes, got one without"
        raise click.UsageError(msg)
    return found.get("", found or None)


def _checkpoint(own: dict[str, Any]) -> Checkpoint | None:
    if own["checkpoint"] is not None:
        return bigspec.Checkpoint(own["checkpoint"], steal=own["steal"])
    if own["steal"]:
        msg = "--steal needs --checkpoint URL"
        raise click.UsageError(msg)
    return None


def _past(own: dict[str, Any]) -> History | None:
    """Open the history, before anything is computed."""
    if own["history"] is None:
        if own["series"] is not None:
            msg = "--series needs --history FILE"
            raise click.UsageError(msg)
        return None
    past = history.History(own["history"])
    past.prepare()
    return past


def _ending(found: Scan, asked: str | None) -> tuple[int, str]:
    ruling = found.ruling
    if ruling is not None and ruling.exit_status and (ruling.exit_status != 4 or found.complete):
        return ruling.exit_status, f"{ruling.outcome}: {ruling.reason}"
    if found.stopped_by == "time" and found.checkpoint is not None:
        said = f"the time limit is used up. Everything up to here is saved in {found.checkpoint}"
        return SAVED, f"{said}: run the same command again to go on."
    if ruling is not None and ruling.exit_status:
        return ruling.exit_status, f"{ruling.outcome}: {ruling.reason}"
    return unsaved(asked, found.checkpoint)


def _deliver(found: Scan, own: dict[str, Any], flags: ScanFlags) -> None:
    text = found.summary(sort=own["sort"], top=own["top"], width=_width())
    try:
        deliver(text, found.to_dict(), flags.json.json_file)
    finally:
        if own["csv_file"] is not None:
            write(own["csv_file"], found.to_csv())


def _report(found: Scan, own: dict[str, Any], flags: ScanFlags) -> None:
    if flags.output.report is None:
        return
    past = None if own["history"] is None else history.History(own["history"])
    try:
        text = found.to_html(past, own["series"] or shown(own["model"]))
    except HistoryError:  # it could not be written either, and that was said
        text = found.to_html()
    write(flags.output.report, text)


def _width() -> int | None:
    """Return the letters of a line of the terminal; a file or a pipe takes any."""
    stream = sys.stdout
    if "COLUMNS" in os.environ or (stream is not None and stream.isatty()):
        return shutil.get_terminal_size().columns
    return None


def _record(
    ctx: click.Context, found: Scan, past: History | None, own: dict[str, Any], status: int
) -> int:
    """Write the history; a status that says something of the scan is kept if that fails."""
    if past is None:
        return status
    try:
        found.record(past, own["series"] or shown(own["model"]))
    except HistoryError as error:
        said = "" if status else "; the result is on standard output"
        say(ctx, f"{error}{said}", status or CANNOT_WRITE, error=True)
        return status or CANNOT_WRITE
    return status
