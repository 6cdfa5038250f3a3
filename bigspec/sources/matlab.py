"""Sparse matrices of MATLAB's files of version 7.3: HDF5 groups of columns."""

from __future__ import annotations

from typing import Any

from bigspec.errors import DataError
from bigspec.sources.checks import check_shape
from bigspec.sources.lines import Pointers
from bigspec.sources.missing_chunks import Missing
from bigspec.sources.sparse_store import StoredSparse, assemble
from bigspec.sources.stored_vectors import stored_vector

__all__ = ["is_matlab", "open_matlab"]

ROWS = "MATLAB_sparse"
"""The attribute with the number of rows."""


def is_matlab(group: Any) -> bool:
    """Whether a group is such a matrix, by its attributes."""
    return ROWS in group.attrs and "jc" in group


def open_matlab(group: Any, name: str, memory: int, missing: Missing | None = None) -> StoredSparse:
    """Open such a group: ``jc`` are pointers of columns, ``ir`` rows, ``data`` values.

    Raises
    ------
    SourceError, DataError, UnsupportedTypeError, MemoryLimitError, ChunkError
        See `open_sparse_group`. Complex values, which are compound in such files, are refused.
    """
    if "ir" not in group:
        msg = f"{name}: expected stored entries, got none: MATLAB writes no values of a zero matrix"
        raise DataError(msg)
    indptr = stored_vector(group, "jc", name, memory)
    shape = check_shape((int(group.attrs[ROWS]), len(indptr) - 1), name)
    data = stored_vector(group, "data", name, memory, missing)
    indices = stored_vector(group, "ir", name, memory)
    lines = Pointers(indptr, len(data), name)
    return assemble(name, "csc", shape, (data, indices, lines), memory)
