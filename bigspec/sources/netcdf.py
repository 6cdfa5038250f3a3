"""netCDF variables: classic through SciPy, netCDF-4 through h5netcdf, read in rectangles.

A variable of more than two dimensions becomes a matrix by saying which of them make the rows.
Values are unpacked and their absence is seen as the CF conventions say (sections 2.5.1 and 8.1).
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bigspec.errors import (
    ArgumentError,
    BigspecError,
    DataError,
    MissingSourceError,
    SourceError,
)
from bigspec.kernels.buffers import Buffers
from bigspec.matrices import SLAB_BYTES, Block, Grid, Matrix
from bigspec.sources import retries
from bigspec.sources.checks import check_dtype, check_shape
from bigspec.sources.classic_netcdf import classic_variables
from bigspec.sources.hdf5_filters import check_chunks
from bigspec.sources.packing import Packing, packing_of

__all__ = ["NetCDFMatrix", "is_netcdf", "open_netcdf"]

ENDINGS = (".nc", ".nc4", ".netcdf", ".cdf")
CLASSIC, WIDE = (b"CDF\x01", b"CDF\x02"), b"CDF\x05"


def is_netcdf(path: Path) -> bool:
    """Whether a local file is netCDF: by its first bytes, its name or the mark writers leave."""
    try:
        with path.open("rb") as file:
            begin = file.read(8)
    except OSError:
        return False
    if begin[:4] in (*CLASSIC, WIDE):
        return True
    if begin != b"\x89HDF\r\n\x1a\n":
        return False
    return path.name.endswith(ENDINGS) or _marked(path)


def _marked(path: Path) -> bool:
    try:
        import h5py

        with h5py.File(path, "r") as file:
            return "_NCProperties" in file.attrs
    except (ImportError, OSError):
        return False  # the HDF5 door says what is wrong with it


class VariableHandle:
    """A variable of a file that is opened in the process that first reads it."""

    def __init__(self, path: str, inside: str) -> None:
        self.path, self.inside = path, inside
        self.checked: set[tuple[int, ...]] = set()
        self._file: Any = None  # h5netcdf's variables hold it weakly
        self._variable: Any = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[VariableHandle], tuple[str, str]]:
        return (VariableHandle, (self.path, self.inside))

    def open(self) -> Any:
        """Return the variable: sliced by a tuple, it gives an array."""
        with self._lock:
            if self._variable is None:
                if not Path(self.path).exists():
                    msg = f"{self.path}: this process does not see it; every worker must reach it"
                    raise MissingSourceError(msg)
                self._file, variables = _variables(Path(self.path), self.path)
                self._variable = variables[self.inside]
            return self._variable


def _variables(path: Path, name: str) -> tuple[Any, dict[str, Any]]:
    """Return the open file, and all its variables by their paths, those of groups included."""
    with path.open("rb") as file:
        begin = file.read(4)
    if begin == WIDE:
        msg = f"{name}: expected netCDF-4 or classic netCDF, got CDF-5; convert it: nccopy -k nc4"
        raise SourceError(msg)
    try:
        if begin in CLASSIC:
            return None, {f"/{key}": held for key, held in classic_variables(path).items()}
        try:
            import h5netcdf
        except ImportError as error:
            msg = f'{name}: netCDF-4 needs h5netcdf, not here; pip install "bigspec[netcdf]"'
            raise SourceError(msg) from error
        opened = h5netcdf.File(path, "r", phony_dims="sort")
        return opened, _in_groups(opened)
    except BigspecError:
        raise
    except PermissionError as error:
        msg = f"{name}: this process may not read it ({error}); check the permissions"
        raise SourceError(msg) from error
    except Exception as error:
        msg = f"{name}: expected a netCDF file, got one that cannot be opened ({error!r})"
        raise SourceError(msg) from error


def _in_groups(group: Any, path: str = "") -> dict[str, Any]:
    found = {f"{path}/{name}": variable for name, variable in group.variables.items()}
    for name, inner in group.groups.items():
        found |= _in_groups(inner, f"{path}/{name}")
    return found


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

    def place(self, position: int) -> str:
        """Say where a position lies, dimension by dimension."""
        places = np.unravel_index(position, self.sizes)
        return ", ".join(f"{name}={int(p)}" for name, p in zip(self.names, places, strict=True))


@dataclass(frozen=True)
class NetCDFMatrix(Matrix):
    """A variable as a matrix; grid steps are chunks of one dimension of each axis.

    Attributes
    ----------
    handle : VariableHandle
    down, across : Axis
        What makes the rows and the columns.
    packing : Packing
        How stored values become values, and which are missing.
    where, token : str
    """

    handle: VariableHandle = field(repr=False, compare=False)
    down: Axis
    across: Axis
    packing: Packing
    where: str
    token: str

    @property
    def identity(self) -> dict[str, Any]:
        """Where, shape, dtype, chunks, and a token of the file's size, time and reading."""
        return {
            "where": self.where,
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "chunks": [grid.step for grid in self.grids],
            "token": self.token,
        }

    def read(self, rows: slice, columns: slice, buffers: Buffers) -> Block:
        """Read a rectangle, unpacked, with `fill` where values are missing."""
        order = (*self.down.dims, *self.across.dims)
        selection = [slice(0)] * len(order)
        self.down.select(rows, selection)
        self.across.select(columns, selection)
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        stored = self._stored(tuple(selection), buffers).transpose(order).reshape(shape)
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

    def _stored(self, selection: tuple[slice, ...], buffers: Buffers) -> np.ndarray[Any, Any]:
        def read() -> np.ndarray[Any, Any]:
            variable = self.handle.open()
            check_chunks(getattr(variable, "_h5ds", None), selection, self.handle.checked)
            held = np.asarray(variable[selection])
            # A view of a classic file is copied: once the file goes, it would point nowhere.
            return np.array(held, dtype=held.dtype.newbyteorder("="))

        try:
            return retries.with_retries(read, buffers)
        except Exception as error:
            place = ", ".join(f"{s.start}:{s.stop}" for s in selection)
            raise retries.named_failure(error, self.name, f"[{place}]") from error

    def _place(self, row: int, column: int) -> str:
        return f"{self.down.place(row)}, {self.across.place(column)}"

    def chunk_at(self, row: int, column: int) -> str:
        """Name the place that holds an entry."""
        return f"the place {self._place(row, column)}"


