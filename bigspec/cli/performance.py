"""Dask's performance report of a command, as a file that is whole or not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bigspec import api
from bigspec.cli.options import OUTPUT, PERFORMANCE
from bigspec.cli.statuses import CANNOT_WRITE
from bigspec.cli.values import option, with_options, writable_place
from bigspec.cli.watching import say
from bigspec.names import shown
from bigspec.results.files import write_text

if TYPE_CHECKING:
    from bigspec.watch import Observer

__all__ = ["performance_option", "performance_reported", "written"]

Function = TypeVar("Function", bound=Callable[..., Any])


def _remember(ctx: click.Context, own: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta[PERFORMANCE] = writable_place(ctx, own, value)


def performance_option(function: Function) -> Function:
    """Add ``--performance-report``, which `performance_reported` reads."""
    add = option(
        OUTPUT,
        "--performance-report",
        type=click.Path(dir_okay=False, writable=True),
        callback=_remember,
        expose_value=False,
        metavar="FILE.html",
        help="Write Dask's performance report of a run on a cluster.",
    )
    return with_options(function, [add])


@contextmanager
def performance_reported(observer: Observer) -> Iterator[api.Recording]:
    """Write the report of what runs inside, if one is asked for, even when that fails.

    If only the report failed, `written` says so once the answer is out.
    """
    ctx = click.get_current_context()
    path = ctx.meta.get(PERFORMANCE)
    if path is None:
        yield api.Recording()
        return
    recording = api.Recording()
    try:
        with api.recorded(shown(f"{ctx.command_path} {ctx.params['source']}")) as recording:
            yield recording
    except BaseException:
        _write(path, recording)
        if recording.lacking:
            observer.warned(f"{path} is not written: {recording.lacking}")
        raise
    _write(path, recording)


def _write(path: str, recording: api.Recording) -> None:
    """Put the page at `path` in one step."""
    if not recording.html:
        return
    try:
        write_text(path, recording.html)
    except OSError as error:
        recording.lacking = error.strerror or str(error)


def written(ctx: click.Context, recording: api.Recording, status: int) -> int:
    """Say after the answer that there is no report; keep a status that says more about the run.

    On an error of the run, `performance_reported` has said it.
    """
    if not recording.lacking:
        return status
    said = "" if status else "; the result is on standard output"
    message = f"cannot write {ctx.meta[PERFORMANCE]!r}: {recording.lacking}{said}"
    say(ctx, message, status or CANNOT_WRITE, error=True)
    return status or CANNOT_WRITE
