"""Coverage by Monte Carlo: the shipped algorithms on a small matrix, without Dask.

`DiagonalPass` stands in for `bigspec.passes.Pass`: ``H = Q diag(l) Q^H`` multiplied in memory, no
facts, so that only the probabilistic bounds remain. A *cell* is one setting; its runs differ in
the seed alone, which is the number of the run plus an offset that belongs to the cell.

A run fails if the bound is below l_1 at any pass: the worst pass. The certificate is a chain,
``||G^H x_1||^2 <= w(l_1)`` at every pass, and ``w(l_1) >= q`` implies ``tau_0 >= l_1``. So a run
whose start block has ``||G^H x_1||^2 >= q`` cannot fail, and nine of ten need no pass: whether they
may is known from G. The whole interval holds on the two events ``||G^H x_1||^2 >= q(delta/2)`` and
``sigma_min^2 >= q_r``, and it is treated alike. Each link of the chain is asserted in every run
that is made: those where an event fails, and a fixed share of the others.
"""

import zlib
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np

from bigspec.algorithms import Lanczos, Power, TopLanczos, iterates
from bigspec.certificate import christoffel, christoffel_bound
from bigspec.certificate.counting import windows
from bigspec.certificate.quantiles import column_quantile, smallest_singular_quantile

DELTA = 0.1
ROUNDING = 1e-9


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
        return {1: 8, 4: 16, 16: 36}[self.b]

    @property
    def passes(self):
        return {1: 4, 4: 3, 16: 2}[self.b]

    @property
    def values(self):
        return np.concatenate([[1.0], np.linspace(0.3, 0.01, self.n - 1)])

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
        return Lanczos(self.b, basis_bytes=0 if self.algorithm.endswith("3") else 1 << 30)


CELLS = [
    Cell(algorithm, complex_, b, warm)
    for algorithm in ("lanczos", "power")
    for complex_ in (False, True)
    for b in (1, 4, 16)
    for warm in (False, True)
]
CELLS.append(Cell("lanczos-3", False, 4, False))  # three blocks of memory, no basis


@dataclass(frozen=True)
class Tally:
    """Failures of the bare tau_0 and of the whole interval."""

    runs: int = 0
    bare: int = 0
    whole: int = 0

    def __add__(self, other):
        return Tally(self.runs + other.runs, self.bare + other.bare, self.whole + other.whole)


def binomial_sd(runs, delta):
    return np.sqrt(delta * (1 - delta) / runs)


def assert_failure_rate(failures, runs, delta, *, at_most=False):
    """Four binomial standard deviations, on both sides unless `at_most`."""
    rate, slack = failures / runs, 4 * binomial_sd(runs, delta)
    assert rate <= delta + slack, f"fails too often: {rate} for {delta} +- {slack}"
    assert at_most or rate >= delta - slack, f"fails too seldom: {rate} for {delta} +- {slack}"


def fresh(cell, entropy):
    """The cell's own matrix and start: a stand-in pass, W, and the leading eigenvectors."""
    return DiagonalPass(cell.values, complex_=cell.complex_), cell.start, np.eye(cell.n)


def states(algorithm, passes, entropy, start, count):
    """Yield the state after each of `count` passes, or until the algorithm is exhausted."""
    state = algorithm.init(passes, entropy, start)
    yield state
    for _ in range(count - 1):
        if state.exhausted:
            return
        state = algorithm.step(passes, state)
        yield state


def simulate(cell, first, count, *, setting=fresh, q_factor=1.0, check_every=10, bounds_every=200):
    """Make runs ``first .. first + count - 1`` of a cell.

    `setting` makes the matrix and the warm start from the run's entropy; a start may be a function
    that makes it, which is called where passes are made. `q_factor` multiplies the quantile of the
    bare bound (a mistake to be caught). One run of `check_every` is made though its events hold,
    and of one of `bounds_every` all bounds are computed.
    """
    total = Tally()
    for number in range(first, first + count):
        run = Run(cell, cell.offset + number, setting, q_factor)
        total += run.tally(number % check_every == 0, number % bounds_every == 0)
    return total


