"""The options of all commands that plan or make a run, each declared once.

A class holds the values of one subject; `taking` declares the options of its classes on a command
and hands it one frozen value. ``--help`` lists the options by subject.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import click

import bigspec
from bigspec import api
from bigspec.cli.config import SOURCES
from bigspec.cli.values import (
    Option,
    count_or_text,
    limit,
    option,
    options_of_texts,
    seconds_or_text,
    with_options,
    writable_place,
)

if TYPE_CHECKING:
    from bigspec.checkpoint import Checkpoint

__all__ = [
    "ACCURACY",
    "OUTPUT",
    "PERFORMANCE",
    "WHERE",
    "MemoryFlags",
    "PlanFlags",
    "RunFlags",
    "StorageFlags",
    "cluster_of",
    "debug_option",
    "json_option",
    "storage_option",
    "taking",
]

Function = TypeVar("Function", bound=Callable[..., Any])
PERFORMANCE = "bigspec.performance"  # in the context's meta: the file of --performance-report
MATRIX, ACCURACY, WHERE = "Matrix", "Accuracy and effort", "Where it runs"
SAVING, PAST, OUTPUT = "Checkpoint", "Gate and history", "Output"


def _remember_debug(ctx: click.Context, _option: object, value: bool) -> None:
    ctx.meta["bigspec.debug"] = value


def _remember_waiting(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    if value is not None:
        ctx.meta.setdefault("bigspec.waiting", {})[option.name] = value


json_option = option(
    OUTPUT, "--json", "json_file", metavar="FILE|-", callback=writable_place,
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    help="Write the result as JSON; '-' puts nothing but JSON on stdout.",
)  # fmt: skip
storage_option = option(
    WHERE, "--storage-option", "storage_options", multiple=True, callback=options_of_texts,
    metavar="NAME=VALUE",
    help="Credential, endpoint or setting for the URLs of this command, such as anon=true, "
         "endpoint_url=http://host:9000, or s3.key=... for s3:// only; may be given several times. "
         "Other users see a command line: put secrets into the environment.",
)  # fmt: skip
debug_option = option(
    OUTPUT, "--debug", is_flag=True, expose_value=False, callback=_remember_debug,
    help="Show the traceback of an error.",
)  # fmt: skip


@dataclass(frozen=True)
class SourceFlags:
    """The matrix as it lies there."""

    source: str
    rows: str | None
    fill: float | None
    raw: bool
    missing_chunks: str


@dataclass(frozen=True)
class ViewFlags:
    """What is made of SRC."""

    minus: str | None
    center: bool
    scale: str | None
    ddof: int | None


@dataclass(frozen=True)
class AccuracyFlags:
    """What a plan needs to know of a run."""

    rtol: float
    failure_probability: float
    block_size: int | None


@dataclass(frozen=True)
class EffortFlags:
    """Where a run begins, and when it ends at the latest."""

    seed: int | None
    start: str | None
    max_passes: int | None
    time_limit: float | str | None


@dataclass(frozen=True)
class PlaceFlags:
    """Where it runs."""

    memory_limit: int | str | None
    scheduler: str | None
    scheduler_file: str | None
    workers: int | None


@dataclass(frozen=True)
class MemoryFlags:
    """What spare memory is for."""

    pin: bool


@dataclass(frozen=True)
class StorageFlags:
    """How stores are reached."""

    storage_options: dict[str, Any] | None = field(repr=False)

    def checked(self, *places: Any) -> dict[str, Any] | None:
        """Return the options, if one of these places is a URL.

        Raises
        ------
        ArgumentError
        """
        return api.as_options(self.storage_options, *places)

    def wanted(self, *places: Any) -> dict[str, Any] | None:
        """Return the options, though some of the places may be open already."""
        return self.storage_options if any(map(api.is_url, places)) else None


@dataclass(frozen=True)
class SavingFlags:
    """The checkpoint."""

    checkpoint: str | None
    checkpoint_interval: float
    keep_blocks: bool
    steal: bool

    def options(self) -> Checkpoint | None:
        """Return them as the public functions take them."""
        if self.checkpoint is not None:
            return bigspec.Checkpoint(
                self.checkpoint, self.checkpoint_interval, self.keep_blocks, self.steal
            )
        if self.keep_blocks or self.steal:
            msg = "--keep-blocks and --steal need --checkpoint URL"
            raise click.UsageError(msg)
        return None


@dataclass(frozen=True)
class PastFlags:
    """Limits, and the runs that came before."""

    max_norm: float | None
    min_norm: float | None
    max_change: float | None
    history: str | None
    series: str | None
    warm: bool


@dataclass(frozen=True)
class OutputFlags:
    """Where the answer goes."""

    report: str | None
    quiet: bool


@dataclass(frozen=True)
class JsonFlags:
    """The answer as JSON."""

    json_file: str | None


OPTIONS: dict[type, list[Option[Any]]] = {
    SourceFlags: [
        click.argument("source", metavar="SRC"),
        option(MATRIX, "--rows", metavar="DIM,DIM",
               help="Dimensions of a netCDF, Zarr or HDF5 array that make the rows."),
        option(MATRIX, "--fill", type=float, metavar="X",
               help="Number that replaces missing values of such an array."),
        option(MATRIX, "--raw", is_flag=True,
               help="Use the stored numbers and ignore scale, offset and missing values."),
        option(MATRIX, "--missing-chunks", type=click.Choice(["fill", "error"]), default="fill",
               show_default=True,
               help="Count a chunk that is not in the store as the fill value and report it "
                    "(fill), or refuse it (error)."),
    ],
    ViewFlags: [
        option(MATRIX, "--minus", metavar="SRC", help="Another matrix to subtract."),
        option(MATRIX, "--center", is_flag=True,
               help="Subtract the means of the columns (one more pass; sparse stays sparse)."),
        option(MATRIX, "--scale", metavar="std|FILE.npy",
               help="Divide the columns by their standard deviations (by their root mean squares "
                    "without --center), or multiply them by the weights in a file."),
        option(MATRIX, "--ddof", type=int, metavar="N",
               help="With --center --scale std, divide sums of squares by m - N: 1 (the default) "
                    "as in R and pandas, 0 as in NumPy and scikit-learn."),
    ],
    AccuracyFlags: [
        option(ACCURACY, "--rtol", type=float, default=1e-3, show_default=True, metavar="F",
               help="Stop when upper / lower - 1 is at most F."),
        option(ACCURACY, "--failure-probability", type=float, default=1e-6, show_default=True,
               metavar="F", help="Chance of a wrong interval, over the random start alone."),
        option(ACCURACY, "--block-size", type=int, metavar="N",
               help="Random columns of the start block. [default: chosen]"),
    ],
    EffortFlags: [
        option(ACCURACY, "--seed", type=int, metavar="N",
               help="Seed of the random start (always recorded)."),
        option(ACCURACY, "--start", metavar="FILE|URL",
               help="Old vectors to start from: .npz, .npy, a Zarr array, or another run's "
                    "checkpoint."),
        option(ACCURACY, "--max-passes", type=int, metavar="N",
               help="Stop after N passes."),
        option(ACCURACY, "--time-limit", callback=seconds_or_text, metavar="T",
               help="Stop after this time, such as 90 (seconds) or 30min."),
    ],
    PlaceFlags: [
        option(WHERE, "--memory-limit", callback=count_or_text, metavar="SIZE",
               help="Memory that one process may use, such as 4GiB. [default: half of its "
                    "memory]"),
        option(WHERE, "--scheduler", metavar="ADDRESS",
               help="Address of the Dask scheduler whose workers make the passes."),
        option(WHERE, "--scheduler-file", metavar="F",
               help="Scheduler file of a Dask cluster, instead of its address."),
        option(WHERE, "--workers", type=click.IntRange(min=1), metavar="N",
               help="Make the passes in N worker processes on this machine."),
        option(WHERE, "--min-workers", type=click.IntRange(min=1), metavar="N", expose_value=False,
               callback=_remember_waiting, help="Start the run when N workers are there."),
        option(WHERE, "--worker-timeout", metavar="T", expose_value=False,
               callback=_remember_waiting,
               help="How long to wait for workers. [default: 5min]"),
    ],
    MemoryFlags: [
        option(WHERE, "--pin/--no-pin", default=True, show_default=True,
               help="Let panels stay in spare memory, decoded, so that later passes read the "
                    "others only. What stays is not compared with the store again."),
    ],
    StorageFlags: [storage_option],
    SavingFlags: [
        option(SAVING, "--checkpoint", metavar="URL",
               help="Save the run there, and continue the run that is saved there."),
        option(SAVING, "--checkpoint-interval", type=click.FloatRange(min=0), default=60.0,
               show_default=True, metavar="S",
               help="Most seconds of work that a failure may cost."),
        option(SAVING, "--keep-blocks", is_flag=True,
               help="Keep the blocks of all passes in the checkpoint."),
        option(SAVING, "--steal", is_flag=True,
               help="Take the checkpoint over from the process that is using it."),
    ],
    PastFlags: [
        option(PAST, "--max-norm", type=float, callback=limit, metavar="X",
               help="Fail (exit status 3) if the norm exceeds X. The run stops as soon as the "
                    "interval decides that. If it is undecided at --rtol, the exit status is 4."),
        option(PAST, "--min-norm", type=float, callback=limit, metavar="X",
               help="Fail if the norm is below X."),
        option(PAST, "--max-change", type=click.FloatRange(min=0), metavar="R",
               help="Fail if the norm has changed by more than R, relative to the last accepted "
                    "run of the history."),
        option(PAST, "--history", type=click.Path(dir_okay=False), metavar="FILE",
               help="SQLite file to record the run in."),
        option(PAST, "--series", metavar="NAME",
               help="Series of the history that the run belongs to. [default: SRC]"),
        option(PAST, "--warm", is_flag=True,
               help="Start from the vectors of the last accepted run of the history."),
    ],
    OutputFlags: [
        option(OUTPUT, "--report", type=click.Path(dir_okay=False, writable=True),
               callback=writable_place, metavar="FILE.html",
               help="Write a self-contained page about the run."),
        option(OUTPUT, "--quiet", is_flag=True, help="Show no progress on stderr."),
    ],
    JsonFlags: [json_option, debug_option],
}  # fmt: skip


@dataclass(frozen=True)
class PlanFlags:
    """All options that `norm`, `svds` and `plan` have in common."""

    source: SourceFlags
    view: ViewFlags
    accuracy: AccuracyFlags
    place: PlaceFlags
    memory: MemoryFlags
    storage: StorageFlags
    json: JsonFlags


@dataclass(frozen=True)
class RunFlags:
    """All options that `norm` and `svds` have in common."""

    source: SourceFlags
    view: ViewFlags
    accuracy: AccuracyFlags
    effort: EffortFlags
    place: PlaceFlags
    memory: MemoryFlags
    storage: StorageFlags
    saving: SavingFlags
    past: PastFlags
    output: OutputFlags
    json: JsonFlags


def taking(kind: type) -> Callable[[Function], Function]:
    """Declare the options of `kind`, whose fields are the classes above, on a command.

    The command gets one value of that kind as `flags`; options of its own come beside it.
    """
    groups: dict[str, type] = get_type_hints(kind)

    def declare(function: Function) -> Function:
        @wraps(function)
        def call(**values: Any) -> Any:
            flags = {
                name: group(**{f.name: values.pop(f.name) for f in fields(group)})
                for name, group in groups.items()
            }
            return function(flags=kind(**flags), **values)

        options = [add for group in groups.values() for add in OPTIONS[group]]
        return with_options(call, options)  # type: ignore[return-value]

    return declare


def cluster_of(place: PlaceFlags) -> AbstractContextManager[None]:
    """Connect where the options say; without any, run in this process."""
    ctx = click.get_current_context()
    waiting = ctx.meta.get("bigspec.waiting", {})
    names = ("scheduler", "scheduler_file", "workers")
    given = _strongest(ctx, [name for name in names if getattr(place, name) is not None])
    if len(given) > 1:
        both = " and ".join("--" + name.replace("_", "-") for name in given)
        msg = f"{both} exclude each other: give at most one"
        raise click.UsageError(msg)
    if not given:
        if waiting:
            msg = (
                "--min-workers and --worker-timeout need --scheduler, --scheduler-file or --workers"
            )
            raise click.UsageError(msg)
        if PERFORMANCE in ctx.meta:
            msg = (
                "--performance-report needs --scheduler, --scheduler-file or --workers: Dask "
                "reports on clusters only; --report says what each pass cost"
            )
            raise click.UsageError(msg)
        return nullcontext()
    return bigspec.connect(
        scheduler=place.scheduler if "scheduler" in given else None,
        scheduler_file=place.scheduler_file if "scheduler_file" in given else None,
        workers=place.workers if "workers" in given else None,
        memory_limit=place.memory_limit if "workers" in given else None,
        **waiting,
    )


def _strongest(ctx: click.Context, names: list[str]) -> list[str]:
    """Keep those that come from the strongest source: a flag replaces a variable's cluster."""
    ranks = {name: SOURCES.index(ctx.get_parameter_source(name)) for name in names}
    return [name for name in names if ranks[name] == min(ranks.values())]
