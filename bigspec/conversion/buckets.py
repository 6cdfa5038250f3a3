"""An external bucket sort of triplets: ranges of rows (columns), each sorted alone in memory.

Entries are read once, and scattered over equal ranges of the compressed axis. If a bucket does not
fit in memory, as when columns follow a power law, it is scattered again by its own histogram; a
single row (column) is scattered over ranges of the other axis. Every step appends to files of
known lengths, or makes new ones, so it can be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import scipy.sparse as sp

__all__ = [
    "Bucket",
    "Scatter",
    "first_buckets",
    "is_too_large",
    "record_type",
    "sort_bucket",
    "split_bucket",
]

Array = np.ndarray[Any, Any]

FAN_OUT = 256
"""Files to have open at once."""
BINS = 1 << 16
"""Bins in the histogram of a bucket that is split."""
BUFFER = 64 << 10


@dataclass(frozen=True)
class Bucket:
    """Entries of the rows (columns) `majors` and the columns (rows) `minors`, both half open."""

    name: str
    majors: tuple[int, int]
    minors: tuple[int, int]
    entries: int = 0

    def range(self) -> tuple[int, int]:
        """Return the range by which it can be split: rows, or columns within one row."""
        return self.majors if self.majors[1] - self.majors[0] > 1 else self.minors

    def key(self, records: Array) -> Array:
        """Return the indices that lie in `range`."""
        whole: Array = records["major" if self.majors[1] - self.majors[0] > 1 else "minor"]
        return whole

    def part(self, name: str, start: int, stop: int) -> Bucket:
        """Return an empty bucket for a part of `range`."""
        if self.majors[1] - self.majors[0] > 1:
            return Bucket(name, (start, stop), self.minors)
        return Bucket(name, self.majors, (start, stop))


def record_type(shape: tuple[int, int], dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of a triplet in a file; `shape` is (majors, minors)."""
    index = ["i4" if extent <= np.iinfo(np.int32).max else "i8" for extent in shape]
    return np.dtype([("major", index[0]), ("minor", index[1]), ("value", dtype)])


def first_buckets(shape: tuple[int, int], most: int, capacity: int) -> list[Bucket]:
    """Cut the compressed axis into equal ranges of half of `capacity` entries on average."""
    whole = Bucket("b", (0, shape[0]), (0, shape[1]))
    count = max(-(-2 * most // capacity), -(-shape[0] // capacity), 1)
    count = min(count, FAN_OUT, shape[0])
    bounds = [shape[0] * k // count for k in range(count + 1)]
    return [whole.part(f"b{k:03}", bounds[k], bounds[k + 1]) for k in range(count)]


def is_too_large(bucket: Bucket, capacity: int) -> bool:
    """Whether it must be split: too many entries, or too many rows for the pointers."""
    start, stop = bucket.range()
    wide = bucket.entries > 0 and bucket.majors[1] - bucket.majors[0] > max(capacity, 2)
    return (bucket.entries > capacity or wide) and stop - start > 1


class Scatter:
    """Appends triplets to the files of buckets that partition one range.

    Files are cut back to the lengths in `buckets`, because a dead process may have written more.
    """

    def __init__(
        self, folder: Path, whole: Bucket, buckets: Sequence[Bucket], kind: Any, capacity: int
    ) -> None:
        self.whole, self.buckets = whole, list(buckets)
        self.bounds = np.array([whole_range(whole, bucket)[0] for bucket in buckets], np.int64)
        self.files: list[BinaryIO] = []
        # All buffers together may take as much as one bucket.
        buffering = max(512, min(BUFFER, capacity * kind.itemsize // len(buckets)))
        for bucket in buckets:
            path = folder / bucket.name
            file = path.open("r+b" if bucket.entries else "wb", buffering=buffering)
            self.files.append(file)
            file.truncate(bucket.entries * kind.itemsize)
            file.seek(0, 2)

    def put(self, records: Array) -> None:
        """Append records to their buckets, in their order."""
        place = np.searchsorted(self.bounds, self.whole.key(records), side="right") - 1
        order = np.argsort(place, kind="stable")
        counts = np.bincount(place, minlength=len(self.buckets))
        ends = np.cumsum(counts)
        records = records[order]
        for k in np.flatnonzero(counts):
            self.files[k].write(records[ends[k] - counts[k] : ends[k]].data)
            bucket = self.buckets[k]
            self.buckets[k] = replace(bucket, entries=bucket.entries + int(counts[k]))

    def flush(self) -> None:
        """Write the buffers to the files."""
        for file in self.files:
            file.flush()

    def close(self) -> None:
        """Close the files."""
        for file in self.files:
            file.close()


def whole_range(whole: Bucket, bucket: Bucket) -> tuple[int, int]:
    """Return the range of `bucket` along the range of `whole`."""
    return bucket.majors if whole.majors[1] - whole.majors[0] > 1 else bucket.minors


def read_records(path: Path, kind: np.dtype[Any], entries: int) -> Iterator[Array]:
    """Read a file in ranges of so many records."""
    with path.open("rb") as file:
        while (records := np.fromfile(file, kind, entries)).size:
            yield records


def split_bucket(
    folder: Path, bucket: Bucket, kind: np.dtype[Any], capacity: int, entries: int
) -> list[Bucket]:
    """Scatter a bucket by its own histogram; its file stays, in case of a kill."""
    start, stop = bucket.range()
    bins = min(BINS, stop - start)
    width = -(-(stop - start) // bins)
    counts = np.zeros(bins, np.int64)
    for records in read_records(folder / bucket.name, kind, entries):
        places = (bucket.key(records).astype(np.int64) - start) // width
        counts += np.bincount(places, minlength=bins)
    bounds = [start]
    wide = max(1, max(capacity, 2) // width) if bucket.range() is bucket.majors else bins
    entries = first = 0
    for k in range(bins):
        if (
            k > first
            and len(bounds) < FAN_OUT
            and (entries + counts[k] > capacity or k - first >= wide)
        ):
            bounds.append(start + k * width)
            entries, first = 0, k
        entries += int(counts[k])
    if len(bounds) == 1:  # all in one bin: halve it; the next histogram is finer
        full = int(np.argmax(counts))
        edges = {start + full * width, min(start + (full + 1) * width, stop)}
        edges |= {(start + stop) // 2} if not edges - {start, stop} else set()
        bounds = sorted({start} | {edge for edge in edges if start < edge < stop})
    parts = [
        bucket.part(f"{bucket.name}.{k:03}", lower, upper)
        for k, (lower, upper) in enumerate(zip(bounds, [*bounds[1:], stop], strict=True))
        if upper > lower
    ]
    scatter = Scatter(folder, bucket, parts, kind, capacity)
    try:
        for records in read_records(folder / bucket.name, kind, entries):
            scatter.put(records)
    finally:
        scatter.close()
    return scatter.buckets


def sort_bucket(
    folder: Path, bucket: Bucket, kind: np.dtype[Any], minors: int, entries: int
) -> sp.csr_array[Any]:
    """Return a bucket as a sorted CSR block, with duplicates summed as SciPy does.

    A bucket of one position with more than `entries` records is summed in parts.
    """
    shape = (bucket.majors[1] - bucket.majors[0], minors)
    block: sp.csr_array[Any] | None = None
    for records in read_records(folder / bucket.name, kind, max(entries, 1)):
        rows = records["major"] - bucket.majors[0]
        part = sp.coo_array((records["value"], (rows, records["minor"])), shape=shape).tocsr()
        part.sum_duplicates()
        block = part if block is None else block + part
    return sp.csr_array(shape, dtype=kind["value"]) if block is None else block
