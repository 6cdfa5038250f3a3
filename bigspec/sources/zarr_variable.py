"""Zarr arrays of any number of dimensions, read by their attributes: packed, masked.

Zarr's own ``fill_value`` is the value of chunks that are not stored; it does not mark missing
values. But in format 2 xarray and netCDF's NCZarr store ``_FillValue`` there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from bigspec.errors import MissingSourceError, SourceError
from bigspec.kernels.buffers import Buffers
from bigspec.matrices import Grid, Matrix
from bigspec.sources import retries
from bigspec.sources.checks import check_dtype
from bigspec.sources.missing_chunks import stored_fill
from bigspec.sources.packing import RAW, Packing, named_convention, packing_of
from bigspec.sources.variable import Wanted, axes_of, flattened, reading_of, variable
from bigspec.sources.zarr_store import ZarrMatrix, ZarrVector, open_zarr_array

__all__ = ["Boxes", "open_described", "open_zarr", "zarr_packing"]

Array = np.ndarray[Any, Any]
DIMENSIONS = "_ARRAY_DIMENSIONS"
"""The attribute that xarray and NCZarr write in format 2."""


@dataclass(frozen=True)
class Rectangles:
    """The stored numbers of a matrix."""

    matrix: ZarrMatrix = field(repr=False)

    @property
    def fill_value(self) -> Array:
        """The value of a chunk that is not stored."""
        return stored_fill(self.matrix.handle.open().fill_value, self.matrix.dtype)

    def read(self, selection: tuple[slice, ...], name: str, buffers: Buffers) -> Array:
        """Read a rectangle of whole chunks."""
        block = np.asarray(self.matrix.read(selection[0], selection[1], buffers))
        return block.astype(block.dtype.newbyteorder("="), copy=False)

    def chunk_at(self, place: tuple[int, ...]) -> str:
        """Name a chunk by its key."""
        return self.matrix.chunk_at(place[0], place[1])


@dataclass(frozen=True)
class Boxes:
    """The stored numbers of an array of any number of dimensions.

    Attributes
    ----------
    base : ZarrVector
        It opens the array, and knows its name and place.
    grids : tuple of Grid
        The chunks (or shards) along each dimension.
    """

    base: ZarrVector = field(repr=False)
    grids: tuple[Grid, ...]

    @property
    def fill_value(self) -> Array:
        """The value of a chunk that is not stored."""
        return stored_fill(self.base.handle.open().fill_value, self.base.dtype)

    def read(self, selection: tuple[slice, ...], name: str, buffers: Buffers) -> Array:
        """Read a box of whole chunks."""
        handle = self.base.handle
        dtype = handle.open(buffers).dtype
        try:
            block = handle.read(selection, buffers)
        except MissingSourceError:
            raise
        except Exception as error:  # noqa: BLE001, RUF100 - reading by chunk names the chunk
            buffers.retries += retries.is_transient(error)
            block = self._read_by_chunk(dtype, selection, name, buffers)
        document = self.base.document
        if document is not None and not Path(document).exists():
            msg = f"{name}: the store went away while it was read ({document} is gone)"
            raise MissingSourceError(msg)
        return np.asarray(block, np.dtype(dtype).newbyteorder("="))

    def chunk_at(self, place: tuple[int, ...]) -> str:
        """Name a chunk by its key."""
        return f"chunk {self._key(place)}"

    def _read_by_chunk(
        self, dtype: np.dtype[Any], selection: tuple[slice, ...], name: str, buffers: Buffers
    ) -> Array:
        block = np.empty([s.stop - s.start for s in selection], dtype)
        for box in itertools.product(*map(_cells, self.grids, selection)):
            try:
                part: Any = retries.with_retries(
                    partial(self.base.handle.read, box, buffers), buffers
                )
            except Exception as error:
                key = self._key(tuple(s.start for s in box))
                raise retries.named_failure(error, name, key) from error
            there = (
                slice(b.start - s.start, b.stop - s.start)
                for b, s in zip(box, selection, strict=True)
            )
            block[tuple(there)] = part
        return block

    def _key(self, place: tuple[int, ...]) -> str:
        numbers = tuple(grid.cell(p) for grid, p in zip(self.grids, place, strict=True))
        return str(self.base.handle.open().metadata.encode_chunk_key(numbers))


def _cells(grid: Grid, across: slice) -> Iterator[slice]:
    for number in range(grid.cell(across.start), grid.cell(across.stop - 1) + 1):
        yield slice(max(grid.cut(number), across.start), min(grid.cut(number + 1), across.stop))


def open_zarr(
    array: zarr.Array[Any], name: str | None = None, wanted: Wanted | None = None
) -> Matrix:
    """Open a Zarr array and obey its attributes; no entry is read.

    Parameters
    ----------
    array : zarr.Array
    name : str, optional
        Its name in messages; by default its path or URL.
    wanted : Wanted, optional

    Returns
    -------
    Matrix
        A `ZarrMatrix` if stored numbers are simply the values, and the first of two dimensions
        makes the rows.

    Raises
    ------
    ArgumentError
        `rows` are not dimensions of the array, or its type cannot hold `fill`.
    DataError, UnsupportedTypeError, SourceError
    """
    wanted = Wanted() if wanted is None else wanted
    packing_for = partial(_packing, array, wanted)
    return open_described(array, name, wanted, _dims(array), packing_for)


def open_described(
    array: zarr.Array[Any],
    name: str | None,
    wanted: Wanted,
    dims: tuple[str, ...],
    packing_for: Callable[[np.dtype[Any], str], Packing],
) -> Matrix:
    """Open a Zarr array by other rules than its own attributes; see `open_zarr`.

    Parameters
    ----------
    array, name, wanted
        See `open_zarr`.
    dims : tuple of str
        Names of the dimensions.
    packing_for : callable
        Returns how stored numbers become values, by their type and the name in messages.
    """
    if array.ndim < 3:
        plain = open_zarr_array(array, name, wanted.missing)  # refuses anything but a matrix
        name, dtype = plain.name, plain.dtype.newbyteorder("=")
        axes = axes_of(dims, plain.shape, wanted.rows, name)
        packing = packing_for(dtype, name)
        if packing.idle and axes[0].dims == (0,):
            return plain
        steps = tuple(grid.step for grid in plain.grids)
        made = variable(Rectangles(plain), name, dtype, steps, axes, packing)
        scratch, base = plain.transient_nbytes, (plain.where, plain.token, plain.resident)
    else:
        held = ZarrVector.of(array, name or str(array.store_path), wanted.missing)
        name, dtype = held.name, check_dtype(held.dtype, held.name).newbyteorder("=")
        flattened(dims, tuple(array.shape), wanted, name)
        axes = axes_of(dims, tuple(array.shape), wanted.rows, name)
        packing = packing_for(dtype, name)
        steps = array.shards or array.chunks
        grids = tuple(Grid(*both) for both in zip(array.shape, steps, strict=True))
        made = variable(Boxes(held, grids), name, dtype, steps, axes, packing)
        scratch, base = _scratch(grids, dtype), (held.where, held.token, held.resident)
    return replace(
        made,
        where=base[0],
        token=base[1],
        resident=base[2],
        reading=reading_of(axes, packing),
        transient_nbytes=made.transient_nbytes + scratch,
    )


def _scratch(grids: tuple[Grid, ...], dtype: np.dtype[Any]) -> int:
    """Return the bytes of zarr's encoded and decoded copies of its chunks."""
    at_once = int(zarr.config.get("async.concurrency") or 10)
    at_once = min(at_once, math.prod(grid.count for grid in grids))
    return 2 * at_once * math.prod(grid.step for grid in grids) * dtype.itemsize


