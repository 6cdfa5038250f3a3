"""Linear combinations of matrices: ``sum_t c_t diag(l_t) op(A_t) diag(r_t) + U W^H``, lazily.

Differences, multiples, adjoints, scalings and low-rank terms all have this one form, so an
expression of any depth is one sum, and a panel of it reads each operand's panel once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from bigspec.errors import ArgumentError, DataError, UnsupportedTypeError
from bigspec.expressions.reading import ask_ahead, common_grid, read_range
from bigspec.expressions.weights import weights_of
from bigspec.kernels.buffers import Buffers
from bigspec.kernels.sums import Factors, SparseSum, SumBlock, TermBlock, frobenius
from bigspec.matrices import SLAB_BYTES, Block, Grid, Matrix, OperatorMatrix, missing_as

__all__ = [
    "Combination",
    "Term",
    "adjoint",
    "as_combination",
    "combination",
    "multiple",
    "scaled",
    "total",
]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Term:
    """``scalar * diag(left) op(matrix) diag(right)``; op is the adjoint or nothing."""

    matrix: Matrix
    adjoint: bool = False
    scalar: complex = 1.0
    left: Array | None = field(default=None, repr=False, compare=False)
    right: Array | None = field(default=None, repr=False, compare=False)

    def axis(self, axis: int) -> int:
        """Return the axis of the operand that is this axis of the sum."""
        return 1 - axis if self.adjoint else axis

    @property
    def exact(self) -> bool:
        """Whether the entries of the term are those of the operand, up to a power of two."""
        plain = self.left is None and self.right is None and isinstance(self.scalar, float)
        power = plain and math.frexp(abs(self.scalar))[0] == 0.5
        wide = self.matrix.dtype.kind in "iu" and self.matrix.dtype.itemsize > 4
        return power and not wide and getattr(self.matrix, "exact", True)

    @property
    def text(self) -> str:
        """Its name in messages, without its sign."""
        size = -self.scalar if _negative(self.scalar) else self.scalar
        name = self.matrix.name + (".H" if self.adjoint else "")
        name = name if size == 1 else f"{size:g} * {name}"
        if self.left is not None or self.right is not None:
            name = f"scaled({name})"
        return name


@dataclass(frozen=True)
class Combination(Matrix):
    """A sum of terms, and of a term of low rank ``U W^H``.

    Attributes
    ----------
    terms : tuple of Term
    factors : Factors or None
        U (m, k) and W (n, k), in memory.
    """

    terms: tuple[Term, ...]
    factors: Factors | None = field(default=None, repr=False, compare=False)
    exact: bool = True

    @property
    def nbytes(self) -> int:
        """Bytes that one pass reads of all operands."""
        own = 0 if self.factors is None else self.factors.U.nbytes + self.factors.W.nbytes
        return max(1, sum(term.matrix.nbytes for term in self.terms) or own)

    @property
    def copied_nbytes(self) -> int:
        """Bytes that the terms copy."""
        return sum(term.matrix.copied_nbytes for term in self.terms)

    @property
    def carried_nbytes(self) -> int:
        """Bytes that the operands carry, the factors and the weights included."""
        parts = [] if self.factors is None else [self.factors.U, self.factors.W]
        parts += [w for term in self.terms for w in (term.left, term.right) if w is not None]
        carried = sum(term.matrix.carried_nbytes for term in self.terms)
        return carried + sum(part.nbytes for part in parts)

    @property
    def identity(self) -> dict[str, Any]:
        """The expression, and a digest of its operands' identities, multipliers and factors."""
        digest = hashlib.sha256()
        for term in self.terms:
            known = sorted((key, str(value)) for key, value in term.matrix.identity.items())
            digest.update(repr((known, term.adjoint, complex(term.scalar))).encode())
            for part in (term.left, term.right):
                digest.update(b"-" if part is None else np.ascontiguousarray(part).tobytes())
        for part in (self.factors.U, self.factors.W) if self.factors is not None else ():
            digest.update(np.ascontiguousarray(part).data)
        return {
            "where": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "chunks": [[grid.step, grid.count] for grid in self.grids],
            "token": digest.hexdigest()[:32],
        }

    @property
    def missing_as(self) -> str:
        """The value that missing entries count as, for all operands."""
        return missing_as(term.matrix for term in self.terms)

    @property
    def anywhere(self) -> tuple[bool, bool]:
        """Whether all operands may be read in any range of an axis."""
        rows, columns = (
            all(term.matrix.anywhere[term.axis(axis)] for term in self.terms) for axis in (0, 1)
        )
        return rows, columns

    def ahead(self, rows: slice, columns: slice, buffers: Buffers) -> None:
        """Request the rectangles that the terms read next."""
        for term in self.terms:
            ask_ahead(term.matrix, *((columns, rows) if term.adjoint else (rows, columns)), buffers)

    def ahead_nbytes(self, slab: int) -> int:
        """Bytes that all terms together request; none reads more than the slab."""
        return sum(term.matrix.ahead_nbytes(slab) for term in self.terms)

    def read(self, rows: slice, columns: slice, buffers: Buffers) -> Block:
        """Read the rectangle of every operand; the sum is made where it is multiplied."""
        blocks = [self._block(k, rows, columns, buffers) for k in range(len(self.terms))]
        factors = self.factors
        if factors is not None:
            factors = Factors(factors.U[rows], factors.W[columns])
        if blocks and all(_is_sparse(one.block) for one in blocks):
            return self._sparse_sum(blocks, factors)
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        return SumBlock(shape, self.dtype, tuple(blocks), factors, self.exact)

    def _block(self, number: int, rows: slice, columns: slice, buffers: Buffers) -> TermBlock:
        term = self.terms[number]
        ranges = (columns, rows) if term.adjoint else (rows, columns)
        with buffers.within(f"term{number}"):
            block = read_range(term.matrix, *ranges, buffers)
        left = None if term.left is None else term.left[rows]
        right = None if term.right is None else term.right[columns]
        return TermBlock(block, term.adjoint, term.scalar, left, right)

    def _sparse_sum(self, blocks: Sequence[TermBlock], factors: Factors | None) -> SparseSum:
        sums = [_sparse(one, self.dtype) for one in blocks]
        S, inner = sums[0]
        parts = [inner] if inner is not None else []
        for X, inner in sums[1:]:
            S = S + X
            parts += [inner] if inner is not None else []
        parts += [factors] if factors is not None else []
        read = sum(_bytes_read(one.block) for one in blocks)
        if len(parts) > 1:
            whole = [np.concatenate([getattr(p, side) for p in parts], axis=1) for side in "UW"]
            parts = [Factors(*whole)]
        terms = 0.0
        if not self.exact:
            terms = sum((one.bound * frobenius(one.block) for one in blocks), 0.0)
        return SparseSum(S, parts[0] if parts else None, read, terms)

    def chunk_at(self, row: int, column: int) -> str:
        """Name the place of an entry in every operand."""
        places = []
        for term in self.terms:
            place = (column, row) if term.adjoint else (row, column)
            places.append(f"{term.matrix.chunk_at(*place)} of {term.matrix.name}")
        return " and ".join(places) or "the factors in memory"

    def most_nbytes(self, axis: int, grid: Grid) -> int:
        """Bytes of all operands between two cuts of a grid, at most."""
        return sum(term.matrix.most_nbytes(term.axis(axis), grid) for term in self.terms)


