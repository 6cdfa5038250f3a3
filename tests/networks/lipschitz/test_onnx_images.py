"""Nodes of ONNX that change the size of images: each as a matrix, against the reference."""

import math

import numpy as np
import pytest

import bigspec
from bigspec.errors import SourceError

onnx = pytest.importorskip("onnx")
from onnx.reference import ReferenceEvaluator  # noqa: E402

from tests.networks.lipschitz.test_onnx import model, node  # noqa: E402

SHAPE = (1, 2, 5, 4)
TENSORS = {
    "none": np.zeros(0, np.float32), "twice": np.float32([1, 1, 2, 2]),
    "odd": np.float32([1, 1, 3, 1]), "half": np.float32([1, 1, 0.6, 1.5]),
    "sizes": np.array([1, 2, 7, 3]), "pair": np.array([3, 9]),
    "up": np.float32([1, 1, 2, 3]),
}  # fmt: skip


def resize(inputs="x none twice", **attributes):
    return node("Resize", inputs, **attributes)


LINEAR = {
    "nearest, twice": resize(),
    "nearest, old": resize("x none twice", coordinate_transformation_mode="asymmetric",
                           nearest_mode="floor"),
    "nearest, an odd factor": resize("x none odd"),
    "nearest, between": resize("x none half", nearest_mode="ceil"),
    "nearest, sizes": resize("x none none sizes"),
    "lines, half pixels": resize(mode="linear"),
    "lines, corners": resize("x none none sizes", mode="linear",
                             coordinate_transformation_mode="align_corners"),
    "lines, asymmetric": resize("x none half", mode="linear",
                                coordinate_transformation_mode="asymmetric"),
    "lines, two axes": resize("x none none pair", mode="linear", axes=[2, 3]),
    "means inside": node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "means, the last window cut": node("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2],
                                       ceil_mode=1),
    "a mean of all": node("GlobalAveragePool", "x"),
}  # fmt: skip


def saved(path, made, opset=18):
    used = {name: TENSORS[name] for name in made.input if name in TENSORS}
    return model(path, [made], SHAPE, used, opset)


def jacobian(proto):
    session = ReferenceEvaluator(proto)
    columns = np.eye(math.prod(SHAPE), dtype=np.float32)
    return np.stack(
        [session.run(None, {"x": e.reshape(SHAPE)})[0].ravel() for e in columns], axis=1
    ).astype(float)


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_node_has_the_norm_of_what_the_reference_computes(name, tmp_path):
    exact = np.linalg.norm(jacobian(saved(tmp_path / "m.onnx", LINEAR[name])), 2)
    found = bigspec.lipschitz(tmp_path / "m.onnx", seed=1)
    assert found.bound == "norm"
    assert found.lower <= exact * (1 + 1e-6)
    assert exact <= found.upper * (1 + 1e-6)
    assert found.upper <= exact * (1 + 2e-3)


def test_a_whole_factor_of_the_nearest_number_has_a_certain_norm(tmp_path):
    saved(tmp_path / "m.onnx", node("Upsample", "x up"), opset=9)
    found = bigspec.lipschitz(tmp_path / "m.onnx", seed=1)
    assert found.deterministic
    assert found.lower <= math.sqrt(6) <= found.upper


def test_maxima_over_a_window_that_reaches_beyond_the_image(tmp_path):
    made = node("MaxPool", "x", kernel_shape=[2, 3], strides=[2, 3], ceil_mode=1)
    session = ReferenceEvaluator(model(tmp_path / "m.onnx", [made, node("Flatten", "y", "z")],
                                       SHAPE, {}, outputs=("z",)))  # fmt: skip
    from bigspec.networks.lipschitz.onnx_graph import read_onnx
    from bigspec.networks.lipschitz.steps import Point

    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    image, _ = read_onnx(tmp_path / "m.onnx").forward(
        Point(x.reshape(-1, 1).astype(float), np.zeros(1))
    )
    assert np.array_equal(image.x[:, 0], session.run(None, {"x": x})[0].ravel())


REFUSED = {
    "cubic": (resize(mode="cubic"), "mode: expected"),
    "cut": (resize(coordinate_transformation_mode="tf_crop_and_resize"), "coordinate"),
    "smoothed": (resize(mode="linear", antialias=1), "antialias"),
    "kept in shape": (resize("x none none sizes", keep_aspect_ratio_policy="not_larger"), "aspect"),
    "counted beyond": (node("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1,
                            count_include_pad=1, pads=[1, 1, 0, 0]), "ceil_mode"),
    "LSTM": (node("LSTM", "x x x", hidden_size=2), "length of the sequence"),
    "GRU": (node("GRU", "x x x", hidden_size=2), "bigspec scan"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_another_way_of_changing_sizes_is_refused_by_name(name, tmp_path):
    made, said = REFUSED[name]
    saved(tmp_path / "m.onnx", made)
    with pytest.raises(SourceError, match=f"node 'n_y'.*{said}"):
        bigspec.lipschitz(tmp_path / "m.onnx")
