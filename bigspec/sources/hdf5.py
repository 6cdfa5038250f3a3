"""HDF5: dense datasets, AnnData's sparse groups and 10x's, read in ranges through h5py."""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bigspec.errors import DataError, MissingSourceError, SourceError, needs
from bigspec.kernels.buffers import Buffers
from bigspec.matrices import Block, Grid, Matrix
from bigspec.sources import retries
from bigspec.sources.checks import check_dtype, check_shape
from bigspec.sources.hdf5_allocation import Allocation
from bigspec.sources.hdf5_filters import check_chunks
from bigspec.sources.hdf5_parts import SIGNATURE, Parts, final_failures, parts_of, readable
from bigspec.sources.missing_chunks import Missing, fill_text, stored_fill
from bigspec.sources.packing import RAW, packing_of
from bigspec.sources.variable import Wanted, axes_of, flattened, reading_of, variable

if TYPE_CHECKING:
    import h5py

__all__ = [
    "DatasetHandle",
    "HDF5Matrix",
    "HDF5Vector",
    "dims_of",
    "is_hdf5",
    "is_turned",
    "node_in",
    "open_file_hdf5",
    "open_hdf5",
]

SMALL_STEP = 64  # rows that a contiguous dataset is cut by
MOST_HEADERS = 12  # sizes of a header to try: 512 bytes to 1 MiB


def is_hdf5(path: Path) -> bool:
    """Whether a local file has HDF5's signature, at 0 or behind a header of 512 bytes or more.

    MATLAB writes a header of 512 bytes.
    """
    try:
        with path.open("rb") as file:
            for at in (0, *(512 << k for k in range(MOST_HEADERS))):
                file.seek(at)
                if file.read(len(SIGNATURE)) == SIGNATURE:
                    return True
    except OSError:
        pass
    return False


class DatasetHandle:
    """A dataset of a file that is opened in the process that first reads it.

    Attributes
    ----------
    path, inside : str
    missing : Missing
        Rule for chunks that were never written.
    parts : Parts
        Other files with entries of it, once it is open.
    """

    def __init__(self, path: str, inside: str, missing: Missing) -> None:
        self.path, self.inside, self.missing = path, inside, missing
        self.allocation = Allocation(missing)
        self.checked: set[tuple[int, ...]] = set()
        self.parts = Parts()
        self._dataset: Any = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[DatasetHandle], tuple[str, str, Missing]]:
        return (DatasetHandle, (self.path, self.inside, self.missing))

    def open(self) -> h5py.Dataset:
        """Return the dataset; the first call in a process checks that all of it is there."""
        with self._lock:
            if self._dataset is None:
                with readable(self.path, self.inside):
                    dataset = open_file_hdf5(self.path, self.path)[self.inside]
                    self.parts = parts_of(dataset, self.path)
                self._dataset = dataset
            return self._dataset

    @property
    def fill_value(self) -> np.ndarray[Any, Any]:
        """The value of a chunk that was never written."""
        dataset = self.open()
        return stored_fill(dataset.fillvalue, dataset.dtype)

    def read(
        self, selection: tuple[slice, ...], name: str, buffers: Buffers
    ) -> np.ndarray[Any, Any]:
        """Read a box into `buffers`, in native byte order."""
        shape = tuple(across.stop - across.start for across in selection)
        dtype = np.dtype(self.open().dtype).newbyteorder("=")
        block = buffers.take("source.block", shape, dtype)
        _read(self, name, selection, block, buffers)
        return block

    def chunk_at(self, place: tuple[int, ...]) -> str:
        """Return nothing: HDF5 has no names for chunks."""
        return ""


