"""A scan against dense norms: every form, every row field, one probability, limits, cluster."""

import json
import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from bigspec import Gate, scan
from bigspec.errors import ArgumentError, ChunkError, ResumeError, SourceError, UnsupportedTypeError
from bigspec.networks import norms, rows
from bigspec.networks.norms import takes_gram
from bigspec.networks.roles import entries_of
from bigspec.networks.sharing import entropy_of, share
from bigspec.networks.table import brief
from bigspec.networks.tensors import Model
from bigspec.networks.work import Request, memory_of
from bigspec.passes import InlineExecutor
from bigspec.run.plan import Wishes
from bigspec.run.planner import make_plan
from bigspec.sources import open_source
from tests.networks.models import Header, header, headers_of, sigma, transformer


def holds(row, exact, slack=1e-13):
    assert row.lower <= exact * (1 + slack)
    assert row.upper >= exact * (1 - slack)


@pytest.fixture
def passes_for_all(monkeypatch):
    """Take Lanczos passes for everything of at least 20 rows and columns."""

    def takes(shape):
        return min(shape) < 20

    for module in (norms, "bigspec.networks.work", "bigspec.networks.sharing"):
        name = module if isinstance(module, str) else module.__name__
        monkeypatch.setattr(f"{name}.takes_gram", takes)


def test_every_matrix_of_a_small_network_holds_numpys_norm():
    W = transformer()
    found = scan(W, everything=True)
    assert list(found) == [n for k in W for n in _with_parts(k)]
    for name, row in found.items():
        if row.hidden:
            assert row.lower is None
            assert row.frobenius == pytest.approx(np.linalg.norm(W[name]))
        elif "[" not in name:
            holds(row, sigma(W[name]))
            assert row.width <= 1e-2
    q, k, v = np.split(W["layers.0.attn.qkv.weight"], 3)
    for part, array in (("q", q), ("k", k), ("v", v)):
        holds(found[f"layers.0.attn.qkv.weight[{part}]"], sigma(array))


def _with_parts(name):
    return [name, *(f"{name}[{p}]" for p in "qkv")] if "qkv" in name else [name]


def test_the_shared_network(data):
    from safetensors.numpy import load_file

    path = data / "silero_vad_16k.safetensors"
    W, found = load_file(path), scan(path, rtol=1e-3)
    whole = [name for name in found if "[" not in name]
    assert whole == [name for name, array in W.items() if array.ndim > 1]
    for name in whole:
        holds(found[name], sigma(W[name]))
        assert found[name].width <= 1e-3
    assert found["conv1.weight"].kind == "conv kernel, flattened"
    gates = np.split(W["lstm_cell.weight_hh"], 4)
    for name, array in zip("ifgo", gates, strict=True):
        holds(found[f"lstm_cell.weight_hh[{name}]"], sigma(array))


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i2", "c16", "bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (1, 9), (9, 1), (25, 25)])
@pytest.mark.parametrize("rtol", [1e-2, 1e-9])
def test_types_and_shapes(dtype, shape, rtol):
    rng = np.random.default_rng(1)
    array = rng.standard_normal(shape) * 4
    array = array + 1j * rng.standard_normal(shape) if dtype == "c16" else array
    array = array.astype(getattr(ml_dtypes, dtype, dtype))
    row = scan({"w": array} if dtype != "i2" else {"w": array.astype("f8")}, rtol=rtol)["w"]
    plain = array.astype("c16" if dtype == "c16" else "f8")
    holds(row, np.linalg.norm(plain, 2))
    assert row.width <= rtol
    assert row.largest == pytest.approx(np.abs(plain).max())
    assert row.frobenius == pytest.approx(np.linalg.norm(plain))
    assert row.largest_row == pytest.approx(np.linalg.norm(plain, axis=1).max())
    assert row.largest_column == pytest.approx(np.linalg.norm(plain, axis=0).max())
    assert row.deviation == pytest.approx(plain.std())


