"""How stored numbers become values: by scale and offset, and by marks of missing values.

netCDF, Zarr and HDF5 all come here. The attributes are those that CF (2.5.1, 8.1) and xarray
share: ``scale_factor``, ``add_offset``, ``_FillValue``, ``missing_value``, ``valid_min``,
``valid_max``, ``valid_range``, ``_Unsigned``; and HDF-EOS's ``ScaleFactor``, ``Offset`` and
``MissingValue``. Times stay numbers in their stored ``units``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bigspec.errors import ArgumentError, DataError
from bigspec.sources.attributes import flag, number, numbers, refuse, text_of

__all__ = ["BESIDE", "CONVENTIONS", "RAW", "Packing", "named_convention", "packing_of"]

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
"""What netCDF fills unwritten places with (netcdf.h, NC_FILL_*); bytes have no such value."""

CONVENTIONS = (
    "scale_factor", "add_offset", "_FillValue", "missing_value", "valid_range", "valid_min",
    "valid_max", "_Unsigned", "ScaleFactor", "MissingValue",
)  # fmt: skip
"""Any one of these attributes says that the stored numbers are not simply the values."""
BESIDE = ("Offset", "units", "scale_factor_err", "add_offset_err", "calibrated_nt")
"""Attributes that change the meaning of those above, and have none of their own."""
OTHER_CALIBRATION = BESIDE[2:]
"""Signs of HDF4, which subtracts ``add_offset`` before scaling; CF adds it after."""
TIMES = {
    f"{unit}{plural}"
    for unit in ("day", "hour", "minute", "second", "millisecond", "microsecond", "nanosecond")
    for plural in ("", "s")
}
NAT = np.iinfo(np.int64).min
"""xarray and NumPy store this for a missing time, whatever the attributes say."""


@dataclass(frozen=True)
class Packing:
    """From stored values to values.

    Its repr is part of a matrix's identity, so newer fields stay out of the repr.

    Attributes
    ----------
    missing : tuple of numbers
        Stored values that mark a missing entry; a NaN stands for every NaN.
    least, most : number or None
        Values outside these limits are missing too.
    unpacked_limits : bool
        Whether values are unpacked before they are compared with the limits.
    scale, offset : float or None
    unsigned : bool
        Whether stored signed integers are read as unsigned.
    fill : number or None
        Replaces missing values.
    signed : bool
        Whether stored unsigned integers are read as signed.
    """

    missing: tuple[Any, ...]
    least: Any
    most: Any
    unpacked_limits: bool
    scale: float | None
    offset: float | None
    unsigned: bool
    fill: Any
    signed: bool = field(default=False, repr=False)

    @property
    def idle(self) -> bool:
        """Whether stored numbers are simply the values. A NaN without a fill does not matter."""
        limits = self.least is not None or self.most is not None
        packed = self.scale is not None or self.offset is not None
        marked = any(value == value for value in self.missing)
        filled = bool(self.missing) and self.fill is not None
        return not (limits or packed or marked or filled or self.unsigned or self.signed)

    def dtype(self, stored: np.dtype[Any]) -> np.dtype[Any]:
        """Return the type of the values: float64 (complex128) where they are packed."""
        if self.scale is not None or self.offset is not None:
            return np.dtype(np.complex128 if stored.kind == "c" else np.float64)
        return self.kind(stored)

    def kind(self, stored: np.dtype[Any]) -> np.dtype[Any]:
        """Return the type of stored numbers before unpacking, with the sign that is meant."""
        if not (self.unsigned or self.signed):
            return stored
        return np.dtype(f"{'u' if self.unsigned else 'i'}{stored.itemsize}")

    def filled(self, fill: Any, stored: np.dtype[Any], name: str) -> Packing:
        """Return the same packing, with a value for missing entries.

        Raises
        ------
        ArgumentError
            The fill is not a finite number, or the values' type cannot hold it.
        """
        if fill is None:
            return self
        dtype = self.dtype(stored)
        fits = isinstance(fill, (int, float, complex, np.number)) and np.isfinite(fill)
        if fits and dtype.kind != "c":
            fits = np.isreal(fill) and (dtype.kind in "fV" or _holds(dtype, np.real(fill)))
        if not fits:
            msg = f"fill: expected a finite number that {dtype} of {name} holds, got {fill!r}"
            raise ArgumentError(msg)
        return replace(self, fill=fill)

    def unpack(self, stored: Array, dtype: np.dtype[Any]) -> tuple[Array, Array | None]:
        """Return the values, and a mask of the missing ones (None if there are none)."""
        stored = stored.view(self.kind(stored.dtype))
        missing: Array | None = None
        for value in self.missing:
            here = np.isnan(stored) if value != value else stored == value
            missing = here if missing is None else np.logical_or(missing, here, out=missing)
        with np.errstate(invalid="ignore"):  # a signalling NaN is one
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


RAW = Packing((), None, None, False, None, None, False, None)
"""Stored numbers as they are."""


def named_convention(attrs: Mapping[str, Any]) -> str | None:
    """Return the first attribute of `CONVENTIONS` that is present, or None."""
    return next((key for key in CONVENTIONS if attrs.get(key) is not None), None)


def packing_of(
    attrs: Mapping[str, Any],
    dtype: np.dtype[Any],
    name: str,
    *,
    mark: Any = None,
    netcdf: bool = False,
) -> Packing:
    """Read the attributes of an array that say how it is stored.

    Parameters
    ----------
    attrs : mapping
    dtype : numpy.dtype
        As stored.
    name : str
        Name of the array in messages.
    mark : number, optional
        The format's own mark of missing values, besides ``_FillValue``.
    netcdf : bool
        Whether netCDF's default fill values mark missing entries.

    Raises
    ------
    DataError
        An attribute is ambiguous.
    """
    unsigned, signed = _sign(attrs, dtype, name)
    kind = replace(RAW, unsigned=unsigned, signed=signed).kind(dtype)
    scale, offset = _scaling(attrs, name)
    read = _Reader(attrs, kind, unsigned or signed, name)
    own = read.marks("_FillValue")
    if mark is not None:
        own += read.stored(np.asarray(mark).reshape(-1), "fill_value")
    default = DEFAULT_FILL.get(f"{kind.kind}{kind.itemsize}") if netcdf else None
    if not own and default is not None:
        own = (kind.type(default),)
    missing = own + read.marks("missing_value") + read.marks("MissingValue")
    if kind.kind == "i" and kind.itemsize == 8 and _is_time(attrs.get("units")):
        missing += (kind.type(NAT),)
    least, most, unpacked = read.limits(dtype)
    missing = tuple(dict.fromkeys(missing))
    return Packing(missing, least, most, unpacked, scale, offset, unsigned, None, signed)


def _sign(attrs: Mapping[str, Any], dtype: np.dtype[Any], name: str) -> tuple[bool, bool]:
    """Tell whether ``_Unsigned`` turns the integers unsigned, and whether it turns them signed."""
    unsigned = flag(attrs.get("_Unsigned"), "_Unsigned", name)
    return unsigned is True and dtype.kind == "i", unsigned is False and dtype.kind == "u"


def _scaling(attrs: Mapping[str, Any], name: str) -> tuple[float | None, float | None]:
    """Return scale and offset, None where they change nothing."""
    scale, offset = (number(attrs.get(key), key, name) for key in ("scale_factor", "add_offset"))
    other = number(attrs.get("ScaleFactor"), "ScaleFactor", name)
    moved = other is not None and number(attrs.get("Offset"), "Offset", name)
    if moved:
        # Some files mean s * x + o, others s * (x - o), and neither kind says which.
        refuse(attrs["Offset"], "Offset", name, "0")
    if other is not None and scale not in (None, other):
        refuse(other, "ScaleFactor", name, f"{scale}, as in scale_factor,")
    scale = other if scale is None else scale
    if scale == 0:
        refuse(scale, "scale_factor", name, "a number other than 0")
    marked = next((key for key in OTHER_CALIBRATION if key in attrs), None)
    if offset and marked:
        msg = (
            f"{name}: expected CF's scale_factor and add_offset, got HDF4's, which are applied in "
            f"another order ({marked} says so). Unpack it where it came from, or take the numbers "
            "as they are stored with raw=True (--raw)"
        )
        raise DataError(msg)
    return (None if scale == 1 else scale), (None if offset == 0 else offset)


@dataclass(frozen=True)
class _Reader:
    """Reads attributes as stored values of type `kind`; `turned` if the stored sign differs."""

    attrs: Mapping[str, Any]
    kind: np.dtype[Any]
    turned: bool
    name: str

    def limits(self, dtype: np.dtype[Any]) -> tuple[Any, Any, bool]:
        """Return the limits of valid values, and whether they limit unpacked values."""
        both = numbers(self.attrs.get("valid_range"), "valid_range", self.name)
        if both is not None and both.size != 2:
            refuse(self.attrs["valid_range"], "valid_range", self.name, "two numbers")
        found: list[Any] = []
        for place, key in enumerate(("valid_min", "valid_max")):
            given = numbers(self.attrs.get(key), key, self.name) if both is None else both
            if given is not None:
                given = given if both is None else given[place : place + 1]
                if given.size != 1 or "c" in (given.dtype.kind, dtype.kind) or given != given:
                    refuse(given, key, self.name, "one real number for real entries")
            found.append(given)
        kinds = {limit.dtype.kind for limit in found if limit is not None}
        unpacked = dtype.kind in "iu" and "f" in kinds
        least, most = (None if x is None else x[0] if unpacked else self._limit(x) for x in found)
        return least, most, unpacked

    def marks(self, key: str) -> tuple[Any, ...]:
        """Return the stored values that an attribute marks as missing."""
        given = numbers(self.attrs.get(key), key, self.name)
        if given is None:
            return ()
        if key == "_FillValue" and self.kind.kind == "c" and given.size == 2:
            given = np.asarray([complex(given[0], given[1])])  # xarray's pair of parts
        return self.stored(given, key)

    def stored(self, given: Array, key: str) -> tuple[Any, ...]:
        """Return numbers as stored values.

        Integers have no NaN, so a NaN is dropped there. Any other number outside the type is
        refused: the stored values must have been meant in another type.
        """
        if given.dtype.kind == "c" and self.kind.kind != "c":
            refuse(given, key, self.name, f"a number that {self.kind} holds")
        if self.kind.kind not in "iub":
            with np.errstate(invalid="ignore", over="ignore"):
                return tuple(given.astype(self.kind))
        return tuple(self._whole(value, key) for value in given[given == given])

    def _limit(self, given: Array) -> Any:
        """Return a limit, as a Python integer if it lies beyond the stored type."""
        if self.kind.kind in "iub" and not _holds(self.kind, given[0]) and not self.turned:
            return int(given[0])
        return self.stored(given, "valid_range")[0]

    def _whole(self, value: Any, key: str) -> Any:
        whole = int(value) if np.isfinite(value) and value == int(value) else None
        if whole is not None and not _holds(self.kind, whole):
            # The attribute has the stored sign, the values the other one (_Unsigned).
            same = value.dtype.kind == "i" and value.dtype.itemsize == self.kind.itemsize
            other = 2 ** (8 * self.kind.itemsize) * (1 if whole < 0 else -1)
            meant = self.turned or (same and self.kind.kind == "u")
            half = abs(other) // 2
            meant = meant and (-half <= whole < 0 or half <= whole < 2 * half)
            whole = whole + other if meant else None
        if whole is None:
            refuse(value, key, self.name, f"a number that {self.kind} holds")
        return self.kind.type(whole)


def _is_time(units: Any) -> bool:
    return units is not None and text_of(units).lower().partition(" since ")[0] in TIMES


def _holds(dtype: np.dtype[Any], value: Any) -> bool:
    limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return bool(value == int(value) and limits[0] <= int(value) <= limits[1])
