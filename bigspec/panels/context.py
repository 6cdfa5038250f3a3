"""The context that all tasks of a pass share, and the function that a graph calls for a panel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from bigspec.kernels import working_dtype
from bigspec.kernels.buffers import Buffers
from bigspec.matrices import Matrix
from bigspec.panels.first import FirstSlab
from bigspec.panels.layout import Layout
from bigspec.panels.limit import Limit
from bigspec.panels.pinned import Pinned, PinnedPanel
from bigspec.panels.upcoming import Upcoming

__all__ = ["Context", "run_panel"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Context(ABC):
    """Data that all tasks of one pass share, sent to each worker once.

    Attributes
    ----------
    matrix : Matrix
    layout : Layout
    V : ndarray (n, b) or None
        None for the Gram matrix.
    exponent : int or None
        None in the first pass.
    facts : bool
    buffers : Buffers
        Scratch of the threads of one process, for the length of the pass.
    limit : Limit
        When the tasks stop, complete or not.
    first : FirstSlab
        The slab that planning has read, for the first pass.
    pinned : Pinned
        The panels that need not be read again.
    upcoming : Upcoming or None
        In the process that called bigspec: what is asked for before its task begins.
    """

    reads: ClassVar[bool] = True  # whether the tasks need the entries of the matrix
    adds: ClassVar[bool] = True  # whether results are sums of one size, and not rows to be joined

    matrix: Matrix
    layout: Layout
    V: Array | None
    exponent: int | None
    facts: bool
    buffers: Buffers = field(default_factory=Buffers, kw_only=True)
    limit: Limit = field(default_factory=Limit, kw_only=True)
    first: FirstSlab = field(default_factory=FirstSlab, kw_only=True)
    pinned: Pinned = field(default_factory=Pinned, kw_only=True)
    upcoming: Upcoming | None = field(default=None, kw_only=True)

    @property
    def sum_nbytes(self) -> int:
        """Bytes of a partial sum: a block as long as the iterates."""
        length = self.layout.iterate_length
        columns = length if self.V is None else self.V.shape[1]
        return length * columns * working_dtype(self.matrix.dtype).itemsize

    @abstractmethod
    def work(self, index: int, chunks: Sequence[Sequence[Any]] | PinnedPanel | None = None) -> Any:
        """Do the work of a panel.

        `chunks` are its chunks if other tasks computed them, or a `PinnedPanel`.
        """

    def at_once(self) -> Any:
        """Run the whole pass of an operator in this process."""
        raise NotImplementedError


def run_panel(
    context: Context, index: int, chunks: Sequence[Sequence[Any]] | PinnedPanel | None = None
) -> Any:
    """Do the work of a panel."""
    try:
        if context.upcoming is not None:
            context.upcoming.begin(index, context.buffers)
        return context.work(index, chunks)
    finally:
        context.buffers.drop_ahead()
