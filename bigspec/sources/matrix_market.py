"""Matrix Market as a stream: blocks of whole lines, each checked and then parsed by SciPy.

`scipy.io.mmread` (the C++ of fast_matrix_market) reads a block like a whole file, behind a header
of its own. That takes 310 MB/s at blocks of 4 MB, as fast as the whole file, against 73 to 106 MB/s
of pandas, numpy.fromstring and numpy.loadtxt.

Format: Boisvert, Pozo, Remington, NISTIR 5935 (1996).
"""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import scipy.io

from bigspec.errors import DataError
from bigspec.sources.market_header import (
    DAMAGED,
    Header,
    read_header,
)
from bigspec.sources.market_text import BadLine, Spelling

__all__ = ["BLOCK_BYTES", "Entries", "Market", "expand", "open_market"]

Array = np.ndarray[Any, Any]

LINE_BYTES = 1 << 16
"""A line longer than this is not an entry."""
BLOCK_BYTES = 4 << 20
SPARE_BYTES = 16 << 20
"""Bytes of blank lines and comments, besides `ENTRY_BYTES` an entry: packed, they take no room."""
ENTRY_BYTES = 256
_LINE = re.compile(r"Line (\d+): (.*)")
Position = list[int]


@dataclass(frozen=True)
class Entries:
    """Some entries as they are stored: `rows`, `columns` (k,) from 0, `values` (k,).

    The next ones begin at `after`, and `nbytes` were read for these.
    """

    rows: Array
    columns: Array
    values: Array
    after: Position
    nbytes: int


