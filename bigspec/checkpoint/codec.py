"""A saved value as JSON and arrays: frozen dataclasses, tuples, numbers, text. No pickle.

Every object in the JSON has one tag that says what it is, and only dataclasses on the codec's list
come out of it. So a checkpoint from anywhere can be opened safely.

In a record, classes and fields have names of their own (`Wire`). Python may rename them, and older
records still load.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from bigspec.checkpoint.annotations import check_fields

__all__ = ["INLINE", "Codec", "Former", "UnknownClassError", "Wire", "array_digest", "restored"]

Array = np.ndarray[Any, Any]

INLINE = 16 << 10
"""Arrays of at most this many bytes lie in the record itself."""


@dataclass(frozen=True)
class Wire:
    """The names of a dataclass and its fields in a record.

    A name in a record never changes. If you rename the class, only `kind` changes here. If you
    rename a field, `renamed` maps its old name to it. Give a new field a default, and add its name
    at the end: records without it then load with the default.

    Parameters
    ----------
    kind : type
        The dataclass as it is now.
    name : str
        Its name in a record.
    fields : str
        Names of its fields in a record, separated by spaces, in the order of writing.
    renamed : mapping, optional
        From a name in `fields` to the Python field, where the two differ.

    Raises
    ------
    ValueError
        `fields` does not have exactly one name for every field of the class.
    """

    kind: type
    name: str
    fields: str
    renamed: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        here = self.fields.split()
        python = [self.renamed.get(name, name) for name in here]
        wanted = [f.name for f in fields(self.kind)]
        if sorted(python) != sorted(wanted) or len(set(here)) != len(here):
            msg = (
                f"{self.name}: expected one name in a record for each field of "
                f"{self.kind.__name__}, {wanted}, got names for {python}"
            )
            raise ValueError(msg)
        if stray := self.renamed.keys() - set(here):
            msg = f"{self.name}: expected renamed names to be among its fields, got {sorted(stray)}"
            raise ValueError(msg)

    @property
    def table(self) -> dict[str, str]:
        """From the names in a record to the Python fields, in the order of writing."""
        return {name: self.renamed.get(name, name) for name in self.fields.split()}


@dataclass(frozen=True)
class Former:
    """A class in older records, which another class has replaced; it is only read.

    Parameters
    ----------
    name : str
        Its name in a record.
    fields : str
        Names of its fields there.
    read : callable
        Takes the fields by their names, and returns a value of today's class.
    """

    name: str
    fields: str
    read: Callable[..., Any]

    @property
    def table(self) -> dict[str, str]:
        """From the names in a record to the arguments of `read`, which are the same."""
        return {name: name for name in self.fields.split()}


class UnknownClassError(KeyError):
    """A record has an object of a class that is not on the list."""


class Codec:
    """Encodes and decodes values.

    Parameters
    ----------
    types : iterable of Wire or Former
        The dataclasses of records, and those of older records.

    Raises
    ------
    ValueError
        Two of them share a name or a class.
    """

    def __init__(self, types: Iterable[Wire | Former]) -> None:
        every = tuple(types)
        wires = [wire for wire in every if isinstance(wire, Wire)]
        self.readers: dict[str, tuple[Callable[..., Any], dict[str, str]]] = {
            one.name: (one.kind if isinstance(one, Wire) else one.read, one.table) for one in every
        }
        self.by_kind = {wire.kind: (wire.name, wire.table) for wire in wires}
        if len(self.readers) != len(every) or len(self.by_kind) != len(wires):
            msg = f"expected one name for each class, got {[one.name for one in every]}"
            raise ValueError(msg)

    def encode(self, value: Any, put: Callable[[Array], str]) -> Any:
        """Return `value` as JSON-ready data; `put` stores a large array and names it."""
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):  # Python's JSON keeps every bit of a finite float
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, np.ndarray):
            return {"array": _describe(value, put)}
        if isinstance(value, (tuple, list)):
            items = [self.encode(item, put) for item in value]
            return {"tuple": items} if isinstance(value, tuple) else items
        if isinstance(value, dict):
            return {"dict": {key: self.encode(item, put) for key, item in value.items()}}
        if type(value) in self.by_kind:
            name, table = self.by_kind[type(value)]
            values = {key: self.encode(getattr(value, own), put) for key, own in table.items()}
            return {"object": name, "fields": values}
        msg = f"expected numbers, text, arrays or a listed dataclass, got {type(value).__name__}"
        raise TypeError(msg)

    def decode(self, data: Any, get: Callable[[str], Array]) -> Any:
        """Return the value; `get` loads an array by its name.

        Raises
        ------
        ValueError, KeyError, TypeError
            `encode` did not make the data.
        """
        if isinstance(data, list):
            return [self.decode(item, get) for item in data]
        if not isinstance(data, dict):
            return data
        if "object" in data:
            if data["object"] not in self.readers:
                raise UnknownClassError(data["object"])
            read, table = self.readers[data["object"]]
            items = data["fields"].items()
            value = read(**{table[key]: self.decode(item, get) for key, item in items})
            check_fields(value)
            return value
        ((tag, content),) = data.items()
        if tag == "float":
            if content not in ("inf", "-inf", "nan"):
                msg = f"expected an infinity or NaN, got {content!r}"
                raise ValueError(msg)
            return float(content)
        if tag == "tuple":
            return tuple(self.decode(item, get) for item in content)
        if tag == "dict":
            return {key: self.decode(item, get) for key, item in content.items()}
        if tag == "array":
            return _array(content, get)
        msg = f"unknown tag {tag!r}"
        raise ValueError(msg)


def _describe(array: Array, put: Callable[[Array], str]) -> dict[str, Any]:
    """Describe an array and its memory order, which decides the last bits of later products."""
    order = _order(array)
    if array.nbytes > INLINE:
        return {"block": put(array), "order": order}
    return {
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "order": order,
        "base64": base64.b64encode(array.tobytes(order)).decode(),
    }


def _array(data: dict[str, Any], get: Callable[[str], Array]) -> Array:
    if "block" in data:
        return restored(get(data["block"]), data["order"])
    if np.dtype(data["dtype"]).kind not in "biufc" or data["order"] not in ("C", "F"):
        msg = f"expected an array of numbers, got {data['dtype']!r}"
        raise ValueError(msg)
    flat = np.frombuffer(base64.b64decode(data["base64"], validate=True), np.dtype(data["dtype"]))
    return flat.reshape(data["shape"], order=data["order"]).copy(order=data["order"])


def _order(array: Array) -> Any:
    """Return the memory order; arrays of states are contiguous, so it can be restored."""
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"


def restored(array: Array, order: Any) -> Array:
    """Return the array in a memory order."""
    return np.asarray(array, order=order)


def array_digest(array: Array) -> str:
    """Return the SHA-256 of an array: type, shape, memory order and entries."""
    order = _order(array)
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} {order}".encode())
    digest.update(np.ascontiguousarray(array.T if order == "F" else array).data)
    return digest.hexdigest()
