"""How netCDF stores values: packed by scale and offset, missing by conventions (CF 2.5.1, 8.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.errors import ArgumentError

__all__ = ["Packing", "packing_of"]

Array = np.ndarray[Any, Any]

DEFAULT_FILL = {
    "i2": -(2**15) + 1,
    "u2": 2**16 - 1,
    "i4": -(2**31) + 1,
    "u4": 2**32 - 1,
    "i8": -(2**63) + 2,
    "u8": 2**64 - 2,
    "f4": 9.969209968386869e36,
    "f8": 9.969209968386869e36,
}
"""What netCDF leaves where nothing was written (netcdf.h, NC_FILL_*); bytes have no such value."""


@dataclass(frozen=True)
class Packing:
    """From stored values to values.

    Attributes
    ----------
    missing : tuple of numbers
        Stored values that mean that there is none; a NaN stands for every NaN.
    least, most : number or None
        What lies outside is missing too.
    unpacked_limits : bool
        Whether these two are compared after unpacking.
    scale, offset : float or None
    unsigned : bool
        Stored integers are to be read as unsigned ones.
    fill : number or None
        Taken for missing values.
    """

    missing: tuple[Any, ...]
    least: Any
    most: Any
    unpacked_limits: bool
    scale: float | None
    offset: float | None
    unsigned: bool
    fill: Any

    def dtype(self, stored: np.dtype[Any]) -> np.dtype[Any]:
        """Return the type of the values: float64 where they are packed."""
        if self.scale is not None or self.offset is not None:
            return np.dtype(np.float64)
        return _unsigned(stored) if self.unsigned else stored

    def unpack(self, stored: Array, dtype: np.dtype[Any]) -> tuple[Array, Array | None]:
        """Return the values, and which of them are missing (None if none is)."""
        if self.unsigned:
            stored = stored.view(_unsigned(stored.dtype))
        missing: Array | None = None
        for value in self.missing:
            here = np.isnan(stored) if value != value else stored == value
            missing = here if missing is None else np.logical_or(missing, here, out=missing)
        values = stored.astype(dtype, copy=False)
        if self.scale is not None:
            values = values * self.scale
        if self.offset is not None:
            values = values + self.offset
        limited = values if self.unpacked_limits else stored
        for limit, outside in ((self.least, np.less), (self.most, np.greater)):
            if limit is not None:
                here = outside(limited, limit)
                missing = here if missing is None else np.logical_or(missing, here, out=missing)
        return values, missing if missing is not None and missing.any() else None


def packing_of(variable: Any, dtype: np.dtype[Any], fill: Any, name: str) -> Packing:
    """Read the attributes of a variable that say how it is stored.

    Raises
    ------
    ArgumentError
        `fill` is no finite number of the variable's type.
    """
    attribute = variable.attrs.get
    flagged = attribute("_Unsigned")
    unsigned = dtype.kind == "i" and _text(flagged).lower() == "true"
    kind = _unsigned(dtype) if unsigned else dtype
    scale, offset = (_number(attribute(part)) for part in ("scale_factor", "add_offset"))
    scale = None if scale == 1 else scale
    offset = None if offset == 0 else offset
    own = _values(attribute("_FillValue"), kind)
    default = DEFAULT_FILL.get(f"{kind.kind}{kind.itemsize}")
    if not own and default is not None:
        own = (kind.type(default),)
    missing = own + _values(attribute("missing_value"), kind)
    limits = attribute("valid_range")
    least, most = (attribute("valid_min"), attribute("valid_max")) if limits is None else limits
    unpacked = dtype.kind in "iu" and any(
        np.asarray(limit).dtype.kind == "f" for limit in (least, most) if limit is not None
    )
    if not unpacked:
        least, most = (next(iter(_values(limit, kind)), None) for limit in (least, most))
    packing = Packing(
        tuple(dict.fromkeys(missing)),
        _plain(least),
        _plain(most),
        unpacked,
        scale,
        offset,
        unsigned,
        fill,
    )
    if fill is not None:
        _check_fill(fill, packing.dtype(dtype), name)
    return packing


def _check_fill(fill: Any, dtype: np.dtype[Any], name: str) -> None:
    fits = isinstance(fill, (int, float, complex, np.number)) and np.isfinite(fill)
    if fits and dtype.kind != "c":
        fits = np.isreal(fill) and (dtype.kind == "f" or _holds(dtype, np.real(fill)))
    if not fits:
        msg = f"fill: expected a finite number that {dtype} of {name} holds, got {fill!r}"
        raise ArgumentError(msg)


def _holds(dtype: np.dtype[Any], value: Any) -> bool:
    limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return bool(value == int(value) and limits[0] <= int(value) <= limits[1])


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = float(np.asarray(value).reshape(-1)[0])
    return number if math.isfinite(number) else None


def _values(value: Any, kind: np.dtype[Any]) -> tuple[Any, ...]:
    """Return the numbers of an attribute as stored values; what cannot be stored is left out."""
    if value is None or isinstance(value, (str, bytes)):
        return ()
    given = np.asarray(value).reshape(-1)
    if given.dtype.kind not in "iufc":
        return ()
    with np.errstate(invalid="ignore", over="ignore"):
        if given.dtype.kind == "i" and kind.kind == "u" and given.dtype.itemsize == kind.itemsize:
            return tuple(given.astype(given.dtype.newbyteorder("=")).view(kind))  # _Unsigned
        cast = given.astype(kind)
    return tuple(cast if kind.kind in "fc" else cast[cast == given])


def _plain(value: Any) -> Any:
    return None if value is None else np.asarray(value).reshape(-1)[0]


def _unsigned(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(f"u{dtype.itemsize}")