def open_file_hdf5(path: str, name: str) -> h5py.File:
    """Open a file for reading.

    Raises
    ------
    SourceError, MissingSourceError
        h5py is missing, or the file is, or it is not HDF5.
    """
    try:
        import h5py
    except ImportError as error:
        msg = f"{name}: {needs('HDF5', 'hdf5', 'h5py')}"
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

    place = ", ".join(f"{s.start}:{s.stop}" for s in selection)
    place = f"[{place}] of {handle.inside}"

    def read() -> None:
        dataset = handle.open()
        check_chunks(dataset, selection, handle.checked)
        with final_failures(name, place):
            dataset.read_direct(block, selection)
            handle.allocation.count(dataset, selection, name, buffers)

    try:
        retries.with_retries(read, buffers)
    except Exception as error:
        raise retries.named_failure(error, name, place) from error
    handle.parts.check_still(name)


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
    def of(cls, dataset: h5py.Dataset, name: str, missing: Missing | None = None) -> HDF5Vector:
        """Wrap an open dataset."""
        path = str(dataset.file.filename)
        return cls(
            DatasetHandle(path, dataset.name, missing or Missing()),
            int(dataset.shape[0]),
            int(dataset.chunks[0]) if dataset.chunks else 1,
            np.dtype(dataset.dtype),
            name,
            f"{path}::{dataset.name}",
            _token(dataset, name),
        )

    def __len__(self) -> int:
        return self.length

    @property
    def missing_as(self) -> str:
        """The fill value."""
        return fill_text(self.handle.fill_value[()])

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

    @property
    def missing_as(self) -> str:
        """The fill value."""
        return fill_text(self.handle.fill_value[()])

    def read(self, rows: slice, columns: slice, buffers: Buffers) -> Block:
        """Read a rectangle into `buffers`."""
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        block = buffers.take("source.block", shape, self.dtype)
        _read(self.handle, self.name, (rows, columns), block, buffers)
        return block


def open_hdf5(path: Path, inside: str, name: str, wanted: Wanted) -> Matrix | tuple[Any, str]:
    """Open the matrix at `inside`, or, if that is empty, the one main matrix of the file.

    Returns
    -------
    Matrix, or the sparse group (h5py.Group) and its name

    Raises
    ------
    SourceError, MissingSourceError
        There is no matrix, or a part of it is missing; the message lists the contents.
    ArgumentError
        `rows` are not dimensions of it, `fill` is not of its type.
    DataError, UnsupportedTypeError, ChunkError
    """
    file = open_file_hdf5(str(path), name)
    node = node_in(file, inside, name, path.name)
    if not _is_dataset(node):
        return node, name
    with readable(name, node.name):
        matrix = _dense(node, name, wanted)
    return replace(matrix.H, name=name) if is_turned(node, wanted) else matrix


def is_turned(dataset: h5py.Dataset, wanted: Wanted) -> bool:
    """Whether rows in the file are columns: MATLAB counts columns first."""
    return "MATLAB_class" in dataset.attrs and len(dataset.shape) == 2 and wanted.rows is None


def node_in(file: h5py.File, inside: str, name: str, label: str) -> h5py.Dataset | h5py.Group:
    """Return the dataset or the sparse group at `inside`, or the one main matrix of a file.

    Parameters
    ----------
    file : h5py.File
    inside, name : str
        See `open_hdf5`.
    label : str
        Name of the file in an example.

    Raises
    ------
    SourceError, MissingSourceError
        There is no matrix; the message lists the contents.
    """
    with readable(name, inside or "its root"):
        inside = inside or ("" if "binsparse" in file.attrs else _only(file))
        node = file.get(inside) if inside else file
    if node is None:
        msg = f"{name}: {_nothing(file, inside)}; the file holds {_listed(file)}"
        raise MissingSourceError(msg)
    if _is_dataset(node) or _sparse(node):
        return node
    kind = "group" if hasattr(node, "keys") else "type"
    msg = (
        f"{name}: expected a matrix, got a {kind}; the file holds "
        f"{_listed(file)}. Point at one with '::', as in {label}::/X"
    )
    raise SourceError(msg)


def _nothing(file: h5py.File, inside: str) -> str:
    link = file.get(inside, getlink=True)
    if not hasattr(link, "path"):
        return f"nothing lies at {inside!r}"
    target = f"{getattr(link, 'filename', '')}::{link.path}".removeprefix("::")
    return f"{inside!r} is a link to {target}, which is not there"