def _is_sparse(block: Any) -> bool:
    return sp.issparse(block) or isinstance(block, SparseSum)


def _bytes_read(block: Any) -> int:
    if isinstance(block, SparseSum):
        return block.nbytes
    return int(block.data.nbytes + block.indices.nbytes + block.indptr.nbytes)


def _sparse(term: TermBlock, dtype: np.dtype[Any]) -> tuple[Any, Factors | None]:
    """Return a sparse term as a SciPy block, and the factors beside it."""
    block = term.block
    S, factors = (block.S, block.factors) if isinstance(block, SparseSum) else (block, None)
    S = S.astype(dtype)
    U, W = (None, None) if factors is None else (factors.U, factors.W)
    if term.adjoint:
        S, U, W = S.conj().T, W, U
    if term.scalar != 1:
        S = S * term.scalar
        U = None if U is None else U * term.scalar
    if term.left is not None:
        S = sp.diags_array(term.left) @ S
        U = None if U is None else U * term.left[:, None]
    if term.right is not None:
        S = S @ sp.diags_array(term.right)
        W = None if W is None else W * term.right[:, None].conj()
    return S, None if U is None or W is None else Factors(U, W)


def as_combination(matrix: Matrix) -> Combination:
    """Return the matrix as a sum of one term, or as it is."""
    if isinstance(matrix, Combination):
        return matrix
    if isinstance(matrix, OperatorMatrix):
        msg = (
            f"{matrix.name}: expected matrices with entries in an expression, got an operator or a "
            "product, whose rows cannot be read; combine operators with SciPy's own algebra (op - "
            "other, op.H) and pass the result"
        )
        raise UnsupportedTypeError(msg)
    return combination(matrix.shape, (Term(matrix),), None)


