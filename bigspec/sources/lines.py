"""The entries of each row (column) of a stored matrix: pointers, listed rows, coordinates.

The *lines* of a sparse matrix are its rows in CSR, DCSR and row-wise COO, and its columns in the
others. Each class returns the first entries of a range of lines. Its `cut` chooses the cuts of the
axis, for which it reads its vectors once, in ranges.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from bigspec.errors import DataError, format_bytes
from bigspec.kernels.buffers import Buffers

__all__ = [
    "CELL_BYTES",
    "Coordinates",
    "Cuts",
    "Lines",
    "ListedPointers",
    "Pointers",
    "Unsorted",
    "Vector",
]

Array = np.ndarray[Any, Any]

CELL_BYTES = 8 << 20
"""About how many bytes of entries lie between two cuts."""
RANGE = 1 << 20
"""Pointers or coordinates to read at once while a store is opened."""
TALLEST = 1 << 20
"""Most lines between two cuts where empty lines are not stored: there may be any number of them."""
MOST_TALL = 1 << 16
"""Most cuts because of empty lines; a matrix of more lines is cut farther apart."""
PROBED_BYTES = 1 << 30
"""Pointers of more bytes, and of more than fit, are first checked in a few places."""
PROBES = 64


class Vector(Protocol):
    """A stored 1-D array that is read in ranges: `ZarrVector`, `HDF5Vector`, a decoded one."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def where(self) -> str:
        """Path or URL."""

    @property
    def token(self) -> str:
        """Changes when it is written again."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its elements."""

    @property
    def chunk(self) -> int:
        """Elements that are decoded together."""

    @property
    def chunk_nbytes(self) -> int:
        """Bytes of a decoded chunk."""

    @property
    def resident(self) -> bool:
        """Whether it lies in this process."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int, buffers: Buffers, scratch: str) -> Array:
        """Read a range into the buffer called `scratch`."""


class Unsorted(Exception):  # noqa: N818 - never leaves this package
    """Coordinates that are not sorted by line, with the place of the first such entry."""


@dataclass(frozen=True)
class Cuts:
    """The cuts of the lines.

    Attributes
    ----------
    lines : tuple of int
        ``0, ..., length``.
    pointers : tuple of int
        How many entries lie before each of them.
    places : tuple of int
        How many stored lines lie before each of them but the last.
    most : int
        Most entries between two cuts.
    """

    lines: tuple[int, ...]
    pointers: tuple[int, ...]
    places: tuple[int, ...]
    most: int


@dataclass(frozen=True)
class Pointers:
    """A pointer for every line and one for the end: CSR, CSC."""

    indptr: Vector
    stored: int
    name: str

    @property
    def parts(self) -> tuple[Vector, ...]:
        """What it reads."""
        return (self.indptr,)

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return len(self.indptr) * self.indptr.dtype.itemsize

    def read(self, cut: slice, buffers: Buffers) -> Array:
        """Return the pointers (int64) of a range of lines, and of its end."""
        pointers = _integers(self.indptr, cut.start, cut.stop + 1, buffers, "sparse.indptr")
        if np.any(np.diff(pointers) < 0) or not 0 <= pointers[0] <= pointers[-1] <= self.stored:
            msg = (
                f"{self.name}: expected pointers that never decrease, from 0 to {self.stored}, "
                f"got others among {self.indptr.name.rpartition('/')[2]}[{cut.start}:"
                f"{cut.stop + 1}]; write the matrix again"
            )
            raise DataError(msg)
        return pointers

    def check(self, minors: int, memory: int) -> None:
        """Refuse a great many pointers if they stay constant over whole stretches of lines.

        Raises
        ------
        DataError
        """
        _check_moves(self.indptr, self.nbytes, 0, memory, self.name)

    def ranges(self) -> Iterator[tuple[Array, Array, int]]:
        """Yield ``(lines, pointers, first line)`` of all lines, checked."""
        return _all_pointers(self.indptr, self.stored, self.name)

    def cut(self, length: int, entries: int) -> tuple[Pointers, Cuts]:
        """Cut about every `entries` entries; return the pointers for these cuts, and the cuts."""
        return self, _cut(self.ranges(), length, entries, None)


@dataclass(frozen=True)
class ListedPointers:
    """Pointers of the lines that are not empty, and their numbers: DCSR, DCSC.

    `at` and `places` are set by `cut`: the cuts, and how many of the list lie before each.
    """

    listed: Vector
    indptr: Vector
    stored: int
    name: str
    at: tuple[int, ...] = ()
    places: tuple[int, ...] = ()

    @property
    def parts(self) -> tuple[Vector, ...]:
        """What it reads."""
        return (self.listed, self.indptr)

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return sum(len(part) * part.dtype.itemsize for part in self.parts)

    def read(self, cut: slice, buffers: Buffers) -> Array:
        """Return the pointers (int64) of a range of lines, and of its end."""
        first, last = _places(self.at, self.places, cut)
        lines = _integers(self.listed, first, last, buffers, "sparse.listed")
        wrong = lines.size and (
            lines[0] < cut.start or lines[-1] >= cut.stop or np.any(np.diff(lines) <= 0)
        )
        if wrong:
            raise DataError(_changed(self.name, self.listed, first, last))
        pointers = _integers(self.indptr, first, last + 1, buffers, "sparse.indptr")
        if np.any(np.diff(pointers) < 0) or not 0 <= pointers[0] <= pointers[-1] <= self.stored:
            raise DataError(_changed(self.name, self.indptr, first, last + 1))
        spread = np.zeros(cut.stop - cut.start + 1, np.int64)
        spread[0] = pointers[0]
        spread[lines - cut.start + 1] = np.diff(pointers)
        return spread.cumsum()

    def check(self, minors: int, memory: int) -> None:
        """Refuse a great many pointers if they stay constant; see `Pointers`."""
        _check_moves(self.indptr, self.nbytes, 0, memory, self.name)

    def cut(self, length: int, entries: int) -> tuple[ListedPointers, Cuts]:
        """Cut about every `entries` entries, or `TALLEST` lines; see `Pointers`."""
        cuts = _cut(self._stream(length), length, entries, _tallest(length))
        places = (*cuts.places, len(self.listed))
        return replace(self, at=cuts.lines, places=places), cuts

    def _stream(self, length: int) -> Iterator[tuple[Array, Array, int]]:
        pointers = _all_pointers(self.indptr, self.stored, self.name)
        before = -1
        for _, chunk, start in pointers:
            stop = min(start + len(chunk), len(self.listed))
            lines = _integers(self.listed, start, stop, Buffers(), "sparse.listed")
            _check_range(self.listed, lines, start, length, self.name)
            if lines.size and (lines[0] <= before or np.any(np.diff(lines) <= 0)):
                msg = (
                    f"{self.name}: expected increasing numbers without repetition, got others "
                    f"among {self.listed.name.rpartition('/')[2]}[{start}:{stop}]; write the "
                    "matrix again"
                )
                raise DataError(msg)
            before = int(lines[-1]) if lines.size else before
            if stop - start < len(chunk):  # the pointer of the end
                lines = np.append(lines, length)
            yield lines, chunk, start


@dataclass(frozen=True)
class Coordinates:
    """The line of every entry, sorted: COO.

    `at` and `places` are set by `cut`: the cuts, and how many of the list lie before each.
    """

    listed: Vector
    stored: int
    name: str
    at: tuple[int, ...] = ()
    places: tuple[int, ...] = ()

    @property
    def parts(self) -> tuple[Vector, ...]:
        """What it reads."""
        return (self.listed,)

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return len(self.listed) * self.listed.dtype.itemsize

    def read(self, cut: slice, buffers: Buffers) -> Array:
        """Return the pointers (int64) of a range of lines, and of its end."""
        first, last = _places(self.at, self.places, cut)
        lines = _integers(self.listed, first, last, buffers, "sparse.listed")
        wrong = lines.size and (
            lines[0] < cut.start or lines[-1] >= cut.stop or np.any(np.diff(lines) < 0)
        )
        if wrong:
            raise DataError(_changed(self.name, self.listed, first, last))
        return first + np.searchsorted(lines, np.arange(cut.start, cut.stop + 1)).astype(np.int64)

    def check(self, minors: int, memory: int) -> None:
        """Refuse a great many coordinates if a line has more of them than places."""
        _check_moves(self.listed, self.nbytes, minors, memory, self.name)

    def cut(self, length: int, entries: int) -> tuple[Coordinates, Cuts]:
        """Cut about every `entries` entries, or `TALLEST` lines; see `Pointers`.

        Raises
        ------
        Unsorted
        DataError
            A coordinate is out of range.
        """
        cuts = _cut(self._stream(length), length, entries, _tallest(length))
        return replace(self, at=cuts.lines, places=cuts.pointers), cuts

    def _stream(self, length: int) -> Iterator[tuple[Array, Array, int]]:
        before = -1
        for start in range(0, self.stored, RANGE):
            stop = min(start + RANGE, self.stored)
            lines = _integers(self.listed, start, stop, Buffers(), "sparse.listed")
            _check_range(self.listed, lines, start, length, self.name)
            steps = np.diff(lines, prepend=before)
            if np.any(steps[1:] < 0) or lines[0] < before:
                raise Unsorted(start + int(np.argmax(steps < 0)))
            begins = np.flatnonzero(steps)
            before = int(lines[-1])
            yield lines[begins], start + begins, start
        yield np.array([length]), np.array([self.stored]), self.stored


def _tallest(length: int) -> int:
    return max(TALLEST, -(-length // MOST_TALL))


def _check_moves(vector: Vector, nbytes: int, still: int, memory: int, name: str) -> None:
    """Check every 64th part of a vector that is too long to be read in vain.

    A store of a few bytes can declare any number of lines, and missing chunks read as one value.
    Real pointers grow, and so do real coordinates after `still` of them.
    """
    if nbytes <= max(memory, PROBED_BYTES):
        return
    places = [k * (len(vector) - 1) // PROBES for k in range(PROBES + 1)]
    found = np.array([_integers(vector, at, at + 1, Buffers(), "sparse.probe")[0] for at in places])
    steps = np.diff(found)
    stands = int(np.argmax(steps <= 0))
    if steps[stands] <= 0 and places[1] > still:
        part, first, last = vector.name.rpartition("/")[2], places[stands], places[stands + 1]
        msg = (
            f"{name}: expected values that grow in {part} ({format_bytes(nbytes)}), got "
            f"{found[stands]} at {first} and {found[stands + 1]} at {last}: chunks are missing, or "
            "nearly all rows or columns are empty; leave those out, and write the matrix again"
        )
        raise DataError(msg)


Lines = Pointers | ListedPointers | Coordinates


def _integers(vector: Vector, start: int, stop: int, buffers: Buffers, scratch: str) -> Array:
    return vector.read(start, stop, buffers, scratch).astype(np.int64)


def _places(at: tuple[int, ...], places: tuple[int, ...], cut: slice) -> tuple[int, int]:
    return places[bisect_left(at, cut.start)], places[bisect_left(at, cut.stop)]


def _changed(name: str, vector: Vector, start: int, stop: int) -> str:
    part = vector.name.rpartition("/")[2]
    return (
        f"{name}: expected {part}[{start}:{stop}] as it was when the matrix was opened, got "
        "something else; run again when nothing writes to it"
    )


def _check_range(vector: Vector, lines: Array, start: int, length: int, name: str) -> None:
    if lines.size and (lines.min() < 0 or lines.max() >= length):
        bad = int(np.argmax((lines < 0) | (lines >= length)))
        part = vector.name.rpartition("/")[2]
        msg = (
            f"{name}: expected indices from 0 to {length - 1}, got {part}[{start + bad}] = "
            f"{lines[bad]}; write the matrix again"
        )
        raise DataError(msg)


def _all_pointers(indptr: Vector, stored: int, name: str) -> Iterator[tuple[Array, Array, int]]:
    """Yield ``(numbers, pointers, start)`` of all pointers in ranges, checked."""
    before, buffers = 0, Buffers()
    part = indptr.name.rpartition("/")[2]
    for start in range(0, len(indptr), RANGE):
        stop = min(start + RANGE, len(indptr))
        pointers = _integers(indptr, start, stop, buffers, "sparse.indptr")
        if pointers[0] < before or np.any(np.diff(pointers) < 0) or (start == 0 and pointers[0]):
            msg = (
                f"{name}: expected pointers that begin with 0 and never decrease, got others among "
                f"{part}[{start}:{stop}]; write the matrix again"
            )
            raise DataError(msg)
        before = int(pointers[-1])
        if stop == len(indptr) and before != stored:
            msg = (
                f"{name}: expected the last pointer to be {stored}, got {before}; write the matrix "
                "again"
            )
            raise DataError(msg)
        yield np.arange(start, stop), pointers, start


def _cut(
    stream: Iterator[tuple[Array, Array, int]], length: int, entries: int, tallest: int | None
) -> Cuts:
    """Cut after about `entries` entries, or `tallest` lines.

    `stream` yields stored lines, the pointers of their first entries, and the place of the
    first of them; at its very end the line ``length``.
    """
    cuts, at, places, wanted, total = [0], [0], [0], entries, 0
    for lines, pointers, start in stream:
        total = int(pointers[-1]) if len(pointers) else total
        while True:
            full = int(np.searchsorted(pointers, wanted))
            limit = length if tallest is None else cuts[-1] + tallest
            tall = int(np.searchsorted(lines, limit)) if limit < length else len(lines)
            here = min(full, tall)
            if here == len(lines):
                break
            # A cut may lie at an empty line: its pointer is that of the next stored line.
            line = min(int(lines[here]), limit) if limit < length else int(lines[here])
            if cuts[-1] < line < length:
                cuts.append(line)
                at.append(int(pointers[here]))
                places.append(start + here)
            wanted = int(pointers[here]) + entries
    return Cuts((*cuts, length), (*at, total), tuple(places), int(np.diff([*at, total]).max()))
