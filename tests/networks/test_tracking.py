"""The norm of a weight that moves: the truth lies in every interval, and how tight these are."""

from dataclasses import replace

import numpy as np
import pytest

import bigspec
from bigspec.certificate.drift import Anchor, Grams, bound_after, gram_errors
from bigspec.errors import ArgumentError, NonFiniteError
from bigspec.networks import tracking
from bigspec.networks.convolution import ConvolutionWeight
from bigspec.networks.tracking import DenseWeight, Wishes, advance, begin, look

TIGHT = Wishes(rtol=0.5)  # so loose that only the drift decides, and nothing is certified again
ROUNDING = 1e-13


def truth(W):
    return float(np.linalg.svd(W.astype(np.result_type(W, "f8")), compute_uv=False)[0])


def spectrum(kind, r):
    if kind == "spikes":
        return np.r_[3.0, 2.0, 1.5, np.linspace(1.0, 0.2, r - 3)]
    return 0.9 ** np.arange(r) if kind == "decay" else np.linspace(1.0, 0.97, r)


def matrix(kind, shape, rng, dtype="f4"):
    r = min(shape)
    U, V = (np.linalg.qr(rng.standard_normal((extent, r)))[0] for extent in shape)
    W = (U * spectrum(kind, r)) @ V.T
    return (W * np.exp(1j) if np.dtype(dtype).kind == "c" else W).astype(dtype)


def moved(W, size, rng):
    """A step of that size relative to the norm; half of it along one direction, as gradients."""
    noise = rng.standard_normal(W.shape)
    line = np.outer(rng.standard_normal(W.shape[0]), rng.standard_normal(W.shape[1]))
    step = noise / np.linalg.norm(noise) + line / np.linalg.norm(line)
    return (W + size / 2 * truth(W) * step).astype(W.dtype)


@pytest.mark.parametrize("kind", ["spikes", "decay", "flat"])
def test_of_a_hundred_drifts_no_step_misses_the_norm(kind):
    widths, names = [], set()
    for seed in range(35):
        rng = np.random.default_rng([seed, 1])
        shape = (40, 60) if seed % 2 else (50, 30)
        W = matrix(kind, shape, rng)
        state, _ = begin(DenseWeight.of(W), 8, TIGHT, seed)
        for _ in range(10):
            W = moved(W, 2e-3, rng)
            state, step = advance(DenseWeight.of(W), state, TIGHT)
            sigma = truth(W)
            assert step.lower * (1 - ROUNDING) <= sigma <= step.upper * (1 + ROUNDING)
            assert not step.certified
            widths.append(step.upper / sigma - 1)
            names.add(step.name)
    if kind == "spikes":
        assert max(widths) < 5e-6
        assert names == {"Lehmann"}
    assert max(widths) < 2.1e-2  # as much as the drift can be
    if kind == "flat":  # without a gap Weyl's bound remains
        assert names == {"Weyl"}
        assert np.median(widths) > 1e-4


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("scale", [1.0, 2.0**-90, 2.0**70])
def test_every_type_and_scale(dtype, scale):
    if dtype == "f2" and scale != 1.0:
        return
    rng = np.random.default_rng(3)
    W = (matrix("decay", (24, 36), rng, dtype) * scale).astype(dtype)
    state, step = begin(DenseWeight.of(W), 6, Wishes(), 5)
    for _ in range(4):
        sigma = truth(W)
        assert step.lower * (1 - ROUNDING) <= sigma <= step.upper * (1 + ROUNDING)
        assert step.upper / step.lower - 1 <= 1e-2
        value = np.vdot(step.left, W.astype(np.result_type(W, "f8")) @ step.right)
        assert abs(value - sigma) <= 1e-2 * sigma
        W = moved(W, 2e-3, rng)
        state, step = advance(DenseWeight.of(W), state, Wishes())


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_squares_neither_overflow_nor_vanish(scale):
    W = matrix("spikes", (20, 30), np.random.default_rng(0), "f8") * scale
    state, step = begin(DenseWeight.of(W), 4, Wishes(), 5)
    _, later = advance(DenseWeight.of(W * 1.001), state, Wishes())
    assert step.upper == pytest.approx(3 * scale, rel=1e-9)
    assert later.lower <= truth(W / scale * 1.001) * scale * (1 + ROUNDING)
    assert later.upper == pytest.approx(3.003 * scale, rel=1e-5)


