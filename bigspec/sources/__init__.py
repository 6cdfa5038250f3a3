"""Opening what a user has as a `bigspec.matrices.Matrix`.

Each format is one module with one `Matrix` class; `open_source` tells them apart.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import zarr
from scipy.sparse.linalg import LinearOperator

from bigspec.errors import ArgumentError, UnsupportedTypeError
from bigspec.matrices import Matrix
from bigspec.sources.binsparse import is_binsparse, open_binsparse
from bigspec.sources.checks import half_of_memory
from bigspec.sources.files import is_file_format, open_file
from bigspec.sources.hdf5 import HDF5Matrix, is_hdf5, open_hdf5
from bigspec.sources.locations import local_file, locate, open_node
from bigspec.sources.memory import (
    ArrayMatrix,
    SparseMatrix,
    from_pydata_sparse,
    is_pydata_sparse,
    open_numpy,
    open_sparse,
)
from bigspec.sources.netcdf import NetCDFMatrix, is_netcdf, open_netcdf
from bigspec.sources.operator import LinearOperatorMatrix, open_operator
from bigspec.sources.sparse_store import StoredSparse, open_sparse_group, sparse_format
from bigspec.sources.zarr_store import ZarrMatrix, open_zarr_array, refuse_group

__all__ = [
    "ArrayMatrix",
    "HDF5Matrix",
    "LinearOperatorMatrix",
    "NetCDFMatrix",
    "SparseMatrix",
    "StoredSparse",
    "ZarrMatrix",
    "open_source",
]

ACCEPTED = (
    "a path or URL of a Zarr array or sparse group, a path of an HDF5, netCDF, .npy, .npz or .mtx "
    "file, a zarr array or sparse group, a dask array, a NumPy array, "
    "a SciPy or pydata sparse array, a scipy.sparse.linalg.LinearOperator, or a Matrix"
)


def open_source(
    a: Any,
    memory: int | None = None,
    rows: Sequence[str] | str | None = None,
    fill: complex | None = None,
) -> Matrix:
    """Open anything that is a matrix, except dask arrays, which need a pass to be read.

    Parameters
    ----------
    a : str, os.PathLike, zarr.Array or Group, numpy.ndarray, SciPy sparse, LinearOperator, Matrix
        A path may be a Zarr directory, a zip archive of one (``A.zarr.zip``), any URL that
        fsspec knows, or a local HDF5, .npy, .npz or .mtx file; ``::/X`` at its end points at a
        matrix inside.
    memory : int, optional
        Bytes that may be held for a matrix that is loaded whole, for pointers that are read when
        it is opened, and for a chunk; by default half of what this machine has.
    rows : sequence of str, optional
        Dimensions of a netCDF variable that make the rows.
    fill : number, optional
        Taken for missing values of a netCDF variable.

    Returns
    -------
    Matrix
        With shape, dtype and chunk grid known; no entry has been read, but for .npz and .mtx.

    Raises
    ------
    MissingSourceError, SourceError, StoreUnavailableError
        The place cannot be opened; the message says what is there instead.
    DataError, UnsupportedTypeError
        It holds no numeric matrix, or `a` is of another type.
    MemoryLimitError
        It says that it needs more than that; nothing was loaded.
    ArgumentError
        `rows` or `fill` for something else than a netCDF variable, or not of this one.
    """
    memory = half_of_memory() if memory is None else memory
    if isinstance(a, str) and not a:
        msg = "expected a path or URL, got an empty text; is a variable unset?"
        raise ArgumentError(msg)
    if rows is not None or fill is not None:
        return _open_variable(a, rows, fill)
    if isinstance(a, Matrix):
        return a
    if isinstance(a, (str, os.PathLike)):
        return _open_path(a, memory)
    if isinstance(a, zarr.Array):
        return open_zarr_array(a)
    if isinstance(a, zarr.Group):
        name = f"zarr group {a.name}"
        if (opened := _open_group(a, name, memory)) is not None:
            return opened
        raise refuse_group(a.store, a.path, name, "pass group[{!r}]")
    if isinstance(a, np.ndarray):
        return open_numpy(a)
    if sp.issparse(a):
        return open_sparse(a)
    if is_pydata_sparse(a):
        name = f"sparse.{type(a).__name__} {a.shape}"
        return replace(open_sparse(from_pydata_sparse(a, name)), name=name)
    if isinstance(a, LinearOperator):
        return open_operator(a)
    kind = f"{type(a).__module__}.{type(a).__qualname__}".removeprefix("builtins.")
    msg = f"expected {ACCEPTED}; got {kind}"
    if isinstance(a, (list, tuple)) or hasattr(a, "__array__"):
        msg += ". If it fits in memory, pass numpy.asarray(a)"
    raise UnsupportedTypeError(msg)


def _open_variable(a: Any, rows: Sequence[str] | str | None, fill: complex | None) -> Matrix:
    local = local_file(os.fspath(a)) if isinstance(a, (str, os.PathLike)) else None
    if local is None or not (is_netcdf(local[0]) or is_hdf5(local[0])):
        msg = f"rows and fill: expected the path of a netCDF file, such as A.nc::/T, got {a!r}"
        raise ArgumentError(msg)
    return open_netcdf(*local, os.fspath(a), rows, fill)


def _open_group(group: Any, name: str, memory: int) -> Matrix | None:
    """Open a Zarr or HDF5 group if it is a sparse matrix."""
    if is_binsparse(group):
        return open_binsparse(group, name, memory)
    return None if sparse_format(group) is None else open_sparse_group(group, name, memory)


def _open_path(a: str | os.PathLike[str], memory: int) -> Matrix:
    text = os.fspath(a)
    if not isinstance(text, str):
        msg = f"expected a path as str, got {type(text).__name__}; decode it with os.fsdecode"
        raise UnsupportedTypeError(msg)
    if (local := local_file(text)) is not None:
        path, inside = local
        if not inside and is_file_format(path):
            return open_file(path, text, memory)
        if is_netcdf(path):
            return open_netcdf(path, inside, text, None, None)
        if is_hdf5(path):
            opened = open_hdf5(path, inside, text)
            if isinstance(opened, Matrix):
                return opened
            return _open_group(*opened, memory) or open_sparse_group(*opened, memory)
    location = locate(text)
    node = open_node(location)
    if isinstance(node, zarr.Array):
        return open_zarr_array(node, location.name)
    if node.attrs.get("encoding-type") == "anndata" and not location.path:
        node = open_node(replace(location, path="X"))
        if isinstance(node, zarr.Array):
            return open_zarr_array(node, location.name)
    if (sparse := _open_group(node, location.name, memory)) is not None:
        return sparse
    outer = text.removesuffix("/")
    inside = "/{}" if location.path else "::/{}"
    raise refuse_group(location.store, location.path, text, repr(outer + inside))
