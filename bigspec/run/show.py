"""What `bigspec show` says about a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.checkpoint import describe
from bigspec.errors import (
    BigspecError,
)
from bigspec.names import bare, shown
from bigspec.results.text import dtype_text, interval_text, rounded_up, seconds_text, width_text
from bigspec.run import SAVED_TYPES
from bigspec.run.checks import check_run_state
from bigspec.run.identity import plain
from bigspec.sources.storage_options import as_options

__all__ = ["Saved", "owner_lines", "run_in", "saved_of"]


def run_in(
    checkpoint: str | os.PathLike[str] | None, storage_options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Describe the run in a checkpoint; empty if there is none, or none that can be read."""
    if checkpoint is None:
        return {}
    try:
        storage = as_options(storage_options, checkpoint)
        return saved_of(*describe(checkpoint, SAVED_TYPES, storage)).run
    except BigspecError:  # whoever continues it says what is wrong
        return {}


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds.

    Attributes
    ----------
    where : str
    run : dict
        The matrix's identity, the options and what was chosen.
    lower, upper : float
        The interval so far; 0 and infinity before the first pass is complete.
    passes : int
    finished : bool
    rounds : int
        Rounds of the next pass that are already summed.
    seconds : float
        Wall time so far, in all processes.
    place : dict
        When it was saved, how many blocks it has, who owns it, what is damaged.
    history : tuple of PassRecord
    """

    where: str
    run: dict[str, Any]
    lower: float
    upper: float
    passes: int
    finished: bool
    rounds: int
    seconds: float
    place: dict[str, Any]
    history: tuple[Any, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {
            "schema": "bigspec.saved/1",
            "where": self.where,
            "lower": self.lower,
            "upper": self.upper if np.isfinite(self.upper) else None,
            "passes": self.passes,
            "finished": self.finished,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "saved": self.place["saved"],
            "owner": self.place["owner"],
            "damage": self.place["damage"],
            "run_id": self.run.get("id", ""),
            "run": plain(self.run),
        }

    def __str__(self) -> str:
        run = self.run
        m, n = run["matrix"]["shape"]
        dtype = dtype_text(run["matrix"]["dtype"])
        ends = interval_text(self.lower, self.upper)
        width = width_text(self.lower, self.upper)
        interval = f"{ends}, width {width}" if self.passes else "none yet"
        if run.get("count") and self.passes:
            widest = rounded_up(self.history[-1].width)
            interval = f"{ends} of sigma_1; largest width of {run['count']} values {widest}"
        cut = run["cut"]
        rounds = -(-run["panels"] // cut["round_panels"])
        k = run.get("count") or 0
        if self.finished and k:
            after = "only the last pass, for the vectors: the values are finished"
        elif self.finished:
            after = "nothing: it is finished, the same call returns this answer without reading"
        elif self.rounds:
            after = f"pass {self.passes + 1}, from round {self.rounds + 1} of {rounds}"
        else:
            after = f"pass {self.passes + 1}"
        lines = [
            self.where,
            f"  run         {run.get('id', 'without an id')}",
            f"  matrix      {run['name']}, {m} x {n} {dtype}",
            f"  algorithm   {run['algorithm']}, block of {run['block_size']}",
            f"  certainty   failure probability {run['failure_probability']:g}",
            f"  interval    {interval}",
            f"  passes      {self.passes} in {seconds_text(self.seconds)}",
            f"  started     {run['begun']} by {run['by']}",
            f"  saved       {self.place['saved']}, record {self.place['record']}",
            f"  next        {after}",
        ]
        return "\n".join(lines + owner_lines(self.place))


def owner_lines(place: dict[str, Any]) -> list[str]:
    """Say who uses a checkpoint, and what is damaged in it."""
    owner, lines = place["owner"], []
    if owner is not None:
        who = f"by process {owner.get('pid')} on {owner.get('host')}"
        left = f"  left        {who}, which is gone: the same command goes on"
        lines.append(left if place["abandoned"] else f"  in use      {who}")
    return lines + [f"  damaged     {text}" for text in place["damage"]]


def saved_of(progress: Any, place: dict[str, Any]) -> Saved:
    """Say what the state of a run in a checkpoint is.

    Parameters
    ----------
    progress : RunState
    place : dict
        See `bigspec.checkpoint.describe`.

    Raises
    ------
    CheckpointError
        It holds something else.
    """
    check_run_state(progress, place["where"], blocks=False)
    interval = progress.known.interval
    return Saved(
        where=place["where"],
        run=bare(plain(progress.run)) | {"name": shown(progress.run["name"])},
        lower=interval.lower,
        upper=interval.upper,
        passes=len(progress.history),
        finished=place["kind"] == "finished",
        rounds=progress.first_rounds.rounds,
        seconds=progress.seconds,
        place=place,
        history=progress.history,
    )
