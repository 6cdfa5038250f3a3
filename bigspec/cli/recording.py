"""Runs with a past: what a command takes from a history, and the row it leaves there."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from bigspec.cli.statuses import CANNOT_WRITE, explained
from bigspec.cli.watching import run_id, say
from bigspec.errors import HistoryError
from bigspec.history import History, Row
from bigspec.results import Estimate
from bigspec.results.gate import Gate
from bigspec.run.described import held_run
from bigspec.run.start import Start
from bigspec.watch import Observer

__all__ = ["Past", "gate_of", "history_options", "past_of", "resumable", "series_name"]

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Past:
    """The series that a run belongs to.

    Attributes
    ----------
    history : History or None
        None: nothing is known and nothing is recorded.
    series, source : str
    warm : bool
    held : dict
        The run in the checkpoint, if there is one; it is not its own past.
    """

    history: History | None
    series: str
    source: str
    warm: bool
    held: dict[str, Any]

    @property
    def reference(self) -> Row | None:
        """The last accepted run."""
        if self.history is None:
            return None
        return self.history.last_accepted(self.series, but=self.held.get("id"))

    def start(self) -> tuple[Start | None, str | None]:
        """Return what ``--warm`` starts from, and the run it is from.

        A run that is gone on with has begun already: it gets the vector that it began with.
        """
        if self.history is None or not self.warm:
            return None, None
        digest = self.held.get("start")
        if self.held and digest is None:
            return None, None
        return self.history.start(self.series, digest=digest) or (None, None)

    def warn(self, observer: Observer) -> None:
        """Say that a change has nothing to be measured from, which a mistyped name looks like."""
        if self.history is not None and self.reference is None:
            observer.warned(
                f"history {self.history.path} has no accepted run of {self.series!r}: --max-change "
                "has nothing to compare with, and passes"
            )

    @contextmanager
    def failures(self, ctx: click.Context) -> Iterator[None]:
        """Record what ends the run inside with an error."""
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            status, message = explained(error)
            name = run_id(ctx) or self.held.get("id") or uuid.uuid4().hex
            row = Row(name, self.series, self.source, exit_status=status, error=message)
            self._write(ctx, status, lambda history: history.write(row))
            raise

    def record(
        self, ctx: click.Context, estimate: Estimate, status: int, warm_from: str | None
    ) -> int:
        """Record an answer; return the exit status, which a history never makes better."""
        return self._write(
            ctx,
            status,
            lambda history: history.record(
                estimate,
                series=self.series,
                source=self.source,
                exit_status=status,
                warm_from=warm_from,
            ),
        )

    def _write(self, ctx: click.Context, status: int, write: Callable[[History], object]) -> int:
        """Write a row; a status that says something of the run is kept if that fails."""
        if self.history is None:
            return status
        try:
            write(self.history)
        except HistoryError as error:
            said = "" if status else "; the result is on standard output"
            say(ctx, f"{error}{said}", status or CANNOT_WRITE, error=True)
            return status or CANNOT_WRITE
        return status


@contextmanager
def resumable(ctx: click.Context, checkpoint: str | None) -> Iterator[None]:
    """Say of an interrupt before the run was restored that the run is still there."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not (run_id(ctx) or hasattr(error, "saved")) and held_run(checkpoint):
            error.saved = checkpoint  # type: ignore[attr-defined]
        raise


def series_name(source: str, view: Mapping[str, object]) -> str:
    """Return the name of a series whose runs are of the same view or expression of SRC."""
    given = {
        name: value for name, value in view.items() if value is not None and value is not False
    }
    words = [name if value is True else f"{name} {value}" for name, value in given.items()]
    return " ".join([source, *words])


def past_of(
    history: str | None,
    series: str | None,
    source: str,
    *,
    warm: bool,
    changes: bool,
    checkpoint: str | None,
) -> Past:
    """Open the history that the options name, before anything is computed.

    Raises
    ------
    HistoryError
    click.UsageError
        An option needs a history, and none is given.
    """
    if history is None:
        if warm or changes or series is not None:
            msg = "--warm, --max-change and --series need --history FILE"
            raise click.UsageError(msg)
        return Past(None, "", source, warm=False, held={})
    opened = History(history)
    opened.prepare()
    # SQLite's texts are UTF-8, which the bytes of a name need not be.
    name, place = (
        text.encode(errors="backslashreplace").decode() for text in (series or source, source)
    )
    return Past(opened, name, place, warm=warm, held=held_run(checkpoint))


def history_options(function: Function) -> Function:
    """Add ``--history``, ``--series``, ``--warm`` and ``--max-change``."""
    for add in (
        click.option("--max-change", type=click.FloatRange(min=0), metavar="R",
                     help="A gate: the same if the norm changed by more than R relatively since "
                     "the last accepted run of the history."),
        click.option("--warm", is_flag=True,
                     help="Start from the vector of the last accepted run of the history."),
        click.option("--series", metavar="NAME",
                     help="Of the history, that this run belongs to. [default: SRC]"),
        click.option("--history", type=click.Path(dir_okay=False), metavar="FILE",
                     help="Record the run in this SQLite file."),
    ):  # fmt: skip
        function = add(function)
    return function


def gate_of(
    past: Past, max_norm: float | None, min_norm: float | None, max_change: float | None
) -> Gate | None:
    """Return the gate that the options describe, if they describe one."""
    if max_norm is None and min_norm is None and max_change is None:
        return None
    row = past.reference if max_change is not None else None
    reference = None
    if row is not None and row.lower is not None and row.upper is not None:
        reference = row.lower, row.upper
    return Gate(max_norm, min_norm, max_change, reference)
