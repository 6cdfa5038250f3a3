"""The innermost products: what one task does with the entries it has read.

A *slab* is a block of rows of the swept operator ``S``: ``S = A`` when panels are rows,
``S = A^H`` when they are columns. The accumulator adds ``S_i^H (S_i V)`` and the free facts,
tile by tile: a tile of a few megabytes is converted to float64 once, stays in cache, and is
used for both products. Measured (2 cores, float32 slabs of 40 MB, b = 8): 7.4 GB/s, against a
third of that for whole-slab products, which read the slab from memory twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.blocks import SAFE_EXPONENT, Composed, Factors, SparseSum, peak
from bigspec.buffers import Buffers
from bigspec.kernels.sparse import (
    Strip,
    StripFacts,
    Values,
    add_products,
    gram_matrix,
    repeated,
)
from bigspec.partials import Partial, RawFacts

__all__ = [
    "Accumulator",
    "NonFiniteFound",
    "load_tile",
    "safe_exponent",
    "scale_entries",
    "working_dtype",
]

Array = np.ndarray[Any, Any]

TILE_BYTES = 4 << 20
CANCELLED = 1e-3  # of the squares: below it, a difference has lost more than three digits


class NonFiniteFound(Exception):  # noqa: N818
    """Carries the place of a NaN or infinity, relative to the slab: (row, column) of A."""


def working_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of products with stored type `dtype`: float64 or complex128."""
    return np.dtype(np.complex128 if dtype.kind == "c" else np.float64)