@dataclass(frozen=True)
class Market:
    """A Matrix Market file, ``coordinate`` or ``array``, read in blocks from any position on.

    Attributes
    ----------
    name : str
        Its name in messages.
    path : Path
    header : Header
    """

    name: str
    path: Path
    header: Header

    @property
    def spelling(self) -> Spelling:
        """The spelling of its lines."""
        return Spelling(self.header.field, 2 if self.header.coordinate else 0)

    def blocks(self, wanted: int, position: Position) -> Iterator[Entries]:
        """Parse blocks of about `wanted` bytes.

        A position is the offset, the lines and entries before it, and the triangle of the entries
        (1 the lower one, -1 the upper one, 0 not known yet).

        Raises
        ------
        DataError
            Names the line.
        """
        head = self.header
        offset, line, done, side = [*(position or [*head.body, 0]), 0][:4]
        most = head.body[0] + ENTRY_BYTES * head.announced + SPARE_BYTES
        with _open(self.path) as file:
            try:
                file.seek(offset)
                while block := self._block(file, wanted, line):
                    numbers, values, rows, columns = self._parse(block, line, done)
                    offset, line = offset + len(block), line + _lines(block)
                    done += values.size
                    if done > head.announced or offset > most:
                        raise self._too_much(done > head.announced, line)
                    if values.size == 0:
                        continue
                    side = self._check(rows, columns, values, numbers, side)
                    after = [offset, line, done, side]
                    yield Entries(rows, columns, values, after, len(block))
            except DAMAGED as error:
                msg = f"{self.name}: the file is damaged or cut short after line {line} ({error})"
                raise DataError(msg) from error
        if done < head.announced:
            msg = (
                f"{self.name}: expected {head.announced} entries as the header says, got {done}: "
                f"the file ends after line {line}; it is cut short"
            )
            raise DataError(msg)

    def _too_much(self, entries: bool, line: int) -> DataError:
        announced = self.header.announced
        if entries:
            return DataError(
                f"{self.name}: expected {announced} entries as the header says, got more, the "
                f"first of them at or before line {line}; correct the header"
            )
        return DataError(
            f"{self.name}: expected {announced} entries as the header says, got more than "
            f"{ENTRY_BYTES} bytes for each of them and {SPARE_BYTES >> 20} MiB of comments and "
            f"blank lines up to line {line}; write the file without them"
        )

    def _block(self, file: BinaryIO, wanted: int, line: int) -> bytes:
        block = file.read(wanted)
        if block and not block.endswith(b"\n"):
            block += (rest := file.readline(LINE_BYTES))
            if len(rest) == LINE_BYTES:
                msg = f"{self.name}: line {line + _lines(block)} is longer than {LINE_BYTES} bytes"
                raise DataError(msg)
        return block

    def _parse(
        self, block: bytes, line: int, done: int
    ) -> tuple[range | list[int], Array, Array, Array]:
        """Return ``(numbers of the lines, values, rows, columns)``."""
        plain = self.spelling.plain(block) if block.strip() else b""
        numbers: range | list[int] = range(line + 1, line + 1 + _lines(block))
        try:
            if plain == b"":
                return range(0), *self._read(plain, 0, done)
            if plain is not None:
                try:
                    return numbers, *self._read(plain, len(numbers), done)
                except (ValueError, OverflowError):
                    pass  # the second try names the line
            numbers, lines = self.spelling.spell(block, line)
            return numbers, *self._read(lines, len(numbers), done)
        except BadLine as bad:
            raise self._bad(bad.number, bad.text, bad.why) from bad
        except (ValueError, OverflowError) as error:
            found = _LINE.match(str(error))
            at = min(int(found[1]) - 3, len(numbers) - 1) if found else 0
            text = block.split(b"\n")[numbers[at] - line - 1]
            what = found[2].rstrip(".") if found else str(error)
            raise self._bad(numbers[at], text, what) from error

    def _bad(self, number: int, text: bytes, why: str) -> DataError:
        odd = next((byte for byte in text if byte > 127 or byte == 0), None)
        if odd is not None:
            msg = f"{self.name}: expected text in line {number}, got the byte {odd:#04x}"
            return DataError(msg)
        m, n = self.header.shape
        within = f", indices from 1 to {m} and {n}" if self.header.coordinate else ""
        shown = ascii(text[:60].decode("ascii").strip())
        return DataError(
            f"{self.name}: expected '{self.spelling.expected}' in line {number}{within}; got "
            f"{shown} ({why}). Correct that line"
        )

    def _read(self, lines: bytes, count: int, done: int) -> tuple[Array, Array, Array]:
        """Return ``(values, rows, columns)`` of plain lines; `done` entries come before them."""
        head = self.header
        if count == 0:
            return np.zeros(0, head.dtype), np.zeros(0, np.int32), np.zeros(0, np.int32)
        if not lines.endswith(b"\n"):  # SciPy 1.17 reads past the end after "1 1 2.0 "
            lines += b"\n"
        m, n = head.shape if head.coordinate else (count, 1)
        kind = "coordinate" if head.coordinate else "array"
        sizes = f"{m} {n} {count}" if head.coordinate else f"{m} {n}"
        banner = f"%%MatrixMarket matrix {kind} {head.field} general\n{sizes}\n"
        A: Any = scipy.io.mmread(io.BytesIO(banner.encode() + lines), spmatrix=False)
        if head.coordinate:
            return A.data, A.row, A.col
        if done + count > head.announced:  # their places would lie outside the matrix
            return A[:, 0], np.zeros(count, np.int64), np.zeros(count, np.int64)
        return A[:, 0], *head.places(done, count)

    def _check(
        self,
        rows: Array,
        columns: Array,
        values: Array,
        numbers: range | list[int],
        side: int,
    ) -> int:
        """Refuse entries that contradict the symmetry in the header; return their triangle."""
        symmetry = self.header.symmetry
        if symmetry == "general":
            return side
        sides = np.sign(rows - columns)
        known = side or int(sides[np.argmax(sides != 0)])
        wrong = {
            f"{symmetry}, so that only one triangle is stored, with entries in both": (
                sides * known < 0
            ),
            "skew-symmetric, whose diagonal is 0": (
                (sides == 0) & (values != 0) & (symmetry == "skew-symmetric")
            ),
            "skew-symmetric, and the opposite of this entry does not fit 64 bits": (
                (values == np.iinfo(np.int64).min)
                & (symmetry == "skew-symmetric")
                & (values.dtype.kind == "i")
            ),
            "hermitian, whose diagonal is real": (
                (sides == 0) & (values.imag != 0) & (symmetry == "hermitian")
            ),
        }
        for what, where in wrong.items():
            if where.any():
                at = int(np.argmax(where))
                place = f"({rows[at] + 1}, {columns[at] + 1})"
                msg = (
                    f"{self.name}: the first line says {what}; line {numbers[at]} holds "
                    f"{values[at]} at {place}. Write 'general' in the first line if every entry "
                    "is stored, or correct that line"
                )
                raise DataError(msg)
        return known


def expand(entries: Entries, symmetry: str) -> tuple[Array, Array, Array]:
    """Return ``(rows, columns, values)`` of all entries, the stored triangle first."""
    rows, columns, values = entries.rows, entries.columns, entries.values
    if symmetry == "general":
        return rows, columns, values
    off = rows != columns
    mirrored = values[off]
    if symmetry == "skew-symmetric":
        mirrored = -mirrored
    elif symmetry == "hermitian":
        mirrored = mirrored.conj()
    return (
        np.concatenate((rows, columns[off])),
        np.concatenate((columns, rows[off])),
        np.concatenate((values, mirrored)),
    )


def _lines(block: bytes) -> int:
    return block.count(b"\n") + (not block.endswith(b"\n"))


def _open(path: Path) -> BinaryIO:
    packed = path.name.lower().endswith(".gz")
    return cast("BinaryIO", gzip.open(path) if packed else path.open("rb"))


def open_market(path: Path, name: str, *, dense: bool = True) -> Market:
    """Read the header of a Matrix Market file; without `dense` an ``array`` is refused.

    Raises
    ------
    SourceError
        It is not such a file.
    DataError
        Its sizes are not those of a matrix.
    """
    with _open(path) as file:
        return Market(name, path, read_header(file, path, name, dense=dense))
