"""Rows of a panel in a target (an array in a store): write them, multiply them from the right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar
from zlib import crc32

import numpy as np

from bigspec.panels.context import Context
from bigspec.panels.layout import Layout
from bigspec.panels.rows import Rows
from bigspec.sources.targets import write_rows

__all__ = ["FinishContext", "write_panel"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class FinishContext(Context):
    """The context of tasks that multiply rows of the target from the right.

    Attributes
    ----------
    target : zarr.Array
    T : ndarray (b, b)
    tokens : tuple of tuple of int
        Of each panel, from the forward pass.
    """

    reads: ClassVar[bool] = False
    adds: ClassVar[bool] = False

    target: Any = None
    T: Array | None = None
    tokens: tuple[tuple[int, ...], ...] = ()

    def work(self, index: int, chunks: Any = None) -> Rows:
        """Replace the rows Y of a panel in the target by ``Y T``, once.

        A task may run twice, if its worker died after it had written. Chunks whose checksums are
        no longer those of Y have been replaced already.
        """
        assert self.T is not None
        places = _chunks(self.target, self.layout, index)
        for (start, stop), token in zip(places, self.tokens[index], strict=True):
            self.limit.check()
            Y = np.ascontiguousarray(self.target[start:stop])
            if crc32(Y.data) == token:
                write_rows(self.target, start, stop, Y @ self.T)
        return Rows((), (), ())

    def at_once(self) -> Rows:
        """Multiply all rows; an operator has one panel."""
        return self.work(0)


def write_panel(target: Any, layout: Layout, index: int, Y: Array) -> tuple[int, ...]:
    """Write the rows Y of a panel to the target, and return the checksums of its chunks."""
    tokens, (first, _) = [], layout.extent(index)
    for start, stop in _chunks(target, layout, index):
        part = Y[start - first : stop - first]
        tokens.append(crc32(part.data))
        write_rows(target, start, stop, part)
    return tuple(tokens)


def _chunks(target: Any, layout: Layout, index: int) -> Iterator[tuple[int, int]]:
    """Yield the rows of the target's chunks in a panel."""
    first, last = layout.extent(index)
    step = target.chunks[0]
    for start in range(first, last, step):
        yield start, min(start + step, last)
