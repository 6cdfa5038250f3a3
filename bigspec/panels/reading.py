"""How every task of a pass reads: what it needs, the blocks, the errors that name a place."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp

from bigspec.errors import DataError, NonFiniteError
from bigspec.kernels import NonFiniteFound
from bigspec.kernels.buffers import Buffers
from bigspec.matrices import Matrix
from bigspec.panels.layout import Layout
from bigspec.sources.memory import canonical, from_pydata_sparse, is_pydata_sparse

__all__ = ["Abandoned", "Context", "as_block", "non_finite", "size_of"]

Array = np.ndarray[Any, Any]


class Abandoned(Exception):  # noqa: N818
    """Nobody waits for this pass any more: it was interrupted, or its time is up."""


@dataclass(frozen=True, eq=False)
class Context(ABC):
    """What every task of one pass needs; sent to each worker once.

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
    """

    reads: ClassVar[bool] = True  # whether the tasks need the entries of the matrix

    matrix: Matrix
    layout: Layout
    V: Array | None
    exponent: int | None
    facts: bool
    buffers: Buffers = field(default_factory=lambda: Buffers(threading.Event()))

    @abstractmethod
    def task(self, reference: Any, panel: int) -> tuple[Any, ...]:
        """Return the task of a panel; `reference` stands for this context in the graph."""

    def blocks_task(self, reference: Any, panel: int, pieces: Any) -> tuple[Any, ...]:
        """Return the task of a panel whose chunks are results of other tasks."""
        raise NotImplementedError

    def at_once(self) -> Any:
        """Run the whole pass of an operator, here."""
        raise NotImplementedError


def as_block(block: Any) -> Any:
    """Return a chunk as an ndarray, or as a CSR or CSC block without duplicates."""
    if isinstance(block, np.ndarray):
        return block
    if is_pydata_sparse(block):
        block = from_pydata_sparse(block, "dask array")
    if sp.issparse(block):
        return canonical(block)
    msg = (
        f"dask array: expected chunks that are NumPy arrays, SciPy or pydata sparse arrays, got "
        f"{type(block).__module__}.{type(block).__qualname__}; map_blocks them to one of these"
    )
    raise DataError(msg)


def size_of(block: Any) -> int:
    """Return the bytes of a block that was read."""
    if hasattr(block, "indptr"):
        return int(block.data.nbytes + block.indices.nbytes + block.indptr.nbytes)
    return int(block.nbytes)


def non_finite(
    context: Context, slab: tuple[int, int], found: NonFiniteFound, index: int
) -> NonFiniteError | DataError:
    """Build the error that names the entry, its chunk and its panel."""
    row, column = found.args
    matrix = context.matrix
    if (row, column) == (-1, -1):
        return DataError(
            f"{matrix.name}: products overflowed in panel {index} although all its entries are "
            "finite now: the matrix changed while it was being read. Run again on a stable copy."
        )
    if context.layout.orientation == "rows":
        row += slab[0]
    else:
        column += slab[0]
    return NonFiniteError(
        f"{matrix.name}: expected finite entries, got a NaN or infinity first at "
        f"[{row}, {column}], in {matrix.chunk_at(row, column)}, panel {index}. "
        "Mend or mask the data: no norm exists."
    )
