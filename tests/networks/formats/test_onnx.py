"""ONNX: every place where an exporter puts weights, every type, external data, what is done."""

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bigspec.errors import MemoryLimitError, SourceError
from bigspec.networks.formats import open_model
from bigspec.networks.formats.onnx_tensors import TYPES
from tests.networks.formats import writers

A = np.arange(12, dtype="f4").reshape(3, 4)


def proto(name, array=A):
    return numpy_helper.from_array(array, name)


def constant(name, array):
    return helper.make_node("Constant", [], [name], name=f"make_{name}", value=proto("", array))


def graph(name, nodes=(), weights=(), **more):
    return helper.make_graph(list(nodes), name, [], [], initializer=list(weights), **more)


def saved(path, made, **more):
    onnx.save(helper.make_model(made, **more), path / "m.onnx")
    return path / "m.onnx"


def damaged(path, made):
    with pytest.raises(SourceError) as caught:
        open_model(saved(path, made))
    return str(caught.value).removeprefix(f"{path}/m.onnx: ")


# Where weights are -------------------------------------------------------------------------------


def test_constants_are_tensors_by_the_name_of_their_output(tmp_path):
    nodes = [
        constant("w", A),
        helper.make_node("Constant", [], ["fs"], value_floats=[1.5, 2.5]),
        helper.make_node("Constant", [], ["f"], value_float=2.0),
        helper.make_node("Constant", [], ["is"], value_ints=[1, 2]),
        helper.make_node("Constant", [], ["s"], value_string="x"),
    ]
    model = open_model(saved(tmp_path, graph("g", nodes)))
    assert list(model) == ["w", "fs", "f", "is"]
    np.testing.assert_array_equal(model["w"].read(), A)
    np.testing.assert_array_equal(model["fs"].read(), np.float32([1.5, 2.5]))
    assert (model["f"].read(), model["is"].dtype) == (2, "int64")


def test_inner_graphs_are_called_by_their_node(tmp_path):
    deepest = graph("deepest", [], [proto("w", A + 3)])
    inner = helper.make_node("Loop", ["n"], [], name="again", body=deepest)
    then = graph("then", [constant("w", A + 1), inner])
    other = graph("else", [], [proto("w", A + 2), proto("w", A + 4)])
    node = helper.make_node("If", ["c"], [], then_branch=then, else_branch=other)
    model = open_model(saved(tmp_path, graph("g", [node], [proto("w")])))
    expected = {
        "w": 0, "If_0/else_branch/w": 2, "If_0/else_branch/w:2": 4, "If_0/then_branch/w": 1,
        "If_0/then_branch/again/body/w": 3,
    }  # fmt: skip
    assert set(model) == set(expected)
    for name, more in expected.items():
        np.testing.assert_array_equal(model[name].read(), A + more)


def test_bodies_of_functions_are_called_by_the_function(tmp_path):
    opset = [helper.make_opsetid("", 17)]
    function = helper.make_function("mine", "f", [], ["w"], [constant("w", A)], opset)
    model = open_model(saved(tmp_path, graph("g"), functions=[function]))
    np.testing.assert_array_equal(model["mine.f/w"].read(), A)


def test_layers_say_what_is_done_with_a_weight(tmp_path):
    kernel = np.zeros((2, 3, 3, 3), "f4")
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1], group=1),
        helper.make_node("Gemm", ["y", "w"], ["z"], transB=1, alpha=0.5),
        helper.make_node("Identity", ["w"], ["same"]),
        helper.make_node("MatMul", ["same", "z"], ["o"]),
        helper.make_node("ConvTranspose", ["o", "k"], ["p"], auto_pad="SAME_UPPER"),
        helper.make_node("If", ["c"], [], then_branch=graph(
            "t", [helper.make_node("MatMul", ["x", "w"], ["q"])])),
    ]  # fmt: skip
    notes = open_model(saved(tmp_path, graph("g", nodes, [proto("k", kernel), proto("w")]))).notes
    assert notes["layers"] == {
        "k": [
            {"op": "Conv", "input": 1, "group": 1, "pads": [1, 1, 1, 1], "strides": [2, 2],
             "data": "x"},
            {"op": "ConvTranspose", "input": 1, "auto_pad": "SAME_UPPER", "data": "o"},
        ],
        "w": [
            {"op": "Gemm", "input": 1, "alpha": 0.5, "transB": 1},
            {"op": "MatMul", "input": 0},
            {"op": "MatMul", "input": 1},
        ],
    }  # fmt: skip


# Types -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", TYPES)
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "listed"])
def test_every_type_is_read_as_the_package_reads_it(number, raw, tmp_path):
    values = np.asarray([[1, 0, 1], [1, 1, 0], [0, 1, 1]], "f4")  # nine: no whole bytes of 4 bits
    dtype = helper.tensor_dtype_to_np_dtype(number)
    held = values.astype(dtype)
    if raw:
        made = numpy_helper.from_array(held, "w")
    else:
        made = helper.make_tensor("w", number, held.shape, held.reshape(-1))
    model = open_model(saved(tmp_path, graph("g", [], [made])))
    got = model["w"].read()
    assert model["w"].dtype == TYPES[number] == dtype.name
    assert got.dtype == dtype
    assert got.tobytes() == numpy_helper.to_array(made).tobytes() == held.tobytes()


