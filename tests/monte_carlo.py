"""Coverage by Monte Carlo: the shipped algorithms on a small matrix, without Dask.

`DiagonalPass` stands in for `bigspec.passes.Pass`: ``H = Q diag(l) Q^H`` multiplied in memory, no
facts, so that only the probabilistic bounds remain. A *cell* is one setting; its runs differ in
the seed alone, which is the number of the run plus an offset that belongs to the cell.

A run fails if the bound is below l_1 at any pass: the worst pass. Because ``w(l_1) >= q`` implies
``tau_0 >= l_1``, the scan for tau_0 is made only where ``w(l_1) < q``; and because the whole
interval holds on the two events ``w(l_1) >= q(delta/2)`` and ``sigma_min^2 >= q_r``, all bounds
are computed only where one of them fails. Both shortcuts are checked on a fixed share of the
other runs.
"""

import zlib
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np

from bigspec.algorithms import Lanczos, Power
from bigspec.certificate import christoffel, christoffel_bound
from bigspec.dense import gaussian_block
from bigspec.quantiles import column_quantile, smallest_singular_quantile

DELTA = 0.1


class DiagonalPass:
    """``H = Q diag(values) Q^H``; Q is the identity unless given."""

    def __init__(self, values, *, complex_=False, Q=None, facts=None):
        self.values = np.asarray(values, float)[:, None]
        self.length, self.complex_, self.Q, self.facts = len(values), complex_, Q, facts
        self.depth = float(len(values))

    def multiply(self, V):
        if self.Q is None:
            return self.values * V
        return self.Q @ (self.values * (self.Q.conj().T @ V))

    def run(self, V, *, exponent=None):
        first = exponent is None
        return SimpleNamespace(
            Z=self.multiply(V), defect=1e-16, exponent=0, facts=self.facts if first else None
        )


@dataclass(frozen=True)
class Cell:
    """One setting of the simulation.

    The top eigenvalue is simple and well separated, so that ``w(l_1)`` comes close to
    ``||G^H x_1||^2`` in the few passes made, and the bare bound fails as often as it may.
    """

    algorithm: str
    complex_: bool
    b: int
    warm: bool
    delta: float = DELTA

    @property
    def name(self):
        kind = "complex" if self.complex_ else "real"
        return f"{self.algorithm}-{kind}-b{self.b}-{'warm' if self.warm else 'cold'}"

    @property
    def offset(self):
        return zlib.crc32(self.name.encode()) << 32

    @property
    def n(self):
        return {1: 8, 4: 16, 16: 40}[self.b]

    @property
    def passes(self):
        return {1: 5, 4: 3, 16: 2}[self.b] + (self.algorithm == "power")

    @property
    def values(self):
        return np.concatenate([[1.0], np.linspace(0.05, 0.001, self.n - 1)])

    @property
    def start(self):
        if not self.warm:
            return None
        W = np.zeros((self.n, 2))
        W[:, 0], W[-1, 1] = 0.3 / np.sqrt(self.n), 1.0  # a rough guess of x_1 and a useless one
        W[0, 0] = 1.0
        return W

    def make(self):
        if self.algorithm == "power":
            return Power(self.b)
        return Lanczos(self.b, basis_bytes=1 << 30)


CELLS = [
    Cell(algorithm, complex_, b, warm)
    for algorithm in ("lanczos", "power")
    for complex_ in (False, True)
    for b in (1, 4, 16)
    for warm in (False, True)
]


@dataclass
class Tally:
    """Failures of the bare tau_0 and of the whole interval."""

    runs: int = 0
    bare: int = 0
    whole: int = 0
    checked: int = 0
    close: list = field(default_factory=list)

    def __add__(self, other):
        return Tally(*(getattr(self, k) + getattr(other, k) for k in self.__dataclass_fields__))


def states(algorithm, passes, entropy, start, count):
    """Yield the state after each of `count` passes, or until the algorithm is exhausted."""
    state = algorithm.init(passes, entropy, start)
    yield state
    for _ in range(count - 1):
        if state.exhausted:
            return
        state = algorithm.step(passes, state)
        yield state


def bare_fails(relation, l1, q, *, check=False):
    """Whether tau_0 < l_1, by the scan where ``w(l_1) < q`` and where asked to check."""
    shift = l1 - relation.theta[0]
    if shift <= 0:
        return False
    small = christoffel(relation, np.array([shift]))[0] < q
    if not (small or check):
        return False
    fails = christoffel_bound(relation, q) < l1
    assert small or not fails, "w(l_1) >= q must imply tau_0 >= l_1"
    return fails


def whole_fails(algorithm, state, l1, delta, complex_):
    """Whether any of the shipped upper bounds is below l_1."""
    bounds = algorithm.bounds(state, delta, complex_=complex_)
    assert bounds.lower <= l1 * (1 + 1e-14)  # rounding of l1 = 1 itself is 0
    return min(u.value for u in bounds.uppers) < l1


def simulate(cell, first, count, *, check_every=20, q_factor=1.0):
    """Simulate runs ``first .. first + count - 1`` of a cell."""
    algorithm, passes, start = cell.make(), cell.problem, cell.start
    l1, b, delta = 1.0, cell.b, cell.delta
    return passes, algorithm, start, l1, b, delta, first, count, check_every, q_factor