@pytest.mark.parametrize("exponent", [-1000, -600, 0, 600, 1000])
def test_entries_of_any_size_scale_the_row(exponent):
    array = np.random.default_rng(2).standard_normal((60, 40))
    plain, row = scan({"w": array})["w"], scan({"w": np.ldexp(array, exponent)})["w"]
    for name in ("lower", "upper", "frobenius", "largest", "largest_row", "largest_column"):
        assert getattr(row, name) == math.ldexp(getattr(plain, name), exponent)
    assert row.stable_rank == plain.stable_rank
    assert row.edge_ratio == plain.edge_ratio


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99), st.sampled_from([1e-2, 1e-6]))
def test_integer_matrices_of_any_small_shape(m, n, seed, rtol):
    array = np.random.default_rng(seed).integers(-3, 4, (m, n)).astype("f4")
    row = scan({"w": array}, rtol=rtol)["w"]
    holds(row, sigma(array) if array.any() else 0.0)


def test_passes_give_the_same_answer_with_a_probability(passes_for_all):
    W = transformer(layers=1, n=120)
    found = scan(W, seed=3)
    assert found.norms == 1 + 6  # the embedding; fused, out, mlp, and three parts
    assert found.share == pytest.approx(1e-6 / 16)
    for name, row in found.items():
        if "[" not in name:
            holds(row, sigma(W[name]))
        needs = min(row.matrix) >= 20
        assert row.deterministic or needs
        assert row.failure_probability in (0.0, found.share)
    assert any(not row.deterministic for row in found.values())


def test_a_layer_added_moves_no_bit_of_another_one(passes_for_all):
    W = transformer(layers=1, n=120)
    more = W | {"head.weight": np.random.default_rng(9).standard_normal((50, 40))}
    first, second = scan(W, seed=3), scan(dict(reversed(more.items())), seed=3)
    assert second.norms == first.norms + 1
    for name, row in first.items():
        same = {k: v for k, v in vars(second[name]).items() if k != "seconds"}
        assert same == {k: v for k, v in vars(row).items() if k != "seconds"}
    assert scan(W, seed=4)["embed.weight"].upper != first["embed.weight"].upper


@pytest.mark.parametrize(("count", "slots"), [(0, 1), (1, 1), (2, 16), (16, 16), (17, 256)])
def test_the_share_covers_all_norms_by_the_union_bound(count, slots):
    assert share(1e-6, count) <= 1e-6 / slots
    assert share(1e-6, count) == pytest.approx(1e-6 / slots)


def test_streams_of_names_differ_and_rest_on_the_seed():
    drawn = {entropy_of(seed, name) for seed in (0, 1) for name in ("a", "b", "a.b", "\udcff")}
    assert len(drawn) == 8
    assert entropy_of(0, "a") == entropy_of(0, "a")


def test_nothing_but_headers_is_read_before_the_rows_are_asked_for():
    found = scan(headers_of({"a.weight": (3, 4), "b.bias": (4,)}))
    assert (len(found), found.names, "a.weight" in found, "x" in found) == (
        1, ("a.weight",), True, False,
    )  # fmt: skip
    assert repr(found) == "Scan('m', 1 names, not begun)"
    with pytest.raises(AssertionError, match=r"a\.weight was read"):
        list(found)
    with pytest.raises(KeyError):
        found["x"]


def test_what_is_not_finite_or_cannot_be_read_is_a_row():
    class Broken(Header):
        def read(self):
            msg = "shard 2: expected 48 bytes at 100, got 17"
            raise SourceError(msg)

    broken = Broken(name="broken", shape=(3, 4), dtype="float32", nbytes=48)
    refused = header("packed", (3, 4), refusal="integers of a scheme that is not here")
    bad = np.ones((3, 4), "f4")
    bad[0, 1], bad[2, 2] = np.nan, np.inf
    fine = scan({"x": np.eye(3)})._models[0]["x"]
    from bigspec.networks.models import as_model

    tensors = {"bad": as_model({"bad": bad})["bad"], "broken": broken, "packed": refused, "x": fine}
    found = scan(Model("m", "memory", tensors))
    assert [row.non_finite for row in found.values()] == [2, 0, 0, 0]
    assert found["bad"].lower is None
    assert found["broken"].note == "shard 2: expected 48 bytes at 100, got 17"
    assert found["packed"].note == "integers of a scheme that is not here"
    assert found["x"].lower <= 1.0 <= found["x"].upper
    text = found.summary()
    assert "2 NaN or Inf" in text
    assert "broken: shard 2: expected 48 bytes at 100, got 17" in text