def _is_dataset(node: Any) -> bool:
    import h5py

    return isinstance(node, h5py.Dataset)


def _sparse(node: Any) -> bool:
    """Whether a node is a group with the parts of a sparse matrix; a named type is not."""
    if not hasattr(node, "keys"):
        return False
    parts = {"data", "indices", "indptr"}
    if "MATLAB_sparse" in node.attrs:
        return True
    return "binsparse" in node.attrs or (node.name != "/" and parts <= set(node))


def _only(file: h5py.File) -> str:
    """Return the place of AnnData's X, 10x's matrix, or the only dataset (#refs# is MATLAB's)."""
    for usual in ("X", "matrix"):
        if usual in file:
            return usual
    names = [name for name in file if not name.startswith("#")]
    return names[0] if len(names) == 1 else ""


def _listed(file: h5py.File) -> str:
    found: list[str] = []

    def note(path: str, node: Any) -> bool | None:
        if _is_dataset(node) and len(node.shape or ()) >= 2:
            found.append(f"/{path} {node.shape} {node.dtype}")
        elif _sparse(node):
            found.append(f"/{path} (sparse)")
        return True if len(found) >= 10 else None  # ends the visit

    file.visititems(note)
    return "; ".join(found) if found else "no matrices"


def _dense(dataset: h5py.Dataset, name: str, wanted: Wanted) -> Matrix:
    dtype = check_dtype(np.dtype(dataset.dtype), name)
    if dataset.shape is None:
        msg = f"{name}: expected a matrix, got an empty dataset (its dataspace is null)"
        raise DataError(msg)
    token = _token(dataset, name)  # before the shape: a virtual one may lose rows with its sources
    flattened(dims_of(dataset), dataset.shape, wanted, name)
    axes = axes_of(dims_of(dataset), dataset.shape, wanted.rows, name)
    native = dtype.newbyteorder("=")
    packing = RAW if wanted.raw else packing_of(dataset.attrs, native, name)
    packing = packing.filled(wanted.fill, native, name)
    path = str(dataset.file.filename)
    handle, where = DatasetHandle(path, dataset.name, wanted.missing), f"{path}::{dataset.name}"
    if packing.idle and axes[0].dims == (0,) and len(dataset.shape) == 2:
        shape = check_shape(dataset.shape, name)
        steps = dataset.chunks or (SMALL_STEP, shape[1])
        grids = (Grid(shape[0], min(steps[0], shape[0])), Grid(shape[1], min(steps[1], shape[1])))
        nbytes = int(np.prod(steps)) * dtype.itemsize
        return HDF5Matrix(shape, dtype, name, grids, handle, where, token, transient_nbytes=nbytes)
    chunks = dataset.chunks or _steps(dataset.shape)
    reading = reading_of(axes, packing)
    made = variable(handle, name, native, chunks, axes, packing)
    return replace(made, where=where, token=token, reading=reading)


def _steps(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Cut a contiguous dataset by its first dimensions, and a matrix by some rows at once."""
    return (SMALL_STEP, shape[1]) if len(shape) == 2 else (1,) * len(shape)


def dims_of(dataset: h5py.Dataset) -> tuple[str, ...]:
    """Return the names of the dimensions: their labels, their scales, or their numbers."""
    names = []
    for number, dim in enumerate(dataset.dims):
        try:
            scale = next((str(held.name).rpartition("/")[2] for held in dim.values()), "")
        except (RuntimeError, ValueError, KeyError):  # the scale was removed
            scale = ""
        names.append(dim.label or scale or f"dim_{number}")
    return tuple(names)


def _token(dataset: h5py.Dataset, name: str) -> str:
    status = os.stat(dataset.file.filename)  # noqa: PTH116
    evidence = repr((status.st_size, status.st_mtime_ns, dataset.shape, str(dataset.dtype)))
    evidence += parts_of(dataset, name).evidence
    return hashlib.sha256(evidence.encode()).hexdigest()[:32]
