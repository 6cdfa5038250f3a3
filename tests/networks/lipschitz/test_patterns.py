"""Activations and normalisations that exporters write out in small nodes of an ONNX graph."""

import math

import numpy as np
import pytest

import bigspec
from bigspec.errors import SourceError

onnx = pytest.importorskip("onnx")
from onnx.reference import ReferenceEvaluator  # noqa: E402

from bigspec.networks.lipschitz.gates import gelu, gelu_tanh, hard_swish  # noqa: E402
from tests.networks.lipschitz.test_onnx import model, node, random  # noqa: E402

W1, W2 = random(8, 8), random(5, 8)
NUMBERS = {"half": 0.5, "one": 1.0, "two": 2.0, "cube": 3.0, "three": 3.0, "six": 6.0, "zero": 0.0,
           "root": math.sqrt(2), "inner": math.sqrt(0.5), "k": math.sqrt(2 / math.pi),
           "c": 0.044715, "eps": 0.1, "power": 0.5, "sixth": 1 / 6}  # fmt: skip
TENSORS = {"W1": W1.T.copy(), "W2": W2.T.copy(), "axis": np.array([-1]), "gamma": random(8),
           "beta": random(8)}  # fmt: skip

GATES = {
    "gelu": "Div a root d; Erf d e; Add e one p; Mul a p q; Mul q half b",
    "gelu, the half first": "Mul a half h; Mul a inner d; Erf d e; Add one e p; Mul p h b",
    "gelu by tanh": "Pow a cube t; Mul t c u; Add a u v; Mul v k w; Tanh w g; Add g one p; "
    "Mul a half h; Mul h p b",
    "gelu by tanh, factored": "Mul a a s; Mul s c t; Add t one u; Mul a k h; Mul h u w; Tanh w g; "
    "Add one g p; Mul a p q; Mul q half b",
    "hard swish": "Add a three d; Clip d zero six e; Mul a e q; Div q six b",
    "hard swish, a ramp": "Mul a sixth d; Add d half e; Clip e zero one g; Mul g a b",
    "layer norm": "ReduceMean a axis m; Sub a m d; Pow d two s; ReduceMean s axis v; Add v eps w; "
    "Sqrt w r; Div d r n; Mul n gamma o; Add o beta b",
    "layer norm, by a power": "ReduceMean a axis m; Sub a m d; Sub a m f; Mul f f s; "
    "ReduceMean s axis v; Add v eps w; Pow w power r; Reciprocal r i; Mul i d n; Mul n gamma b",
    "RMS norm": "Pow a two s; ReduceMean s axis v; Add eps v w; Sqrt w r; Div one r i; Mul a i n; "
    "Mul gamma n b",
}
PLAIN = {
    "silu": "Sigmoid a s; Mul s a b",
    "silu, a quotient": "Neg a n; Exp n e; Add one e p; Div a p b",
    "mish": "Softplus a s; Tanh s t; Mul a t b",
    "mish, a logarithm": "Exp a e; Add e one p; Log p s; Tanh s t; Mul t a b",
}
KEPT = {"gamma", "beta", "W1", "W2", "axis"}


def graph(text):
    """Nodes of a small language, between two matrices."""
    inner = [part.split() for part in text.split(";")]
    nodes = [node("MatMul", "x W1", "a")]
    nodes += [node(op, " ".join(rest[:-1]), rest[-1]) for op, *rest in inner]
    return [*nodes, node("MatMul", "b W2")]


def saved(path, text, **changed):
    nodes = graph(text)
    used = {name for one in nodes for name in one.input}
    numbers = {k: np.float32(v) for k, v in (NUMBERS | changed).items() if k in used}
    tensors = {k: v for k, v in TENSORS.items() if k in used}
    return model(path, nodes, (1, 8), numbers | tensors)


