"""netCDF variables: classic through SciPy, netCDF-4 through h5netcdf, read in rectangles.

`bigspec.sources.variable` makes matrices of variables.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bigspec.errors import BigspecError, MissingSourceError, SourceError, needs
from bigspec.kernels.buffers import Buffers
from bigspec.sources import retries
from bigspec.sources.checks import check_dtype
from bigspec.sources.classic_netcdf import classic_variables
from bigspec.sources.hdf5_allocation import Allocation
from bigspec.sources.hdf5_filters import check_chunks
from bigspec.sources.hdf5_parts import Parts, final_failures, parts_at
from bigspec.sources.missing_chunks import Missing, stored_fill
from bigspec.sources.packing import RAW, packing_of
from bigspec.sources.variable import VariableMatrix, Wanted, axes_of, variable

__all__ = ["CLASSIC", "ENDINGS", "chosen", "is_netcdf", "open_netcdf"]

ENDINGS = (".nc", ".nc4", ".netcdf", ".cdf")
CLASSIC, WIDE = (b"CDF\x01", b"CDF\x02"), b"CDF\x05"


def is_netcdf(path: Path) -> bool:
    """Whether a local file is netCDF: by its first bytes, its name or the mark of a writer."""
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
        return False  # opening it as HDF5 raises the right error


class VariableHandle:
    """A variable of a file that is opened in the process that first reads it."""

    def __init__(self, path: str, inside: str, missing: Missing) -> None:
        self.path, self.inside, self.missing = path, inside, missing
        self.allocation = Allocation(missing)
        self.checked: set[tuple[int, ...]] = set()
        self._file: Any = None  # h5netcdf's variables hold it weakly
        self._variable: Any = None
        self._parts = Parts()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[VariableHandle], tuple[str, str, Missing]]:
        return (VariableHandle, (self.path, self.inside, self.missing))

    def open(self) -> Any:
        """Return the variable: sliced by a tuple, it gives an array."""
        with self._lock:
            if self._variable is None:
                if not Path(self.path).exists():
                    msg = f"{self.path}: this process does not see it; every worker must reach it"
                    raise MissingSourceError(msg)
                self._file, variables = _variables(Path(self.path), self.path)
                self._parts = parts_at(self.path, self.inside, self.path)
                self._variable = variables[self.inside]
            return self._variable

    @property
    def fill_value(self) -> np.ndarray[Any, Any]:
        """The value of a chunk that was never written; classic files have no chunks."""
        variable = self.open()
        fill = getattr(getattr(variable, "_h5ds", None), "fillvalue", 0)
        return stored_fill(fill, np.dtype(variable.dtype))

    def read(
        self, selection: tuple[slice, ...], name: str, buffers: Buffers
    ) -> np.ndarray[Any, Any]:
        """Read a box of stored numbers."""

        def read() -> np.ndarray[Any, Any]:
            variable = self.open()
            check_chunks(getattr(variable, "_h5ds", None), selection, self.checked)
            with final_failures(name, self.inside):
                held = np.asarray(variable[selection])
                self.allocation.count(getattr(variable, "_h5ds", None), selection, name, buffers)
            # A view of a classic file is copied: it would dangle once the file is closed.
            return np.array(held, dtype=held.dtype.newbyteorder("="))

        try:
            block = retries.with_retries(read, buffers)
        except Exception as error:
            place = ", ".join(f"{s.start}:{s.stop}" for s in selection)
            raise retries.named_failure(error, name, f"[{place}]") from error
        self._parts.check_still(name)
        return block

    def chunk_at(self, place: tuple[int, ...]) -> str:
        """Return nothing: netCDF has no names for chunks."""
        return ""


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
            msg = f"{name}: {needs('netCDF-4', 'netcdf', 'h5netcdf', 'h5py')}"
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


def open_netcdf(path: Path, inside: str, name: str, wanted: Wanted) -> VariableMatrix:
    """Open a variable; no value is read.

    Parameters
    ----------
    path : Path
    inside : str
        Path of the variable in the file; empty for the only one that can be a matrix.
    name : str
        Its name in messages.
    wanted : Wanted
        Without `fill`, a missing value is an error when it is read.

    Raises
    ------
    SourceError, MissingSourceError
        It is not netCDF, or there is no such variable; the message lists the contents.
    ArgumentError
        `rows` are not dimensions of it, `fill` is not of its type.
    DataError, UnsupportedTypeError
    """
    _file, variables = _variables(path, name)
    inside = chosen(variables, inside, name)
    held = variables[inside]
    dtype = check_dtype(np.dtype(held.dtype), name).newbyteorder("=")
    shape = tuple(int(size) for size in held.shape)
    axes = axes_of(tuple(held.dimensions), shape, wanted.rows, name)
    read = RAW if wanted.raw else packing_of(held.attrs, dtype, name, netcdf=True)
    packing = read.filled(wanted.fill, dtype, name)
    chunks = held.chunks or (1,) * len(shape)
    parts = parts_at(str(path), inside, name)
    status = path.stat()
    evidence = repr((status.st_size, status.st_mtime_ns, shape, str(dtype), *axes, packing))
    evidence += parts.evidence
    return replace(
        variable(
            VariableHandle(str(path), inside, wanted.missing), name, dtype, chunks, axes, packing
        ),
        where=f"{path}::{inside}",
        token=hashlib.sha256(evidence.encode()).hexdigest()[:32],
    )


def chosen(variables: dict[str, Any], inside: str, name: str) -> str:
    """Return the path of the variable that is asked for, or of the only one that is a matrix.

    Raises
    ------
    MissingSourceError, SourceError
        The message lists the contents.
    """
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
