"""Products of a sparse slab, both at once or one alone; facts and sums of its entries.

Both products, ``Y = S_i V`` and ``Z += S_i^H Y``, go over ranges of rows whose Y takes at most
`ROWS_BYTES`. Y is read in order, which costs little. V and Z are read at random, which takes most
of the time. Long ranges let the cache hold mostly V in the first product, and mostly Z in the
second. In short ranges both compete for the cache, which took twice the time where V alone fits
(n = 1e5, b = 16). But if both are small (`SMALL_BYTES`), a short range is better: its entries are
still cached for the second product, which saves a sixth of the time at n = 7e3, b = 1.

The loops are SciPy's own (`scipy.sparse._sparsetools`, the routines behind ``A @ V``). Called
directly, they *add* to an output, take ranges of a matrix without copies, and release the GIL. The
module is private. Its signatures have not changed since SciPy 0.14, and
`tests/kernels/test_sparse_kernels.py` fails if they do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse import _sparsetools

from bigspec.kernels.buffers import Buffers
from bigspec.kernels.chains import Chains, repeats
from bigspec.kernels.entries import Values

__all__ = [
    "SparseFacts",
    "SparseTile",
    "add_backward",
    "add_column_sums",
    "add_forward",
    "add_products",
    "gram_matrix",
    "scratch_nbytes",
]

Array = np.ndarray[Any, Any]

ROWS_BYTES = 16 << 20  # of Y; 10 to 25 % slower than 128 MiB at n = 1e5, b = 16
ENTRIES = 2 << 20  # entries to convert at once, and four times the rows, which may be empty
SMALL_BYTES = 512 << 10  # V and Z together: half of a core's own cache
SHORT = 1 << 18  # entries of a short range: 3 MB, which stay in the shared cache


def scratch_nbytes(dtype: np.dtype[Any], entries: int = ENTRIES) -> int:
    """Most bytes that a task holds for the products of sparse slabs of so many entries.

    These are the rows Y and, for a range of entries, values in the working type, their conjugates
    and magnitudes. Pointers and sums of a range of rows are included. A row (column) of more than
    `ENTRIES` entries takes more.
    """
    return ROWS_BYTES + min(entries, ENTRIES) * (48 if dtype.kind == "c" else 24)


@dataclass(frozen=True)
class SparseTile:
    """A sparse block as a tile of the operator ``S``: ``S[rows, offset : offset + width]``.

    Attributes
    ----------
    offset, height, width : int
    by_rows : bool
        Whether the rows of S are compressed, else its columns.
    indptr, indices, data : ndarray
        As stored: not conjugated for ``S = A^H``.
    """

    offset: int
    height: int
    width: int
    by_rows: bool
    indptr: Array
    indices: Array
    data: Array

    @classmethod
    def of(cls, offset: int, block: Any, *, transposed: bool, distinct: bool) -> SparseTile:
        """View a block of A, sparse of any format or dense, as a tile.

        Parameters
        ----------
        offset : int
            Along the iterate.
        block : SciPy sparse block or ndarray
        transposed : bool
            ``S = A^H``.
        distinct : bool
            Sum duplicates, in a copy. Products are right without, the facts are not.
        """
        if getattr(block, "format", "") not in ("csr", "csc"):
            block = sp.csr_array(block)
        if distinct and not block.has_canonical_format:
            block = block.copy()
            block.sum_duplicates()
        height, width = block.shape[::-1] if transposed else block.shape
        by_rows = (block.format == "csr") != transposed
        return cls(offset, height, width, by_rows, block.indptr, block.indices, block.data)

    @classmethod
    def along_rows(cls, block: Any, *, transposed: bool) -> SparseTile:
        """View a block as compressed along the rows of S; convert it if necessary."""
        wanted = "csc" if transposed else "csr"
        return cls.of(0, block.asformat(wanted), transposed=transposed, distinct=False)

    def rows(self, start: int, stop: int) -> SparseTile:
        """Return a view of some rows; the tile must be compressed along them."""
        return replace(self, height=stop - start, indptr=self.indptr[start : stop + 1])

    def cut(self, rows: tuple[int, int], values: Values) -> Any:
        """Return some rows, compressed in the tile, as a CSR block in the working type."""
        part = _Part.of(self, *rows)
        entries = values.entries(part.stored).copy()
        shape = rows[1] - rows[0], self.width
        return sp.csr_array((entries, part.indices, part.pointers), shape=shape)

    def ranges(
        self, start: int, stop: int, most: int, entries: int | None
    ) -> Iterator[tuple[int, int]]:
        """Cut a compressed range into parts of at most `most` rows (columns) and `entries`."""
        while start < stop:
            last = int(self.indptr[stop]) if entries is None else int(self.indptr[start]) + entries
            end = int(np.searchsorted(self.indptr, last, "right")) - 1
            end = max(start + 1, min(end, start + most, stop))
            yield start, end
            start = end


@dataclass
class SparseFacts:
    """The facts of a slab.

    Attributes
    ----------
    column_sums, row_sums : ndarray
        Sums of magnitudes, added to in place.
    chains : Chains
        Counts the entries of columns. Entries of rows are counted here until the slab is complete.
    squares, largest : float
    nonnegative : bool
    row_count : int
        Entries of the fullest row, in parts where values repeat.
    """

    column_sums: Array
    row_sums: Array
    chains: Chains
    squares: float = 0.0
    largest: float = 0.0
    nonnegative: bool = True
    row_count: int = 0

    def note(self, part: _Part, values: Array, buffers: Buffers) -> None:
        """Collect the facts of a part."""
        sizes = values
        if values.dtype.kind == "c" or values.min(initial=0.0) < 0.0:
            self.nonnegative = False
            sizes = buffers.take("kernel.sizes", values.shape, np.float64)
            np.abs(values, out=sizes)
        self.squares += float(sizes @ sizes)
        self.largest = max(self.largest, float(sizes.max(initial=0.0)))
        tile = part.tile
        columns = self.column_sums[tile.offset : tile.offset + tile.width]
        along, across = (self.row_sums, columns) if tile.by_rows else (columns, self.row_sums)
        part.add_along(sizes, along)
        part.add_across(sizes, across)
        if repeats(values):
            compressed, others = np.diff(part.pointers), np.bincount(part.indices)
            rows, columns = (compressed, others) if tile.by_rows else (others, compressed)
            self.chains.add_columns(columns, tile.offset + (0 if tile.by_rows else part.start))
            self.row_count += int(rows.max(initial=0))


@dataclass(frozen=True)
class _Part:
    """Compressed range ``start <= k < stop`` of a tile, ready for SciPy's routines."""

    tile: SparseTile
    start: int
    stop: int
    pointers: Array
    indices: Array
    stored: Array

    @classmethod
    def of(cls, tile: SparseTile, start: int, stop: int) -> _Part:
        first, last = int(tile.indptr[start]), int(tile.indptr[stop])
        indices = tile.indices[first:last]
        # Both have one index type; otherwise SciPy converts the longer one in every call.
        pointers = (tile.indptr[start : stop + 1] - tile.indptr[start]).astype(indices.dtype)
        return cls(tile, start, stop, pointers, indices, tile.data[first:last])

    @property
    def _across(self) -> int:
        return self.tile.width if self.tile.by_rows else self.tile.height

    def add(self, values: Array, X: Array, out: Array) -> None:
        """Add (this part as compressed rows) X to `out`."""
        height, parts = self.stop - self.start, (self.pointers, self.indices, values)
        x, y, b = X.reshape(-1), out.reshape(-1), X.shape[1]
        if b == 1:
            _sparsetools.csr_matvec(height, self._across, *parts, x, y)
        else:
            _sparsetools.csr_matvecs(height, self._across, b, *parts, x, y)

    def add_transposed(self, values: Array, X: Array, out: Array) -> None:
        """Add (this part as compressed rows)^T X to `out`."""
        height, parts = self.stop - self.start, (self.pointers, self.indices, values)
        x, y, b = X.reshape(-1), out.reshape(-1), X.shape[1]
        if b == 1:
            _sparsetools.csc_matvec(self._across, height, *parts, x, y)
        else:
            _sparsetools.csc_matvecs(self._across, height, b, *parts, x, y)

    def add_along(self, entries: Array, out: Array) -> None:
        """Add to `out` the sum of `entries` of each row (column) that is compressed."""
        lines = np.flatnonzero(np.diff(self.pointers))
        if lines.size:
            out[self.start + lines] += np.add.reduceat(entries, self.pointers[lines])

    def add_across(self, entries: Array, out: Array) -> None:
        """Add to `out` the sums of `entries` along the other axis."""
        ones = np.ones((self.stop - self.start, 1), entries.dtype)
        self.add_transposed(entries, ones, out)


