"""Ids as indices: unchanged, or by their place among the distinct ids."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from bigspec.errors import DataError, MemoryLimitError, format_bytes

__all__ = ["Extent", "Ids", "Numbers", "found_ids"]

Array = np.ndarray[Any, Any]

LEAST_PENDING = 1 << 18
"""Ids to collect, at least, before duplicates are dropped."""


class Ids(ABC):
    """The ids of one axis."""

    extent: int

    @abstractmethod
    def numbered(self, ids: Any) -> Array:
        """Return the index of each id."""

    def keep(self, folder: Path, name: str) -> bool:
        """Write the ids as an array of that name unless they are the indices; say if it did."""
        return False


@dataclass(frozen=True)
class Extent(Ids):
    """Ids that are indices."""

    extent: int

    def numbered(self, ids: Any) -> Array:
        """Return the ids unchanged; `EntryStream.check` finds those outside."""
        return np.asarray(ids)


@dataclass(frozen=True)
class Numbers(Ids):
    """Distinct ids, sorted: the place of an id is its index."""

    values: Any = field(repr=False)
    extent: int

    def numbered(self, ids: Any) -> Array:
        """Look up the ids.

        Raises
        ------
        DataError
            An id was not in the first read.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pc.index_in(pa.array(ids, self.values.type), value_set=self.values)
        if found.null_count:
            msg = "expected the ids of the first read in the second, got others; the data changed"
            raise DataError(msg)
        return np.asarray(found.to_numpy(zero_copy_only=False).astype(np.int64))

    def keep(self, folder: Path, name: str) -> bool:
        """Write the ids as a Zarr array of text or of int64."""
        import pyarrow.types as kinds

        whole = kinds.is_integer(self.values.type)
        group = zarr.open_group(folder, mode="r+", zarr_format=3)
        data = (
            self.values.to_numpy() if whole
            else np.array(self.values.to_pylist(), np.dtypes.StringDType())
        )  # fmt: skip
        group.create_array(name, data=data, chunks=(min(len(data), 1 << 18),), overwrite=True)
        return True


def found_ids(parts: Iterable[Any], source: str, column: str, limit: int) -> Numbers:
    """Collect the distinct ids of a column, sorted.

    Raises
    ------
    MemoryLimitError
        The ids take more than `limit`.
    DataError
        There are no ids.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    distinct: Any = None
    pending: list[Any] = []

    def merged() -> Any:
        arrays = pending if distinct is None else [distinct, *pending]
        whole = pc.unique(pa.chunked_array(arrays))
        if whole.nbytes > limit:
            msg = (
                f"memory_limit: expected room for the distinct ids of column {column!r} in "
                f"{source}, a quarter of the limit, got {format_bytes(limit)} for "
                f"{format_bytes(whole.nbytes)} so far; give more memory, or whole numbers as ids"
            )
            raise MemoryLimitError(msg)
        return whole

    count = 0
    for part in parts:
        one = pc.unique(part if isinstance(part, pa.Array) else pa.array(part))
        pending.append(one)
        count += len(one)
        if count >= max(LEAST_PENDING, 0 if distinct is None else len(distinct)):
            distinct, pending, count = merged(), [], 0
    if pending:
        distinct = merged()
    if distinct is None or not len(distinct):
        msg = f"{source}: expected rows, got none; there are no ids to number"
        raise DataError(msg)
    return Numbers(distinct.take(pc.sort_indices(distinct)), len(distinct))
