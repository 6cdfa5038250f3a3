"""Writes the group: AnnData's CSR or CSC encoding 0.1.0 in Zarr v3."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from zarr.codecs import BloscCodec

__all__ = ["CHUNK", "GroupWriter"]

Array = np.ndarray[Any, Any]

CHUNK = 1 << 18
"""Entries of a chunk: few files in a store, and few useless entries in a slab of 32 MiB."""
CODEC: tuple[Literal["lz4", "zstd"], int] = ("lz4", 5)
"""Blosc's compressor and level, with byte shuffle; `benchmarks/convert.py codecs` compares them."""
POINTERS = 1 << 20


class GroupWriter:
    """Appends blocks of compressed rows (columns), in order.

    Parameters
    ----------
    folder : Path
        Folder of the group.
    shape : tuple of int
        (majors, minors).
    dtype : numpy.dtype
    most : int
        Upper bound of the entries, for the width of the pointers.
    position : int
        Entries that an earlier process has written; None begins a new group.
    """

    def __init__(
        self, folder: Path, shape: tuple[int, int], dtype: Any, most: int, position: int | None
    ) -> None:
        self.folder, self.shape, self.position = folder, shape, position or 0
        if position is None:
            self.group = zarr.create_group(folder, zarr_format=3, overwrite=True)
            narrow = np.iinfo(np.int32).max
            index = np.dtype(np.int32 if shape[1] <= narrow else np.int64)
            pointer = np.dtype(np.int32 if most <= narrow else np.int64)
            for name, length, kind in (
                ("data", most, dtype),
                ("indices", most, index),
                ("indptr", shape[0] + 1, pointer),
            ):
                kind = np.dtype(kind)
                self.group.create_array(
                    name,
                    shape=(length,),
                    dtype=kind,
                    chunks=(max(1, min(CHUNK, length)),),
                    compressors=BloscCodec(
                        cname=CODEC[0], clevel=CODEC[1], shuffle="shuffle", typesize=kind.itemsize
                    ),
                )
        else:
            self.group = zarr.open_group(folder, mode="r+", zarr_format=3)
        group: Any = self.group
        # Chunks of zeros are written too. Zarr does not store this setting with the array.
        self.parts: dict[str, Any] = {
            name: group[name].with_config({"write_empty_chunks": True})
            for name in ("data", "indices", "indptr")
        }

    def put(self, start: int, stop: int, indptr: Array | None, indices: Array, data: Array) -> None:
        """Write rows ``start`` to ``stop``, or more entries of a row that is not complete.

        `indptr` (stop - start + 1,) begins with 0; None stands for rows without entries.
        """
        first, last = self.position, self.position + data.size
        if data.size:
            self.parts["data"][first:last] = data
            self.parts["indices"][first:last] = indices.astype(
                self.parts["indices"].dtype, copy=False
            )
        pointers = self.parts["indptr"]
        if start == 0:
            pointers[0] = 0
        for at in range(start, stop, POINTERS):
            end = min(at + POINTERS, stop)
            ends = (
                0 if indptr is None else indptr[at - start + 1 : end - start + 1].astype(np.int64)
            )
            pointers[at + 1 : end + 1] = np.broadcast_to(
                np.asarray(first + ends), (end - at,)
            ).astype(pointers.dtype)
        self.position = last

    def finish(self, form: str) -> None:
        """Cut the arrays to the stored entries, and write the attributes of the group."""
        for half in self.folder.rglob("*.partial"):  # a kill during zarr's writes leaves them
            half.unlink()
        for name in ("data", "indices"):
            self.parts[name].resize((self.position,))
        shape = self.shape if form == "csr" else self.shape[::-1]
        self.group.attrs.update(
            {
                "encoding-type": f"{form}_matrix",
                "encoding-version": "0.1.0",
                "shape": list(shape),
            }
        )
