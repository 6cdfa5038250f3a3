"""GGUF, of llama.cpp: a header of typed fields, then tensors, many of them quantised in blocks.

The format is described at https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The header is
read here, since the package's own reader believes every count in it; blocks are decoded by the
package, one tensor at a time. Shapes are written fastest dimension first, and reversed here.
`Model.notes["metadata"]` has the fields that are numbers and texts (not the vocabulary).
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.errors import BigspecError, SourceError, needs
from bigspec.kernels.buffers import Buffers
from bigspec.networks.formats.file_tensors import (
    PAGE,
    Extent,
    FileTensor,
    check_extents,
    check_shape,
    finished,
)
from bigspec.networks.formats.shards import found_shards
from bigspec.networks.tensors import Model, Tensor, called
from bigspec.sources.file_bytes import Content, LocalContent, Reading

__all__ = ["MAGIC", "open_gguf"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
"""Types of fields, and how `struct` reads them."""
STRING, ARRAY = 8, 9
LONGEST = 1 << 16
"""Bytes of a name, at most."""
LONGEST_TEXT = 16 << 20
DEEPEST = 4
MOST_ENTRIES = 1 << 18
"""Tensors, and fields, in a file."""
PLAIN = {
    0: "float32", 1: "float16", 24: "int8", 25: "int16", 26: "int32", 27: "int64", 28: "float64",
    30: "bfloat16",
}  # fmt: skip
"""Types of tensors that are numbers as they are."""
SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True, kw_only=True)
class QuantisedTensor(FileTensor):
    """A tensor in blocks, decoded by the package: float32.

    Attributes
    ----------
    kind : int
        The number of its type.
    row : int
        Bytes of what lies along the last dimension.
    """

    kind: int
    row: int

    def steps(self, depth: int) -> tuple[int, int]:
        """A page of a file is read whole, and so are blocks of numbers."""
        inner = max(math.prod(self.shape[depth + 1 :]), 1)
        if not isinstance(self.content, LocalContent) or not self.row:
            return 1, inner
        block = self.block
        size = self.row * block // self.shape[-1]
        return 1, min(max(PAGE // size, 1) * block, inner)

    @property
    def block(self) -> int:
        """Numbers of a block."""
        package = _package(self.file)
        return int(package.GGML_QUANT_SIZES[package.GGMLQuantizationType(self.kind)][0])

    def rectangle(
        self, lead: tuple[int, ...], rows: slice, columns: slice, buffers: Buffers
    ) -> np.ndarray[Any, Any]:
        """Decode the blocks of a part.

        Raises
        ------
        SourceError
            See `read`.
        """
        self.check_readable()
        inner, block = math.prod(self.shape[len(lead) + 1 :]), self.block
        length = inner // self.shape[-1] * self.row if len(self.shape) > len(lead) + 1 else 0
        if not length:  # the rows are numbers of one row of blocks
            return super(FileTensor, self).rectangle(lead, rows, columns, buffers)
        first, count = self._row(lead, rows.start), rows.stop - rows.start
        what = called(self.name)
        raw = self.content.at(self.start + first * length, count * length, what)
        size = length * block // inner
        begin, end = columns.start // block, -(-columns.stop // block)
        part = raw.reshape(count, length)[:, begin * size : end * size]
        skip = begin * block
        return self._values(part)[:, columns.start - skip : columns.stop - skip]

    def _decoded(self, raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        rows = raw.reshape(-1, self.row) if self.row else raw.reshape(0, 0)
        return self._values(rows).reshape(self.shape)

    def _values(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Decode rows of whole blocks."""
        package = _package(self.file)
        if not rows.size:
            return np.empty((len(rows), 0), np.float32)
        blocks = np.ascontiguousarray(rows)
        with np.errstate(all="ignore"):  # a scale that is NaN gives NaN, and is counted later
            values = package.quants.dequantize(blocks, package.GGMLQuantizationType(self.kind))
        return np.asarray(values, np.float32).reshape(len(rows), -1)


