"""What a matrix is to bigspec: a shape, a dtype, a grid along which it can be cut, and ``read``.

A new format is one class with these (see `Matrix`); everything above it, the layout of the
panels, the passes and the algorithms, never asks where the entries came from.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.kernels.buffers import Buffers
from bigspec.kernels.sums import SparseSum, SumBlock
from bigspec.names import shown

__all__ = ["PANEL_BYTES", "SLAB_BYTES", "Block", "Claims", "Grid", "Matrix", "OperatorMatrix"]

SLAB_BYTES = 32 << 20  # one read: small chunks together up to this, larger ones one at a time
PANEL_BYTES = (4 << 20, 512 << 20)  # one task: least and most

Block = np.ndarray[Any, Any] | sp.sparray | sp.spmatrix | SumBlock | SparseSum
"""What `Matrix.read` returns: a 2-D ndarray (possibly a view), a SciPy CSR/CSC block, or a sum."""


@dataclass(frozen=True)
class Grid:
    """Where one axis may be cut without splitting what the store reads as a whole.

    Parameters
    ----------
    extent : int
        Length of the axis.
    step : int
        Regular cut distance: cuts lie at ``0, step, 2 * step, ..., extent``.
    cuts : tuple of int, optional
        Irregular cuts ``(0, ..., extent)``; then `step` is the largest distance.
    """

    extent: int
    step: int
    cuts: tuple[int, ...] | None = None

    @classmethod
    def irregular(cls, sizes: tuple[int, ...]) -> Grid:
        """Build a grid from consecutive chunk sizes, such as ``dask_array.chunks[0]``."""
        cuts = (0, *np.cumsum(sizes, dtype=np.int64).tolist())
        return cls(cuts[-1], max(sizes), cuts)

    @property
    def count(self) -> int:
        """Number of cells between the cuts."""
        return len(self.cuts) - 1 if self.cuts is not None else -(-self.extent // self.step)

    def cut(self, index: int) -> int:
        """Return the position of cut number `index`, ``0 <= index <= count``."""
        return self.cuts[index] if self.cuts is not None else min(index * self.step, self.extent)

    def cell(self, position: int) -> int:
        """Return the number of the cell that holds `position`."""
        if self.cuts is not None:
            return bisect_right(self.cuts, position) - 1
        return position // self.step


@dataclass(frozen=True)
class Claims:
    """What a matrix knows of itself before a pass, or what its owner says of it.

    Attributes
    ----------
    upper : float
        At least the largest singular value; infinity if nothing is known.
    upper_name : str
        What the result calls this bound.
    frobenius, one_norm, inf_norm : float
        At least these norms, of ``2**-exponent`` times the matrix; infinity if not known.
    largest : float
        The largest magnitude of an entry, scaled as the norms. 0 only if all entries are 0.
    nonnegative : bool
        All entries are known to be real and not negative.
    magnitude : float
        See `bigspec.certificate.Facts`; scaled as the norms.
    exponent : int
    terms : int
        Most terms of an inner product with a row or a column. 0 where nothing is known of how
        products round; then the products of each pass tell.
    given : bool
        Whether all of this is the word of the matrix's owner.
    """

    upper: float = math.inf
    upper_name: str = "none"
    frobenius: float = math.inf
    one_norm: float = math.inf
    inf_norm: float = math.inf
    largest: float = math.inf
    nonnegative: bool = False
    magnitude: float = 0.0
    exponent: int = 0
    terms: int = 0
    given: bool = False


@dataclass(frozen=True)
class Matrix(ABC):
    """A matrix that can be read in rectangles of whole chunks.

    Subclasses are frozen dataclasses that pickle small: a worker reopens the store from
    them, and nothing proportional to the matrix travels.

    Attributes
    ----------
    shape : tuple of int
        ``(m, n)``, both positive.
    dtype : numpy.dtype
        The stored type. Products are made in float64 or complex128 whatever it is.
    name : str
        How messages and reports call it: a path, a URL, or a short description.
    grids : tuple of Grid
        Where rows and columns may be cut; rectangles passed to `read` lie on these cuts.
    resident : bool
        True if the entries lie in this process's memory. Such a matrix is multiplied by the
        threads of this process, whatever cluster is active: sending it costs more.
    transient_nbytes : int
        Bytes that one `read` holds for a moment besides its result (codec scratch).
    cell_nbytes : int or None
        Most bytes between two cuts of the axis that is cut, where entries are spread unevenly.
    streams : bool
        True if a panel is read slab by slab with `read`; False if its chunks come as results
        of other tasks, all at once (dask arrays).
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    name: str
    grids: tuple[Grid, Grid]
    resident: bool = field(default=False, kw_only=True)
    transient_nbytes: int = field(default=0, kw_only=True)
    cell_nbytes: int | None = field(default=None, kw_only=True)
    streams: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", shown(self.name))

    @property
    def nbytes(self) -> int:
        """Bytes of all entries as stored in memory (dense unless a subclass knows better)."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    @property
    def anywhere(self) -> tuple[bool, bool]:
        """Whether rows, and columns, may be read in any range: the cuts are advice."""
        return False, False

    @property
    def compressed(self) -> int | None:
        """Axis along which sparse entries are compressed; None if neither, or it is not known."""
        return self.anywhere.index(True) if sum(self.anywhere) == 1 else None

    @property
    def views(self) -> bool:
        """Whether a sparse block of any size is a view: a panel is then read as one slab."""
        return False

    @property
    def widened(self) -> float:
        """How many times larger a block is than what was read for it, at most; inf: not known.

        A sparse source knows it. A matrix made of sparse ones does not: what its terms have in
        common is found as they are added.
        """
        return 1.0 if self.cell_nbytes is None else math.inf

    def transient(self, slab: int) -> int:
        """Bytes that a task holds for a moment besides a slab of so many bytes, at most."""
        return self.transient_nbytes

    def ahead(self, rows: slice, columns: slice, buffers: Buffers) -> None:  # noqa: B027
        """Ask for what the next `read` of this thread needs, without waiting for it.

        `buffers` keeps it until then, or cancels it. By default there is nothing to ask for.
        """

    def ahead_nbytes(self, slab: int) -> int:
        """Bytes that `ahead` holds at most, for a slab of so many; 0 if it does nothing."""
        return 0

    @property
    def advice(self) -> str:
        """What would be cheaper than this matrix, where that can be told without a read."""
        return ""

    @property
    def claims(self) -> Claims:
        """What is known of the matrix before a pass: of one with entries, nothing."""
        return Claims()

    @property
    def start_columns(self) -> int:
        """Columns of `start_vectors`, at most."""
        return 0

    def start_vectors(self, *, rows: bool) -> np.ndarray[Any, Any] | None:
        """Return columns near the leading right vectors (left ones for panels of columns).

        A run starts from them where the caller gives no others. None if the matrix has none.
        """
        return None

    @property
    def missing_as(self) -> str:
        """What the entries of a chunk that is not in its store count as, for messages."""
        return "0"

    @property
    def copied_nbytes(self) -> int:
        """Bytes in this process that opening has made besides what the user holds."""
        return 0

    @property
    def carried_nbytes(self) -> int:
        """Bytes in this process's memory that travel with the matrix to every worker."""
        return 0

    def most_nbytes(self, axis: int, grid: Grid) -> int:
        """Bytes of the entries between two cuts of `grid` along an axis, at most."""
        return max(1, math.ceil(self.nbytes / self.shape[axis] * min(grid.step, grid.extent)))

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What a checkpoint is matched by: where, shape, dtype, chunk grid, a content token."""

    @abstractmethod
    def read(self, rows: slice, columns: slice, buffers: Buffers) -> Block:
        """Read ``A[rows, columns]``, both on the cuts of `grids`, with integer start and stop.

        The block may be a view, or lie in `buffers`: it is valid until the same thread reads
        again, and is never written to.

        Raises
        ------
        ChunkError
            A chunk is damaged; names it.
        StoreUnavailableError
            The store went on failing after retries.
        """

    def chunk_at(self, row: int, column: int) -> str:
        """Name the chunk (or the place) that holds entry ``(row, column)``, for messages."""
        return f"chunk ({self.grids[0].cell(row)}, {self.grids[1].cell(column)})"

    # Expressions: lazy; nothing is read before a pass.

    __array_ufunc__ = None  # NumPy leaves array - matrix to the matrix

    @property
    def H(self) -> Matrix:  # noqa: N802
        """The adjoint."""
        return _expression("adjoint", self)

    def __add__(self, other: Any) -> Matrix:
        return _expression("total", (self, _opened(other)))

    def __radd__(self, other: Any) -> Matrix:
        return _expression("total", (_opened(other), self))

    def __sub__(self, other: Any) -> Matrix:
        return _expression("total", (self, -_opened(other)))

    def __rsub__(self, other: Any) -> Matrix:
        return _expression("total", (_opened(other), -self))

    def __matmul__(self, other: Any) -> Matrix:
        return _expression("product", self, _opened(other))

    def __rmatmul__(self, other: Any) -> Matrix:
        return _expression("product", _opened(other), self)

    def __neg__(self) -> Matrix:
        return _expression("multiple", self, -1.0)

    def __mul__(self, scalar: Any) -> Matrix:
        return _expression("multiple", self, scalar)

    __rmul__ = __mul__

    def __truediv__(self, scalar: Any) -> Matrix:
        return _expression("multiple", self, 1.0 / scalar)

    def __getitem__(self, key: Any) -> Matrix:
        return _expression("part", self, key)


def missing_as(operands: Iterable[Matrix]) -> str:
    """Return what the entries of missing chunks of several matrices count as, for messages."""
    found = {operand.missing_as for operand in operands} or {"0"}
    return found.pop() if len(found) == 1 else "the fill value of each store"


def _expression(name: str, *operands: Any) -> Matrix:
    """Build an expression; their module is built on this one."""
    from bigspec import expressions

    made: Matrix = getattr(expressions, name)(*operands)
    return made


def _opened(other: Any) -> Matrix:
    """Open the other operand of an expression."""
    from bigspec.sources import open_source

    return open_source(other)


@dataclass(frozen=True)
class OperatorMatrix(Matrix):
    """A matrix known only by its action, such as a SciPy LinearOperator: one panel, no reads."""

    @abstractmethod
    def apply(self, V: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return ``A @ V`` for V (n, b)."""

    @abstractmethod
    def apply_adjoint(self, Y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return ``A.conj().T @ Y`` for Y (m, b)."""

    def adjoint(self) -> Matrix | None:
        """Return the adjoint, if it is an operator of the same kind."""
        return None

    def weighted(self, rows: Any, columns: Any) -> Matrix | None:
        """Return ``diag(rows) A diag(columns)``, if it is an operator of the same kind.

        Weights are arrays, numbers for all, or None.
        """
        return None

    def read(self, rows: slice, columns: slice, buffers: Buffers) -> Block:
        """Not available: an operator has no entries to read."""
        msg = f"{self.name} is an operator: it has no entries to read"
        raise TypeError(msg)
