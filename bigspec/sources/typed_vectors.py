"""Stored vectors in the types of binsparse: complex numbers, booleans, one value for all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.errors import DataError, SourceError
from bigspec.kernels.buffers import Buffers
from bigspec.sources.lines import Vector

__all__ = ["OneBased", "as_declared"]

Array = np.ndarray[Any, Any]

TYPES = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
TYPES |= {"float32", "float64", "bint8"}


@dataclass(frozen=True)
class _Wrapper:
    """A vector that reads another one."""

    base: Vector

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.base.name

    @property
    def where(self) -> str:
        """Path or URL."""
        return self.base.where

    @property
    def token(self) -> str:
        """A hash that changes when it is written again."""
        return self.base.token

    @property
    def resident(self) -> bool:
        """Whether it lies in this process."""
        return self.base.resident

    @property
    def chunk(self) -> int:
        """Number of elements that are decoded together."""
        return self.base.chunk

    @property
    def chunk_nbytes(self) -> int:
        """Bytes of a decoded chunk."""
        return self.base.chunk_nbytes

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its elements."""
        return self.base.dtype

    def __len__(self) -> int:
        return len(self.base)


class Pairs(_Wrapper):
    """Complex numbers that are stored as real and imaginary parts in turn."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """complex64 or complex128."""
        return np.dtype(np.complex64 if self.base.dtype.itemsize == 4 else np.complex128)

    def __len__(self) -> int:
        return len(self.base) // 2

    def read(self, start: int, stop: int, buffers: Buffers, scratch: str) -> Array:
        """Read a range of pairs."""
        parts = self.base.read(2 * start, 2 * stop, buffers, scratch)
        return parts.astype(parts.dtype.newbyteorder("="), copy=False).view(self.dtype)


class Flags(_Wrapper):
    """Booleans that are stored as bytes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Boolean."""
        return np.dtype(np.bool_)

    def read(self, start: int, stop: int, buffers: Buffers, scratch: str) -> Array:
        """Read a range; what is not 0 is true."""
        stored = self.base.read(start, stop, buffers, scratch)
        flags = buffers.take(f"{scratch}.flags", stored.shape, np.bool_)
        np.not_equal(stored, 0, out=flags)
        return flags


@dataclass(frozen=True)
class Repeated(_Wrapper):
    """One stored value for every element."""

    length: int

    def __len__(self) -> int:
        return self.length

    def read(self, start: int, stop: int, buffers: Buffers, scratch: str) -> Array:
        """Return the value ``stop - start`` times."""
        value = self.base.read(0, 1, buffers, f"{scratch}.value")
        block = buffers.take(scratch, (max(stop - start, 0),), self.dtype)
        block[:] = value[0]
        return block


class OneBased(_Wrapper):
    """Indices or pointers that count from 1."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """int64: a stored 0 then becomes -1, which is refused."""
        return np.dtype(np.int64) if self.base.dtype.kind in "iu" else self.base.dtype

    def read(self, start: int, stop: int, buffers: Buffers, scratch: str) -> Array:
        """Read a range, counted from 0."""
        return self.base.read(start, stop, buffers, scratch).astype(np.int64) - 1


def as_declared(
    vector: Vector, types: dict[str, Any], part: str, length: int | None, name: str
) -> Vector:
    """Read `vector` as the type that the descriptor declares for it.

    Parameters
    ----------
    vector : Vector
        The stored vector.
    types : dict
        The descriptor's ``data_types``.
    part : str
        The key in `types`.
    length : int or None
        The elements it must have after decoding; None if that is checked elsewhere.
    name : str
        Name of the matrix in messages.

    Raises
    ------
    SourceError
        binsparse has no such type.
    DataError
        The array is not of this type or length.
    """
    declared = str(types.get(part))
    match = re.fullmatch(r"(iso\[)?(complex\[)?(\w+)(\]*)", declared)
    one, paired = match is not None and bool(match[1]), match is not None and bool(match[2])
    allowed = {"float32", "float64"} if paired else TYPES
    closed = match is not None and match[3] in allowed and len(match[4]) == one + paired
    if match is None or not closed or (one and length is None):
        msg = (
            f"{name}: expected a type of binsparse for {part}, such as uint64 for indices, "
            f"float32, complex[float64] or iso[bint8] for values, got {declared}"
        )
        raise SourceError(msg)
    decoded = _decode(vector, match[3], paired)
    if decoded is None:
        msg = f"{name}: expected {part} stored as {declared}, got {vector.dtype}; write it again"
        raise DataError(msg)
    wanted = 1 if one else length
    if wanted is not None:
        wanted *= 2 if isinstance(decoded, Pairs) else 1
        if len(vector) != wanted:
            msg = (
                f"{name}: expected an array of {wanted} in {part} ({declared}), got "
                f"{len(vector)}; write the matrix again"
            )
            raise DataError(msg)
    return Repeated(decoded, length) if one and length is not None else decoded


def _decode(vector: Vector, base: str, paired: bool) -> Vector | None:
    """Return the vector as `base`, or None if it is stored in another type."""
    stored = vector.dtype
    if base == "bint8":
        return Flags(vector) if stored.kind in "iub" and stored.itemsize == 1 else None
    declared = np.dtype(base)
    if paired and stored.kind == "c":  # HDF5 and Zarr store complex numbers whole
        return vector if stored.itemsize == 2 * declared.itemsize else None
    if stored.kind != declared.kind or stored.itemsize != declared.itemsize:
        return None
    return Pairs(vector) if paired else vector
