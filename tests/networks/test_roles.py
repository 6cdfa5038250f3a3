"""What each tensor is taken for, by its name and shape alone: no number is read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigspec import scan
from bigspec.errors import ArgumentError
from bigspec.networks.fused import split_of
from bigspec.networks.roles import entries_of
from tests.networks.models import headers_of


def rows(shapes, notes=None, split=None, dtypes=None):
    return {e.name: e for e in entries_of(headers_of(shapes, notes, dtypes), split_of(split))}


def kinds(*arguments, **options):
    return {name: (e.kind, e.matrix) for name, e in rows(*arguments, **options).items()}


def test_matrices_vectors_integers_scalars_and_empty_ones():
    shapes = {"w": (4, 3), "b": (4,), "s": (), "none": (0, 4), "ids": (1, 512), "row": (1, 1, 5)}
    found = rows(shapes, dtypes={"ids": "int64"})
    assert {n: e.kind for n, e in found.items()} == {
        "w": "matrix", "b": "vector", "s": "vector", "none": "vector", "ids": "integers",
        "row": "vector",
    }  # fmt: skip
    assert [n for n, e in found.items() if not e.hidden] == ["w"]


@pytest.mark.parametrize(
    ("name", "shape", "kind", "matrix"),
    [
        ("conv1.weight", (8, 4, 3), "conv kernel, flattened", (8, 12)),
        ("final_conv.weight", (1, 128, 1), "conv kernel, flattened", (1, 128)),
        ("features.0.weight", (64, 3, 11, 11), "conv kernel, flattened", (64, 363)),
        ("video.weight", (8, 3, 2, 3, 3), "conv kernel, flattened", (8, 54)),
        ("conv2d/conv2d/kernel:0", (3, 3, 16, 32), "conv kernel, flattened", (32, 144)),
        ("pos_embed", (1, 197, 768), "matrix", (197, 768)),
        ("mixer", (8, 4, 3), "tensor, flattened", (8, 12)),
        ("expert_gate.weight", (8, 16), "matrix", (8, 16)),
    ],
)
def test_kernels_and_other_tensors_of_three_and_more_axes(name, shape, kind, matrix):
    assert kinds({name: shape}) == {name: (kind, matrix)}


@pytest.mark.parametrize("name", ["mlp.experts.down_proj", "blk.0.ffn_gate_exps.weight"])
def test_experts_are_a_row_each_and_one_stack(name):
    found = rows({name: (4, 6, 5)})
    assert list(found) == [f"{name}[{k}]" for k in range(4)]
    assert {(e.kind, e.matrix, e.stack) for e in found.values()} == {("expert", (6, 5), name)}


@pytest.mark.parametrize(
    ("name", "shape", "parts"),
    [
        ("attn.qkv.weight", (12, 4), "q k v"),
        ("attn.in_proj_weight", (12, 4), "q k v"),
        ("h.0.attn.c_attn.weight", (4, 12), "q k v"),
        ("self_attn.qkv_proj.weight", (12, 4), "q k v"),
        ("mlp.gate_up_proj.weight", (20, 4), "gate up"),
        ("blk.0.attn_qkv.weight", (12, 4), "q k v"),
        # Not known: fewer keys than queries, or an order that differs from model to model.
        ("attn.qkv.weight", (8, 4), ""),
        ("attention.query_key_value.weight", (12, 4), ""),
        ("attn.qkv_proj.weight", (12, 4), ""),
    ],
)
def test_fused_weights_whole_and_in_parts(name, shape, parts):
    found = kinds({name: shape})
    assert list(found) == [name, *(f"{name}[{part}]" for part in parts.split())]
    sizes = [m * n for _, (m, n) in found.values()]
    assert not parts or sum(sizes[1:]) == sizes[0]


@pytest.mark.parametrize(("gates", "parts"), [(4, "ifgo"), (3, "rzn"), (1, ""), (2, "")])
def test_recurrent_gates_by_the_shape_of_the_other_weight(gates, parts):
    found = kinds({"rnn.weight_ih_l0": (gates * 6, 5), "rnn.weight_hh_l0": (gates * 6, 6)})
    assert [n for n in found if n.startswith("rnn.weight_ih_l0[")] == [
        f"rnn.weight_ih_l0[{part}]" for part in parts
    ]


def test_a_split_of_equal_and_of_given_parts():
    found = kinds({"qkv.weight": (12, 4), "x.weight": (6, 4)}, split=["qkv=6,3,3", "x.*=2"])
    assert [m for _, (m, _) in found.values()] == [12, 6, 3, 3, 6, 3, 3]


@pytest.mark.parametrize("split", ["qkv=5", "qkv=6,3", "qkv=1", "qkv", "=3", "qkv=a", "qkv=0,12"])
def test_a_split_that_cannot_be(split):
    with pytest.raises(ArgumentError, match="split: expected"):
        rows({"qkv.weight": (12, 4)}, split=split)


def test_tied_weights_are_one_run_and_a_row_each():
    shared = np.arange(12.0).reshape(3, 4)
    found = scan({"embed": shared, "head": shared, "turned": shared.T})
    assert {name: row.tied_to for name, row in found.items()} == {
        "embed": "", "head": "embed", "turned": "",
    }  # fmt: skip
    assert (found["head"].lower, found["head"].upper) == (
        found["embed"].lower,
        found["embed"].upper,
    )
    assert found["head"].seconds == 0.0
    alone = scan({"embed": shared, "head": shared}, only="head")
    assert alone["head"].tied_to == ""
    assert alone["head"].lower == found["embed"].lower


PEFT = {"m.q.lora_A.weight": (4, 30), "m.q.lora_B.weight": (50, 4)}


@pytest.mark.parametrize(
    ("shapes", "name"),
    [
        (PEFT, "m.q (LoRA)"),
        ({"m.q.lora_A.default.weight": (4, 30), "m.q.lora_B.default.weight": (50, 4)},
         "m.q.default (LoRA)"),
        ({"u_q.lora_down.weight": (4, 30), "u_q.lora_up.weight": (50, 4)}, "u_q (LoRA)"),
        ({"q.lora.down.weight": (4, 30), "q.lora.up.weight": (50, 4)}, "q (LoRA)"),
        ({"e.lora_embedding_A": (4, 30), "e.lora_embedding_B": (50, 4)}, "e (LoRA)"),
        ({"c.lora_down.weight": (4, 10, 3, 1), "c.lora_up.weight": (50, 4, 1, 1)}, "c (LoRA)"),
    ],
)  # fmt: skip
def test_low_rank_pairs_by_the_names_of_each_trainer(shapes, name):
    found = {n: e for n, e in rows(shapes).items() if not e.hidden}
    assert list(found) == [name]
    assert found[name].matrix == (50, 30)
    assert found[name].note.startswith("no alpha was found")


def test_a_factor_without_its_partner_is_a_matrix():
    assert kinds({"m.q.lora_A.weight": (4, 30)}) == {"m.q.lora_A.weight": ("matrix", (4, 30))}
    unfit = kinds({"m.q.lora_A.weight": (4, 30), "m.q.lora_B.weight": (50, 5)})
    assert [kind for kind, _ in unfit.values()] == ["matrix", "matrix"]


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": 8, "r": 4}, 2.0),
        ({"lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"lora_alpha": 8, "alpha_pattern": {"q": 16}}, 4.0),
        ({"lora_alpha": 8, "alpha_pattern": {"k": 16}}, 2.0),
        ({"lora_alpha": 8, "alpha_pattern": {"q|k": 16}}, None),  # a pattern that may mean it
        ({}, None),
    ],
)
def test_alpha_of_a_pair(config, scale):
    (entry,) = (e for e in rows(PEFT, {"adapter": config}).values() if not e.hidden)
    assert entry.form.scale(None) == (1.0 if scale is None else scale)
    assert bool(entry.note) == (scale is None)


@pytest.mark.parametrize(
    ("scale", "block"),
    [
        ((), (256, 384)), ((1,), (256, 384)), ((256,), (1, 384)), ((256, 1), (1, 384)),
        ((1, 384), (256, 1)), ((2, 3), (128, 128)), ((256, 12), (1, 32)), ((4, 6), (64, 64)),
    ],
)  # fmt: skip
def test_scales_of_8_bit_floats_by_their_shape(scale, block):
    found = rows({"w.weight": (256, 384), "w.weight_scale": scale},
                 dtypes={"w.weight": "float8_e4m3fn"})  # fmt: skip
    assert found["w.weight"].form.block == block
    assert found["w.weight_scale"].hidden


@pytest.mark.parametrize("scale", [(2, 4), (3,), (5, 7), (256, 384, 1), (2, 2, 2)])
def test_scales_that_cannot_be_understood_are_refused(scale):
    found = rows({"w.weight": (256, 384), "w.weight_scale_inv": scale},
                 dtypes={"w.weight": "float8_e4m3fn"})  # fmt: skip
    assert found["w.weight"].kind == "refused"
    assert found["w.weight"].note == (
        "expected one scale, one a row, or one for each block of 128 x 128 of [256, 384], got "
        f"scales of the shape {list(scale)} in w.weight_scale_inv"
    )


@pytest.mark.parametrize(
    "shapes",
    [
        {"l.qweight": (16, 8), "l.qzeros": (2, 8), "l.scales": (2, 8)},
        {"l.weight": (16, 8), "l.weight_scale": (16,)},
        {"l.weight": (64, 1), "l.weight.absmax": (2,)},
    ],
)
def test_integers_of_a_quantised_weight_are_refused(shapes):
    first = next(iter(shapes))
    found = rows(shapes, dtypes={first: "int32" if "qweight" in first else "uint8"})
    assert found[first].kind == "refused"
    assert found[first].note.startswith("integers of a quantised weight")
    assert all(e.hidden for n, e in found.items() if n != first)


NAMES = st.text("abcdefghijklmnopqrstuvwxyz_.0123456789[]", min_size=1, max_size=12)
WORDS = st.sampled_from(["", "qkv", "experts", "conv", "lora_A.weight", "weight_orig", "weight_v"])
DTYPES = st.sampled_from(["float32", "bfloat16", "float8_e4m3fn", "int8", "bool", "Q4_K"])


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.tuples(NAMES, WORDS).map(".".join),
        st.tuples(st.lists(st.integers(0, 12), max_size=5).map(tuple), DTYPES),
        max_size=6,
    )
)
def test_every_tensor_is_a_row_or_in_one_and_no_number_is_read(tensors):
    shapes = {name: shape for name, (shape, _) in tensors.items()}
    model = headers_of(shapes, dtypes={name: dtype for name, (_, dtype) in tensors.items()})
    entries = entries_of(model)
    seen = set()
    for entry in entries:
        seen |= {t.name for t in (entry.form.tensors if entry.form else ())} | {entry.name}
        if entry.matrix is not None:
            assert entry.form is not None
            assert entry.matrix[0] > 0 < entry.matrix[1]
    assert set(model) <= seen
    assert len({entry.name for entry in entries}) == len(entries)


def test_a_tensor_that_is_called_like_a_part_of_another_one():
    found = rows({"qkv": (6, 2), "qkv[q]": (3, 3), "qkv[k]": (5,)})
    assert list(found) == ["qkv", "qkv[q]", "qkv[k]", "qkv[v]", "qkv[q]:2", "qkv[k]:2"]
    assert found["qkv[q]:2"].matrix == (3, 3)