@pytest.mark.parametrize("name", [*GATES, *PLAIN])
def test_a_pattern_is_one_step_that_no_pair_of_inputs_disproves(name, tmp_path):
    proto = saved(tmp_path / "m.onnx", (GATES | PLAIN)[name])
    found = bigspec.lipschitz(tmp_path / "m.onnx", seed=1, rescale=False)
    session = ReferenceEvaluator(proto)

    def function(points):
        return np.stack([session.run(None, {"x": p[None].astype(np.float32)})[0][0].astype(float)
                         for p in points.T], axis=1)  # fmt: skip

    rng = np.random.default_rng(1)
    x = rng.standard_normal((8, 40)) * rng.choice([0.01, 0.3, 3.0], 40)
    y = x + 0.05 * rng.standard_normal((8, 40))
    d = np.linalg.norm(function(x) - function(y), axis=0) / np.linalg.norm(x - y, axis=0)
    assert d.max() <= found.upper * (1 + 1e-3)
    step = 1e-2 * found.right[:, None]
    there = found.point[:, None]
    slope = np.linalg.norm(function(there + step) - function(there - step)) / 2e-2
    assert slope == pytest.approx(found.lower, rel=0.02)
    norms = np.linalg.norm(W1, 2) * np.linalg.norm(W2, 2)
    most = 0.1**-0.5 * np.abs(TENSORS["gamma"]).max() if "norm" in name else 1.5
    assert found.upper <= norms * most * (1 + 1e-3)


CHANGES = [
    (name, number)
    for name, text in GATES.items()
    for number in sorted(set(NUMBERS) & set(text.replace(";", " ").split()))
    if number != "eps"
]


@pytest.mark.parametrize(("name", "number"), CHANGES, ids=str)
def test_a_pattern_with_one_constant_changed_is_refused_or_another_function(name, number, tmp_path):
    """A factor of the whole scales the bound; any other constant makes it no known function."""
    path = tmp_path / "m.onnx"
    saved(path, GATES[name], **{number: NUMBERS[number] * 1.01 + 0.001})
    whole = {("gelu", "half"), ("gelu by tanh", "half"), ("gelu by tanh, factored", "half"),
             ("RMS norm", "one"), ("gelu, the half first", "half")}  # fmt: skip
    if (name, number) in whole:
        upper = bigspec.lipschitz(path, seed=1, rescale=False, at=0).upper
        saved(path, GATES[name])
        ratio = (NUMBERS[number] * 1.01 + 0.001) / NUMBERS[number]
        plain = bigspec.lipschitz(path, seed=1, rescale=False, at=0).upper
        assert upper == pytest.approx(plain * ratio, rel=1e-2)
        return
    with pytest.raises(SourceError, match="node 'n_") as caught:
        bigspec.lipschitz(path)
    assert "begin and end" in str(caught.value) or "no bound" in str(caught.value)


NEARLY = {
    "no epsilon": "ReduceMean a axis m; Sub a m d; Mul d d s; ReduceMean s axis v; Sqrt v r; "
    "Div d r b",
    "an uncentred numerator": "ReduceMean a axis m; Sub a m d; Mul d d s; ReduceMean s axis v; "
    "Add v eps w; Sqrt w r; Div a r b",
    "a gate of a mirrored ramp": "Sub three a d; Clip d zero six e; Mul a e b",
    "a gate of another value": "Tanh a t; Sigmoid t s; Mul a s b",
    "a gate turned to a column": "Sigmoid a s; Reshape s column r; Mul a r q; ReduceMean q first b",
    "a square": "Mul a a b",
    "a square that is left": "Sigmoid a s; Mul s a b1; Mul a a q; Add b1 q b",
}


@pytest.mark.parametrize("name", NEARLY)
def test_what_is_nearly_a_pattern_is_refused_by_the_name_of_a_node(name, tmp_path):
    nodes = graph(NEARLY[name])
    used = {name for one in nodes for name in one.input}
    more = {"first": np.array([0]), "column": np.array([8, 1])}
    tensors = {k: v for k, v in (TENSORS | more).items() if k in used}
    numbers = {k: np.float32(v) for k, v in NUMBERS.items() if k in used}
    model(tmp_path / "m.onnx", nodes, (1, 8), tensors | numbers)
    with pytest.raises(SourceError, match="node 'n_"):
        bigspec.lipschitz(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "f",
    [gelu(0.7), hard_swish(0.16), gelu_tanh(0.79788, 0.0447), gelu_tanh(0.7979, 0.0448)],
    ids=lambda f: f.name,
)
def test_slopes_with_rounded_constants_lie_in_the_interval(f):
    x = np.linspace(-9, 9, 40_001)[:, None]
    slopes = f.slope(x)
    assert f.low - 1e-14 <= slopes.min()
    assert slopes.max() <= f.high + 1e-14
    change = np.abs(np.diff(slopes, axis=0)) / np.diff(x, axis=0)
    smooth = np.ones(change.shape, bool)
    for kink in f.kinks:
        smooth &= np.abs(x[1:] - kink) > 1e-3
    assert change[smooth].max() <= f.bend * (1 + 1e-9)
    assert slopes.max() == pytest.approx(f.high, abs=8e-3)