def test_low_rank_pairs():
    rng = np.random.default_rng(0)
    up, down = rng.standard_normal((50, 4)), rng.standard_normal((4, 30))
    W = {"q.lora_A.weight": down, "q.lora_B.weight": up, "q.alpha": np.float32(8)}
    row = scan(W)["q (LoRA)"]
    exact = 2.0 * up @ down
    holds(row, np.linalg.norm(exact, 2))
    assert (row.deterministic, row.matrix, row.note) == (True, (50, 30), "")
    assert row.width < 1e-11
    assert row.frobenius == pytest.approx(np.linalg.norm(exact))
    assert row.largest == pytest.approx(np.abs(exact).max())
    other = W | {"q.lora_B.weight": up * (1 + 1e-3)}
    change = scan(other, minus=W)["q (LoRA)"]
    holds(change, 1e-3 * np.linalg.norm(exact, 2), 1e-9)
    assert change.change.lower <= 1e-3 * (1 + 1e-9)
    assert change.change.upper >= 1e-3 * (1 - 1e-9)


@pytest.mark.parametrize("low", [False, True])
def test_kronecker_pairs(low):
    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_normal(s) for s in ((3, 5), (8, 2), (2, 6)))
    W = {"q.lokr_w1": a, "q.alpha": np.float32(8)}
    W |= {"q.lokr_w2_a": b, "q.lokr_w2_b": c} if low else {"q.lokr_w2": b @ c}
    row = scan(W)["q (LoKr)"]
    exact = np.kron(a, b @ c) * (4.0 if low else 1.0)
    holds(row, np.linalg.norm(exact, 2))
    assert row.matrix == exact.shape
    assert row.frobenius == pytest.approx(np.linalg.norm(exact))
    assert row.largest == pytest.approx(np.abs(exact).max())
    assert row.deviation == pytest.approx(exact.std())
    assert row.width <= 1e-2


@pytest.mark.parametrize("shape", [(), (256,), (1, 300), (2, 3), (256, 10)])
def test_scales_of_8_bit_floats(shape):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((256, 300)).astype(ml_dtypes.float8_e4m3fn)
    scale = rng.uniform(0.5, 2.0, shape).astype("f4")
    whole = np.asarray(scale, "f8")
    if shape in ((2, 3), (256, 10)):
        rows, columns = (128, 128) if shape == (2, 3) else (1, 30)
        whole = np.kron(whole, np.ones((rows, columns)))[:256, :300]
    elif shape == (256,):
        whole = whole[:, None]
    row = scan({"w.weight": weight, "w.weight_scale_inv": scale})["w.weight"]
    holds(row, np.linalg.norm(weight.astype("f8") * whole, 2))
    assert row.kind == "matrix, times its scales"


@pytest.mark.parametrize("names", [("w_g", "w_v"), ("p.original0", "p.original1")])
@pytest.mark.parametrize("lengths", [(6, 1), (1, 5), (1, 1)])
def test_weight_normalisation(names, lengths):
    rng = np.random.default_rng(0)
    v, g = rng.standard_normal((6, 5)), rng.uniform(1, 2, lengths)
    axes = tuple(k for k in (0, 1) if lengths[k] == 1)
    exact = g * v / np.sqrt((v * v).sum(axis=axes, keepdims=True))
    prefix = "m.weight" if names[0] == "w_g" else "m.parametrizations.weight"
    keys = [prefix + name.removeprefix("w").removeprefix("p") for name in names]
    holds(scan(dict(zip(keys, (g, v), strict=True)))[keys[1]], np.linalg.norm(exact, 2))


