"""Blocks that are sums: a panel of ``A - B`` or ``A - U S V^H`` once it is read.

A sum with a dense term is written out tile by tile, at the point where the kernel converts a
stored tile. A sum of sparse terms stays sparse, and a term of low rank stays in its factors.
Neither makes a temporary of the size of the slab.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bigspec.kernels.buffers import Buffers

__all__ = [
    "SAFE_EXPONENT",
    "Factors",
    "SparseSum",
    "SumBlock",
    "TermBlock",
    "frobenius",
    "peak",
    "times_power",
]

Array = np.ndarray[Any, Any]

SAFE_EXPONENT = 200  # |entries| within 2^+-200: squares summed over 2^100 entries stay finite
CANCELLED = 2.0**-60  # a sum below this share of its terms is rounding
NORM_ENTRIES = 1 << 17  # entries to convert at once for the sum of their squares


@dataclass(frozen=True)
class TermBlock:
    """One term of a sum: ``scalar * diag(left) op(block) diag(right)``, op the adjoint or not.

    Attributes
    ----------
    block : ndarray, SciPy CSR/CSC block, or SumBlock
        As stored; of the shape of the sum, or transposed if `adjoint`.
    adjoint : bool
    scalar : float or complex
    left, right : ndarray (rows,), (columns,) or None
    """

    block: Any
    adjoint: bool = False
    scalar: complex = 1.0
    left: Array | None = None
    right: Array | None = None

    def cut(self, rows: slice, columns: slice) -> TermBlock:
        """Return the block of a rectangle of the sum."""
        block = self.block[columns, rows] if self.adjoint else self.block[rows, columns]
        left = None if self.left is None else self.left[rows]
        right = None if self.right is None else self.right[columns]
        return replace(self, block=block, left=left, right=right)

    @property
    def bound(self) -> float:
        """A bound of the factors that multiply an entry."""
        sides = [np.abs(part).max(initial=0.0) for part in (self.left, self.right)
                 if part is not None]  # fmt: skip
        return abs(self.scalar) * math.prod(map(float, sides))

    def add_to(self, out: Array, buffers: Buffers, *, first: bool) -> None:
        """Add the entries to `out`, or write them there if the block is the first."""
        entries = self._entries(out, buffers)
        plain = self.left is None and self.right is None
        known = entries.dtype.kind in "biufc"  # bfloat16 has casts, not every ufunc
        if plain and self.scalar == 1 and (first or known):
            if first:
                np.copyto(out, entries, casting="unsafe")
            else:
                np.add(out, entries, out=out, casting="unsafe")
        elif plain and self.scalar == -1 and known and not first:
            np.subtract(out, entries, out=out, casting="unsafe")
        else:
            scaled = out if first else buffers.take("blocks.scaled", out.shape, out.dtype)
            np.copyto(scaled, entries, casting="unsafe")
            if self.scalar != 1:
                scaled *= self.scalar
            if self.left is not None:
                scaled *= self.left[:, None]
            if self.right is not None:
                scaled *= self.right
            if not first:
                out += scaled

    def _entries(self, out: Array, buffers: Buffers) -> Array:
        block: Any = self.block
        entries: Array
        if isinstance(block, SumBlock):
            entries = buffers.take("blocks.inner", block.shape, out.dtype)
            with buffers.within("inner"):
                block.fill(entries, buffers)
        else:
            entries = block.toarray() if hasattr(block, "toarray") else block
        if not self.adjoint:
            return entries
        return entries.conj().T if entries.dtype.kind == "c" else entries.T


@dataclass(frozen=True)
class Factors:
    """``U W^H`` for U (rows, k) and W (columns, k)."""

    U: Array
    W: Array

    @property
    def bound(self) -> float:
        """A bound of the magnitude of an entry."""
        (u, own_u), (w, own_w) = _norms(self.U, 1), _norms(self.W, 1)
        return _lowered(float(u.max(initial=0.0) * w.max(initial=0.0)), -own_u - own_w)

    def norm(self, exponent: int) -> float:
        """Return a bound of ``|| |U| |W|^T ||_F`` times 2**-exponent."""
        (u, own_u), (w, own_w) = _norms(self.U, 0), _norms(self.W, 0)
        return _lowered(float(u @ w), exponent - own_u - own_w)

    def scaled(self, exponent: int) -> Factors:
        """Return the factors of the term times 2**-exponent; neither overflows.

        The scale of W depends on W alone, so blocks that share W go on sharing it.
        """
        if exponent == 0:
            return self
        sizes = np.abs(self.W).max(axis=0, initial=0.0)
        own = np.where(sizes > 0, np.frexp(sizes)[1], exponent)
        return Factors(times_power(self.U, own - exponent), times_power(self.W, -own))


@dataclass(frozen=True)
class SumBlock:
    """A block that is a sum with a dense term; it is written out where it is needed.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
        float64 or complex128.
    blocks : tuple of TermBlock
    factors : Factors or None
    exact : bool
        Whether each entry is rounded once, relative to itself.
    terms : float
        A bound of ``|| sum of |terms| ||_F`` where terms were summed before they were joined.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    blocks: tuple[TermBlock, ...]
    factors: Factors | None = None
    exact: bool = True
    terms: float = 0.0

    def __getitem__(self, key: slice | tuple[slice, slice]) -> SumBlock:
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        shape = _length(rows, self.shape[0]), _length(columns, self.shape[1])
        factors = self.factors
        if factors is not None:
            factors = Factors(factors.U[rows], factors.W[columns])
        blocks = tuple(term.cut(rows, columns) for term in self.blocks)
        return replace(self, shape=shape, blocks=blocks, factors=factors)

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.shape[0] * self.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes that were read for the block."""
        return sum(_nbytes(leaf) for leaf in self.leaves())

    def leaves(self) -> Iterator[Any]:
        """Yield the blocks as they were read."""
        for term in self.blocks:
            yield from _leaves(term.block)

    def fill(self, out: Array, buffers: Buffers) -> None:
        """Write the entries to `out`, which has the shape of the block."""
        for number, term in enumerate(self.blocks):
            term.add_to(out, buffers, first=number == 0)
        if self.factors is not None:
            product = buffers.take("blocks.product", out.shape, out.dtype) if self.blocks else out
            np.matmul(self.factors.U, self.factors.W.conj().T, out=product)
            if self.blocks:
                out += product
        elif not self.blocks:
            out.fill(0)

    def peak(self) -> float:
        """Return a bound of the magnitudes of the entries; see `SparseSum.peak`."""
        bound = sum(term.bound * peak(term.block) for term in self.blocks)
        bound = max(bound, CANCELLED * self.terms) or self.terms
        return bound + (0.0 if self.factors is None else self.factors.bound)

    @property
    def rounded(self) -> bool:
        """Whether rounding is relative to more than the entries."""
        return not self.exact

    def magnitude(self, exponent: int = 0) -> float:
        """Bound the sum of ``(sum of the magnitudes of the terms)^2``; 0 if `exact`.

        Where terms cancel, rounding is relative to this and not to the entries.
        """
        norm = 0.0 if self.exact else self.norm(exponent)
        return norm * norm

    def norm(self, exponent: int) -> float:
        """Bound the Frobenius norm of the sum of the magnitudes of terms times 2**-exponent."""
        norm = sum(term.bound * frobenius(term.block, exponent) for term in self.blocks)
        norm = max(norm, _lowered(self.terms, exponent))
        return norm + (0.0 if self.factors is None else self.factors.norm(exponent))


@dataclass(frozen=True)
class SparseSum:
    """A block ``S + U W^H`` that is multiplied as it stands.

    Attributes
    ----------
    S : SciPy CSR/CSC block
        The sum of the sparse terms.
    factors : Factors or None
    nbytes : int
        Bytes that were read for the block.
    terms : float
        A bound of ``|| sum of |terms| ||_F`` for the sparse terms; 0 if each entry of S was
        rounded once, relative to itself.
    """

    S: Any
    factors: Factors | None
    nbytes: int
    terms: float = 0.0

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the block."""
        return self.S.shape  # type: ignore[no-any-return]

    def __getitem__(self, key: slice | tuple[slice, slice]) -> SparseSum:
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        S, factors = self.S[rows, columns], self.factors
        if factors is not None:
            factors = Factors(factors.U[rows], factors.W[columns])
        share = S.shape[0] * S.shape[1] / max(1, self.shape[0] * self.shape[1])
        return SparseSum(S, factors, int(self.nbytes * share), self.terms)

    def leaves(self) -> Iterator[Any]:
        """Yield the arrays that a checksum of the block covers."""
        yield self.S

    def peak(self) -> float:
        """Return a bound of the magnitudes of the entries.

        Where the terms nearly cancel, it bounds the terms instead. The scale is chosen by it, and
        the squares of the terms must stay in the range of float64.
        """
        sparse = max(peak(self.S), CANCELLED * self.terms) or self.terms
        return sparse + (0.0 if self.factors is None else self.factors.bound)

    @property
    def rounded(self) -> bool:
        """Whether rounding is relative to more than the entries."""
        return self.factors is not None or self.terms > 0.0

    def magnitude(self, exponent: int = 0) -> float:
        """Bound the sum of squares that rounding is relative to; 0 for an exact sparse sum."""
        norm = self.norm(exponent) if self.rounded else 0.0
        return norm * norm  # a power would raise where it overflows

    def norm(self, exponent: int) -> float:
        """Bound the Frobenius norm of the sum of the magnitudes of terms times 2**-exponent."""
        sparse = max(_lowered(self.terms, exponent), frobenius(self.S, exponent))
        return sparse + (0.0 if self.factors is None else self.factors.norm(exponent))

    def toarray(self) -> Array:
        """Return the entries."""
        dense: Array = self.S.toarray()
        if self.factors is not None:
            dense = dense + self.factors.U @ self.factors.W.conj().T
        return dense