class Run:
    """One run of a cell, with all its passes."""

    def __init__(self, cell, entropy, setting, q_factor):
        self.cell, self.entropy = cell, entropy
        self.passes, self.start, self.X = setting(cell, entropy)
        self.l1 = float(self.passes.values.max())
        b, c = cell.b, cell.complex_
        self.q = q_factor * column_quantile(cell.delta, b, complex_=c)
        # The split of `upper_bounds`: half for tau_0, half for one joint event.
        self.r = min(4, b - 4) if b >= 6 else min(b, 2)
        self.q_whole = column_quantile(cell.delta / min(self.r, 2), b, complex_=c)

    def tally(self, check, check_bounds):
        algorithm, cell = self.cell.make(), self.cell
        bare = whole = False
        # Through the module, as the algorithms do: a test puts another draw there.
        G = iterates.draw_block(cell.n, cell.b, self.entropy, complex_=cell.complex_)
        at_start = np.linalg.norm(self.X[:, 0].conj() @ G) ** 2
        risky = self.joint_event_fails(G)
        if at_start >= max(self.q, self.q_whole) and not (risky or check or check_bounds):
            return Tally(1)
        start = self.start() if callable(self.start) else self.start
        for state in states(algorithm, self.passes, self.entropy, start, cell.passes):
            w = self.christoffel_at_top(state.relation)
            assert w >= at_start * (1 - ROUNDING), "no pass may lose a part of G's share of x_1"
            if not bare and (w < self.q or check_bounds):
                bare = christoffel_bound(state.relation, self.q) < self.l1
                assert w < self.q or not bare, "w(l_1) >= q must imply tau_0 >= l_1"
            if not whole and (w < self.q_whole or risky or check_bounds):
                bounds = algorithm.bounds(state, cell.delta, complex_=cell.complex_)
                assert bounds.lower <= self.l1 * (1 + 1e-14)
                whole = min(u.values[0] for u in bounds.uppers) < self.l1
                assert w < self.q_whole or risky or not whole, (
                    "both events hold: so must all bounds"
                )
        return Tally(1, int(bare), int(whole))

    def christoffel_at_top(self, relation):
        shift = self.l1 - relation.theta[:1]
        return christoffel(relation, shift)[0] if shift[0] > 0 else np.inf

    def joint_event_fails(self, G):
        cell, r = self.cell, self.r
        if r < 2:
            return False
        smallest = np.linalg.svd(G.conj().T @ self.X[:, :r], compute_uv=False)[-1]
        quantile = smallest_singular_quantile(cell.delta / 2, cell.b, r, complex_=cell.complex_)
        return smallest**2 < quantile


# Triplets: one event for the bounds of l_1 .. l_k -----------------------------------------------


@dataclass(frozen=True)
class TopCell:
    """One setting for k values: the first fall by a quarter each, the others slowly."""

    complex_: bool
    b: int
    k: int
    delta: float = DELTA

    @property
    def name(self):
        return f"svds-{'complex' if self.complex_ else 'real'}-b{self.b}-k{self.k}"

    @property
    def offset(self):
        return zlib.crc32(self.name.encode()) << 32

    @property
    def n(self):
        return 4 * (self.b + self.k)

    @property
    def values(self):
        head = 0.75 ** np.arange(self.k + 2)
        return np.concatenate([head, head[-1] * np.linspace(0.6, 0.05, self.n - self.k - 2)])


TOP_CELLS = [TopCell(False, 4, 2), TopCell(True, 4, 3), TopCell(False, 8, 5), TopCell(False, 12, 3)]


def event_fails(cell, event, entropy):
    """Whether a window of rows of G (X is the identity) has too small a singular value."""
    G = iterates.draw_block(cell.n, cell.b, entropy, complex_=cell.complex_)
    for size, root in enumerate(event.roots, start=1):
        stack = np.stack([G[first : first + size] for first in range(event.count - size + 1)])
        if np.linalg.svd(stack, compute_uv=False)[:, -1].min() < root * np.sqrt(size):
            return True
    return False


def simulate_top(cell, first, count, *, passes=3, factor=1.0, monkeypatch=None, check_every=50):
    """Tally runs: `bare` counts failures of the event, `whole` runs with a wrong bound.

    While the event holds, all bounds of all passes must: that is asserted, with `factor` = 1.
    Bounds are computed where the event fails, and on a fixed share of the other runs.
    """
    event = windows(cell.k, cell.n, cell.b, cell.delta, complex_=cell.complex_)
    algorithm = TopLanczos(cell.b, basis_bytes=1 << 30, count=cell.k)
    if factor != 1.0:  # a mistake to be caught
        wrong = replace(event, roots=factor * event.roots)
        monkeypatch.setattr("bigspec.certificate.bounds.windows", lambda *_, **__: wrong)
    total = Tally()
    for number in range(first, first + count):
        entropy = cell.offset + number
        fails, wrong_bound = event_fails(cell, event, entropy), False
        if fails or number % check_every == 0:
            stand_in = DiagonalPass(cell.values, complex_=cell.complex_)
            for state in states(algorithm, stand_in, entropy, None, passes):
                bounds = algorithm.bounds(state, cell.delta, complex_=cell.complex_)
                top = cell.values[: cell.k]
                assert np.all(bounds.lower <= top * (1 + 1e-14))
                wrong_bound |= any(np.any(u.values < top * (1 - 1e-14)) for u in bounds.uppers)
            assert fails or factor != 1.0 or not wrong_bound, "the event holds: so must all bounds"
        total += Tally(1, int(fails), int(wrong_bound))
    return total
