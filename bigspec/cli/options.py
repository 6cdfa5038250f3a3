"""Options that commands share, and the cluster they name."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import click

from bigspec.api.cluster import connect
from bigspec.cli.config import SOURCES
from bigspec.run.plan import ALGORITHMS

__all__ = [
    "PERFORMANCE",
    "cluster_of",
    "count_or_text",
    "debug_option",
    "json_option",
    "seconds_or_text",
    "shared_options",
    "source_options",
    "writable_place",
]


Function = TypeVar("Function", bound=Callable[..., Any])
PERFORMANCE = "bigspec.performance"  # in the context's meta: the file of --performance-report


def count_or_text(_ctx: object, _option: object, value: str | None) -> int | str | None:
    """Read a number, or leave a text such as 4GiB to the Python door."""
    return int(value) if value is not None and value.strip().isdecimal() else value


def seconds_or_text(_ctx: object, _option: object, value: str | None) -> float | str | None:
    """Read seconds, or leave a text such as 30min to the Python door."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return value


def writable_place(_ctx: object, _option: object, value: str | None) -> str | None:
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


def _remember_waiting(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    if value is not None:
        ctx.meta.setdefault("bigspec.waiting", {})[option.name] = value


json_option = click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    callback=writable_place,
    metavar="FILE|-",
    help="Write JSON; '-' puts nothing but JSON on stdout.",
)
debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_remember_debug,
    help="Show the traceback of an error.",
)


algorithm_option = click.option(
    "--algorithm",
    type=click.Choice(ALGORITHMS),
    default="auto",
    show_default=True,
)


def shared_options(function: Function) -> Function:
    """Add what `norm` and `plan` have in common."""
    return source_options(algorithm_option(function))


def source_options(function: Function) -> Function:
    """Add what every command has that plans a run."""
    for add in reversed((
        click.argument("source", metavar="SRC"),
        click.option("--rtol", type=float, default=1e-3, show_default=True, metavar="F",
                     help="Stop when upper / lower - 1 is at most this."),
        click.option("--failure-probability", type=float, default=1e-6, show_default=True,
                     metavar="F", help="Chance, over the random start alone, of a wrong interval."),
        click.option("--block-size", type=int, metavar="N", help="Columns of the start block."),
        click.option("--memory-limit", callback=count_or_text, metavar="SIZE",
                     help="What one process may hold, such as 4GiB. [default: half]"),
        click.option("--scheduler", metavar="ADDRESS", help="Run on this Dask cluster."),
        click.option("--scheduler-file", metavar="F", help="The same, from a scheduler file."),
        click.option("--workers", type=click.IntRange(min=1), metavar="N",
                     help="Run on N worker processes of this machine."),
        click.option("--min-workers", type=click.IntRange(min=1), metavar="N", expose_value=False,
                     callback=_remember_waiting, help="Wait for so many workers."),
        click.option("--worker-timeout", metavar="T", expose_value=False,
                     callback=_remember_waiting, help="For how long. [default: 5min]"),
        json_option,
        debug_option,
    )):  # fmt: skip
        function = add(function)
    return function


def cluster_of(
    scheduler: str | None,
    scheduler_file: str | None,
    workers: int | None,
    memory_limit: int | str | None,
) -> AbstractContextManager[None]:
    """Connect where the options say; without any, run in this process."""
    ctx = click.get_current_context()
    waiting = ctx.meta.get("bigspec.waiting", {})
    places = {"scheduler": scheduler, "scheduler_file": scheduler_file, "workers": workers}
    given = _strongest(ctx, [name for name, value in places.items() if value is not None])
    if len(given) > 1:
        names = " and ".join("--" + name.replace("_", "-") for name in given)
        msg = f"{names} exclude each other: give at most one"
        raise click.UsageError(msg)
    if not given:
        if waiting:
            msg = (
                "--min-workers and --worker-timeout need --scheduler, --scheduler-file or --workers"
            )
            raise click.UsageError(msg)
        if PERFORMANCE in ctx.meta:
            msg = (
                "--performance-report needs --scheduler, --scheduler-file or --workers: it is "
                "Dask's, of a cluster; --report says what each pass cost"
            )
            raise click.UsageError(msg)
        return nullcontext()
    return connect(
        scheduler=scheduler if "scheduler" in given else None,
        scheduler_file=scheduler_file if "scheduler_file" in given else None,
        workers=workers if "workers" in given else None,
        memory_limit=memory_limit if "workers" in given else None,
        **waiting,
    )


def _strongest(ctx: click.Context, names: list[str]) -> list[str]:
    """Keep those that come from the strongest source: a flag replaces a variable's cluster."""
    ranks = {name: SOURCES.index(ctx.get_parameter_source(name)) for name in names}
    return [name for name in names if ranks[name] == min(ranks.values())]
