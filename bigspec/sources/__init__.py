"""Opening any input of a user as a `bigspec.matrices.Matrix`.

Each format is one module with one `Matrix` class; `open_source` recognises the format.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
import zarr
from scipy.sparse.linalg import LinearOperator

from bigspec.errors import ArgumentError, SourceError, UnsupportedTypeError
from bigspec.matrices import Matrix
from bigspec.sources import retries
from bigspec.sources.binsparse import is_binsparse, open_binsparse, shape_of_binsparse
from bigspec.sources.checks import check_vectors, half_of_memory
from bigspec.sources.duck import is_duck, open_duck
from bigspec.sources.files import is_file_format, open_file, tenx_file
from bigspec.sources.hdf5 import HDF5Matrix, is_hdf5, open_hdf5
from bigspec.sources.locations import indexed_file, local_file, locate, open_failure, open_node
from bigspec.sources.matlab import is_matlab, open_matlab
from bigspec.sources.memory import (
    ArrayMatrix,
    SparseMatrix,
    from_pydata_sparse,
    is_pydata_sparse,
    open_numpy,
    open_sparse,
)
from bigspec.sources.missing_chunks import Missing, as_policy
from bigspec.sources.netcdf import is_netcdf, open_netcdf
from bigspec.sources.npz import holds_arrays, open_npz_array
from bigspec.sources.objects import inner, is_hdf5_object, open_hdf5_object
from bigspec.sources.operator import LinearOperatorMatrix, open_operator, with_claims
from bigspec.sources.packing import named_convention, packing_of
from bigspec.sources.remote_hdf5 import open_remote_hdf5
from bigspec.sources.sparse_store import (
    StoredSparse,
    open_sparse_group,
    shape_of_group,
    sparse_format,
)
from bigspec.sources.variable import VariableMatrix, Wanted
from bigspec.sources.zarr_store import ZarrMatrix, refuse_group
from bigspec.sources.zarr_variable import open_zarr

__all__ = [
    "ArrayMatrix",
    "HDF5Matrix",
    "LinearOperatorMatrix",
    "SparseMatrix",
    "StoredSparse",
    "VariableMatrix",
    "ZarrMatrix",
    "open_source",
    "with_claims",
]

ACCEPTED = (
    "a path or URL of a Zarr array, a sparse group, or an HDF5 or netCDF file, a path of an .npy, "
    ".npz or .mtx file or of a folder of 10x's, a zarr array or sparse group, an h5py data set or "
    "group, an AnnData object, a dask array, a NumPy array, a SciPy or pydata sparse array, a "
    "scipy.sparse.linalg.LinearOperator or another operator with matvec and rmatvec, or a Matrix"
)


PARTS = ("data", "indices", "indptr")
BINSPARSE_PARTS = ("values", "indices_0", "indices_1", "pointers_to_1")
"""The arrays of a sparse group."""


def open_source(
    a: Any,
    memory: int | None = None,
    rows: Sequence[str] | str | None = None,
    fill: complex | None = None,
    raw: bool = False,
    missing_chunks: str = "fill",
    vectors: int | None = None,
    storage: dict[str, Any] | None = None,
) -> Matrix:
    """Open any matrix, except dask arrays, which only a pass can read.

    Parameters
    ----------
    a : str, os.PathLike, zarr.Array or Group, numpy.ndarray, SciPy sparse, LinearOperator, Matrix
        A path may be a Zarr directory, a zip archive of one (``A.zarr.zip``), any URL that
        fsspec knows, an HDF5 or netCDF file, at a URL too, or a local .npy, .npz or .mtx file;
        ``::/X`` at its end points at a matrix inside.
    memory : int, optional
        Bytes for a matrix that must be loaded, for pointers that are read when it is opened, and
        for a chunk; by default half of the memory of this machine.
    rows : sequence of str, optional
        Dimensions of a netCDF variable, Zarr array or HDF5 dataset that make the rows.
    fill : number, optional
        Replaces their missing values.
    raw : bool
        Take the stored numbers, and ignore attributes for scale, offset and missing values.
    missing_chunks : {"fill", "error"}
        Chunks that are not in a store count as its fill value and are counted, or are an error.
    vectors : int, optional
        Bytes for its vectors, if the matrix itself is to be multiplied.
    storage : dict, optional
        Credentials and settings of a URL; see `bigspec.sources.storage_options`.

    Returns
    -------
    Matrix
        With its shape, dtype and chunk grid. Entries are read only from .npz and .mtx.

    Raises
    ------
    MissingSourceError, SourceError, StoreUnavailableError
        The place cannot be opened; the message says what is there instead.
    DataError, UnsupportedTypeError
        It has no numeric matrix, or `a` is of another type.
    MemoryLimitError
        Its header asks for more memory than that; nothing was loaded.
    ArgumentError
        `rows`, `fill` or `raw` for a source without dimensions or attributes;
        ``missing_chunks="error"`` for a matrix that is already open.
    """
    memory = half_of_memory() if memory is None else memory
    if isinstance(a, str) and not a:
        msg = "expected a path or URL, got an empty text; is a variable unset?"
        raise ArgumentError(msg)
    wanted = Wanted(rows, fill, raw, Missing(as_policy(missing_chunks)), vectors, storage)
    a = inner(a)
    if isinstance(a, (str, os.PathLike)):
        return _open_path(a, memory, wanted)
    if isinstance(a, zarr.Array):
        return open_zarr(a, None, wanted)
    if isinstance(a, zarr.Group):
        name = f"zarr group {a.name}"
        if (opened := _open_group(a, name, memory, wanted)) is not None:
            return opened
        raise refuse_group(a.store, a.path, name, "pass group[{!r}]")
    if is_hdf5_object(a):
        return _of_hdf5(open_hdf5_object(a, wanted), memory, wanted)
    _refuse(wanted, a, raw=True)
    if isinstance(a, Matrix) and wanted.missing.refused:
        msg = (
            f"missing_chunks: expected a path, a URL or a stored array, got {a.name}, which is "
            "open already; pass missing_chunks where it is opened"
        )
        raise ArgumentError(msg)
    _check_coordinates(a, vectors)
    return _open_object(a, memory)


def _check_coordinates(a: Any, vectors: int | None) -> None:
    """Refuse sparse objects whose vectors do not fit, before pointers are made."""
    pointers = getattr(a, "format", "") in ("csr", "csc")
    if (sp.issparse(a) or is_pydata_sparse(a)) and not pointers and len(a.shape) == 2:
        check_vectors((int(a.shape[0]), int(a.shape[1])), vectors, type(a).__name__)


def _open_object(a: Any, memory: int) -> Matrix:
    if isinstance(a, Matrix):
        return a
    if isinstance(a, np.ndarray):
        return open_numpy(a)
    if sp.issparse(a):
        return open_sparse(a, memory)
    if is_pydata_sparse(a):
        name = f"sparse.{type(a).__name__} {a.shape}"
        return replace(open_sparse(from_pydata_sparse(a, name), memory), name=name)
    if isinstance(a, LinearOperator):
        return open_operator(a)
    if is_duck(a):
        return open_duck(a)
    kind = f"{type(a).__module__}.{type(a).__qualname__}".removeprefix("builtins.")
    msg = f"expected a matrix, got {kind}"
    if isinstance(a, (list, tuple)) or hasattr(a, "__array__"):
        msg += ". If it fits in memory, pass numpy.asarray(a)"
    if hasattr(a, "__arrow_c_stream__"):
        msg += ". If it is a table of triplets: bigspec.convert(table, 'A.zarr', columns=...)"
    msg += f". A matrix is {ACCEPTED}"
    raise UnsupportedTypeError(msg)


def _refuse(wanted: Wanted, a: Any, *, raw: bool) -> None:
    """Refuse `rows` and `fill`, and with `raw` that too, for a source that cannot use them."""
    if wanted.rows is None and wanted.fill is None and not (raw and wanted.raw):
        return
    got = repr(os.fspath(a)) if isinstance(a, (str, os.PathLike)) else type(a).__name__
    msg = (
        "rows, fill and raw: expected a netCDF variable, a Zarr array or an HDF5 dataset, such as "
        f"A.nc::/T, got {got}"
    )
    raise ArgumentError(msg)


def _open_group(group: Any, name: str, memory: int, wanted: Wanted) -> Matrix | None:
    """Open a Zarr or HDF5 group if it is a sparse matrix."""
    if is_matlab(group):
        _refuse(wanted, name, raw=False)
        return open_matlab(group, name, memory, wanted.missing)
    described = is_binsparse(group)
    if not described and sparse_format(group) is None:
        return None
    _refuse(wanted, name, raw=False)
    if not wanted.raw:
        _refuse_conventions(group, BINSPARSE_PARTS if described else PARTS, name)
    shape = (shape_of_binsparse if described else shape_of_group)(group, name)
    check_vectors(shape, wanted.vectors, name)
    opening = open_binsparse if described else open_sparse_group
    return opening(group, name, memory, wanted.missing)


def _refuse_conventions(group: Any, parts: Sequence[str], name: str) -> None:
    """Refuse a sparse group whose attributes state a packing or missing values.

    Its format has neither, and an entry that is not stored is 0 there, packed or not.
    """
    said = named_convention(group.attrs)
    for part in parts:
        try:
            array = retries.with_retries(partial(group.get, part))
        except (ValueError, TypeError) as error:
            raise open_failure(error, f"{name}/{part}") from error
        except Exception as error:
            raise retries.named_failure(error, name, part) from error
        attrs = getattr(array, "attrs", {})
        key = named_convention(attrs)
        if key is None or not hasattr(array, "dtype"):
            continue
        dtype = np.dtype(array.dtype).newbyteorder("=")
        if dtype.kind not in "biufc" or not packing_of(attrs, dtype, f"{name}/{part}").idle:
            said = f"{key} of {part}"
    if said is not None:
        msg = (
            f"{name}: expected a sparse group that holds its values as they are, got the attribute "
            f"{said}, which its format does not know. Write the values unpacked, or take the "
            "numbers as they are stored with raw=True (--raw)"
        )
        raise SourceError(msg)


def _open_path(a: str | os.PathLike[str], memory: int, wanted: Wanted) -> Matrix:
    text = os.fspath(a)
    if not isinstance(text, str):
        msg = f"expected a path as str, got {type(text).__name__}; decode it with os.fsdecode"
        raise UnsupportedTypeError(msg)
    if (local := local_file(text) or tenx_file(text)) is not None:
        path, inside = local
        if holds_arrays(path, inside):
            _refuse(wanted, text, raw=True)
            return open_npz_array(path, inside, text, memory)
        if not inside and is_file_format(path):
            _refuse(wanted, text, raw=True)
            return open_file(path, text, memory, wanted.vectors)
        if is_netcdf(path):
            return open_netcdf(path, inside, text, wanted)
        if is_hdf5(path):
            return _of_hdf5(open_hdf5(path, inside, text, wanted), memory, wanted)
    if (remote := indexed_file(text)) is not None:
        return _of_hdf5(open_remote_hdf5(remote, text, wanted), memory, wanted)
    return _open_store(text, memory, wanted)


def _of_hdf5(opened: Matrix | tuple[Any, str], memory: int, wanted: Wanted) -> Matrix:
    """Return the matrix, or open the group that was found."""
    if isinstance(opened, Matrix):
        return opened
    group, name = opened
    return _open_group(group, name, memory, wanted) or open_sparse_group(
        group, name, memory, wanted.missing
    )


def _open_store(text: str, memory: int, wanted: Wanted) -> Matrix:
    location = locate(text, wanted.storage)
    node = open_node(location)
    if not isinstance(node, zarr.Array):
        whole = node.attrs.get("encoding-type") == "anndata" and not location.path
        node = open_node(replace(location, path="X")) if whole else node
    if isinstance(node, zarr.Array):
        return open_zarr(node, location.name, wanted)
    if (sparse := _open_group(node, location.name, memory, wanted)) is not None:
        return sparse
    outer = text.removesuffix("/")
    inside = "/{}" if location.path else "::/{}"
    raise refuse_group(location.store, location.path, location.name, repr(outer + inside))