def _length(cut: slice, extent: int) -> int:
    return len(range(*cut.indices(extent)))


def peak(block: Any) -> float:
    """Largest magnitude (of real and imaginary parts), without a temporary; of a sum, a bound."""
    if isinstance(block, (SumBlock, SparseSum)):
        return block.peak()
    if hasattr(block, "indptr"):
        block = block.data
    if block.dtype.kind == "c":
        return max(peak(block.real), peak(block.imag))
    if block.size == 0:
        return 0.0
    # As floats: bool, unsigned and the least integers have no correct negative.
    return max(float(block.max()), -float(block.min()))


def _leaves(block: Any) -> Iterator[Any]:
    if isinstance(block, (SumBlock, SparseSum)):
        yield from block.leaves()
    else:
        yield block


def _nbytes(block: Any) -> int:
    parts = [block]
    if hasattr(block, "indptr"):
        parts = [block.data, block.indices, block.indptr]
    return sum(int(part.nbytes) for part in parts)


def times_power(X: Array, exponent: Any) -> Array:
    """Return ``2**exponent X``; the exponent is an int, or one for each column."""
    half = np.asarray(exponent) // 2  # two steps, so that neither over- nor underflows
    return np.asarray(X * np.ldexp(1.0, half) * np.ldexp(1.0, exponent - half))


