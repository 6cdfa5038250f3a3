"""Where the entries of a dense matrix are written: a Zarr array, or a file of safetensors."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from bigspec.errors import ArgumentError
from bigspec.matrices import Matrix

__all__ = ["ArraySink", "Sink", "TensorSink", "chunks_for"]

Array = np.ndarray[Any, Any]

ACROSS = 4096  # columns of a chunk where the source has none
ENTRIES = 1 << 20  # of such a chunk
TYPES = {"float16": "F16", "float32": "F32", "float64": "F64", "complex64": "C64"}
"""Of safetensors."""


class Sink(ABC):
    """A place for the blocks of a dense matrix, in any order, from several threads.

    Attributes
    ----------
    chunks : tuple of int
        Blocks begin and end at multiples of these, and at the edges of the matrix.
    """

    chunks: tuple[int, int]

    @abstractmethod
    def put(self, rows: slice, columns: slice, values: Array) -> None:
        """Write one block."""

    def flush(self) -> None:  # noqa: B027
        """Make sure that what was put is in the files."""


class ArraySink(Sink):
    """A Zarr v3 array.

    Parameters
    ----------
    folder : Path
    shape, chunks : tuple of int
    dtype : numpy.dtype
    attributes : dict
    begin : bool
        Make the array; else it is there, from a process that was killed.
    """

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, int],
        chunks: tuple[int, int],
        dtype: np.dtype[Any],
        attributes: dict[str, Any],
        *,
        begin: bool,
    ) -> None:
        self.folder, self.chunks = folder, chunks
        if begin:
            zarr.create_array(
                folder,
                shape=shape,
                chunks=chunks,
                dtype=dtype,
                compressors=BloscCodec(
                    cname="lz4", clevel=5, shuffle="shuffle", typesize=dtype.itemsize
                ),
                attributes=attributes,
                overwrite=True,
            )
        opened: Any = zarr.open_array(folder, mode="r+", zarr_format=3)
        # Chunks of zeros are written too: a chunk that is not there may have been lost.
        self.array = opened.with_config({"write_empty_chunks": True})

    def put(self, rows: slice, columns: slice, values: Array) -> None:
        """Write whole chunks."""
        self.array[rows, columns] = values

    def finish(self) -> None:
        """Remove what a kill during zarr's writes has left."""
        for half in self.folder.rglob("*.partial"):
            half.unlink()


class TensorSink(Sink):
    """One tensor in a file of safetensors, through a memory map.

    Parameters
    ----------
    path : Path
    name : str
        Of the tensor.
    shape, chunks : tuple of int
    dtype : numpy.dtype
    note : dict
        Stored as JSON in the metadata.
    begin : bool
        Make the file; else it is there, from a process that was killed.

    Raises
    ------
    ArgumentError
        The format has no such type.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        shape: tuple[int, int],
        chunks: tuple[int, int],
        dtype: np.dtype[Any],
        note: dict[str, Any],
        *,
        begin: bool,
    ) -> None:
        check_tensor_type(dtype)
        self.chunks = chunks
        size = shape[0] * shape[1] * dtype.itemsize
        entry = {"dtype": TYPES[dtype.name], "shape": list(shape), "data_offsets": [0, size]}
        header = json.dumps({"__metadata__": {"bigspec": json.dumps(note)}, name: entry})
        raw = header.encode()
        raw += b" " * (-len(raw) % 8)
        begins = 8 + len(raw)
        if begin:
            with path.open("wb") as file:
                file.write(len(raw).to_bytes(8, "little") + raw)
                file.truncate(begins + size)
        place: Any = (path, dtype.newbyteorder("<"), "r+", begins, shape)
        self.place = place
        self.entries: Any = np.memmap(*place)

    def put(self, rows: slice, columns: slice, values: Array) -> None:
        """Write a block."""
        self.entries[rows, columns] = values

    def flush(self) -> None:
        """Hand the pages to the file, and let go of them: a map keeps what was written resident."""
        self.entries.flush()
        self.entries = np.memmap(*self.place)


def check_tensor_type(dtype: np.dtype[Any]) -> None:
    """Refuse what safetensors has no name for."""
    if dtype.name not in TYPES:
        msg = f"dtype: expected {', '.join(TYPES)} in a file of safetensors, got {dtype.name}"
        raise ArgumentError(msg)


def chunks_for(matrix: Matrix) -> tuple[int, int]:
    """Return the chunks of a copy: those of the source, if it has regular ones."""
    m, n = matrix.shape
    stored = not any(matrix.anywhere) and not matrix.resident and matrix.streams
    if stored and all(grid.cuts is None for grid in matrix.grids):
        return min(matrix.grids[0].step, m), min(matrix.grids[1].step, n)
    across = min(n, ACROSS)
    return max(1, min(m, ENTRIES // across)), across
