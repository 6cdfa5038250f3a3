"""safetensors: types, shards, folders, URLs, and headers that lie."""

import json
import struct

import fsspec
import ml_dtypes
import numpy as np
import pytest

from bigspec.errors import MissingSourceError, SourceError
from bigspec.networks.formats import open_model
from bigspec.networks.formats.safetensors import TYPES
from tests.networks.formats import writers
from tests.networks.formats.writers import entry, safetensors_of

A, B = np.arange(6, dtype="f4").reshape(2, 3), np.ones((4, 4), "f4")


def test_the_shared_network_is_read(data):
    model = open_model(data / "silero_vad_16k.safetensors")
    assert len(model) == 15
    raw = (data / "silero_vad_16k.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    for name, said in json.loads(raw[8 : 8 + length]).items():
        start, stop = (8 + length + place for place in said["data_offsets"])
        got = model[name].read()
        assert got.tobytes() == raw[start:stop]
        assert (list(got.shape), got.dtype, got.flags.writeable) == (said["shape"], "f4", False)


@pytest.mark.parametrize("said", ["BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0"])
def test_types_that_numpy_has_no_name_for(said, tmp_path):
    dtype = np.dtype(getattr(ml_dtypes, TYPES[said]))
    array = np.asarray([[1, 2], [0.5, 4]], dtype)
    body = {"a": entry(said, array.shape, (0, array.nbytes))}
    path = safetensors_of(tmp_path / "m.safetensors", body, array.tobytes())
    tensor = open_model(path)["a"]
    assert tensor.dtype == TYPES[said] == dtype.name
    np.testing.assert_array_equal(tensor.read().astype("f4"), [[1, 2], [0.5, 4]])


def test_the_library_writes_what_is_read(tmp_path):
    array = np.asarray([[1, -2, 3]], ml_dtypes.bfloat16)
    small = np.asarray([[1, -2, 448]], ml_dtypes.float8_e4m3fn)
    path = writers.write_safetensors(tmp_path / "m.safetensors", {"b": array, "f": small})
    model = open_model(path)
    assert model["b"].read().tobytes() == array.tobytes()
    np.testing.assert_array_equal(model["f"].read().astype("f4"), [[1, -2, 448]])


def test_two_numbers_of_four_bits_lie_in_a_byte(tmp_path):
    path = safetensors_of(
        tmp_path / "m.safetensors", {"a": entry("F4", (1, 4), (0, 2))}, b"\x21\xf7"
    )
    np.testing.assert_array_equal(open_model(path)["a"].read().astype("f4"), [[0.5, 1, 6, -6]])


def test_numbers_of_six_bits_are_a_row_with_a_reason(tmp_path):
    body = {"a": entry("F6_E2M3", (4,), (0, 3))}
    tensor = open_model(safetensors_of(tmp_path / "m.safetensors", body, bytes(3)))["a"]
    assert tensor.refusal == "the format does not say how numbers of type F6_E2M3 are packed"
    with pytest.raises(SourceError, match="tensor 'a' has no numbers to read: the format"):
        tensor.read()


def test_metadata_is_a_note_and_empty_tensors_are_there(tmp_path):
    weights = {"a": A, "none": np.zeros((0, 3), "f4"), "one": np.asarray(3, "f4")}
    model = open_model(writers.write_safetensors(tmp_path / "m", weights, {"format": "pt"}))
    assert model.notes == {"metadata": {"format": "pt"}}
    assert model["none"].read().shape == (0, 3)
    assert model["one"].read() == 3


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_an_index_is_followed_from_the_folder_and_by_its_name(ending, tmp_path):
    shards = {
        f"model-00001-of-00002.{ending}": {"a": A},
        f"model-00002-of-00002.{ending}": {"b": B},
    }
    index = writers.write_index(tmp_path, shards, ending)
    for where in (index, tmp_path):
        model = open_model(where)
        assert model.name == str(where)
        np.testing.assert_array_equal(model["a"].read(), A)
        assert model["b"].file == str(tmp_path / f"model-00002-of-00002.{ending}")


def test_a_folder_without_an_index_is_all_its_shards(tmp_path):
    for number, weights in enumerate(({"a": A}, {"b": B}), 1):
        writers.write_safetensors(tmp_path / f"m-0000{number}-of-00002.safetensors", weights)
    assert set(open_model(tmp_path)) == {"a", "b"}
    (tmp_path / "m-00001-of-00002.safetensors").unlink()
    with pytest.raises(MissingSourceError) as caught:
        open_model(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: 1 of its 2 shards are missing: m-00001-of-00002.safetensors; copy them, too"
    )


def test_every_missing_shard_is_in_one_error(tmp_path):
    shards = {f"s{k}.safetensors": {f"w{k}": A} for k in range(4)}
    index = writers.write_index(tmp_path, shards)
    for k in (1, 3):
        (tmp_path / f"s{k}.safetensors").unlink()
    with pytest.raises(MissingSourceError) as caught:
        open_model(index)
    assert str(caught.value) == (
        f"{index}: 2 of its 4 shards are missing: s1.safetensors, s3.safetensors; copy them, too"
    )


def test_a_tensor_in_two_shards_and_one_that_its_shard_lacks(tmp_path):
    index = writers.write_index(tmp_path, {"s.safetensors": {"a": A}, "t.safetensors": {"b": B}})
    said = json.loads(index.read_text())
    said["weight_map"]["c"] = "t.safetensors"
    index.write_text(json.dumps(said))
    with pytest.raises(SourceError) as caught:
        open_model(index)
    assert str(caught.value) == (
        f"{index}: the index says that tensor 'c' lies in t.safetensors, which does not hold it; "
        "bring index and shards from one place"
    )
    writers.write_safetensors(tmp_path / "t.safetensors", {"a": A, "b": B, "c": B})
    with pytest.raises(SourceError) as caught:
        open_model(index)
    assert str(caught.value) == (
        f"{index}: expected one tensor 'a', got two, in {tmp_path}/s.safetensors and "
        f"{tmp_path}/t.safetensors"
    )


@pytest.mark.parametrize("shard", ["../s.safetensors", "/etc/s.safetensors", 3, "", "i.index.json"])
def test_an_index_leads_nowhere_else(shard, tmp_path):
    index = tmp_path / "i.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(SourceError, match=r"i\.index\.json: expected "):
        open_model(index)


def at_memory(path, url):
    fs = fsspec.filesystem("memory")
    for file in path.iterdir() if path.is_dir() else [path]:
        fs.pipe_file(f"{url}/{file.name}", file.read_bytes())


def test_shards_behind_a_url_are_read_by_ranges(tmp_path, monkeypatch):
    shards = {
        "model-00001-of-00002.safetensors": {"a": A},
        "model-00002-of-00002.safetensors": {"b": B},
    }
    index = writers.write_index(tmp_path, shards)
    at_memory(tmp_path, "/net")
    asked = []
    whole = fsspec.implementations.memory.MemoryFileSystem.cat_file

    def cat(self, path, start=None, end=None, **more):
        asked.append((start, end))
        return whole(self, path, start, end, **more)

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "cat_file", cat)
    for url in (f"memory://net/{index.name}", "memory://net"):
        model = open_model(url)
        np.testing.assert_array_equal(model["a"].read(), A)
        np.testing.assert_array_equal(model["b"].read(), B)
    assert asked
    assert all(start is not None and end is not None for start, end in asked)


