"""A conversion: open the source as triplets, sort them if necessary, write, publish."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.api.arguments import as_bytes
from bigspec.conversion.arrow import ArrowStream, is_arrow_object, is_arrow_path, open_arrow
from bigspec.conversion.entries import EntryStream, MatrixStream, open_arrays, open_npz
from bigspec.conversion.matrix_market import open_market
from bigspec.conversion.outcome import Conversion
from bigspec.conversion.running import Run, Target
from bigspec.conversion.work import Work, local_place, working
from bigspec.errors import ArgumentError
from bigspec.passes import find_executor
from bigspec.sources import open_source
from bigspec.sources.files import is_market, tenx_file
from bigspec.sources.locations import local_file
from bigspec.sources.missing_chunks import as_policy
from bigspec.sources.npz import holds_arrays
from bigspec.sources.storage_options import Options, as_options
from bigspec.watch import Observer
from bigspec.watch.live import make_observer

__all__ = ["convert"]


def convert(
    src: Any,
    dst: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002 - what SciPy calls it
    dtype: Any = None,
    shape: tuple[int, int] | None = None,
    columns: Any = None,
    renumber: bool = False,
    memory_limit: int | str | None = None,
    scratch: str | os.PathLike[str] | None = None,
    raw: bool = False,
    missing_chunks: str = "fill",
    overwrite: bool = False,
    progress: bool | Observer = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Conversion:
    """Write a sparse matrix as a chunked group that a pass reads in panels, in bounded memory.

    Parameters
    ----------
    src : path, URL or object
        Any sparse matrix that `open_matrix` takes; a Matrix Market file; SciPy's .npz; a SciPy
        sparse array; ``(data, (row, col))`` with `shape`, which may be memory maps. Triplets in
        Parquet, Feather or Arrow: a file, a folder, partitioned or not, or a URL. Any object with
        ``__arrow_c_stream__``: PyArrow's tables, Polars, DuckDB, pandas.
    dst : path
        A local path, usually ``*.zarr``: a Zarr v3 group in AnnData's encoding 0.1.0.
    format : {"csr", "csc"}, optional
        Compressed rows or columns; by default the source's, and CSR for triplets.
    dtype : dtype, optional
        Type of the values; by default the source's. Duplicates are summed in it.
    shape : tuple of int, optional
        Shape of ``(data, (row, col))`` or Arrow triplets; for Arrow triplets by default one more
        than the largest ids.
    columns : str or sequence of str or int, optional
        Names or positions of row, column and value in Arrow triplets, such as
        ``"user,item,rating"``. Without the third every value is 1. By default the columns of a
        table that has three. Text ids are numbered in sorted order, and stored in the arrays
        ``row_ids`` and ``column_ids`` of the result.
    renumber : bool
        Number whole-number ids too.
    memory_limit : int or str, optional
        Memory of the work, besides Python and its libraries; by default half of the process's.
    scratch : path, optional
        A folder for triplets that wait to be sorted; by default beside `dst`. Sorting needs
        ``itemsize + 8`` (16 for extents beyond 2^31) bytes an entry there.
    raw : bool
        Take the stored numbers of a sparse group even if its attributes state a scale, an offset
        or missing values. Otherwise such a group is refused.
    missing_chunks : {"fill", "error"}
        See `bigspec.open_matrix`.
    overwrite : bool
        Replace the store at `dst`, once the new matrix is complete.
    progress : bool or Observer
        Show a live line.
    storage_options : mapping, optional
        Credentials, endpoint and settings of a URL; see `bigspec.open_matrix`. A table's URL is
        read by fsspec, which takes its own names only.

    Returns
    -------
    Conversion

    Raises
    ------
    ArgumentError, ResumeError, MemoryLimitError, CheckpointInUseError
        Before anything is read.
    SourceError, DataError, ChunkError
        The source cannot be used; the partial work is removed.
    DestinationError
        `dst` cannot be written, as on a full disk; the partial work stays.

    Notes
    -----
    After a kill, the same call goes on, to the same bytes. `dst` appears when it is complete. Cost:
    one read of the source. If its order is not that of `format`, the triplets are also written and
    read once, or twice if their distribution is steep.

    Examples
    --------
    >>> import scipy.sparse as sp, bigspec
    >>> done = bigspec.convert(sp.eye_array(4, format="coo"), "eye.zarr")
    >>> done.format, done.stored
    ('csr', 4)
    >>> round(bigspec.norm("eye.zarr").value, 6)
    1.0
    """
    began = time.monotonic()
    limit = as_bytes(memory_limit) or find_executor(True).memory() // 2
    if format not in (None, "csr", "csc"):
        msg = f"format: expected 'csr' or 'csc', got {format!r}"
        raise ArgumentError(msg)
    as_policy(missing_chunks)
    storage = as_options(storage_options, src)
    arrow = _of_arrow(src, columns, shape, renumber=renumber, limit=limit, storage=storage)
    source = arrow or _without_attributes(src, shape)
    if source is None:
        opened = open_source(src, limit, raw=raw, missing_chunks=missing_chunks, storage=storage)
        source = MatrixStream.of(opened, limit)
    elif raw:
        msg = f"raw: expected only with a sparse group, whose attributes it is about, got {src!r}"
        raise ArgumentError(msg)
    target = Target(source, format or source.form, _value_type(dtype, source), limit)
    target.check()
    work = Work(local_place(dst), _folder(scratch), target.wanted(), overwrite=overwrite)
    observer = make_observer(progress)
    with working(work, observer):
        observer.run_started(source.name, {"to": str(work.destination), "format": target.form})
        return Run(source, target, work, observer, began).go()


def _of_arrow(
    src: Any, columns: Any, shape: Any, *, renumber: bool, limit: int, storage: Options | None
) -> ArrowStream | None:
    """Open triplets in Parquet or Arrow; None if it is neither."""
    path = isinstance(src, (str, os.PathLike))
    if is_arrow_path(os.fspath(src)) if path else is_arrow_object(src):
        return open_arrow(
            src, columns, shape=shape, renumber=renumber, limit=limit, storage=storage
        )
    if columns is not None or renumber:
        name = "renumber" if columns is None else "columns"
        msg = f"{name}: expected only with Parquet or Arrow triplets, got it with {src!r}"
        raise ArgumentError(msg)
    return None


def _without_attributes(src: Any, shape: Any) -> EntryStream | None:
    """Open triplets in memory or in a file of triplets; None if it is neither."""
    three = isinstance(src, tuple) and len(src) == 2 and isinstance(src[1], (tuple, list))
    if shape is not None and not three:
        msg = "shape: expected only beside (data, (row, col)), got it with a source that has one"
        raise ArgumentError(msg)
    if three or (isinstance(src, (sp.coo_array, sp.coo_matrix))):
        return open_arrays(src, shape)
    name = os.fspath(src) if isinstance(src, (str, os.PathLike)) else ""
    if name and (local := local_file(name) or tenx_file(name)) is not None:
        path, inside = local
        if not inside and is_market(path):
            return open_market(path, name)
        scipys = path.suffix.lower() == ".npz" and not holds_arrays(path, inside)
        if scipys and (opened := open_npz(path, name)) is not None:
            return opened
    return None


def _value_type(dtype: Any, source: EntryStream) -> np.dtype[Any]:
    try:
        kind = source.dtype if dtype is None else np.dtype(dtype)
    except TypeError as error:
        msg = f"dtype: expected a NumPy type such as float32, got {dtype!r}"
        raise ArgumentError(msg) from error
    kind = kind.newbyteorder("=")
    if kind.kind not in "biufc" or (kind.kind == "f" and kind.itemsize not in (4, 8)):
        msg = f"dtype: expected a type that SciPy sums sparse entries in, got {kind}; give float32"
        raise ArgumentError(msg)
    if source.dtype.kind == "c" and kind.kind != "c":
        msg = f"dtype: expected a complex type for {source.dtype} entries, got {kind}"
        raise ArgumentError(msg)
    return kind


def _folder(scratch: str | os.PathLike[str] | None) -> Path | None:
    if scratch is None:
        return None
    path = Path(scratch).expanduser().absolute()
    if not path.is_dir():
        msg = f"scratch: expected a folder that exists, got {path}; create it"
        raise ArgumentError(msg)
    return path
