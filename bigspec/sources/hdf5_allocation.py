"""Chunks of HDF5 that were never written and so, by HDF5's rule, count as the fill value."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bigspec.errors import ChunkError
from bigspec.sources.missing_chunks import Missing, refusal

if TYPE_CHECKING:
    from bigspec.kernels.buffers import Buffers

__all__ = ["Allocation"]


class Allocation:
    """The chunks of a dataset that one process has found in its file so far.

    Parameters
    ----------
    missing : Missing
        Rule for missing chunks.
    """

    def __init__(self, missing: Missing) -> None:
        self.missing = missing
        self._whole: bool | None = None
        self._stored: dict[tuple[int, ...], bool] = {}

    def count(
        self, dataset: Any, selection: tuple[slice, ...], name: str, buffers: Buffers
    ) -> None:
        """Count the chunks of a selection, and how many of them are not stored.

        For sources of virtual datasets see `bigspec.sources.hdf5_parts`.

        Raises
        ------
        ChunkError
            A chunk is not stored, and the rule refuses that or there is no fill value.
        """
        if getattr(dataset, "id", None) is None or dataset.is_virtual or dataset.external:
            return
        if self._whole is None:
            self._whole = _is_whole(dataset)
        if not dataset.chunks:
            count, missing = 1, [] if self._whole else [(0,) * dataset.ndim]
        elif self._whole:
            both = zip(selection, dataset.chunks, strict=True)
            count = math.prod(-(-s.stop // step) - s.start // step for s, step in both)
            missing = []
        else:
            offsets = list(_offsets(dataset, selection))
            count = len(offsets)
            missing = [offset for offset in offsets if not self._is_stored(dataset, offset)]
        if missing:
            self._accept(dataset, missing[0], name)
        buffers.chunks += count
        buffers.missing_chunks += len(missing)

    def _is_stored(self, dataset: Any, offset: tuple[int, ...]) -> bool:
        if offset not in self._stored:
            found = dataset.id.get_chunk_info_by_coord(offset)
            self._stored[offset] = found.byte_offset is not None
        return self._stored[offset]

    def _accept(self, dataset: Any, offset: tuple[int, ...], name: str) -> None:
        import h5py

        key = f"at {offset} of {dataset.name}"
        if self.missing.refused:
            raise refusal(name, key, self.missing.why)
        plist = dataset.id.get_create_plist()
        undefined = plist.fill_value_defined() == h5py.h5d.FILL_VALUE_UNDEFINED
        if undefined or plist.get_fill_time() == h5py.h5d.FILL_TIME_NEVER:
            msg = (
                f"{name}: chunk {key} was never written, and the dataset has no fill value for it; "
                "write it"
            )
            raise ChunkError(msg)


def _is_whole(dataset: Any) -> bool:
    """Whether all chunks are stored: one query, which often saves all the others."""
    if not dataset.size:
        return True
    if not dataset.chunks:
        return bool(dataset.id.get_storage_size())
    both = zip(dataset.shape, dataset.chunks, strict=True)
    return bool(dataset.id.get_num_chunks() == math.prod(-(-n // step) for n, step in both))


def _offsets(dataset: Any, selection: tuple[slice, ...]) -> Any:
    for cut in dataset.iter_chunks(selection):
        yield tuple(s.start // step * step for s, step in zip(cut, dataset.chunks, strict=True))
