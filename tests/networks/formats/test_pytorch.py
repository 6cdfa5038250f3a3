"""PyTorch's two forms: views, ties, nested dicts, and pickles that would run something."""

import os
import pickle
import struct
import tarfile
import zipfile

import ml_dtypes
import numpy as np
import pytest

from bigspec.errors import SourceError
from bigspec.networks.formats import open_model
from bigspec.networks.formats.pickles import LONGEST
from tests.networks.formats import writers
from tests.networks.formats.writers import (
    called,
    mapping,
    name,
    pickled,
    rebuilt,
    several,
    storage,
    tensor,
    text,
    torch_zip,
    whole,
)

A = np.arange(24, dtype="f4").reshape(4, 6)
STORED = storage(0, "FloatStorage", 24)
RECORDS = {"0": A.tobytes()}
HOOKS = name("collections", "OrderedDict") + b")R"


def one(path, value, records=RECORDS, **more):
    """A file whose pickle is this value."""
    return torch_zip(path / "m.pt", pickled(value), records, **more)


def under(value):
    return mapping({"w": value})


def refused(path, value, **more):
    with pytest.raises(SourceError) as caught:
        open_model(one(path, value, **more))
    return str(caught.value).removeprefix(f"{path}/m.pt: ")


# Tensors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "expected"),
    [
        ((6, 4), (1, 6), 0, A.T),
        ((4, 3), (6, 2), 1, A[:, 1::2]),
        ((2, 6), (6, 1), 12, A[2:]),
        ((), (), 5, A[0, 5]),
        ((0, 6), (6, 1), 24, A[4:]),
        ((4, 1, 6), (6, 99, 1), 0, A[:, None]),
    ],
)
def test_strides_are_honoured(shape, strides, offset, expected, tmp_path):
    path = one(tmp_path, under(rebuilt(STORED, shape, strides, offset)))
    got = open_model(path)["w"].read()
    assert got.shape == shape
    assert not got.flags.writeable or not got.size
    np.testing.assert_array_equal(got, expected)


def test_only_the_same_view_of_a_storage_is_tied(tmp_path):
    parts = {
        "a": rebuilt(STORED, (4, 6), (6, 1)),
        "tied": rebuilt(STORED, (4, 6), (6, 1)),
        "turned": rebuilt(STORED, (6, 4), (1, 6)),
        "part": rebuilt(STORED, (2, 6), (6, 1)),
        "later": rebuilt(STORED, (2, 6), (6, 1), 12),
    }
    model = open_model(one(tmp_path, mapping(parts)))
    assert model["a"].storage == model["tied"].storage is not None
    assert len({tensor.storage for tensor in model.values()}) == 4


def test_parameters_and_other_rebuilds(tmp_path):
    plain = rebuilt(STORED, (4, 6), (6, 1))
    utils = "torch._utils"
    kept = several(STORED, whole(0), several(whole(24)), several(whole(1)), b"\x89", HOOKS)
    parts = {
        "first": called(name(utils, "_rebuild_parameter"), plain, b"\x88", HOOKS),
        "state": called(
            name(utils, "_rebuild_parameter_with_state"), plain, b"\x88", HOOKS, mapping({"x": b"N"})
        ),
        "old": called(
            name(utils, "_rebuild_tensor"), STORED, whole(0), several(whole(24)), several(whole(1))
        ),
        "typed": called(
            name("torch._tensor", "_rebuild_from_type_v2"),
            name(utils, "_rebuild_tensor_v2"), name("torch", "Tensor"), kept, mapping({"x": b"N"}),
        ),
    }  # fmt: skip
    model = open_model(one(tmp_path, mapping(parts)))
    for got in model.values():
        np.testing.assert_array_equal(got.read().reshape(4, 6), A)


def test_bytes_whose_tensor_says_their_type(tmp_path):
    small = np.asarray([1, -2, 448], ml_dtypes.float8_e4m3fn)
    size, step = several(whole(3)), several(whole(1))
    raw = storage(0, "UntypedStorage", 3)
    v3 = name("torch._utils", "_rebuild_tensor_v3")
    value = called(v3, raw, whole(0), size, step, b"\x89", HOOKS, name("torch", "float8_e4m3fn"))
    got = open_model(one(tmp_path, under(value), {"0": small.tobytes()}))["w"]
    assert got.dtype == "float8_e4m3fn"
    np.testing.assert_array_equal(got.read().astype("f4"), [1, -2, 448])


