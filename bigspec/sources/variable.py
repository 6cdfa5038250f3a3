"""Arrays that become matrices: which dimensions make the rows, and how stored numbers are read.

A netCDF variable, a Zarr array or an HDF5 dataset, of any number of dimensions, read in
rectangles of whole chunks and unpacked; see `bigspec.sources.packing`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from bigspec.errors import ArgumentError, DataError
from bigspec.kernels.buffers import Buffers
from bigspec.matrices import SLAB_BYTES, Block, Grid, Matrix
from bigspec.sources.checks import check_shape
from bigspec.sources.missing import Missing, fill_text
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
    """What a user said about how an array is to be read.

    Attributes
    ----------
    rows : sequence of str, str or None
        Dimensions that make the rows.
    fill : number or None
        Taken for missing values.
    raw : bool
        Take the stored numbers, whatever the attributes say.
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
        """Refuse what contradicts itself."""
        if self.raw and self.fill is not None:
            msg = "fill: expected only without raw, for stored numbers have no missing values"
            raise ArgumentError(msg)


class Stored(Protocol):
    """An array in a store, opened in the process that first reads it; pickles small."""

    @property
    def fill_value(self) -> Array:
        """What a chunk that is not there holds, as stored; of no dimension."""

    def read(self, selection: tuple[slice, ...], name: str, buffers: Buffers) -> Array:
        """Read a box of stored numbers in native byte order, with retries and named errors."""

    def chunk_at(self, place: tuple[int, ...]) -> str:
        """Name the chunk that holds an entry; empty if the store has no names for them."""


@dataclass(frozen=True)
class Axis:
    """Dimensions of a variable that make the rows, or the columns, in the order they count.

    Attributes
    ----------
    dims : tuple of int
        Their places among the variable's dimensions.
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
        """The dimension along which it is cut: the first that is longer than 1."""
        return next((i for i, size in enumerate(self.sizes) if size > 1), 0)

    @property
    def inner(self) -> int:
        """Positions of the flattened axis for each of that dimension."""
        return math.prod(self.sizes[self.cut + 1 :])

    def grid(self, chunks: Sequence[int]) -> Grid:
        """Cut between chunks of the variable."""
        step = min(chunks[self.dims[self.cut]], self.sizes[self.cut])
        return Grid(self.extent, step * self.inner)

    def select(self, across: slice, selection: list[slice]) -> None:
        """Set what a range of the flattened axis means for the variable's dimensions."""
        inner = self.inner
        for dim, size in zip(self.dims, self.sizes, strict=True):
            selection[dim] = slice(0, size)
        selection[self.dims[self.cut]] = slice(across.start // inner, -(-across.stop // inner))

    def places(self, position: int) -> tuple[int, ...]:
        """Return where a position lies in each of its dimensions."""
        return tuple(int(place) for place in np.unravel_index(position, self.sizes))

    def place(self, position: int) -> str:
        """Say where a position lies, dimension by dimension."""
        both = zip(self.names, self.places(position), strict=True)
        return ", ".join(f"{name}={place}" for name, place in both)


@dataclass(frozen=True)
class VariableMatrix(Matrix):
    """A variable as a matrix; grid steps are chunks of one dimension of each axis.

    Attributes
    ----------
    stored : Stored
    down, across : Axis
        What makes the rows and the columns.
    packing : Packing
        How stored values become values, and which are missing.
    where, token : str
    reading : str
        What of `packing` and the axes is not plain, for the identity; empty for netCDF, whose
        token holds it.
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
        """Where, shape, dtype, chunks, how it is read, and a token of what lies there."""
        held = {
            "where": self.where,
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "chunks": [grid.step for grid in self.grids],
            "token": self.token,
        }
        return held | {"reading": self.reading} if self.reading else held

    @property
    def missing_as(self) -> str:
        """The fill value, unpacked as other stored numbers are."""
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
                f"({stored[row, column]} as stored) at {where}; say what to take for it with "
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
    """Return an array as a matrix that has yet no `where`, `token` or `reading`.

    Parameters
    ----------
    stored : Stored
    name : str
    dtype : numpy.dtype
        As stored.
    chunks : sequence of int
        Extents of what the store reads as a whole, in its own order of dimensions.
    axes : tuple of Axis
    packing : Packing
    """
    down, across = axes
    grids = (down.grid(chunks), across.grid(chunks))
    entries = down.extent * across.extent
    piece = min(grids[0].step * across.extent, entries) * max(8, dtype.itemsize)
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
        # As stored, as unpacked, and which are missing.
        transient_nbytes=2 * max(piece, min(SLAB_BYTES, 8 * entries)),
    )


def reading_of(axes: tuple[Axis, Axis], packing: Packing) -> str:
    """Say how an array is read, for the identity of its matrix."""
    said = {
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
    return " ".join(f"{key}={value}" for key, value in said.items() if value not in (None, ""))


def flattened(dims: tuple[str, ...], shape: tuple[int, ...], wanted: Wanted, name: str) -> None:
    """Refuse an array of more than two dimensions unless it is said which make the rows.

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


def axes_of(
    dims: tuple[str, ...], shape: tuple[int, ...], rows: Sequence[str] | str | None, name: str
) -> tuple[Axis, Axis]:
    """Return what makes the rows and the columns of an array.

    Raises
    ------
    DataError
        It has other than two dimensions, and nothing says which make the rows.
    ArgumentError
        `rows` are not dimensions of it.
    """
    # A covariance has the same dimension twice.
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
            f"{listed}; got {', '.join(map(str, rows)) or 'none'}"
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
