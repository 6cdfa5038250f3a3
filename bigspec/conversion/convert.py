"""A conversion: open the source as triplets, sort what is not in order, write, publish."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.conversion.buckets import (
    Bucket,
    Scatter,
    first_buckets,
    is_too_large,
    record_type,
    sort_bucket,
    split_bucket,
)
from bigspec.conversion.entries import ArrayStream, MatrixStream, EntryStream, open_arrays, open_npz
from bigspec.conversion.matrix_market import open_market
from bigspec.conversion.outcome import Conversion
from bigspec.conversion.work import Work
from bigspec.conversion.writing import CHUNK, GroupWriter
from bigspec.errors import (
    ArgumentError,
    CheckpointInUseError,
    DataError,
    DestinationError,
    MemoryLimitError,
    ResumeError,
)
from bigspec.options import as_bytes
from bigspec.passes import find_executor
from bigspec.progress import make_observer
from bigspec.results import Observer
from bigspec.sources import open_source
from bigspec.sources.locations import local_file

__all__ = ["convert"]

SHARE = 8
"""A bucket takes this part of the memory: sorting holds it about four times, writing once more."""
CAPACITY_BYTES = 256 << 20
"""More does not sort faster."""
SAVE_ENTRIES = 1 << 23
"""Entries that a kill while scattering costs."""


def convert(
    src: Any,
    dst: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002 - what SciPy calls it
    dtype: Any = None,
    shape: tuple[int, int] | None = None,
    memory_limit: int | str | None = None,
    scratch: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool | Observer = False,
) -> Conversion:
    """Write a sparse matrix as a chunked group that a pass reads in panels, in bounded memory.

    Parameters
    ----------
    src : path, URL or object
        Any sparse matrix that `open_matrix` takes, read in panels; a Matrix Market file or an
        .npz of SciPy's, read as a stream; a SciPy sparse array; or ``(data, (row, col))`` with
        `shape`, three vectors that may be memory maps.
    dst : path
        A local place, by custom ``*.zarr``: a Zarr v3 group in AnnData's encoding 0.1.0.
    format : {"csr", "csc"}, optional
        Compressed rows or columns; by default as the source, CSR for triplets.
    dtype : dtype, optional
        Of the values; by default that of the source. Duplicates are summed in it.
    shape : tuple of int, optional
        Of ``(data, (row, col))``.
    memory_limit : int or str, optional
        What the work may hold, besides Python and its libraries. Default: half of what the
        process has.
    scratch : path, optional
        A folder for the triplets on their way; by default beside `dst`. Needed only for what is
        sorted, then ``itemsize + 8`` (16 for extents beyond 2^31) bytes an entry.
    overwrite : bool
        Replace what lies at `dst`, once the new matrix is complete.
    progress : bool or Observer
        Show a live line.

    Returns
    -------
    Conversion

    Raises
    ------
    ArgumentError, ResumeError, MemoryLimitError, CheckpointInUseError
        Before anything is read.
    SourceError, DataError, ChunkError
        The source cannot be used; the partial work is removed.
    DestinationError
        It cannot be written, as on a full disk; what is done is kept.

    Notes
    -----
    The same call goes on where one was killed, to the same bytes; `dst` is there once it is
    complete, and not before. Cost: one read of the source, and unless it is in the wanted order
    already, the triplets are written and read once or, where their distribution is steep, twice.
    """
    began = time.monotonic()
    limit = as_bytes(memory_limit) or find_executor(True).memory() // 2
    if format not in (None, "csr", "csc"):
        msg = f"format: expected 'csr' or 'csc', got {format!r}"
        raise ArgumentError(msg)
    source = _open(src, shape, limit)
    target = _Target(source, format or source.form, _value_type(dtype, source), limit)
    work = Work(_local(dst), _folder(scratch), target.wanted(), overwrite=overwrite)
    observer = make_observer(progress)
    try:
        observer.run_started(source.name, {"to": str(work.destination), "format": target.form})
        run = _Run(source, target, work, observer, began)
        outcome = run.go()
    except (DataError, MemoryLimitError):
        work.remove()
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            msg = (
                f"{work.destination}: cannot be written ({error.strerror}). What is done is kept in "
                f"{work.folder}: make room and run the same command again, or remove that folder"
            )
            raise DestinationError(msg) from error
        raise
    except KeyboardInterrupt as error:
        error.saved = str(work.folder)  # type: ignore[attr-defined]
        raise
    finally:
        work.close()
        observer.close()
    return outcome


@dataclass(frozen=True)
class _Target:
    """What is written, and how much may be held on the way."""

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
        return record_type(self.shape, self.dtype)

    @property
    def capacity(self) -> int:
        """Entries of a bucket."""
        return max(1, min(self.limit // SHARE, CAPACITY_BYTES) // self.kind.itemsize)

    @property
    def in_order(self) -> bool:
        return isinstance(self.source, MatrixStream) and self.source.form == self.form

    def wanted(self) -> dict[str, Any]:
        return {
            "source": self.source.identity,
            "format": self.form,
            "dtype": self.dtype.str,
            "shape": list(self.source.shape),
            "chunk": CHUNK,
        }


class _Run:
    """The stages of a conversion: scatter, write, publish; each goes on where it was."""

    def __init__(
        self, source: EntryStream, target: _Target, work: Work, observer: Observer, began: float
    ) -> None:
        self.source, self.target, self.work, self.observer = source, target, work, observer
        self.began = began
        self.before = float(work.state.get("seconds", 0.0))

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.began

    def save(self, **changes: Any) -> None:
        self.work.save(seconds=self.seconds(), **changes)

    def go(self) -> Conversion:
        if self.work.state["stage"] == "new":
            self._begin()
        if self.work.state["stage"] == "scatter":
            self._scatter()
        if self.work.state["stage"] == "sort":
            self._sort()
        if self.work.state["stage"] == "copy":
            self._copy()
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
        return GroupWriter(
            self.work.matrix, target.shape, target.dtype, self.source.most, position
        )

    def _scatter(self) -> None:
        """Read the source once, into buckets."""
        state, target = self.work.state, self.target
        whole = Bucket("", (0, target.shape[0]), (0, target.shape[1]))
        buckets = [_bucket(plain) for plain in state["pending"]]
        scatter = Scatter(self.work.buckets, whole, buckets, target.kind)
        read, size, since = state["read"], state["bytes_read"], 0
        entries = max(1, min(target.capacity // 4, 1 << 18))
        self._shows("reading")
        try:
            for piece in self.source.pieces(entries, state["at"]):
                records = np.empty(piece.values.size, target.kind)
                major, minor = (piece.rows, piece.columns)[:: 1 if target.form == "csr" else -1]
                records["major"], records["minor"], records["value"] = major, minor, piece.values
                scatter.put(records)
                read, size, since = read + records.size, size + piece.nbytes, since + records.size
                self._shown(read, size)
                if since >= SAVE_ENTRIES:
                    since = 0
                    scatter.flush()
                    pending = [_plain(bucket) for bucket in scatter.buckets]
                    self.save(at=piece.after, read=read, bytes_read=size, pending=pending)
        finally:
            scatter.close()
        self.observer.close()
        pending = [_plain(bucket) for bucket in scatter.buckets]
        self.save(stage="sort", read=read, bytes_read=size, pending=pending)

    def _sort(self) -> None:
        """Sort bucket after bucket, splitting those that are too large."""
        state, target, folder = self.work.state, self.target, self.work.buckets
        writer = self._writer(state["position"])
        capacity = target.capacity
        pending = [_bucket(plain) for plain in state["pending"]]
        self._shows("sorting")
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
            self._shown(state["read"] - sum(bucket.entries for bucket in pending), 0)
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
        """Write panels that are in order already, several at once."""
        state, source, target = self.work.state, self.source, self.target
        assert isinstance(source, MatrixStream)
        writer = self._writer(state["position"])
        read, size = state["read"], state["bytes_read"]
        held: list[tuple[int, int, Any]] = []
        count, at = 0, state["at"]
        self._shows("copying")
        entries = max(1, target.capacity // 4)
        for start, stop, block, at in source.blocks(entries, state["at"]):
            # What is read lies in buffers that the next read takes again.
            held.append((start, stop, block.astype(target.dtype).copy()))
            count, read = count + block.nnz, read + block.nnz
            size += block.data.nbytes + block.indices.nbytes
            if count >= target.capacity // 2:
                _write(writer, held)
                held, count = [], 0
                self.save(at=at, position=writer.position, read=read, bytes_read=size)
                self._shown(read, size)
        _write(writer, held)
        writer.finish(target.form)
        self.observer.close()
        self.save(stage="publish", at=at, position=writer.position, read=read, bytes_read=size)

    def _shows(self, stage: str) -> None:
        self._stage_began = time.monotonic()
        self.observer.stage_started(stage, self.source.most)

    def _shown(self, entries: int, size: int) -> None:
        took = time.monotonic() - self._stage_began
        self.observer.stage_advanced(entries, self.source.most, size, took)


def _write(writer: GroupWriter, held: list[tuple[int, int, Any]]) -> None:
    if not held:
        return
    blocks = [block for _, _, block in held]
    ends = np.cumsum([0, *(int(block.indptr[-1]) for block in blocks)])
    pointers = [block.indptr[1:] + end for block, end in zip(blocks, ends[:-1], strict=True)]
    writer.put(
        held[0][0],
        held[-1][1],
        np.concatenate([np.zeros(1, np.int64), *pointers]),
        np.concatenate([block.indices for block in blocks]),
        np.concatenate([block.data for block in blocks]),
    )


def _open(src: Any, shape: Any, limit: int) -> EntryStream:
    """Open a source as triplets."""
    three = isinstance(src, tuple) and len(src) == 2 and isinstance(src[1], (tuple, list))
    if shape is not None and not three:
        msg = "shape: expected only beside (data, (row, col)), got it with a source that has one"
        raise ArgumentError(msg)
    if three or (sp.issparse(src) and src.format == "coo"):
        return open_arrays(src, shape)
    if isinstance(src, (str, os.PathLike)) and (local := local_file(os.fspath(src))) is not None:
        path, inside = local
        name = os.fspath(src)
        if not inside and path.name.endswith((".mtx", ".mtx.gz")):
            return open_market(path, name)
        if not inside and path.suffix == ".npz" and (opened := open_npz(path, name)) is not None:
            return opened
    return MatrixStream.of(open_source(src), limit)


def _value_type(dtype: Any, source: EntryStream) -> np.dtype[Any]:
    try:
        kind = source.dtype if dtype is None else np.dtype(dtype)
    except TypeError as error:
        msg = f"dtype: expected a NumPy type such as float32, got {dtype!r}"
        raise ArgumentError(msg) from error
    kind = kind.newbyteorder("=")
    if kind.kind not in "biufc" or (kind.kind == "f" and kind.itemsize not in (4, 8)):
        msg = f"dtype: expected a type that SciPy sums sparse entries in, got {kind}; give float32"
        raise ArgumentError(msg)
    if source.dtype.kind == "c" and kind.kind != "c":
        msg = f"dtype: expected a complex type for {source.dtype} entries, got {kind}"
        raise ArgumentError(msg)
    return kind


def _local(dst: str | os.PathLike[str]) -> Path:
    text = os.fspath(dst)
    for scheme in ("file://", "local://"):
        text = text.removeprefix(scheme)
    if "://" in text or "::" in text or text.endswith(".zip"):
        msg = (
            f"dst: expected a local folder such as A.zarr, got {text!r}; write it locally, then copy "
            "it to the store"
        )
        raise ArgumentError(msg)
    path = Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100
    if not path.parent.is_dir():
        msg = f"dst: expected a folder that exists, got {path.parent} in {text!r}; create it"
        raise ArgumentError(msg)
    return path


def _folder(scratch: str | os.PathLike[str] | None) -> Path | None:
    if scratch is None:
        return None
    path = Path(scratch).expanduser().absolute()
    if not path.is_dir():
        msg = f"scratch: expected a folder that exists, got {path}; create it"
        raise ArgumentError(msg)
    return path


def _plain(bucket: Bucket) -> list[Any]:
    return [bucket.name, list(bucket.majors), list(bucket.minors), bucket.entries]


def _bucket(plain: list[Any]) -> Bucket:
    name, majors, minors, entries = plain
    return Bucket(name, tuple(majors), tuple(minors), entries)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