@pytest.mark.parametrize("style", ["old", "new"])
@pytest.mark.parametrize("shape", [(12, 9), (6, 3, 3, 3), (9, 12)])
def test_a_fresh_and_a_stale_spectral_normalisation(style, shape):
    rng = np.random.default_rng(0)
    W = rng.standard_normal(shape)
    u, s, vh = np.linalg.svd(W.reshape(len(W), -1))
    keys = [f"m.weight_{x}" for x in ("orig", "u", "v")] if style == "old" else [
        f"m.parametrizations.weight.{x}" for x in ("original", "0._u", "0._v")]  # fmt: skip
    fresh = scan(dict(zip(keys, (W, u[:, 0], vh[0]), strict=True)))[keys[0]]
    holds(fresh, s[0])
    assert fresh.spectral_ratio.lower <= 1 <= fresh.spectral_ratio.upper
    assert "stale" not in fresh.note
    stale = scan(dict(zip(keys, (W, u[:, 1], vh[1]), strict=True)))[keys[0]]
    assert stale.spectral_ratio.lower <= s[1] / s[0] <= stale.spectral_ratio.upper
    assert "u is stale" in stale.note
    averaged = scan(dict(zip(keys, (W, 0.5 * u[:, 0], vh[0]), strict=True)))[keys[0]]
    assert "u is stale: u^T W v is at most 0.5 of" in averaged.note


def test_another_model_of_half_precision(passes_for_all):
    W = transformer() | {"only.here": np.eye(2), "odd": np.ones((3, 4))}
    H = {k: v.astype("f2") for k, v in W.items()} | {"odd": np.ones((4, 3)), "there": np.eye(3)}
    del H["only.here"]
    found = scan(W, minus=H, seed=1, rtol=1e-3)
    assert (found.only_in_model, found.only_in_other) == (("only.here",), ("there",))
    assert found["odd"].note == "the shapes differ: [3, 4] and [4, 3]"
    for name, row in found.items():
        if "[" in name or name == "odd":
            continue
        A, B = (X[name].reshape(len(X[name]), -1).astype("f8") for X in (W, H))
        truth = np.linalg.norm(A - B, 2)
        holds(row, truth)
        assert row.change.lower <= truth / np.linalg.norm(B, 2) <= row.change.upper
        assert row.change.upper <= row.change.lower * (1 + 3e-3)
    assert found.norms == 2 * 19
    assert "only in a mapping of" in found.summary()


def test_vectors_minus_those_of_another_model():
    A = {"w": np.eye(3), "b": np.array([1.0, 2.0]), "ids": np.arange(4), "c": np.ones(3)}
    B = {"w": np.eye(3), "b": np.array([1.0, 5.0]), "ids": np.arange(4), "c": np.ones(4)}
    found = scan(A, minus=B, everything=True)
    assert [found[name].frobenius for name in ("b", "ids")] == [3.0, 0.0]
    assert found["c"].note == "the shapes differ: [3] and [4]"


def test_limits_by_pattern_decide_rows(tmp_path, passes_for_all):
    W = transformer()
    file = tmp_path / "limits.toml"
    file.write_text(
        '["*"]\nmax_norm = 100\n["layers.0.*"]\nmax_norm = 1.0\n["embed*"]\nmin_norm=2\n'
    )
    found = scan(W, gate=str(file))
    assert found.ruling.exit_status == 3
    assert set(found.ruling.named("failed")) == {n for n in found.names if n.startswith("layers.0")}
    # Decided long before the width: one pass is enough to see that a norm exceeds 1.
    assert found["layers.0.mlp.weight"].passes == 1
    assert not found["layers.0.mlp.weight"].converged
    assert scan(W, max_norm=1e3).ruling.exit_status == 0
    norm = sigma(W["embed.weight"])
    assert scan(W, only="embed*", max_norm=norm).ruling.exit_status == 4
    bad = scan(W | {"nan": np.full((2, 2), np.nan)}, max_norm=1e3)
    assert bad.ruling.exit_status == 65
    assert bad.ruling.reason == "NaN or Inf in nan"