@pytest.mark.parametrize(
    "row", [("m.pt", writers.write_torch), ("m.pt", writers.write_torch_old),
            ("m.gguf", writers.write_gguf), ("m.safetensors", writers.write_safetensors)],
    ids=["zip", "old", "gguf", "safetensors"],
)  # fmt: skip
def test_only_headers_come_from_a_url_before_numbers_are_asked_for(row, tmp_path, monkeypatch):
    file, write = row
    large = np.ones((1200, 1200), "f4")
    at_memory(write(tmp_path / file, {"a": A, "b": large}), "/other")
    memory = fsspec.implementations.memory.MemoryFileSystem
    whole, came = memory.cat_file, []

    def cat(self, path, start=None, end=None, **more):
        came.append(end - start)
        return whole(self, path, start, end, **more)

    monkeypatch.setattr(memory, "cat_file", cat)
    model = open_model(f"memory://other/{file}")
    assert sum(came) < 2 << 20
    assert len(came) < 12
    model["b"].token()
    assert sum(came) < 2 << 20
    np.testing.assert_array_equal(model["b"].read(), large)


def test_what_is_not_at_a_url(tmp_path):
    with pytest.raises(MissingSourceError, match="nothing lies there"):
        open_model("memory://nowhere/m.safetensors")


def test_an_adapter_has_its_numbers_in_a_note(tmp_path):
    writers.write_safetensors(tmp_path / "adapter_model.safetensors", {"a": A})
    said = {
        "peft_type": "LORA",
        "lora_alpha": 16,
        "r": 8,
        "rank_pattern": {"q": 4},
        "use_rslora": True,
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    for where in (tmp_path, tmp_path / "adapter_model.safetensors"):
        del said["peft_type"]
        assert open_model(where).notes["adapter"] == said
        said["peft_type"] = "LORA"
    (tmp_path / "adapter_config.json").write_text('{"r": "8"}')
    with pytest.raises(SourceError) as caught:
        open_model(tmp_path)
    assert str(caught.value) == f"{tmp_path}/adapter_config.json: r is of the wrong type, str"


def test_a_file_that_changed_since_is_said(tmp_path):
    path = writers.write_safetensors(tmp_path / "m.safetensors", {"a": A})
    tensor = open_model(path)["a"]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(SourceError) as caught:
        tensor.read()
    assert str(caught.value) == (
        f"{path}: it was written again since it was opened; run again when nothing writes to it"
    )


def test_without_ml_dtypes_the_extra_is_named(tmp_path, monkeypatch):
    body = {"a": entry("BF16", (2,), (0, 4)), "b": entry("F32", (1,), (4, 8))}
    model = open_model(safetensors_of(tmp_path / "m.safetensors", body, bytes(8)))
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    assert model["b"].read() == [0]
    with pytest.raises(SourceError) as caught:
        model["a"].read()
    assert str(caught.value) == (
        f"{tmp_path}/m.safetensors: a tensor of type bfloat16 needs ml_dtypes: pip install ml_dtypes "
        "(or install bigspec, as you did, with its extra [networks])"
    )