def zarr_packing(
    array: zarr.Array[Any], dtype: np.dtype[Any], name: str, wanted: Wanted
) -> Packing:
    """Return how the attributes of an array turn stored numbers into values.

    Raises
    ------
    SourceError, DataError
        The attributes are ambiguous, or not a mapping.
    """
    if wanted.raw:
        return RAW
    attrs = _attributes(array)
    if attrs is None:
        msg = (
            f"{name}: expected an object in JSON for attributes, got something else. Correct it, "
            "or take the numbers as they are stored with raw=True (--raw)"
        )
        raise SourceError(msg)
    fill = array.metadata.fill_value
    if fill is not None and fill == fill and not _marks(array, attrs, fill):
        fill = None
    return packing_of(attrs, dtype, name, mark=fill).filled(wanted.fill, dtype, name)


def _packing(array: zarr.Array[Any], wanted: Wanted, dtype: np.dtype[Any], name: str) -> Packing:
    return zarr_packing(array, dtype, name, wanted)


def _attributes(array: zarr.Array[Any]) -> dict[str, Any] | None:
    """Return the attributes, or None if they are not a mapping."""
    attrs: Any = array.metadata.attributes or {}
    return dict(attrs) if isinstance(attrs, Mapping) else None


def _marks(array: zarr.Array[Any], attrs: dict[str, Any], fill: Any) -> bool:
    """Whether the fill value of an array is its ``_FillValue``.

    It is so only in format 2, and beside attributes of these conventions. zarr-python writes a 0
    by itself, and xarray never does. So a 0 counts only in an array that xarray packed, where a
    stored 0 would become the offset.
    """
    if array.metadata.zarr_format != 2:
        return False
    if fill != 0:
        return DIMENSIONS in attrs or named_convention(attrs) is not None
    packed = "scale_factor" in attrs or "add_offset" in attrs
    return packed and DIMENSIONS in attrs and "_FillValue" not in attrs


def _dims(array: zarr.Array[Any]) -> tuple[str, ...]:
    attrs = _attributes(array) or {}
    names = getattr(array.metadata, "dimension_names", None) or attrs.get(DIMENSIONS)
    if not isinstance(names, (list, tuple)) or len(names) != array.ndim:
        names = [None] * array.ndim
    return tuple(str(dim) if dim else f"dim_{i}" for i, dim in enumerate(names))