def open_netcdf(
    path: Path, inside: str, name: str, rows: Sequence[str] | str | None, fill: complex | None
) -> NetCDFMatrix:
    """Open a variable; no value is read.

    Parameters
    ----------
    path : Path
    inside : str
        Path of the variable in the file; empty if the file has only one that can be a matrix.
    name : str
        What messages call it.
    rows : sequence of str, optional
        Dimensions that make the rows, in this order; the others make the columns, in theirs.
        Needed unless the variable has two.
    fill : number, optional
        Taken for missing values; without it a missing value is an error once it is read.

    Raises
    ------
    SourceError, MissingSourceError
        No netCDF, no such variable; the message says what is there.
    ArgumentError
        `rows` are not dimensions of it, `fill` is not of its type.
    DataError, UnsupportedTypeError
    """
    _file, variables = _variables(path, name)
    inside = _chosen(variables, inside, name)
    variable = variables[inside]
    dtype = check_dtype(np.dtype(variable.dtype), name).newbyteorder("=")
    shape = tuple(int(size) for size in variable.shape)
    down, across = _axes(tuple(variable.dimensions), shape, rows, name)
    packing = packing_of(variable, dtype, fill, name)
    unpacked = packing.dtype(dtype)
    chunks = variable.chunks or (1,) * len(shape)
    grids = (down.grid(chunks), across.grid(chunks))
    status = path.stat()
    evidence = repr((status.st_size, status.st_mtime_ns, shape, str(dtype), down, across, packing))
    piece = min(grids[0].step * across.extent, math.prod(shape)) * max(8, dtype.itemsize)
    return NetCDFMatrix(
        (down.extent, across.extent),
        unpacked,
        name,
        grids,
        VariableHandle(str(path), inside),
        down,
        across,
        packing,
        f"{path}::{inside}",
        hashlib.sha256(evidence.encode()).hexdigest()[:32],
        # As stored, as unpacked, and which are missing.
        transient_nbytes=2 * max(piece, min(SLAB_BYTES, 8 * math.prod(shape))),
    )


def _chosen(variables: dict[str, Any], inside: str, name: str) -> str:
    wide = {key: held for key, held in variables.items() if len(held.dimensions) >= 2}
    listed = "; ".join(
        f"{key} ({', '.join(map(str, held.dimensions))}) {tuple(held.shape)}"
        for key, held in list(wide.items())[:10]
    )
    if inside:
        key = "/" + inside.strip("/")
        if key not in variables:
            msg = f"{name}: no variable lies at {key!r}; the file holds {listed or 'no matrices'}"
            raise MissingSourceError(msg)
        return key
    if len(wide) != 1:
        best = next(iter(wide), "/X")
        msg = (
            f"{name}: expected one variable of two or more dimensions, got {len(wide)}: "
            f"{listed or 'no matrices'}. Point at one with '::', as in {name}::{best}"
        )
        raise SourceError(msg)
    return next(iter(wide))


def _axes(
    dims: tuple[str, ...], shape: tuple[int, ...], rows: Sequence[str] | str | None, name: str
) -> tuple[Axis, Axis]:
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
