"""Where a run is saved, how often, and how many steps stay."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bigspec.errors import ArgumentError
from bigspec.names import shown

__all__ = ["Checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """Where and how a run is saved.

    Parameters
    ----------
    where : str or path
        A local path, or any fsspec URL, of a Zarr group. It is made if it does not exist. If it
        holds an unfinished run, that run goes on.
    interval : float
        Seconds of work that a failure may cost at most. Partial sums of a pass are saved after
        0.6 of it; the rest is for rounds in flight and the save itself. Finished steps are
        saved as soon as that costs at most 2 % of the time.
    keep_blocks : bool
        Keep the blocks of all steps (the Krylov basis) and all steps' records. By default only
        the two newest steps are kept.
    steal : bool
        Take the checkpoint over from the process that is using it.
    storage_options : mapping, optional
        Credentials, endpoint and settings of a URL; see `bigspec.open_matrix`. By default those
        of the call that it is passed to.
    """

    where: str | os.PathLike[str]
    interval: float = 60.0
    keep_blocks: bool = False
    steal: bool = False
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        where = shown(os.fspath(self.where))
        return (
            f"Checkpoint(where={where!r}, interval={self.interval!r}, "
            f"keep_blocks={self.keep_blocks!r}, steal={self.steal!r})"
        )

    def __post_init__(self) -> None:
        if not isinstance(self.where, (str, os.PathLike)) or not os.fspath(self.where):
            msg = f"checkpoint: expected a path, a URL or a Checkpoint, got {self.where!r}"
            raise ArgumentError(msg)
        if not self.interval >= 0:
            msg = f"checkpoint_interval: expected seconds >= 0, got {self.interval!r}"
            raise ArgumentError(msg)