def add_products(
    tiles: Sequence[SparseTile], V: Array, Z: Array, values: Values, facts: SparseFacts | None
) -> Array:
    """Add ``S_i^H (S_i V)`` to Z and return ``Y^H Y`` for one slab, given as its tiles.

    Entries are added to Z in the order of the rows, so its bits do not depend on where a slab
    is cut, as long as its tiles are compressed along rows.

    Parameters
    ----------
    tiles : sequence of SparseTile
        Of the same height, side by side.
    V, Z : ndarray (n, b)
        C-contiguous, in the working type.
    values : Values
    facts : SparseFacts or None
    """
    b, gram = V.shape[1], np.zeros((V.shape[1], V.shape[1]), V.dtype)
    entries = _most_entries(values, tiles, facts=facts is not None)
    if 2 * V.nbytes <= SMALL_BYTES:
        entries = min(entries or SHORT, SHORT)
    for start, stop in _row_ranges(tiles, b * V.itemsize, entries):
        Y = values.buffers.take("kernel.rows", (stop - start, b), V.dtype)
        Y.fill(0)
        parts = list(_parts(tiles, start, stop, entries))
        loaded = None
        for part in parts:
            loaded = values.load(part.stored)
            _forward(part, loaded[0], V, Y, start)
        for part in parts:
            if loaded is None or len(parts) > 1:
                loaded = values.load(part.stored)
            _backward(part, loaded[1], Y, Z, start)
            if facts is not None:
                facts.note(part, loaded[0], values.buffers)
        gram += Y.conj().T @ Y
    return gram


