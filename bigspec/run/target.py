"""The place of the left vectors: one run owns it, from before its first pass to its last write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr

from bigspec.checkpoint import Documents, Lease
from bigspec.errors import BigspecError
from bigspec.sources.storage_options import Options
from bigspec.sources.targets import (
    check_target,
    complete_target,
    create_target,
    target_store,
    write_failure,
)

__all__ = ["Target", "owned_target"]

ARGUMENT = "u_store"


class _Place(Documents):
    """The folder of the array, with the document of its owner in it."""

    advice = "Wait for it, or name another place"


@dataclass(frozen=True)
class Target:
    """A place for vectors that this run owns.

    Attributes
    ----------
    where : str
    lease : Lease
    argument : str
        What the caller named the place by.
    options : dict or None
        Credentials and settings of a URL.
    """

    where: str
    lease: Lease
    argument: str = ARGUMENT
    options: Options | None = field(default=None, repr=False)

    def create(self, shape: tuple[int, int], rows: int, dtype: np.dtype[Any]) -> zarr.Array[Any]:
        """Make the array, in the place of what was written there before.

        Raises
        ------
        CheckpointInUseError
            Another run has taken the place; see `bigspec.checkpoint.Lease`.
        """
        self.check()
        return create_target(self.where, shape, rows, dtype, self.argument, self.options)

    def complete(self, array: zarr.Array[Any]) -> zarr.Array[Any]:
        """Mark the array complete, if the place is still this run's."""
        self.check()
        return complete_target(array)

    def check(self) -> None:
        """Raise if another run has taken the place; claim it again if its document is gone."""
        self.lease.check()
        if not self.lease.claimed:
            self.lease.claim()


@contextmanager
def owned_target(
    where: str | os.PathLike[str] | None,
    argument: str = ARGUMENT,
    *,
    options: Options | None = None,
) -> Iterator[Target | None]:
    """Own the place of the left vectors while inside; with None, do nothing.

    `options` has credentials and settings of a URL.

    A run that was killed leaves its document there. The next one takes the place over, as it
    would a checkpoint.

    Raises
    ------
    CheckpointInUseError
        Another run lives on it.
    ArgumentError, SourceError, StoreUnavailableError
        The place cannot be written to, or holds something else.
    """
    if where is None:
        yield None
        return
    check_target(where, argument, options)
    text, store = os.fspath(where), target_store(where, argument, options)
    local = hasattr(store, "root")
    lease = Lease(_Place(store, f"{argument}: {text}", local=local))
    try:
        lease.claim()
    except BigspecError:
        raise
    except Exception as error:
        raise write_failure(error, text) from error
    try:
        yield Target(text, lease, argument, options)
    finally:
        lease.release()
        if local:  # a run that wrote nothing leaves no folder
            with suppress(OSError):
                store.root.rmdir()