@pytest.mark.parametrize("limit", [None, 20 << 20], ids=["in memory", "larger than memory"])
def test_a_missing_chunk_of_a_store_is_said_in_its_row_or_is_an_error(limit, tmp_path):
    stored = np.random.default_rng(7).standard_normal((64, 16))
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    for name in ("whole", "holed"):
        group.create_array(name, shape=(64, 16), chunks=(8, 16), dtype="f8")[:] = stored
    (tmp_path / "g.zarr/holed/c/5/0").unlink()
    found = scan(tmp_path / "g.zarr", memory_limit=limit)
    said = "1 chunk of tensor 'holed' is not in the store and counts as its fill value"
    assert (found["whole"].note, found["holed"].note) == ("", said)
    stored[40:48] = 0
    assert found["holed"].lower <= np.linalg.norm(stored, 2) <= found["holed"].upper
    place = tmp_path / "run"
    list(scan(tmp_path / "g.zarr", memory_limit=limit, seed=1, checkpoint=place).values())
    with pytest.raises((ChunkError, ResumeError), match=r"not in the store|missing_chunks was"):
        list(scan(tmp_path / "g.zarr", checkpoint=place, missing_chunks="error").values())
    with pytest.raises(ChunkError, match="chunk c/5/0 is not in the store"):
        list(scan(tmp_path / "g.zarr", memory_limit=limit, missing_chunks="error").values())


def test_a_model_without_a_matrix_says_so():
    with pytest.raises(ArgumentError, match=r"expected a matrix, got none among 1 row \(1 of"):
        scan({"bias": np.ones(3)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "x*"}, "expected a row that the patterns choose, got none among 23 rows"),
        ({"only": [""]}, "only: expected patterns of names"),
        ({"gate": {"x*": {"max_norm": 1}}}, r"gate: expected patterns that match .* got 'x\*'"),
        ({"gate": {"*": {"most": 1}}}, "expected a table with max_norm, min_norm or both"),
        ({"gate": {"*": {"max_norm": -1}}}, "max_norm: expected a finite number >= 0"),
        ({"gate": {}}, "gate: expected a table for each pattern"),
        ({"gate": "no/such.toml"}, "gate: cannot read no/such.toml"),
        ({"gate": Gate(max_change=1.0)}, "gate: expected max_norm or min_norm"),
        ({"max_norm": 1.0, "gate": {"*": {"max_norm": 1}}}, "expected one of both"),
        ({"rtol": 2.0}, "rtol: expected"),
        ({"failure_probability": 0}, "failure_probability: expected"),
        ({"memory_limit": "x"}, "memory_limit: expected"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(ArgumentError, match=message):
        scan(transformer(), **options)


def test_things_that_are_no_model():
    with pytest.raises(UnsupportedTypeError, match="a state dict, got ndarray"):
        scan(np.eye(3))
    with pytest.raises(UnsupportedTypeError, match="a: expected an array of numbers, got str"):
        scan({"a": "text"})
    for dtype in ("longdouble", "V4", [("x", "f4")], "M8[s]"):
        with pytest.raises(UnsupportedTypeError, match="a: expected an array of numbers, got"):
            scan({"a": np.zeros((2, 2), dtype)})


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-300, 1e300), st.floats(0, 1e-3))
def test_ends_with_few_digits_enclose_the_interval(lower, width):
    upper = lower * (1 + width)
    low, high = brief(lower, upper)
    assert Fraction(low) <= Fraction(lower)
    assert Fraction(upper) <= Fraction(high)
    assert len(low) < 24


