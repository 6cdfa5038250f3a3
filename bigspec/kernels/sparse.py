"""Both products of a sparse slab, added to one output, and the facts of its entries.

``Y = S_i V`` and ``Z += S_i^H Y`` are made over ranges of rows whose Y takes at most
`ROWS_BYTES`: Y is written and read again in order, which costs little, while V and Z are met
at random and rule the time. Each range is long, so that the cache holds mostly V during the
first product and mostly Z during the second: with short ranges (the tiles of dense slabs) both
compete for it, which took twice the time where V alone fits (n = 1e5, b = 16). Where both are so
small that they leave room (`SMALL_BYTES`), the entries of a short range are still in the cache for
the second product: a sixth less time at n = 7e3, b = 1.

The loops are SciPy's own (`scipy.sparse._sparsetools`, the routines behind ``A @ V``), called
for what its operators hide: they *add* to an output, take ranges of a matrix without copies,
and release the GIL. The module is private; its signatures have stood since SciPy 0.14, and
`tests/test_sparse_kernels.py` fails where they change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse import _sparsetools

from bigspec.buffers import Buffers

__all__ = [
    "Strip",
    "StripFacts",
    "Values",
    "add_products",
    "gram_matrix",
    "repeated",
    "scratch_nbytes",
]

Array = np.ndarray[Any, Any]

ROWS_BYTES = 16 << 20  # of Y; at n = 1e5, b = 16 a tenth to a fourth more than with 128 MiB
ENTRIES = 2 << 20  # converted at once; of rows a quarter, for those that are nearly empty
SMALL_BYTES = 512 << 10  # of V and Z together: half of a core's own cache
SAMPLE, REPEATS = 1024, 4  # values looked at, and how often one must be there to repeat
SHORT = 1 << 18  # entries of a range then: 3 MB, which stay in the shared cache


def scratch_nbytes(dtype: np.dtype[Any], entries: int = ENTRIES) -> int:
    """Bytes that a task holds for the products of sparse slabs of so many entries, at most.

    The rows Y, and, for a range of entries, values in the working type, their conjugates and
    magnitudes; what a range of rows takes for pointers and sums is within it. A row (column)
    of more than `ENTRIES` entries takes more.
    """
    return ROWS_BYTES + min(entries, ENTRIES) * (48 if dtype.kind == "c" else 24)


@dataclass(frozen=True)
class Strip:
    """A sparse block as a strip of the swept operator ``S``: ``S[rows, offset : offset + width]``.

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
    def of(cls, offset: int, block: Any, *, transposed: bool, distinct: bool) -> Strip:
        """View a block of A, sparse of any format or dense, as a strip.

        Parameters
        ----------
        offset : int
            Along the iterate.
        block : SciPy sparse block or ndarray
        transposed : bool
            ``S = A^H``.
        distinct : bool
            Duplicates must be summed, in a copy: products need not care, the facts do.
        """
        if getattr(block, "format", "") not in ("csr", "csc"):
            block = sp.csr_array(block)
        if distinct and not block.has_canonical_format:
            block = block.copy()
            block.sum_duplicates()
        height, width = block.shape[::-1] if transposed else block.shape
        by_rows = (block.format == "csr") != transposed
        return cls(offset, height, width, by_rows, block.indptr, block.indices, block.data)

    def ranges(
        self, start: int, stop: int, most: int, entries: int | None
    ) -> Iterator[tuple[int, int]]:
        """Cut a compressed range so that a piece has at most `most` of it, and so many entries."""
        while start < stop:
            last = int(self.indptr[stop]) if entries is None else int(self.indptr[start]) + entries
            end = int(np.searchsorted(self.indptr, last, "right")) - 1
            end = max(start + 1, min(end, start + most, stop))
            yield start, end
            start = end


