"""GGUF: every quantised type as its own package decodes it, splits, and headers that lie."""

import struct
import sys

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from bigspec.errors import MissingSourceError, SourceError
from bigspec.networks.formats import open_model
from tests.networks.formats import writers

A = np.random.default_rng(1).standard_normal((3, 512)).astype("f4")
QUANTISED = [kind for kind in gguf.GGML_QUANT_SIZES if gguf.GGML_QUANT_SIZES[kind][0] > 1]


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def field(name, kind, raw):
    return text(name) + struct.pack("<I", kind) + raw


def info(name="w", shape=(2, 3), kind=0, offset=0):
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return text(name) + dims + struct.pack("<IQ", kind, offset)


def header(path, tensors=(), fields=(), body=bytes(64), version=3, said=(None, None)):
    """Write a header by hand; `said` lies about how many tensors and fields there are."""
    counts = [
        len(held) if many is None else many
        for many, held in zip(said, (tensors, fields), strict=True)
    ]
    raw = b"GGUF" + struct.pack("<IQQ", version, *counts)
    raw += b"".join(fields) + b"".join(tensors)
    path.write_bytes(raw + bytes(-len(raw) % 32) + body)
    return path


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_every_quantised_type_is_decoded_as_its_package_does(kind, tmp_path):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(2).integers(0, 256, (3, 512 // block * size), dtype=np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "test")
    writer.add_tensor("w", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensor = open_model(tmp_path / "m.gguf")["w"]
    assert (tensor.shape, tensor.dtype, tensor.nbytes) == ((3, 512), kind.name, raw.nbytes)
    assert len(tensor.token()) == 32
    try:
        with np.errstate(all="ignore"):
            expected = gguf.quants.dequantize(raw, kind)
    except NotImplementedError:
        assert tensor.refusal == f"the package gguf has no decoder for {kind.name}"
        with pytest.raises(SourceError, match="tensor 'w' has no numbers to read: the package"):
            tensor.read()
        return
    assert tensor.refusal is None
    got = tensor.read()
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)


def test_a_quantised_matrix_is_near_what_it_was_made_of(tmp_path):
    path = writers.write_gguf(tmp_path / "m.gguf", {"w": A}, {"w": Kind.Q8_0})
    assert np.abs(open_model(path)["w"].read() - A).max() < 0.02


def test_bfloat16_and_stacked_experts(tmp_path):
    stacked = np.stack([A, A + 1])
    path = writers.write_gguf(
        tmp_path / "m.gguf", {"b": A, "e": stacked}, {"b": Kind.BF16, "e": Kind.Q8_0}
    )
    model = open_model(path)
    assert model["b"].dtype == "bfloat16"
    assert np.abs(model["b"].read().astype("f4") - A).max() < 0.02
    assert model["e"].shape == (2, 3, 512)
    assert np.abs(model["e"].read() - stacked).max() < 0.03


def test_fields_are_a_note_without_the_vocabulary(tmp_path):
    notes = open_model(writers.write_gguf(tmp_path / "m.gguf", {"w": A}, blocks=7)).notes
    assert notes == {"metadata": {"general.architecture": "test", "test.blocks": 7}}


def split(path, parts):
    for number, weights in enumerate(parts):
        writer = gguf.GGUFWriter(path / f"m-{number + 1:05d}-of-{len(parts):05d}.gguf", "test")
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", len(parts))
        for name, array in weights.items():
            writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path / f"m-00001-of-{len(parts):05d}.gguf"


def test_a_split_is_one_network(tmp_path):
    first = split(tmp_path, [{"a": A}, {"b": A + 1}, {"c": A + 2}])
    for where in (first, tmp_path):
        model = open_model(where)
        assert list(model) == ["a", "b", "c"]
        np.testing.assert_array_equal(model["c"].read(), A + 2)


def test_missing_and_mixed_parts(tmp_path):
    first = split(tmp_path, [{"a": A}, {"b": A}, {"c": A}])
    second, third = (first.with_name(f"m-0000{k}-of-00003.gguf") for k in (2, 3))
    second.write_bytes(third.read_bytes())
    with pytest.raises(SourceError) as caught:
        open_model(first)
    assert str(caught.value) == (
        f"{second}: expected part 1 of 3, as its name says, got part 2 of 3, as its header says; "
        "keep the names that the parts were written with"
    )
    second.unlink()
    third.unlink()
    with pytest.raises(MissingSourceError) as caught:
        open_model(first)
    assert str(caught.value) == (
        f"{first}: 2 of its 3 parts are missing: m-00002-of-00003.gguf, m-00003-of-00003.gguf; "
        "copy them, too"
    )


LOST = "its header cannot be read at byte {} ({}); the file was cut short or damaged: copy it again"
LIES = {
    "a version of the future": ({"version": 4}, "expected GGUF of version 2 or 3, got version 4"),
    "too many tensors": (
        {"said": (1 << 62, None)}, LOST.format(24, f"{1 << 62} tensors are announced, and 72 bytes follow"),
    ),
    "too many fields": (
        {"said": (None, 1 << 62)}, LOST.format(24, f"{1 << 62} fields are announced, and 72 bytes follow"),
    ),
    "more tensors than there are": (
        {"tensors": [info()], "said": (3, None)},
        "tensor '' overlaps tensor '': it begins at byte 128, not 132",
    ),
    "a long text": (
        {"fields": [struct.pack("<Q", 1 << 50) + b"abcdefgh"]},
        LOST.format(32, f"a text of {1 << 50} bytes, where 65536 are the most"),
    ),
    "a long array": (
        {"fields": [field("a", 9, struct.pack("<IQ", 10, 1 << 60))]},
        LOST.format(49, f"{1 << 60} numbers are announced, and 79 bytes follow"),
    ),
    "arrays of texts": (
        {"fields": [field("a", 9, struct.pack("<IQQ", 8, 2, 1 << 60))]},
        LOST.format(57, f"{1 << 60} bytes of a text are announced, and 71 bytes follow"),
    ),
    "arrays in arrays": (
        {"fields": [field("a", 9, struct.pack("<IQ", 9, 1) * 9)]},
        LOST.format(85, "a field of type 9 in 4 arrays"),
    ),
    "an unknown field": (
        {"fields": [field("a", 77, b"")]}, LOST.format(37, "a field of type 77 in 0 arrays"),
    ),
    "a field twice": (
        {"fields": [field("a", 0, b"1")] * 2}, LOST.format(52, "the field 'a' is there twice"),
    ),
    "an alignment of 3": (
        {"fields": [field("general.alignment", 4, struct.pack("<I", 3))]},
        LOST.format(57, "the alignment is 3, not a power of two"),
    ),
    "many dimensions": (
        {"tensors": [info(shape=(1,) * 9)]}, LOST.format(37, "tensor 'w' has 9 dimensions"),
    ),
    "a large shape": (
        {"tensors": [info(shape=(1 << 40, 1 << 40))]},
        "expected a shape of whole lengths from 0 on, whose product fits 62 bits, for tensor 'w', got [1099511627776, 1099511627776]",
    ),
    "an unknown type": (
        {"tensors": [info(kind=99)]},
        "tensor 'w' is of type 99, which this version of the package gguf does not know; pip install -U gguf",
    ),
    "a row of no whole blocks": (
        {"tensors": [info(kind=8)]},
        LOST.format(65, "tensor 'w' has rows of 3 numbers, not whole blocks of 32"),
    ),
    "a place that is not aligned": (
        {"tensors": [info(offset=4)]}, LOST.format(65, "tensor 'w' lies at 4, not a multiple of 32"),
    ),
    "past the end": (
        {"tensors": [info(offset=64)]},
        "expected tensor 'w' within bytes 96 to 160, got 160 to 184; the file was cut short, or its header is wrong: copy it again",
    ),
    "an offset of 2^63": (
        {"tensors": [info(offset=1 << 63)]},
        f"expected tensor 'w' within bytes 96 to 160, got {96 + (1 << 63)} to {120 + (1 << 63)}; the file was cut short, or its header is wrong: copy it again",
    ),
    "an overlap": (
        {"tensors": [info("a", (4, 4)), info("b", (4,), offset=32)]},
        "tensor 'b' overlaps tensor 'a': it begins at byte 160, not 192",
    ),
    "a hole": (
        {"tensors": [info("a", (4,)), info("b", (4,), offset=64)], "body": bytes(96)},
        "bytes 112 to 160, before tensor 'b', belong to no tensor",
    ),
    "a name twice": (
        {"tensors": [info("a", (4,)), info("a", (4,), offset=32)]},
        "expected one tensor 'a', got two, in {path}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LIES.values(), ids=LIES)
def test_a_header_that_lies(case, tmp_path):
    made, said = case
    path = header(tmp_path / "m.gguf", **made)
    with pytest.raises(SourceError) as caught:
        open_model(path)
    assert str(caught.value) == f"{path}: " + said.replace("{path}", str(path))


def test_a_file_cut_short_anywhere_is_an_error(tmp_path):
    path = writers.write_gguf(tmp_path / "m.gguf", {"w": A[:, :32], "v": A[:, 32:64]})
    raw = path.read_bytes()
    for length in range(4, len(raw) - 32, 7):  # the last bytes may be padding
        path.write_bytes(raw[:length])
        with pytest.raises(SourceError):
            open_model(path)


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    path = writers.write_gguf(tmp_path / "m.gguf", {"w": A})
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(SourceError) as caught:
        open_model(path)
    assert str(caught.value) == (
        f"{path}: GGUF needs gguf: pip install gguf (or install bigspec, as you did, with its extra [gguf])"
    )
