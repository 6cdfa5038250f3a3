"""The certificate fails as often as it says, and what voids it is noticed."""

import numpy as np
import pytest

from bigspec.algorithms import Lanczos
from tests.monte_carlo import (
    CELLS,
    Cell,
    DiagonalPass,
    assert_failure_rate,
    fresh,
    simulate,
    states,
)

pytestmark = pytest.mark.usefixtures("blas_of_a_run")

RUNS = 1000  # benchmarks/coverage.py makes 200 000


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_bare_bound_fails_at_its_delta_and_the_interval_at_most(cell):
    runs = RUNS if cell.b < 16 else 500
    tally = simulate(cell, 0, runs)
    assert_failure_rate(tally.bare, runs, cell.delta)
    assert_failure_rate(tally.whole, runs, cell.delta, at_most=True)


def test_rademacher_start_is_caught(monkeypatch):
    # x_1 = (e_1 - e_2) / sqrt 2: a single column of signs is orthogonal to it half of the time.
    runs, cell = 1000, Cell("lanczos", False, 1, False)
    Q = np.eye(cell.n)
    Q[:2, :2] = np.array([[1, 1], [-1, 1]]) / np.sqrt(2)

    def setting(cell, entropy):
        return DiagonalPass(cell.values, Q=Q), None, Q

    tally = simulate(cell, 0, runs, setting=setting)
    assert_failure_rate(tally.bare, runs, cell.delta)

    def signs(n, b, entropy, *, complex_):
        return np.random.default_rng(entropy).choice([-1.0, 1.0], (n, b))

    monkeypatch.setattr("bigspec.algorithms.iterates.draw_block", signs)
    tally = simulate(cell, 0, runs, setting=setting)
    with pytest.raises(AssertionError, match="too often"):
        assert_failure_rate(tally.bare, runs, cell.delta)


@pytest.mark.parametrize("algorithm", ["lanczos", "power"])
@pytest.mark.parametrize("b", [1, 4, 16])
def test_quantile_four_times_too_large_is_caught(algorithm, b):
    runs, cell = {1: 500, 4: 200, 16: 100}[b], Cell(algorithm, False, b, False)
    tally = simulate(cell, 0, runs, q_factor=4.0)
    with pytest.raises(AssertionError, match="too often"):
        assert_failure_rate(tally.bare, runs, cell.delta)


def test_quantile_four_times_too_small_is_caught():
    cell = Cell("lanczos", False, 4, False)
    tally = simulate(cell, 0, 500, q_factor=0.25)
    with pytest.raises(AssertionError, match="too seldom"):
        assert_failure_rate(tally.bare, 500, cell.delta)


def old_run(cell, entropy, passes=2):
    """The last state of a run of the same seed on the cell's own matrix."""
    *_, state = states(
        Lanczos(cell.b, 1 << 30), fresh(cell, entropy)[0], entropy, cell.start, passes
    )
    return state


def same_matrix(cell, entropy):
    """The vector that a run of the same seed on the same matrix found is the warm start."""
    passes, _, X = fresh(cell, entropy)
    return passes, lambda: Lanczos(cell.b).vector(old_run(cell, entropy))[:, None], X


def residual_matrix(cell, entropy, *, warm=False):
    """The error ``A - A V V^H`` of the low-rank approximation that a run of the same seed found."""
    V = np.concatenate(old_run(cell, entropy).basis, axis=1)
    outside = np.eye(cell.n) - V @ V.conj().T
    values, X = np.linalg.eigh(outside @ (cell.values[:, None] * outside))
    passes = DiagonalPass(values[::-1], complex_=cell.complex_, Q=X[:, ::-1])
    return passes, V[:, :2] if warm else None, X[:, ::-1]


REUSED = [Cell("lanczos", False, 1, False), Cell("lanczos", True, 4, False)]
REUSED += [Cell("power", True, 1, False), Cell("power", False, 4, False)]


@pytest.mark.parametrize("cell", REUSED, ids=lambda cell: cell.name)
def test_seed_reused_on_the_same_matrix_with_its_vector_as_warm_start_is_harmless(cell):
    # ||G^H x_1||^2 <= w(l_1) holds for any W, one that depends on G included, and x_1 does not
    # depend on G: the event and its probability are the same as for a fresh W.
    tally = simulate(cell, 0, RUNS, setting=same_matrix)
    assert_failure_rate(tally.bare, RUNS, cell.delta)
    assert_failure_rate(tally.whole, RUNS, cell.delta, at_most=True)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("b", [1, 4])
def test_seed_reused_on_a_matrix_made_with_it_is_caught(b, warm):
    cell = Cell("lanczos", False, b, warm)
    runs = 200

    def setting(cell, entropy):
        return residual_matrix(cell, entropy, warm=warm)

    def other_seed(cell, entropy):
        return residual_matrix(cell, entropy + 1, warm=warm)

    tally = simulate(cell, 0, runs, setting=setting)
    with pytest.raises(AssertionError, match="too often"):
        assert_failure_rate(tally.bare, runs, cell.delta)
    tally = simulate(cell, 0, runs, setting=other_seed)
    assert_failure_rate(tally.bare, runs, cell.delta, at_most=True)
