"""The observer of a run: what is called when something happens."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from bigspec.results.estimate import Estimate
from bigspec.results.records import PassRecord

if TYPE_CHECKING:
    from bigspec.results.triplets import Triplets

__all__ = ["CheckpointWarning", "Observer"]


class CheckpointWarning(UserWarning):
    """A checkpoint cannot be written, or a damaged step of it was passed over; the run goes on."""


class Observer:
    """Hears what a run does, while it does it; this base class ignores everything.

    All methods are called from the thread that called `bigspec.norm`.

    Attributes
    ----------
    run_id : str
        Of the run that is heard; empty before it is known.
    """

    run_id = ""

    def identified(self, run_id: str) -> None:
        """Hear the id of the run, before it begins or goes on."""
        self.run_id = run_id

    def run_started(self, matrix_name: str, layout: dict[str, Any]) -> None:
        """Hear that the run begins; `layout` is that of `Estimate.layout`."""

    def pass_started(self, number: int, panels: int) -> None:
        """Pass `number` (from 1) of `panels` panels begins."""

    def panels_done(self, done: int, panels: int, bytes_read: int, seconds: float) -> None:
        """`done` of `panels` panels of this pass are summed, after `seconds` of this pass."""

    def pass_finished(self, record: PassRecord) -> None:
        """Hear the cost of a pass and the interval it closed to."""

    def stage_started(self, stage: str, entries: int) -> None:
        """Hear that a stage of a conversion begins, over at most so many entries."""

    def stage_advanced(self, done: int, entries: int, size: int, seconds: float) -> None:
        """Hear how many entries are done, after `size` bytes and `seconds` of this stage."""

    def run_finished(self, estimate: Estimate | Triplets) -> None:
        """Hear the answer; not called when the run ends in an error."""

    def warned(self, message: str) -> None:
        """Hear of trouble that does not end the run; by default, a Python warning."""
        warnings.warn(message, CheckpointWarning, stacklevel=2)

    def close(self) -> None:
        """Let go of the terminal; called last, also when the run ends in an error."""
