"""The names that a pickle of tensors may use, and what becomes of a call of each.

They are those that `torch.save` writes for a `state_dict`: see `torch/_utils.py` and
`torch/serialization.py`. A name that is not here is refused, and was never looked up.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from bigspec.errors import SourceError

__all__ = ["Name", "Opaque", "Rebuilt", "Storage", "reduced", "storage_of"]

STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128", "UntypedStorage": "",
    "QInt8Storage": "int8", "QUInt8Storage": "uint8", "QInt32Storage": "int32",
}  # fmt: skip
"""Types of storages, and of the numbers in them; an untyped one holds bytes."""
DTYPES = {
    "float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int32",
    "short": "int16", "cfloat": "complex64", "cdouble": "complex128",
} | {
    name: name
    for name in (
        "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
        "uint16", "uint32", "uint64", "bool", "complex64", "complex128", "float8_e4m3fn",
        "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
    )
}  # fmt: skip
OTHER_DTYPES = {
    "complex32", "chalf", "qint8", "quint8", "qint32", "quint4x2", "quint2x4", "float4_e2m1fn_x2",
    "bits8", "bits16",
}  # fmt: skip
"""Types of tensors whose numbers are not read."""
PLAIN = {
    "torch device", "torch.serialization _get_layout", "_codecs encode", "collections Counter",
    "builtins bytes", "__builtin__ bytes",
}  # fmt: skip
"""Calls whose result holds no tensor: it is not made."""
TYPES = {
    "torch Tensor",
    "torch.nn.parameter Parameter",
    "torch._C TensorBase",
    "torch.nn.parameter Buffer",
}
QUANTISED = "it is quantised; save it as numbers, tensor.dequantize(), to have its norm"


class Opaque:
    """A value that holds no tensor."""


@dataclass(frozen=True)
class Name:
    """A global of a pickle, by its name; SourceError if it is none of those known here."""

    module: str
    name: str
    file: str = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.known:
            return
        msg = (
            f"{self.file}: its pickle names {self.module[:80]}.{self.name[:80]}, which is not part "
            "of a tensor; nothing of it was run. Load it where you trust it, and save "
            "model.state_dict() alone, or safetensors"
        )
        raise SourceError(msg)

    @property
    def known(self) -> bool:
        """Whether there is a rule for it."""
        return (
            str(self) in CALLS
            or str(self) in PLAIN
            or str(self) in TYPES
            or self.dtype is not None
            or self.layout
            or self.storage is not None
        )

    def __str__(self) -> str:
        return f"{self.module} {self.name}"

    @property
    def dtype(self) -> str | None:
        """The type of numbers that it is, or None."""
        if self.module != "torch":
            return None
        return DTYPES.get(self.name, self.name if self.name in OTHER_DTYPES else None)

    @property
    def layout(self) -> bool:
        """Whether it says that numbers lie with strides, as they do."""
        return self.module == "torch" and self.name in ("strided", "contiguous_format")

    @property
    def storage(self) -> str | None:
        """The type of numbers of the storage whose type it is; empty for bytes; else None."""
        if self.module not in ("torch", "torch.cuda", "torch.storage"):
            return None
        return STORAGES.get(self.name)


@dataclass(frozen=True)
class Storage:
    """Numbers of a file that tensors are views of.

    Attributes
    ----------
    key : str
        What the file calls it.
    dtype : str
        Empty for bytes.
    count : int
        Numbers, or bytes.
    offset : int
        Where a view of it begins, in the old form.
    root : int
        Numbers of the whole storage that it is a view of.
    quantised : bool
    """

    key: str
    dtype: str
    count: int
    offset: int = 0
    root: int = 0
    quantised: bool = False


@dataclass(frozen=True)
class Rebuilt:
    """A tensor of a pickle, as it says of itself; nothing is checked yet.

    Attributes
    ----------
    storage : Storage
    offset, shape, strides : Any
    dtype : str
    refusal : str or None
    """

    storage: Storage
    offset: Any
    shape: Any
    strides: Any
    dtype: str
    refusal: str | None = None


def storage_of(said: Any, file: str) -> Storage:
    """Return the storage that a persistent id stands for.

    Raises
    ------
    ValueError, TypeError
        It is none that `torch.save` writes.
    SourceError
        It is a module with its source code.
    """
    if isinstance(said, tuple) and said[:1] == ("module",):
        msg = (
            f"{file}: it holds a module with its source code, which is not run; save "
            "model.state_dict() alone, or safetensors"
        )
        raise SourceError(msg)
    if not isinstance(said, tuple) or len(said) not in (5, 6) or said[0] != "storage":
        msg = "a persistent id that is not a storage"
        raise ValueError(msg)
    kind, key, _, count = said[1:5]
    if not isinstance(kind, Name) or kind.storage is None:
        msg = "a storage of no known type"
        raise TypeError(msg)
    _whole(count)
    if not isinstance(key, (str, int)):
        msg = "a storage without a key"
        raise TypeError(msg)
    made = Storage(str(key), kind.storage, count, 0, count, kind.name.startswith("Q"))
    if len(said) == 6 and said[5] is not None:
        _, offset, size = said[5]
        made = replace(made, offset=_whole(offset), count=_whole(size))
    return made


def reduced(function: Name, arguments: tuple[Any, ...]) -> Any:
    """Return what stands for the result of a call.

    Raises
    ------
    ValueError, TypeError
        Its arguments are not those that `torch.save` writes.
    """
    called = str(function)
    if called in PLAIN:
        return Opaque()
    if (rule := CALLS.get(called)) is None:
        msg = f"a call of {function.module}.{function.name}"
        raise ValueError(msg)
    return rule(*arguments)


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        msg = "a length that is not a whole number from 0 on"
        raise ValueError(msg)
    return value


def _ordered(items: Any = ()) -> dict[Any, Any]:
    if not isinstance(items, (list, tuple)):
        msg = "an ordered dict that is not made of a list"
        raise TypeError(msg)
    made = {}
    for item in items:
        if not isinstance(item, (list, tuple)) or len(item) != 2 or not isinstance(item[0], str):
            msg = "an ordered dict with an item that is not a name and a value"
            raise ValueError(msg)
        made[item[0]] = item[1]
    return made


def _size(extents: Any = ()) -> tuple[Any, ...]:
    if not isinstance(extents, (list, tuple)):
        msg = "a size that is not made of a list"
        raise TypeError(msg)
    return tuple(extents)


def _several(values: Any = ()) -> list[Any]:
    """Return what is in a set: a tensor in it is one of the file."""
    if not isinstance(values, (list, tuple)):
        msg = "a set that is not made of a list"
        raise TypeError(msg)
    return list(values)


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any, typed: bool = False
) -> Rebuilt:
    """Rebuild as `_rebuild_tensor_v2` does: gradient and hooks, then maybe marks of a view."""
    if not isinstance(storage, Storage):
        msg = "a tensor without a storage"
        raise TypeError(msg)
    if not storage.dtype and not typed:
        msg = "a tensor of bytes that does not say its type"
        raise TypeError(msg)
    refusal = QUANTISED if storage.quantised else None
    marks = rest[2] if len(rest) > 2 else None
    if isinstance(marks, dict) and any(value is not False for value in marks.values()):
        refusal = "it is a conjugate or negative view of its storage; save a copy, x.resolve_conj()"
    return Rebuilt(storage, offset, shape, strides, storage.dtype, refusal)


def _tensor_v3(*arguments: Any) -> Rebuilt:
    storage, offset, shape, strides, _, _, dtype, *rest = arguments
    made = _tensor(storage, offset, shape, strides, None, None, *rest, typed=True)
    if not isinstance(dtype, Name) or dtype.dtype is None:
        msg = "a tensor without a type"
        raise TypeError(msg)
    if dtype.name in OTHER_DTYPES:
        said = f"numbers of type torch.{dtype.name} are not read"
        return replace(made, dtype=dtype.name, refusal=made.refusal or said)
    return replace(made, dtype=dtype.dtype)


def _quantised(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Rebuilt:
    made = _tensor(storage, offset, shape, strides)
    return replace(made, refusal=QUANTISED)


def _inner(data: Any, *_: Any) -> Any:
    return data


def _of_type(function: Any, kind: Any, arguments: Any, _state: Any) -> Any:
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        msg = "a tensor rebuilt by something that is not a global"
        raise TypeError(msg)
    if not isinstance(kind, Name) or str(kind) not in TYPES or str(function) not in TENSORS:
        msg = "a tensor of a class of its own"
        raise TypeError(msg)
    return reduced(function, arguments)


TENSORS: dict[str, Any] = {
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor_v3": _tensor_v3,
    "torch._utils _rebuild_qtensor": _quantised,
    "torch._utils _rebuild_parameter": _inner,
    "torch._utils _rebuild_parameter_with_state": _inner,
}
CALLS: dict[str, Any] = TENSORS | {
    "torch._tensor _rebuild_from_type_v2": _of_type,
    "collections OrderedDict": _ordered,
    "torch Size": _size,
    "builtins set": _several,
    "builtins frozenset": _several,
    "__builtin__ set": _several,
    "__builtin__ frozenset": _several,
    "torch per_tensor_affine": None,
    "torch per_channel_affine": None,
}
"""A rule for each name that may be called; those without one are arguments only."""
