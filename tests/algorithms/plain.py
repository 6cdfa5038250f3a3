"""An algorithm as a third party would write it: power iteration, bounded by a norm alone."""

from dataclasses import dataclass, replace

import numpy as np

from bigspec.algorithms import StateType
from bigspec.algorithms.iterates import draw_block
from bigspec.certificate import Bounds, Facts, UpperBound, product_error


@dataclass(frozen=True)
class PlainState:
    passes: int
    exponent: int
    facts: Facts
    V: np.ndarray
    Z: np.ndarray
    exhausted: bool = False


@dataclass(frozen=True)
class Plain:
    name = "plain"
    blocks = 4
    states = (StateType(PlainState, "tests.Plain/1", "passes exponent facts V Z exhausted"),)
    block_size: int = 3

    def init(self, passes, entropy, start):
        b = min(self.block_size, passes.length)
        V = np.linalg.qr(draw_block(passes.length, b, entropy, complex_=passes.complex_))[0]
        result = passes.run(V)
        return PlainState(1, result.exponent, result.facts, V, result.Z)

    def step(self, passes, state):
        V = np.linalg.qr(state.Z)[0]
        result = passes.run(V, exponent=state.exponent)
        return replace(state, passes=state.passes + 1, V=V, Z=result.Z)

    def bounds(self, state, delta, *, complex_):
        theta, _ = self.ritz(state)
        eps = product_error(state.facts, *state.V.shape, complex_=complex_)
        upper = state.facts.frobenius_squared + state.facts.trace_error
        upper = UpperBound(np.array([upper]), "Frobenius", True)
        lower = np.array([max(theta[-1] - 2 * eps, 0.0)])
        return Bounds(lower, ("Ritz value",), (upper,), (float(theta[-1]),), eps)

    def ritz(self, state):
        T = state.V.conj().T @ state.Z
        return np.linalg.eigh((T + T.conj().T) / 2)

    def has_room(self, state):
        return True

    def vector(self, state):
        return state.V @ self.ritz(state)[1][:, -1]

    def leading(self, state, count):
        return state.V[:, :count]
