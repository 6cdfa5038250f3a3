"""Bounds of l_1 .. l_k: each step of the derivation, and the event they rest on."""

import numpy as np
import pytest

from bigspec.algorithms import TopLanczos
from bigspec.certificate import Relation, bound_leading, christoffel, right_coordinates
from bigspec.certificate.counting import (
    Windows,
    _low_part,
    counting_bound,
    lehmann_values,
    windows,
)
from bigspec.certificate.quantiles import column_quantile
from bigspec.certificate.ritz import half_steps
from tests.monte_carlo import TOP_CELLS, DiagonalPass, assert_failure_rate, simulate_top, states

pytestmark = pytest.mark.usefixtures("blas_of_a_run")

SPECTRA = {
    "1/i": 1 / np.arange(1, 301.0) ** 2,
    "pairs": np.repeat(0.8 ** np.arange(150.0), 2),
    "cluster of 6, then a gap": np.append(1 - 1e-4 * np.arange(6), np.linspace(0.5, 0.1, 294)),
    "slow": np.arange(1, 301.0) ** -0.5,
}
EACH = pytest.mark.parametrize("name", SPECTRA)


def relations(values, b=12, passes=6, seed=3):
    algorithm = TopLanczos(b, basis_bytes=1 << 30, count=8)
    return [s.relation for s in states(algorithm, DiagonalPass(values), seed, None, passes)]


@EACH
def test_lehmann_bounds_every_value_above_a_bound_of_the_next(name):
    values = SPECTRA[name]
    for relation in relations(values):
        for s in range(1, 12):
            tau, theta = values[s] * (1 + 1e-12), relation.theta
            if tau < theta[s - 1]:
                bounds = lehmann_values(relation, s, tau)
                assert np.all(bounds >= values[:s] * (1 - 1e-14))
                assert np.all(np.diff(bounds) <= 0)


def test_lehmann_is_quadratic_in_the_residual():
    values = SPECTRA["1/i"]
    excess, size = [], []
    for relation in relations(values)[1:4]:
        excess.append(lehmann_values(relation, 4, values[4])[0] - values[0])
        size.append(np.linalg.norm(relation.F[:4]))
        gap = relation.theta[3] - values[4]
        assert excess[-1] <= size[-1] ** 2 / gap + 1e-13
    assert excess[2] < 1e-3 * excess[0]


@EACH
def test_half_steps_lie_between_ritz_values_and_eigenvalues(name):
    for relation in relations(SPECTRA[name]):
        for kept in (8, 20, len(relation.theta)):
            if kept > np.count_nonzero(relation.theta > 1e-3):
                continue
            lower, coordinates = half_steps(relation, kept)
            assert np.all(lower <= SPECTRA[name][:kept] * (1 + 1e-13))
            assert np.all(lower[:8] >= relation.theta[:8] - 1e-10)
            assert coordinates.shape == (sum(relation.F.shape), kept)


@EACH
def test_coordinates_of_the_vectors_are_orthonormal(name):
    for relation in relations(SPECTRA[name]):
        c = right_coordinates(relation, 9)
        np.testing.assert_allclose(c.conj().T @ c, np.eye(9), atol=1e-13)


@EACH
def test_the_scan_evaluates_the_christoffel_function(name):
    for relation in relations(SPECTRA[name]):
        s, theta = 3, relation.theta
        if theta[2] - theta[3] < 1e-3:
            continue
        t, low = _low_part(relation, s, 2.0)
        exact = np.sqrt(christoffel(relation, t - theta[s], drop=s))  # by QR
        exact = np.maximum.accumulate(exact[::-1])[::-1]
        assert np.all(low >= exact * (1 - 1e-6) - 2 * relation.start_defect)
        assert np.all(low <= 1.001 * exact + 1e-5)


@EACH
def test_a_count_is_right_whenever_there_is_one(name):
    values = SPECTRA[name]
    event = windows(8, 300, 12, 1e-6)
    found = 0
    for relation in relations(values, passes=8):
        for s in range(1, min(14, len(relation.theta))):
            tau = counting_bound(relation, event, s, values[0] * 1.5)
            assert tau >= values[s] * (1 - 1e-12)
            found += np.isfinite(tau)
    assert found


def test_cuts_certify_what_one_interval_cannot():
    """A block of 6 has no window of 9 vectors; cut by cut it counts them all the same."""
    relation = relations(SPECTRA["1/i"], b=6, passes=12)[-1]
    event = windows(8, 300, 6, 1e-6)
    assert len(event.roots) == 3
    assert np.isfinite(counting_bound(relation, event, 8, 2.0))


def test_a_cluster_wider_than_the_windows_is_not_counted():
    values = SPECTRA["cluster of 6, then a gap"]
    relation = relations(values, b=12, passes=6)[-1]
    wide, narrow = windows(8, 300, 12, 1e-6), Windows(16, windows(8, 300, 12, 1e-6).roots[:4])
    assert counting_bound(relation, wide, 6, 2.0) < 0.9
    assert np.isinf(counting_bound(relation, narrow, 6, 2.0))


def test_event_spends_delta_on_windows_of_each_size():
    event = windows(5, 100, 10, 1e-3)
    assert (event.count, len(event.roots)) == (13, 7)
    assert event.roots[0] == pytest.approx(np.sqrt(column_quantile(1e-3 / 7 / 13, 10)))
    assert np.all(np.diff(event.roots) < 0)
    assert windows(5, 6, 10, 1e-3).count == 6


def test_zero_operator_without_facts():
    relation = Relation(np.zeros((4, 4)), np.zeros((0, 4)), np.eye(4), 0.0, orthonormal=True)
    bounds = bound_leading(relation, None, 3, 10, 1e-6, complex_=False)
    assert [u.values.tolist() for u in bounds.uppers] == [[0.0] * 3]
    assert bounds.lower.tolist() == [0.0] * 3


@pytest.mark.parametrize("cell", TOP_CELLS, ids=lambda cell: cell.name)
def test_event_fails_at_most_at_its_delta_and_bounds_only_with_it(cell):
    tally = simulate_top(cell, 0, 400)
    assert_failure_rate(tally.bare, 400, cell.delta, at_most=True)
    assert tally.whole <= tally.bare


def test_thresholds_too_large_are_caught(monkeypatch):
    cell = TOP_CELLS[0]
    tally = simulate_top(cell, 0, 60, factor=6.0, monkeypatch=monkeypatch, check_every=1)
    with pytest.raises(AssertionError, match="too often"):
        assert_failure_rate(tally.whole, 60, cell.delta, at_most=True)
