"""Stacks that ONNX graphs are: what each node becomes, and what is refused with its name."""

import math

import numpy as np
import pytest

import bigspec
from bigspec.errors import ArgumentError, SourceError
from tests.networks.lipschitz.test_lipschitz import sampled

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def model(path, nodes, shape, tensors, opset=18, outputs=("y",)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    onnx.save(made, path)
    return made


def node(op, inputs, outputs="y", **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"n_{outputs.split()[0]}",
                            **attributes)  # fmt: skip


W1, W2, B1 = random(6, 12), random(5, 6), random(6)
K1, K2, KB = random(4, 2, 3, 3), random(4, 4, 3, 3), random(4)
HALF, ONE, ROOT = np.float32(0.5), np.float32(1.0), np.float32(math.sqrt(2))
NORM = {"g": random(4), "b": random(4), "m": random(4), "v": np.abs(random(4)) + 0.1}
CONSTANTS = {"W1": W1, "W2": W2, "B1": B1, "K1": K1, "K2": K2, "KB": KB, "half": HALF, "one": ONE,
             "root": ROOT, "three": np.float32(3), "six": np.float32(6), "zero": np.float32(0),
             "flat": np.array([1, -1]), **NORM}  # fmt: skip
FLAT = (1, 12)
IMAGE = (1, 2, 6, 6)
GRAPHS = {
    "gemm": (FLAT, [node("Gemm", "x W1 B1", "a", transB=1, alpha=0.5), node("Relu", "a", "r"),
                    node("Gemm", "r W2", transB=1)]),
    "matmul": (FLAT, [node("Transpose", "W1", "t", perm=[1, 0]), node("MatMul", "x t", "a"),
                      node("Add", "B1 a", "c"), node("Tanh", "c")]),
    "gelu": (FLAT, [node("Gemm", "x W1", "a", transB=1), node("Div", "a root", "d"),
                    node("Erf", "d", "e"), node("Add", "e one", "p"), node("Mul", "a p", "q"),
                    node("Mul", "q half")]),
    "silu": (FLAT, [node("Gemm", "x W1", "a", transB=1), node("Sigmoid", "a", "s"),
                    node("Mul", "s a")]),
    "hard swish": (FLAT, [node("Gemm", "x W1", "a", transB=1), node("Add", "a three", "d"),
                          node("Clip", "d zero six", "e"), node("Mul", "a e", "q"),
                          node("Div", "q six")]),
    "mish": (FLAT, [node("Gemm", "x W1", "a", transB=1), node("Softplus", "a", "s"),
                    node("Tanh", "s", "t"), node("Mul", "a t")]),
    "convolutions": (IMAGE, [node("Conv", "x K1 KB", "a", pads=[1, 1, 1, 1], strides=[2, 2]),
                             node("BatchNormalization", "a g b m v", "n", epsilon=1e-3),
                             node("LeakyRelu", "n", "r", alpha=0.2), node("Conv", "r K2", "c"),
                             node("Flatten", "c")]),
    "residual": (IMAGE, [node("Conv", "x K1 KB", "a", pads=[1, 1, 1, 1]), node("Relu", "a", "r"),
                         node("Conv", "r K2 KB", "c", auto_pad="SAME_UPPER"),
                         node("Relu", "c", "s"), node("Add", "r s", "t"), node("Relu", "t")]),
    "concat and pools": (IMAGE, [node("MaxPool", "x", "a", kernel_shape=[3, 3], strides=[1, 1],
                                      pads=[1, 1, 1, 1]),
                                 node("AveragePool", "x", "b1", kernel_shape=[3, 3],
                                      pads=[1, 1, 1, 1], count_include_pad=1),
                                 node("Concat", "a b1", "c", axis=1),
                                 node("GlobalAveragePool", "c", "d"),
                                 node("Shape", "d", "s"), node("Reshape", "d flat")]),
    "transposed": (IMAGE, [node("Transpose", "x", "a", perm=[0, 2, 3, 1]), node("Relu", "a", "r"),
                           node("ReduceMean", "r", axes=[1], keepdims=0)]),
    "pad and split": (IMAGE, [node("Pad", "x pads", "p"), node("Split", "p", "a c", axis=1,
                                                               num_outputs=2),
                              node("Sub", "a c", "d"), node("Abs", "d")]),
    "layer norm": (FLAT, [node("Gemm", "x W1", "a", transB=1),
                          node("LayerNormalization", "a B1 B1", "n", epsilon=0.1),
                          node("Softmax", "n", axis=-1)]),
    "upward": (IMAGE, [node("ConvTranspose", "x KT", "a", strides=[2, 2]), node("Elu", "a")]),
}  # fmt: skip
MORE = {"pads": np.array([0, 0, 1, 0, 0, 0, 2, 1]), "KT": random(2, 3, 3, 3)}


def tensors(nodes):
    used = {name for one in nodes for name in one.input}
    return {k: v for k, v in (CONSTANTS | MORE).items() if k in used}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_is_the_stack_that_the_reference_computes(name, tmp_path):
    shape, nodes = GRAPHS[name]
    opset = 17 if name == "transposed" else 18
    proto = model(tmp_path / "m.onnx", nodes, shape, tensors(nodes), opset)
    session = ReferenceEvaluator(proto)

    def function(points):
        rows = [session.run(None, {"x": p.reshape(shape).astype(np.float32)})[0].ravel()
                for p in points.T]  # fmt: skip
        return np.stack(rows, axis=1).astype(float)

    found = bigspec.lipschitz(tmp_path / "m.onnx", seed=1, rescale=False)
    n = math.prod(shape)
    assert (found.inputs, found.outputs) == (n, len(function(np.zeros((n, 1)))))
    rng = np.random.default_rng(1)
    x = rng.standard_normal((n, 6))
    y = x + 0.1 * rng.standard_normal((n, 6))
    d = np.linalg.norm(function(x) - function(y), axis=0) / np.linalg.norm(x - y, axis=0)
    assert d.max() <= found.upper * (1 + 1e-3)
    step = 1e-2 * found.right[:, None]
    slope = np.linalg.norm(function(found.point[:, None] + step)
                           - function(found.point[:, None] - step)) / 2e-2  # fmt: skip
    assert slope == pytest.approx(found.lower, rel=0.05)


def refused(tmp_path, nodes, shape=FLAT, opset=18, **arguments):
    model(tmp_path / "m.onnx", nodes, shape, tensors(nodes), opset)
    with pytest.raises((SourceError, ArgumentError)) as caught:
        bigspec.lipschitz(tmp_path / "m.onnx", **arguments)
    return str(caught.value)


WRONG = {
    "unknown": ([node("LRN", "x", size=3)], IMAGE, r"'n_y' (LRN)"),
    "gate": ([node("Gemm", "x W1", "a", transB=1), node("Exp", "a", "e"), node("Mul", "a e")],
             FLAT, "'n_e' (Exp)"),
    "product": ([node("Gemm", "x W1", "a", transB=1), node("Tanh", "a", "e"), node("Mul", "a e")],
                FLAT, "'n_y' (Mul)"),
    "attention": ([node("Transpose", "x", "t"), node("MatMul", "x t")], FLAT, "'n_y' (MatMul)"),
    "rows": ([node("Transpose", "W1", "t"), node("MatMul", "x t")], (1, 3, 12), "3 rows"),
    "squared": ([node("Mul", "x x")], FLAT, "grows like a square"),
    "whole numbers": ([node("Cast", "x", to=7)], FLAT, "jumps"),
    "training": ([node("BatchNormalization", "x g b m v", training_mode=1)], (1, 4, 2), "eval"),
    "open size": ([node("Relu", "x")], (1, "n"), "input_shape"),
    "batch": ([node("Relu", "x")], (4, 3), "batch of 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_node_that_is_not_understood_is_named(name, tmp_path):
    nodes, shape, said = WRONG[name]
    assert said in refused(tmp_path, nodes, shape)


def test_a_part_of_a_graph_that_cannot_be_bounded_as_a_whole(tmp_path):
    nodes = [node("Exp", "x", "e"), node("Gemm", "e W1 B1", "a", transB=1), node("Relu", "a", "r"),
             node("Gemm", "r W2", "c", transB=1), node("Exp", "c")]  # fmt: skip
    model(tmp_path / "m.onnx", nodes, ("batch", 12), tensors(nodes))
    found = bigspec.lipschitz(
        tmp_path / "m.onnx", begin="e", end="c", input_shape=[1, 12], at=np.ones((1, 12)), seed=1
    )
    here = bigspec.lipschitz([(W1, B1), "relu", W2], at=np.ones((1, 12)), seed=1)
    assert found.upper == pytest.approx(here.upper, rel=1e-9)
    assert found.lower == pytest.approx(here.lower, rel=1e-6)
    with pytest.raises(ArgumentError, match="begin"):
        bigspec.lipschitz(tmp_path / "m.onnx", begin="nothing", input_shape=[1, 12])
    with pytest.raises(SourceError, match="made from the beginning"):
        bigspec.lipschitz(tmp_path / "m.onnx", begin="c", end="r", input_shape=[1, 5])


def test_a_batch_size_that_is_open_is_one(tmp_path):
    nodes = [node("Gemm", "x W1", transB=1)]
    model(tmp_path / "m.onnx", nodes, ("batch", 12), tensors(nodes))
    found = bigspec.lipschitz(tmp_path / "m.onnx", input_shape=[1, 12], seed=1)
    assert found.bound == "norm"
    assert sampled(lambda x: W1 @ x, 12) <= found.upper
    assert bigspec.lipschitz(tmp_path / "m.onnx", seed=1).upper == found.upper


def test_arguments_of_graphs_need_a_graph():
    with pytest.raises(ArgumentError, match="ONNX"):
        bigspec.lipschitz([W1], input_shape=[1, 12])
