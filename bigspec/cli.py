"""The command line: options in, text and JSON out, an exit status for every ending."""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import click

from bigspec.api import connect, norm, plan, show
from bigspec.checkpoint import Checkpoint
from bigspec.errors import BigspecError, ClusterError, StoreUnavailableError
from bigspec.interrupts import Terminated, terminable
from bigspec.progress import LiveProgress
from bigspec.results import Estimate, Observer

__all__ = ["main"]

EXCEEDED, UNDECIDED, BUG, CANNOT_WRITE, SAVED = 3, 4, 70, 74, 75
INTERRUPTED, TERMINATED = 130, 143

_STATUSES = """\b
Exit status:
  0   answered, and not above --max-norm. A run ended by --max-passes or
      --time-limit answers as well: its interval is wider than --rtol,
      and the text and the JSON say converged false.
  2   wrong usage, or the run cannot fit the memory given
  3   the norm exceeds --max-norm
  4   --max-norm lies inside the interval: undecided
  65  the matrix cannot be used (NaN, damaged chunk, wrong type)
  66  the matrix cannot be opened
  69  the Dask cluster does not answer or was lost
  70  unexpected error   74  a result file cannot be written
  75  stopped early (SIGTERM, Ctrl-C, --time-limit, cluster or store gone)
      with everything saved in --checkpoint, or another process runs on
      it: run the same command again
  130 interrupted, 143 terminated: there is no checkpoint, and no result
"""

_Function = TypeVar("_Function", bound=Callable[..., Any])


# Errors --------------------------------------------------------------------------------------


class _CannotWriteError(Exception):
    """A result file cannot be written; raised after the result was printed."""


