"""Compares the fields of a decoded dataclass with its annotations.

A record with the right checksum may still hold anything. Python checks no annotations, so a text
in place of a number would be noticed passes later, far from here.
"""

from __future__ import annotations

import math
import types
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

__all__ = ["check_fields"]

MOST = 1 << 63  # bound of whole numbers; only seeds may be larger, and no field is one


def check_fields(value: Any) -> None:
    """Compare the fields of a dataclass with their annotations.

    A field annotated as ``Any``, or with an unknown type, may be anything.

    Raises
    ------
    TypeError
        A field is of another type; the message names it.
    """
    kind: Any = type(value)
    for name, wanted in _hints(kind).items():
        if not _fits(getattr(value, name), wanted):
            msg = f"{kind.__name__}.{name} is not of the type {wanted}"
            raise TypeError(msg)


@cache
def _hints(kind: type) -> dict[str, Any]:
    try:
        hints = get_type_hints(kind)
    except NameError:  # a third party's class imports its types for type checkers alone
        return {}
    return {
        name: hints[name] for name in getattr(kind, "__dataclass_fields__", ()) if name in hints
    }


def _fits(value: Any, wanted: Any) -> bool:
    origin, parts = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if parts[1:] == (Ellipsis,):
            return all(_fits(item, parts[0]) for item in value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if origin is np.ndarray or wanted is np.ndarray:
        return isinstance(value, np.ndarray) and value.dtype.kind in "biufc"
    if wanted is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and not math.isnan(value)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < MOST
    if isinstance(origin or wanted, type):
        return isinstance(value, origin or wanted)
    return True
