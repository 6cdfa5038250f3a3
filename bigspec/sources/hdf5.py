"""HDF5: dense datasets, AnnData's sparse groups and 10x's, read in ranges through h5py."""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bigspec.errors import BigspecError, MissingSourceError, SourceError
from bigspec.kernels.buffers import Buffers
from bigspec.matrices import Block, Grid, Matrix
from bigspec.sources import retries
from bigspec.sources.checks import check_dtype, check_shape
from bigspec.sources.hdf5_filters import check_chunks
from bigspec.sources.locations import open_failure

if TYPE_CHECKING:
    import h5py

__all__ = ["HDF5Matrix", "HDF5Vector", "is_hdf5", "open_hdf5"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SMALL_STEP = 64  # rows that a contiguous dataset is cut by


def is_hdf5(path: Path) -> bool:
    """Whether a local file begins as HDF5 does."""
    try:
        with path.open("rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


class DatasetHandle:
    """A dataset of a file that is opened in the process that first reads it."""

    def __init__(self, path: str, inside: str) -> None:
        self.path, self.inside = path, inside
        self.checked: set[tuple[int, ...]] = set()
        self._dataset: Any = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[DatasetHandle], tuple[str, str]]:
        return (DatasetHandle, (self.path, self.inside))

    def open(self) -> h5py.Dataset:
        """Return the dataset."""
        with self._lock:
            if self._dataset is None:
                self._dataset = _file(self.path, self.path)[self.inside]
            return self._dataset


def _file(path: str, name: str) -> h5py.File:
    try:
        import h5py
    except ImportError as error:
        msg = f'{name}: HDF5 files need h5py, which is not here; pip install "bigspec[hdf5]"'
        raise SourceError(msg) from error
    try:
        return h5py.File(path, "r")
    except FileNotFoundError as error:
        msg = f"{name}: this process does not see it; every worker must reach the same path"
        raise MissingSourceError(msg) from error
    except OSError as error:
        msg = f"{name}: expected an HDF5 file, got one that h5py cannot open ({error})"
        raise SourceError(msg) from error


def _read(handle: DatasetHandle, name: str, selection: Any, block: Any, buffers: Buffers) -> None:
    """Read a selection into `block`, with retries and named errors."""
    if block.size == 0:
        return

    def read() -> None:
        dataset = handle.open()
        check_chunks(dataset, selection, handle.checked)
        dataset.read_direct(block, selection)

    try:
        retries.with_retries(read, buffers)
    except Exception as error:
        place = ", ".join(f"{s.start}:{s.stop}" for s in selection)
        raise retries.named_failure(error, name, f"[{place}] of {handle.inside}") from error


@dataclass(frozen=True)
class HDF5Vector:
    """A 1-D dataset, part of a sparse matrix, read in ranges; see `ZarrVector`."""

    handle: DatasetHandle
    length: int
    chunk: int
    dtype: np.dtype[Any]
    name: str
    where: str
    token: str
    resident: bool = False

    @classmethod
    def of(cls, dataset: h5py.Dataset, name: str) -> HDF5Vector:
        """Wrap an open dataset."""
        path = str(dataset.file.filename)
        return cls(
            DatasetHandle(path, dataset.name),
            int(dataset.shape[0]),
            int(dataset.chunks[0]) if dataset.chunks else 1,
            np.dtype(dataset.dtype),
            name,
            f"{path}::{dataset.name}",
            _token(dataset),
        )

    def __len__(self) -> int:
        return self.length

    @property
    def chunk_nbytes(self) -> int:
        """Bytes of a decoded chunk."""
        return self.chunk * self.dtype.itemsize

    def read(self, start: int, stop: int, buffers: Buffers, scratch: str) -> np.ndarray[Any, Any]:
        """Read a range into the buffer called `scratch`."""
        block = buffers.take(scratch, (max(stop - start, 0),), self.dtype)
        _read(self.handle, self.name, (slice(start, stop),), block, buffers)
        return block


@dataclass(frozen=True)
class HDF5Matrix(Matrix):
    """A dense 2-D dataset; grid steps are its chunks, or some rows of a contiguous one.

    Attributes
    ----------
    handle : DatasetHandle
    where, token : str
    """

    handle: DatasetHandle = field(repr=False, compare=False)
    where: str
    token: str

    @property
    def identity(self) -> dict[str, Any]:
        """Where, shape, dtype, chunks, and a token of the file's size and time of modification."""
        return {
            "where": self.where,
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "chunks": [grid.step for grid in self.grids],
            "token": self.token,
        }

    def read(self, rows: slice, columns: slice, buffers: Buffers) -> Block:
        """Read a rectangle into `buffers`."""
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        block = buffers.take("source.block", shape, self.dtype)
        _read(self.handle, self.name, (rows, columns), block, buffers)
        return block


def open_hdf5(path: Path, inside: str, name: str) -> Matrix | tuple[Any, str]:
    """Open what lies at `inside`, or, if that is empty, the one matrix that the file is about.

    Returns
    -------
    Matrix, or the sparse group (h5py.Group) and its name

    Raises
    ------
    SourceError, MissingSourceError
        Nothing there, or no matrix; the message says what is.
    DataError, UnsupportedTypeError
    """
    try:
        file = _file(str(path), name)
        inside = inside or ("" if "binsparse" in file.attrs else _only(file))
        node = file.get(inside) if inside else file
    except BigspecError:
        raise
    except Exception as error:
        raise open_failure(error, name) from error
    if node is None:
        msg = f"{name}: nothing lies at {inside!r}; the file holds {_listed(file)}"
        raise MissingSourceError(msg)
    if hasattr(node, "dtype"):
        return _dense(node, name)
    if not _sparse(node):
        msg = (
            f"{name}: expected a matrix, got a group; the file holds {_listed(file)}. Point at one "
            f"with '::', as in {path.name}::/X"
        )
        raise SourceError(msg)
    return node, name


def _sparse(group: h5py.Group) -> bool:
    parts = {"data", "indices", "indptr"}
    return "binsparse" in group.attrs or (group.name != "/" and parts <= set(group))


def _only(file: h5py.File) -> str:
    """Return the place of AnnData's X, 10x's matrix, or the only dataset."""
    for usual in ("X", "matrix"):
        if usual in file:
            return usual
    return next(iter(file)) if len(file) == 1 else ""


def _listed(file: h5py.File) -> str:
    found: list[str] = []

    def note(path: str, node: Any) -> bool | None:
        if hasattr(node, "shape") and len(node.shape) == 2:
            found.append(f"/{path} {node.shape} {node.dtype}")
        elif hasattr(node, "keys") and _sparse(node):
            found.append(f"/{path} (sparse)")
        return True if len(found) >= 10 else None  # ends the visit

    file.visititems(note)
    return "; ".join(found) if found else "no matrices"


def _dense(dataset: h5py.Dataset, name: str) -> HDF5Matrix:
    dtype = check_dtype(np.dtype(dataset.dtype), name)
    shape = check_shape(dataset.shape, name)
    steps = dataset.chunks or (SMALL_STEP, shape[1])
    grids = (Grid(shape[0], min(steps[0], shape[0])), Grid(shape[1], min(steps[1], shape[1])))
    path = str(dataset.file.filename)
    return HDF5Matrix(
        shape,
        dtype,
        name,
        grids,
        DatasetHandle(path, dataset.name),
        f"{path}::{dataset.name}",
        _token(dataset),
        transient_nbytes=int(np.prod(steps)) * dtype.itemsize,
    )


def _token(dataset: h5py.Dataset) -> str:
    status = os.stat(dataset.file.filename)  # noqa: PTH116
    evidence = repr((status.st_size, status.st_mtime_ns, dataset.shape, str(dataset.dtype)))
    return hashlib.sha256(evidence.encode()).hexdigest()[:32]
