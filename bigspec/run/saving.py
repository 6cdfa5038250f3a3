"""When the loop saves a run, and what the observer hears of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from bigspec.checkpoint import Writer
from bigspec.errors import CheckpointInUseError, MatrixChangedError
from bigspec.names import shown
from bigspec.passes import FirstRounds
from bigspec.run.state import RunState
from bigspec.watch import Observer

__all__ = ["Saving"]

GRACE = 20.0
"""Seconds that an interrupted run waits for its last save: clusters kill after 30."""


class Saving:
    """Decides when the loop saves. Without a writer, it never does."""

    def __init__(self, writer: Writer | None, observer: Observer, progress: RunState) -> None:
        self.writer, self.observer = writer, observer
        self.progress = progress
        self.saved = progress  # loaded from the checkpoint, or new and not worth a save

    @property
    def where(self) -> str | None:
        """The checkpoint, if all progress is saved there; else None."""
        return self.writer.store.where if self.writer is not None and self.writer.complete else None

    @property
    def wanted(self) -> Callable[[], bool] | None:
        """Tells after a round whether its sum would be saved now; None without a writer."""
        writer = self.writer
        return None if writer is None else lambda: writer.due(step=False)

    def round_summed(self, rounds: FirstRounds) -> None:
        """Called when the sum of the first rounds of a pass is here."""
        self.progress = replace(self.progress, first_rounds=rounds)
        if self.writer is not None and self.writer.due(step=False):
            self._offer("partial")

    def pass_finished(self, progress: RunState) -> None:
        """Called after every pass, with the progress so far."""
        self.progress = progress

    def step(self) -> None:
        """Called between two passes: save if it is time."""
        if self.writer is not None and self.writer.due(step=True):
            self._offer("step")

    def finish(self, reason: str) -> None:
        """Called at the end: save the answer, or the rounds of an unfinished pass."""
        if self.writer is None or not self._anything_new():
            return
        try:
            unfinished = {"time": "partial", "gate": "step", "passes": "step"}
            self._offer(unfinished.get(reason, "finished"))
        except CheckpointInUseError as error:  # the answer is there anyway
            self.observer.warned(str(error))
        self.writer.flush()
        self._tell()

    def interrupted(self, error: BaseException) -> None:
        """Called on an error: save the rounds so far, unless the matrix has changed."""
        if self.writer is None or isinstance(error, CheckpointInUseError):
            return
        with suppress(CheckpointInUseError):
            if self._anything_new() and not isinstance(error, MatrixChangedError):
                self._offer("partial")
            self.writer.flush(GRACE, strict=True)
        if self.where is not None:
            error.saved = self.where  # type: ignore[attr-defined]
            error.add_note(f"Everything up to here is saved in {self.where}.")
        self._tell()

    def _anything_new(self) -> bool:
        assert self.writer is not None
        return self.progress is not self.saved or not self.writer.complete

    def _offer(self, kind: str) -> None:
        assert self.writer is not None
        self.writer.offer(kind, self.progress)
        self.saved = self.progress
        self._tell()

    def _tell(self) -> None:
        assert self.writer is not None
        while self.writer.messages:
            self.observer.warned(shown(self.writer.messages.popleft()))