class Accumulator:
    """Adds up ``S_i^H (S_i V)`` over the slabs of one panel.

    Parameters
    ----------
    V : ndarray (n, b) or None
        Block to multiply, in the working dtype; None accumulates the Gram matrix ``S^H S``.
    n : int
        Length of the iterates.
    dtype : numpy.dtype
        Stored type of the matrix.
    exponent : int or None
        Known exponent of the matrix; None in the first pass, which finds it.
    facts : bool
        Also collect the facts (first pass).
    transposed : bool
        Blocks come as stored, A[:, J], and ``S = A^H``.
    buffers : Buffers, optional
        Scratch of this thread. Temporaries of the size of a block are taken from there: fresh
        ones cost page faults in every tile where malloc is told to trim (Dask's workers are).
    """

    def __init__(
        self,
        V: Array | None,
        n: int,
        dtype: np.dtype[Any],
        *,
        exponent: int | None,
        facts: bool,
        transposed: bool,
        buffers: Buffers | None = None,
    ) -> None:
        self.V, self.n, self.transposed = V, n, transposed
        self.work = working_dtype(dtype)
        self.may_be_extreme = dtype.itemsize // (2 if dtype.kind == "c" else 1) >= 8
        self.may_be_extreme &= dtype.kind in "fc"
        self.exponent, self.searching = exponent or 0, exponent is None and self.may_be_extreme
        self.started = False
        b = n if V is None else V.shape[1]
        self.Z = np.zeros((n, b), self.work)
        self.gram = np.zeros((0, 0) if V is None else (b, b), self.work)
        self.squares, self.row_sum, self.largest, self.nonnegative = 0.0, 0.0, 0.0, True
        self.column_sums, self.magnitude = np.zeros(n if facts else 0), 0.0
        self.column_counts: Array | None = None
        self.row_count = 0
        self.facts = facts
        self.inner: Inner | None = None
        self.buffers = buffers or Buffers()

    def add_slab(self, blocks: Sequence[tuple[int, Any]]) -> None:
        """Add one slab, given as blocks ``(offset along the iterate, block as stored)``.

        Raises
        ------
        NonFiniteFound
            With the (row, column) of the first NaN or infinity, counted from the slab's
            corner in A.
        """
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and Inf are looked for below
            if isinstance(blocks[0][1], SparseSum):
                ((_, block),) = blocks  # sums are read as one block
                self._add_sparse_sum(block)
            elif any(sp.issparse(block) for _, block in blocks):
                self._add_sparse(blocks)
            else:
                height = blocks[0][1].shape[1 if self.transposed else 0]
                rows, _ = self._tile_shape()
                for start in range(0, height, rows):
                    self._add_rows(blocks, slice(start, min(start + rows, height)))
                self._note_magnitude(blocks)
        if not np.isfinite(self.gram if self.V is not None else self.Z.diagonal()).all():
            raise NonFiniteFound(*_first_non_finite(blocks, self.transposed))

    def add_streamed(self, tiles: Callable[[], Iterator[tuple[int, Any]]], height: int) -> None:
        """Add one slab that does not fit: `tiles` is iterated twice, once for each product.

        Parameters
        ----------
        tiles : callable
            Each call yields the blocks of the slab, ``(offset along the iterate, block)``.
        height : int
            Rows of the slab.

        Raises
        ------
        NonFiniteFound
        """
        assert self.V is not None
        Y = np.zeros((height, self.V.shape[1]), self.work)
        row_sums = np.zeros(height)
        for offset, block in tiles():
            before = self.exponent
            if self.searching:
                self._raise_exponent(peak(block))
            if self.exponent != before:
                Y *= math.ldexp(1.0, max(before - self.exponent, -1074))
            for start, X in self._row_blocks(offset, block):
                stop = start + X.shape[0]
                with np.errstate(invalid="ignore", over="ignore"):
                    Y[start:stop] += X @ self.V[offset : offset + X.shape[1]]
            if not np.isfinite(Y).all():
                raise NonFiniteFound(*_first_non_finite([(offset, block)], self.transposed))
        for offset, block in tiles():
            for start, X in self._row_blocks(offset, block):
                stop = start + X.shape[0]
                self._finish(offset, X, Y[start:stop], row_sums[start:stop])
            self._note_magnitude([(offset, block)])
        self.gram += Y.conj().T @ Y
        self.row_sum = max(self.row_sum, float(row_sums.max(initial=0.0)))

    def _row_blocks(self, offset: int, block: Any) -> Iterator[tuple[int, Array]]:
        """Load a block in row ranges of tile size, whatever its width."""
        height, width = block.shape[::-1] if self.transposed else block.shape
        rows = max(1, TILE_BYTES // self.work.itemsize // width)
        for start in range(0, height, rows):
            cut = self._cut(block, slice(start, min(start + rows, height)))
            yield start, self._load(offset, cut)[1]

    def partial(self) -> Partial:
        """Return the sum so far."""
        if self.inner is not None:  # of sums with factors
            self.Z += self.inner.taken()
        facts = None
        if self.facts:
            facts = RawFacts(
                self.squares,
                self.column_sums,
                self.row_sum,
                self.largest,
                self.nonnegative,
                self.magnitude,
                self._chain(),
            )
        return Partial(self.Z, self.gram, self.exponent, facts)

    def _chain(self) -> float:
        """Longest chains of sums that may round the same way: along a row, and down a column."""
        if self.column_counts is None:
            return 0.0
        return float(self.row_count + self.column_counts.max(initial=0))

    def _tile_shape(self) -> tuple[int, int]:
        """Rows and columns of a tile; whole rows if 64 of them fit, else 256 rows of a part."""
        width = max(1, TILE_BYTES // self.work.itemsize)
        if self.V is None or self.n * 64 <= 2 * width:
            return int(np.clip(width // self.n, 64, 1024)), self.n
        return 256, max(1, width // 256)

    def _add_rows(self, blocks: Sequence[tuple[int, Any]], rows: slice) -> None:
        """Add a row range of a slab: both products over its tiles."""
        if self.searching:
            self._raise_exponent(max(peak(self._cut(block, rows)) for _, block in blocks))
        tiles = list(self._tiles(blocks, rows))
        height = rows.stop - rows.start
        row_sums = np.zeros(height)
        if self.V is None:
            parts = [self._load(*tile)[1] for tile in tiles[:1]]
            if len(tiles) > 1:  # the tile buffer is used again, so parts are copied
                parts = [self._load(*tile)[1].copy() for tile in tiles]
            X = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
            self.Z += X.conj().T @ X
            self._note(0, X, row_sums)
        elif len(tiles) == 1:
            offset, X = self._load(*tiles[0])
            Y = self.buffers.take("kernel.rows", (height, self.V.shape[1]), self.work)
            np.matmul(X, self.V[offset : offset + X.shape[1]], out=Y)
            self._finish(offset, X, Y, row_sums)
            self.gram += Y.conj().T @ Y
        else:
            Y = np.zeros((height, self.V.shape[1]), self.work)
            for tile in tiles:
                offset, X = self._load(*tile)
                Y += X @ self.V[offset : offset + X.shape[1]]
            for tile in tiles:
                self._finish(*self._load(*tile), Y, row_sums)
            self.gram += Y.conj().T @ Y
        self.row_sum = max(self.row_sum, float(row_sums.max(initial=0.0)))

    def _finish(self, offset: int, X: Array, Y: Array, row_sums: Array) -> None:
        """Add ``X^H Y`` for a loaded tile, then look at its entries."""
        part = self.Z[offset : offset + X.shape[1]]
        if self.work.kind == "c":
            product = self.buffers.take("kernel.product", part.shape[::-1], self.work)
            np.matmul(Y.conj().T, X, out=product)
            part += np.conjugate(product, out=product).T
        else:
            product = self.buffers.take("kernel.product", part.shape, self.work)
            part += np.matmul(X.T, Y, out=product)
        self._note(offset, X, row_sums)

    def _cut(self, block: Array, rows: slice) -> Array:
        return block[:, rows] if self.transposed else block[rows]

    def _tiles(self, blocks: Sequence[tuple[int, Any]], rows: slice) -> Iterator[tuple[int, Array]]:
        """Cut a row range into tiles as stored."""
        _, width = self._tile_shape()
        for offset, block in blocks:
            cut = self._cut(block, rows)
            length = cut.shape[0 if self.transposed else 1]
            for start in range(0, length, width):
                stop = min(start + width, length)
                yield offset + start, cut[start:stop] if self.transposed else cut[:, start:stop]

    def _load(self, offset: int, tile: Array) -> tuple[int, Array]:
        """Convert a tile to the working type, scaled, as a view of shape (rows, columns of S)."""
        X = self.buffers.take("kernel.tile", tile.shape, self.work)
        load_tile(tile, X, self.exponent, conjugate=self.transposed, buffers=self.buffers)
        return offset, X.T if self.transposed else X

    def _note(self, offset: int, X: Array, row_sums: Array) -> None:
        """Collect the facts of a loaded tile (rows, columns of S); may overwrite it."""
        if not self.facts:
            return
        if self.work.kind == "c":
            self.nonnegative = False
            shape = X.shape[::-1] if self.transposed else X.shape
            size = self.buffers.take("kernel.sizes", shape, np.float64)
            X = np.abs(X, out=size.T if self.transposed else size)
        else:
            self.nonnegative = self.nonnegative and bool(X.min(initial=0.0) >= 0.0)
            np.abs(X, out=X)
        flat = X.ravel(order="K")
        self.squares += float(flat @ flat)
        self.largest = max(self.largest, float(X.max(initial=0.0)))
        self.column_sums[offset : offset + X.shape[1]] += np.ones(X.shape[0]) @ X
        row_sums += X @ np.ones(X.shape[1])

    def _raise_exponent(self, peak: float) -> None:
        """Choose the scale: 0 in the safe range, else the exponent of the largest entry."""
        if peak == 0.0 or not math.isfinite(peak):
            return
        exponent = safe_exponent(peak)
        if self.started and exponent <= self.exponent:
            return
        if self.started:
            scaled = self.partial().rescaled(exponent)
            self.Z, self.gram = scaled.Z, scaled.gram
            if scaled.facts:
                self.squares, self.column_sums = scaled.facts.squares, scaled.facts.column_sums
                self.row_sum, self.largest = scaled.facts.row_sum, scaled.facts.largest
                self.magnitude = scaled.facts.magnitude
        self.exponent, self.started = exponent, True

    def _note_magnitude(self, blocks: Sequence[tuple[int, Any]]) -> None:
        """Collect what rounding is relative to, where that is not the entries."""
        if self.facts:
            sums = [block for _, block in blocks if isinstance(block, Composed | SparseSum)]
            self.magnitude += sum(block.magnitude(self.exponent) for block in sums)

    def _add_sparse(self, blocks: Sequence[tuple[int, Any]]) -> None:
        """Add a slab with sparse blocks."""
        if self.searching:
            self._raise_exponent(max(peak(block) for _, block in blocks))
        strips = [
            Strip.of(offset, block, transposed=self.transposed, distinct=self.facts)
            for offset, block in blocks
        ]
        values = Values(self.work, self.exponent, self.transposed, self.buffers)
        facts = None
        if self.facts:
            row_sums = np.zeros(strips[0].height)
            facts = StripFacts(self.column_sums, row_sums, self._counted())
        if self.V is None:
            self.Z += gram_matrix(strips, values, facts)
        else:
            V = np.ascontiguousarray(self.V, self.work)
            self.gram += add_products(strips, V, self.Z, values, facts)
        if facts is not None:
            self.squares += facts.squares
            self.largest = max(self.largest, facts.largest)
            self.nonnegative &= facts.nonnegative
            self.row_sum = max(self.row_sum, float(facts.row_sums.max(initial=0.0)))
            self.row_count = max(self.row_count, facts.row_count)

    def _counted(self) -> Array:
        """Return the counts of sparse entries by columns, made where there are any."""
        if self.column_counts is None:
            self.column_counts = np.zeros(self.n, np.int64)
        return self.column_counts

    def _add_sparse_sum(self, block: SparseSum) -> None:
        """Add a slab ``X + L R^H``, X sparse, without writing it out."""
        if block.factors is None:
            self._add_sparse([(0, block.S)])
            self._note_magnitude([(0, block)])
            return
        if self.searching:
            self._raise_exponent(peak(block))
        X = sp.csr_array(block.S.conj().T if self.transposed else block.S).astype(self.work)
        L, R = (part.astype(self.work) for part in (block.factors.U, block.factors.W))
        L, R = (R, L) if self.transposed else (L, R)
        scale_entries(X.data, self.exponent)
        factors = Factors(L, R).scaled(self.exponent)
        L, R = factors.U, factors.W
        inner = None if self.V is None else self._inner(R, self.V)
        step = max(1, TILE_BYTES // (self.work.itemsize * self.Z.shape[1]))
        for start in range(0, X.shape[0], step):
            rows = slice(start, start + step)
            X_rows, L_rows = X[rows], L[rows]
            if inner is None:
                D = X_rows.toarray() + L_rows @ R.conj().T
                self.Z += D.conj().T @ D
                continue
            Y = X_rows @ self.V
            Y += L_rows @ inner.projected
            self.Z += X_rows.conj().T @ Y
            inner.sum += L_rows.conj().T @ Y
            self.gram += Y.conj().T @ Y
        if self.facts:
            self._note_sparse_sum(X, L, R)
            self._note_magnitude([(0, block)])

    def _inner(self, R: Array, V: Array) -> Inner:
        """Return what the slabs share that have the same right factor."""
        if self.inner is None or not self.inner.belongs_to(R):
            if self.inner is not None:
                self.Z += self.inner.taken()
            self.inner = Inner(R, R.conj().T @ V)
        return self.inner

    def _note_sparse_sum(self, X: Any, L: Array, R: Array) -> None:
        """Collect facts: the squares, bounds of the sums and of the largest entry.

        The squares are those of the stored places, and what ``L R^H`` has at the others: all of
        it without the stored ones. Where little is left of that, it is written out.
        """
        rows = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
        beside = np.zeros(len(X.data), self.work)
        for left, right in zip(L.T, R.conj().T, strict=True):
            beside += left[rows] * right[X.indices]
        sizes, own = np.abs(X.data + beside) ** 2, np.abs(beside) ** 2
        rest = float(np.sum((L.conj().T @ L) * (R.conj().T @ R).T).real)
        squares = float((sizes - own).sum() + rest)
        if squares < CANCELLED * (float(sizes.sum()) + rest):
            squares = float(sizes.sum()) + _squares_beside(X, own, L, R)
        self.squares += max(squares, 0.0)
        if repeated(X.data):
            counts = np.bincount(X.indices)
            self._counted()[: len(counts)] += counts
            self.row_count = max(self.row_count, int(np.diff(X.indptr).max(initial=0)))
        self.largest = max(self.largest, peak(X) + Factors(L, R).bound)
        self.nonnegative = False
        size, L, R = abs(X), np.abs(L), np.abs(R)
        self.column_sums += np.asarray(size.sum(axis=0)).ravel() + R @ L.sum(axis=0)
        sums = np.asarray(size.sum(axis=1)).ravel() + L @ R.sum(axis=0)
        self.row_sum = max(self.row_sum, float(sums.max(initial=0.0)))


def load_tile(tile: Any, out: Array, exponent: int, *, conjugate: bool, buffers: Buffers) -> None:
    """Write the entries of a tile, scaled by ``2**-exponent``, to `out` of the working type."""
    if isinstance(tile, Composed):
        tile.fill(out, buffers)
        tile = out
    if conjugate and out.dtype.kind == "c":
        np.conjugate(tile, out=out, casting="unsafe")
    elif tile is not out:
        np.copyto(out, tile, casting="unsafe")
    scale_entries(out, exponent)


def scale_entries(X: Array, exponent: int) -> None:
    """Multiply by ``2**-exponent`` in place, in two steps that neither over- nor underflow."""
    if exponent:
        X *= math.ldexp(1.0, -exponent // 2)
        X *= math.ldexp(1.0, -exponent - (-exponent // 2))


class Inner:
    """``R^H V`` and ``sum L_i^H Y_i`` of the slabs ``X_i + L_i R^H`` of a panel."""

    def __init__(self, R: Array, projected: Array) -> None:
        self.R, self.projected = R, projected
        self.sum = np.zeros_like(projected)

    def belongs_to(self, R: Array) -> bool:
        """Whether the slabs of `R` are among them."""
        return self.R.shape == R.shape and np.array_equal(self.R, R)

    def taken(self) -> Array:
        """Return ``R sum``, and start the sum anew."""
        out: Array = self.R @ self.sum
        self.sum = np.zeros_like(self.sum)
        return out


def _squares_beside(X: Any, own: Array, L: Array, R: Array) -> float:
    """Sum the squares of ``L R^H`` where the CSR array X stores nothing.

    A row (a column) that has most of its squares at stored places is written out; of the others
    the stored ones are taken away. Rows or columns, whichever are fewer entries.

    Parameters
    ----------
    X : csr_array (h, n)
    own : ndarray (entries,)
        Squares at the stored places.
    L, R : ndarray (h, k), (n, k)
    """
    places = sp.csr_array((own, X.indices, X.indptr), shape=X.shape)
    best: tuple[int, float, Array, Any, Array, Array] | None = None
    for U, W, M in ((L, R, places), (R, L, places.T.tocsr())):
        whole = np.einsum("ij,jk,ik->i", U, W.conj().T @ W, U.conj()).real
        left = whole - np.asarray(M.sum(axis=1)).ravel()
        poor = np.flatnonzero((left < CANCELLED * whole) & (whole > 0))
        across = np.flatnonzero(np.abs(W).any(axis=1))
        cost = poor.size * across.size
        if best is None or cost < best[0]:
            left[poor] = 0.0
            best = cost, float(left.sum()), poor, M, U, W[across]
            columns = across
    assert best is not None
    _, total, poor, M, U, W = best
    step = max(1, TILE_BYTES // 16 // max(len(W), 1))
    for first in range(0, poor.size, step):
        rows = poor[first : first + step]
        part = M[rows]
        part = sp.csr_array((np.ones(part.nnz), part.indices, part.indptr), shape=part.shape)
        blank = part[:, columns].toarray() == 0
        D = np.abs(U[rows] @ W.conj().T)
        total += float(np.sum(D**2, where=blank))
    return total


def safe_exponent(peak: float) -> int:
    """Return 0 if squares of numbers up to `peak` are safe to sum, else the exponent of `peak`."""
    exponent = math.frexp(peak)[1] if math.isfinite(peak) else 0
    return exponent if abs(exponent) > SAFE_EXPONENT else 0


def _first_non_finite(blocks: Sequence[tuple[int, Any]], transposed: bool) -> tuple[int, int]:
    """Return (row, column) of A, from the slab's corner, of its first NaN or infinity."""
    places = []
    for offset, block in blocks:
        if isinstance(block, Composed | SparseSum):
            found = _first_in_sum(block)
        elif sp.issparse(block):
            coo: Any = sp.coo_array(block)  # type: ignore[call-overload]
            bad = ~np.isfinite(coo.data)
            found = np.stack([coo.row[bad], coo.col[bad]], axis=1)
        else:
            found = np.argwhere(~np.isfinite(block))
        if len(found):
            row, column = (int(k) for k in found[np.lexsort(found.T[::-1])[0]])
            places.append((row + offset, column) if transposed else (row, column + offset))
    return min(places) if places else (-1, -1)


def _first_in_sum(block: Composed | SparseSum) -> Array:
    """Return [[row, column]] of the first entry of a sum that is NaN or infinite, if any."""
    height, width = block.shape
    step, buffers = max(1, TILE_BYTES // 16 // width), Buffers()
    for start in range(0, height, step):
        stop = min(start + step, height)
        if isinstance(block, Composed):
            entries = np.empty((stop - start, width), block.dtype)
            with np.errstate(invalid="ignore", over="ignore"):
                block[start:stop].fill(entries, buffers)
        else:
            factors = block.factors
            cut = factors if factors is None else Factors(factors.U[start:stop], factors.W)
            entries = SparseSum(sp.csr_array(block.S)[start:stop], cut, 0).toarray()
        found = np.argwhere(~np.isfinite(entries))
        if len(found):
            return np.asarray(found[:1] + np.array([start, 0]))
    return np.zeros((0, 2), np.int64)
