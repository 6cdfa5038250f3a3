"""The innermost products: what a task does with the entries that it read."""

from bigspec.kernels.accumulator import Accumulator
from bigspec.kernels.entries import (
    TILE_BYTES,
    load_tile,
    safe_exponent,
    scale_entries,
    working_dtype,
)
from bigspec.kernels.non_finite import NonFiniteFound
from bigspec.kernels.sparse import scratch_nbytes

__all__ = [
    "TILE_BYTES",
    "Accumulator",
    "NonFiniteFound",
    "load_tile",
    "safe_exponent",
    "scale_entries",
    "scratch_nbytes",
    "working_dtype",
]
