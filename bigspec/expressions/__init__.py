"""Matrices made of matrices, lazily: ``A - B``, ``2 * A``, ``A.H``, ranges, stacks, low rank.

A panel of an expression reads what it needs of every operand, once; the sum itself is made
where it is multiplied, a tile at a time.
"""

from bigspec.expressions.combination import Combination, total
from bigspec.expressions.low_rank import centered_by, low_rank
from bigspec.expressions.operators import adjoint, multiple, scaled
from bigspec.expressions.parts import Part, Stack, part, stack
from bigspec.expressions.product import Product, product

__all__ = [
    "Combination",
    "Part",
    "Product",
    "Stack",
    "adjoint",
    "centered_by",
    "low_rank",
    "multiple",
    "part",
    "product",
    "scaled",
    "stack",
    "total",
]
