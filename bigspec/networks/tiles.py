"""The matrix of a row that is too large for memory: rectangles of it, each made when it is read.

Scales, masks and lengths of rows are applied to the rectangle that was read. The entries are those
that `Form.load` makes; lengths may differ from them by rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.kernels.buffers import Buffers
from bigspec.kernels.entries import scale_entries
from bigspec.matrices import Block, Grid, Matrix
from bigspec.networks.dense import TILE_BYTES, Entries
from bigspec.networks.forms import Form, Masked, Part, Scaled, WeightNorm, lengthened, packed, wide
from bigspec.networks.models import ArrayTensor

__all__ = ["TiledMatrix", "Tiles", "listed", "tiled", "times"]

Array = np.ndarray[Any, Any]

DECODING = 8
"""Times the bytes of its result that decoding quantised numbers holds for a moment: codes, scales
and their products, each in float32."""
LONGEST = 32 << 20
"""Bytes of a row in float64, from which on tiles are columns."""


@dataclass(frozen=True)
class TiledMatrix(Matrix):
    """The matrix of a form, read in rectangles.

    Attributes
    ----------
    form : Form
    """

    form: Form = field(repr=False, compare=False)

    @property
    def anywhere(self) -> tuple[bool, bool]:
        """Any range can be read; the cuts say where that wastes nothing."""
        return True, True

    @property
    def identity(self) -> dict[str, Any]:
        """Where the tensors lie, and their tokens."""
        return {
            "where": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype.name,
            "chunks": [[grid.step, grid.count] for grid in self.grids],
            "token": " ".join(tensor.token() for tensor in self.form.tensors),
        }

    def transient(self, slab: int) -> int:
        """Return the bytes that decoding or multiplying a slab holds beside it."""
        if any(packed(tensor) for tensor in self.form.tensors):
            return DECODING * slab
        return 0 if isinstance(self.form, Part) else 2 * slab

    def read(self, rows: slice, columns: slice, buffers: Buffers) -> Block:
        """Read and make a rectangle."""
        return _rectangle(self.form, rows, columns, buffers)

    def chunk_at(self, row: int, column: int) -> str:
        """Name the tensors: most have no chunks."""
        return self.name


def tiled(form: Form) -> TiledMatrix | None:
    """Return the matrix of a form, to be read in rectangles; None if it can only be read whole."""
    tensors = form.tensors
    if isinstance(form, WeightNorm) and not form.by_rows:
        return None
    if not isinstance(form, (Part, Masked, Scaled, WeightNorm)):
        return None
    if not all(tensor.streams for tensor in tensors):
        return None
    grids, shape = _grids(form)
    name = ", ".join(tensor.name for tensor in tensors)
    resident = any(isinstance(tensor, ArrayTensor) for tensor in tensors)
    first = _rectangle(form, slice(0, 1), slice(0, 1), Buffers())
    return TiledMatrix(shape, first.dtype, name, grids, form, resident=resident)


def listed(form: Form) -> Form:
    """Return a form of many rows for a tensor that is listed as one long row."""
    if not isinstance(form, Part) or not form.tensor.shape:
        return form
    rows = form.tensor.shape[0]
    return Part(form.tensor, (rows, form.tensor.size // rows))


def _rectangle(form: Form, rows: slice, columns: slice, buffers: Buffers) -> Array:
    if isinstance(form, Part):
        return _narrow(_part(form, rows, columns, buffers))
    if isinstance(form, Masked):
        weight = wide(form.weight.rectangle((), rows, columns, buffers))
        return np.asarray(weight * wide(form.mask.rectangle((), rows, columns, buffers)))
    if isinstance(form, Scaled):
        return _scaled(form, rows, columns, buffers)
    assert isinstance(form, WeightNorm)
    whole = slice(0, form.v.size // form.v.shape[0])
    v = wide(form.v.rectangle((), rows, whole, buffers))
    g = wide(form.g.rectangle((), rows, slice(0, 1), buffers))
    return lengthened(v, g, (1,))[:, columns]


def _narrow(block: Array) -> Array:
    """Return 8-bit and smaller floats, which no pass takes, as float32."""
    small = block.dtype.itemsize == 1 and block.dtype.kind not in "biu"
    return block.astype(np.float32) if small else block


def _part(form: Part, rows: slice, columns: slice, buffers: Buffers) -> Array:
    tensor = form.tensor
    if form.first:
        return _moved(form, rows, columns, buffers)
    lead, offsets = _origin(form)
    return tensor.rectangle(lead, _later(rows, offsets[0]), _later(columns, offsets[1]), buffers)


def _origin(form: Part) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Return the places along the first axes, and the first row and column behind them."""
    index = form.index
    if index and isinstance(index[0], int):
        return (index[0],), (0, 0)
    depth = len(form.tensor.shape) - 2 if len(form.view) < len(form.tensor.shape) else 0
    if form.view[0] == form.tensor.shape[0]:
        depth = 0
    starts = [part.start or 0 for part in index]
    return (0,) * depth, (starts[0] if starts else 0, starts[1] if len(starts) > 1 else 0)


