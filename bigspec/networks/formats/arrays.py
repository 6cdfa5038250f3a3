"""NumPy's `.npy` and `.npz`: nothing in them is unpickled, and sizes are checked first.

The array of an `.npy` has the name of its file, those of an `.npz` the names they were saved under.
Members of an archive are mapped where they are stored as they are; packed ones are unpacked when
they are read.
"""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bigspec.errors import SourceError, UnsupportedTypeError
from bigspec.networks.formats.file_tensors import FileTensor, check_shape, digest, finished
from bigspec.networks.formats.pytorch import stem
from bigspec.networks.formats.types import NATIVE
from bigspec.networks.tensors import Model, Tensor, called
from bigspec.sources.archives import check_member, header_of
from bigspec.sources.checks import check_dtype, check_memory
from bigspec.sources.file_bytes import Content, Reading
from bigspec.sources.members import member_bytes, place_of_member

__all__ = ["MAGIC", "is_npz", "open_npy", "open_npz"]

MAGIC = b"\x93NUMPY"
LONGEST = 1 << 16
"""Bytes of the header of an array, at most."""
SPARSE = {"format.npy", "shape.npy", "data.npy"}


@dataclass(frozen=True, kw_only=True)
class PackedTensor(Tensor):
    """An array in a deflated member, unpacked when it is read.

    Attributes
    ----------
    content : Content
    info : zipfile.ZipInfo
    header : int
        Bytes before the numbers.
    stored : numpy.dtype
    fortran : bool
        Whether the first dimension runs fastest.
    """

    content: Content = field(repr=False, compare=False)
    info: zipfile.ZipInfo = field(repr=False, compare=False)
    header: int
    stored: np.dtype[Any]
    fortran: bool

    def read(self) -> np.ndarray[Any, Any]:
        """Unpack the whole array.

        Raises
        ------
        SourceError
            It is damaged, or holds no numbers.
        MemoryLimitError
            It takes more than half of the memory of this machine.
        """
        self.check_readable()
        check_memory(self.nbytes, f"{self.file}: {called(self.name)}")
        raw = member_bytes(self.content, self.info)[self.header : self.header + self.nbytes]
        values = np.asarray(raw).view(self.stored)
        values = values.reshape(self.shape, order="F" if self.fortran else "C")
        return values.astype(self.stored.newbyteorder("="), copy=False)

    def token(self) -> str:
        """Digest its place in the archive, and the checksum in the archive."""
        return digest(self.info.CRC, self.info.file_size, repr((self.shape, self.stored.str)))


def is_npz(names: Any) -> bool:
    """Whether these are members of an archive by `numpy.savez`."""
    return any(name.endswith(".npy") for name in names)


def open_npy(content: Content) -> Model:
    """List the one array of a file.

    Raises
    ------
    SourceError
        Its header is damaged, or the file is too short for it.
    """
    name, file = stem(content.name), content.name
    reading = Reading(content, 0, LONGEST)
    shape, fortran, dtype = _header(reading, name, file)
    tensor = _mapped(content, name, (shape, fortran, dtype), reading.tell())
    content.check(tensor.start, tensor.nbytes, called(name))
    return finished(file, "npy", [tensor])


def open_npz(content: Content, members: dict[str, zipfile.ZipInfo]) -> Model:
    """List the arrays of an archive.

    Raises
    ------
    SourceError
        A member is damaged, or says what it cannot hold; or all of them are one sparse matrix.
    """
    if set(members) >= SPARSE:
        msg = (
            f"{content.name}: expected the arrays of a network, got one sparse matrix by SciPy; "
            "bigspec norm takes that"
        )
        raise SourceError(msg)
    arrays = [info for name, info in members.items() if name.endswith(".npy")]
    return finished(content.name, "npz", [_member(content, info) for info in arrays])


def _member(content: Content, info: zipfile.ZipInfo) -> Tensor:
    name, file = info.filename.removesuffix(".npy"), content.name
    begin = io.BytesIO(member_bytes(content, info, LONGEST).tobytes())
    shape, fortran, dtype = _header(begin, name, file)
    header = begin.tell()
    refusal = _refusal(dtype, name)
    if refusal is None:
        try:
            nbytes = check_member(info, shape, dtype, file)
        except ValueError as error:
            raise SourceError(str(error)) from error
        if header + nbytes != info.file_size:
            msg = (
                f"{file}: expected {header + nbytes} bytes in the member of {called(name)}, of "
                f"shape {shape} and type {dtype}, got {info.file_size}; write it again"
            )
            raise SourceError(msg)
        if info.compress_type == zipfile.ZIP_STORED:
            place = place_of_member(content, info) + header
            return _mapped(content, name, (shape, fortran, dtype), place)
    return PackedTensor(
        name=name,
        file=file,
        shape=shape,
        dtype=dtype.newbyteorder("=").name,
        nbytes=math.prod(shape) * dtype.itemsize,
        refusal=refusal,
        content=content,
        info=info,
        header=header,
        stored=dtype,
        fortran=fortran,
    )


def _mapped(content: Content, name: str, header: Any, start: int) -> FileTensor:
    shape, fortran, dtype = header
    strides = None
    if fortran and len(shape) > 1:
        strides = tuple(math.prod(shape[:k]) for k in range(len(shape)))
    return FileTensor(
        name=name,
        file=content.name,
        shape=shape,
        dtype=dtype.newbyteorder("=").name,
        nbytes=math.prod(shape) * dtype.itemsize,
        refusal=_refusal(dtype, name),
        content=content,
        start=start,
        strides=strides,
        order=">" if dtype.byteorder == ">" else "<",
    )


def _header(file: Any, name: str, store: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        shape, fortran, dtype = header_of(file)
    except (ValueError, TypeError, OverflowError) as e:
        msg = (
            f"{store}: the header of {called(name)} cannot be read ({str(e)[:120]}); write it again"
        )
        raise SourceError(msg) from e
    return check_shape(shape, name, store), fortran, dtype


def _refusal(dtype: np.dtype[Any], name: str) -> str | None:
    if dtype.hasobject:
        return "it holds pickled Python objects, which are never loaded"
    try:
        check_dtype(dtype, name)
    except UnsupportedTypeError as error:
        return str(error)
    return None if dtype.newbyteorder("=").name in NATIVE else f"numbers of type {dtype}"
