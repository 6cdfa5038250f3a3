"""Types of numbers by their names, those that NumPy has no name for among them."""

from __future__ import annotations

from typing import Any

import numpy as np

from bigspec.errors import SourceError, needs

__all__ = ["BITS", "NATIVE", "as_dtype", "item_bits", "unpacked"]

NATIVE = {
    "bool": 8, "int8": 8, "uint8": 8, "int16": 16, "uint16": 16, "int32": 32, "uint32": 32,
    "int64": 64, "uint64": 64, "float16": 16, "float32": 32, "float64": 64, "complex64": 64,
    "complex128": 128,
}  # fmt: skip
"""Bits of the types that NumPy has."""
BITS = NATIVE | {
    "bfloat16": 16, "float8_e4m3fn": 8, "float8_e4m3fnuz": 8, "float8_e5m2": 8,
    "float8_e5m2fnuz": 8, "float8_e8m0fnu": 8, "float6_e2m3fn": 6, "float6_e3m2fn": 6,
    "float4_e2m1fn": 4, "int4": 4, "uint4": 4, "int2": 2, "uint2": 2,
}  # fmt: skip
"""Bits in a file of the types that ml_dtypes has."""


def item_bits(name: str) -> int:
    """Return the bits of one number in a file."""
    return BITS[name]


def as_dtype(name: str, file: str) -> np.dtype[Any]:
    """Return the type of a name in `NATIVE` or of ml_dtypes.

    Raises
    ------
    SourceError
        It needs ml_dtypes, which is not here, or is too old.
    """
    if name in NATIVE:
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError as error:
        msg = f"{file}: {needs(f'a tensor of type {name}', 'networks', 'ml_dtypes')}"
        raise SourceError(msg) from error
    found = getattr(ml_dtypes, name, None)
    if found is None:
        msg = (
            f"{file}: this version of ml_dtypes ({ml_dtypes.__version__}) does not know {name}; "
            "pip install -U ml_dtypes"
        )
        raise SourceError(msg)
    dtype: np.dtype[Any] = np.dtype(found)
    return dtype


def unpacked(raw: np.ndarray[Any, Any], bits: int, count: int) -> np.ndarray[Any, Any]:
    """Return numbers of less than a byte in a byte each; the lowest bits of a byte come first.

    Parameters
    ----------
    raw : ndarray of uint8
    bits : {2, 4, 6}
    count : int
        Numbers; what is left in the last byte is dropped.
    """
    if bits == 6:
        places = np.unpackbits(raw, bitorder="little")[: 6 * count].reshape(count, 6)
        return np.packbits(places, axis=1, bitorder="little").reshape(count)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (raw[:, None] >> shifts) & np.uint8((1 << bits) - 1)
    return codes.reshape(-1)[:count]
