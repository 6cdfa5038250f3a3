"""The norms that all bounds of a stack rest on, each certified, on one failure probability.

First every bound says which norms it wants. Then their number is known, each gets the same share
of the failure probability, and they are computed one after the other. By the union bound all
intervals hold together, so that the least of the bounds may be chosen afterwards.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bigspec.api.norm import norm
from bigspec.certificate.rounding import UNIT_ROUNDOFF
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.networks.sharing import share
from bigspec.watch import Observer

__all__ = ["Factor", "FactorNorm", "Norms", "Settings"]

WEIGHT_ERROR = 4 * UNIT_ROUNDOFF  # of gamma / (variance + epsilon)^(1/2), relative


@dataclass(frozen=True)
class Settings:
    """How each norm is computed.

    Attributes
    ----------
    rtol, failure_probability : float
        The latter for all of them together.
    seed : int
    memory_limit : int or None
    observer : Observer
    """

    rtol: float
    failure_probability: float
    seed: int
    memory_limit: int | None
    observer: Observer


@dataclass(frozen=True)
class Factor:
    """A matrix of a chain.

    Attributes
    ----------
    matrix : Matrix
    label : str
    weights : int
        Rounded diagonal factors in it: of each batch normalisation one.
    """

    matrix: Matrix
    label: str
    weights: int = 0


@dataclass(frozen=True)
class FactorNorm:
    """One norm, and what it is of.

    Attributes
    ----------
    name : str
        The factors, as they are multiplied.
    shape : tuple of int
    scaled : bool
        Whether rows and columns of the chain carry the weights of the rescaling.
    lower, upper : float
    deterministic : bool
    passes : int
    algorithm : str
    frobenius : float or None
    rounding : float
    seconds : float
    """

    name: str
    shape: tuple[int, int]
    scaled: bool
    lower: float
    upper: float
    deterministic: bool
    passes: int
    algorithm: str
    frobenius: float | None
    rounding: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return dict(vars(self))


class Norms:
    """A list of norms, wanted first and computed later."""

    def __init__(self) -> None:
        self._chains: list[_Wanted] = []
        self._places: dict[tuple[int, ...], int] = {}
        self.results: list[FactorNorm] = []

    def __len__(self) -> int:
        return len(self._chains)

    def want(
        self, factors: Sequence[Factor], scaled: Sequence[Matrix] = (), stretch: float = 1.0
    ) -> int:
        """Ask for the norm of a chain, rightmost factor first, and return its number.

        Parameters
        ----------
        factors : sequence of Factor
        scaled : sequence of Matrix, optional
            The same chain between two diagonal matrices, which is meant then.
        stretch : float
            The product of the largest weights of these two.
        """
        if len(factors) > 1 or scaled:
            for factor in factors:  # the margins of rounded weights need them
                self.want([factor])
        key = tuple(id(matrix) for matrix in scaled or [factor.matrix for factor in factors])
        number = self._places.setdefault(key, len(self._chains))
        if number == len(self._chains):
            self._chains.append(_Wanted(factors, scaled, stretch))
        return number

    def compute(self, settings: Settings) -> None:
        """Compute all of them."""
        each = share(settings.failure_probability, len(self._chains))
        seeds = np.random.SeedSequence(settings.seed).spawn(len(self._chains))
        settings.observer.stage_started("norms", len(self._chains))
        # Those of single factors come first: margins of the others need them.
        order = sorted(range(len(self._chains)), key=lambda k: self._chains[k].compound)
        found: dict[int, FactorNorm] = {}
        began = time.monotonic()
        for done, k in enumerate(order, start=1):
            words = seeds[k].generate_state(4, np.uint32).tobytes()
            one = _norm(self._chains[k], settings, each, int.from_bytes(words, "little"))
            slack = self._slack(self._chains[k], found | {k: one})
            if slack:
                one = replace(one, lower=max(0.0, one.lower - slack), upper=one.upper + slack)
            found[k] = one
            settings.observer.stage_advanced(done, len(order), 0, time.monotonic() - began)
        self.results = [found[k] for k in range(len(order))]

    def _slack(self, wanted: _Wanted, found: dict[int, FactorNorm]) -> float:
        """Return how much the rounding of diagonal factors may change the norm of a chain.

        It changes entries, each relatively, by ``|E| <= u |W|``; and
        ``|| |W| || <= ||W||_F <= rank(W)^(1/2) ||W||``.
        """
        count = sum(factor.weights for factor in wanted.factors) + 2 * bool(wanted.scaled)
        if not count:
            return 0.0
        sizes = [found[self._places[id(factor.matrix),]].upper for factor in wanted.factors]
        rank = max(min(factor.matrix.shape) for factor in wanted.factors)
        entries = 1.01 * count * WEIGHT_ERROR * math.sqrt(rank)
        return entries * math.prod(sizes) * wanted.stretch

    def upper(self, number: int) -> float:
        """Return the upper end of a norm."""
        return self.results[number].upper

    @property
    def singles(self) -> list[FactorNorm]:
        """The norms of all single factors: rounding at points is bounded by them."""
        return [self.results[number] for key, number in self._places.items() if len(key) == 1]

    def single(self, matrix: Matrix) -> FactorNorm:
        """Return the norm of one factor."""
        return self.results[self._places[id(matrix),]]


@dataclass(frozen=True)
class _Wanted:
    factors: Sequence[Factor]
    scaled: Sequence[Matrix]
    stretch: float

    @property
    def compound(self) -> bool:
        return bool(self.scaled) or len(self.factors) > 1


def _norm(wanted: _Wanted, settings: Settings, each: float, entropy: int) -> FactorNorm:
    matrices = wanted.scaled or [factor.matrix for factor in wanted.factors]
    matrix = matrices[0]
    for factor in matrices[1:]:
        matrix = factor @ matrix
    est = norm(
        matrix,
        rtol=settings.rtol,
        failure_probability=each,
        seed=entropy,
        memory_limit=settings.memory_limit,
        right=False,
    )
    return FactorNorm(
        name=" @ ".join(factor.label for factor in reversed(wanted.factors)),
        shape=matrix.shape,
        scaled=bool(wanted.scaled),
        lower=est.lower,
        upper=est.upper,
        deterministic=est.deterministic,
        passes=est.passes,
        algorithm=est.algorithm,
        frobenius=est.frobenius,
        rounding=est.rounding if isinstance(matrix, OperatorMatrix) else 0.0,
        seconds=est.seconds,
    )
