"""The mathematics of the certificate, on relations made by the shipped algorithms."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.sparse.linalg import aslinearoperator

import bigspec
from bigspec.algorithms import Gram, Lanczos, Power
from bigspec.algorithms.iterates import draw_block, rank_revealing_qr
from bigspec.certificate import (
    Relation,
    at_rounding_floor,
    bordered_frobenius,
    christoffel,
    christoffel_bound,
    collatz_wielandt,
    exact_crossing,
    half_step,
    joint_bounds,
    lehmann,
    upper_bounds,
)
from bigspec.certificate.quantiles import column_quantile, smallest_singular_quantile
from bigspec.run import Known
from tests.algorithms.dense import DensePass, gaussian, with_spectrum
from tests.monte_carlo import DiagonalPass, states

pytestmark = pytest.mark.usefixtures("blas_of_a_run")

EPS = np.finfo(float).eps


DTYPES = pytest.mark.parametrize("complex_", [False, True], ids=["real", "complex"])


# --- the relation -------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_power_iterates_are_tied_to_the_start_through_the_powers(warm, complex_):
    rng = np.random.default_rng(2)
    passes = DensePass(with_spectrum(rng, np.arange(1, 31) ** -0.5, complex_))
    H = passes.A.conj().T @ passes.A
    values, X = np.linalg.eigh(H)
    W = gaussian(rng, 30, 2, complex_) if warm else None
    G = draw_block(30, 4, 6, complex_=complex_)
    for state in states(Power(4), passes, 6, W, 8):
        relation = state.relation
        carried = np.exp(relation.log_scale) * relation.start @ (state.V.conj().T @ X[:, -1])
        expected = values[-1] ** relation.power * (G.conj().T @ X[:, -1])
        # Rounding of at most eight products of norm one, on numbers of the size of G.
        np.testing.assert_allclose(carried, expected, atol=1e-13 * np.linalg.norm(G))


@DTYPES
@pytest.mark.parametrize("algorithm", [Lanczos(4, 1 << 30), Lanczos(4, 0), Power(4)], ids=repr)
def test_w_is_at_least_the_start_component_of_every_eigenvector_above_theta(algorithm, complex_):
    rng = np.random.default_rng(3)
    passes = DensePass(with_spectrum(rng, np.linspace(1, 0.2, 30), complex_))
    values, X = np.linalg.eigh(passes.A.conj().T @ passes.A)
    for entropy in range(20):
        G = draw_block(30, 4, entropy, complex_=complex_)
        for state in states(algorithm, passes, entropy, None, 4):
            relation = state.relation
            for i in range(4):
                theta = relation.theta[i]
                for t, x in zip(values, X.T, strict=True):
                    if t > theta * (1 + 1e-9):
                        w = christoffel(relation, np.array([t - theta]), drop=i)[0]
                        if i == 0:
                            assert np.linalg.norm(G.conj().T @ x) ** 2 <= w * (1 + 1e-9)
            if not state.exhausted:
                assert relation.theta[0] <= values[-1] + 2 * relation.eps


# --- upper bounds -------------------------------------------------------------------------


def relations(count, b=4, n=30, passes=3):
    """Relations of random spectra, with G and the eigenvectors."""
    for entropy in range(count):
        rng = np.random.default_rng(entropy)
        values = np.sort(rng.random(n) ** 2)[::-1]
        stand_in = DiagonalPass(values / values[0])
        *_, state = states(Lanczos(b, 1 << 30), stand_in, entropy, None, passes)
        yield state.relation, stand_in.values[:, 0], draw_block(n, b, entropy)


def test_scan_and_exact_crossing_agree_to_one_percent_of_the_width():
    compared = 0
    for delta in (1e-2, 1e-6):
        for relation, _, _ in relations(60):
            relation, q = replace(relation, eps=0.0), column_quantile(delta, 4)
            tau, top = christoffel_bound(relation, q), relation.theta[0]
            if tau / top - 1 > 1e-7:
                compared += 1
                assert exact_crossing(relation, q) - top == pytest.approx(tau - top, rel=0.01)
    assert compared > 60


def test_last_crossing_is_found_where_w_is_not_monotone():
    # The parts of two Ritz pairs cancel at some distance from theta_1: there w falls to nearly
    # nothing, and rises again by a factor of hundreds beyond.
    start = np.array([[5.4, -2.5], [-0.7, 0.4]])
    B = np.array([[0.01, 0.13], [-0.01, -0.13]])
    relation = Relation(np.diag([1.0, 0.96]), B, start, 0.0, orthonormal=True)
    shift = np.geomspace(1e-3, 1e2, 20_001)
    w = christoffel(relation, shift)
    valley = np.flatnonzero((w[1:-1] < w[:-2]) & (w[1:-1] < w[2:]))[0] + 1
    hill = w[valley:].max()
    assert hill > 100 * w[valley]
    q = hill / 10
    last = np.flatnonzero(w >= q)[-1]
    assert valley < last
    tau = christoffel_bound(relation, q)
    assert tau >= 1 + shift[last]
    assert tau - 1 == pytest.approx(shift[last], rel=2e-3)


@pytest.mark.parametrize("b", [4, 8])
def test_every_tau_bounds_its_eigenvalue_on_the_event(b):
    r, held = 4, 0
    for relation, values, G in relations(150, b=b):
        q = smallest_singular_quantile(0.2, b, r)
        smallest = np.linalg.svd(G[:r], compute_uv=False)[-1]
        if smallest**2 >= q:
            held += 1
            taus = joint_bounds(relation, q, r)
            assert len(taus) == r - 1
            assert all(values[i + 1] <= tau for i, tau in enumerate(taus))
    assert held > 100


def test_tau_of_the_actual_start_component_is_sharp():
    # At q = ||G^H x_1||^2 itself the bound must hold, and be nearly attained for a gapped top.
    for entropy in range(50):
        values = np.concatenate([[1.0], np.linspace(0.5, 0.1, 29)])
        *_, state = states(Lanczos(4, 1 << 30), DiagonalPass(values), entropy, None, 4)
        q = np.linalg.norm(draw_block(30, 4, entropy)[0]) ** 2
        tau, theta = christoffel_bound(state.relation, q * (1 - 1e-9)), state.relation.theta[0]
        assert tau >= 1.0
        assert tau - theta <= 1.2 * (1.0 - theta) + 1e-12


@pytest.mark.parametrize("excess", [0.0, 1e-12, 1e-3, 0.3, 0.9])
def test_lehmann_holds_for_every_valid_tau(excess):
    tried = 0
    for relation, values, _ in relations(100, b=8, passes=2):
        for s in (1, 2, 3):
            floor, roof = max(values[s], relation.theta[s]), relation.theta[s - 1]
            tau = floor + excess * (roof - floor)
            if floor < roof:
                bound = lehmann(relation, s, tau)
                tried += np.isfinite(bound)
                assert bound >= values[0]
    assert tried > 50


def test_lehmann_is_quadratic_in_the_residual():
    T = np.diag([1.0, 0.5])
    excess = []
    for size in (1e-2, 1e-3):
        relation = Relation(T, np.array([[size, size]]), np.ones((1, 2)), 0.0, orthonormal=True)
        excess.append(lehmann(relation, 1, 0.6) - 1.0)
    assert excess[0] / excess[1] == pytest.approx(100, rel=0.05)


def test_bordered_frobenius_holds_with_certainty():
    # Whatever the start: here even the worst, orthogonal to the leading vector.
    for entropy in range(60):
        rng = np.random.default_rng(entropy)
        A = with_spectrum(rng, rng.random(20) ** rng.integers(1, 6), bool(entropy % 2))
        passes = DensePass(A)
        l1 = np.linalg.norm(A, 2) ** 2
        x = np.linalg.svd(A)[2].conj().T[:, :1]
        S = gaussian(rng, 20, 3, passes.complex_)
        V = np.linalg.qr(S - x @ (x.conj().T @ S))[0]
        T = V.conj().T @ passes.run(V).Z
        V_plus, B, _ = rank_revealing_qr(passes.run(V).Z - V @ T, 0.0, 3)
        assert V_plus.shape == (20, 3)
        relation = Relation((T + T.conj().T) / 2, B, np.eye(3), 1e-14 * l1, orthonormal=True)
        assert bordered_frobenius(relation, passes.facts) >= l1


def test_frobenius_norm_of_equal_entries_is_not_undercut_by_rounding():
    # Sums of equal entries round one way: 0.7^2 summed 2^19 times comes out 4e-13 low, and the
    # norm of this matrix of rank one is its Frobenius norm.
    A = np.full((512, 1024), 0.7)
    passes = DensePass(A)
    passes.facts = replace(passes.facts, frobenius_squared=float(A.ravel() @ A.ravel()))
    l1 = 0.7 * 0.7 * A.size  # correct to two roundings
    (state,) = states(Lanczos(1, 1 << 30), passes, 1, None, 1)
    uppers = upper_bounds(state.relation, passes.facts, 1e-6)
    assert all(u.values[0] >= l1 * (1 - 2 * EPS) for u in uppers)


@pytest.mark.parametrize("b", [1, 4])
def test_collatz_wielandt_bounds_non_negative_matrices(b):
    finite = 0
    for entropy in range(30):
        A = np.random.default_rng(entropy).random((25, 15))
        passes, algorithm = DensePass(A), Lanczos(b, 1 << 30)
        l1 = np.linalg.norm(A, 2) ** 2
        for state in states(algorithm, passes, entropy, None, 4):
            assert state.collatz >= l1
            finite += np.isfinite(state.collatz)
        w = np.random.default_rng(entropy).random(15) + 0.01
        assert collatz_wielandt(w, A.T @ (A @ w), 0.0) >= l1
    assert finite > 30


def test_collatz_wielandt_says_nothing_without_a_positive_vector():
    assert collatz_wielandt(np.array([1.0, 0.0]), np.ones(2), 0.0) == np.inf


def test_mixed_signs_get_no_collatz_bound():
    A = np.random.default_rng(0).standard_normal((25, 15))
    (state,) = states(Lanczos(4, 1 << 30), DensePass(A), 0, None, 1)
    assert state.collatz == np.inf


def test_delta_is_split_the_same_way_whether_or_not_the_basis_is_kept():
    # A run may use Lehmann in one pass and not in the next; were tau_0 then given all of delta,
    # the two events together would have probability 1.5 delta.
    (state,) = states(Lanczos(8, 1 << 30), DiagonalPass(np.linspace(1, 0.1, 60)), 0, None, 1)
    relation = replace(state.relation, orthonormal=False)
    (bound,) = upper_bounds(relation, None, 1e-2)
    assert bound.values == christoffel_bound(relation, column_quantile(0.5e-2, 8))


# --- lower bounds -------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize("algorithm", [Lanczos(3, 1 << 30), Power(3)], ids=repr)
def test_half_step_lies_between_theta_and_sigma_and_its_vector_attains_it(algorithm, complex_):
    rng = np.random.default_rng(4)
    for power in (0.0, 0.5, 2.0, 6.0):
        passes = DensePass(with_spectrum(rng, np.arange(1, 26) ** -power, complex_))
        l1 = np.linalg.norm(passes.A, 2) ** 2
        for state in states(algorithm, passes, 7, None, 6):
            lower, y = half_step(state.relation)
            # Rounding of l_1 itself: an SVD is good to a few units in the last place.
            assert lower <= l1 * (1 + 8 * EPS)
            # Below theta only by what it is charged, of which the cut at one half takes least.
            least = state.relation.theta[0] / 2
            charge = 6 * state.relation.eps * state.relation.theta[0] / least
            assert lower >= state.relation.theta[0] - charge
            assert np.linalg.norm(y) == pytest.approx(1.0)
            v = algorithm.vector(state)
            assert np.linalg.norm(v) == pytest.approx(1.0)
            bounds = algorithm.bounds(state, 1e-6, complex_=complex_)
            assert np.linalg.norm(passes.A @ v) ** 2 >= bounds.lower * (1 - 8 * EPS)


def test_half_step_gains_most_at_the_first_pass():
    sigma = 1 / np.arange(1, 1001)
    state = Lanczos(16, 1 << 30).init(DiagonalPass(sigma**2), 0, None)
    lower, _ = half_step(state.relation)
    assert 1 - np.sqrt(state.relation.theta[0]) > 0.5
    assert 1 - np.sqrt(lower) < 0.02


# --- quantiles ----------------------------------------------------------------------------


@pytest.mark.parametrize("delta", [0.5, 1e-2, 1e-6, 1e-12])
@pytest.mark.parametrize("b", [1, 2, 5, 16, 64])
def test_column_quantile_is_that_of_scipy_stats(b, delta):
    # Two implementations of the same function; SciPy's own inverses agree to about 1e-10.
    assert column_quantile(delta, b) == pytest.approx(stats.chi2.ppf(delta, b), rel=1e-8)
    assert column_quantile(delta, b, complex_=True) == pytest.approx(
        stats.gamma.ppf(delta, b), rel=1e-8
    )


@DTYPES
@pytest.mark.parametrize(("b", "r"), [(1, 1), (2, 2), (5, 2), (8, 4), (16, 4)])
def test_smallest_singular_value_is_below_its_quantile_at_most_so_often(b, r, complex_):
    rng = np.random.default_rng(5)
    runs, delta = 20_000, 0.05
    G = rng.standard_normal((runs, b, r))
    if complex_:
        G = (G + 1j * rng.standard_normal((runs, b, r))) * np.sqrt(0.5)
    smallest = np.linalg.svd(G, compute_uv=False)[:, -1] ** 2
    rate = np.mean(smallest < smallest_singular_quantile(delta, b, r, complex_=complex_))
    slack = 4 * np.sqrt(delta * (1 - delta) / runs)
    assert rate <= delta + slack
    if r == 1:
        assert rate >= delta - slack


# --- rounding -----------------------------------------------------------------------------


class SinglePass(DiagonalPass):
    """Products rounded to float32, as an operator on an accelerator may return them."""

    def multiply(self, V):
        return (self.values.astype(np.float32) * V.astype(np.float32)).astype(float)


def test_rounded_products_are_covered_with_their_eps_and_missed_without():
    # The values are exact in float32, so that rounding of products is all there is.
    values = np.float32(np.concatenate([[1.0], np.linspace(0.9, 0.05, 199)])).astype(float)
    missed = 0
    for entropy in range(20):
        *_, state = states(Lanczos(4, 1 << 30), SinglePass(values), entropy, None, 30)
        q = column_quantile(1e-6, 4)
        honest = replace(state.relation, eps=3e-7)
        lower = honest.theta[0] - 2 * honest.eps
        assert lower <= 1.0 <= christoffel_bound(honest, q)
        naive = replace(state.relation, eps=0.0)
        missed += not naive.theta[0] <= 1.0 <= christoffel_bound(naive, q)
    assert missed >= 5


def test_equal_top_values_get_an_interval_that_is_not_empty():
    rng = np.random.default_rng(6)
    passes = DensePass(with_spectrum(rng, np.concatenate([np.ones(5), 0.9 * rng.random(25)])))
    for algorithm in (Lanczos(3, 1 << 30), Lanczos(3, 0), Power(3), Gram()):
        for state in states(algorithm, passes, 1, None, 15):
            bounds = algorithm.bounds(state, 1e-6, complex_=False)
            assert bounds.lower <= 1.0 <= min(u.values[0] for u in bounds.uppers)


@pytest.mark.parametrize("b", [2, 7])
@pytest.mark.parametrize("spread", [1e-2, 1e-6, 1e-12])
def test_three_blocks_never_claim_more_than_is_there(b, spread):
    # Nearly equal values make B ill-conditioned, and orthogonality is lost block by block.
    for entropy in range(12):
        rng = np.random.default_rng(entropy)
        values = 1 - spread * rng.random(50)
        values[: entropy % 4 + 1] += 0.3 * rng.random()
        passes, algorithm = DensePass(np.diag(np.sqrt(values))), Lanczos(b, 0)
        l1 = np.sqrt(values.max()) ** 2
        for state in states(algorithm, passes, entropy, None, 25):
            bounds = algorithm.bounds(state, 1e-9, complex_=False)
            assert bounds.lower <= l1
            assert all(u.values[0] >= l1 for u in bounds.uppers)


@pytest.mark.parametrize("delta", [1e-170, 1e-150, 1e-60])
@pytest.mark.parametrize("exponent", [-400, 0, 300])
def test_one_column_and_a_quantile_that_vanishes_still_give_an_interval(delta, exponent):
    A = np.random.default_rng(1).standard_normal((30, 20)) * 2.0**exponent
    for kind in (np.asarray, aslinearoperator):
        options = {"block_size": 1, "failure_probability": delta, "max_passes": 4, "seed": 2}
        estimate = bigspec.norm(kind(A), **options)
        exact = np.linalg.norm(A, 2)
        assert estimate.lower <= exact * (1 + 1e-14)
        assert exact <= estimate.upper * (1 + 1e-14)


def test_delta_below_rounding_certifies_nothing():
    # P(||G^H x||^2 < q) = 1e-20 means |G^H x| of 1e-20: no float64 tie to G knows it.
    (state,) = states(Lanczos(1, 1 << 30), DiagonalPass(np.linspace(1, 0.1, 50)), 0, None, 1)
    assert christoffel_bound(state.relation, column_quantile(1e-20, 1)) == np.inf
    assert christoffel_bound(state.relation, column_quantile(1e-6, 1)) < np.inf


def test_run_is_exhausted_once_the_margin_rules_the_interval():
    algorithm = Lanczos(4, 1 << 30)
    values = np.concatenate([[1.0], np.linspace(0.5, 0.1, 399)])
    *_, state = states(algorithm, DiagonalPass(values), 0, None, 100)
    assert state.exhausted
    assert state.passes < 30
    assert at_rounding_floor(state.relation)
    bounds = algorithm.bounds(state, 1e-6, complex_=False)
    assert min(u.values[0] for u in bounds.uppers) - bounds.lower <= 100 * state.relation.eps


def test_exact_eigenvector_as_warm_start_is_no_reason_to_stop():
    # The second eigenvector, exact: the leading Ritz pair has no residual, and is not the top.
    values = np.concatenate([[1.0, 0.99], np.linspace(0.5, 0.1, 98)])
    W = np.eye(100)[:, 1:2]
    sequence = states(Lanczos(2, 1 << 30), DiagonalPass(values), 0, W, 60)
    first = next(sequence)
    assert first.relation.theta[0] == pytest.approx(0.99)
    assert not first.exhausted
    *_, last = sequence
    assert last.relation.theta[0] == pytest.approx(1.0)


def test_vanishing_products_certify_zero_and_nothing_else():
    (state,) = states(Lanczos(2, 1 << 30), DiagonalPass(np.zeros(9)), 0, None, 1)
    exact = replace(state.relation, eps=0.0)
    assert [u.values for u in upper_bounds(exact, None, 1e-6)] == [0.0]
    # Known within eps only: H may be eps times ||G|| / sqrt q.
    (bound,) = upper_bounds(replace(exact, eps=1e-10), None, 1e-6)
    assert 1e-8 < bound.values < 1e-3


# --- scale --------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [-200, -3, 5, 200])
def test_powers_of_two_scale_every_lanczos_bound_exactly(k):
    rng = np.random.default_rng(8)
    A = with_spectrum(rng, np.arange(1, 31) ** -0.7)
    algorithm = Lanczos(8, 1 << 30)
    pairs = zip(
        states(algorithm, DensePass(A), 3, None, 3),
        states(algorithm, DensePass(np.ldexp(A, k)), 3, None, 3),
        strict=True,
    )
    for one, other in pairs:
        plain = algorithm.bounds(one, 1e-6, complex_=False)
        scaled = algorithm.bounds(other, 1e-6, complex_=False)
        assert scaled.lower == np.ldexp(plain.lower, 2 * k)
        for u, v in zip(plain.uppers, scaled.uppers, strict=True):
            np.testing.assert_array_equal(v.values, np.ldexp(u.values, 2 * k))


# --- the adversarial example --------------------------------------------------------------


@pytest.mark.parametrize(("b", "rule"), [(1, "residual"), (4, "residual"), (1, "stagnation")])
def test_interval_is_honest_where_other_stop_rules_are_wrong(b, rule):
    # sigma = {1.05, 4000 x 1.0, rest <= 0.9}: the start is dominated by the plateau.
    sigma = np.concatenate([[1.05], np.ones(4000), np.linspace(0.9, 0.1, 400)])
    passes = DiagonalPass(sigma**2)
    algorithm = Lanczos(b, 1 << 30) if rule == "residual" else Power(b)
    for entropy in range(4):
        known, before, stopped = Known(), 0.0, None
        for state in states(algorithm, passes, entropy, None, 12):
            known = known.updated(algorithm.bounds(state, 1e-6, complex_=False), 0)
            theta = float(state.relation.theta[0])
            assert known.interval.lower <= 1.05 <= known.interval.upper
            small = np.linalg.norm(state.relation.F[0]) <= 2e-2 * theta
            stagnant = abs(theta - before) <= 1e-2 * theta
            if stopped is None and (small if rule == "residual" else stagnant):
                stopped = known.interval
            before = theta
        assert stopped is not None
        if stopped.lower < 1.04:  # that rule would have been wrong, and the interval says so
            assert stopped.upper / stopped.lower - 1 > 0.05


@pytest.mark.parametrize("defect", [1.0, 2.0, np.nextafter(1.0, 0)])
@pytest.mark.parametrize("ceiling", [np.inf, 3.0])
def test_a_start_that_is_known_worse_than_the_quantile_bounds_nothing(defect, ceiling):
    """The scan has nowhere to begin: w is above the quantile however far out."""
    relation = Relation(
        np.diag([1.0, 0.5]), np.array([[0.1, 0.1]]), np.ones((1, 2)), 1e-15, orthonormal=True,
        start_defect=float(defect),
    )  # fmt: skip
    for q in (1.0, np.nextafter(1.0, 2)):
        bound = christoffel_bound(relation, q, ceiling=ceiling)
        assert bound == ceiling or (np.sqrt(q) > defect and bound > 2.0)