def test_bfloat16_and_other_storages(tmp_path):
    made = {
        "b": np.asarray([[1, 2]], ml_dtypes.bfloat16),
        "i": np.asarray([1, -1], "i1"),
        "t": np.asarray([True, False]),
    }
    for write in (writers.write_torch, writers.write_torch_old):
        model = open_model(write(tmp_path / "m.pt", made))
        for key, array in made.items():
            assert model[key].read().tobytes() == array.tobytes()
            assert model[key].read().dtype == array.dtype


def test_a_quantised_tensor_is_a_row_with_a_reason(tmp_path):
    scale = several(name("torch", "per_tensor_affine"), b"G" + struct.pack(">d", 0.1), whole(0))
    size, step = several(whole(24)), several(whole(1))
    value = called(
        name("torch._utils", "_rebuild_qtensor"),
        storage(0, "QInt8Storage", 24), whole(0), size, step, scale, b"\x89", HOOKS,
    )  # fmt: skip
    got = open_model(one(tmp_path, under(value), {"0": bytes(24)}))["w"]
    assert (
        got.refusal == "it is quantised; save it as numbers, tensor.dequantize(), to have its norm"
    )
    with pytest.raises(SourceError, match="tensor 'w' has no numbers to read: it is quantised"):
        got.read()


def test_nested_dicts_make_dotted_names(tmp_path):
    plain = rebuilt(STORED, (4, 6), (6, 1))
    tried = b"](" + plain + text("x") + plain + b"e"
    parts = {
        "state_dict": mapping({"fc.weight": plain}, ordered=False),
        "epoch": whole(3),
        "optimizer": mapping({"state": b"}(" + whole(0) + mapping({"avg": plain}) + b"u"}),
        "some": tried,
    }
    model = open_model(one(tmp_path, mapping(parts)))
    assert list(model) == ["state_dict.fc.weight", "optimizer.state.0.avg", "some.0", "some.2"]
    alone = open_model(one(tmp_path, plain))
    assert list(alone) == ["m"]


def test_tensors_in_sets_are_listed(tmp_path):
    plain = rebuilt(STORED, (4, 6), (6, 1))
    old = name("builtins", "set") + b"](" + plain + b"e\x85R"
    parts = {"set": b"\x8f(" + plain + b"\x90", "frozen": b"(" + plain + b"\x91", "old": old}
    assert set(open_model(one(tmp_path, mapping(parts)))) == {"set.0", "frozen.0", "old.0"}


def test_two_ways_to_one_name_are_an_error(tmp_path):
    plain = rebuilt(STORED, (4, 6), (6, 1))
    said = refused(tmp_path, mapping({"a.b": plain, "a": mapping({"b": plain})}))
    assert said == f"expected one tensor 'a.b', got two, in {tmp_path}/m.pt"


def test_python_itself_pickles_dicts_that_are_read(tmp_path):
    for protocol in (2, 3, 4, 5):
        held = {"a": [1, 2.5, None, True, (1, 2, 3, 4)], "s": {1}, "f": frozenset({2}), "b": b"x"}
        torch_zip(tmp_path / "m.pt", pickle.dumps(held | {"t": b"", "big": 1 << 80}, protocol), {})
        with pytest.raises(SourceError, match="expected tensors, got a pickle that holds none"):
            open_model(tmp_path / "m.pt")


# What would run something ------------------------------------------------------------------------