def test_the_weight_is_certified_again_when_the_bound_is_loose_or_its_time_has_come():
    rng = np.random.default_rng(8)
    W = matrix("flat", (30, 40), rng)
    state, _ = begin(DenseWeight.of(W), 8, Wishes(), 1)
    certified = []
    for _ in range(20):
        W = moved(W, 4e-3, rng)
        state, step = advance(DenseWeight.of(W), state, Wishes(rtol=1e-2))
        certified.append(step.certified)
        assert step.upper / step.lower - 1 <= 1e-2
        assert state.steps == 0 or not step.certified
    assert 2 <= sum(certified) <= 14
    state, _ = begin(DenseWeight.of(W), 8, Wishes(), 1)
    times = []
    for _ in range(6):
        W = moved(W, 1e-6, rng)
        state, step = advance(DenseWeight.of(W), state, Wishes(every=3))
        times.append(step.certified)
    assert times == [False, False, True] * 2


def test_large_sides_are_certified_by_runs_with_shares_of_the_probability(monkeypatch):
    calls, svds = [], tracking.svds

    def recorded(a, k, **options):
        calls.append((k, options["failure_probability"], options["seed"]))
        return svds(a, k, **options)

    monkeypatch.setattr(tracking, "DENSE", 0)
    monkeypatch.setattr(tracking, "svds", recorded)
    rng = np.random.default_rng(2)
    W = matrix("spikes", (60, 50), rng)
    wishes = Wishes(rtol=1e-2, every=1, failure_probability=1e-4)
    state, step = begin(DenseWeight.of(W), 8, wishes, 77)
    for _ in range(2):
        W = moved(W, 2e-3, rng)
        state, step = advance(DenseWeight.of(W), state, wishes)
        assert step.lower <= truth(W) * (1 + ROUNDING) <= step.upper * (1 + 2 * ROUNDING)
    assert [k for k, _, _ in calls] == [9, 9, 9]
    np.testing.assert_allclose([share for _, share, _ in calls], [5e-5, 1e-4 / 6, 1e-4 / 12])
    assert len({seed for _, _, seed in calls}) == 3
    assert state.certificates == 3
    # The same weights and the same entropy: the same random vectors. Other weights: others.
    again, _ = begin(DenseWeight.of(W), 8, wishes, 77)
    once, _ = begin(DenseWeight.of(W), 8, wishes, 77)
    assert calls[-1][2] == calls[-2][2] != calls[0][2]
    np.testing.assert_array_equal(again.anchor.uppers, once.anchor.uppers)


def test_a_look_changes_nothing_and_is_as_tight():
    rng = np.random.default_rng(4)
    W = matrix("flat", (30, 40), rng)
    state, _ = begin(DenseWeight.of(W), 8, Wishes(), 1)
    before = state.vectors.copy(), state.reference.copy(), state.anchor
    far = moved(W, 0.5, rng)  # as after loading other weights
    step = look(DenseWeight.of(far), state, Wishes())
    assert step.certified
    assert step.lower <= truth(far) * (1 + ROUNDING) <= step.upper * (1 + 2 * ROUNDING)
    assert step.upper / step.lower - 1 <= 1e-2
    assert not look(DenseWeight.of(moved(W, 1e-3, rng)), state, Wishes()).certified
    np.testing.assert_array_equal(state.vectors, before[0])
    np.testing.assert_array_equal(state.reference, before[1])
    assert state.anchor is before[2]


def test_zero_and_low_rank_weights():
    zero = DenseWeight.of(np.zeros((5, 7), "f4"))
    state, step = begin(zero, 8, Wishes(), 1)
    assert (step.lower, step.upper) == (0.0, 0.0)
    assert np.isfinite(state.vectors).all()
    state, step = advance(zero, state, Wishes())
    assert (step.lower, step.upper) == (0.0, 0.0)
    W = np.outer(np.arange(1.0, 6), np.arange(1.0, 8)).astype("f4")
    state, step = advance(DenseWeight.of(W), state, Wishes())
    assert step.lower * (1 - ROUNDING) <= truth(W) <= step.upper * (1 + ROUNDING)
    assert step.upper / step.lower - 1 <= 1e-2
    one = np.array([[2.5]], "f4")
    _, step = begin(DenseWeight.of(one), 8, Wishes(), 1)
    assert step.lower <= 2.5 <= step.upper


def test_what_is_not_finite_or_no_block_is_refused():
    with pytest.raises(NonFiniteError, match="layer: expected finite entries, got a NaN"):
        DenseWeight.of(np.array([[1.0, np.inf]]), "layer")
    with pytest.raises(NonFiniteError, match="weight: expected finite entries"):
        ConvolutionWeight(np.full((1, 1, 3), np.nan), (1, 5), {}, 1e-2)
    with pytest.raises(ArgumentError, match="block: expected at least one column, got 0"):
        begin(DenseWeight.of(np.eye(3)), 0, Wishes(), 1)


def grams(W, V):
    Y = W @ V
    Z = W.conj().T @ Y
    sizes = tuple(float(np.linalg.norm(part)) for part in (V, Y, Z))
    norm = float(np.linalg.norm(W))
    errors = gram_errors(W.shape, sizes, norm, complex_=W.dtype.kind == "c")
    return Grams(*(part.conj().T @ part for part in (V, Y, Z)), errors)


