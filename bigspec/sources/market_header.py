"""The first lines of a Matrix Market file: its kind, its sizes, the start of the entries."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bigspec.errors import DataError, SourceError
from bigspec.sources.checks import check_shape

__all__ = ["DAMAGED", "Header", "read_header"]

Array = np.ndarray[Any, Any]

DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)
"""Errors for a packed file that is cut short or is not a gzip file."""
HEADER_BYTES = 4 << 20
"""Most bytes of comments before the sizes: packed, they take almost no bytes."""
LINE_BYTES = 1 << 16
DEFLATED = 1032
"""Most bytes that one byte of a gzip file can unpack to."""
UNNOTICED = 1 << 20
"""A text that is too short by less than this is read, and the reader finds that it is cut short."""
DTYPES = {
    "real": "f8",
    "double": "f8",
    "integer": "i8",
    "unsigned-integer": "u8",
    "complex": "c16",
    "pattern": "f8",
}
SYMMETRIES = ("general", "symmetric", "skew-symmetric", "hermitian")
_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Header:
    """The header of a Matrix Market file.

    Attributes
    ----------
    coordinate : bool
        Triplets; else ``array``, every entry column by column.
    field, symmetry : str
        In the words of the format; ``double`` is ``real``.
    shape : tuple of int
    announced : int
        Lines of entries.
    body : tuple of int
        Bytes and lines before the first entry.
    """

    coordinate: bool
    field: str
    symmetry: str
    shape: tuple[int, int]
    announced: int
    body: tuple[int, int]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values; patterns become ones."""
        return np.dtype(DTYPES[self.field])

    @property
    def most(self) -> int:
        """Most stored entries of the whole matrix, with both triangles."""
        return self.announced if self.symmetry == "general" else 2 * self.announced

    @property
    def loading_nbytes(self) -> int:
        """Most bytes in use while it is loaded: triplets, and the compressed rows from them."""
        m, n = self.shape
        if not self.coordinate:
            return m * n * self.dtype.itemsize
        index = 4 if max(m, n) <= np.iinfo(np.int32).max else 8
        return self.most * (2 * self.dtype.itemsize + 3 * index) + (m + 1) * index

    def check_length(self, path: Path, name: str) -> None:
        """Refuse a file that is too short for its entries, before they are read.

        Raises
        ------
        DataError
        """
        size, packed = path.stat().st_size, path.name.lower().endswith(".gz")
        words = (2 if self.coordinate else 0) + {"pattern": 0, "complex": 2}.get(self.field, 1)
        if self.announced * 2 * words > (DEFLATED * size if packed else size) + UNNOTICED:
            msg = (
                f"{name}: expected {self.announced} entries as the header says, got a file of "
                f"{size} bytes, which cannot hold them; it is cut short, or the header is wrong"
            )
            raise DataError(msg)

    def places(self, start: int, count: int) -> tuple[Array, Array]:
        """Return rows and columns of `count` entries of an ``array``, from number `start` on."""
        m, n = self.shape
        numbers = np.arange(start, start + count)
        if self.symmetry == "general":
            return numbers % m, numbers // m
        top = int(self.symmetry == "skew-symmetric")
        starts = np.concatenate([[0], np.cumsum(m - top - np.arange(n))])  # of the columns
        columns = np.searchsorted(starts, numbers, side="right") - 1
        return numbers - starts[columns] + columns + top, columns


def read_header(file: BinaryIO, path: Path, name: str, *, dense: bool) -> Header:
    """Read the header of an open Matrix Market file; `path` is for the error if that fails.

    Without `dense` an ``array`` is refused.

    Raises
    ------
    SourceError
        It is not such a file, or dense without `dense`.
    DataError
        Its sizes are not those of a matrix.
    """
    packed = path.name.lower().endswith(".gz")
    try:
        first = file.readline(LINE_BYTES)
        banner = first.removeprefix(_MARK).decode("latin-1").lower().split()
        known = len(banner) == 5 and banner[0].lstrip("%") == "matrixmarket"
        if not known or not 1 <= banner[0].count("%") <= 2 or banner[1] != "matrix":
            raise _no_banner(first, packed, name)
        _check_kind(banner[2], banner[3], banner[4], name)
        if banner[2] == "array" and not dense:
            raise _dense(name)
        before, text = 1, file.readline(LINE_BYTES)
        offset = len(first) + len(text)
        while text and (not text.strip() or text.lstrip().startswith(b"%")):
            before, text = before + 1, file.readline(LINE_BYTES)
            offset += len(text)
            if offset > HEADER_BYTES:
                msg = f"{name}: expected sizes, got {HEADER_BYTES >> 20} MiB of comments"
                raise SourceError(msg)
    except DAMAGED as error:
        raise _unreadable(path, name, error) from error
    except UnicodeDecodeError as error:
        msg = f"{name}: expected a Matrix Market file, got one that cannot be read ({error})"
        raise SourceError(msg) from error
    coordinate = banner[2] == "coordinate"
    sizes = _sizes(text, 3 if coordinate else 2, before + 1, name)
    shape = check_shape((sizes[0], sizes[1]), name)
    if banner[4] != "general" and shape[0] != shape[1]:
        msg = (
            f"{name}: expected a square matrix, for the first line says {banner[4]}, got "
            f"{shape[0]} x {shape[1]}; correct the first line or the sizes"
        )
        raise DataError(msg)
    count = sizes[2] if coordinate else _stored(shape, banner[4])
    field = "real" if banner[3] == "double" else banner[3]
    return Header(coordinate, field, banner[4], shape, count, (offset, before + 1))


