"""Tensors that lie in a file as they are: a range of bytes, a type, and maybe strides."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bigspec.errors import SourceError
from bigspec.kernels.buffers import Buffers
from bigspec.networks.formats.types import as_dtype, item_bits, unpacked
from bigspec.networks.tensors import Model, Tensor, called
from bigspec.sources.file_bytes import Content, LocalContent

__all__ = [
    "PAGE",
    "Extent",
    "FileTensor",
    "MemoryTensor",
    "brief",
    "check_extents",
    "check_shape",
    "digest",
    "finished",
    "stored_nbytes",
]

SMALL = 1 << 20
"""Bytes of a tensor that all go into its token."""
SAMPLE = PAGE = 4096
LARGEST = 1 << 62


@dataclass(frozen=True, kw_only=True)
class FileTensor(Tensor):
    """A tensor whose numbers are bytes of a file.

    Attributes
    ----------
    content : Content
        Of that file.
    start : int
        Where they begin; `nbytes` of them are taken.
    strides : tuple of int or None
        Entries from one place to the next along each dimension; None where the last dimension
        runs fastest. They were found to stay inside when the tensor was listed.
    order : {"<", ">"}
        Order of the bytes of a number.
    """

    content: Content = field(repr=False, compare=False)
    start: int
    strides: tuple[int, ...] | None = None
    order: str = "<"

    def read(self) -> np.ndarray[Any, Any]:
        """Return the whole tensor: a view of the file where it is mapped and needs no decoding.

        Raises
        ------
        SourceError
            The bytes are not there, it has no numbers, or the package for its type is not here.
        """
        self.check_readable()
        return self._decoded(self.content.at(self.start, self.nbytes, called(self.name)))

    def token(self) -> str:
        """Digest all bytes of a small tensor; of a large one some, and what its file says."""
        head = repr((self.shape, self.dtype, self.strides, self.order))
        if self.nbytes <= SMALL:
            return digest(head, self.content.at(self.start, self.nbytes, called(self.name)))
        step = (self.nbytes - SAMPLE) // (self.content.samples - 1)
        places = (self.start + k * step for k in range(self.content.samples))
        parts = [self.content.at(place, SAMPLE, called(self.name)) for place in places]
        return digest(head, self.content.evidence, self.start, *parts)

    @property
    def streams(self) -> bool:
        """A range of rows is a range of bytes."""
        return True

    def steps(self, depth: int) -> tuple[int, int]:
        """A page of a file is read whole, and a row of one behind a URL."""
        inner = max(math.prod(self.shape[depth + 1 :]), 1)
        if not isinstance(self.content, LocalContent):
            return 1, inner
        return 1, min(8 * PAGE // item_bits(self.dtype), inner)

    def rectangle(
        self, lead: tuple[int, ...], rows: slice, columns: slice, buffers: Buffers
    ) -> np.ndarray[Any, Any]:
        """Read a part as a matrix; a view of the file where it is mapped.

        Raises
        ------
        SourceError
            See `read`.
        """
        self.check_readable()
        count, inner = rows.stop - rows.start, math.prod(self.shape[len(lead) + 1 :])
        if self.strides is not None:
            view = self._strided(self.content.at(self.start, self.nbytes, called(self.name)))
            return self._native(view[lead][rows].reshape(count, inner)[:, columns])
        first = self._row(lead, rows.start) * inner
        return self._run(first, count * inner).reshape(count, inner)[:, columns]

    def _row(self, lead: tuple[int, ...], row: int) -> int:
        """Return how many rows lie before one, at these places along the first axes."""
        before = 0
        for place, extent in zip((*lead, row), self.shape, strict=False):
            before = before * extent + place
        return before

    def _run(self, first: int, count: int) -> np.ndarray[Any, Any]:
        """Return numbers that follow one another in the file."""
        bits = item_bits(self.dtype)
        begin, end = first * bits // 8, -(-(first + count) * bits // 8)
        raw = self.content.at(self.start + begin, end - begin, called(self.name))
        if bits >= 8:
            return self._native(self._numbers(raw))
        skip = (first * bits - 8 * begin) // bits
        values = unpacked(raw, bits, skip + count)[skip:]
        return values.view(as_dtype(self.dtype, self.file))

    def _decoded(self, raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if self.strides is not None:
            return self._native(self._strided(raw))
        bits = item_bits(self.dtype)
        if bits < 8:
            values = unpacked(raw, bits, self.size).view(as_dtype(self.dtype, self.file))
        else:
            values = self._native(self._numbers(raw))
        return values.reshape(self.shape)

    def _numbers(self, raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return bytes as numbers in the order of the file."""
        dtype = as_dtype(self.dtype, self.file)
        # NumPy turns no bytes of types that are not its own.
        plain = np.dtype(f"u{dtype.itemsize}") if dtype.kind == "V" else dtype
        return raw.view(plain.newbyteorder(self.order))  # type: ignore[arg-type]

    def _native(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return numbers in the order of this machine, and of their own type."""
        native = values.astype(values.dtype.newbyteorder("="), copy=False)
        return native.view(as_dtype(self.dtype, self.file))

    def _strided(self, raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        values = self._numbers(raw)
        steps = tuple(step * values.itemsize for step in self.strides or ())
        return np.lib.stride_tricks.as_strided(values, self.shape, steps, writeable=False)


@dataclass(frozen=True, kw_only=True)
class MemoryTensor(Tensor):
    """A tensor whose numbers came with the header, and stay in memory.

    Attributes
    ----------
    values : ndarray or None
    """

    values: np.ndarray[Any, Any] | None = field(default=None, repr=False, compare=False)

    @property
    def streams(self) -> bool:
        """It is in memory already."""
        return True

    def read(self) -> np.ndarray[Any, Any]:
        """Return the values.

        Raises
        ------
        SourceError
            There are none.
        """
        if self.values is None:
            reason = self.refusal or "its file does not hold them"
            msg = f"{self.file}: {called(self.name)} has no numbers to read: {reason}"
            raise SourceError(msg)
        return self.values

    def token(self) -> str:
        """Digest the values."""
        raw = b"" if self.values is None else np.ascontiguousarray(self.values).tobytes()
        return digest(repr((self.shape, self.dtype)), raw)


def brief(value: Any) -> str:
    """Return what a message shows of a value from a header: numbers and lists of them, cut."""
    if isinstance(value, (list, tuple)):
        inner = [brief(v) if type(v) in (int, bool, float) else "..." for v in value[:8]]
        return f"[{', '.join(inner)}{', ...' if len(value) > 8 else ''}]"
    if type(value) is int and value.bit_length() > 128:  # Python refuses to write some
        return f"a number of {value.bit_length()} bits"
    return str(value) if type(value) in (int, bool, float) else type(value).__name__


def digest(*parts: Any) -> str:
    """Return a digest of texts, numbers and bytes."""
    found = hashlib.sha256()
    for part in parts:
        raw = part.data if isinstance(part, np.ndarray) else part
        raw = str(raw).encode() if isinstance(raw, (str, int)) else raw
        found.update(b"%d:" % len(raw))
        found.update(raw)
    return found.hexdigest()[:32]


def check_shape(shape: Any, name: str, file: str) -> tuple[int, ...]:
    """Return a shape of a header as a tuple.

    Raises
    ------
    SourceError
        It is no list of lengths from 0 on, or its product fits no file.
    """
    fine = isinstance(shape, (list, tuple)) and len(shape) <= 64
    fine = fine and all(type(extent) is int and 0 <= extent < LARGEST for extent in shape)
    if not fine or math.prod(filter(None, shape)) >= LARGEST:
        msg = (
            f"{file}: expected a shape of whole lengths from 0 on, whose product fits 62 bits, for "
            f"{called(name)}, got {brief(shape)}"
        )
        raise SourceError(msg)
    return tuple(shape)


def stored_nbytes(shape: tuple[int, ...], dtype: str, name: str, file: str) -> int:
    """Return the bytes that a tensor takes in a file.

    Raises
    ------
    SourceError
        Numbers of less than a byte do not fill whole bytes.
    """
    bits = math.prod(shape) * item_bits(dtype)
    if bits % 8:
        msg = f"{file}: {called(name)} has {bits} bits of {dtype}, which are not whole bytes"
        raise SourceError(msg)
    return bits // 8


@dataclass(frozen=True)
class Extent:
    """A range of bytes that a header gives to a tensor."""

    start: int
    stop: int
    name: str


def check_extents(extents: Iterable[Extent], begin: int, end: int, gap: int, file: str) -> None:
    """Refuse ranges that overlap, lie outside, or leave holes.

    Parameters
    ----------
    extents : iterable of Extent
    begin, end : int
        Where the numbers of the file begin and end.
    gap : int
        Fewer bytes than this may lie between two tensors, or after the last one.
    file : str
        What messages call the file.

    Raises
    ------
    SourceError
        Names the tensor, and the one before it.
    """
    place, before = begin, "its header"
    for extent in sorted(extents, key=lambda extent: (extent.start, extent.stop)):
        what = called(extent.name)
        if extent.start < begin or extent.stop > end:
            msg = (
                f"{file}: expected {what} within bytes {begin} to {end}, got {extent.start} to "
                f"{extent.stop}; the file was cut short, or its header is wrong: copy it again"
            )
            raise SourceError(msg)
        if extent.start < place:
            msg = f"{file}: {what} overlaps {before}: it begins at byte {extent.start}, not {place}"
            raise SourceError(msg)
        if extent.start - place >= gap:
            msg = f"{file}: bytes {place} to {extent.start}, before {what}, belong to no tensor"
            raise SourceError(msg)
        place, before = extent.stop, what
    if end - place >= gap:
        msg = f"{file}: bytes {place} to {end}, at its end, belong to no tensor"
        raise SourceError(msg)


def finished(
    name: str,
    format: str,  # noqa: A002 - as `Model` calls it
    tensors: Iterable[Tensor],
    notes: Mapping[str, Any] | None = None,
) -> Model:
    """Return a model, whose tensors have names that can be told apart and written down.

    Raises
    ------
    SourceError
        A name is not a text, or two tensors share one.
    """
    found: dict[str, Tensor] = {}
    for tensor in tensors:
        try:
            tensor.name.encode()
        except UnicodeEncodeError as error:
            msg = (
                f"{tensor.file}: {called(tensor.name)} has a name that is not a text; write it "
                "again"
            )
            raise SourceError(msg) from error
        other = found.setdefault(tensor.name, tensor)
        if other is not tensor:
            files = tensor.file if tensor.file == other.file else f"{other.file} and {tensor.file}"
            msg = f"{name}: expected one {called(tensor.name)}, got two, in {files}"
            raise SourceError(msg)
    return Model(name, format, found, notes or {})