def combination(
    shape: tuple[int, int], terms: tuple[Term, ...], factors: Factors | None, name: str = ""
) -> Combination:
    """Build a sum. It reads at most the pointers of sparse stores beside dense chunks."""
    complex_ = any(
        part.dtype.kind == "c"
        for term in terms
        for part in (term.matrix, np.asarray(term.scalar), term.left, term.right)
        if part is not None
    ) or (factors is not None and np.iscomplexobj(factors.U[:0]) | np.iscomplexobj(factors.W[:0]))
    work = np.dtype(np.complex128 if complex_ else np.float64)
    grids = tuple(
        common_grid([(term.matrix, term.axis(axis)) for term in terms])
        if terms else Grid(shape[axis], 1) for axis in (0, 1)
    )  # fmt: skip
    alone = len(terms) == 1 and factors is None
    # Rounded once: a multiple of one term, or the difference of two exact ones.
    inner = all(getattr(term.matrix, "exact", True) for term in terms)
    exact = factors is None and (
        (alone and inner) or (len(terms) == 2 and all(term.exact for term in terms))
    )
    return Combination(
        shape,
        work,
        name or _name(terms, factors),
        (grids[0], grids[1]),
        terms,
        factors,
        exact,
        resident=all(term.matrix.resident for term in terms),
        **_memory(terms, (grids[0], grids[1])),
    )


def _memory(terms: Sequence[Term], grids: tuple[Grid, Grid]) -> dict[str, Any]:
    """Return the bytes of a task besides the operands' entries, and those of the largest cell."""
    axis = 0 if grids[0].count >= grids[1].count else 1
    uneven = any(term.matrix.cell_nbytes is not None for term in terms)
    most = sum(term.matrix.most_nbytes(term.axis(axis), grids[axis]) for term in terms)
    extra = 0
    for term in terms:
        matrix, own = term.matrix, term.axis(axis)
        extra += matrix.transient_nbytes
        if not matrix.anywhere[own] and matrix.grids[own] != grids[axis]:  # blocks to join, a tail
            share = matrix.most_nbytes(own, grids[axis])
            cell = matrix.most_nbytes(own, matrix.grids[own])
            extra += min(max(SLAB_BYTES, share), matrix.nbytes) + cell
    if uneven:  # for the sum of sparse blocks, and one of them in the working type
        extra += 4 * min(max(most, SLAB_BYTES), sum(term.matrix.nbytes for term in terms))
    return {"transient_nbytes": extra, "cell_nbytes": most if uneven else None}


def _name(terms: Sequence[Term], factors: Factors | None) -> str:
    text = ""
    for number, term in enumerate(terms):
        minus = _negative(term.scalar)
        text += (
            ("- " if minus else "") if number == 0 else (" - " if minus else " + ")
        ) + term.text
    if factors is not None:
        rank = factors.U.shape[1]
        text += f"{' + ' if text else ''}U W^H of rank {rank}"
    return f"({text})" if len(terms) + (factors is not None) > 1 else text