def test_texts_are_a_row_with_a_reason(tmp_path):
    made = helper.make_tensor("w", TensorProto.STRING, [1], [b"x"])
    tensor = open_model(saved(tmp_path, graph("g", [], [made])))["w"]
    assert tensor.refusal == ("it holds entries of type string, which bigspec does not read")


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_tensors_are_dense_when_they_are_read(flat, tmp_path):
    places = np.asarray([1, 11] if flat else [[0, 1], [2, 3]], "i8")
    made = helper.make_sparse_tensor(proto("w", np.float32([5, 6])), proto("", places), [3, 4])
    tensor = open_model(saved(tmp_path, graph("g", sparse_initializer=[made])))["w"]
    expected = np.zeros((3, 4), "f4")
    expected[0, 1], expected[2, 3] = 5, 6
    np.testing.assert_array_equal(tensor.read(), expected)
    assert tensor.token() == open_model(tmp_path / "m.onnx")["w"].token()


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([1, 12], "tensor 'w' has a place outside its shape (3, 4)"),
        ([1, -1], "tensor 'w' has a place outside its shape (3, 4)"),
        ([3, 3], "tensor 'w' has two values at one place"),
        ([3], "expected a place for each value of tensor 'w', got values (2,) and indices (1,) of type int64"),
    ],
)  # fmt: skip
def test_sparse_tensors_that_lie(places, said, tmp_path):
    values = proto("w", np.float32([5, 6]))
    made = helper.make_sparse_tensor(values, proto("", np.asarray(places, "i8")), [3, 4])
    with pytest.raises(SourceError) as caught:
        open_model(saved(tmp_path, graph("g", sparse_initializer=[made])))["w"].read()
    assert str(caught.value) == f"{tmp_path}/m.onnx: {said}"


def test_a_sparse_tensor_too_large_to_be_dense(tmp_path):
    values, places = proto("w", np.float32([5])), proto("", np.asarray([7], "i8"))
    made = helper.make_sparse_tensor(values, places, [1 << 20, 1 << 20])
    tensor = open_model(saved(tmp_path, graph("g", sparse_initializer=[made])))["w"]
    with pytest.raises(
        MemoryLimitError, match=r"m\.onnx: tensor 'w', made dense: expected an array"
    ):
        tensor.read()


# External data -----------------------------------------------------------------------------------


def outside(path, location="w.bin", **said):
    made = TensorProto(name="w", data_type=1, dims=A.shape, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **said}.items():
        made.external_data.add(key=key, value=str(value))
    return saved(path, graph("g", [], [made]))


def test_external_data_is_mapped_where_the_package_put_it(tmp_path):
    made = helper.make_model(graph("g", [], [proto("a"), proto("b", A + 1)]))
    onnx.save(made, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="w")
    model = open_model(tmp_path / "m.onnx")
    for name, expected in (("a", A), ("b", A + 1)):
        np.testing.assert_array_equal(model[name].read(), expected)
        assert model[name].file == f"{tmp_path}/w"


def test_the_same_external_bytes_are_tied(tmp_path):
    (tmp_path / "w.bin").write_bytes(A.tobytes())
    one, other = (TensorProto(name=n, data_type=1, dims=A.shape, data_location=1) for n in "ab")
    for made in (one, other):
        made.external_data.add(key="location", value="w.bin")
    model = open_model(saved(tmp_path, graph("g", [], [one, other])))
    assert model["a"].storage == model["b"].storage is not None


