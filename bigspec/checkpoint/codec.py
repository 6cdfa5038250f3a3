"""A saved value as JSON and arrays: frozen dataclasses, tuples, numbers, text. No pickle.

Every object in the JSON carries one tag that says what it is, and only dataclasses on the
codec's list can come out of it, so that a checkpoint from anywhere can be opened safely.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

__all__ = ["INLINE", "Codec", "array_digest", "restored"]

Array = np.ndarray[Any, Any]

INLINE = 16 << 10
"""Arrays of at most so many bytes lie in the record itself."""


class Codec:
    """Encodes and decodes values.

    Parameters
    ----------
    types : iterable of type
        The dataclasses that may occur, told apart by their names.
    """

    def __init__(self, types: Iterable[type]) -> None:
        self.types = {kind.__name__: kind for kind in types}

    def encode(self, value: Any, put: Callable[[Array], str]) -> Any:
        """Return `value` as JSON-ready data; `put` stores a large array and names it."""
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):  # Python's JSON keeps every bit of a finite float
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, np.ndarray):
            return {"array": _described(value, put)}
        if isinstance(value, (tuple, list)):
            items = [self.encode(item, put) for item in value]
            return {"tuple": items} if isinstance(value, tuple) else items
        if isinstance(value, dict):
            return {"dict": {key: self.encode(item, put) for key, item in value.items()}}
        if self.types.get(type(value).__name__) is type(value) and is_dataclass(value):
            held = {f.name: self.encode(getattr(value, f.name), put) for f in fields(value)}
            return {"object": type(value).__name__, "fields": held}
        msg = f"expected numbers, text, arrays or a listed dataclass, got {type(value).__name__}"
        raise TypeError(msg)

    def decode(self, data: Any, get: Callable[[str], Array]) -> Any:
        """Return the value; `get` loads an array by its name.

        Raises
        ------
        ValueError, KeyError, TypeError
            The data was not made by `encode`.
        """
        if isinstance(data, list):
            return [self.decode(item, get) for item in data]
        if not isinstance(data, dict):
            return data
        if "object" in data:
            held = {key: self.decode(item, get) for key, item in data["fields"].items()}
            return self.types[data["object"]](**held)
        ((tag, held),) = data.items()
        if tag == "float":
            return float(held)
        if tag == "tuple":
            return tuple(self.decode(item, get) for item in held)
        if tag == "dict":
            return {key: self.decode(item, get) for key, item in held.items()}
        if tag == "array":
            return _array(held, get)
        msg = f"unknown tag {tag!r}"
        raise ValueError(msg)


def _described(array: Array, put: Callable[[Array], str]) -> dict[str, Any]:
    """Describe an array; its memory order decides the last bits of later products."""
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
    flat = np.frombuffer(base64.b64decode(data["base64"], validate=True), np.dtype(data["dtype"]))
    return flat.reshape(data["shape"], order=data["order"]).copy(order=data["order"])


def _order(array: Array) -> Any:
    """Tell the memory order; states hold contiguous arrays, so that it can be restored."""
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
