"""Graphs that say something else than they seem to: each value is that of ONNX's own evaluator."""

import math

import numpy as np
import pytest

import bigspec
from bigspec.errors import ArgumentError, SourceError
from tests.networks.lipschitz.test_onnx import model, node, random

onnx = pytest.importorskip("onnx")
from onnx import helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from bigspec.networks.lipschitz.onnx_graph import read_onnx  # noqa: E402
from bigspec.networks.lipschitz.steps import Point  # noqa: E402

FLAT, ONE, IMAGE = (1, 4), (1, 1, 3), (1, 3, 2, 3)
HALVES = np.array([1.5, -2.75, 0.25, 3.5], np.float32)
NUMBERS = {
    "three": np.float32(3), "one": np.float32(1), "zero": np.float32(0), "six": np.float32(6),
    "root": np.float32(math.sqrt(2)), "c": HALVES, "tenth": np.float32(0.1234567),
    "a": np.array([-7, 7, -6, 5]), "b": np.array([2, 2, 2, -3]), "rest": np.array([-1]),
    "none": np.array([], np.int64), "column": np.array([4, 1]),
    "g1": np.array([5.0], np.float32), "b1": np.array([3.0], np.float32),
    "m1": np.zeros(1, np.float32), "v1": np.ones(1, np.float32),
}  # fmt: skip
GRAPHS = {
    "selu of its own": (FLAT, [node("Selu", "x", alpha=1.2, gamma=2.5)]),
    "a constant cast to whole numbers": (FLAT, [node("Cast", "c", "w", to=7),
                                                node("Cast", "w", "f", to=1), node("Mul", "x f")]),
    "a constant cast to truth": (FLAT, [node("Cast", "c", "w", to=9), node("Cast", "w", "f", to=1),
                                        node("Mul", "x f")]),
    "a constant rounded to bfloat16": (FLAT, [node("Cast", "tenth", "w", to=16),
                                              node("Cast", "w", "f", to=1), node("Mul", "x f")]),
    "whole numbers divided": (FLAT, [node("Div", "a b", "w"), node("Cast", "w", "f", to=1),
                                     node("Mul", "x f")]),
    "a part of a shape": (IMAGE, [node("Shape", "x", "s", start=1, end=-1),
                                  node("Concat", "s rest", "t", axis=0), node("Reshape", "x t")]),
    "the mean over no axes": (IMAGE, [node("ReduceMean", "x none", keepdims=0)]),
    "an old slope a channel": (IMAGE, [node("PRelu", "x slopes")], 6),
    "erf turned round": (FLAT, [node("Div", "x root", "d"), node("Erf", "d", "e"),
                                node("Sub", "one e", "p"), node("Mul", "x p")],
                         18, "like a square"),
    "hard swish turned round": (FLAT, [node("Sub", "three x", "d"),
                                       node("Clip", "d zero six", "e"), node("Mul", "x e")],
                                18, "like a square"),
    "a gate after a weight": (ONE, [node("BatchNormalization", "x g1 b1 m1 v1", "d"),
                                    node("Clip", "d zero six", "e"), node("Mul", "x e")],
                              18, "like a square"),
    "a gate that stands across": (FLAT, [node("Reshape", "x column", "r"),
                                         node("Sigmoid", "r", "s"), node("Mul", "x s")],
                                  18, "like a square"),
    "seven digits before a gate": (FLAT, [node("Mul", "x tenth", "t"), node("Sigmoid", "x", "s"),
                                          node("Mul", "t s")]),
    "another image in the batch": (IMAGE, [node("Transpose", "x", "t", perm=[1, 0, 2, 3]),
                                           node("MaxPool", "t", kernel_shape=[1, 1])],
                                   18, "one image"),
    "a constant that fits nothing": ((1, 5), [node("Sub", "x c")], 18, "do not fit"),
    "broadcast along an axis": (IMAGE, [node("Mul", "x slopes", axis=1, broadcast=1)], 6, "axis"),
    "statistics of the batch": ((1, 1), [node("BatchNormalization", "x g1 b1 m1 v1", "y m2")],
                                9, "training"),
    "an addition of somebody else": (FLAT, [node("Add", "x c", domain="else")], 18,
                                     "not understood"),
    "a constant of somebody else": (FLAT, [node("Neg", "c", "d", domain="else"),
                                           node("Add", "x d")], 18, "not understood"),
    "a constant divided by nothing": (FLAT, [node("Div", "a four", "w"), node("Add", "x w")], 18,
                                      "by 0"),
}  # fmt: skip
NUMBERS |= {"slopes": random(3), "four": np.array([1, 0, 1, 1])}


def values(tmp_path, x):
    with np.errstate(invalid="ignore"):  # bounds of rounding, while no norm is known
        return read_onnx(tmp_path / "m.onnx").forward(Point(x, np.zeros(x.shape[1])))[0].x


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_has_the_values_of_its_evaluator_or_is_refused(name, tmp_path):
    shape, nodes, *rest = GRAPHS[name]
    opset, said = (*rest, *(18, "")[len(rest) :])
    used = {value for one in nodes for value in one.input}
    tensors = {key: value for key, value in NUMBERS.items() if key in used}
    proto = model(tmp_path / "m.onnx", nodes, shape, tensors, opset)
    if said:
        with pytest.raises(SourceError, match=said):
            read_onnx(tmp_path / "m.onnx")
        return
    x = np.linspace(-2, 2, 3 * math.prod(shape)).reshape(3, *shape).astype(np.float32)
    flat = x.reshape(3, -1).T.astype(float)
    image = values(tmp_path, flat)
    if name == "an old slope a channel":
        slopes = NUMBERS["slopes"].reshape(3, 1, 1)
        expected = [np.where(one > 0, one, slopes * one).reshape(-1) for one in x]
    else:
        session = ReferenceEvaluator(proto)
        expected = [session.run(None, {"x": one})[0].reshape(-1) for one in x]
    np.testing.assert_allclose(image, np.stack(expected, axis=1), rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize("opset", [5, 6])
def test_selu_has_the_numbers_of_its_opset(opset, tmp_path):
    model(tmp_path / "m.onnx", [node("Selu", "x")], FLAT, {}, opset)
    said = onnx.defs.get_schema("Selu", opset).attributes
    alpha, gamma = (said[key].default_value.f for key in ("alpha", "gamma"))
    x = np.linspace(-2, 2, 4)[:, None]
    expected = gamma * np.where(x > 0, x, alpha * np.expm1(x))
    np.testing.assert_allclose(values(tmp_path, x), expected, rtol=1e-7)


def test_an_image_of_another_size_than_the_file_says_is_another_network(tmp_path):
    nodes = [node("Relu", "x", "r"), node("Mul", "r three")]
    model(tmp_path / "m.onnx", nodes, (8, 3, "height", 5), {"three": NUMBERS["three"]})
    assert read_onnx(tmp_path / "m.onnx", [1, 3, 9, 5]).steps
    for sizes in ([1, 3, 9, 6], [1, 3, 45]):
        with pytest.raises(ArgumentError, match=r"fit those of the file, 8x3x\?x5"):
            bigspec.lipschitz(tmp_path / "m.onnx", input_shape=sizes)


def test_an_empty_list_of_axes_is_a_list(tmp_path):
    made = helper.make_node("ReduceMean", ["x"], ["y"], name="n_y", keepdims=0)
    made.attribute.append(onnx.AttributeProto(name="axes", type=onnx.AttributeProto.INTS))
    model(tmp_path / "m.onnx", [made], FLAT, {}, 13)
    np.testing.assert_allclose(values(tmp_path, np.arange(4.0)[:, None]), [[1.5]])
