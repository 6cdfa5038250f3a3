"""The stages of a conversion: scatter, sort, or copy; publish."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bigspec.conversion.buckets import (
    Bucket,
    Scatter,
    first_buckets,
    is_too_large,
    record_type,
    sort_bucket,
    split_bucket,
)
from bigspec.conversion.entries import EntryStream, MatrixStream
from bigspec.conversion.outcome import Conversion
from bigspec.conversion.work import Work
from bigspec.conversion.writing import CHUNK, GroupWriter
from bigspec.errors import DataError, MemoryLimitError, format_bytes
from bigspec.watch import Observer

__all__ = ["SHARE", "Run", "Target"]

Array = np.ndarray[Any, Any]

SHARE = 8
"""Share of the memory for one bucket: sorting needs about four copies, writing one more."""
CAPACITY_BYTES = 256 << 20
"""Larger buckets do not sort faster."""
MOST_BUCKETS = 4096
"""The bookkeeping of more buckets takes longer than the sort."""
HARMLESS = 1 << 20  # bytes of pointers that are always written
POINTERS_AN_ENTRY = 64
"""Most rows (columns) for each stored entry; beyond it, most of the output would be pointers."""
SAVE_ENTRIES = 1 << 23
"""Entries to read again after a kill during the scattering."""


@dataclass(frozen=True)
class Target:
    """The matrix to write, and the memory for the work."""

    source: EntryStream
    form: str
    dtype: np.dtype[Any]
    limit: int

    @property
    def shape(self) -> tuple[int, int]:
        """(majors, minors)."""
        m, n = self.source.shape
        return (m, n) if self.form == "csr" else (n, m)

    @property
    def kind(self) -> np.dtype[Any]:
        """The type of a triplet in a bucket."""
        return record_type(self.shape, self.dtype)

    @property
    def capacity(self) -> int:
        """Entries of a bucket; more than sort fast only to avoid too many buckets."""
        size, least = self.kind.itemsize, -(-self.source.most // MOST_BUCKETS)
        return max(1, min(self.limit // SHARE // size, max(CAPACITY_BYTES // size, least)))

    @property
    def in_order(self) -> bool:
        """Whether the source has the wanted order already."""
        return isinstance(self.source, MatrixStream) and self.source.form == self.form

    def check(self) -> None:
        """Refuse sizes that cannot be sorted, or written, within the limit.

        Raises
        ------
        MemoryLimitError
            The limit is too small for the sort; the message states the least one.
        DataError
            Nearly all of the output would be pointers of empty rows (columns).
        """
        most, majors = self.source.most, self.shape[0]
        if not self.in_order and most > MOST_BUCKETS * self.capacity:
            least = -(-most // MOST_BUCKETS) * self.kind.itemsize * SHARE
            msg = (
                f"memory_limit: expected at least {format_bytes(least)} to sort {most} entries, "
                f"got {format_bytes(self.limit)}"
            )
            raise MemoryLimitError(msg)
        pointers = 8 * (majors + 1)
        if pointers > max(self.limit // SHARE, HARMLESS) and majors > POINTERS_AN_ENTRY * most:
            what, other = ("rows", "csc") if self.form == "csr" else ("columns", "csr")
            msg = (
                f"{self.source.name}: expected no more than {POINTERS_AN_ENTRY} {what} for each "
                f"stored entry, got {majors} {what} for {most}, so that pointers of "
                f"{format_bytes(pointers)} would be nearly all of the output; give --format "
                f"{other} (format={other!r}), or leave out the empty {what}"
            )
            raise DataError(msg)

    def cast(self, values: Array) -> Array:
        """Return values in the type of the output.

        Raises
        ------
        DataError
            The type is an integer type that cannot hold them, or a floating one in which a finite
            number would be infinite.
        """
        if np.can_cast(values.dtype, self.dtype):
            return values.astype(self.dtype, copy=False)
        with np.errstate(invalid="ignore", over="ignore"):
            cast = values.astype(self.dtype)
        if self.dtype.kind not in "iu":
            strange = np.flatnonzero(np.isfinite(values) & ~np.isfinite(cast))
        else:  # compared in their own type, which separates 2**63 - 1 from its float64
            strange = np.flatnonzero(
                (cast.astype(values.dtype) != values) | ((cast < 0) != (values < 0))
            )
        if strange.size:
            msg = (
                f"dtype: expected entries that {self.dtype} holds, got {values[strange[0]]} in "
                f"{self.source.name}; give a wider type, or a floating one"
            )
            raise DataError(msg)
        return cast

    def wanted(self) -> dict[str, Any]:
        """Return the description by which partial work is recognised."""
        return {
            "source": self.source.identity,
            "format": self.form,
            "dtype": self.dtype.str,
            "shape": list(self.source.shape),
            "chunk": CHUNK,
        }


class Run:
    """The stages of a conversion: scatter, write, publish; each can go on after a kill."""

    def __init__(
        self, source: EntryStream, target: Target, work: Work, observer: Observer, began: float
    ) -> None:
        self.source, self.target, self.work, self.observer = source, target, work, observer
        self.began = began
        self.before = float(work.state.get("seconds", 0.0))
        self.missing_before = int(work.state.get("missing_chunks", 0))

    def seconds(self) -> float:
        """Wall time so far, in all processes."""
        return self.before + time.monotonic() - self.began

    def save(self, **changes: Any) -> None:
        """Save the progress."""
        missing = self.missing_before + self.source.missing_chunks
        self.work.save(seconds=self.seconds(), missing_chunks=missing, **changes)

    def go(self) -> Conversion:
        """Go on from the saved stage to the end."""
        if self.work.state["stage"] == "new":
            self._begin()
        if self.work.state["stage"] == "scatter":
            self._scatter()
        if self.work.state["stage"] == "sort":
            self._sort()
        if self.work.state["stage"] == "copy":
            self._copy()
        if self.work.matrix.exists():
            self.save(ids=self.source.keep(self.work.matrix))
        state = dict(self.work.state)
        size = _size(self.work.matrix if self.work.matrix.exists() else self.work.destination)
        self.work.publish()
        return Conversion(
            source=self.source.name,
            destination=str(self.work.destination),
            format=self.target.form,
            shape=self.source.shape,
            dtype=self.target.dtype.str,
            stored=state["position"],
            read=state["read"],
            sorted=not self.target.in_order,
            bytes_read=state["bytes_read"],
            bytes_written=size,
            seconds=self.seconds(),
            missing_chunks=state["missing_chunks"],
            ids=tuple(state.get("ids", ())),
        )

    def _begin(self) -> None:
        self._writer(None)
        pending = first_buckets(self.target.shape, self.source.most, self.target.capacity)
        self.save(
            stage="copy" if self.target.in_order else "scatter",
            position=0,
            read=0,
            bytes_read=0,
            at=[],
            pending=[] if self.target.in_order else [_plain(bucket) for bucket in pending],
        )

    def _writer(self, position: int | None) -> GroupWriter:
        target = self.target
        return GroupWriter(self.work.matrix, target.shape, target.dtype, self.source.most, position)

    def _scatter(self) -> None:
        """Read the source once and fill the buckets."""
        state, target = self.work.state, self.target
        whole = Bucket("", (0, target.shape[0]), (0, target.shape[1]))
        buckets = [_bucket(plain) for plain in state["pending"]]
        scatter = Scatter(self.work.buckets, whole, buckets, target.kind, target.capacity)
        read, size, since = state["read"], state["bytes_read"], 0
        entries = max(1, min(target.capacity // 4, 1 << 18))
        self._show_stage("reading")
        try:
            for batch in self.source.batches(entries, state["at"]):
                records = np.empty(batch.values.size, target.kind)
                major, minor = (batch.rows, batch.columns)[:: 1 if target.form == "csr" else -1]
                records["major"], records["minor"] = major, minor
                records["value"] = target.cast(batch.values)
                scatter.put(records)
                read, size, since = read + records.size, size + batch.nbytes, since + records.size
                self._show_progress(read, size)
                if since >= SAVE_ENTRIES:
                    since = 0
                    scatter.flush()
                    pending = [_plain(bucket) for bucket in scatter.buckets]
                    self.save(at=batch.after, read=read, bytes_read=size, pending=pending)
        finally:
            scatter.close()
        self.observer.close()
        pending = [_plain(bucket) for bucket in scatter.buckets]
        self.save(stage="sort", read=read, bytes_read=size, pending=pending)

    def _sort(self) -> None:
        """Sort one bucket after another, and split those that are too large."""
        state, target, folder = self.work.state, self.target, self.work.buckets
        writer = self._writer(state["position"])
        capacity = target.capacity
        pending = [_bucket(plain) for plain in state["pending"]]
        self._show_stage("sorting")
        while pending:
            bucket, *rest = pending
            if is_too_large(bucket, capacity):
                entries = max(1, capacity // 2)
                rest = [*split_bucket(folder, bucket, target.kind, capacity, entries), *rest]
            else:
                self._write_bucket(writer, bucket)
            self.save(pending=[_plain(other) for other in rest], position=writer.position)
            (folder / bucket.name).unlink(missing_ok=True)
            pending = rest
            self._show_progress(state["read"] - sum(bucket.entries for bucket in pending), 0)
        writer.finish(target.form)
        self.observer.close()
        self.save(stage="publish")

    def _write_bucket(self, writer: GroupWriter, bucket: Bucket) -> None:
        none = np.zeros(0, np.int32)
        if bucket.entries == 0:
            writer.put(*bucket.majors, None, none, np.zeros(0, self.target.dtype))
            return
        entries = max(self.target.capacity, 1)
        block = sort_bucket(
            self.work.buckets, bucket, self.target.kind, self.target.shape[1], entries
        )
        writer.put(*bucket.majors, block.indptr, block.indices, block.data)

    def _copy(self) -> None:
        """Write panels that are already in order, several at once."""
        state, source, target = self.work.state, self.source, self.target
        assert isinstance(source, MatrixStream)
        writer = self._writer(state["position"])
        read, size = state["read"], state["bytes_read"]
        panels: list[tuple[int, int, Any]] = []
        count, at = 0, state["at"]
        self._show_stage("copying")
        entries = max(1, target.capacity // 4)
        for start, stop, block, at in source.blocks(entries, state["at"]):
            # Copied, because the next read overwrites its buffers.
            block = type(block)((target.cast(block.data), block.indices, block.indptr), block.shape)
            panels.append((start, stop, block.copy()))
            count, read = count + block.nnz, read + block.nnz
            size += block.data.nbytes + block.indices.nbytes
            if count >= target.capacity // 2:
                _write(writer, panels)
                panels, count = [], 0
                self.save(at=at, position=writer.position, read=read, bytes_read=size)
                self._show_progress(read, size)
        _write(writer, panels)
        writer.finish(target.form)
        self.observer.close()
        self.save(stage="publish", at=at, position=writer.position, read=read, bytes_read=size)

    def _show_stage(self, stage: str) -> None:
        self._stage_began = time.monotonic()
        self.observer.stage_started(stage, self.source.most)

    def _show_progress(self, entries: int, size: int) -> None:
        took = time.monotonic() - self._stage_began
        self.observer.stage_advanced(entries, self.source.most, size, took)


def _write(writer: GroupWriter, panels: list[tuple[int, int, Any]]) -> None:
    if not panels:
        return
    blocks = [block for _, _, block in panels]
    ends = np.cumsum([0, *(int(block.indptr[-1]) for block in blocks)])
    pointers = [block.indptr[1:] + end for block, end in zip(blocks, ends[:-1], strict=True)]
    writer.put(
        panels[0][0],
        panels[-1][1],
        np.concatenate([np.zeros(1, np.int64), *pointers]),
        np.concatenate([block.indices for block in blocks]),
        np.concatenate([block.data for block in blocks]),
    )


def _plain(bucket: Bucket) -> list[Any]:
    return [bucket.name, list(bucket.majors), list(bucket.minors), bucket.entries]


def _bucket(plain: list[Any]) -> Bucket:
    name, majors, minors, entries = plain
    return Bucket(name, tuple(majors), tuple(minors), entries)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
