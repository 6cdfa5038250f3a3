"""The headers of the members of an .npz, read before a member is loaded."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np

from bigspec.errors import DataError

__all__ = [
    "UNREADABLE",
    "check_member",
    "header_of",
    "loading_nbytes",
    "member_header",
    "small_member",
    "stored_shape",
]

SMALL_BYTES = 1 << 12
"""Bytes of a small member: the format and the shape of a matrix take no more."""
DEFLATED = 1032
"""Most bytes that one byte of a deflated member can unpack to."""
PLACES = {"indices", "indptr", "row", "col", "offsets"}
"""Members with the places of entries."""
UNNOTICED = 1 << 20
UNREADABLE = (SyntaxError, TokenError, RecursionError)
"""Errors besides ValueError that NumPy raises when it reads a header as Python."""


def member_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the header of an .npy at the beginning of `file`; ValueError if there is none."""
    shape, _, dtype = header_of(file)
    return shape, dtype


def header_of(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an .npy: shape, whether the first dimension runs fastest, and type.

    Raises
    ------
    ValueError
        There is no such header.
    """
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    try:
        shape, fortran, dtype = read(file)
    except (*UNREADABLE, MemoryError) as error:
        msg = f"{type(error).__name__}: {error}"
        raise ValueError(msg) from error
    return tuple(int(extent) for extent in shape), bool(fortran), dtype


def check_member(
    info: zipfile.ZipInfo, shape: tuple[int, ...], dtype: np.dtype[Any], name: str
) -> int:
    """Return the unpacked size of a member; its packed bytes must be able to hold that.

    Raises
    ------
    DataError
        There are too few packed bytes.
    ValueError
        It holds Python objects, or has no length.
    """
    size = math.prod(shape) * dtype.itemsize
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        msg = f"{name}: expected {info.filename!r} stored or deflated, got another compression"
        raise DataError(msg)
    if dtype.hasobject or any(extent < 0 for extent in shape):
        msg = f"{info.filename} holds {dtype} {shape}, which are not numbers"
        raise ValueError(msg)
    capacity = min(info.file_size, DEFLATED * info.compress_size)
    if size > capacity + UNNOTICED:
        msg = (
            f"{name}: expected {size} bytes in {info.filename!r} for {dtype} {shape}, got a member "
            f"of {info.compress_size} packed bytes, which cannot hold them; write it again"
        )
        raise DataError(msg)
    return size


def _check_integers(part: str, dtype: np.dtype[Any], name: str) -> None:
    """Refuse indices that are not integers: SciPy silently cuts their fractions off."""
    if part in PLACES and dtype.kind not in "iu":
        msg = f"{name}: expected integers in {part}, got {dtype}; write the matrix again"
        raise DataError(msg)


def loading_nbytes(path: Path, name: str) -> int:
    """Return the most bytes in use while SciPy's .npz is loaded, by the headers of its members.

    Raises
    ------
    DataError
        The header of a member states more than it can hold.
    ValueError, OSError, KeyError, zipfile.BadZipFile
        It is not such a file.
    """
    with zipfile.ZipFile(path) as archive:
        total = 0
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                with archive.open(info) as file:
                    extents, dtype = member_header(file)
                total += check_member(info, extents, dtype, name)
                _check_integers(info.filename.removesuffix(".npy"), dtype, name)
        if "format.npy" not in archive.namelist():
            return 2 * total  # SciPy's error names the missing member
        form = _text(small_member(archive, "format"))
        shape = small_member(archive, "shape").reshape(-1)
    # Everything but CSR and CSC is made CSR, with a pointer for each row.
    rows = int(shape[0]) if form not in ("csr", "csc") and shape.size else 0
    return 2 * total + 8 * max(rows, 0)


def stored_shape(path: Path) -> tuple[int, int]:
    """Return the shape in SciPy's .npz; (0, 0) if it has none that a matrix can have."""
    with zipfile.ZipFile(path) as archive:
        if "shape.npy" not in archive.namelist():
            return 0, 0
        shape = small_member(archive, "shape").reshape(-1).tolist()
    return (int(shape[0]), int(shape[1])) if len(shape) == 2 else (0, 0)


def small_member(archive: zipfile.ZipFile, member: str) -> np.ndarray[Any, Any]:
    """Load a member that describes the others.

    Raises
    ------
    KeyError
        There is no such member.
    ValueError
        It is too large for that, or holds Python objects.
    """
    with archive.open(f"{member}.npy") as file:
        shape, dtype = member_header(file)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or not 0 <= size <= SMALL_BYTES:
            msg = f"{member} holds {dtype} {shape}, which does not say what the matrix is"
            raise ValueError(msg)
        return np.frombuffer(file.read(size), dtype).reshape(shape)


def _text(value: np.ndarray[Any, Any]) -> str:
    element = value.reshape(-1)[0] if value.size else b""
    return element.decode("latin-1") if isinstance(element, bytes) else str(element)
