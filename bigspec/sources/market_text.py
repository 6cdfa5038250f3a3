"""Lines of Matrix Market text: plain ones go to the parser unchanged, others are rewritten first.

SciPy's parser reads the part of a number that it understands, and skips the rest of the line. So
``2.5D+01`` is 2.5, and ``1e+05`` under an integer header is 1. Here only lines that are understood
as a whole reach it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property

import numpy as np

__all__ = ["BadLine", "Spelling"]

FIELDS = {"real": 1, "integer": 1, "unsigned-integer": 1, "complex": 2, "pattern": 0}
"""Numbers of an entry besides its indices."""
MOST_DIGITS = 40
"""Most digits of a whole number with an exponent; 64 bits have 20."""

# Classes of bytes: blank, line end, digit, minus, plus, point, exponent, anything else.
_BLANK, _END, _DIGIT, _MINUS, _PLUS, _POINT, _EXPONENT, _OTHER = range(8)
_BYTES = ((_BLANK, b" \t\r"), (_END, b"\n"), (_DIGIT, b"0123456789"), (_MINUS, b"-"),
          (_PLUS, b"+"), (_POINT, b"."), (_EXPONENT, b"eE"))  # fmt: skip
_KIND = {byte: kind for kind, held in _BYTES for byte in held}
_CLASSES = bytes(_KIND.get(byte, _OTHER) for byte in range(256))
_FORTRAN = bytes.maketrans(b"dDqQ", b"eeee")


def _pairs() -> tuple[bytes, bytes]:
    """Return the meaning of a byte after the one before it, and the pairs without a new meaning.

    ``s`` begins a number with a digit or minus, ``d`` with a point. ``.`` and ``e`` go on with a
    number. ``n`` ends a line. ``!`` marks a word that the parser would not read as a whole.
    """
    meaning = bytearray(b"!") * 256
    nothing = []
    for before in (_BLANK, _END):
        for kind in (_DIGIT, _MINUS):
            meaning[before * 8 + kind] = ord("s")
        meaning[before * 8 + _POINT] = ord("d")
    for before in (_BLANK, _END, _DIGIT, _POINT):
        meaning[before * 8 + _END] = ord("n")
        nothing.append(before * 8 + _BLANK)
    nothing += [before * 8 + _DIGIT for before in range(_DIGIT, _OTHER)]
    nothing += [_EXPONENT * 8 + _MINUS, _EXPONENT * 8 + _PLUS]
    for before in (_DIGIT, _MINUS):
        meaning[before * 8 + _POINT] = ord(".")
    for before in (_DIGIT, _POINT):
        meaning[before * 8 + _EXPONENT] = ord("e")
    return bytes(meaning), bytes(nothing)


_MEANING, _NOTHING = _pairs()
_HELD = re.compile(rb"(?m)^[^\S\n]*([^\s%][^\n]*)")
"""A line that is neither blank nor a comment."""
_INDEX = re.compile(rb"\+?[0-9]+")
_NUMBER = re.compile(rb"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:[eEdDqQ]([+-]?[0-9]+)|([+-][0-9]+))?")
_WHOLE = re.compile(rb"[+-]?[0-9]+")
_SPECIAL = re.compile(rb"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)


class BadLine(Exception):  # noqa: N818 - never leaves this package: a DataError does
    """A line that is not an entry, with its number, its text and the fault."""

    def __init__(self, number: int, text: bytes, why: str) -> None:
        super().__init__(number, text, why)
        self.number, self.text, self.why = number, text, why


@dataclass(frozen=True)
class Spelling:
    """The spelling of the entries of a file.

    Attributes
    ----------
    field : str
        A key of `FIELDS`.
    indices : int
        Indices before the value: 2, or none in an ``array``.
    """

    field: str
    indices: int

    @property
    def words(self) -> int:
        """Numbers in a line."""
        return self.indices + FIELDS[self.field]

    @property
    def expected(self) -> str:
        """A correct line, for messages."""
        values = {"pattern": [], "complex": ["real", "imaginary"]}.get(self.field, ["value"])
        return " ".join(["row", "column"][: self.indices] + values)

    @cached_property
    def _line(self) -> re.Pattern[bytes]:
        value = rb"(?:s\.?|d)e?" if self.field in ("real", "complex") else rb"s"
        return re.compile(rb"(?:%sn)*+" % (rb"s" * self.indices + value * FIELDS[self.field]))

    def plain(self, block: bytes) -> bytes | None:
        """Return a block of lines, with e for d and q, if the parser then reads every byte of it.

        It looks at pairs of bytes, ten times as fast as a look at each line.
        """
        for change in (None, _FORTRAN):
            text = block if change is None else block.translate(change)
            kinds = np.frombuffer((b"\n" + text).translate(_CLASSES), np.uint8)
            pairs = (kinds[:-1] << 3) | kinds[1:]
            if self._line.fullmatch(pairs.tobytes().translate(_MEANING, _NOTHING)):
                return text
        return None

    def spell(self, block: bytes, line: int) -> tuple[list[int], bytes]:
        """Return the numbers of the lines with entries, and these lines as the parser needs them.

        It understands exponents of Fortran (``2.5D+01``, ``2.5q1``, ``2.5+01``), a leading plus,
        and whole numbers with a point or an exponent under an integer header. Blank lines and
        comments are dropped.

        Parameters
        ----------
        block : bytes
        line : int
            Lines before it.

        Raises
        ------
        BadLine
        """
        numbers, lines = [], []
        number, at = line + 1, 0
        for found in _HELD.finditer(block):
            number, at = number + block.count(b"\n", at, found.start(1)), found.start(1)
            text = found[1]
            words = text.split()
            if len(words) != self.words:
                why = f"{len(words)} numbers, {self.words} expected"
                raise BadLine(number, text, why)
            for k, word in enumerate(words):
                words[k] = self._word(word, k, number, text)
            numbers.append(number)
            lines.append(b" ".join(words))
        return numbers, b"\n".join([*lines, b""]) if lines else b""

    def _word(self, word: bytes, place: int, number: int, text: bytes) -> bytes:
        if place < self.indices:
            if not _INDEX.fullmatch(word):
                raise BadLine(number, text, f"{_shown(word)} is not an index")
            return word.removeprefix(b"+")
        if self.field in ("real", "complex"):
            if _SPECIAL.fullmatch(word):
                return word.removeprefix(b"+")
            found = _NUMBER.fullmatch(word)
            if found is None:
                raise BadLine(number, text, f"{_shown(word)} is not a number")
            exponent = found[2] or found[3]
            return found[1].removeprefix(b"+") + (b"" if exponent is None else b"e" + exponent)
        if _WHOLE.fullmatch(word):
            return word.removeprefix(b"+")
        whole = _as_whole(word)
        if whole is None:
            why = f"{_shown(word)} is not a whole number, and the first line says {self.field}"
            raise BadLine(number, text, why)
        return b"%d" % whole


def _as_whole(word: bytes) -> int | None:
    """Return the whole number that a decimal equals exactly; None if there is none."""
    found = _NUMBER.fullmatch(word)
    if found is None:
        return None
    exponent = int((found[2] or found[3] or b"0")[:20])
    if abs(exponent) > MOST_DIGITS or len(found[1]) > MOST_DIGITS:
        return None
    value = Decimal(found[1].decode()).scaleb(exponent)
    return int(value) if value == value.to_integral_value() else None


def _shown(word: bytes) -> str:
    return ascii(word[:40].decode("latin-1"))
