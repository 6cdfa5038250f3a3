"""Columns of Arrow tables as ids and values; other entries are refused with their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.errors import DataError, NonFiniteError, UnsupportedTypeError

__all__ = ["LARGEST", "Column", "indices_of", "values_of", "values_type"]

Array = np.ndarray[Any, Any]

ROLES = ("row ids", "column ids", "values")
LARGEST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes
    ----------
    name : str
    role : {"row ids", "column ids", "values"}
    kind : pyarrow.DataType
        Type of its entries; for a dictionary, of its values.
    text : bool
        Whether they are text.
    signed : bool
        Whether ids may be negative, because they are numbered.
    """

    name: str
    role: str
    kind: Any
    text: bool = False
    signed: bool = False

    @classmethod
    def of(cls, field: Any, axis: int, source: str) -> Column:
        """Check the type of a column.

        Raises
        ------
        UnsupportedTypeError
            Ids, or values, cannot have this type.
        """
        import pyarrow.types as kinds

        kind, role = field.type, ROLES[axis]
        if kinds.is_dictionary(kind):
            kind = kind.value_type
        text = kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)
        whole = kinds.is_integer(kind)
        if role == "values":
            if whole or kinds.is_floating(kind) or kinds.is_boolean(kind) or kinds.is_decimal(kind):
                return cls(field.name, role, kind)
            expected, advice = "numbers", "cast it to a number where the table is made"
        elif text or whole:
            return cls(field.name, role, kind, text)
        else:
            expected, advice = "whole numbers or text", "cast it to int64 or to text"
            if kinds.is_floating(kind):
                advice += "; whole numbers become floating where a column once held nulls"
        msg = f"{source}: expected {expected} in {field.name!r} ({role}), got {kind}; {advice}"
        raise UnsupportedTypeError(msg)


def indices_of(column: Any, spec: Column, place: str, first: int | None) -> Any:
    """Return ids as int64 numbers, or text as an Arrow array of large strings.

    Raises
    ------
    DataError
        A null, or a number that is negative or beyond int64.
    """
    import pyarrow as pa
    import pyarrow.types as kinds

    column = _whole(column, spec, place, first)
    if spec.text:
        return column.cast(pa.large_string())
    numbers = column.to_numpy(zero_copy_only=False)
    large = kinds.is_uint64(spec.kind)
    bad = numbers > np.uint64(LARGEST) if large else numbers < 0
    if bad.any() and (large or not spec.signed):
        row = int(np.argmax(bad))
        advice = "cast them to text" if large else "--renumber (renumber=True) numbers them"
        msg = (
            f"{place}: expected ids from 0 to {LARGEST} in {spec.name!r} ({spec.role}), "
            f"got {numbers[row]}{_at(row, first)}; {advice}"
        )
        raise DataError(msg)
    return numbers.astype(np.int64, copy=False)


def values_type(spec: Column) -> np.dtype[Any]:
    """Return the NumPy type of the values: float64 for decimals, float32 for float16."""
    import pyarrow.types as kinds

    if kinds.is_decimal(spec.kind):
        return np.dtype(np.float64)
    if kinds.is_float16(spec.kind):
        return np.dtype(np.float32)
    kind: np.dtype[Any] = np.dtype(spec.kind.to_pandas_dtype())
    return kind


def values_of(column: Any, spec: Column, place: str, first: int) -> Array:
    """Return values as numbers; decimals are rounded to float64.

    Raises
    ------
    DataError
        A null.
    NonFiniteError
        A NaN or an infinity.
    """
    import pyarrow as pa
    import pyarrow.types as kinds

    column = _whole(column, spec, place, first)
    if kinds.is_decimal(spec.kind):
        column = column.cast(pa.float64())
    values: Array = column.to_numpy(zero_copy_only=False)
    values = values.astype(values_type(spec), copy=False)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        row = int(np.argmax(~np.isfinite(values)))
        msg = (
            f"{place}: expected finite numbers in {spec.name!r} ({spec.role}), got "
            f"{values[row]}{_at(row, first)}; filter such rows out"
        )
        raise NonFiniteError(msg)
    return values


def _whole(column: Any, spec: Column, place: str, first: int | None) -> Any:
    """Return a column without its dictionary; nulls are refused."""
    import pyarrow.types as kinds

    if kinds.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        msg = (
            f"{place}: expected no nulls in {spec.name!r} ({spec.role}), got "
            f"{column.null_count} of them, the first{_at(row, first)}; fill them, or filter such "
            "rows out"
        )
        raise DataError(msg)
    return column


def _at(row: int, first: int | None) -> str:
    """Name the row of its row group, if that is known."""
    return "" if first is None else f" in row {first + row} of it"