@dataclass(frozen=True)
class Values:
    """How stored entries become entries of S.

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

    def most_entries(self, strips: Sequence[Strip], *, facts: bool) -> int | None:
        """Return how many entries are taken at once; None where nothing is made of them.

        Longer ranges reload V and Z less often: at n = 1e5 and b = 16 a fifth of the time.
        """
        plain = self.work.kind != "c" and not self.exponent and not facts
        same = all(strip.data.dtype == self.work for strip in strips)
        return None if plain and same else ENTRIES

    def load(self, stored: Array) -> tuple[Array, Array]:
        """Return entries of S and their conjugates; what needs no conversion is not copied."""
        values = stored
        if stored.dtype != self.work or self.exponent:
            values = self.buffers.take("kernel.tile", stored.shape, self.work)
            np.copyto(values, stored, casting="unsafe")
        if self.exponent:  # in two steps that do not overflow
            values *= math.ldexp(1.0, -self.exponent // 2)
            values *= math.ldexp(1.0, -self.exponent - (-self.exponent // 2))
        if self.work.kind != "c":
            return values, values
        conjugates = self.buffers.take("kernel.conjugates", stored.shape, self.work)
        np.conjugate(values, out=conjugates)
        return (conjugates, values) if self.transposed else (values, conjugates)


@dataclass
class StripFacts:
    """Facts of the entries of a slab, as they are seen.

    Attributes
    ----------
    column_sums, row_sums : ndarray
        Sums of magnitudes, added to in place.
    column_counts : ndarray
        Entries of each column in parts where values repeat, added to in place; see `repeated`.
    squares, largest : float
    nonnegative : bool
    row_count : int
        Most entries of a row, of those parts.
    """

    column_sums: Array
    row_sums: Array
    column_counts: Array
    squares: float = 0.0
    largest: float = 0.0
    nonnegative: bool = True
    row_count: int = 0

    def note(self, part: _Part, values: Array, buffers: Buffers) -> None:
        """Take in the entries of a part."""
        sizes = values
        if values.dtype.kind == "c" or values.min(initial=0.0) < 0.0:
            self.nonnegative = False
            sizes = buffers.take("kernel.sizes", values.shape, np.float64)
            np.abs(values, out=sizes)
        self.squares += float(sizes @ sizes)
        self.largest = max(self.largest, float(sizes.max(initial=0.0)))
        strip = part.strip
        columns = self.column_sums[strip.offset : strip.offset + strip.width]
        along, across = (self.row_sums, columns) if strip.by_rows else (columns, self.row_sums)
        part.add_sums(sizes, along, across)
        if repeated(values):
            counts = self.column_counts[strip.offset : strip.offset + strip.width]
            along_count, across_counts = np.diff(part.pointers), np.bincount(part.indices)
            if strip.by_rows:
                counts[: len(across_counts)] += across_counts
                rows = along_count
            else:
                counts[part.start : part.stop] += along_count
                rows = across_counts
            self.row_count += int(rows.max(initial=0))


def repeated(values: Array) -> bool:
    """Whether values repeat, by a sample: sums of equal terms round the same way at every step.

    Rounding errors of a chain then add up in proportion to its length, not to its root.
    """
    sample = values[:: max(1, len(values) // SAMPLE)][:SAMPLE]
    _, counts = np.unique(sample, return_counts=True)
    return bool(counts.max(initial=0) >= REPEATS)


@dataclass(frozen=True)
class _Part:
    """Compressed range ``start <= k < stop`` of a strip, ready for SciPy's routines."""

    strip: Strip
    start: int
    stop: int
    pointers: Array
    indices: Array
    stored: Array

    @classmethod
    def of(cls, strip: Strip, start: int, stop: int) -> _Part:
        first, last = int(strip.indptr[start]), int(strip.indptr[stop])
        indices = strip.indices[first:last]
        # One index type for both, or SciPy converts the longer one in every call.
        pointers = (strip.indptr[start : stop + 1] - strip.indptr[start]).astype(indices.dtype)
        return cls(strip, start, stop, pointers, indices, strip.data[first:last])

    @property
    def _across(self) -> int:
        return self.strip.width if self.strip.by_rows else self.strip.height

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

    def add_sums(self, sizes: Array, along: Array, across: Array) -> None:
        """Add sums of `sizes` along and across the compressed axis."""
        kept = np.flatnonzero(np.diff(self.pointers))
        if not kept.size:
            return
        along[self.start + kept] += np.add.reduceat(sizes, self.pointers[kept])
        self.add_transposed(sizes, np.ones((self.stop - self.start, 1)), across)


