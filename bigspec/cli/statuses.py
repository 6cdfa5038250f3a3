"""An exit status for every ending, and the errors of a command as one line."""

from __future__ import annotations

import traceback
from typing import Any

import click

from bigspec.errors import BigspecError, ClusterError, StoreUnavailableError
from bigspec.interrupts import Terminated

__all__ = ["STATUSES", "CannotWriteError", "Command"]

EXCEEDED, UNDECIDED, BUG, CANNOT_WRITE, SAVED = 3, 4, 70, 74, 75
INTERRUPTED, TERMINATED = 130, 143

STATUSES = """\b
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


class CannotWriteError(Exception):
    """A result file cannot be written; raised after the result was printed."""


class Command(click.Command):
    """A command whose errors are one line and a status; ``--debug`` adds the traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; turn whatever ends it into a line and a status."""
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
    if isinstance(exc, CannotWriteError):
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