def test_external_data_elsewhere_is_not_opened(tmp_path):
    inner = tmp_path / "model"
    (inner / "sub").mkdir(parents=True)
    (tmp_path / "w.bin").write_bytes(A.tobytes())
    (inner / "link.bin").symlink_to(tmp_path / "w.bin")
    (inner / "sub" / "up").symlink_to(tmp_path)
    for where in (
        "../w.bin",
        str(tmp_path / "w.bin"),
        "link.bin",
        "sub/up/w.bin",
        "",
        "a\\b",
        "a\0",
    ):
        with pytest.raises(SourceError) as caught:
            open_model(outside(inner, where))
        assert str(caught.value) == (
            f"{inner}/m.onnx: expected external data of tensor 'w' in the folder of the file, got "
            f"{where!a}; copy it there, and not as a link"
        )
    (inner / "sub" / "w.bin").write_bytes(A.tobytes())
    np.testing.assert_array_equal(open_model(outside(inner, "sub/w.bin"))["w"].read(), A)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"offset": 4}, "w.bin: expected tensor 'w' at bytes 4 to 52, got a file of 48 bytes; it was cut short, or its header is wrong: copy it again"),
        ({"offset": -4}, "w.bin: expected tensor 'w' at bytes -4 to 44, got a file of 48 bytes; it was cut short, or its header is wrong: copy it again"),
        ({"offset": 1 << 70}, f"w.bin: expected tensor 'w' at bytes {1 << 70} to {48 + (1 << 70)}, got a file of 48 bytes; it was cut short, or its header is wrong: copy it again"),
        ({"offset": "9" * 4300}, "w.bin: expected tensor 'w' at bytes 2^14285 to 2^14285, got a file of 48 bytes; it was cut short, or its header is wrong: copy it again"),
        ({"length": 44}, "w.bin: expected 48 bytes for tensor 'w' of shape [3, 4] and type float32, got 44; export it again"),
        ({"offset": "x"}, "m.onnx: expected numbers as offset and length of tensor 'w', got 'x' and ''"),
        ({"location": "no.bin"}, "m.onnx: the external data of tensor 'w', 'no.bin', is not there; copy it to the folder of the file"),
    ],
)  # fmt: skip
def test_external_data_that_lies(said, message, tmp_path):
    (tmp_path / "w.bin").write_bytes(A.tobytes())
    with pytest.raises(SourceError) as caught:
        open_model(outside(tmp_path, **said))
    assert str(caught.value) == f"{tmp_path}/{message}"


# Lies ---------------------------------------------------------------------------------------------


def test_numbers_that_do_not_fill_the_shape(tmp_path):
    made = proto("w")
    made.raw_data = made.raw_data[:-4]
    assert damaged(tmp_path, graph("g", [], [made])) == (
        "expected 48 bytes for tensor 'w' of shape [3, 4] and type float32, got 44; export it again"
    )
    made = TensorProto(name="w", data_type=1, dims=[1 << 40, 1 << 40])
    assert damaged(tmp_path, graph("g", [], [made])) == (
        "expected a shape of whole lengths from 0 on, whose product fits 62 bits, for tensor 'w', "
        "got [1099511627776, 1099511627776]"
    )
    made = TensorProto(name="w", data_type=1, dims=[1 << 40])
    assert damaged(tmp_path, graph("g", [], [made])) == (
        "expected 1099511627776 numbers in float_data of tensor 'w' of shape [1099511627776] and "
        "type float32, got 0; export it again"
    )
    made = TensorProto(name="w", data_type=1, dims=[-1])
    assert damaged(tmp_path, graph("g", [], [made])).startswith("expected a shape of whole lengths")


def test_messages_that_are_none(tmp_path):
    path = tmp_path / "m.onnx"
    for raw, said in [
        (b"\x3a\xff\xff\xff\x7f", "a field of 268435455 bytes at byte 0, where 0 are left"),
        (b"\xff" * 12, "a number at byte 10 that does not end"),
        (b"\x3b", "a field of wire type 3 at byte 0"),
        (b"\x09\x00", "a field at byte 0 that ends outside its message"),
        (b"\x00\x00", "a field at byte 0 that ends outside its message"),
    ]:
        path.write_bytes(raw)
        with pytest.raises(SourceError) as caught:
            open_model(path)
        assert str(caught.value) == (
            f"{path}: expected an ONNX model, got a file that cannot be read as one ({said}); it "
            "was cut short or damaged: copy it again"
        )
    path.write_bytes(b"\x08\x07")
    with pytest.raises(SourceError, match="expected an ONNX model with a graph, got one without"):
        open_model(path)


def test_graphs_inside_graphs_end(tmp_path):
    raw = b""
    for _ in range(60):  # graph > node > attribute > graph: three levels each
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            size = len(raw)
            length = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
            raw = tag + length + raw
    size = len(raw)
    (tmp_path / "m.onnx").write_bytes(b"\x3a" + bytes([size & 0x7F | 0x80, size >> 7]) + raw)
    with pytest.raises(SourceError, match="messages in 101 levels"):
        open_model(tmp_path / "m.onnx")


def test_the_numbers_stay_in_the_file(tmp_path):
    path = writers.write_onnx(tmp_path / "m.onnx", {"w": np.zeros((500, 500), "f4")})
    got = open_model(path)["w"].read()
    assert not got.flags.writeable  # mapped
    assert got.base is not None


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    path = writers.write_onnx(tmp_path / "m.onnx", {"w": A})
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SourceError) as caught:
        open_model(path)
    assert str(caught.value) == (
        f"{path}: ONNX needs onnx: pip install onnx (or install bigspec, as you did, with its extra [onnx])"
    )


def test_a_url_is_refused_with_what_to_do(tmp_path):
    import fsspec

    path = writers.write_onnx(tmp_path / "m.onnx", {"w": A})
    fsspec.filesystem("memory").pipe_file("/onnx/m.onnx", path.read_bytes())
    with pytest.raises(SourceError) as caught:
        open_model("memory://onnx/m.onnx")
    assert str(caught.value) == (
        "memory://onnx/m.onnx: ONNX is read from a path; copy it, and its external data, to a disk"
    )