def test_sorting_and_the_first_rows():
    found = scan(transformer())
    by_norm = found.summary(sort="norm", top=2).splitlines()
    assert [line.split()[0] for line in by_norm[1:3]] == [
        row.name for row in sorted(found.values(), key=lambda row: -row.upper)[:2]
    ]
    assert "  2 of 20 rows are shown" in by_norm
    with pytest.raises(ArgumentError, match="sort: expected name or one of norm"):
        found.summary(sort="colour")
    with pytest.raises(ArgumentError, match="top: expected at least 1, got 0"):
        found.summary(top=0)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_keeps_within_the_width(width):
    found = scan(
        transformer() | {f"a.very{'.long' * 30}.name.of.{k}.weight": np.eye(3) for k in "ab"}
    )
    lines = found.summary(width=width).splitlines()
    table = lines[: 1 + len(found)]
    assert max(map(len, table)) <= width
    assert [line for line in table if "..." in line]


def test_experts_are_folded_to_three_rows_unless_sorted():
    W = {"experts.w": np.stack([k * np.eye(3) for k in range(1, 8)])}
    found = scan(W)
    lines = found.summary().splitlines()
    names = [line.split(")")[0] + ")" for line in lines[1:4]]
    assert names == [
        "experts.w[0] (min of 7)", "experts.w[3] (median of 7)", "experts.w[6] (max of 7)",
    ]  # fmt: skip
    assert len(found) == 7
    assert len(found.summary(sort="norm").splitlines()) > 8


def test_json_csv_and_page_have_every_row():
    W = transformer() | {"<b>": np.eye(2), "nan": np.full((2, 2), np.inf)}
    found = scan(W, minus={k: 2 * v for k, v in W.items()}, everything=True)
    document = json.loads(found.to_json())
    assert document["schema"] == rows.SCHEMA == "bigspec.scan/1"
    assert [row["name"] for row in document["rows"]] == list(found)
    assert document["rows"][0]["certainty"] == "certain"
    lines = found.to_csv().splitlines()
    assert len(lines) == 1 + len(found)
    page = found.to_html()
    assert page.count("<tr>") >= len(found)
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_memory_that_has_no_room_for_a_tensor_reads_it_in_every_pass(tmp_path):
    big = np.random.default_rng(0).standard_normal((900, 700))
    np.save(tmp_path / "w.npy", big)
    mapped = np.load(tmp_path / "w.npy", mmap_mode="r")
    found = scan({"w": mapped, "small": mapped[:40]}, memory_limit="28MiB", seed=1)
    holds(found["w"], sigma(big))
    assert found["w"].largest == np.abs(big).max()
    assert found["w"].passes >= 1
    near = scan({"w": mapped}, minus={"w": big + 0.25}, memory_limit="28MiB", seed=1)["w"]
    holds(near, 0.25 * math.sqrt(900 * 700))
    assert near.change.lower <= 0.25 * math.sqrt(900 * 700) / sigma(big + 0.25) <= near.change.upper


@pytest.mark.parametrize("shape", [(2300, 2200), (9000, 2200), (2200, 9000), (40_000, 3000)])
def test_passes_fit_into_what_a_row_is_counted_with(shape):
    """A plan that does not would refuse the row; nothing is read."""
    entry = entries_of(headers_of({"w": shape}))[0]
    request = Request(entry)
    matrix = open_source(np.broadcast_to(np.float32(1.0), shape))
    wishes = Wishes("lanczos", 16, 0, memory_of(request))
    plan = make_plan(matrix, InlineExecutor(), wishes, look=False)
    assert not takes_gram(shape)
    assert plan.layout.memory.spare >= 16 * 8 * 12 * min(shape)  # a basis of a dozen passes


def test_rows_on_the_workers_of_a_cluster(client, tmp_path):
    from safetensors.numpy import save_file

    W = transformer()
    save_file(W, tmp_path / "m.safetensors")
    there, here = scan(tmp_path / "m.safetensors", seed=1), scan(W, seed=1)
    for name, row in there.items():
        assert (row.lower, row.upper) == (here[name].lower, here[name].upper)


def test_the_time_limit_leaves_rows_without_an_interval():
    found = scan(transformer(), time_limit=1e-9, max_norm=1e9).run()
    assert found.stopped_by == "time"
    assert set(found.missing) == set(found.names)
    assert {row.note for row in found.values()} == {"not reached: the scan ended first"}
    assert found.ruling.exit_status == 4
