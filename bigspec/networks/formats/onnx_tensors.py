"""Tensors of ONNX: in the file, in a file beside it, in lists of numbers, or sparse."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from bigspec.errors import SourceError
from bigspec.networks.formats.file_tensors import FileTensor, MemoryTensor, check_shape, digest
from bigspec.networks.formats.protobuf import PLACE
from bigspec.networks.formats.types import as_dtype, item_bits
from bigspec.networks.tensors import Tensor, called
from bigspec.sources.checks import check_memory
from bigspec.sources.file_bytes import LocalContent

__all__ = ["Sparse", "TensorReader"]

TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64",
    15: "complex128", 16: "bfloat16", 17: "float8_e4m3fn", 18: "float8_e4m3fnuz",
    19: "float8_e5m2", 20: "float8_e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4_e2m1fn",
    24: "float8_e8m0fnu", 25: "uint2", 26: "int2", 27: "float6_e2m3fn", 28: "float6_e3m2fn",
}  # fmt: skip
"""`TensorProto.DataType`, in NumPy's words."""
OTHER = {0: "undefined", 8: "string"}


class TensorReader:
    """Makes tensors of the messages of one file.

    Parameters
    ----------
    content : LocalContent
    """

    def __init__(self, content: LocalContent) -> None:
        self.content = content
        self._beside: dict[str, LocalContent] = {}

    def tensor(self, proto: Any, name: str) -> Tensor:
        """Return the tensor of a message whose `raw_data` is a place.

        Raises
        ------
        SourceError
            It has other bytes than its shape needs, or they lie outside the folder of the file.
        """
        file = self.content.name
        shape = check_shape(list(proto.dims), name, file)
        dtype = TYPES.get(proto.data_type)
        if dtype is None or proto.HasField("segment"):
            label = OTHER.get(proto.data_type, f"type {proto.data_type}")
            reason = f"it holds entries of type {label}, which bigspec does not read"
            if dtype is not None:
                reason = "it is one segment of a tensor, and the format does not say of which"
            return MemoryTensor(
                name=name, file=file, shape=shape, dtype=dtype or label, nbytes=0, refusal=reason
            )
        bits = item_bits(dtype)
        nbytes = -(-math.prod(shape) * bits // 8)
        if proto.data_location == 1:
            content, start, length = self._external(proto, name, nbytes)
        elif proto.HasField("raw_data"):
            content, (start, length) = self.content, PLACE.unpack(proto.raw_data)
        else:
            return self._listed(proto, name, shape, dtype)
        if length != nbytes:
            msg = (
                f"{content.name}: expected {nbytes} bytes for {called(name)} of shape "
                f"{list(shape)} and type {dtype}, got {length}; export it again"
            )
            raise SourceError(msg)
        content.check(start, length, called(name))
        return FileTensor(
            name=name,
            file=content.name,
            shape=shape,
            dtype=dtype,
            nbytes=nbytes,
            storage=f"{content.name}:{start}:{dtype}:{shape}",
            content=content,
            start=start,
        )

    def _external(self, proto: Any, name: str, nbytes: int) -> tuple[LocalContent, int, int]:
        said = {entry.key: entry.value for entry in proto.external_data}
        content = self._file(said.get("location", ""), name)
        try:
            start, length = int(said.get("offset", 0)), int(said.get("length", nbytes))
        except ValueError as error:
            msg = (
                f"{self.content.name}: expected numbers as offset and length of {called(name)}, "
                f"got {said.get('offset', '')[:30]!a} and {said.get('length', '')[:30]!a}"
            )
            raise SourceError(msg) from error
        return content, start, length

    def _file(self, location: str, name: str) -> LocalContent:
        """Open a file beside the model; one that lies outside its folder is somebody else's."""
        if location in self._beside:
            return self._beside[location]
        parts, folder = PurePosixPath(location), self.content.path.parent
        plain = bool(location) and "\0" not in location and "\\" not in location
        inside = plain and not parts.is_absolute() and ".." not in parts.parts
        if inside:
            inside = (folder / location).resolve().is_relative_to(folder.resolve())
        if not inside:
            msg = (
                f"{self.content.name}: expected external data of {called(name)} in the folder of "
                f"the file, got {location[:120]!a}; copy it there, and not as a link"
            )
            raise SourceError(msg)
        try:
            self._beside[location] = self.content.beside(location)
        except FileNotFoundError as error:
            msg = (
                f"{self.content.name}: the external data of {called(name)}, {location[:120]!a}, is "
                "not there; copy it to the folder of the file"
            )
            raise SourceError(msg) from error
        return self._beside[location]

    def _listed(self, proto: Any, name: str, shape: tuple[int, ...], dtype: str) -> Tensor:
        """Return a tensor whose numbers are a list in the message."""
        from onnx import helper, numpy_helper

        file, bits = self.content.name, item_bits(dtype)
        try:
            key = helper.tensor_dtype_to_field(proto.data_type)
        except KeyError as error:
            msg = f"{file}: this version of the package onnx does not know {dtype}; update it"
            raise SourceError(msg) from error
        size = math.prod(shape)
        expected = -(-size * bits // 8) if bits in (2, 4) else size
        expected *= 2 if dtype.startswith("complex") else 1
        if len(getattr(proto, key)) != expected:
            msg = (
                f"{file}: expected {expected} numbers in {key} of {called(name)} of shape "
                f"{list(shape)} and type {dtype}, got {len(getattr(proto, key))}; export it again"
            )
            raise SourceError(msg)
        as_dtype(dtype, file)
        try:
            values = numpy_helper.to_array(proto)
        except (ValueError, TypeError, OverflowError) as error:
            msg = f"{file}: the numbers of {called(name)} cannot be read ({error}); export it again"
            raise SourceError(msg) from error
        nbytes = -(-size * bits // 8)
        return MemoryTensor(
            name=name, file=file, shape=shape, dtype=dtype, nbytes=nbytes, values=values
        )


@dataclass(frozen=True, kw_only=True)
class Sparse(Tensor):
    """A sparse tensor: dense when it is read.

    Attributes
    ----------
    values, indices : Tensor
        The entries that are not 0, and their places: flat, or one for each dimension.
    """

    values: Tensor = field(repr=False)
    indices: Tensor = field(repr=False)

    @classmethod
    def of(cls, proto: Any, name: str, reader: TensorReader) -> Sparse:
        """Return the tensor of a message.

        Raises
        ------
        SourceError
            It has no place for each of its values.
        """
        values = reader.tensor(proto.values, name)
        indices = reader.tensor(proto.indices, name)
        file = reader.content.name
        shape = check_shape(list(proto.dims), name, file)
        stored = values.shape[0] if len(values.shape) == 1 else -1
        if indices.shape not in ((stored,), (stored, len(shape))) or indices.dtype != "int64":
            msg = (
                f"{file}: expected a place for each value of {called(name)}, got values "
                f"{values.shape} and indices {indices.shape} of type {indices.dtype}"
            )
            raise SourceError(msg)
        return cls(
            name=name,
            file=file,
            shape=shape,
            dtype=values.dtype,
            nbytes=values.nbytes + indices.nbytes,
            refusal=values.refusal,
            values=values,
            indices=indices,
        )

    def read(self) -> np.ndarray[Any, Any]:
        """Return the whole tensor.

        Raises
        ------
        SourceError
            A place lies outside, or is there twice.
        MemoryLimitError
            Dense it takes more than half of the memory of this machine.
        """
        values = self.values.read()
        check_memory(self.size * values.itemsize, f"{self.file}: {called(self.name)}, made dense")
        places = self.indices.read()
        limits = np.asarray(self.shape if places.ndim == 2 else self.size)
        if np.any(places < 0) or np.any(places >= limits):
            msg = f"{self.file}: {called(self.name)} has a place outside its shape {self.shape}"
            raise SourceError(msg)
        if places.ndim == 2:
            places = np.ravel_multi_index(tuple(places.T), self.shape) if self.shape else places[:0]
        if np.unique(places).size != places.size:
            msg = f"{self.file}: {called(self.name)} has two values at one place"
            raise SourceError(msg)
        dense = np.zeros(self.size, values.dtype)
        dense[places] = values
        return dense.reshape(self.shape)

    def token(self) -> str:
        """Digest the tokens of both parts."""
        return digest(repr(self.shape), self.values.token(), self.indices.token())
