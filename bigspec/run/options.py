"""The options of a run, after their checks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from bigspec.run.plan import Wishes
from bigspec.run.start import Start
from bigspec.run.stop import Budget
from bigspec.watch import Observer

__all__ = ["RunOptions"]


@dataclass(frozen=True)
class RunOptions:
    """All inputs of a run, except the matrix.

    Attributes
    ----------
    wishes : Wishes
        The parts of the plan that the caller fixed.
    budget : Budget
        When the run stops.
    failure_probability : float
    seed : int or None
        None draws a fresh seed.
    start : Start or None
        Old vectors.
    checkpoint : path, URL, Checkpoint or None
    observer : Observer
    began : float
        When the call began, on the clock of `time.monotonic`.
    """

    wishes: Wishes
    budget: Budget
    failure_probability: float
    seed: int | None = None
    start: Start | None = None
    checkpoint: Any = None
    observer: Observer = field(default_factory=Observer)
    began: float = field(default_factory=time.monotonic)
