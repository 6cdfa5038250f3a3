"""The 1-D arrays that a stored sparse matrix is made of, opened in a Zarr group or an HDF5 file."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr

from bigspec.errors import MemoryLimitError, SourceError, format_bytes
from bigspec.matrices import SLAB_BYTES
from bigspec.sources import retries
from bigspec.sources.checks import check_dtype
from bigspec.sources.hdf5 import HDF5Vector
from bigspec.sources.locations import open_failure
from bigspec.sources.missing_chunks import Missing
from bigspec.sources.zarr_store import ZarrVector

__all__ = ["stored_vector"]

WHY = (
    "without it the matrix is another one. Write the matrix again, with all its chunks: zarr "
    "leaves out those of zeros unless its setting array.write_empty_chunks is true"
)
"""A missing chunk of indices reads as entries in column 0, one of pointers as empty rows."""


def stored_vector(
    group: Any,
    part: str,
    name: str,
    memory: int,
    missing: Missing | None = None,
    *,
    sure: bool = False,
) -> ZarrVector | HDF5Vector:
    """Open a 1-D array of a Zarr or HDF5 group whose chunks fit `memory`.

    Parameters
    ----------
    group : zarr.Group or h5py.Group
    part, name : str
    memory : int
    missing : Missing, optional
        Rule for missing chunks of values whose fill value is not 0, so that somebody chose it.
        Where it is 0, the chunk was more likely lost: nobody stores a chunk of zeros in a sparse
        matrix.
    sure : bool
        Whether a chunk that is not there can hold nothing but 0.

    Raises
    ------
    SourceError
        It is missing, or has other than one dimension.
    UnsupportedTypeError
        It does not hold numbers.
    MemoryLimitError
        A chunk of it does not fit.
    """
    try:
        array = retries.with_retries(lambda: group.get(part))
    except (ValueError, TypeError) as error:
        raise open_failure(error, f"{name}/{part}") from error
    except Exception as error:
        raise retries.named_failure(error, name, part) from error
    if len(getattr(array, "shape", None) or ()) != 1:  # an empty HDF5 dataset has none
        msg = f"{name}: expected a one-dimensional array {part!r} in the group, got {array!r}"
        raise SourceError(msg)
    check_dtype(np.dtype(array.dtype), f"{name}/{part}")
    kind: Any = ZarrVector if isinstance(array, zarr.Array) else HDF5Vector
    fill = array.fill_value if isinstance(array, zarr.Array) else array.fillvalue
    rule = Missing("error", WHY)
    if sure or (missing is not None and fill is not None and fill != 0):
        rule = missing or Missing()
    vector: ZarrVector | HDF5Vector = kind.of(array, f"{name}/{part}", rule)
    # A small one is left to the plan, which knows what else is held.
    if vector.chunk_nbytes > max(memory, SLAB_BYTES):
        msg = (
            f"memory_limit: expected at least {format_bytes(vector.chunk_nbytes)} for a chunk of "
            f"{vector.name}, which is decoded whole, got {format_bytes(memory)}; write it in "
            "smaller chunks"
        )
        raise MemoryLimitError(msg)
    return vector
