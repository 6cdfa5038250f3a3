"""Errors of the entries of a product's factors, which the dot test cannot see.

If a factor is a sum, or has integers that float64 cannot hold, its entries are rounded the same
way in every read. ``V^H (H V) = (K V)^H (K V)`` then holds for another matrix K. With factors
``M_i + E_i`` in place of ``M_i``, ``||E_i|| <= e_i``, the product is off by

    ||dK|| <= sum_i e_i prod_{j != i} (||M_j|| + e_j),    ||dH|| <= 2 ||K|| ||dK|| + ||dK||^2.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from bigspec.algorithms import iterates
from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.expressions import Combination, Part, Product, Stack
from bigspec.kernels import working_dtype
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.passes.products.factors import Cost, Factor

__all__ = ["entries_error"]

Array = np.ndarray[Any, Any]

LAMBDA = 8.0  # of the rounding model
LARGEST_INTEGER = 2.0**53
UNDERESTIMATED = 2.0  # of an operator's norm, from a few products
BLOCK = 4
# Makes this stream differ from any that a user would draw a matrix from.
_STREAM = 0x656E7472696573


def entries_error(matrix: Product, limit: int, cost: Cost) -> tuple[float, float]:
    """Bound ``||dK||``, and the norm of the product by the norms of its factors.

    Reads each factor once if entries of any factor are rounded. The norm of an operator is an
    estimate.

    Parameters
    ----------
    matrix : Product
    limit : int
        Bytes that one process may hold.
    cost : Cost

    Returns
    -------
    error, norm : float
    """
    parts = list(_parts(matrix))
    if not any(_rounded(part) for part in parts):
        return 0.0, np.inf
    norms, errors = zip(*(_norm_and_error(part, limit, cost) for part in parts), strict=True)
    if not any(errors):
        return 0.0, np.inf
    larger = np.array(norms) + np.array(errors)
    error = sum(e * float(np.prod(np.delete(larger, i))) for i, e in enumerate(errors) if e)
    return float(error), float(np.prod(larger))


def _parts(matrix: Matrix) -> list[Matrix]:
    if isinstance(matrix, Product):
        return [*_parts(matrix.left), *_parts(matrix.right)]
    return [matrix]


def _rounded(matrix: Matrix) -> bool:
    """Whether reading may round the entries."""
    if isinstance(matrix, Combination):
        plain = len(matrix.terms) == 1 and matrix.factors is None
        return not (plain and matrix.terms[0].exact) or _rounded(matrix.terms[0].matrix)
    if isinstance(matrix, Part):
        return _rounded(matrix.matrix)
    if isinstance(matrix, Stack):
        return any(_rounded(member) for member in matrix.members)
    return matrix.dtype.kind in "iu" and matrix.dtype.itemsize > 4


def _norm_and_error(matrix: Matrix, limit: int, cost: Cost) -> tuple[float, float]:
    """Bound the 2-norms of a factor and of the error of its entries."""
    if isinstance(matrix, OperatorMatrix):
        V = _random_block(matrix.shape[1], complex_=matrix.dtype.kind == "c")
        Y = matrix.apply(V)
        Z = matrix.apply_adjoint(Y)
        sizes = [iterates.spectral_norm(block) for block in (V, Y, Z)]
        ratios = [b / a for a, b in pairwise(sizes) if a > 0]
        return UNDERESTIMATED * float(max(ratios, default=0.0)), 0.0
    factor = Factor.of(matrix, 1, limit, cost)
    facts, exponent = factor.facts(np.zeros((factor.length, 1), working_dtype(matrix.dtype)))
    norm = float(np.ldexp(np.sqrt(facts.absolute_norm_squared), exponent))
    if not _rounded(matrix):
        return norm, 0.0
    size = facts.magnitude_squared or facts.frobenius_squared
    largest = float(np.ldexp(facts.largest, exponent))
    if not facts.magnitude_squared and matrix.dtype.kind in "iu" and largest <= LARGEST_INTEGER:
        return norm, 0.0
    share = LAMBDA * (np.sqrt(_terms(matrix)) + 4.0) * UNIT_ROUNDOFF
    return norm, float(np.ldexp(share * np.sqrt(size), exponent))


def _random_block(n: int, *, complex_: bool) -> Array:
    generator = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(_STREAM,)))
    V = generator.standard_normal((n, BLOCK))
    return V + 1j * generator.standard_normal((n, BLOCK)) if complex_ else V


def _terms(matrix: Matrix) -> int:
    """Count the terms that are added up in one entry."""
    if isinstance(matrix, Combination):
        rank = 0 if matrix.factors is None else matrix.factors.U.shape[1]
        return rank + sum(_terms(term.matrix) for term in matrix.terms)
    if isinstance(matrix, Part):
        return _terms(matrix.matrix)
    return max(map(_terms, matrix.members)) if isinstance(matrix, Stack) else 1
