"""The history of a command: the earlier runs that it uses, and the row that it writes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

import bigspec
from bigspec import history as past_runs
from bigspec.cli.options import PastFlags, RunFlags, StorageFlags
from bigspec.cli.statuses import CANNOT_WRITE, explained
from bigspec.cli.watching import run_id, say
from bigspec.errors import HistoryError
from bigspec.names import shown

if TYPE_CHECKING:
    from bigspec.history import History, Row
    from bigspec.results import Estimate, Gate, Triplets
    from bigspec.run.start import Start
    from bigspec.watch import Observer

__all__ = ["Past", "gate_of", "past_of", "resumable"]


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

        A run that continues from a checkpoint gets the vectors that it started with.
        """
        if self.history is None or not self.warm:
            return None, None
        digest = self.held.get("start")
        if self.held and digest is None:
            return None, None
        return self.history.start(self.series, digest=digest) or (None, None)

    def warn(self, observer: Observer) -> None:
        """Warn if there is no run to measure a change from: the name may be mistyped."""
        if self.history is not None and self.reference is None:
            observer.warned(
                f"history {self.history.path} has no accepted run of {self.series!r}: --max-change "
                "has nothing to compare with, so it passes"
            )

    @contextmanager
    def failures(self, ctx: click.Context) -> Iterator[None]:
        """Record what ends the run inside with an error."""
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            status, message = explained(error)
            name = run_id(ctx) or self.held.get("id") or uuid.uuid4().hex
            row = past_runs.Row(name, self.series, self.source, exit_status=status, error=message)
            self._write(ctx, status, lambda history: history.write(row))
            raise

    def record(
        self,
        ctx: click.Context,
        answer: Estimate | Triplets,
        status: int,
        warm_from: str | None,
    ) -> int:
        """Record an answer; return the exit status, which a history never makes better."""
        return self._write(
            ctx,
            status,
            lambda history: history.record(
                answer,
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
def resumable(ctx: click.Context, checkpoint: str | None, storage: StorageFlags) -> Iterator[None]:
    """On an interrupt before the run was loaded, say that the checkpoint still has it."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not (run_id(ctx) or hasattr(error, "saved")) and _run_in(checkpoint, storage):
            error.saved = shown(str(checkpoint))  # type: ignore[attr-defined]
        raise


def _run_in(checkpoint: str | None, storage: StorageFlags) -> dict[str, Any]:
    from bigspec.run.show import run_in  # here: `bigspec --help` does without

    return run_in(checkpoint, storage.wanted(checkpoint))


def past_of(flags: RunFlags) -> Past:
    """Open the history that the options name, before anything is computed.

    Raises
    ------
    HistoryError
    click.UsageError
        An option needs a history, and none is given.
    """
    past, source = flags.past, series_name(flags)
    if past.history is None:
        if past.warm or past.max_change is not None or past.series is not None:
            msg = "--warm, --max-change and --series need --history FILE"
            raise click.UsageError(msg)
        return Past(None, "", source, warm=False, held={})
    opened = bigspec.History(past.history)
    opened.prepare()
    # SQLite's texts are UTF-8, which the bytes of a name need not be.
    name, place = (
        shown(text).encode(errors="backslashreplace").decode()
        for text in (past.series or source, source)
    )
    held = _run_in(flags.saving.checkpoint, flags.storage)
    return Past(opened, name, place, warm=past.warm, held=held)


def series_name(flags: RunFlags) -> str:
    """Return the name of a series whose runs are of the same view or expression of SRC."""
    source, view = flags.source, flags.view
    given = {
        "--rows": source.rows, "--fill": source.fill, "--raw": source.raw, "--minus": view.minus,
        "--center": view.center, "--scale": view.scale, "--ddof": view.ddof,
    }  # fmt: skip
    asked = {
        name: value for name, value in given.items() if value is not None and value is not False
    }
    words = [name if value is True else f"{name} {value}" for name, value in asked.items()]
    return " ".join([source.source, *words])


def gate_of(past: Past, flags: PastFlags) -> Gate | None:
    """Return the gate that the options describe, if they describe one."""
    if flags.max_norm is None and flags.min_norm is None and flags.max_change is None:
        return None
    row = past.reference if flags.max_change is not None else None
    reference = None
    if row is not None and row.lower is not None and row.upper is not None:
        reference = row.lower, row.upper
    return bigspec.Gate(flags.max_norm, flags.min_norm, flags.max_change, reference)
