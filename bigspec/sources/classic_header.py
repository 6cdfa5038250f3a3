"""Where each variable of a classic netCDF file lies, by the header alone.

The format is in the NetCDF User's Guide, "The NetCDF Classic Format Specification": big-endian, all
parts padded to four bytes. Variables with the record dimension are interleaved, record by record.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bigspec.errors import SourceError
from bigspec.sources.file_bytes import Reading
from bigspec.sources.hdf5_ranges import pieces_of
from bigspec.sources.ranges import Ranges

if TYPE_CHECKING:
    from bigspec.sources.file_bytes import Content

__all__ = ["ClassicHeader", "read_header"]

TYPES = {1: "i1", 2: "S1", 3: ">i2", 4: ">i4", 5: ">f4", 6: ">f8"}
DIMENSIONS, VARIABLES, ATTRIBUTES = 10, 11, 12
STREAMING = 2**32 - 1
MOST = 1 << 20
"""Elements of a list: a damaged header may claim any number."""


@dataclass(frozen=True)
class ClassicHeader:
    """A variable as the header describes it.

    Attributes
    ----------
    dimensions : tuple of str
    shape : tuple of int
    dtype : numpy.dtype
        As stored, big-endian.
    attrs : dict
    begin : int
        Byte of its first entry.
    stride : int
        Bytes from one record to the next; 0 for a variable without the record dimension.
    """

    dimensions: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attrs: dict[str, Any]
    begin: int
    stride: int

    def ranges(self) -> Ranges:
        """Return where its entries lie, as contiguous ranges."""
        inner = math.prod(self.shape[1:]) * self.dtype.itemsize
        if not self.stride or self.stride == inner:
            steps, starts, lengths = pieces_of(self.shape, self.dtype.itemsize)
            return Ranges(self.shape, steps, self.dtype, 0, (), starts + self.begin, lengths)
        steps, starts, lengths = pieces_of(self.shape[1:], self.dtype.itemsize)
        records = np.arange(self.shape[0], dtype=np.int64)[:, None] * self.stride + self.begin
        every = (records + starts).ravel()
        lengths = np.broadcast_to(lengths, (self.shape[0], lengths.size)).ravel()
        return Ranges(self.shape, (1, *steps), self.dtype, 0, (), every, lengths)


def read_header(content: Content, name: str) -> dict[str, ClassicHeader]:
    """Return the variables of a file by their paths; no entry is read.

    Raises
    ------
    SourceError
        The header is damaged, or the file is still being written.
    """
    try:
        return _Parser(Reading(content), name).variables()
    except ValueError as error:
        msg = f"{name}: expected a classic netCDF file, got one whose header is damaged ({error})"
        raise SourceError(msg) from error


class _Parser:
    def __init__(self, stream: Reading, name: str) -> None:
        self.stream, self.name = stream, name
        self.wide = stream.exactly(4)[3] == 2  # offsets of eight bytes

    def number(self, size: int = 4) -> int:
        return int.from_bytes(self.stream.exactly(size), "big")

    def text(self) -> str:
        return self.padded(self.number()).decode("utf-8", "replace")

    def padded(self, length: int) -> bytes:
        return self.stream.exactly(length + -length % 4)[:length]

    def count(self, kind: int) -> int:
        """Return the length of a list, whose tag must be `kind`, or 0 for none."""
        tag, count = self.number(), self.number()
        if (tag != kind and (tag or count)) or count > MOST:
            msg = f"a list of {count} with the tag {tag}, where {kind} belongs"
            raise ValueError(msg)
        return count

    def kind(self) -> np.dtype[Any]:
        code = self.number()
        if code not in TYPES:
            msg = f"a type {code}"
            raise ValueError(msg)
        return np.dtype(TYPES[code])

    def attributes(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(self.count(ATTRIBUTES)):
            key, dtype, count = self.text(), self.kind(), self.number()
            raw = self.padded(count * dtype.itemsize)
            found[key] = raw if dtype.kind == "S" else np.frombuffer(raw, dtype)
        return found

    def variables(self) -> dict[str, ClassicHeader]:
        records = self.number()
        if records == STREAMING:
            msg = (
                f"{self.name}: its header does not say how many records it has; close it where it "
                "is written, or copy it"
            )
            raise SourceError(msg)
        dims = [(self.text(), self.number()) for _ in range(self.count(DIMENSIONS))]
        self.attributes()
        found = [self.variable(dims, records) for _ in range(self.count(VARIABLES))]
        recorded = [held for _, held, growing in found if growing]
        sizes = [math.prod(held.shape[1:]) * held.dtype.itemsize for held in recorded]
        # A single variable with records is not padded.
        stride = sizes[0] if len(sizes) == 1 else sum(size + -size % 4 for size in sizes)
        return {
            f"/{key}": ClassicHeader(
                held.dimensions,
                held.shape,
                held.dtype,
                held.attrs,
                held.begin,
                stride if growing else 0,
            )
            for key, held, growing in found
        }

    def variable(
        self, dims: list[tuple[str, int]], records: int
    ) -> tuple[str, ClassicHeader, bool]:
        key, rank = self.text(), self.number()
        places = [self.number() for _ in range(min(rank, MOST))]
        if any(place >= len(dims) for place in places):
            msg = f"the variable {key!a} has a dimension that does not exist"
            raise ValueError(msg)
        attrs, dtype = self.attributes(), self.kind()
        self.number()  # its size, which is wrong for large variables
        begin = self.number(8 if self.wide else 4)
        growing = bool(places) and dims[places[0]][1] == 0
        shape = tuple(dims[place][1] for place in places)
        shape = (records, *shape[1:]) if growing else shape
        names = tuple(dims[place][0] for place in places)
        return key, ClassicHeader(names, shape, dtype, attrs, begin, 0), growing
