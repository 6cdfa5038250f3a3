"""Arrays of any number of dimensions as matrices: which dimensions make the rows.

The array is a netCDF variable, a Zarr array or an HDF5 dataset. It is read in rectangles of
whole chunks and unpacked; see `bigspec.sources.packing`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from bigspec.errors import ArgumentError, DataError
from bigspec.kernels.buffers import Buffers
from bigspec.matrices import SLAB_BYTES, Block, Grid, Matrix
from bigspec.sources.checks import check_shape
from bigspec.sources.missing_chunks import Missing, fill_text
from bigspec.sources.packing import Packing

__all__ = [
    "Axis",
    "Stored",
    "VariableMatrix",
    "Wanted",
    "axes_of",
    "flattened",
    "reading_of",
    "variable",
]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Wanted:
    """How a user wants an array to be read.

    Attributes
    ----------
    rows : sequence of str, str or None
        Dimensions that make the rows.
    fill : number or None
        Replaces missing values.
    raw : bool
        Whether to ignore the attributes and take the stored numbers.
    missing : Missing
        Rule for chunks that are not in the store.
    vectors : int or None
        Bytes that vectors may take; None if the matrix itself may never be multiplied.
    storage : dict or None
        Credentials and settings of a URL; see `bigspec.sources.storage_options`.
    """

    rows: Sequence[str] | str | None = None
    fill: complex | None = None
    raw: bool = False
    missing: Missing = field(default_factory=Missing)
    vectors: int | None = None
    storage: dict[str, Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse wishes that contradict each other."""
        if self.raw and self.fill is not None:
            msg = f"fill: expected none with raw, got {self.fill}: with raw no number is missing"
            raise ArgumentError(msg)


class Stored(Protocol):
    """An array in a store; each process opens it at its first read, so it pickles small."""

    @property
    def fill_value(self) -> Array:
        """The stored value of a missing chunk's entries, in an array without dimensions."""

    def read(self, selection: tuple[slice, ...], name: str, buffers: Buffers) -> Array:
        """Read a box of stored numbers in native byte order, with retries and named errors."""

    def chunk_at(self, place: tuple[int, ...]) -> str:
        """Name the chunk that holds an entry; empty if the store does not name chunks."""