def test_the_bound_needs_no_orthonormal_block():
    rng = np.random.default_rng(0)
    W = matrix("spikes", (30, 40), rng, "f8")
    values = np.linalg.svd(W, compute_uv=False)
    anchor = Anchor(values[0] * (1 - 1e-12), values * (1 + 1e-12))
    for skew in (0.0, 1e-6, 0.3):
        V = np.linalg.svd(W)[2][:6].T
        V = V + skew * rng.standard_normal(V.shape) / 10
        found = bound_after(grams(W, V), anchor, 0.3)
        assert values[0] * (1 - ROUNDING) <= found.upper
        assert found.lower <= values[0] * (1 + ROUNDING)
        if skew < 1e-3:
            assert found.name == "Lehmann"
            assert found.upper / values[0] - 1 < 1e-6


def test_with_bounds_that_are_too_low_lehmann_would_miss():
    # The upper ends of what lies behind are what carries the bound: without them it fails.
    rng = np.random.default_rng(5)
    W = matrix("spikes", (30, 40), rng, "f8")
    V = np.linalg.svd(W)[2][1:5].T  # all but the leading vector
    values = np.linalg.svd(W, compute_uv=False)
    fair = bound_after(grams(W, V), Anchor(0.0, values * (1 + 1e-12)), 1e-9)
    assert fair.upper >= values[0]
    false = Anchor(0.0, np.r_[values[0], values[2:], 0.0])  # as if sigma_2 were not there
    assert bound_after(grams(W, V), replace(false, uppers=false.uppers + 0), 1e-9).upper < values[0]


def test_a_bound_below_what_is_attained_gives_way_to_one_that_is_certain():
    W = matrix("spikes", (30, 40), np.random.default_rng(5), "f8")
    V = np.linalg.svd(W)[2][:4].T
    wrong = Anchor(0.0, np.full(5, 0.1))  # the event of small probability
    found = bound_after(grams(W, V), wrong, 0.0, float(np.linalg.norm(W)))
    assert found.name == "norms"
    assert found.lower <= 3.0 * (1 + ROUNDING) <= found.upper


CONVOLUTIONS = {
    "plain": ((3, 2, 3, 3), (2, 5, 6), {"padding": 1}),
    "strided": ((3, 2, 4, 4), (2, 7, 6), {"padding": 1, "stride": 2}),
    "dilated, groups": ((6, 2, 3), (4, 15), {"dilation": 2, "groups": 2}),
    "circular": ((3, 2, 3, 3), (2, 5, 5), {"padding": 1, "mode": "circular"}),
    "reflect": ((3, 2, 3, 3), (2, 5, 5), {"padding": 2, "mode": "reflect"}),
    "replicate": ((5, 3, 3), (3, 9), {"padding": 2, "mode": "replicate"}),
    "transposed": ((2, 3, 3, 3), (2, 4, 5), {"stride": 2, "transposed": True}),
}


@pytest.mark.parametrize("name", sorted(CONVOLUTIONS))
def test_the_true_norm_of_a_convolution_lies_in_the_interval(name):
    shape, image, settings = CONVOLUTIONS[name]
    rng = np.random.default_rng(1)
    K, wishes = rng.standard_normal(shape).astype("f4"), Wishes(rtol=0.05)
    state, step = begin(ConvolutionWeight(K, image, settings, wishes.rtol), 4, wishes, 9)
    before = None
    for _ in range(3):
        weight = ConvolutionWeight(K, image, settings, wishes.rtol)
        state, step = advance(weight, state, wishes)
        dense = weight.matrix.apply(np.eye(weight.shape[1]))
        sigma = float(np.linalg.norm(dense, 2))
        assert step.lower * (1 - ROUNDING) <= sigma <= step.upper * (1 + ROUNDING)
        assert step.upper / step.lower - 1 <= 0.06
        assert sigma <= step.size
        assert np.linalg.norm(np.abs(dense), 2) <= step.size * (1 + ROUNDING)
        if before is not None:
            reference, old = before
            apart = np.linalg.norm(dense - old, 2)
            assert apart * (1 - 1e-12) <= weight.drift(reference)
            assert weight.drift(reference) <= 6 * apart
        before = K.copy(), dense
        value = np.vdot(step.left, dense @ step.right).real
        slope = weight.slope(step.left, step.right)
        assert np.vdot(slope, K.astype("f8")).real == pytest.approx(value, rel=1e-9)
        K = (K + 2e-3 * rng.standard_normal(shape)).astype("f4")


def test_the_flattened_kernel_is_no_bound_of_a_convolution():
    K = np.ones((1, 1, 3, 3))
    A = bigspec.conv(K, (1, 8, 8), padding=1)
    assert bigspec.norm(A).lower > 2 * np.linalg.norm(K.reshape(1, -1), 2)
