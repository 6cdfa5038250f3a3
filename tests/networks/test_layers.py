"""Kernels of a scan as the layers that they are part of: on images of a size, and of all sizes."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import bigspec
from bigspec import cli
from bigspec.errors import ArgumentError, ResumeError

onnx = pytest.importorskip("onnx")

RNG = np.random.default_rng(5)
FIRST = RNG.standard_normal((4, 3, 3, 3)).astype("f4")
DEPTHWISE = RNG.standard_normal((4, 1, 3, 3)).astype("f4")
UP = RNG.standard_normal((4, 2, 2, 2)).astype("f4")
SAME = RNG.standard_normal((2, 2, 3, 3)).astype("f4")


def saved(folder: Path, *, nodes: Any = None, size: Any = ("n", 3, "h", "w")) -> Path:
    make = onnx.helper.make_node
    nodes = nodes or [
        make("Conv", ["x", "first"], ["a"], strides=[2, 1], pads=[1, 0, 1, 2]),
        make("Relu", ["a"], ["b"]),
        make("Conv", ["b", "depthwise"], ["c"], group=4, dilations=[2, 2], pads=[2, 2, 2, 2]),
        make("ConvTranspose", ["c", "up"], ["d"], strides=[2, 2], output_padding=[1, 0]),
        make("Conv", ["d", "same"], ["e"], strides=[2, 2], auto_pad="SAME_UPPER"),
    ]
    held = {"first": FIRST, "depthwise": DEPTHWISE, "up": UP, "same": SAME}
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [value("x", 1, size)],
        [value("e", 1, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in held.items()],
    )
    onnx.save(onnx.helper.make_model(graph), folder / "m.onnx")
    return folder / "m.onnx"


def layers(height: int, width: int) -> dict[str, Any]:
    """The same convolutions, by hand: sizes as ONNX's documentation computes them."""
    h, w = (height + 2 - 3) // 2 + 1, width + 2 - 3 + 1
    first = bigspec.conv(FIRST, (3, height, width), stride=(2, 1), padding=((1, 1), (0, 2)))
    middle = bigspec.conv(DEPTHWISE, (4, h, w), groups=4, dilation=2, padding=2)
    up = bigspec.conv(UP, (4, h, w), stride=2, transposed=True, output_padding=(1, 0))
    large = up.output_shape
    pads = [(0, 1) if n % 2 == 0 else (1, 1) for n in large[1:]]
    same = bigspec.conv(SAME, large, stride=2, padding=pads)
    assert same.output_shape[1:] == tuple(-(-n // 2) for n in large[1:])
    return {"first": first, "depthwise": middle, "up": up, "same": same}


def test_layers_on_images_have_the_norms_of_their_dense_matrices(tmp_path: Path) -> None:
    found = bigspec.scan(saved(tmp_path), input_shape=(1, 3, 11, 8), seed=1)
    for name, A in layers(11, 8).items():
        row, norm = found[name], np.linalg.norm(A.apply(np.eye(A.shape[1])), 2)
        assert row.layer_lower is not None
        assert row.layer_upper is not None
        assert row.layer_lower <= norm * (1 + 1e-13)
        assert norm <= row.layer_upper * (1 + 1e-13)
        assert row.layer_upper <= row.layer_lower * 1.01
    assert found["first"].layer == "stride 2 x 1, input 3 x 11 x 8"
    assert found["depthwise"].layer == "stride 1, dilation 2, 4 groups, input 4 x 6 x 8"
    assert found["up"].layer.startswith("stride 2, transposed, input")


def test_without_the_size_of_the_input_they_hold_for_all_sizes(tmp_path: Path) -> None:
    found = bigspec.scan(saved(tmp_path))
    for name, A in layers(40, 40).items():
        assert bigspec.norm(A, rtol=1e-2).lower <= found[name].layer_upper
        assert "all sizes of image" in found[name].layer
        assert found[name].layer_certain


def test_a_kernel_of_which_nothing_else_is_known(tmp_path: Path) -> None:
    """Stride 1 and one group bound all strides and groups; the lower end is not known."""
    np.savez(tmp_path / "m.npz", **{"conv.weight": DEPTHWISE, "linear.weight": FIRST[0, 0]})
    found = bigspec.scan(tmp_path / "m.npz")
    row = found["conv.weight"]
    assert (row.layer_lower, row.layer_certain) == (0.0, True)
    for options in ({"groups": 4}, {"groups": 4, "stride": 2}, {"groups": 4, "dilation": 3}):
        norm = bigspec.conv_norm(DEPTHWISE, **options)
        assert norm.lower <= row.layer_upper
    assert row.layer == "stride 1, one group, all sizes of image"
    assert found["linear.weight"].layer == ""
    assert f"<= {row.layer_upper:.4g}"[:6] in found.summary()
    assert "the norm of the convolution, not of the flattened kernel" in found.summary()


def test_keras_has_its_channels_last(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", **{"conv/kernel": FIRST.transpose(2, 3, 1, 0)})
    row = bigspec.scan(tmp_path / "m.npz")["conv/kernel"]
    expected = bigspec.conv_norm(FIRST)
    assert row.layer_upper == pytest.approx(expected.upper, rel=1e-9)


def test_files_say_both_norms(tmp_path: Path) -> None:
    found = bigspec.scan(saved(tmp_path), input_shape={"x": (1, 3, 11, 8)})
    row = found["first"]
    document = found.to_dict()
    assert document["input_shape"] == {"x": [1, 3, 11, 8]}
    said = next(one for one in document["rows"] if one["name"] == "first")
    keys = ("layer", "layer_lower", "layer_upper", "layer_certain")
    assert [said[key] for key in keys] == [getattr(row, key) for key in keys]
    line = next(
        one for one in csv.DictReader(io.StringIO(found.to_csv())) if one["name"] == "first"
    )
    assert float(line["layer_upper"]) == row.layer_upper
    assert "as a layer" in found.to_html()
    assert "stride 2 x 1, input 3 x 11 x 8" in found.to_html()


def test_the_command_takes_the_shape_of_the_input(tmp_path: Path) -> None:
    path = str(saved(tmp_path))
    one = CliRunner().invoke(
        cli.main, ["scan", path, "--input", "1,3,11,8", "--quiet", "--seed", "1"]
    )
    other = CliRunner().invoke(
        cli.main, ["scan", path, "--input", "x=1,3,11,8", "--quiet", "--seed", "1"]
    )
    assert one.exit_code == other.exit_code == 0
    assert one.stdout.splitlines()[:5] == other.stdout.splitlines()[:5]
    for wrong, said in (("1,3,a", "expected numbers such as"), ("1,3,11", "fits input x")):
        result = CliRunner().invoke(cli.main, ["scan", path, "--input", wrong, "--quiet"])
        assert result.exit_code == 2
        assert said in result.stderr


def test_shapes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with pytest.raises(ArgumentError, match=r"fits input x .*\['open', 3, 'open', 'open'\]"):
        bigspec.scan(path, input_shape=(1, 4, 8, 8))
    with pytest.raises(ArgumentError, match=r"the name of an input .*\(x \[None, 3"):
        bigspec.scan(path, input_shape={"y": (1, 3, 8, 8)})
    np.savez(tmp_path / "m.npz", w=FIRST)
    with pytest.raises(ArgumentError, match="input_shape: expected an ONNX file"):
        bigspec.scan(tmp_path / "m.npz", input_shape=(1, 3, 8, 8))


def test_a_graph_that_contradicts_its_kernels_has_a_reason_in_its_row(tmp_path: Path) -> None:
    make = onnx.helper.make_node
    nodes = [make("Conv", ["x", "depthwise"], ["e"], group=4)]
    row = bigspec.scan(saved(tmp_path, nodes=nodes), input_shape=(1, 3, 8, 8))["depthwise"]
    assert row.layer_upper is None
    assert row.upper is not None
    assert "as a layer: input_shape: expected 4 channels" in row.note


def test_a_tensor_that_no_convolution_takes_as_it_lies_is_no_layer(tmp_path: Path) -> None:
    """Its axes may be in another order: TensorFlow's kernels come through a transposition."""
    make = onnx.helper.make_node
    nodes = [
        make("Transpose", ["up"], ["turned"], perm=[1, 0, 2, 3]),
        make("Conv", ["x", "turned"], ["a"]),
        make("Conv", ["a", "first"], ["e"]),
    ]
    found = bigspec.scan(saved(tmp_path, nodes=nodes))
    assert found["first"].layer == "stride 1, all sizes of image"
    for name in ("up", "depthwise", "same"):
        assert (found[name].layer, found[name].layer_upper) == ("", None)
        assert found[name].upper is not None


def test_a_kernel_of_two_layers_has_the_larger_norm(tmp_path: Path) -> None:
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["x", "first"], ["a"], strides=[3, 3]),
        make("Conv", ["x", "first"], ["e"], pads=[1, 1, 1, 1]),
    ]
    row = bigspec.scan(saved(tmp_path, nodes=nodes), input_shape=(1, 3, 8, 8))["first"]
    norm = bigspec.norm(bigspec.conv(FIRST, (3, 8, 8), padding=1))
    assert row.layer == "stride 1, input 3 x 8 x 8, the largest of 2 uses"
    assert norm.lower <= row.layer_upper
    assert row.layer_lower <= norm.upper


def test_a_checkpoint_belongs_to_a_size_of_image(tmp_path: Path) -> None:
    path = saved(tmp_path)
    one = bigspec.scan(path, input_shape=(1, 3, 9, 9), checkpoint=tmp_path / "run").run()
    again = bigspec.scan(path, input_shape=(1, 3, 9, 9), checkpoint=tmp_path / "run").run()
    assert one["first"].layer_upper == again["first"].layer_upper
    with pytest.raises(ResumeError, match=r"input_shape was \[1, 3, 9, 9\], is \[1, 3, 12, 9\]"):
        bigspec.scan(path, input_shape=(1, 3, 12, 9), checkpoint=tmp_path / "run").run()


def test_the_difference_of_two_layers_is_the_layer_of_the_difference(tmp_path: Path) -> None:
    make = onnx.helper.make_node
    other = {"first": FIRST + np.float32(0.01), "depthwise": 2 * DEPTHWISE, "up": UP, "same": SAME}
    first = saved(tmp_path).rename(tmp_path / "a.onnx")
    value, held = (
        onnx.load(first),
        {k: onnx.numpy_helper.from_array(v, k) for k, v in other.items()},
    )
    value.graph.ClearField("initializer")
    value.graph.initializer.extend(held.values())
    value.graph.node[2].CopyFrom(make("Conv", ["b", "depthwise"], ["c"], group=4, pads=[1] * 4))
    onnx.save(value, tmp_path / "b.onnx")
    found = bigspec.scan(first, minus=tmp_path / "b.onnx", input_shape=(1, 3, 11, 8), seed=1)
    D = bigspec.conv(FIRST.astype(float) - other["first"], (3, 11, 8), stride=(2, 1),
                     padding=((1, 1), (0, 2)))  # fmt: skip
    norm = np.linalg.norm(D.apply(np.eye(D.shape[1])), 2)
    row = found["first"]
    assert row.layer_lower * (1 - 1e-13) <= norm <= row.layer_upper * (1 + 1e-13)
    assert row.layer_upper <= row.layer_lower * 1.01
    assert (found["up"].layer_lower, found["up"].layer_upper) == (0.0, 0.0)
    assert found["depthwise"].layer == ""
    assert "use the kernel in different ways" in found["depthwise"].note