def _check_kind(layout: str, field: str, symmetry: str, name: str) -> None:
    known = layout in ("coordinate", "array") and field in DTYPES and symmetry in SYMMETRIES
    # The format has no such matrices; the opposite of an unsigned number would wrap around.
    void = symmetry == "skew-symmetric" and field in ("pattern", "unsigned-integer")
    if not known or void or (layout == "array" and field == "pattern"):
        got = ascii(f"{layout} {field} {symmetry}"[:80])
        msg = (
            f"{name}: expected a first line such as "
            f"'%%MatrixMarket matrix coordinate real general', got one that says {got}"
        )
        raise SourceError(msg)


def _sizes(text: bytes, count: int, line: int, name: str) -> list[int]:
    words = text.split()
    # 20 digits do not fit 64 bits, and Python takes long over thousands of them.
    if len(words) != count or not all(word.isdigit() for word in words):
        expected = "rows columns entries" if count == 3 else "rows columns"
        shown = ascii(text[:60].decode("latin-1").strip())
        msg = f"{name}: expected '{expected}' in line {line}, got {shown}"
        raise SourceError(msg)
    if any(len(word) > 40 or int(word) > np.iinfo(np.int64).max // 4 for word in words):
        shown = text[:60].decode("latin-1").strip()
        msg = f"{name}: expected sizes that fit 64 bits in line {line}, got {shown!a}"
        raise DataError(msg)
    return [int(word) for word in words]


def _stored(shape: tuple[int, int], symmetry: str) -> int:
    """Return how many entries an ``array`` stores."""
    m, n = shape
    if symmetry == "general":
        return m * n
    return m * (m + 1) // 2 - (m if symmetry == "skew-symmetric" else 0)


def _dense(name: str) -> SourceError:
    return SourceError(
        f"{name}: expected coordinates, got the format 'array', which is dense; load it "
        "with scipy.io.mmread and save it with numpy.save: `bigspec norm` maps .npy files"
    )


def _no_banner(first: bytes, packed: bool, name: str) -> SourceError:
    msg = (
        f"{name}: cannot be read as a Matrix Market file: expected a first line such as "
        "'%%MatrixMarket matrix coordinate real general'"
    )
    if first.startswith(b"\x1f\x8b") and not packed:
        return SourceError(f"{msg}, got a gzip file; name it .mtx.gz")
    if first[257:262] == b"ustar":
        return SourceError(f"{msg}, got a tar archive; unpack it and take the .mtx file inside")
    if first.startswith((b"\xff\xfe", b"\xfe\xff")):
        return SourceError(f"{msg}, got text in UTF-16; write it as ASCII")
    shown = ascii(" ".join(first.decode("latin-1").split())[:80])
    return SourceError(f"{msg}, got {shown}")


def _unreadable(path: Path, name: str, error: Exception) -> SourceError:
    """Return the error that names the kind of a file that should be gzip."""
    with path.open("rb") as file:
        begin = file.read(512)
    msg = f"{name}: expected a gzip file, as its name says"
    if begin.startswith(b"\x1f\x8b"):
        return SourceError(f"{msg}, got one that is damaged or cut short ({error}); copy it again")
    if begin[257:262] == b"ustar":
        return SourceError(f"{msg}, got a tar archive; unpack it and take the .mtx file inside")
    if begin.lstrip(_MARK).startswith(b"%"):
        return SourceError(f"{msg}, got plain text; name it .mtx")
    return SourceError(f"{msg}, got another file ({error})")
