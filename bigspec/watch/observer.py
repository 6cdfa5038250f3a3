"""The observer of a run: its methods are called when something happens."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bigspec.results import Estimate, PassRecord, Triplets

__all__ = ["CheckpointWarning", "Observer"]


class CheckpointWarning(UserWarning):
    """A checkpoint cannot be written, or a damaged step was skipped. The run goes on."""


class Observer:
    """Watches a run while it works. This base class ignores everything.

    All methods are called from the thread that called `bigspec.norm`.

    Attributes
    ----------
    run_id : str
        Id of the run; empty before it is known.
    """

    run_id = ""

    def identified(self, run_id: str) -> None:
        """Called with the id of the run, before it starts or continues."""
        self.run_id = run_id

    def run_started(self, matrix_name: str, layout: dict[str, Any]) -> None:
        """Called when the run begins. `layout` is the same as `Estimate.layout`."""

    def pass_started(self, number: int, panels: int) -> None:
        """Called when pass `number` (from 1) begins, which reads `panels` panels."""

    def panels_done(self, done: int, panels: int, bytes_read: int, seconds: float) -> None:
        """Called when `done` of `panels` panels are summed, `seconds` after the pass began."""

    def pass_finished(self, record: PassRecord) -> None:
        """Called when a pass ends, with its cost and the interval after it."""

    def stage_started(self, stage: str, entries: int) -> None:
        """Called when a stage of a conversion begins, over at most `entries` entries."""

    def stage_advanced(self, done: int, entries: int, size: int, seconds: float) -> None:
        """Called when `done` entries are done, after `size` bytes and `seconds` of this stage."""

    def run_finished(self, estimate: Estimate | Triplets) -> None:
        """Called with the answer; not called when the run ends in an error."""

    def warned(self, message: str) -> None:
        """Called on trouble that does not end the run. By default this is a Python warning."""
        warnings.warn(message, CheckpointWarning, stacklevel=2)

    def close(self) -> None:
        """Called last, also when the run ends in an error: give the terminal back."""