def open_gguf(content: Content) -> Model:
    """List the tensors of a file, and of the others if it is one of a split.

    Raises
    ------
    SourceError
        The package is not here; a part is missing (all are named); the header is cut short, or
        says what the file cannot hold.
    """
    _package(content.name)
    split = SPLIT.fullmatch(content.name.rpartition("/")[2].partition("?")[0])
    count = int(split[3]) if split else 1
    if split is None or count < 2:
        fields, tensors = _file(content)
        _check_split(fields, 1, 0, content.name)
        return finished(content.name, "gguf", tensors, {"metadata": fields})
    parts = _parts(content, split[1], count)
    notes: dict[str, Any] = {}
    found: list[Tensor] = []
    for number, part in enumerate(parts):
        fields, tensors = _file(part)
        _check_split(fields, count, number, part.name)
        notes = notes or {"metadata": fields}
        found += tensors
    return finished(content.name, "gguf", found, notes)


def _parts(content: Content, begin: str, count: int) -> list[Content]:
    names = [f"{begin}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    return found_shards(content.name, names, content.beside, "parts")


def _check_split(fields: dict[str, Any], count: int, number: int, file: str) -> None:
    said = (fields.get("split.count", count), fields.get("split.no", number))
    if said[0] in (0, 1) and count == 1:
        return
    if said != (count, number):
        msg = (
            f"{file}: expected part {number} of {count}, as its name says, got part {said[1]} of "
            f"{said[0]}, as its header says; keep the names that the parts were written with"
        )
        raise SourceError(msg)


def _file(content: Content) -> tuple[dict[str, Any], list[FileTensor]]:
    header = _Header(content)
    try:
        return header.read()
    except BigspecError:
        raise
    except (ValueError, struct.error, OverflowError) as error:
        msg = (
            f"{content.name}: its header cannot be read at byte {header.reading.tell()} ({error}); "
            "the file was cut short or damaged: copy it again"
        )
        raise SourceError(msg) from error


class _Header:
    """The header of one file, read from its first byte to the first tensor."""

    def __init__(self, content: Content) -> None:
        self.content, self.file = content, content.name
        self.reading = Reading(content)
        self.order = "<"

    def read(self) -> tuple[dict[str, Any], list[FileTensor]]:
        """Return its fields and its tensors."""
        magic = self.reading.exactly(4)
        (version,) = self._take("I")
        if magic == MAGIC and version & 0xFFFF == 0 and version:
            self.order, version = ">", int.from_bytes(version.to_bytes(4, "little"), "big")
        if magic != MAGIC or version not in VERSIONS:
            msg = f"{self.file}: expected GGUF of version 2 or 3, got version {version}"
            raise SourceError(msg)
        tensors, fields = self._take("QQ")
        self._room(tensors, 24, "tensors", MOST_ENTRIES)
        self._room(fields, 13, "fields", MOST_ENTRIES)
        known: dict[str, Any] = {}
        for _ in range(fields):
            key = self._text(LONGEST)
            value = self._value(self._take("I")[0], 0)
            if key in known:
                msg = f"the field {key[:80]!a} is there twice"
                raise ValueError(msg)
            known[key] = value
        entries = [self._entry() for _ in range(tensors)]
        alignment = known.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            msg = f"the alignment is {alignment!a:.40}, not a power of two"
            raise ValueError(msg)
        begin = -(-self.reading.tell() // alignment) * alignment
        made = [self._tensor(*entry, begin, alignment) for entry in entries]
        extents = (Extent(t.start, t.start + t.nbytes, t.name) for t in made)
        check_extents(
            extents, min(begin, self.content.size), self.content.size, alignment, self.file
        )
        return {k: v for k, v in known.items() if v is not None}, made

    def _take(self, kinds: str) -> tuple[Any, ...]:
        form = struct.Struct(self.order + kinds)
        return form.unpack(self.reading.exactly(form.size))

    def _room(self, count: int, least: int, what: str, most: int = 1 << 62) -> None:
        left = self.content.size - self.reading.tell()
        if count > min(left // least, most):
            msg = f"{count} {what} are announced, and {left} bytes follow"
            raise ValueError(msg)

    def _text(self, most: int) -> str:
        (length,) = self._take("Q")
        if length > most:
            msg = f"a text of {length} bytes, where {most} are the most"
            raise ValueError(msg)
        return self.reading.exactly(length).decode()

    def _value(self, kind: int, depth: int) -> Any:
        """Return a number or a text; None for an array, which is passed over."""
        if kind in SCALARS:
            return self._take(SCALARS[kind])[0]
        if kind == STRING:
            return self._text(LONGEST_TEXT)
        if kind != ARRAY or depth >= DEEPEST:
            msg = f"a field of type {kind} in {depth} arrays"
            raise ValueError(msg)
        inner, count = self._take("IQ")
        if inner in SCALARS:
            size = struct.calcsize("<" + SCALARS[inner])
            self._room(count, size, "numbers")
            self.reading.seek(count * size, 1)
            return None
        self._room(count, 8, "texts")
        for _ in range(count):
            if inner == STRING:
                self._skip_text()
            else:
                self._value(inner, depth + 1)
        return None

    def _skip_text(self) -> None:
        (length,) = self._take("Q")
        self._room(length, 1, "bytes of a text")
        self.reading.seek(length, 1)

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text(LONGEST)
        (dims,) = self._take("I")
        if dims > 8:
            msg = f"{called(name)} has {dims} dimensions"
            raise ValueError(msg)
        shape = tuple(reversed(self._take("Q" * dims)))
        kind, offset = self._take("IQ")
        return name, check_shape(shape, name, self.file), kind, offset

    def _tensor(
        self, name: str, shape: tuple[int, ...], kind: int, offset: int, *places: int
    ) -> FileTensor:
        begin, alignment = places
        if offset % alignment:
            msg = f"{called(name)} lies at {offset}, not a multiple of {alignment}"
            raise ValueError(msg)
        block, size, label = _block(kind, name, self.file)
        last = shape[-1] if shape else 1
        if last % block:
            msg = f"{called(name)} has rows of {last} numbers, not whole blocks of {block}"
            raise ValueError(msg)
        start, row = begin + offset, last // block * size
        rest = (name, self.file, shape, row * math.prod(shape[:-1]))
        if kind in PLAIN:
            return _made(FileTensor, self.content, rest, start, dtype=label, order=self.order)
        refusal = _refusal(kind, label, self.file)
        if self.order == ">":
            refusal = "blocks of machines that write the highest byte first are not decoded"
        more = {"dtype": label, "refusal": refusal, "kind": kind, "row": row}
        return _made(QuantisedTensor, self.content, rest, start, **more)


def _made(
    made: type[FileTensor], content: Content, rest: Any, start: int, **more: Any
) -> FileTensor:
    name, file, shape, nbytes = rest
    return made(
        name=name, file=file, shape=shape, nbytes=nbytes, content=content, start=start, **more
    )


def _block(kind: int, name: str, file: str) -> tuple[int, int, str]:
    """Return numbers and bytes of a block, and what the type is called."""
    package = _package(file)
    try:
        known = package.GGMLQuantizationType(kind)
        numbers, size = package.GGML_QUANT_SIZES[known]
    except (ValueError, KeyError) as error:
        msg = (
            f"{file}: {called(name)} is of type {kind}, which this version of the package gguf "
            "does not know; pip install -U gguf"
        )
        raise SourceError(msg) from error
    return numbers, size, PLAIN.get(kind, str(known.name))


def _refusal(kind: int, label: str, file: str) -> str | None:
    """Say why blocks of a type cannot be decoded, if so: one of zeros is tried."""
    package = _package(file)
    known = package.GGMLQuantizationType(kind)
    size = package.GGML_QUANT_SIZES[known][1]
    try:
        with np.errstate(all="ignore"):
            package.quants.dequantize(np.zeros((1, size), np.uint8), known)
    except NotImplementedError:
        return f"the package gguf has no decoder for {label}"
    return None


def _package(file: str) -> Any:
    try:
        import gguf
        import gguf.quants
    except ImportError as error:
        msg = f"{file}: {needs('GGUF', 'gguf', 'gguf')}"
        raise SourceError(msg) from error
    return gguf