class _Command(click.Command):
    """A command whose errors are one line and a status; ``--debug`` adds the traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (Exception, KeyboardInterrupt) as exc:
            if ctx.meta.get("bigspec.debug"):
                click.echo(traceback.format_exc(), err=True, nl=False)
            status, message = _explained(exc)
            click.echo(f"bigspec: error: {message}", err=True)
            raise click.exceptions.Exit(status) from exc


def _explained(exc: BaseException) -> tuple[int, str]:
    """Return the exit status and the message for anything that ended a command."""
    where = getattr(exc, "saved", None)
    saved = f" Everything up to here is saved in {where}" if where else ""
    if isinstance(exc, (ClusterError, StoreUnavailableError)) and saved:
        return SAVED, f"{exc}{saved}: run the same command again to go on."
    if isinstance(exc, BigspecError):
        return exc.exit_status, f"{exc}{saved}{'.' if saved else ''}"
    if isinstance(exc, _CannotWriteError):
        return CANNOT_WRITE, str(exc)
    if isinstance(exc, KeyboardInterrupt):
        word = "terminated" if isinstance(exc, Terminated) else "interrupted"
        if saved:
            return SAVED, f"{word}.{saved}: run the same command again to go on."
        status = TERMINATED if isinstance(exc, Terminated) else INTERRUPTED
        return status, f"{word}; there is no result"
    name = type(exc).__name__
    first_line = next(iter(str(exc).splitlines()), "")
    message = f"unexpected {name}" + (f": {first_line}" if first_line else "")
    return BUG, f"{message}; run again with --debug to see where it came from.{saved}"


# Options -------------------------------------------------------------------------------------


def _count_or_text(_ctx: object, _option: object, value: str | None) -> int | str | None:
    return int(value) if value is not None and value.strip().isdecimal() else value


def _seconds_or_text(_ctx: object, _option: object, value: str | None) -> float | str | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return value


def _limit(_ctx: object, _option: object, value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value >= 0):
        msg = f"expected a finite number >= 0, got {value}"
        raise click.BadParameter(msg)
    return value


def _writable(_ctx: object, _option: object, value: str | None) -> str | None:
    """Refuse a place that cannot be written before the run, not hours later."""
    if value is None or value == "-":
        return value
    folder = Path(value).absolute().parent
    if not os.access(folder, os.W_OK | os.X_OK):
        msg = f"{value!r} cannot be written: {str(folder)!r} is not a writable directory; create it"
        raise click.BadParameter(msg)
    return value


def _remember_debug(ctx: click.Context, _option: object, value: bool) -> None:
    ctx.meta["bigspec.debug"] = value


_json_option = click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    callback=_writable,
    metavar="FILE|-",
    help="Write JSON; '-' puts nothing but JSON on stdout.",
)
_debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_remember_debug,
    help="Show the traceback of an error.",
)


def _shared_options(function: _Function) -> _Function:
    """Add what `norm` and `plan` have in common."""
    algorithms = click.Choice(["auto", "lanczos", "power", "gram"])
    for add in reversed((
        click.argument("source", metavar="SRC"),
        click.option("--rtol", type=float, default=1e-3, show_default=True, metavar="F",
                     help="Stop when upper / lower - 1 is at most this."),
        click.option("--failure-probability", type=float, default=1e-6, show_default=True,
                     metavar="F", help="Chance, over the random start alone, of a wrong interval."),
        click.option("--algorithm", type=algorithms, default="auto", show_default=True),
        click.option("--block-size", type=int, metavar="N", help="Columns of the start block."),
        click.option("--memory-limit", callback=_count_or_text, metavar="SIZE",
                     help="What one process may hold, such as 4GiB. [default: half]"),
        click.option("--scheduler", metavar="ADDRESS", help="Run on this Dask cluster."),
        click.option("--scheduler-file", metavar="F", help="The same, from a scheduler file."),
        click.option("--workers", type=click.IntRange(min=1), metavar="N",
                     help="Run on N worker processes of this machine."),
        _json_option,
        _debug_option,
    )):  # fmt: skip
        function = add(function)
    return function


def _cluster(
    scheduler: str | None,
    scheduler_file: str | None,
    workers: int | None,
    memory_limit: int | str | None,
) -> AbstractContextManager[None]:
    """Connect where the options say; without any, run in this process."""
    given = [
        name
        for name, value in (
            ("--scheduler", scheduler),
            ("--scheduler-file", scheduler_file),
            ("--workers", workers),
        )
        if value is not None
    ]
    if len(given) > 1:
        msg = f"{' and '.join(given)} exclude each other: give at most one"
        raise click.UsageError(msg)
    if not given:
        return nullcontext()
    return connect(
        scheduler=scheduler,
        scheduler_file=scheduler_file,
        workers=workers,
        memory_limit=memory_limit if workers is not None else None,
    )


# Commands ------------------------------------------------------------------------------------


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bigspec")
def main() -> None:
    """Certified spectral norm of a matrix that does not fit in memory."""


@main.command("norm", cls=_Command, epilog=_STATUSES)
@_shared_options
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
@click.option("--time-limit", callback=_seconds_or_text, metavar="T", help="Such as 90 or 30min.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, writable=True),
    callback=_writable,
    metavar="FILE.html",
    help="Write a self-contained page about the run.",
)
@click.option(
    "--max-norm",
    type=float,
    callback=_limit,
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
    cluster = _cluster(scheduler, scheduler_file, workers, memory_limit)
    watcher = nullcontext(_Quiet()) if quiet else LiveProgress(sys.stderr)
    kept = None
    if checkpoint is not None:
        kept = Checkpoint(checkpoint, checkpoint_interval, keep_blocks, steal)
    elif keep_blocks or steal:
        msg = "--keep-blocks and --steal need --checkpoint URL"
        raise click.UsageError(msg)
    # The cluster is left last: the bar is gone before its shutdown has anything to say.
    with terminable(), cluster, watcher as observer:
        estimate = norm(
            source,
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
    _conclude(estimate, max_norm, json_file, report)
    if estimate.checkpoint is not None and estimate.stopped_by == "time":
        where = estimate.checkpoint
        message = f"the time limit is used up. Everything up to here is saved in {where}"
        click.echo(f"bigspec: {message}: run the same command again to go on.", err=True)
        raise click.exceptions.Exit(SAVED)


@main.command("show", cls=_Command)
@click.argument("run", metavar="RUN")
@_json_option
@_debug_option
def show_command(run: str, json_file: str | None) -> None:
    """Say what the checkpoint RUN holds: interval so far, passes, when, where, what comes next."""
    saved = show(run)
    _deliver(str(saved), saved.to_dict(), json_file)


@main.command("plan", cls=_Command)
@_shared_options
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
) -> None:
    """Say what a run on SRC would read, hold and cost, without reading it."""
    with _cluster(scheduler, scheduler_file, workers, memory_limit):
        planned = plan(
            source,
            rtol=rtol,
            failure_probability=failure_probability,
            algorithm=algorithm,
            block_size=block_size,
            memory_limit=memory_limit,
        )
    _deliver(str(planned), planned.to_dict(), json_file)


class _Quiet(Observer):
    """Says nothing but warnings."""

    def warned(self, message: str) -> None:
        click.echo(f"bigspec: warning: {message}", err=True)


# Results -------------------------------------------------------------------------------------


def _conclude(
    estimate: Estimate, max_norm: float | None, json_file: str | None, report: str | None
) -> None:
    """Show and write the answer; a gate that is not passed says so on stderr and exits."""
    status, verdict = _gate(estimate, max_norm)
    data = estimate.to_dict()
    if max_norm is not None:
        data["gate"] = {"max_norm": max_norm, "exit_status": status, "verdict": verdict}
    passed = verdict if status == 0 else None
    _deliver("\n".join(filter(None, (estimate.summary(), passed))), data, json_file)
    if report is not None:
        _write(report, estimate.to_html())
    if status:
        click.echo(f"bigspec: {verdict}", err=True)
        raise click.exceptions.Exit(status)


def _gate(estimate: Estimate, max_norm: float | None) -> tuple[int, str]:
    """Return the exit status and the verdict; the decisive number is shown in full."""
    if max_norm is None:
        return 0, ""
    if estimate.lower > max_norm:
        return (
            EXCEEDED,
            f"the norm exceeds --max-norm {max_norm!r}: it is at least {_full(estimate.lower)}",
        )
    if estimate.upper > max_norm:
        return UNDECIDED, (
            f"undecided: --max-norm {max_norm!r} lies inside the interval "
            f"[{_full(estimate.lower)}, {_full(estimate.upper)}]; narrow it with a smaller --rtol"
            + ("" if estimate.converged else ", or with more passes or time")
        )
    return (
        0,
        f"The norm does not exceed --max-norm {max_norm!r}: it is at most {_full(estimate.upper)}",
    )


def _full(value: float) -> str:
    return repr(float(value))


def _deliver(text: str, data: dict[str, Any], json_file: str | None) -> None:
    """Print the text, or JSON in its place; a file comes second, so that no result is lost."""
    document = None
    if json_file is not None:
        document = json.dumps(data, indent=2, allow_nan=False)
    _say(document if document is not None and json_file == "-" else text)
    if document is not None and json_file is not None and json_file != "-":
        _write(json_file, document + "\n")


def _say(text: str) -> None:
    try:
        click.echo(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, a pager) has left. Files and exit status still matter, and the
        # interpreter must not fail once more when it flushes what is left at its own exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as exc:
        msg = f"cannot write {path!r}: {exc.strerror or exc}; the result is on standard output"
        raise _CannotWriteError(msg) from exc