def _norms(X: Array, axis: int) -> tuple[Array, int]:
    """Return 2-norms along an axis times 2**-own, and own: 0 where squares are safe."""
    own = math.frexp(peak(X))[1] if math.isfinite(peak(X)) else 0
    own = own if abs(own) > SAFE_EXPONENT else 0
    Y = times_power(X, -own) if own else X
    return np.asarray(np.sqrt((np.abs(Y) ** 2).sum(axis=axis))), own


def _lowered(value: float, exponent: int) -> float:
    try:
        return math.ldexp(value, -exponent)
    except OverflowError:
        return math.inf


def frobenius(block: Any, exponent: int = 0) -> float:
    """Frobenius norm of ``2**-exponent block`` in float64; of a sum, a bound for its terms."""
    if isinstance(block, (SumBlock, SparseSum)):
        return block.norm(exponent)
    entries: Array = block.data if hasattr(block, "indptr") else block
    flat = entries.reshape(-1) if entries.flags.c_contiguous else entries.T.reshape(-1)
    own = math.frexp(peak(block))[1] if math.isfinite(peak(block)) else 0
    total = 0.0
    for start in range(0, flat.size, NORM_ENTRIES):
        part = flat[start : start + NORM_ENTRIES]
        for x in (part.real, part.imag) if part.dtype.kind == "c" else (part,):
            y = np.ldexp(x.astype(np.float64), -own)
            total += float(y @ y)
    return _lowered(math.sqrt(total), exponent - own)
