"""`bigspec.lipschitz`: its interval encloses what brute force and many points find."""

import itertools
import json

import numpy as np
import pytest

import bigspec
from bigspec.errors import ArgumentError


def weights(*widths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((b, a)) for a, b in itertools.pairwise(widths)]


def spectral(matrix):
    return float(np.linalg.norm(matrix, 2))


def corner(layers, low, high):
    """The largest norm over all patterns of two slopes."""
    best = 0.0
    for signs in itertools.product((low, high), repeat=sum(len(W) for W in layers[:-1])):
        whole, first = layers[0], 0
        for W in layers[1:]:
            n = W.shape[1]
            whole = W @ (np.array(signs[first : first + n])[:, None] * whole)
            first += n
        best = max(best, spectral(whole))
    return best


def sampled(function, inputs, seed=0, count=200):
    """The largest difference quotient at random pairs: no more than the constant."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((inputs, count)) * rng.lognormal(0, 1, count)
    y = x + rng.standard_normal((inputs, count)) * 10.0 ** rng.uniform(-6, 0, count)
    d = np.linalg.norm(function(x) - function(y), axis=0) / np.linalg.norm(x - y, axis=0)
    return float(d.max())


@pytest.mark.parametrize("name", ["relu", ("leaky_relu", 0.2), "abs"])
def test_the_interval_of_a_piecewise_linear_stack(name):
    low = {"relu": 0.0, "abs": -1.0}.get(name if isinstance(name, str) else "", 0.2)
    A, B, C = weights(4, 3, 3, 2)
    found = bigspec.lipschitz([A, name, B, name, C], seed=1, at=200)
    true = corner([A, B, C], low, 1.0)
    assert found.lower <= true * (1 + 1e-12)
    assert true <= found.upper
    assert found.upper <= spectral(A) * spectral(B) * spectral(C) * (1 + 1e-9)
    assert found.lower > 0.4 * true  # of relu the worst pattern belongs to no point


def test_the_lower_end_is_attained_at_its_point_by_its_vector():
    A, B, C = weights(20, 30, 25, 10)
    found = bigspec.lipschitz([A, "relu", B, "relu", C], seed=1)
    x = found.point
    first = A @ x > 0
    second = B @ (first * (A @ x)) > 0
    J = C @ (second[:, None] * B) @ (first[:, None] * A)
    assert spectral(J) == pytest.approx(found.lower, rel=1e-6)
    assert found.lower <= spectral(J)
    assert np.linalg.norm(J @ found.right) == pytest.approx(found.lower, rel=1e-9)
    assert found.lower <= found.upper


def test_biases_move_the_lower_end_and_no_bound():
    A, B = weights(6, 8, 4)
    dead = np.full(8, -1e6)
    alive = bigspec.lipschitz([A, "relu", B], seed=1)
    off = bigspec.lipschitz([(A, dead), "relu", B], seed=1)
    assert off.lower == 0.0
    assert off.upper == alive.upper
    on = bigspec.lipschitz([(A, -dead), "relu", B], seed=1)
    assert on.lower == pytest.approx(spectral(B @ A))
    assert alive.lower > 0


def test_no_slope_at_a_kink_is_believed():
    """At 0 every unit of relu is at its kink; the half of 0 and 1 is no slope."""
    A, B = np.eye(3), np.diag([2.0, 1.0, 1.0])
    found = bigspec.lipschitz([A, "relu", B], at=np.zeros((1, 3)), seed=1)
    assert found.lower == pytest.approx(0.0, abs=1e-9)
    # Units 2 and 3 are sure; of unit 1 nothing is known but that its slope is 0 or 1.
    found = bigspec.lipschitz([A, "relu", B], at=np.array([0.0, 1.0, 1.0]), seed=1)
    assert found.lower <= 1.0
    # Near a kink the error of a long sum decides.
    W = np.ones((1, 3))
    near = np.array([1.0, 1.0, -2.0]) / 3
    found = bigspec.lipschitz([W, "relu", np.ones((1, 1))], at=near, seed=1)
    assert found.lower == 0.0


def test_smooth_activations_have_their_jacobian():
    A, B = weights(5, 7, 4)
    x = np.random.default_rng(2).standard_normal(5)
    found = bigspec.lipschitz([A, "tanh", B], at=x, seed=1)
    J = B @ ((1 - np.tanh(A @ x) ** 2)[:, None] * A)
    assert found.lower == pytest.approx(spectral(J), rel=1e-6)
    assert found.lower <= spectral(J) * (1 + 1e-12)


def relu(x):
    return np.maximum(x, 0)


def softmax(x):
    e = np.exp(x - x.max(axis=0))
    return e / e.sum(axis=0)


def layer_norm(x, eps=0.1):
    return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + eps)


A, B, C = weights(6, 6, 6, 6, seed=5)
GAMMA = np.array([1.0, -2.0, 0.5, 1.0, 3.0, 1.0])
MIXED = {
    "softmax": ([A, "softmax", B], lambda x: B @ softmax(A @ x)),
    "layer norm": ([A, ("layer_norm", 0.1), B], lambda x: B @ layer_norm(A @ x)),
    "rms norm": (
        [A, ("rms_norm", 0.1, GAMMA)],
        lambda x: GAMMA[:, None] * (A @ x) / np.sqrt(((A @ x) ** 2).mean(axis=0) + 0.1),
    ),
    "max min": (
        [A, "maxmin", B],
        lambda x: B @ -np.sort(-(A @ x).reshape(3, 2, -1), axis=1).reshape(6, -1),
    ),
    "maxout": (
        [A, ("maxout", 3), B[:, :2]],
        lambda x: B[:, :2] @ (A @ x).reshape(2, 3, -1).max(axis=1),
    ),
    "residual": (
        [A, ("residual", [B, "relu", C]), "relu", B],
        lambda x: B @ relu(A @ x + C @ relu(B @ A @ x)),
    ),
    "linear residual": ([("residual", [A]), "relu", B], lambda x: B @ relu(x + A @ x)),
    "concat": (
        [("concat", [A, "relu"], [B, "tanh"], [])],
        lambda x: np.vstack([relu(A @ x), np.tanh(B @ x), x]),
    ),
    "linear concat": ([("concat", [A], [])], lambda x: np.vstack([A @ x, x])),
    "sum": ([("sum", [A, "relu"], [B])], lambda x: relu(A @ x) + B @ x),
    "batch norm": (
        [A, ("batch_norm", GAMMA, GAMMA**2, 1e-3), "relu", B],
        lambda x: B @ relu((GAMMA / np.sqrt(GAMMA**2 + 1e-3))[:, None] * (A @ x)),
    ),
    "scale first": ([("scale", GAMMA), "relu", B], lambda x: B @ relu(GAMMA[:, None] * x)),
    "activation first": (["relu", A, "relu"], lambda x: relu(A @ relu(x))),
}


@pytest.mark.parametrize("name", MIXED)
def test_no_two_points_are_stretched_by_more_than_the_upper_end(name):
    layers, function = MIXED[name]
    found = bigspec.lipschitz(layers, seed=1)
    assert sampled(function, 6) <= found.upper
    x = found.point[:, None]
    step = 1e-6 * found.right[:, None]
    slope = np.linalg.norm(function(x + step) - function(x - step)) / 2e-6
    assert found.lower == pytest.approx(slope, rel=1e-4)
    assert found.lower <= found.upper * (1 + 1e-12)
    assert found.lower > 0.02 * found.upper


def test_a_linear_branch_is_one_matrix():
    found = bigspec.lipschitz([("residual", [-np.eye(4)]), "relu", np.eye(4)], seed=1)
    assert found.upper == pytest.approx(0.0, abs=1e-12)  # 1 + L would say 2
    both = bigspec.lipschitz([("concat", [A], [B])], seed=1)
    assert both.bound == "norm"
    assert both.upper == pytest.approx(spectral(np.vstack([A, B])))
    assert both.lower == pytest.approx(both.upper, rel=1e-3)


def test_layer_norm_has_the_factor_of_its_epsilon():
    found = bigspec.lipschitz([np.eye(8), ("layer_norm", 1e-4)], at=np.ones((1, 8)), seed=1)
    assert found.upper == pytest.approx(100.0)
    assert found.lower == pytest.approx(100.0, rel=1e-3)  # attained at constant inputs


def test_rescaling_undoes_a_bad_scale_between_layers():
    A, B = weights(10, 12, 8)
    d = np.random.default_rng(3).lognormal(0, 2, 12)
    plain = bigspec.lipschitz([A, "relu", B], seed=1)
    bad = bigspec.lipschitz([d[:, None] * A, "relu", B / d], seed=1)
    without = bigspec.lipschitz([d[:, None] * A, "relu", B / d], seed=1, rescale=False)
    assert without.upper > 3 * plain.upper
    assert bad.upper == pytest.approx(plain.upper, rel=0.1)
    assert bad.bound.startswith("rescaled")
    assert {bound.name for bound in without.bounds} == {"product", "recursion"}


def test_the_same_seed_gives_the_same_bits_and_another_may_not():
    layers = [A, "gelu", B]
    one, two = (bigspec.lipschitz(layers, seed=7) for _ in range(2))
    assert (one.lower, one.upper, one.norms[0].upper) == (two.lower, two.upper, two.norms[0].upper)
    assert bigspec.lipschitz(layers).seed != bigspec.lipschitz(layers).seed


def test_a_window_leaves_long_chains_out():
    layers = [A, "relu", B, "relu", C, "relu", A]
    every = bigspec.lipschitz(layers, seed=1, rescale=False)
    pairs = bigspec.lipschitz(layers, seed=1, rescale=False, window=2)
    assert len(every.norms) == 10 - 1  # A stands there twice
    assert len(pairs.norms) == 3 + 3
    assert every.upper <= pairs.upper * (1 + 1e-9)


def test_scale_moves_both_ends():
    layers, big = [A, "relu", B], [1e150 * A, "relu", 1e150 * B]
    found, far = (bigspec.lipschitz(one, seed=1) for one in (layers, big))
    assert far.upper / 1e300 == pytest.approx(found.upper, rel=1e-6)
    assert far.lower / 1e300 == pytest.approx(found.lower, rel=1e-6)


def test_the_result_is_frozen_and_says_what_it_rests_on(tmp_path):
    found = bigspec.lipschitz([A, "relu", B], seed=1, max_constant=1e-3)
    with pytest.raises(AttributeError):
        found.lower = 0.0
    assert float(found) == found.upper
    assert f"{found:.3g}" == f"{found.upper:.3g}"
    assert str(found) == f"{found}"
    assert "\n" not in str(found)
    assert found.outcome == "failed"
    document = json.loads(found.to_json(tmp_path / "l.json"))
    assert document == json.loads((tmp_path / "l.json").read_text())
    assert document["schema"] == "bigspec.lipschitz/1"
    assert document["gate"]["exit_status"] == 3
    best = document["bounds"][0]
    assert best["upper"] == document["upper"]
    assert all(document["norms"][k]["upper"] > 0 for k in best["norms"])
    for text in (found.summary(), found.to_html(tmp_path / "l.html"), found._repr_html_()):
        assert "W2" in text
        assert "recursion" in text


REFUSED = {
    "squared_relu": "2 R",
    "relu2": "2 R",
    "attention": r"Wq\.H @ Wk",
    "swiglu": "branch",
    "threshold": "jumps",
    "exp": "no bound",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_constant_is_refused_with_the_reason(name):
    with pytest.raises(ArgumentError, match=rf"layers\[1\].*{REFUSED[name]}"):
        bigspec.lipschitz([A, name, B])


WRONG = {
    "a name with a typo": ([A, "rleu", B], r"layers\[1\].*did you mean 'relu'"),
    "no matrix": (["relu"], "at least one matrix"),
    "a matrix alone": (A, "expected a list"),
    "sizes that do not fit": ([A, "relu", B[:, :4]], "W2: expected 6 columns"),
    "a bias that is too long": ([(A, np.ones(4)), "relu", B], "bias of length 6"),
    "complex entries": ([1j * A, "relu", B], "real"),
    "no epsilon": ([A, ("layer_norm",), B], "expected epsilon"),
    "epsilon of zero": ([A, ("layer_norm", 0.0), B], "epsilon > 0"),
    "a group that does not fit": ([A, ("group_sort", 4), B], "multiple of 4"),
    "an unknown parameter": ([A, ("layer_norm", {"eps": 1e-5}), B], "unknown parameter 'eps'"),
    "branches that disagree": ([("sum", [A], [B[:4]])], "branches that agree"),
    "a residual of another size": ([("residual", [B[:4]])], "branches that agree"),
    "a vector": ([np.ones(3), "relu", A], r"layers\[0\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_layer_is_named(name):
    layers, message = WRONG[name]
    with pytest.raises(bigspec.BigspecError, match=message):
        bigspec.lipschitz(layers)


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_entries_that_are_not_finite_are_refused_with_the_layer(bad, rescale):
    broken = B.copy()
    broken[2, 3] = bad
    with pytest.raises(bigspec.errors.NonFiniteError, match=r"layers\[2\]"):
        bigspec.lipschitz([A, "relu", broken], rescale=rescale)


def test_zero_matrices_and_dead_units_are_no_trouble():
    found = bigspec.lipschitz([A, "relu", 0 * B, "relu", C], seed=1)
    assert (found.lower, found.upper) == (0.0, 0.0)
    first, second = np.diag([1.0, 0.0, 1.0]), np.diag([0.0, 1.0, 1.0])
    found = bigspec.lipschitz([first, "abs", second], seed=1)
    assert found.lower == pytest.approx(1.0, rel=1e-9)
    assert found.upper == pytest.approx(1.0, rel=1e-3)


def test_an_operator_of_ones_own_is_scaled_by_a_factor_beside_it():
    from scipy.sparse.linalg import aslinearoperator

    d = np.logspace(-3, 3, 6)
    found = bigspec.lipschitz(
        [aslinearoperator(d[:, None] * A), "relu", aslinearoperator(B / d)], seed=1
    )
    plain = bigspec.lipschitz([A, "relu", B], seed=1)
    assert found.upper == pytest.approx(plain.upper, rel=0.1)
    assert found.lower <= found.upper


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"at": np.ones((2, 5))}, "points of 6 numbers"),
        ({"at": np.full((1, 6), np.nan)}, "finite"),
        ({"at": -1}, "at: expected"),
        ({"window": 0}, "window: expected"),
        ({"max_constant": -1.0}, "max_constant: expected"),
        ({"rtol": 0.0}, "rtol"),
        ({"failure_probability": 1.0}, "failure_probability"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        bigspec.lipschitz([A, "relu", B], **arguments)


def test_the_lower_end_of_a_deep_stack_is_what_exact_slopes_give():
    """The product of norms is 1e13 times the derivative; the slopes are those in long double."""
    rng = np.random.default_rng(0)
    layers = [rng.standard_normal((24, 24)) * np.sqrt(2 / 24) for _ in range(36)]
    stack = [part for W in layers for part in (W, "relu")][:-1]
    found = bigspec.lipschitz(stack, seed=1, rescale=False, window=1, rtol=0.1, at=4)
    assert found.upper > 1e13 * found.lower > 0
    x, J = found.point.astype(np.longdouble), np.eye(24, dtype=np.longdouble)
    for k, W in enumerate(layers):
        x, J = W.astype(np.longdouble) @ x, W.astype(np.longdouble) @ J
        if k + 1 < len(layers):
            J[x < 0] = 0
            x[x < 0] = 0
    assert found.lower <= np.linalg.norm(J @ found.right) <= found.lower * 1.01
    assert found.lower == pytest.approx(np.linalg.norm(J.astype(float), 2), rel=1e-2)


def test_a_lower_end_of_zero_says_why():
    W = np.eye(3)
    flat = bigspec.lipschitz([(W, [-50.0] * 3), "relu", W], seed=1)
    assert flat.lower == flat.rounding == 0.0
    assert "the derivative is 0 at 32 points: give points of your data" in flat.summary()
    found = bigspec.lipschitz([(W, [-50.0] * 3), "relu", W], at=np.full((1, 3), 60.0), seed=1)
    assert found.lower == pytest.approx(1.0)
    unsure = bigspec.lipschitz([W, "relu", W], at=np.zeros((1, 3)), seed=1)
    assert (unsure.lower, unsure.rounding) == (0.0, 1.0)
    assert "rounding may be all of the derivative at 1 point" in unsure.summary()
    assert "no point was tried" in bigspec.lipschitz([W, "relu", W], at=0, seed=1).summary()


@pytest.mark.parametrize("between", ["gelu", "relu", ("layer_norm", 0.1), "residual"], ids=str)
def test_errors_by_blocks_cover_the_exact_derivative(between, monkeypatch):
    """Against the bounds layer by layer, which are computed in another way."""
    from bigspec.api.scores import scores
    from bigspec.networks.lipschitz import blocks
    from bigspec.networks.lipschitz.items import as_stack
    from bigspec.networks.lipschitz.steps import Point

    monkeypatch.setattr(blocks, "GROWTH", 8.0)
    rng = np.random.default_rng(3)
    layers = []
    for _ in range(9):
        W = rng.standard_normal((12, 12)) / 3
        layers += [("residual", [W, "tanh", W])] if between == "residual" else [W, between]
    stack = as_stack([*layers, np.eye(12)], None)
    for step in stack.every:
        if hasattr(step, "matrix"):
            A = scores(step.matrix, np.eye(12))
            step.size, step.frobenius = np.linalg.norm(A, 2) * (1 + 1e-14), np.linalg.norm(A)
    x, v = rng.standard_normal((2, 12, 1))
    found = blocks.push_by_blocks(blocks.blocks_of(stack, x), x, v)
    _, locals_ = stack.forward(Point(x, np.zeros(1)))
    plain = Point(v, np.zeros(1))
    for local in locals_:
        plain = local.push(plain)
    distance = np.linalg.norm(found.x - plain.x)
    assert distance <= found.error[0] + plain.error[0]
    assert found.error[0] <= plain.error[0]
    assert len(blocks.blocks_of(stack, x)) > 2