def add_forward(
    tile: SparseTile, V: Array, Y: Array, values: Values, rows: tuple[int, int] | None = None
) -> None:
    """Add ``S_i V`` of a tile to Y, without a temporary of the size of the slab.

    Parameters
    ----------
    tile : SparseTile
    V : ndarray (n, b)
        In the working type, C-contiguous like Y.
    Y : ndarray (rows, b)
    values : Values
    rows : tuple of int, optional
        Start and stop of the rows to multiply, if the tile is compressed along rows; else all.
    """
    start, stop = rows or (0, tile.height)
    for part in _ranges_of(tile, start, stop, values):
        _forward(part, values.entries(part.stored), V, Y, start)


def add_backward(
    tile: SparseTile, W: Array, Z: Array, values: Values, rows: tuple[int, int] | None = None
) -> None:
    """Add ``S_i^H W`` of a tile to Z; W has the tile's rows, the rest is as in `add_forward`."""
    start, stop = rows or (0, tile.height)
    for part in _ranges_of(tile, start, stop, values):
        _backward(part, values.conjugates(part.stored), W, Z, start)


def add_column_sums(tile: SparseTile, sums: Array, squares: Array, values: Values) -> None:
    """Add the sums of the columns of A, and of their squared magnitudes.

    Parameters
    ----------
    tile : SparseTile
        Of ``S = A``.
    sums, squares : ndarray (columns,)
        In the working type, and float64.
    values : Values
    """
    for part in _parts([tile], 0, tile.height, ENTRIES):
        entries = values.as_stored(part.stored)
        sizes = values.buffers.take("kernel.sizes", entries.shape, np.float64)
        np.square(np.abs(entries, out=sizes), out=sizes)
        for numbers, out in ((entries, sums), (sizes, squares)):
            if tile.by_rows:
                part.add_across(numbers, out)
            else:
                part.add_along(numbers, out)


