"""Bounds of stacks against brute force: all patterns of slopes of many small networks."""

import itertools

import numpy as np
import pytest

from bigspec.networks.lipschitz.bounds import cover, one_sign, product, recursion, spread

SLOPES = {
    "relu": (0.0, 1.0),
    "leaky": (0.1, 1.0),
    "abs": (-1.0, 1.0),
    "steep": (-0.5, 1.5),
    "narrow": (0.8, 1.0),
    "negative": (-2.0, -0.5),
    "identity": (1.0, 1.0),
}
WIDTHS = (3, 4, 3, 4, 2)
NETS = 80  # of each activation: 560


def spectral(matrices):
    return np.linalg.svd(matrices, compute_uv=False)[..., 0]


def stacks(seed, count=NETS, widths=WIDTHS):
    """Random matrices (count, m, n) for each layer; every other net has sizes of its own."""
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal((count, b, a)) * rng.lognormal(0, 1, (count, b, 1))
        for a, b in itertools.pairwise(widths)
    ]


def largest(layers, slopes):
    """The largest norm over all slopes in the box.

    The norm is convex in the slopes of one layer while the others stay, so it is largest at
    corners: all patterns of {a, b} are enough.
    """
    partial = layers[0][:, None]
    for W, (low, high) in zip(layers[1:], slopes, strict=True):
        n = W.shape[2]
        corners = np.array(list(itertools.product(sorted({low, high}), repeat=n)))
        scaled = W[:, None] * corners[None, :, None, :]  # (nets, corners, m, n)
        # every pattern so far with every one of this layer
        partial = np.matmul(scaled[:, None], partial[:, :, None])
        partial = partial.reshape(len(W), -1, *partial.shape[-2:])
    return spectral(partial).max(axis=1)


def chains(layers, weights=None):
    """Norms of all chains, of every net: {(i, j): (nets,)}."""
    m, found = len(layers), {}
    for i in range(1, m + 1):
        whole = layers[i - 1]
        for j in range(i, m + 1):
            whole = whole if j == i else layers[j - 1] @ whole
            ends = whole
            if weights is not None:
                ends = ends if i == 1 else ends / weights[i - 2][:, None, :]
                ends = ends if j == m else ends * weights[j - 1][:, :, None]
            found[i, j] = spectral(ends)
    return found


def upper_ends(layers, slopes, window=9, weights=None):
    """Product and recursion of every net."""
    norms, spreads = chains(layers, weights), [spread(*ab) for ab in slopes]
    found = []
    for net in range(len(layers[0])):
        known = {(i, j): v[net] for (i, j), v in norms.items() if j - i < window}
        chain = cover(known, len(layers))
        found.append((product(spreads, chain), recursion(spreads, chain)))
    return np.array(found).T


def small(seed):
    return stacks(seed, widths=(3, 4, 4, 3))


@pytest.mark.parametrize("name", SLOPES)
def test_no_pattern_of_slopes_exceeds_a_bound(name):
    layers = small(len(name))
    slopes = [SLOPES[name]] * 2
    true = largest(layers, slopes)
    rng = np.random.default_rng(0)
    weights = [rng.lognormal(0, 1, (NETS, W.shape[1])) for W in layers[:-1]]
    for window, scaling in ((9, None), (2, None), (1, None), (9, weights)):
        by_product, by_recursion = upper_ends(layers, slopes, window, scaling)
        assert (true <= by_recursion * (1 + 1e-12)).all()
        assert (by_recursion <= by_product * (1 + 1e-12)).all()


def test_the_norm_of_the_product_is_caught_as_no_bound():
    """What the test above would say of it: it is exceeded for most activations."""
    caught = {}
    for name, ab in SLOPES.items():
        layers = small(len(name))
        wrong = chains(layers)[1, 3] * max(map(abs, ab)) ** 2
        caught[name] = float(np.mean(largest(layers, [ab] * 2) > wrong * (1 + 1e-9)))
    assert caught["relu"] > 0.5
    assert caught["abs"] > 0.5
    assert caught["identity"] == 0.0


def test_slopes_may_differ_from_layer_to_layer():
    layers = stacks(3, 40, (3, 3, 3, 3, 2))
    for slopes in itertools.permutations([SLOPES["relu"], SLOPES["steep"], SLOPES["narrow"]], 3):
        _, by_recursion = upper_ends(layers, slopes)
        assert (largest(layers, slopes) <= by_recursion * (1 + 1e-12)).all()


def test_a_window_only_widens():
    layers, slopes = stacks(4, 20, (4, 5, 5, 5, 5, 3)), [SLOPES["relu"]] * 4
    ends = [upper_ends(layers, slopes, window)[1] for window in (1, 2, 3, 5)]
    for wide, narrow in itertools.pairwise(ends):
        assert (narrow <= wide * (1 + 1e-12)).all()
    assert ends[0] == pytest.approx(upper_ends(layers, slopes)[0])  # no chain: the product


def test_two_layers_of_relu_have_the_half_of_two_terms():
    layers = stacks(5, 10, (4, 5, 3))
    norms = chains(layers)
    expected = (norms[1, 2] + norms[1, 1] * norms[2, 2]) / 2
    assert upper_ends(layers, [SLOPES["relu"]])[1] == pytest.approx(expected)


@pytest.mark.parametrize("name", SLOPES)
def test_matrices_of_one_sign_are_bounded_by_the_norm_of_their_product(name):
    signs = (1, -1, 1)
    layers = [s * np.abs(W) for s, W in zip(signs, small(9), strict=True)]
    slopes = [SLOPES[name]] * 2
    whole = chains(layers)[1, 3]
    bound = np.array([one_sign([spread(*ab) for ab in slopes], w) for w in whole])
    true = largest(layers, slopes)
    assert (true <= bound * (1 + 1e-12)).all()
    if name in {"relu", "leaky", "identity", "narrow", "negative"}:  # the slope b everywhere
        assert true == pytest.approx(bound)


@pytest.mark.parametrize("low", [-1.0, -0.1289041451851549, 0.0, 0.1, 1 / 3])
@pytest.mark.parametrize("high", [1.0, 1.1289041451851549, 0.7])
def test_centre_and_radius_enclose_the_slopes(low, high):
    from fractions import Fraction as F

    centre, radius = spread(low, high)
    assert F(centre) - F(radius) <= F(low)
    assert F(centre) + F(radius) >= F(high)
    assert radius <= (high - low) / 2 * (1 + 1e-12) + 1e-15
