"""How stored entries become entries of the operator S: their type, scale and conjugates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.errors import DataError
from bigspec.kernels.buffers import Buffers
from bigspec.kernels.sums import SAFE_EXPONENT, SumBlock

__all__ = [
    "TILE_BYTES",
    "Values",
    "load_tile",
    "loaded_ranges",
    "plain_array",
    "safe_exponent",
    "scale_entries",
    "unmasked",
    "working_dtype",
]

Array = np.ndarray[Any, Any]

TILE_BYTES = 4 << 20


def working_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of products with stored type `dtype`: float64 or complex128."""
    return np.dtype(np.complex128 if dtype.kind == "c" else np.float64)


def safe_exponent(peak: float) -> int:
    """Return 0 if squares of numbers up to `peak` are safe to sum, else the exponent of `peak`."""
    exponent = math.frexp(peak)[1] if math.isfinite(peak) else 0
    return exponent if abs(exponent) > SAFE_EXPONENT else 0


def scale_entries(X: Array, exponent: int) -> None:
    """Multiply by ``2**-exponent`` in place, in two steps that neither over- nor underflow."""
    if exponent:
        X *= math.ldexp(1.0, -exponent // 2)
        X *= math.ldexp(1.0, -exponent - (-exponent // 2))


def load_tile(tile: Any, out: Array, exponent: int, *, conjugate: bool, buffers: Buffers) -> None:
    """Write the entries of a tile, scaled by ``2**-exponent``, to `out` of the working type."""
    if isinstance(tile, SumBlock):
        tile.fill(out, buffers)
        tile = out
    if conjugate and out.dtype.kind == "c":
        np.conjugate(tile, out=out, casting="unsafe")
    elif tile is not out:
        np.copyto(out, tile, casting="unsafe")
    scale_entries(out, exponent)


@dataclass(frozen=True)
class Values:
    """How stored entries become entries of S, without a copy where none is needed.

    Attributes
    ----------
    work : numpy.dtype
        float64 or complex128.
    exponent : int
        Entries are multiplied by ``2**-exponent``.
    transposed : bool
        ``S = A^H``: entries are conjugated.
    buffers : Buffers
    """

    work: np.dtype[Any]
    exponent: int
    transposed: bool
    buffers: Buffers

    def load(self, stored: Array) -> tuple[Array, Array]:
        """Return entries of S and their conjugates."""
        values = self.as_stored(stored)
        conjugates = self._conjugated(values)
        return (conjugates, values) if self.transposed else (values, conjugates)

    def entries(self, stored: Array) -> Array:
        """Return entries of S alone."""
        values = self.as_stored(stored)
        return self._conjugated(values) if self.transposed else values

    def conjugates(self, stored: Array) -> Array:
        """Return conjugate entries of S alone."""
        values = self.as_stored(stored)
        return values if self.transposed else self._conjugated(values)

    def as_stored(self, stored: Array) -> Array:
        """Return entries of A in the working type, scaled."""
        if stored.dtype == self.work and not self.exponent:
            return stored
        values = self.buffers.take("kernel.tile", stored.shape, self.work)
        np.copyto(values, stored, casting="unsafe")
        scale_entries(values, self.exponent)
        return values

    def _conjugated(self, values: Array) -> Array:
        if self.work.kind != "c":
            return values
        conjugates = self.buffers.take("kernel.conjugates", values.shape, self.work)
        np.conjugate(values, out=conjugates)
        return conjugates


def loaded_ranges(
    block: Any, values: Values, *, adjoint: bool = False
) -> Iterator[tuple[slice, Array]]:
    """Load a dense block in ranges of rows of S, each as large as a tile, whatever its width.

    Yields
    ------
    rows : slice
    X : ndarray
        ``S[rows]``, or its adjoint; valid until the next one.
    """
    height, width = block.shape[::-1] if values.transposed else block.shape
    step = max(1, TILE_BYTES // values.work.itemsize // max(width, 1))
    turned = values.transposed != adjoint
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        tile = block[:, rows] if values.transposed else block[rows]
        X = values.buffers.take("kernel.tile", tile.shape, values.work)
        load_tile(tile, X, values.exponent, conjugate=turned, buffers=values.buffers)
        yield rows, X.T if turned else X


def unmasked(a: Array, name: str) -> Array:
    """Return the data of a masked array without masked entries, and any other array as it is.

    Raises
    ------
    DataError
        An entry is masked, so it has no value.
    """
    if not isinstance(a, np.ma.MaskedArray):
        return a
    mask = np.ma.getmaskarray(a)
    hidden = int(np.count_nonzero(mask))
    if hidden:
        first = [int(k) for k in np.unravel_index(int(np.argmax(mask)), mask.shape)]
        msg = (
            f"{name}: expected every entry to have a value, got {hidden} masked entries; "
            f"the first is at {first}: choose a value for each, such as a.filled(0)"
        )
        raise DataError(msg)
    return np.asarray(a.data)


def plain_array(a: Any, name: str) -> Array:
    """Return an array_like argument as an ndarray; a lazy one, such as dask's, is computed.

    Raises
    ------
    DataError
        An entry is masked. NumPy's own conversion would hide that.
    """
    a = a.compute() if hasattr(a, "compute") else a
    return np.asarray(unmasked(a, name) if isinstance(a, np.ndarray) else a)
