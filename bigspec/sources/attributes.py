"""Attributes as numbers, whether stored as a number, an array of one, text or base64.

JSON has no NaN and HDF5 has five kinds of text, so one attribute comes in many forms. If it
cannot be read as a number, that is an error: ignoring it would give another matrix.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from typing import Any, NoReturn

import numpy as np

from bigspec.errors import DataError

__all__ = ["flag", "number", "numbers", "refuse", "text_of"]

Array = np.ndarray[Any, Any]

WHOLE = re.compile(r"[+-]?\d+")
DECIMAL = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|inf|infinity)", re.IGNORECASE)
DOUBLE = re.compile(r"[A-Za-z0-9+/]{11}=")
"""Eight bytes in base64: how xarray writes a float fill value of a Zarr v3 array."""


def numbers(value: Any, key: str, name: str) -> Array | None:
    """Return an attribute as a vector of numbers, in its own type.

    Parameters
    ----------
    value : object
        The attribute; None if there is none.
    key, name : str
        The attribute and the array, for messages.

    Raises
    ------
    DataError
        Some of it is not a number.
    """
    if value is None:
        return None
    given = np.asarray(value).reshape(-1)
    if given.dtype.kind in "SUO":
        parsed = [_parse(element) for element in given.tolist()]
        if None in parsed:
            refuse(value, key, name, "a number")
        given = np.asarray(parsed)
    if given.dtype.kind not in "biufc" or given.size == 0:
        refuse(value, key, name, "a number")
    return given


def number(value: Any, key: str, name: str) -> float | None:
    """Return an attribute that must be one finite real number; None if it is absent.

    Raises
    ------
    DataError
    """
    given = numbers(value, key, name)
    if given is None:
        return None
    if given.size != 1 or given.dtype.kind not in "iuf" or not np.isfinite(given[0]):
        refuse(value, key, name, "one finite number")
    return float(given[0])


def flag(value: Any, key: str, name: str) -> bool | None:
    """Return an attribute that must say true or false; None if it is absent.

    Raises
    ------
    DataError
    """
    if value is None:
        return None
    word = text_of(value).lower()
    if word not in ("true", "false"):
        refuse(value, key, name, "'true' or 'false'")
    return word == "true"


def text_of(value: Any) -> str:
    """Return a text attribute: str, bytes, or an array that holds one of these."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        value = value.decode("latin1")
    return str(value).strip("\0 ")


def refuse(value: Any, key: str, name: str, expected: str) -> NoReturn:
    """Raise the error for an attribute of the wrong kind."""
    got = value if isinstance(value, (str, bytes, list, np.ndarray)) else str(value)
    msg = (
        f"{name}: expected {expected} in the attribute {key}, got {got!r}. Correct the attribute, "
        "or take the numbers as they are stored with raw=True (--raw)"
    )
    raise DataError(msg)


def _parse(element: Any) -> Any:
    """Return a number that was given as text or as an object, or None."""
    if isinstance(element, int) and not -(2**63) <= element < 2**64:
        return float(element)  # JSON's 1e30 without an exponent
    if isinstance(element, (bool, int, float, complex)):
        return element
    if not isinstance(element, (str, bytes)):
        return None
    text = text_of(element)
    if WHOLE.fullmatch(text):
        return _parse(int(text))
    if DECIMAL.fullmatch(text):
        return float(text)
    if DOUBLE.fullmatch(text):
        try:
            return float(struct.unpack("<d", base64.b64decode(text, validate=True))[0])
        except (binascii.Error, struct.error):
            return None
    return None