@dataclass(frozen=True)
class Axis:
    """Dimensions of a variable that make the rows (or columns); the last varies fastest.

    Attributes
    ----------
    dims : tuple of int
        Their positions among the variable's dimensions.
    names : tuple of str
    sizes : tuple of int
    """

    dims: tuple[int, ...]
    names: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def extent(self) -> int:
        """Length of the flattened axis."""
        return math.prod(self.sizes)

    @property
    def cut(self) -> int:
        """The dimension that the grid cuts: the first that is longer than 1."""
        return next((i for i, size in enumerate(self.sizes) if size > 1), 0)

    @property
    def inner(self) -> int:
        """How far one step of that dimension goes on the flattened axis."""
        return math.prod(self.sizes[self.cut + 1 :])

    def grid(self, chunks: Sequence[int]) -> Grid:
        """Return a grid with its edges between chunks of the variable."""
        step = min(chunks[self.dims[self.cut]], self.sizes[self.cut])
        return Grid(self.extent, step * self.inner)

    def select(self, across: slice, selection: list[slice]) -> None:
        """Set the variable's slices that a range of the flattened axis stands for."""
        inner = self.inner
        for dim, size in zip(self.dims, self.sizes, strict=True):
            selection[dim] = slice(0, size)
        selection[self.dims[self.cut]] = slice(across.start // inner, -(-across.stop // inner))

    def places(self, position: int) -> tuple[int, ...]:
        """Return a position of the flattened axis as one index a dimension."""
        return tuple(int(place) for place in np.unravel_index(position, self.sizes))

    def place(self, position: int) -> str:
        """Name a position by its index in each dimension."""
        both = zip(self.names, self.places(position), strict=True)
        return ", ".join(f"{name}={place}" for name, place in both)


@dataclass(frozen=True)
class VariableMatrix(Matrix):
    """A variable as a matrix; a grid step is a chunk of the dimension that its axis cuts.

    Attributes
    ----------
    stored : Stored
    down, across : Axis
        The rows and the columns.
    packing : Packing
        How stored numbers become values, and which are missing.
    where, token : str
    reading : str
        The packing and axes, as the identity says them; empty for netCDF, whose token covers
        them.
    """

    stored: Stored = field(repr=False, compare=False)
    down: Axis
    across: Axis
    packing: Packing
    where: str
    token: str
    reading: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """Where, shape, dtype, chunks, how it is read, and a token of the source."""
        identity = {
            "where": self.where,
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "chunks": [grid.step for grid in self.grids],
            "token": self.token,
        }
        return identity | {"reading": self.reading} if self.reading else identity

    @property
    def missing_as(self) -> str:
        """The fill value, unpacked like any stored number."""
        values, missing = self.packing.unpack(self.stored.fill_value.reshape(1, 1), self.dtype)
        filled = missing is not None and bool(missing.all())
        return fill_text(self.packing.fill if filled else values[0, 0])

    def read(self, rows: slice, columns: slice, buffers: Buffers) -> Block:
        """Read a rectangle, unpacked, with `fill` where values are missing."""
        order = (*self.down.dims, *self.across.dims)
        selection = [slice(0)] * len(order)
        self.down.select(rows, selection)
        self.across.select(columns, selection)
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        box = self.stored.read(tuple(selection), self.name, buffers)
        stored = box.transpose(order).reshape(shape)
        values, missing = self.packing.unpack(stored, self.dtype)
        if missing is None:
            return values
        if self.packing.fill is None:
            row, column = np.unravel_index(int(np.argmax(missing)), shape)
            where = self._place(rows.start + int(row), columns.start + int(column))
            msg = (
                f"{self.name}: expected every entry to have a value, got a missing one "
                f"({stored[row, column]} as stored) at {where}; say what it counts as with "
                "fill= (--fill), such as 0"
            )
            raise DataError(msg)
        np.copyto(values, self.packing.fill, where=missing, casting="unsafe")
        return values

    def _place(self, row: int, column: int) -> str:
        return f"{self.down.place(row)}, {self.across.place(column)}"

    def chunk_at(self, row: int, column: int) -> str:
        """Name the place that holds an entry, and its chunk."""
        place = f"the place {self._place(row, column)}"
        dims = (*self.down.dims, *self.across.dims)
        there = dict(zip(dims, (*self.down.places(row), *self.across.places(column)), strict=True))
        chunk = self.stored.chunk_at(tuple(there[dim] for dim in sorted(there)))
        return f"{place} ({chunk})" if chunk else place


def variable(
    stored: Stored,
    name: str,
    dtype: np.dtype[Any],
    chunks: Sequence[int],
    axes: tuple[Axis, Axis],
    packing: Packing,
) -> VariableMatrix:
    """Return an array as a matrix; the caller sets its `where`, `token` and `reading`.

    Parameters
    ----------
    stored : Stored
    name : str
    dtype : numpy.dtype
        Type of the stored numbers.
    chunks : sequence of int
        Extents of a chunk, in the store's order of dimensions.
    axes : tuple of Axis
    packing : Packing
    """
    down, across = axes
    grids = (down.grid(chunks), across.grid(chunks))
    entries = down.extent * across.extent
    slab = min(grids[0].step * across.extent, entries) * max(8, dtype.itemsize)
    return VariableMatrix(
        (down.extent, across.extent),
        packing.dtype(dtype),
        name,
        grids,
        stored,
        down,
        across,
        packing,
        "",
        "",
        # For the stored numbers, the values, and the mask of missing ones.
        transient_nbytes=2 * max(slab, min(SLAB_BYTES, 8 * entries)),
    )


def reading_of(axes: tuple[Axis, Axis], packing: Packing) -> str:
    """Say how an array is read, for the identity of its matrix."""
    words = {
        "rows": ",".join(axes[0].names),
        "scale": packing.scale,
        "offset": packing.offset,
        "missing": ",".join(str(value) for value in packing.missing),
        "least": packing.least,
        "most": packing.most,
        "limits": "unpacked" if packing.unpacked_limits else None,
        "unsigned": packing.unsigned or None,
        "signed": packing.signed or None,
        "fill": packing.fill,
    }
    return " ".join(f"{key}={value}" for key, value in words.items() if value not in (None, ""))


def flattened(dims: tuple[str, ...], shape: tuple[int, ...], wanted: Wanted, name: str) -> None:
    """Refuse more than two dimensions unless the user says which make the rows.

    Raises
    ------
    DataError
    """
    if wanted.rows is None and len(shape) > 2:
        try:
            check_shape(shape, name)
        except DataError as error:
            msg = (
                f"{error}, or say which dimensions make the rows, such as rows={dims[:-1]!r} "
                f"(--rows {','.join(dims[:-1])})"
            )
            raise DataError(msg) from None


def _meant(rows: tuple[Any, ...], dims: tuple[str, ...]) -> str:
    """Ask whether the dimension was meant that a mistyped one is nearest to."""
    for word in map(str, rows):
        if word not in dims:
            lower = {dim.lower(): dim for dim in reversed(dims)}
            near = difflib.get_close_matches(word.lower(), list(lower), n=1, cutoff=0.6)
            return f"; did you mean {lower[near[0]]}?" if near else ""
    return ""


def axes_of(
    dims: tuple[str, ...], shape: tuple[int, ...], rows: Sequence[str] | str | None, name: str
) -> tuple[Axis, Axis]:
    """Return the axes of an array: its rows and its columns.

    Raises
    ------
    DataError
        It does not have two dimensions, and nobody says which make the rows.
    ArgumentError
        `rows` are not dimensions of the array.
    """
    # The dimensions of a covariance have the same name.
    dims = tuple(dim if dim not in dims[:i] else f"{dim}_{i}" for i, dim in enumerate(dims))
    listed = ", ".join(f"{dim} ({size})" for dim, size in zip(dims, shape, strict=True))
    if rows is None:
        if len(dims) > 2:
            pair = ",".join(dims[:-1])
            msg = (
                f"{name}: expected two dimensions, got {listed}; say which make the rows, such as "
                f"rows={tuple(dims[:-1])!r} (--rows {pair})"
            )
            raise DataError(msg)
        check_shape(shape, name)
        rows = dims[:1]
    rows = (rows,) if isinstance(rows, str) else tuple(rows)
    if not rows or len(set(rows)) != len(rows) or not set(rows) < set(dims):
        msg = (
            f"rows: expected some of the dimensions of {name}, each once and not all of them: "
            f"{listed}; got {', '.join(map(str, rows)) or 'none'}{_meant(rows, dims)}"
        )
        raise ArgumentError(msg)
    down = tuple(dims.index(dim) for dim in rows)
    across = tuple(i for i in range(len(dims)) if i not in down)
    axes = [
        Axis(places, tuple(dims[i] for i in places), tuple(shape[i] for i in places))
        for places in (down, across)
    ]
    check_shape((axes[0].extent, axes[1].extent), name)
    return axes[0], axes[1]
