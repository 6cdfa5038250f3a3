"""What small nodes of a graph compute of one value, as a sum of its powers times functions of it.

Two ways of writing the same function become the same formula: `0.5 x (1 + erf(x))` and
`0.5 x + 0.5 x erf(x)`. Coefficients are multiplied in float64 and compared exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Applied", "Formula", "Unclear", "X", "constant_formula"]

MOST_TERMS, MOST_DEPTH = 24, 8


class Unclear(Exception):  # noqa: N818 - never leaves the walk over a graph
    """A formula is none that is written here, or longer than any that is known."""


@dataclass(frozen=True)
class Applied:
    """A function of a formula: ``tanh``, ``("power", -0.5)``, ``("mean", axes)``."""

    name: str
    parameters: tuple[float, ...]
    inner: Formula


Monomial = tuple[int, tuple[Applied, ...]]


@dataclass(frozen=True)
class Formula:
    """A sum of powers of x, each times functions of x.

    Attributes
    ----------
    terms : tuple of (power, functions, coefficient)
        In one order, so that equal sums are equal.
    eps : float
        The coarsest rounding of the constants in it.
    """

    terms: tuple[tuple[int, tuple[Applied, ...], float], ...]
    eps: float = field(default=0.0, compare=False)

    @property
    def table(self) -> dict[Monomial, float]:
        """Coefficients by what they stand before."""
        return {(power, functions): c for power, functions, c in self.terms}

    @property
    def depth(self) -> int:
        """How many functions stand in one another."""
        return max((1 + f.inner.depth for _, fs, _ in self.terms for f in fs), default=0)

    def __add__(self, other: Formula) -> Formula:
        total = self.table
        for key, c in other.table.items():
            total[key] = total.get(key, 0.0) + c
        return _made(total, max(self.eps, other.eps))

    def __mul__(self, other: Formula) -> Formula:
        total: dict[Monomial, float] = {}
        for (p, f), c in self.table.items():
            for (q, g), d in other.table.items():
                key = (p + q, tuple(sorted(f + g, key=repr)))
                total[key] = total.get(key, 0.0) + c * d
        return _made(total, max(self.eps, other.eps))

    def times(self, number: float, eps: float = 0.0) -> Formula:
        """Multiply by a number."""
        return self * constant_formula(number, eps)

    def plus(self, number: float, eps: float = 0.0) -> Formula:
        """Add a number."""
        return self + constant_formula(number, eps)

    def power(self, exponent: float) -> Formula:
        """Raise to a whole number, to 1/2 or to -1/2.

        Raises
        ------
        Unclear
            To another one.
        """
        if exponent in (2.0, 3.0):
            return self * self if exponent == 2.0 else self * self * self
        if exponent in (0.5, -0.5):
            return self.applied("power", exponent)
        if exponent == -1.0:
            return self.inverse()
        raise Unclear

    def applied(self, name: str, *parameters: float) -> Formula:
        """Apply a function; ``log(1 + exp(f))`` is softplus of f."""
        if name == "log":
            inner = self._one_and_exp()
            if inner is None:
                raise Unclear
            return inner.applied("softplus")
        if self.depth >= MOST_DEPTH:
            raise Unclear
        return _made({(0, (Applied(name, parameters, self),)): 1.0}, self.eps)

    def inverse(self) -> Formula:
        """Divide 1 by it: a number, a root, or ``1 + exp(f)``, whose inverse is the sigmoid of -f.

        Raises
        ------
        Unclear
            It is none of these.
        """
        inner = self._one_and_exp()
        if inner is not None:
            return inner.times(-1.0).applied("sigmoid")
        if len(self.terms) == 1:
            power, functions, c = self.terms[0]
            if not power and not functions:
                return constant_formula(1 / c, self.eps)
            if power == 0 and len(functions) == 1 and functions[0].name == "power":
                f = functions[0]
                return f.inner.applied("power", -f.parameters[0]).times(1 / c)
        raise Unclear

    def _one_and_exp(self) -> Formula | None:
        """Return f of ``1 + exp(f)``."""
        rest = [functions for power, functions, c in self.terms if (power, c) == (0, 1.0)]
        if len(self.terms) != 2 or len(rest) != 2 or rest[0]:
            return None
        f = rest[1]
        return f[0].inner if len(f) == 1 and f[0].name == "exp" else None

    def of(self, inner: Formula) -> Formula:
        """Return it with another formula in the place of x."""
        total = _made({}, max(self.eps, inner.eps))
        for power, functions, c in self.terms:
            part = constant_formula(c, 0.0)
            for _ in range(power):
                part = part * inner
            for f in functions:
                part = part * f.inner.of(inner).applied(f.name, *f.parameters)
            total = total + part
        return total


def constant_formula(number: float, eps: float) -> Formula:
    """Return a number as a formula."""
    return _made({(0, ()): float(number)}, eps)


def _made(table: Mapping[Monomial, float], eps: float) -> Formula:
    terms = [(power, functions, c) for (power, functions), c in table.items() if c]
    if len(terms) > MOST_TERMS or not np.isfinite([c for *_, c in terms]).all():
        raise Unclear
    return Formula(tuple(sorted(terms, key=lambda term: (term[0], repr(term[1])))), eps)


X = Formula(((1, (), 1.0),))
"""The value itself."""
