"""Tensors beyond the memory limit: decoded, scaled and masked a rectangle at a time."""

import pickle

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from hypothesis import given, settings
from hypothesis import strategies as st

from bigspec import scan
from bigspec.kernels.buffers import Buffers
from bigspec.networks.formats import open_model
from bigspec.networks.roles import entries_of
from bigspec.networks.tiles import Tiles, tiled, times
from bigspec.sources.file_bytes import LocalContent
from tests.memory import traced_peak
from tests.networks.formats import writers

RNG = np.random.default_rng(5)
M, N = 384, 512
LIMIT = 20 << 20  # less than any task takes beside its tensor


def floats(*shape):
    return RNG.standard_normal(shape).astype("f4")


def small(*shape, dtype=ml_dtypes.float8_e4m3fn):
    return floats(*shape).astype(dtype)


def spectral(shape):
    weight = floats(*shape)
    u, v = floats(shape[0]), floats(weight.size // shape[0])
    return {"c.weight_orig": weight, "c.weight_u": u, "c.weight_v": v}


MODELS = {
    "bfloat16": {"w": floats(M, N).astype(ml_dtypes.bfloat16)},
    "fp8": {"w": small(M, N)},
    "one scale": {"w": small(M, N), "w_scale": np.float32([3.0])},
    "a scale a row": {"w": small(M, N), "w_scale": floats(M)},
    "a scale a column": {"w": small(M, N), "w_scale": floats(1, N)},
    "blocks": {"w": small(300, 450), "w_scale_inv": floats(3, 4)},
    "parts of rows": {"w": small(M, N), "w_scale": floats(M, N // 32)},
    "pruned": {"c.weight_orig": floats(M, N), "c.weight_mask": (floats(M, N) > 0).astype("f4")},
    "weight norm": {"c.weight_v": floats(40, 8, 3, 3), "c.weight_g": floats(40, 1, 1, 1)},
    "spectral norm": spectral((M, N)),
    "spectral norm of a square kernel": spectral((24, 24, 5, 5)),
    "fused": {"attn.qkv.weight": floats(3 * 96, 96)},
    "fused, transposed": {"c_attn.weight": floats(96, 3 * 96)},
    "experts": {"mlp.experts.w1": floats(4, 60, 90)},
    "kernel": {"conv.weight": floats(60, 12, 3, 3)},
    "kernel, channels last": {"conv/kernel": floats(3, 3, 12, 60)},
    "one image of a stack": {"pos.table": floats(1, 60, 90)},
}


def written(tmp_path, weights):
    return writers.write_safetensors(tmp_path / "m.safetensors", weights)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_row_beyond_the_memory_limit_is_that_of_one_in_memory(model, tmp_path):
    path = written(tmp_path, model)
    inside, outside = scan(path, seed=1), scan(path, seed=1, memory_limit=LIMIT)
    for name, row in inside.items():
        other = outside[name]
        assert (other.kind, other.matrix) == (row.kind, row.matrix)
        assert other.note[:36] == row.note[:36]  # behind it are ends of the intervals
        assert max(row.lower, other.lower) <= min(row.upper, other.upper)
        assert other.width <= 1e-2
        for field in ("frobenius", "largest", "largest_row", "largest_column", "deviation"):
            assert getattr(other, field) == pytest.approx(getattr(row, field), rel=1e-12)
        if row.spectral_ratio:
            assert other.spectral_ratio.lower == pytest.approx(row.spectral_ratio.lower, rel=2e-2)


def test_limits_and_another_model_beyond_the_memory_limit(tmp_path):
    W = {"w": small(M, N), "w_scale": floats(M)}
    (tmp_path / "b").mkdir()
    a = written(tmp_path, W)
    b = written(tmp_path / "b", W | {"w_scale": W["w_scale"] * np.float32(1.01)})
    row = scan(a, minus=b, memory_limit=LIMIT, max_norm=1e-6)["w"]
    ends = [np.linalg.norm(W["w"].astype("f8") * s[:, None], 2) for s in (
        W["w_scale"].astype("f8") - (W["w_scale"] * np.float32(1.01)).astype("f8"),
        (W["w_scale"] * np.float32(1.01)).astype("f8"),
    )]  # fmt: skip
    assert row.lower <= ends[0] <= row.upper
    assert row.other_lower <= ends[1] <= row.other_upper
    assert row.other_upper <= 1.01 * row.other_lower  # the limit ends no passes over B


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q8_0, Kind.Q6_K], ids=lambda kind: kind.name)
def test_blocks_of_a_quantised_type_are_decoded_as_they_are_needed(kind, tmp_path):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = RNG.integers(0, 256, (48, 1024 // block, size), dtype=np.uint8)
    raw[..., -2:] = raw[..., :2] = np.frombuffer(np.float16(0.5).tobytes(), np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "test")
    writer.add_tensor("w", raw.reshape(48, -1), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensor = open_model(tmp_path / "m.gguf")["w"]
    whole = tensor.read()
    for rows, columns in (((0, 48), (0, 1024)), ((5, 9), (300, 301)), ((47, 48), (31, 770))):
        part = tensor.rectangle((), slice(*rows), slice(*columns), Buffers())
        np.testing.assert_array_equal(part, whole[slice(*rows), slice(*columns)])
    row = scan(tmp_path / "m.gguf", memory_limit=LIMIT)["w"]
    assert row.lower <= np.linalg.norm(whole.astype("f8"), 2) <= row.upper


def test_a_transposed_tensor_of_pytorch_is_read_in_place(tmp_path):
    array = floats(60, 90)
    path = tmp_path / "m.pt"
    stored = writers.storage("0", "FloatStorage", array.size)
    value = writers.mapping({"w": writers.rebuilt(stored, (90, 60), (1, 90))})
    writers.torch_zip(path, writers.pickled(value), {"0": array.tobytes()})
    tensor = open_model(path)["w"]
    part = tensor.rectangle((), slice(3, 50), slice(20, 41), Buffers())
    np.testing.assert_array_equal(part, array.T[3:50, 20:41])
    row = scan(path, memory_limit=LIMIT)["w"]
    assert row.lower <= np.linalg.norm(array.astype("f8"), 2) <= row.upper


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(MODELS)), data=st.data())
def test_any_rectangle_is_part_of_the_whole(tmp_path_factory, name, data):
    path = written(tmp_path_factory.mktemp("m"), MODELS[name])
    entry = next(e for e in entries_of(open_model(path)) if e.matrix)
    if getattr(entry.form, "either", False):
        return
    whole = np.asarray(entry.form.load(lambda tensor: tensor.read()))
    whole = whole.reshape(len(whole), -1)
    matrix = pickle.loads(pickle.dumps(tiled(entry.form)))  # as a worker gets it
    spans = []
    for extent in matrix.shape:
        start = data.draw(st.integers(0, extent - 1))
        spans.append(slice(start, data.draw(st.integers(start + 1, extent))))
    part = matrix.read(*spans, Buffers())
    assert part.dtype == matrix.dtype
    np.testing.assert_allclose(part.astype("f8"), whole[tuple(spans)].astype("f8"), rtol=1e-14)
    v, u = RNG.standard_normal(matrix.shape[1]), RNG.standard_normal(matrix.shape[0])
    wide = whole.astype("f8")
    np.testing.assert_allclose(times(matrix, v), wide @ v, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(times(matrix, u, adjoint=True), wide.T @ u, rtol=1e-9, atol=1e-9)


def test_no_more_is_held_than_the_limit_and_little_is_read_at_once(tmp_path, monkeypatch):
    """2.8 MB of 8-bit floats are 22 MB in float64."""
    W, limit = {"w": small(1400, 2000), "w_scale": floats(1400)}, 16 << 20
    path, lengths = written(tmp_path, W), []
    read = LocalContent.at

    def at(self, start, length, what):
        lengths.append(length)
        return read(self, start, length, what)

    (tmp_path / "first").mkdir()
    scan(written(tmp_path / "first", {"w": small(30, 20)}), memory_limit=LIMIT).run()  # imports
    found = scan(path, memory_limit=limit)
    monkeypatch.setattr(LocalContent, "at", at)
    with traced_peak() as peak:
        row = found["w"]
    assert peak[0] <= limit
    assert max(lengths) < W["w"].size
    exact = np.linalg.norm(W["w"].astype("f8") * W["w_scale"].astype("f8")[:, None], 2)
    assert row.lower <= exact <= row.upper


def test_numbers_of_half_a_byte_are_unpacked_where_they_lie(tmp_path):
    codes = RNG.integers(0, 16, (10, 14), dtype=np.uint8)
    body = (codes.reshape(-1, 2) << np.uint8([0, 4])).sum(1, dtype=np.uint8).tobytes()
    said = {"w": writers.entry("F4", (10, 14), (0, 70))}
    path = writers.safetensors_of(tmp_path / "m.safetensors", said, body)
    tensor = open_model(path)["w"]
    whole = tensor.read()
    np.testing.assert_array_equal(whole, codes.view(ml_dtypes.float4_e2m1fn))
    for rows, columns in ((slice(0, 10), slice(0, 14)), (slice(3, 4), slice(5, 9))):
        part = tensor.rectangle((), rows, columns, Buffers())
        np.testing.assert_array_equal(part, whole[rows, columns])


def test_columns_of_a_matrix_with_very_long_rows_are_looked_at(monkeypatch, tmp_path):
    monkeypatch.setattr("bigspec.networks.tiles.LONGEST", 1024)
    array = floats(5, 4000)
    matrix = tiled(entries_of(open_model(written(tmp_path, {"w": array})))[0].form)
    assert not Tiles(matrix).tall
    np.testing.assert_allclose(times(matrix, np.ones(4000)), array.sum(1, dtype="f8"))
    row = scan(tmp_path / "m.safetensors", memory_limit=LIMIT)["w"]
    assert row.largest_row == pytest.approx(np.linalg.norm(array.astype("f8"), axis=1).max())
    assert row.lower <= np.linalg.norm(array.astype("f8"), 2) <= row.upper


def test_what_can_only_be_read_whole_says_so(tmp_path):
    np.savez_compressed(tmp_path / "m.npz", w=floats(30, 40), b=floats(40))
    found = scan(tmp_path / "m.npz", memory_limit=LIMIT, everything=True)
    for name in ("w", "b"):
        assert found[name].note.startswith(f"{name}: expected a memory_limit with room for all of")
        assert found[name].note.endswith(f"or save tensor '{name}' without compression")


def test_what_is_no_matrix_is_looked_at_beyond_the_limit(tmp_path):
    W = {"b": floats(3000), "n": np.arange(60).reshape(3, 20)}
    found = scan(written(tmp_path, W), memory_limit=LIMIT, everything=True)
    assert found["b"].frobenius == pytest.approx(np.linalg.norm(W["b"].astype("f8")))
    assert (found["n"].largest, found["n"].lower) == (59, None)
    bad = scan(written(tmp_path, {"w": np.full((3, 3), np.nan)}), memory_limit=LIMIT)
    assert bad["w"].non_finite == 9
