"""The innermost products: what a task does with the entries that it read.

A *slab* is a block of rows of the operator ``S``: ``S = A`` when panels are rows,
``S = A^H`` when they are columns. The accumulator adds ``S_i^H (S_i V)`` and the free facts,
tile by tile: a tile of a few megabytes is converted to float64 once, stays in cache, and is
used for both products. Measured (2 cores, float32 slabs of 40 MB, b = 8): 7.4 GB/s, against a
third of that for products of whole slabs, which read the slab from memory twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.kernels.buffers import Buffers
from bigspec.kernels.chains import Chains, repeats
from bigspec.kernels.compiled import NUMPY, Compiled
from bigspec.kernels.entries import (
    TILE_BYTES,
    Values,
    load_tile,
    loaded_ranges,
    safe_exponent,
    working_dtype,
)
from bigspec.kernels.non_finite import NonFiniteFound, first_non_finite
from bigspec.kernels.partials import Partial, RawFacts
from bigspec.kernels.sparse import (
    SparseFacts,
    SparseTile,
    add_backward,
    add_forward,
    add_products,
    gram_matrix,
)
from bigspec.kernels.squares import squares_of_sum
from bigspec.kernels.sums import Factors, SparseSum, SumBlock, peak

__all__ = ["Accumulator"]

Array = np.ndarray[Any, Any]


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
        Scratch of this thread, for temporaries of the size of a block. Fresh ones would cost
        page faults in every tile on Dask's workers, whose malloc gives memory back at once.
    kernel : str
        What multiplies arrays; see `bigspec.kernels.compiled`.
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
        kernel: str = NUMPY,
    ) -> None:
        self.V, self.n, self.transposed = V, n, transposed
        # NumPy makes the first pass: the facts need every entry in float64.
        fits = kernel != NUMPY and not facts and V is not None and not exponent
        self.compiled = Compiled() if fits else None
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
        self.chains = Chains(n)
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
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and Inf are found below
            if isinstance(blocks[0][1], SparseSum):
                ((_, block),) = blocks  # sums are read as one block
                self._add_sparse_sum(block)
            elif any(sp.issparse(block) for _, block in blocks):
                self._add_sparse(blocks)
            elif self.compiled is not None and self.compiled.takes(blocks):
                self.compiled.add(self, blocks)
            else:
                height = blocks[0][1].shape[1 if self.transposed else 0]
                rows, _ = self._tile_shape()
                for start in range(0, height, rows):
                    self._add_rows(blocks, slice(start, min(start + rows, height)))
                self._note_magnitude(blocks)
        if not np.isfinite(self.gram if self.V is not None else self.Z.diagonal()).all():
            raise NonFiniteFound(*first_non_finite(blocks, self.transposed))

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
            for rows, X in loaded_ranges(block, self._values):
                with np.errstate(invalid="ignore", over="ignore"):
                    Y[rows] += X @ self.V[offset : offset + X.shape[1]]
            if not np.isfinite(Y).all():
                raise NonFiniteFound(*first_non_finite([(offset, block)], self.transposed))
        for offset, block in tiles():
            for rows, X in loaded_ranges(block, self._values):
                self._finish(offset, X, Y[rows], row_sums[rows])
            self._note_magnitude([(offset, block)])
        self.gram += Y.conj().T @ Y
        self.row_sum = max(self.row_sum, float(row_sums.max(initial=0.0)))

    @property
    def _values(self) -> Values:
        """How to load entries now; the exponent may rise in the first pass."""
        return Values(self.work, self.exponent, self.transposed, self.buffers)

    def partial(self) -> Partial:
        """Return the sum so far."""
        if self.inner is not None:  # the slabs were sums with factors
            self.Z += self.inner.flush()
        facts = None
        if self.facts:
            facts = RawFacts(
                self.squares,
                self.column_sums,
                self.row_sum,
                self.largest,
                self.nonnegative,
                self.magnitude,
                self.chains.longest,
            )
        return Partial(self.Z, self.gram, self.exponent, facts)

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
            if len(tiles) > 1:  # each part is copied, because the next one overwrites the buffer
                parts = [self._load(*tile)[1].copy() for tile in tiles]
            X = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
            product = self.buffers.take("kernel.product", self.Z.shape, self.work)
            self.Z += np.matmul(X.conj().T, X, out=product)
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
        """Cut a range of rows into tiles, as stored."""
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
        """Collect the magnitude that rounding is relative to, where terms may cancel."""
        if self.facts:
            sums = [block for _, block in blocks if isinstance(block, SumBlock | SparseSum)]
            self.magnitude += sum(block.magnitude(self.exponent) for block in sums)

    def _add_sparse(self, blocks: Sequence[tuple[int, Any]]) -> None:
        """Add a slab with sparse blocks."""
        if self.searching:
            self._raise_exponent(max(peak(block) for _, block in blocks))
        tiles = [
            SparseTile.of(offset, block, transposed=self.transposed, distinct=self.facts)
            for offset, block in blocks
        ]
        values, facts = self._values, None
        if self.facts:
            facts = SparseFacts(self.column_sums, np.zeros(tiles[0].height), self.chains)
        if self.V is None:
            self.Z += gram_matrix(tiles, values, facts)
        else:
            V = np.ascontiguousarray(self.V, self.work)
            self.gram += add_products(tiles, V, self.Z, values, facts)
        if facts is not None:
            self.squares += facts.squares
            self.largest = max(self.largest, facts.largest)
            self.nonnegative &= facts.nonnegative
            self.row_sum = max(self.row_sum, float(facts.row_sums.max(initial=0.0)))
            self.chains.add_row(facts.row_count)

    def _add_sparse_sum(self, block: SparseSum) -> None:
        """Add a slab ``X + L R^H``, X sparse, without writing it out."""
        if self.searching:
            self._raise_exponent(peak(block))
        if block.factors is None:
            self._add_sparse([(0, block.S)])
            self._note_magnitude([(0, block)])
            return
        tile = SparseTile.along_rows(block.S, transposed=self.transposed)
        L, R = (part.astype(self.work) for part in (block.factors.U, block.factors.W))
        L, R = (R, L) if self.transposed else (L, R)
        factors = Factors(L, R).scaled(self.exponent)
        L, R = factors.U, factors.W
        step = max(1, TILE_BYTES // (self.work.itemsize * self.Z.shape[1]))
        for start in range(0, tile.height, step):
            rows = start, min(start + step, tile.height)
            self._add_rows_of_sum(tile, rows, L[slice(*rows)], R)
        if self.facts:
            whole = tile.cut((0, tile.height), self._values)
            self._note_sparse_sum(whole, L, R)
            self._note_magnitude([(0, block)])

    def _add_rows_of_sum(self, tile: SparseTile, rows: tuple[int, int], L: Array, R: Array) -> None:
        """Add a range of rows of ``X + L R^H``, given L of these rows."""
        values = self._values
        if self.V is None:
            D = tile.cut(rows, values).toarray() + L @ R.conj().T
            self.Z += D.conj().T @ D
            return
        inner = self._inner(R, self.V)
        Y = self.buffers.take("kernel.rows", (rows[1] - rows[0], self.V.shape[1]), self.work)
        Y.fill(0)
        add_forward(tile, np.ascontiguousarray(self.V, self.work), Y, values, rows)
        Y += L @ inner.projected
        # These rows are summed by themselves first, so that the bits are those of their product.
        product = self.buffers.take("kernel.product", self.Z.shape, self.work)
        product.fill(0)
        add_backward(tile, Y, product, values, rows)
        self.Z += product
        inner.sum += L.conj().T @ Y
        self.gram += Y.conj().T @ Y

    def _inner(self, R: Array, V: Array) -> Inner:
        """Return the work that slabs with the same right factor share."""
        if self.inner is None or not self.inner.belongs_to(R):
            if self.inner is not None:
                self.Z += self.inner.flush()
            self.inner = Inner(R, R.conj().T @ V)
        return self.inner

    def _note_sparse_sum(self, X: Any, L: Array, R: Array) -> None:
        """Collect facts: the squares, bounds of the sums and of the largest entry."""
        self.squares += squares_of_sum(X, L, R)
        if repeats(X.data):
            self.chains.add_columns(np.bincount(X.indices))
            self.chains.add_row(int(np.diff(X.indptr).max(initial=0)))
        self.largest = max(self.largest, peak(X) + Factors(L, R).bound)
        self.nonnegative = False
        size, L, R = abs(X), np.abs(L), np.abs(R)
        self.column_sums += np.asarray(size.sum(axis=0)).ravel() + R @ L.sum(axis=0)
        sums = np.asarray(size.sum(axis=1)).ravel() + L @ R.sum(axis=0)
        self.row_sum = max(self.row_sum, float(sums.max(initial=0.0)))


class Inner:
    """``R^H V`` and ``sum L_i^H Y_i`` of the slabs ``X_i + L_i R^H`` of a panel."""

    def __init__(self, R: Array, projected: Array) -> None:
        self.R, self.projected = R, projected
        self.sum = np.zeros_like(projected)

    def belongs_to(self, R: Array) -> bool:
        """Whether `R` is the right factor of these slabs."""
        return self.R.shape == R.shape and np.array_equal(self.R, R)

    def flush(self) -> Array:
        """Return ``R sum``, and start a new sum."""
        out: Array = self.R @ self.sum
        self.sum = np.zeros_like(self.sum)
        return out
