"""What may be scanned: a path or URL, a model, or a mapping of names to arrays."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bigspec.errors import ArgumentError, UnsupportedTypeError
from bigspec.names import shown
from bigspec.networks.tensors import Model, Tensor

__all__ = ["IN_MEMORY", "ArrayTensor", "as_model", "with_shapes"]

Array = np.ndarray[Any, Any]

IN_MEMORY = "memory"
PART = 1 << 20
"""Bytes of an array that are hashed at once, and copied if they have to be."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ArrayTensor(Tensor):
    """An array of this process, or what can be turned into one when it is read."""

    held: Any = field(repr=False)
    file: str = IN_MEMORY

    @property
    def streams(self) -> bool:
        """It is in memory already."""
        return True

    def read(self) -> Array:
        """Return the array, without a copy where that is possible."""
        return _array(self.held, self.name)

    def token(self) -> str:
        """Hash shape, type and all entries: no size or time tells of a change in memory."""
        array = self.read()
        digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
        rows = array.reshape(1) if array.ndim == 0 else array
        step = max(1, len(rows) * PART // max(array.nbytes, 1))
        for start in range(0, len(rows), step):
            part = np.ascontiguousarray(rows[start : start + step])
            digest.update(part.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()[:32]


def as_model(
    model: Any, missing_chunks: str = "fill", storage: dict[str, Any] | None = None
) -> Model:
    """Open what is to be scanned.

    Parameters
    ----------
    model : path, URL, Model, or mapping of str to array
        Arrays are NumPy's, or objects that turn into one: tensors of torch, JAX or MLX.
    missing_chunks : {"fill", "error"}
        Of a store that is opened here.
    storage : dict, optional
        Credentials and settings of a URL.

    Raises
    ------
    SourceError
        See `bigspec.networks.formats.open_model`.
    UnsupportedTypeError
        Neither of these.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, (str, os.PathLike)):
        return _opened(model, missing_chunks, storage)
    if not isinstance(model, Mapping):
        msg = (
            "model: expected a path, a URL, or a mapping of names to arrays such as a state dict, "
            f"got {type(model).__name__}"
        )
        raise UnsupportedTypeError(msg)
    tensors = {str(name): _tensor(str(name), value) for name, value in model.items()}
    count = "1 array" if len(tensors) == 1 else f"{len(tensors)} arrays"
    return Model(f"a mapping of {count}", IN_MEMORY, tensors)


def with_shapes(model: Model, where: Any, given: Any) -> Model:
    """Return an ONNX model with the shapes of its values, for an input of the shape given.

    Raises
    ------
    ArgumentError
        It is no ONNX file, or has no such input.
    SourceError
    """
    if model.format != "onnx" or not isinstance(where, (str, os.PathLike)):
        msg = (
            f"input_shape: expected an ONNX file, whose graph says what is done with its kernels, "
            f"got {model.name}; leave it out: kernels then have the norm of all sizes of image"
        )
        raise ArgumentError(msg)
    from bigspec.networks.formats.onnx_shapes import value_shapes

    return replace(model, notes={**model.notes, "shapes": value_shapes(where, given)})


def _opened(where: Any, missing_chunks: str, storage: dict[str, Any] | None) -> Model:
    from bigspec.networks.formats import open_model

    return open_model(where, missing_chunks=missing_chunks, storage=storage)


def _tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        value = _array(value, name)
    shape = tuple(int(length) for length in value.shape)
    dtype = str(value.dtype).removeprefix("torch.")
    if isinstance(value, np.ndarray) and not _numeric(value.dtype):
        msg = f"{shown(name)}: expected an array of numbers, got {value.dtype}"
        raise UnsupportedTypeError(msg)
    size = int(np.prod(shape, dtype=np.int64)) * int(getattr(value, "itemsize", 0) or 4)
    return ArrayTensor(
        name=name, held=value, shape=shape, dtype=dtype, nbytes=size, storage=_place(value, dtype)
    )


def _place(value: Any, dtype: str) -> str | None:
    """Return where the numbers lie: equal for tied weights."""
    if isinstance(value, np.ndarray):
        return f"{value.__array_interface__['data'][0]} {value.strides} {dtype}"
    if callable(getattr(value, "data_ptr", None)) and callable(getattr(value, "stride", None)):
        return f"{value.data_ptr()} {value.stride()} {dtype}"
    return None


def _array(value: Any, name: str) -> Array:
    """Return an array; of a torch tensor, through its own bits where NumPy lacks the type."""
    if isinstance(value, np.ndarray):
        return value
    if callable(getattr(value, "detach", None)):
        value = value.detach().cpu()
        bits = _BITS.get(str(value.dtype))
        if bits is not None:
            import ml_dtypes

            torch_type, own = bits
            kind = getattr(_package_of(value), torch_type)
            return np.asarray(value.contiguous().view(kind).numpy()).view(getattr(ml_dtypes, own))
        return np.asarray(value.numpy())
    array = np.asarray(value)
    if not _numeric(array.dtype):
        msg = f"{shown(name)}: expected an array of numbers, got {type(value).__name__}"
        raise UnsupportedTypeError(msg)
    return array


def _numeric(dtype: np.dtype[Any]) -> bool:
    """Whether float64 or complex128 holds such numbers; ml_dtypes's own are of NumPy's kind V."""
    if dtype.kind == "V":
        return dtype.names is None and dtype.subdtype is None and dtype.type is not np.void
    return dtype.kind in "biu" or (dtype.kind in "fc" and dtype.itemsize <= WIDEST[dtype.kind])


WIDEST = {"f": 8, "c": 16}
_BITS = {
    "torch.bfloat16": ("int16", "bfloat16"),
    "torch.float8_e4m3fn": ("uint8", "float8_e4m3fn"),
    "torch.float8_e5m2": ("uint8", "float8_e5m2"),
}


def _package_of(value: Any) -> Any:
    """Return the package that a tensor is of; it is imported, or there would be no tensor."""
    import sys

    return sys.modules[type(value).__module__.partition(".")[0]]