def add_products(
    strips: Sequence[Strip], V: Array, Z: Array, values: Values, facts: StripFacts | None
) -> Array:
    """Add ``S_i^H (S_i V)`` to Z and return ``Y^H Y`` for one slab, given as its strips.

    Entries are added to Z in the order of the rows, so its bits do not depend on where a slab
    is cut, as long as its strips are compressed along rows.

    Parameters
    ----------
    strips : sequence of Strip
        Of the same height, side by side.
    V, Z : ndarray (n, b)
        C-contiguous, in the working type.
    values : Values
    facts : StripFacts or None
    """
    b, gram = V.shape[1], np.zeros((V.shape[1], V.shape[1]), V.dtype)
    entries = values.most_entries(strips, facts=facts is not None)
    if 2 * V.nbytes <= SMALL_BYTES:
        entries = min(entries or SHORT, SHORT)
    for start, stop in _row_ranges(strips, b * V.itemsize, entries):
        Y = values.buffers.take("kernel.rows", (stop - start, b), V.dtype)
        Y.fill(0)
        parts = list(_parts(strips, start, stop, entries))
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


def gram_matrix(strips: Sequence[Strip], values: Values, facts: StripFacts | None) -> Array:
    """Return ``S_i^H S_i`` of one slab, dense: for a small order, where A^H A itself is formed."""
    blocks = []
    for strip in strips:
        part = _Part.of(strip, 0, strip.width if not strip.by_rows else strip.height)
        entries, _ = values.load(part.stored)
        if facts is not None:
            facts.note(part, entries, values.buffers)
        kind: Any = sp.csr_array if strip.by_rows else sp.csc_array
        shape = strip.height, strip.width
        blocks.append(kind((entries.copy(), part.indices, part.pointers), shape=shape))
    X = blocks[0] if len(blocks) == 1 else sp.hstack(blocks, format="csr")
    product: Array = (X.conj().T @ X).toarray()
    return product


def _row_ranges(
    strips: Sequence[Strip], row: int, entries: int | None
) -> Iterator[tuple[int, int]]:
    """Cut the rows of a slab; where columns are compressed, rows cannot be told apart."""
    height, most = strips[0].height, max(1, min(ROWS_BYTES // row, ENTRIES // 4))
    if not all(strip.by_rows for strip in strips):
        yield 0, height
    elif len(strips) == 1:
        yield from strips[0].ranges(0, height, most, entries)
    else:
        for start in range(0, height, most):
            yield start, min(start + most, height)


def _parts(strips: Sequence[Strip], start: int, stop: int, entries: int | None) -> Iterator[_Part]:
    for strip in strips:
        first, last = (start, stop) if strip.by_rows else (0, strip.width)
        for place in strip.ranges(first, last, last - first, entries):
            yield _Part.of(strip, *place)


def _forward(part: _Part, entries: Array, V: Array, Y: Array, top: int) -> None:
    offset, width = part.strip.offset, part.strip.width
    if part.strip.by_rows:
        part.add(entries, V[offset : offset + width], Y[part.start - top : part.stop - top])
    else:
        part.add_transposed(entries, V[offset + part.start : offset + part.stop], Y)


def _backward(part: _Part, conjugates: Array, Y: Array, Z: Array, top: int) -> None:
    offset, width = part.strip.offset, part.strip.width
    if part.strip.by_rows:
        rows = slice(part.start - top, part.stop - top)
        part.add_transposed(conjugates, Y[rows], Z[offset : offset + width])
    else:
        part.add(conjugates, Y, Z[offset + part.start : offset + part.stop])
