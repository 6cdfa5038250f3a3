"""The upper end of a stack: which norms its bounds need, and what they give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.convolutions import Convolution
from bigspec.networks.lipschitz.bounds import Spread, cover, one_sign, product, recursion, spread
from bigspec.networks.lipschitz.norms import Factor, Norms
from bigspec.networks.lipschitz.rescaling import DENSE, Action, action, find_weights
from bigspec.networks.lipschitz.stack import Branches, Stack
from bigspec.networks.lipschitz.steps import Linear, Scaling, Step, scaled_columns, scaled_rows

__all__ = ["Bound", "Search", "UpperEnds"]

Array = np.ndarray[Any, Any]
WHOLE = 5  # matrices up to which every chain is taken
DIVISION = 1 + 2.0**-50  # the weights and their reciprocals are rounded


@dataclass(frozen=True)
class Bound:
    """One upper end.

    Attributes
    ----------
    name : str
        ``"product"``, ``"recursion"``, ``"rescaled product"``, ``"rescaled recursion"`` or
        ``"one sign"``.
    upper : float
    norms : tuple of int
        The norms that it rests on, by their places in the list of all; of branches, all of theirs.
    """

    name: str
    upper: float
    norms: tuple[int, ...]


@dataclass(frozen=True)
class Search:
    """Which bounds are tried.

    Attributes
    ----------
    window : int
        Most matrices in a chain; 0 for all of a stack of up to `WHOLE`, else three.
    rescale : bool
    seed : int
        Of the search for weights.
    """

    window: int
    rescale: bool
    seed: int


class UpperEnds:
    """All upper ends of one stack.

    Parameters
    ----------
    stack : Stack
    norms : Norms
        Is asked for what the bounds need; they are evaluated once it has computed.
    search : Search
    """

    def __init__(self, stack: Stack, norms: Norms, search: Search) -> None:
        self.norms = norms
        slots = stack.slots
        self.between, self.m = slots.between, len(slots.matrices)
        self.branches = {
            id(step): [UpperEnds(branch, norms, search) for branch in step.branches]
            for step in slots.between
            if isinstance(step, Branches)
        }
        self.factors = [[_factor(step) for step in slot] for slot in slots.matrices]
        self.plain = self._chains(search, None)
        self.scaled: dict[tuple[int, int], float | int] | None = None
        self.whole: int | None = None
        actions = self._actions()
        if search.rescale:
            weights = find_weights(actions, self._ties(), search.seed)
            if any(w is not None for w in weights):
                self.scaled = self._chains(search, weights)
        elementwise = all(step.elementwise for step in self.between)
        there = [one for one in actions if one is not None]
        if elementwise and self.between and there and all(any(one.signs) for one in there):
            self.whole = norms.want([f for slot in self.factors for f in slot])

    def _actions(self) -> list[Action | None]:
        """Return the products of every matrix; of none where nothing stands between."""
        if not self.between:
            return [None] * self.m
        most = DENSE // max(sum(map(len, self.factors)), 1)
        return [action([f.matrix for f in slot], most) if slot else None for slot in self.factors]

    def _ties(self) -> list[int]:
        """Return where weights may stand: around what is elementwise, between two matrices.

        A convolution is one still, with its certain bound, if the positions of a channel share
        their weight.
        """
        found = []
        for k, step in enumerate(self.between):
            before, after = self.factors[k], self.factors[k + 1]
            if not (step.elementwise and before and after):
                found.append(0)
                continue
            left, right = before[-1].matrix, after[0].matrix
            shape: tuple[int, ...] = ()
            if isinstance(left, Convolution):
                shape = left.output_shape
            elif isinstance(right, Convolution):
                shape = right.input_shape
            found.append(math.prod(shape[1:]))
        return found

    def _chains(
        self, search: Search, weights: Sequence[Array | None] | None
    ) -> dict[tuple[int, int], float | int]:
        """Return for each chain (i, j) a number that is known, or the place of its norm."""
        filled = sum(bool(slot) for slot in self.factors)
        most = search.window or (WHOLE if filled <= WHOLE else 3)
        chains: dict[tuple[int, int], float | int] = {}
        same: dict[tuple[int, ...], float | int] = {}  # where identities stand at an end
        for i in range(1, self.m + 1):
            for j in range(i, self.m + 1):
                passing = all(_centre(step) for step in self.between[i - 1 : j - 1])
                slots = [k for k in range(i - 1, j) if self.factors[k]]
                if j == i or (passing and 1 < len(slots) <= most):
                    first = None if weights is None or i == 1 else weights[i - 2]
                    last = None if weights is None or j == self.m else weights[j - 1]
                    key = (*slots, id(first), id(last))
                    if key not in same:
                        factors = [factor for k in slots for factor in self.factors[k]]
                        same[key] = self._want(factors, first, last)
                    chains[i, j] = same[key]
        return chains

    def _want(
        self, factors: Sequence[Factor], first: Array | None, last: Array | None
    ) -> float | int:
        if not factors:
            return 1.0
        if first is None and last is None:
            return self.norms.want(factors)
        matrices, stretch = [factor.matrix for factor in factors], 1.0
        if first is not None:
            matrices[:1] = scaled_columns(matrices[0], 1.0 / first)
            stretch /= float(first.min())
        if last is not None:
            matrices[-1:] = scaled_rows(matrices[-1], last)
            stretch *= float(last.max())
        return self.norms.want(factors, matrices, stretch)

    def bounds(self) -> tuple[Bound, ...]:
        """Return all upper ends, the least one first."""
        spreads: list[Spread] = []
        below: set[int] = set()
        for step in self.between:
            inner = self.branches.get(id(step))
            if inner is None:
                spreads.append(spread(step.low, step.high))
                continue
            best = [branch.bounds()[0] for branch in inner]
            assert isinstance(step, Branches)
            spreads.append(step.spread([bound.upper for bound in best]))
            below.update(place for bound in best for place in bound.norms)
        found = self._pair("", self.plain, spreads, below)
        if self.scaled is not None:
            found += self._pair("rescaled ", self.scaled, spreads, below)
        if self.whole is not None:
            value = one_sign(spreads, self.norms.upper(self.whole))
            found.append(Bound("one sign", value, (self.whole,)))
        return tuple(sorted(found, key=lambda bound: bound.upper))

    def _pair(
        self,
        word: str,
        chains: dict[tuple[int, int], float | int],
        spreads: Sequence[Spread],
        below: set[int],
    ) -> list[Bound]:
        known = {
            ends: self.norms.upper(value) * (DIVISION if word else 1.0)
            if isinstance(value, int)
            else value
            for ends, value in chains.items()
        }
        places = {ends: value for ends, value in chains.items() if isinstance(value, int)}
        alone = {value for (i, j), value in places.items() if i == j}
        chain = cover(known, self.m)
        if not spreads:
            return [Bound("norm", chain(1, 1), tuple(sorted(alone)))]
        found = [
            Bound(f"{word}product", product(spreads, chain), tuple(sorted(alone | below))),
        ]
        if any(s.centre for s in spreads):
            every = tuple(sorted(set(places.values()) | below))
            found.append(Bound(f"{word}recursion", recursion(spreads, chain), every))
        return [b if not math.isnan(b.upper) else Bound(b.name, math.inf, b.norms) for b in found]


def _centre(step: Step) -> float:
    """Return the centre of the slopes, which is known before any norm is."""
    if isinstance(step, Branches):
        return step.spread([0.0] * len(step.branches)).centre
    return spread(step.low, step.high).centre


def _factor(step: Linear | Scaling) -> Factor:
    weights = step.weights if isinstance(step, Linear) else step.rounded
    return Factor(step.matrix, step.label, weights)
