"""One chunk of HDF5 decoded as the library does, whatever its filters, in memory."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bigspec.sources.decoders import DamagedChunk
from bigspec.sources.hdf5_filters import check_chunks
from bigspec.sources.hdf5_parts import has_filter

if TYPE_CHECKING:
    import h5py

__all__ = ["Filter", "Pipeline"]

Filter = tuple[int, int, tuple[int, ...]]
"""Number, flags and parameters, as h5py gives them."""


@dataclass(frozen=True)
class Pipeline:
    """The type, the chunk and the filters of a dataset; it pickles small.

    Attributes
    ----------
    kind : bytes
        The type in the file, as HDF5 encodes it.
    dtype : numpy.dtype
        The type in memory.
    chunk : tuple of int
    filters : tuple of Filter
    fill : bytes
        The fill value in the type in memory, which some filters look at; empty for none.
    """

    kind: bytes
    dtype: np.dtype[Any]
    chunk: tuple[int, ...]
    filters: tuple[Filter, ...]
    fill: bytes

    @classmethod
    def of(cls, dataset: h5py.Dataset, filters: tuple[Filter, ...], fill: Any) -> Pipeline:
        """Describe an open dataset."""
        dtype = np.dtype(dataset.dtype)
        held = b"" if fill is None else np.asarray(fill, dtype).tobytes()
        encoded = bytes(dataset.id.get_type().encode())
        return cls(encoded, dtype, tuple(dataset.chunks or dataset.shape), filters, held)

    def decode(self, stored: bytes, mask: int) -> np.ndarray[Any, Any]:
        """Return the entries of a chunk, in native byte order.

        Parameters
        ----------
        stored : bytes
        mask : int
            The filters that were left out, one bit each.

        Raises
        ------
        DamagedChunk
        """
        import h5py

        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(self.chunk)
        for number, flags, values in self.filters:
            if not has_filter(number):
                msg = f"it needs HDF5 filter {number}: pip install hdf5plugin, on every worker"
                raise DamagedChunk(msg)
            plist.set_filter(number, flags, values)
        if self.fill:
            plist.set_fill_value(np.frombuffer(self.fill, self.dtype)[:1].reshape(()))
        kind = h5py.h5t.decode(self.kind)
        space = h5py.h5s.create_simple(self.chunk)
        with h5py.File(uuid.uuid4().hex, "w", driver="core", backing_store=False) as file:
            made = h5py.h5d.create(file.id, b"A", kind, space, plist)
            place = (0,) * len(self.chunk)
            made.write_direct_chunk(place, stored, mask)
            del made  # opened again, because HDF5 2.0 keeps the mask of before
            dataset = file["A"]
            check_chunks(dataset, tuple(slice(0, extent) for extent in self.chunk), set())
            block = np.empty(self.chunk, self.dtype.newbyteorder("="))
            try:
                dataset.read_direct(block)
            except OSError as error:
                msg = f"HDF5 cannot decode it ({error})"
                raise DamagedChunk(msg) from error
        return block
