"""An exit status for every ending, and the errors of a command as one line."""

from __future__ import annotations

import errno
import resource
import traceback
from typing import Any

import click

from bigspec.cli.config import (
    add_sources,
    config_option,
    named_source,
    refuse_unknown_variables,
)
from bigspec.cli.help import WIDTH, meant, write_examples, write_options
from bigspec.cli.interrupts import Terminated
from bigspec.cli.watching import say
from bigspec.errors import BigspecError, ClusterError, StoreUnavailableError
from bigspec.names import redacted
from bigspec.results.gate import EXIT_STATUSES

__all__ = ["STATUSES", "CannotWriteError", "Command", "Group", "explained"]

EXCEEDED, UNDECIDED = EXIT_STATUSES["failed"], EXIT_STATUSES["undecided"]
USAGE, BUG, CANNOT_WRITE, SAVED = 2, 70, 74, 75
INTERRUPTED, TERMINATED = 130, 143

STATUSES = """Every option can also be given as BIGSPEC_ and its long name (BIGSPEC_RTOL), or in
the file of --config. Flags win, then the environment, then the file.

\b
Exit status:
  0   answered, and the gate (--max-norm, --min-norm, --max-change) passed.
      This includes a run that --max-passes or --time-limit stopped: its
      interval is wider than --rtol, and it says converged false.
  2   wrong usage, or too little memory
  3   the gate failed
  4   the gate is undecided: a limit lies inside the interval
  65  the matrix cannot be used (NaN, damaged chunk, wrong type)
  66  the matrix is not there, or cannot be opened
  69  the Dask cluster does not answer or was lost
  70  unexpected error
  74  a result file cannot be written, or the end of the run is not in
      --checkpoint; the result is on standard output
  75  stopped early (SIGTERM, Ctrl-C, --time-limit, cluster or store gone)
      with everything saved in --checkpoint, or another process is using
      the checkpoint, or a store does not answer: run the same command again
  130 interrupted, 143 terminated: there is no checkpoint; the result is
      the interval after the last complete pass, if there was one
"""


class CannotWriteError(Exception):
    """A result file cannot be written; raised after the result was printed."""


class Command(click.Command):
    """A command whose errors are one line and a status; ``--debug`` adds the traceback.

    Its options come from flags, the environment and ``--config``; see `bigspec.cli.config`.
    """

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.params.append(config_option())
        add_sources(self)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the options by subject."""
        write_options(self.get_params(ctx), ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what holds for every option, the exit statuses, and examples."""
        super().format_epilog(ctx, formatter)
        write_examples(self.name or "", formatter)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options; an error in one that is not in `args` names its source."""
        refuse_unknown_variables(ctx)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            known = [name for param in self.params for name in param.opts if name.startswith("--")]
            near = meant(error.option_name, known)
            raise click.NoSuchOption(
                error.option_name, possibilities=[near] if near else None, ctx=ctx
            ) from error
        except click.BadParameter as error:
            source = named_source(ctx, error.param) if error.param is not None else ""
            if not source:
                raise
            message = f"{error.message} ({source})"
            raise click.BadParameter(message, error.ctx, error.param, error.param_hint) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; turn whatever ends it into a line and a status."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (Exception, KeyboardInterrupt) as exc:
            if ctx.meta.get("bigspec.debug"):
                click.echo(redacted(traceback.format_exc()), err=True, nl=False)
            status, message = explained(exc)
            say(ctx, message, status, error=True)
            raise click.exceptions.Exit(status) from exc


class Group(click.Group):
    """The command that holds all others, with examples at the end of its help."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.context_settings = {"max_content_width": WIDTH, **self.context_settings}

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write examples."""
        super().format_epilog(ctx, formatter)
        write_examples("bigspec", formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a mistyped name is an error that suggests the right one."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            near = meant(name, self.list_commands(ctx))
            hint = f"did you mean {near!r}?" if near else "see bigspec --help"
            ctx.fail(f"No such command {name!r}; {hint}")
        return super().resolve_command(ctx, args)


def explained(exc: BaseException) -> tuple[int, str]:
    """Return the exit status and the message for anything that ended a command."""
    where = getattr(exc, "saved", None)
    saved = f" Everything up to here is saved in {where}" if where else ""
    if _out_of_files(exc):  # a second try would fail, too
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        message = f"expected to open more files than the {limit} of `ulimit -n`; raise that limit"
        return USAGE, f"{message}, to 4096 say, and run it again.{saved}"
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
        if hasattr(exc, "estimate"):
            return status, f"{word}; the interval so far is the result"
        return status, f"{word}; there is no result"
    name = type(exc).__name__
    first_line = next(iter(str(exc).splitlines()), "")
    message = f"unexpected {name}" + (f": {first_line}" if first_line else "")
    return BUG, f"{message}; run again with --debug to see where it came from.{saved}"


def _out_of_files(exc: BaseException) -> bool:
    """Tell whether this began with an open file too many, whatever came of it."""
    seen: list[BaseException] = []
    cause: BaseException | None = exc
    while cause is not None and cause not in seen:
        if isinstance(cause, OSError) and cause.errno in {errno.EMFILE, errno.ENFILE}:
            return True
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    return False
