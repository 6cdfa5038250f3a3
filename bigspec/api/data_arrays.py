"""xarray's DataArrays as two-dimensional arrays: lazy ones stay lazy, dimensions are flattened."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bigspec.errors import ArgumentError, UnsupportedTypeError
from bigspec.matrices import Matrix
from bigspec.passes import is_dask_array, open_dask_array
from bigspec.sources import open_source
from bigspec.sources.variable import axes_of

__all__ = ["is_xarray", "open_data_array"]

CHUNK_BYTES = 32 << 20
"""How much to read at once of a file without chunks."""


def is_xarray(a: Any) -> bool:
    """Tell xarray's objects without importing it."""
    return type(a).__module__.partition(".")[0] == "xarray"


def open_data_array(
    a: Any,
    memory: int,
    rows: Sequence[str] | str | None,
    fill: complex | None,
    *,
    raw: bool,
    missing_chunks: str,
) -> Matrix:
    """Open a DataArray with the decoded values that xarray shows.

    Parameters
    ----------
    a : xarray.DataArray
        In memory, in dask's chunks, or not loaded: then bigspec reads it in the chunks of its
        file, and does not load it.
    memory : int
    rows : sequence of str or str, optional
        Dimensions that make the rows, in this order; needed if there are more than two.
    fill : number, optional
        The value of NaN entries.
    raw, missing_chunks
        Refused, because xarray has opened the array.

    Raises
    ------
    UnsupportedTypeError
        `a` is a Dataset, or another object of xarray.
    ArgumentError, DataError
        `rows` are not dimensions of the array, or missing.
    """
    if not hasattr(a, "variable"):  # asking for its `data` would load it
        there = ", ".join(map(repr, list(getattr(a, "data_vars", ()))[:10]))
        advice = f"; pass one of its variables, ds[name]: {there}" if there else ""
        msg = f"expected a DataArray of xarray's, got {type(a).__qualname__}{advice}"
        raise UnsupportedTypeError(msg)
    if raw or missing_chunks == "error":
        what, how = (
            ("raw", "open it with mask_and_scale=False")
            if raw
            else ("missing_chunks", "pass the path of its store")
        )
        msg = f"{what}: expected a path or a store, got a DataArray, which xarray opened; {how}"
        raise ArgumentError(msg)
    dims, label = tuple(map(str, a.dims)), getattr(a, "name", None)
    name = f"DataArray {label or 'without a name'} ({', '.join(dims)})"
    down, across = axes_of(dims, tuple(map(int, a.shape)), rows, name)
    if fill is not None:
        a = a.fillna(fill)
    if a.chunks is None and not getattr(a.variable, "_in_memory", True):
        a = a.chunk(_chunks(a, down.dims[down.cut]))
    flat = a.data.transpose((*down.dims, *across.dims)).reshape((down.extent, across.extent))
    if is_dask_array(flat):
        return replace(open_dask_array(flat), name=name)
    return replace(open_source(flat, memory), name=name)


def _chunks(a: Any, cut: int) -> dict[Any, int]:
    """Return the chunks of the file, or some rows of a file without chunks."""
    preferred = a.encoding.get("preferred_chunks") or {}
    known = {dim: int(preferred[dim]) for dim in a.dims if dim in preferred}
    if known:
        return known
    one = max(1, math.prod(a.shape) // a.shape[cut] * a.dtype.itemsize)
    return {a.dims[cut]: max(1, CHUNK_BYTES // one)}