def _later(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def _moved(form: Part, rows: slice, columns: slice, buffers: Buffers) -> Array:
    """Read a kernel whose rows are another axis than the first, which leads its columns."""
    tensor, each = form.tensor, _behind(form)
    first, last = columns.start // each, -(-columns.stop // each)
    every = slice(0, tensor.size // tensor.shape[0])
    part = tensor.rectangle((), slice(first, last), every, buffers)
    part = np.moveaxis(part.reshape(last - first, *tensor.shape[1:]), form.first, 0)
    part = part[rows].reshape(rows.stop - rows.start, -1)
    return part[:, columns.start - first * each : columns.stop - first * each]


def _behind(form: Part) -> int:
    """Return how many columns each place along the first axis makes."""
    tensor = form.tensor
    return tensor.size // tensor.shape[0] // tensor.shape[form.first]


def _scaled(form: Scaled, rows: slice, columns: slice, buffers: Buffers) -> Array:
    """Multiply a rectangle by the scales of its own blocks."""
    (bm, bn), (m, n) = form.block, form.weight.shape
    weight = form.weight.rectangle((), rows, columns, buffers)
    product = np.asarray(weight).astype(np.float64)
    down = slice(rows.start // bm, -(-rows.stop // bm))
    along = slice(columns.start // bn, -(-columns.stop // bn))
    shape = -(-m // bm), -(-n // bn)
    tensor = form.scale
    with buffers.within("scale"):
        if tensor.shape[:1] == shape[:1]:
            scale = tensor.rectangle((), down, along, buffers)
        else:
            scale = np.asarray(tensor.read()).reshape(shape)[down, along]
    scale = np.asarray(scale).astype(np.float64)
    begin = columns.start - along.start * bn
    if scale.shape[1] > 1:  # else it is one for all columns
        scale = np.repeat(scale, bn, axis=1)[:, begin : begin + product.shape[1]]
    if bm == 1:
        product *= scale
        return product
    for k, row in enumerate(scale, down.start):
        product[max(k * bm - rows.start, 0) : (k + 1) * bm - rows.start] *= row
    return product


def _grids(form: Form) -> tuple[tuple[Grid, Grid], tuple[int, int]]:
    """Return the cuts that waste nothing, and the shape."""
    if isinstance(form, Part):
        tensor = form.tensor
        if form.first:
            shape, each = form.view, _behind(form)
            steps = 1, tensor.steps(0)[0] * each
            return (Grid(shape[0], shape[0]), Grid(shape[1], steps[1])), (shape[0], shape[1])
        lead, offsets = _origin(form)
        seen = form.view[len(form.view) - 2 :] if form.index else form.view
        extents = [
            part.indices(extent)[1] - part.indices(extent)[0] if isinstance(part, slice) else extent
            for part, extent in zip(_spans(form), seen, strict=True)
        ]
        rows, columns = (
            _cuts(extent, step, offset)
            for extent, step, offset in zip(extents, tensor.steps(len(lead)), offsets, strict=True)
        )
        return (rows, columns), (extents[0], extents[1])
    tensor = form.v if isinstance(form, WeightNorm) else form.tensors[0]
    m, n = tensor.shape[0], tensor.size // tensor.shape[0]
    steps = tensor.steps(0)
    # The length of a row needs all of it.
    return (Grid(m, steps[0]), Grid(n, n if isinstance(form, WeightNorm) else steps[1])), (m, n)


def _spans(form: Part) -> tuple[slice, slice]:
    cut = [part for part in form.index if isinstance(part, slice)]
    rows, columns, *_ = (*cut, slice(None), slice(None))
    return rows, columns


def _cuts(extent: int, step: int, offset: int) -> Grid:
    """Return cuts at the multiples of a step, of a range that begins at an offset."""
    step = min(step, extent + offset)
    if offset % step == 0:
        return Grid(extent, min(step, extent))
    inside = range(step - offset % step, extent, step)
    cuts = (0, *inside, extent)
    return Grid(extent, max(b - a for a, b in pairwise(cuts)), cuts)


@dataclass(frozen=True)
class Tiles(Entries):
    """The entries of such a matrix, or of a difference of two, in tiles of whole rows.

    Rows are what a file has in one piece; so each byte is read once, whatever the shape.

    Attributes
    ----------
    matrix : TiledMatrix
    other : TiledMatrix or None
        What is subtracted.
    buffers : Buffers
        Counts missing chunks.
    """

    matrix: TiledMatrix
    other: TiledMatrix | None = None
    buffers: Buffers = field(default_factory=Buffers, repr=False, compare=False)

    @property
    def rounding(self) -> float:  # type: ignore[override]
        """A difference is rounded once."""
        return 0.0 if self.other is None else UNIT_ROUNDOFF

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        """Rows and columns."""
        return self.matrix.shape

    @property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        """As read; of a difference, a type that has room for both."""
        if self.other is None:
            return self.matrix.dtype
        complex_ = "c" in (self.matrix.dtype.kind, self.other.dtype.kind)
        return np.dtype(np.complex128 if complex_ else np.float64)

    @property
    def tall(self) -> bool:
        """Tiles are rows, unless a single row is longer than many tiles."""
        m, n = self.shape
        return m >= n or n * self.work.itemsize <= LONGEST

    def tiles(self, exponent: int = 0, least: int = 1) -> Iterator[tuple[slice, Array]]:
        """Yield ranges of rows, or of columns, and their entries times ``2**-exponent``."""
        axis = 0 if self.tall else 1
        across, grid = self.shape[1 - axis], self.matrix.grids[axis]
        most = max(TILE_BYTES // (self.work.itemsize * across), least)
        number = self.buffers.missing_chunks = 0  # of the last look alone
        while number < grid.count:
            start, last = grid.cut(number), number + 1
            while last < grid.count and grid.cut(last + 1) - start <= most:
                last += 1
            span, number = slice(start, grid.cut(last)), last
            size = span.stop - span.start
            tile = np.empty((size, across) if self.tall else (across, size), self.work)
            self.fill((span, slice(0, across)) if self.tall else (slice(0, across), span), tile)
            scale_entries(tile, exponent)
            yield span, tile

    def fill(self, place: tuple[slice, slice], out: Array) -> None:
        """Convert a rectangle of one, or of both and subtract."""
        np.copyto(out, _dense(self.matrix.read(*place, self.buffers)), casting="unsafe")
        if self.other is not None:
            with self.buffers.within("other"):
                subtracted = _dense(self.other.read(*place, self.buffers))
            np.subtract(out, subtracted.astype(out.dtype), out=out)


def _dense(block: Block) -> Array:
    assert isinstance(block, np.ndarray)
    return block


def times(matrix: TiledMatrix, v: Array, *, adjoint: bool = False) -> Array:
    """Return ``A v`` or ``A^H v`` for a vector, tile by tile."""
    m, n = matrix.shape
    tiles = Tiles(matrix)
    dtype = np.result_type(tiles.work, v.dtype)
    product = np.zeros(n if adjoint else m, dtype)
    for span, tile in tiles.tiles():
        part = tile.conj().T if adjoint else tile
        if tiles.tall != adjoint:  # the tile makes a range of the product
            product[span] = part @ v
        else:
            product += part @ v[span]
    return product
