"""Where a normalized matrix is written, in what form, and the stages that write it."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from bigspec.conversion.entries import MatrixStream
from bigspec.conversion.running import Run, Target
from bigspec.conversion.scaling import KEY, DenseCopy, Scaling, scaling_stream
from bigspec.conversion.sinks import (
    ArraySink,
    Sink,
    TensorSink,
    check_tensor_type,
    chunks_for,
)
from bigspec.conversion.work import Work, local_place
from bigspec.errors import ArgumentError, UnsupportedTypeError
from bigspec.matrices import Matrix
from bigspec.names import shown
from bigspec.passes import find_executor
from bigspec.sources.packing import named_convention
from bigspec.watch import Observer

__all__ = ["Destination"]

OWN = {"encoding-type", "encoding-version", "shape", KEY}
"""Attributes of a sparse group that the new group has as well."""
PARTS = {"data", "indices", "indptr"}
METADATA = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}
CHUNK = re.compile(r"(c|\d+)([./]\d+)*")
"""Names of what an array has in its folder, besides its documents."""


@dataclass(frozen=True)
class Destination:
    """The place and the form of what is written.

    Attributes
    ----------
    path : Path
    form : {"zarr", "csr", "csc", "safetensors"}
    name : str
        Of the tensor in a file of safetensors.
    attributes : dict
        Of the array that is replaced in place.
    """

    path: Path
    form: str
    name: str
    matrix: Matrix = field(repr=False)
    stream: MatrixStream | None = field(repr=False)
    attributes: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        src: Any,
        dst: Any,
        matrix: Matrix,
        stream: MatrixStream | None,
        *,
        in_place: bool,
        name: str,
    ) -> Destination:
        """Choose the form by the name of the place and by the matrix.

        Raises
        ------
        ArgumentError
            The place is that of the source without `in_place`, or something that is not replaced.
        UnsupportedTypeError
            A sparse matrix for a file of safetensors.
        """
        source = _path_of(src) or _path_of(matrix.identity.get("where"))
        if in_place:
            path, attributes = _own_store(src, source, dst, matrix)
            return cls(path, _form(stream), name, matrix, stream, attributes)
        if dst is None:
            msg = "dst: expected a place to write to, got None; or replace src with in_place=True"
            raise ArgumentError(msg)
        path = local_place(dst)
        if source is not None and (source == path or path in source.parents):
            msg = (
                f"dst: expected another place than the source, got {os.fspath(dst)!r}; to replace "
                "the source, say so: in_place=True (--in-place)"
            )
            raise ArgumentError(msg)
        if source in path.parents and not _inside(src):
            msg = (
                f"dst: expected a place outside of the source, got {os.fspath(dst)!r}, which lies "
                "in its folder; name one beside it"
            )
            raise ArgumentError(msg)
        if path.suffix.lower() != ".safetensors":
            return cls(path, _form(stream), name, matrix, stream)
        if stream is not None:
            msg = (
                f"{matrix.name}: expected a dense matrix for a file of safetensors, which stores "
                "every entry, got a sparse one; name a place such as A.zarr"
            )
            raise UnsupportedTypeError(msg)
        return cls(path, "safetensors", name, matrix, stream)

    def check(self, dtype: np.dtype[Any]) -> None:
        """Refuse a type, or a name, that the form does not have."""
        if self.form == "safetensors":
            check_tensor_type(dtype)
            if self.name in ("", "__metadata__"):
                msg = f"name: expected the name of a tensor, got {self.name!r}"
                raise ArgumentError(msg)

    def wanted(self) -> dict[str, Any]:
        """Return the description by which partial work is recognised."""
        chunks = list(chunks_for(self.matrix)) if self.stream is None else None
        named = {"name": self.name} if self.form == "safetensors" else {}
        return {"format": self.form, "chunks": chunks, **named}

    def write(
        self, scaling: Scaling, work: Work, observer: Observer, began: float, limit: int
    ) -> tuple[int, float]:
        """Write what is left, and put it in its place.

        Returns
        -------
        nbytes : int
            On disk.
        seconds : float
            In all processes.
        """
        if self.stream is not None:
            return self._sparse(scaling, work, observer, began, limit)
        return self._dense(scaling, work, observer, began, limit)

    def _sparse(
        self, scaling: Scaling, work: Work, observer: Observer, began: float, limit: int
    ) -> tuple[int, float]:
        assert self.stream is not None
        stream = scaling_stream(self.stream, scaling)
        target = Target(stream, stream.form, scaling.dtype, limit)
        target.check()
        done = Run(stream, target, work, observer, began).go()
        return done.bytes_written, done.seconds

    def _dense(
        self, scaling: Scaling, work: Work, observer: Observer, began: float, limit: int
    ) -> tuple[int, float]:
        before = float(work.state.get("seconds", 0.0))

        def save(**changes: Any) -> None:
            work.save(seconds=before + time.monotonic() - began, **changes)

        if work.state["stage"] != "publish":
            begin = work.state["stage"] == "new"
            sink = self._sink(scaling, work, begin=begin)
            if begin:
                save(stage="copy", block=0, squares=0.0, bytes_read=0)
            threads = find_executor(True).tasks
            DenseCopy(self.matrix, scaling, sink, limit, threads).run(work, observer, save)
            if isinstance(sink, ArraySink):
                sink.finish()
            save(stage="publish")
        size = _size(work.matrix if work.matrix.exists() else work.destination)
        seconds = float(work.state["seconds"])
        work.publish()
        return size, seconds

    def _sink(self, scaling: Scaling, work: Work, *, begin: bool) -> Sink:
        shape, chunks, dtype = self.matrix.shape, chunks_for(self.matrix), scaling.dtype
        if self.form == "safetensors":
            note = scaling.note
            return TensorSink(work.matrix, self.name, shape, chunks, dtype, note, begin=begin)
        attributes = {**self.attributes, KEY: scaling.note}
        return ArraySink(work.matrix, shape, chunks, dtype, attributes, begin=begin)


def _form(stream: MatrixStream | None) -> str:
    return "zarr" if stream is None else stream.form


def _path_of(src: Any) -> Path | None:
    """Return where a source lies on this machine, without the place inside it."""
    if isinstance(src, zarr.Array | zarr.Group):
        root = getattr(src.store, "root", None)
        return None if root is None else Path(root).absolute()
    if not isinstance(src, (str, os.PathLike)):
        return None
    text = os.fspath(src).partition("::")[0]
    for scheme in ("file://", "local://"):
        text = text.removeprefix(scheme)
    return None if "://" in text else Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100


def _own_store(
    src: Any, source: Path | None, dst: Any, matrix: Matrix
) -> tuple[Path, dict[str, Any]]:
    """Return the store that is replaced, and the attributes that the new one keeps.

    Nothing else may lie in it, since it would be lost.
    """
    if dst is not None and local_place(dst) != source:
        msg = (
            f"dst: expected nothing, or the source, beside in_place=True, got {os.fspath(dst)!r}; "
            "leave one of them out"
        )
        raise ArgumentError(msg)
    node: Any = None
    if source is not None and source.is_dir() and not _inside(src):
        try:
            node = zarr.open(source, mode="r")
        except (OSError, ValueError, KeyError, TypeError):
            node = None
    reason = _reason(node, matrix)
    if source is not None and node is not None and not reason:
        reason = _foreign(source, PARTS if isinstance(node, zarr.Group) else set())
    if source is None or reason:
        msg = (
            f"in_place: expected {reason or 'a path on this machine'}, got {matrix.name}; name "
            "another place instead"
        )
        raise ArgumentError(msg)
    attributes = dict(node.attrs) if isinstance(node, zarr.Array) else {}
    return source, attributes


def _inside(src: Any) -> bool:
    """Whether a text names something inside of a store."""
    return isinstance(src, (str, os.PathLike)) and "::" in os.fspath(src)


def _foreign(source: Path, parts: set[str]) -> str:
    """Say that a folder has something that is not of its array or group; nothing if it has not."""
    names = {path.name for path in source.iterdir()} - METADATA - parts
    if not parts:
        names = {name for name in names if not CHUNK.fullmatch(name)}
    held = ", ".join(sorted(map(shown, names))[:3])
    return f"a store with nothing else in its folder (not one beside {held})" if names else ""


def _reason(node: Any, matrix: Matrix) -> str:
    """Say what a store would have to be, to be replaced; nothing if it is that."""
    if isinstance(node, zarr.Array):
        key = named_convention(node.attrs)
        if node.shape != matrix.shape:
            return "a Zarr array of two dimensions"
        return "" if key is None else f"an array without the attribute {key}, which packs numbers"
    if isinstance(node, zarr.Group):
        others = {name for name, _ in node.members()} - PARTS
        others |= set(node.attrs) - OWN
        if others or getattr(matrix, "format", "") not in ("csr", "csc"):
            held = f" beside {', '.join(sorted(others))}" if others else ""
            return f"a sparse group of AnnData's with nothing else in it (not one{held})"
        return ""
    return "a Zarr array or a sparse group that is a store of its own"


def _size(place: Path) -> int:
    if place.is_file():
        return place.stat().st_size
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