def _negative(scalar: complex) -> bool:
    return isinstance(scalar, float) and scalar < 0


def total(matrices: Sequence[Matrix]) -> Combination:
    """Add matrices of one shape.

    Raises
    ------
    DataError
        Shapes differ, or no common cut is possible.
    UnsupportedTypeError
        An operand is an operator.
    """
    sums = [as_combination(matrix) for matrix in matrices]
    shape = sums[0].shape
    for other in sums[1:]:
        if other.shape != shape:
            msg = (
                f"{sums[0].name} and {other.name.removeprefix('- ')}: expected one shape in a sum "
                f"or difference, got {shape} and {other.shape}; transpose one with .H, or take a "
                "range with A[rows, :]"
            )
            raise DataError(msg)
    terms = tuple(term for part in sums for term in part.terms)
    _check_cuts(terms)
    parts = [part.factors for part in sums if part.factors is not None]
    factors = None
    if parts:
        whole = [np.concatenate([getattr(part, side) for part in parts], axis=1) for side in "UW"]
        factors = Factors(*whole)
    return combination(shape, terms, factors)


def _check_cuts(terms: Sequence[Term]) -> None:
    """Refuse sparse stores if one can only be cut along rows, another only along columns."""
    stored: dict[int, str] = {}
    for term in terms:
        anywhere = term.matrix.anywhere
        if anywhere[0] != anywhere[1] and min(term.matrix.shape) > 1:
            stored[0 if anywhere[term.axis(0)] else 1] = term.text
    if len(stored) == 2:
        msg = (
            f"expected sparse matrices that are stored along one axis, got rows of {stored[0]} and "
            f"columns of {stored[1]}: each panel would read one of them whole. Convert one "
            "(bigspec convert --format csr or csc; .tocsr() or .tocsc() in memory)"
        )
        raise DataError(msg)


def multiple(matrix: Matrix, scalar: complex) -> Combination:
    """Multiply by a number."""
    if isinstance(scalar, (bool, np.bool_)) or not np.isscalar(scalar):
        msg = f"scalar: expected a number, got {type(scalar).__name__}"
        raise ArgumentError(msg)
    number: Any = scalar
    c: Any = complex(number) if np.iscomplexobj(number) else float(number)
    if not np.isfinite(c):
        msg = f"scalar: expected a finite number, got {scalar!r}"
        raise ArgumentError(msg)
    a = as_combination(matrix)
    factors = None if a.factors is None else Factors(c * a.factors.U, a.factors.W)
    return combination(a.shape, tuple(replace(t, scalar=t.scalar * c) for t in a.terms), factors)


def adjoint(matrix: Matrix) -> Combination:
    """Return ``A^H`` (the transpose of a real matrix)."""
    a = as_combination(matrix)

    def flipped(term: Term) -> Term:
        left, right = (None if part is None else part.conj() for part in (term.right, term.left))
        scalar = term.scalar.conjugate()
        return replace(term, adjoint=not term.adjoint, scalar=scalar, left=left, right=right)

    factors = None if a.factors is None else Factors(a.factors.W, a.factors.U)
    return combination(a.shape[::-1], tuple(map(flipped, a.terms)), factors)


def scaled(matrix: Matrix, rows: Array | None, columns: Array | None) -> Combination:
    """Return ``diag(rows) A diag(columns)``."""
    a = as_combination(matrix)
    name = f"scaled({matrix.name})"
    left, right = (weights_of(part, name, extent) for part, name, extent in (
        (rows, "rows", a.shape[0]), (columns, "columns", a.shape[1])))  # fmt: skip

    def both(one: Array | None, other: Array | None) -> Array | None:
        return other if one is None else one if other is None else one * other

    terms = tuple(replace(t, left=both(t.left, left), right=both(t.right, right)) for t in a.terms)
    factors = a.factors
    if factors is not None:
        U = factors.U if left is None else factors.U * left[:, None]
        W = factors.W if right is None else factors.W * right[:, None].conj()
        factors = Factors(U, W)
    return combination(a.shape, terms, factors, name)
