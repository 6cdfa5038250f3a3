"""A large block on its way to the workers: in pieces, put together once in each process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bigspec.panels.choose_layout import LARGE_BLOCK
from bigspec.panels.context import Context, run_panel

__all__ = ["PIECES", "Shell", "in_pieces", "run_panel_of_pieces"]

Array = np.ndarray[Any, Any]

PIECES = 3
"""Dask gives a task at once to any worker that is idle, and not to one that has its data, where
tasks of its kind need at most four others (``rootish-taskgroup-dependencies``): three pieces, and
the rest of the context."""


class Shell:
    """A context without its block, which comes in pieces.

    The first task of a process puts the block together, and the others take it. It goes with the
    shell, at the end of the pass.

    Parameters
    ----------
    context : Context
    """

    def __init__(self, context: Context) -> None:
        self.context = replace(context, V=None)
        self._whole: Context | None = None
        self._lock = threading.Lock()

    def whole(self, pieces: Sequence[Array]) -> Context:
        """Return the context with the block that the pieces make."""
        with self._lock:
            if self._whole is None:
                self._whole = replace(self.context, V=np.concatenate(pieces))
            return self._whole

    def __reduce__(self) -> tuple[type[Shell], tuple[Context]]:
        return Shell, (self.context,)


def in_pieces(context: Context) -> tuple[Any, list[Array]]:
    """Return what to send of a context, and the pieces of its block, if that is large."""
    V = context.V
    if V is None or V.nbytes <= LARGE_BLOCK or len(V) < PIECES:
        return context, []
    return Shell(context), np.array_split(V, PIECES)


def run_panel_of_pieces(
    parts: Sequence[Any], index: int, chunks: Sequence[Sequence[Any]] | None = None
) -> Any:
    """Do the work of a panel; `parts` are the shell and the pieces."""
    shell, *pieces = parts
    return run_panel(shell.whole(pieces), index, chunks)