def gram_matrix(tiles: Sequence[SparseTile], values: Values, facts: SparseFacts | None) -> Array:
    """Return ``S_i^H S_i`` of one slab, dense: for a small order, where A^H A is formed."""
    blocks = []
    for tile in tiles:
        part = _Part.of(tile, 0, tile.width if not tile.by_rows else tile.height)
        entries, _ = values.load(part.stored)
        if facts is not None:
            facts.note(part, entries, values.buffers)
        kind: Any = sp.csr_array if tile.by_rows else sp.csc_array
        shape = tile.height, tile.width
        blocks.append(kind((entries.copy(), part.indices, part.pointers), shape=shape))
    X = blocks[0] if len(blocks) == 1 else sp.hstack(blocks, format="csr")
    product: Array = (X.conj().T @ X).toarray()
    return product


def _most_entries(values: Values, tiles: Sequence[SparseTile], *, facts: bool) -> int | None:
    """Return how many entries to convert at once; None where none are converted.

    Longer ranges reload V and Z less often: at n = 1e5 and b = 16 a fifth of the time.
    """
    plain = values.work.kind != "c" and not values.exponent and not facts
    same = all(tile.data.dtype == values.work for tile in tiles)
    return None if plain and same else ENTRIES


def _row_ranges(
    tiles: Sequence[SparseTile], row: int, entries: int | None
) -> Iterator[tuple[int, int]]:
    """Cut the rows of a slab; a slab of compressed columns stays whole."""
    height, most = tiles[0].height, max(1, min(ROWS_BYTES // row, ENTRIES // 4))
    if not all(tile.by_rows for tile in tiles):
        yield 0, height
    elif len(tiles) == 1:
        yield from tiles[0].ranges(0, height, most, entries)
    else:
        for start in range(0, height, most):
            yield start, min(start + most, height)


def _parts(
    tiles: Sequence[SparseTile], start: int, stop: int, entries: int | None
) -> Iterator[_Part]:
    for tile in tiles:
        first, last = (start, stop) if tile.by_rows else (0, tile.width)
        for place in tile.ranges(first, last, last - first, entries):
            yield _Part.of(tile, *place)


def _ranges_of(tile: SparseTile, start: int, stop: int, values: Values) -> Iterator[_Part]:
    """Cut a tile into parts, so that no temporary has the size of the tile."""
    entries = _most_entries(values, [tile], facts=False)
    first, last = (start, stop) if tile.by_rows else (0, tile.width)
    for place in tile.ranges(first, last, ENTRIES // 4, entries):
        yield _Part.of(tile, *place)


def _forward(part: _Part, entries: Array, V: Array, Y: Array, top: int) -> None:
    offset, width = part.tile.offset, part.tile.width
    if part.tile.by_rows:
        part.add(entries, V[offset : offset + width], Y[part.start - top : part.stop - top])
    else:
        part.add_transposed(entries, V[offset + part.start : offset + part.stop], Y)


def _backward(part: _Part, conjugates: Array, Y: Array, Z: Array, top: int) -> None:
    offset, width = part.tile.offset, part.tile.width
    if part.tile.by_rows:
        rows = slice(part.start - top, part.stop - top)
        part.add_transposed(conjugates, Y[rows], Z[offset : offset + width])
    else:
        part.add(conjugates, Y, Z[offset + part.start : offset + part.stop])
