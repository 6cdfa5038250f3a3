"""How a run is watched: a live line, plain lines or JSON, and where messages of a command go."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from bigspec import watch
from bigspec.cli.values import option, with_options
from bigspec.names import shown

__all__ = ["Quiet", "run_id", "say", "watched", "watching_options"]

Function = TypeVar("Function", bound=Callable[..., Any])
# In the context's meta: the JSON log that messages go to, if there is one; the observer.
LOG, OBSERVER = "bigspec.log", "bigspec.observer"


class Quiet(watch.Observer):
    """Shows only warnings."""

    def warned(self, message: str) -> None:
        """Write it on stderr."""
        click.echo(f"bigspec: warning: {shown(message)}", err=True)


def _remember_log(ctx: click.Context, _option: object, value: str) -> None:
    if value == "json":
        ctx.meta[LOG] = watch.JsonLog(sys.stderr)


def _remember_heartbeat(ctx: click.Context, _option: object, value: float) -> None:
    ctx.meta["bigspec.watch.heartbeat"] = value


def watching_options(function: Function) -> Function:
    """Add ``--log-format`` and ``--heartbeat``, which `watched` reads."""
    return with_options(function, (
        option(
            "Output", "--log-format", type=click.Choice(["text", "json"]), default="text",
            show_default=True, expose_value=False, callback=_remember_log, is_eager=True,
            help="Format of progress and messages on stderr; json is one object a line.",
        ),
        option(
            "Output", "--heartbeat", type=click.FloatRange(min=0, min_open=True), default=60.0,
            show_default=True, metavar="S", expose_value=False, callback=_remember_heartbeat,
            help="Report the progress of a long pass every S seconds.",
        ),
    ))  # fmt: skip


@contextmanager
def watched(*, quiet: bool) -> Iterator[watch.Observer]:
    """Yield the observer that the options of `watching_options` ask for."""
    meta = click.get_current_context().meta
    with _watched(meta, quiet=quiet) as observer:
        meta[OBSERVER] = observer
        yield observer


def run_id(ctx: click.Context) -> str:
    """Return the id of the run that is or was watched; empty if it never began."""
    observer = ctx.meta.get(OBSERVER)
    return "" if observer is None else str(observer.run_id)


@contextmanager
def _watched(meta: dict[str, Any], *, quiet: bool) -> Iterator[watch.Observer]:
    if LOG in meta:
        log = watch.JsonLog(sys.stderr, heartbeat=meta["bigspec.watch.heartbeat"], quiet=quiet)
        meta[LOG] = log  # errors, which come later, name the run as well
        with log, watch.taking_over(log):
            yield log
    elif quiet:
        yield Quiet()
    else:
        with watch.LiveProgress(sys.stderr, heartbeat=meta["bigspec.watch.heartbeat"]) as line:
            yield line


def say(ctx: click.Context, message: str, status: int, *, error: bool = False) -> None:
    """Write on stderr what ends a command: a plain line, or one of the JSON log."""
    log, message = ctx.meta.get(LOG), shown(message)
    if log is not None:
        log.ended(message, status, error=error)
    else:
        click.echo(f"bigspec: {'error: ' if error else ''}{message}", err=True)