class Runs:
    """An object whose pickle runs a command when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_would_run_code_is_refused_and_nothing_ran(protocol, tmp_path):
    raw = pickle.dumps({"w": Runs(tmp_path / "ran")}, protocol)
    pickle.loads(raw)
    assert (tmp_path / "ran").exists()  # so it would
    (tmp_path / "ran").unlink()
    torch_zip(tmp_path / "m.pt", raw, {})
    (tmp_path / "plain.pt").write_bytes(raw)
    writers.torch_old(tmp_path / "old.pt", raw, {})
    module = os.system.__module__
    for file in ("m.pt", "old.pt", "plain.pt"):
        with pytest.raises(SourceError) as caught:
            open_model(tmp_path / file)
        assert str(caught.value) == (
            f"{tmp_path}/{file}: its pickle names {module}.system, which is not part of a tensor; "
            "nothing of it was run. Load it where you trust it, and save model.state_dict() "
            "alone, or safetensors"
        )
        assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "named",
    [
        ("builtins", "eval"), ("builtins", "getattr"), ("torch", "load"), ("torch.nn", "Linear"),
        ("torch.hub", "load"), ("collections", "namedtuple"), ("os.path", "FloatStorage"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"), ("torch", "Size.__init__"),
        ("numpy.core.multiarray", "_reconstruct"), ("argparse", "Namespace"),
    ],
)  # fmt: skip
def test_every_other_name_is_refused_by_its_name(named, tmp_path):
    said = refused(tmp_path, name(*named) + b")R")
    assert said.startswith(
        f"its pickle names {named[0]}.{named[1]}, which is not part of a tensor;"
    )
    assert said == refused(tmp_path, text(named[0]) + text(named[1]) + b"\x93")


@pytest.mark.parametrize(
    ("code", "called"),
    [
        (b"\x82\x01", "EXT1"), (b"P0\n", "PERSID"), (b"(i" + b"os\nsystem\n", "INST"),
        (b"(o", "OBJ"), (b"I1\n", "INT"), (b"\x92", "NEWOBJ_EX"), (b"\x97", "NEXT_BUFFER"),
        (b"N2", "DUP"),
    ],
)  # fmt: skip
def test_instructions_that_tensors_do_not_need(code, called, tmp_path):
    assert refused(tmp_path, code) == (
        f"its pickle has the instruction {called}, which torch.save does not write for tensors; "
        "it was not run. Save model.state_dict(), or safetensors"
    )


BROKEN = "its data.pkl cannot be read as torch.save writes it ({}); the file is damaged, or of "
BROKEN += "another kind: save model.state_dict() again"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"B\xff\xff\xff\x7f", "ValueError: expected 2147483647 bytes in a bytes4, but only 1 remain"),
        (b"\x8e" + b"\xff" * 7 + b"\x0f", "ValueError: expected 1152921504606846975 bytes in a bytes8, but only 1 remain"),
        (b"\x8d" + b"\xff" * 8, "ValueError: unicodestring8 byte count > sys.maxsize: 18446744073709551615"),
        (b"\x8b\xff\xff\xff\x7f", "ValueError: not enough data in stream to read long4"),
        (b"r\xff\xff\xff\x7f", "IndexError: list index out of range"),
        (b"j\xff\xff\xff\x7f", "KeyError: 2147483647"),
        (b"0", "IndexError: pop from empty list"),
        (b"t", "IndexError: pop from empty list"),
        (b"(0", "ValueError: a mark where a value is needed"),
        (b"(N\x85", "ValueError: 1 values at its end"),
        (b"NNa", "TypeError: NoneType in the place of list"),
        (b"}(Nu", "ValueError: a key without a value"),
        (b"NN", "ValueError: 2 values at its end"),
        (b"N)R", "TypeError: a call of something that is not a global"),
        (b"NNb", "TypeError: a state for NoneType"),
        (name("torch", "Tensor") + b")R", "ValueError: a call of torch.Tensor"),
        (several(text("x")) + b"Q", "ValueError: a persistent id that is not a storage"),
        (storage(0, "Size", 24), "TypeError: a storage of no known type"),
        (storage(0, "FloatStorage", -1), "ValueError: a length that is not a whole number from 0 on"),
        (b"](" + STORED + storage(0, "LongStorage", 24) + b"e", "ValueError: two storages with the key '0'"),
        (rebuilt(b"N", (1,), (1,)), "TypeError: a tensor without a storage"),
        (rebuilt(storage(0, "UntypedStorage", 96), (1,), (1,)), "TypeError: a tensor of bytes that does not say its type"),
        (b"cos\\x2epath\nx\n", "ValueError: a name with a backslash at byte 49"),
        (b"\xff", "ValueError: at position 64, opcode b'\\xff' unknown"),
    ],
)  # fmt: skip
def test_a_pickle_that_lies(value, said, tmp_path):
    got = refused(tmp_path, value)
    assert got == BROKEN.format(got.split("(", 1)[1].split("); the file")[0])
    if "position" not in said:
        assert got == BROKEN.format(said)


def test_a_pickle_that_ends_in_the_middle(tmp_path):
    path = torch_zip(tmp_path / "m.pt", b"\x80\x02}", RECORDS)
    with pytest.raises(SourceError, match=r"pickle exhausted before seeing STOP"):
        open_model(path)


def test_deep_nesting_ends(tmp_path):
    deep = b"]" * 20_000 + b"a" * 19_999
    said = refused(tmp_path, deep)
    assert said.startswith("expected at most 1048576 values in 64 levels, got more, at '0.0.0.0.")
    tuples = b")" + b"\x85" * 20_000
    assert refused(tmp_path, tuples).startswith("expected at most 1048576 values in 64 levels")


def test_numbers_of_many_digits_are_not_written(tmp_path):
    large = b"\x8b" + struct.pack("<I", 4000) + b"\x7f" * 4000
    plain = rebuilt(STORED, (4, 6), (6, 1))
    assert list(open_model(one(tmp_path, b"}(" + large + plain + b"u"))) == [
        "a number of 31999 bits"
    ]
    shape = called(
        name("torch._utils", "_rebuild_tensor"), STORED, whole(0), several(large), several(whole(1))
    )
    assert refused(tmp_path, under(shape)).endswith("for tensor 'w', got [a number of 31999 bits]")


def test_a_list_that_holds_itself_and_one_that_doubles(tmp_path, monkeypatch):
    itself = b"]q\x00h\x00a"
    assert "in 64 levels, got more" in refused(tmp_path, itself)
    monkeypatch.setattr("bigspec.networks.formats.pytorch.MOST_VALUES", 1 << 16)
    doubling = b"]q\x00" + b"".join(
        b"](h%ch%ce" % (k, k) + b"q%c" % (k + 1) + b"0h%c" % (k + 1) for k in range(50)
    )
    assert "expected at most 65536 values" in refused(tmp_path, b"(" + doubling + b"t")


def test_too_many_instructions_end(tmp_path, monkeypatch):
    monkeypatch.setattr("bigspec.networks.formats.pickles.MOST", 1000)
    assert refused(tmp_path, b"N0" * 600) == BROKEN.format(
        "ValueError: more than 1000 instructions"
    )


def test_a_key_that_takes_for_ever_to_hash_is_not_hashed(tmp_path):
    key = b")q\x000h\x00h\x00\x86" + b"".join(b"q\x01h\x01\x86" for _ in range(60))
    assert "holds none" in refused(tmp_path, b"}" + key + b"Ns")


# What does not fit -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (rebuilt(STORED, (4, 7), (6, 1)), "tensor 'w' reaches entry 24 of a storage of 24; the file is damaged: copy it again"),
        (rebuilt(STORED, (4, 6), (6, 1), 1), "tensor 'w' reaches entry 24 of a storage of 24; the file is damaged: copy it again"),
        (rebuilt(STORED, (2, 2), (1 << 61, 1)), "tensor 'w' reaches entry 2305843009213693953 of a storage of 24; the file is damaged: copy it again"),
        (rebuilt(STORED, (1 << 40, 6), (0, 1)), "tensor 'w' of shape [1099511627776, 6] repeats the 24 numbers of its storage; save a copy of it, tensor.contiguous()"),
        (rebuilt(STORED, (4, 6), (-6, 1)), "expected a stride from 0 on for each of 2 dimensions of tensor 'w', and a place in its storage, got strides [-6, 1] and offset 0; the file is damaged: copy it again"),
        (rebuilt(STORED, (4, 6), (6,)), "expected a stride from 0 on for each of 2 dimensions of tensor 'w', and a place in its storage, got strides [6] and offset 0; the file is damaged: copy it again"),
        (rebuilt(STORED, (4, 6), (6, 1), -1), "expected a stride from 0 on for each of 2 dimensions of tensor 'w', and a place in its storage, got strides [6, 1] and offset -1; the file is damaged: copy it again"),
        (rebuilt(STORED, (-4, 6), (6, 1)), "expected a shape of whole lengths from 0 on, whose product fits 62 bits, for tensor 'w', got [-4, 6]"),
        (rebuilt(STORED, (1 << 40, 1 << 40), (6, 1)), "expected a shape of whole lengths from 0 on, whose product fits 62 bits, for tensor 'w', got [1099511627776, 1099511627776]"),
        (tensor(1, A), "the record data/1 is not there; copy it again"),
        (tensor(0, A.astype("f8")), "expected 192 bytes in the record data/0, got 96; the file is damaged: copy it again"),
    ],
)  # fmt: skip
def test_a_tensor_that_does_not_fit(value, said, tmp_path):
    assert refused(tmp_path, under(value)) == said


def test_a_record_cut_short_and_a_packed_one(tmp_path):
    plain = under(rebuilt(STORED, (4, 6), (6, 1)))
    said = refused(tmp_path, plain, records={"0": A.tobytes()[:-1]})
    assert (
        said == "expected 96 bytes in the record data/0, got 95; the file is damaged: copy it again"
    )
    said = refused(tmp_path, plain, packing=zipfile.ZIP_DEFLATED)
    assert said == (
        "expected the member 'archive/data.pkl' stored as it is, as torch.save writes it, got a "
        "packed one; load it and save it again"
    )
    assert refused(tmp_path, plain, byteorder="middle") == (
        "expected little or big as its byteorder, got b'middle'"
    )


def test_torchscript_and_other_archives_say_what_to_do(tmp_path):
    path = one(tmp_path, under(rebuilt(STORED, (4, 6), (6, 1))))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/code/__torch__.py", "1")
    with pytest.raises(SourceError) as caught:
        open_model(path)
    assert str(caught.value) == (
        f"{path}: it is a TorchScript archive, which holds a program; save its tensors: "
        "torch.save(torch.jit.load(file).state_dict(), 'weights.pt')"
    )
    module = several(text("module"), whole(1), text("f.py"), text("class F: pass")) + b"Q"
    assert refused(tmp_path, module).startswith("it holds a module with its source code, which is")


def test_the_form_before_zip_and_before_that(tmp_path):
    path = tmp_path / "m.pth"
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "sys_info")
    with pytest.raises(SourceError) as caught:
        open_model(path)
    assert str(caught.value) == (
        f"{path}: it is a tar archive, as PyTorch wrote before 0.1.10, which is not read; load it "
        "and save it again with a newer version"
    )
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(SourceError) as caught:
        open_model(path)
    assert (
        str(caught.value)
        == f"{path}: expected a file by torch.save, got another pickle; nothing was run"
    )


def test_a_view_of_a_storage_in_the_old_form(tmp_path):
    seen = several(text("v"), whole(6), whole(12))
    stored = several(
        text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), whole(24), seen
    )
    value = pickled(under(rebuilt(stored + b"Q", (2, 6), (6, 1))))
    path = writers.torch_old(tmp_path / "m.pt", value, {"0": (24, A.tobytes())})
    np.testing.assert_array_equal(open_model(path)["w"].read(), A[1:3])


def test_the_old_form_of_other_machines_and_its_lies(tmp_path):
    value = pickled(writers.state({"w": A}, legacy=True))
    swapped = {"0": (24, A.byteswap().tobytes())}
    path = writers.torch_old(tmp_path / "m.pt", value, swapped, order=b"\x89")
    np.testing.assert_array_equal(open_model(path)["w"].read(), A)
    for records, said in [
        ({"0": (23, A.tobytes())}, "expected 24 numbers in the storage '0', got 23; the file is damaged: copy it again"),
        ({"1": (24, A.tobytes())}, "its list of storages has one that no tensor needs; copy it again"),
        ({}, "the storage '0' is not in its list; copy it again"),
    ]:  # fmt: skip
        path = writers.torch_old(tmp_path / "m.pt", value, records)
        with pytest.raises(SourceError) as caught:
            open_model(path)
        assert str(caught.value) == f"{path}: {said}"
    path = writers.torch_old(tmp_path / "m.pt", value, {"0": (24, A.tobytes())})
    size = len(path.read_bytes())
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(SourceError) as caught:
        open_model(path)
    assert str(caught.value) == (
        f"{path}: expected the storage '0' at bytes {size - 96} to {size}, got a file of "
        f"{size - 4} bytes; it was cut short, or its header is wrong: copy it again"
    )


def test_a_pickle_of_gigabytes_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "m.pt"
    with path.open("wb") as file:
        file.write(writers.LEGACY_MAGIC + pickled(whole(1001)) + pickled(b"}"))
        file.write(b"\x80\x02B" + struct.pack("<I", 3 << 30))
        file.truncate(4 << 30)  # a hole: nothing is written
    with pytest.raises(SourceError, match=r"its pickle cannot be read as torch\.save writes it"):
        open_model(path)
    assert LONGEST == 100 << 20
