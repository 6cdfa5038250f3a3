"""Rows that a careless or hostile model once made wrong: each against its own effective weight."""

import csv
import io
import math
from fractions import Fraction

import numpy as np
import pytest

from bigspec import scan
from bigspec.errors import ArgumentError, ResumeError
from bigspec.networks.forms import Part
from bigspec.networks.roles import entries_of
from bigspec.networks.tensors import Model
from bigspec.networks.work import Request, memory_of
from tests.networks.models import header, headers_of, sigma

RNG = np.random.default_rng(0)


def holds(row, exact):
    assert row.lower <= exact * (1 + 1e-13)
    assert row.upper >= exact * (1 - 1e-13)


def spectral(array):
    return float(np.linalg.norm(array.reshape(len(array), -1), 2))


@pytest.mark.parametrize("columns", [1, 2, 3, 7, 50])
def test_norms_among_subnormal_numbers_are_rounded_outward(columns):
    tiny = 5e-324
    row = scan({"w": np.full((1, columns), tiny)})["w"]
    assert Fraction(row.lower) ** 2 <= Fraction(tiny) ** 2 * columns <= Fraction(row.upper) ** 2


def test_norms_beyond_the_largest_float():
    row = scan({"w": np.full((6, 7), 1.7e308)})["w"]
    assert (row.lower, row.upper) == (np.finfo(float).max, math.inf)


@pytest.mark.parametrize("shape", [(20_000, 64), (64, 20_000)])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_equal_entries_whose_rounding_repeats(shape, dtype):
    array = np.full(shape, 0.1, dtype)
    row = scan({"w": array}, rtol=1e-13)["w"]
    exact = Fraction(float(array[0, 0])) ** 2 * array.size
    assert Fraction(row.lower) ** 2 <= exact <= Fraction(row.upper) ** 2


FACTORS = {"q.lora_A.weight": RNG.standard_normal((4, 30)),
           "q.lora_B.weight": RNG.standard_normal((20, 4))}  # fmt: skip


@pytest.mark.parametrize("exponent", [-600, -530, 0, 500])
def test_low_rank_factors_of_any_size(exponent):
    row = scan({k: np.ldexp(v, exponent) for k, v in FACTORS.items()})["q (LoRA)"]
    plain = scan(FACTORS)["q (LoRA)"]
    assert row.lower <= np.ldexp(plain.upper, 2 * exponent)
    assert row.upper >= np.ldexp(plain.lower, 2 * exponent)
    assert row.upper > 0.0
    if exponent >= 0:
        assert row.upper == np.ldexp(plain.upper, 2 * exponent)
        assert row.largest == np.ldexp(plain.largest, 2 * exponent)


def test_complex_factors_lengths_and_vectors():
    W = {name: array + 1j * RNG.standard_normal(array.shape) for name, array in FACTORS.items()}
    product = W["q.lora_B.weight"] @ W["q.lora_A.weight"]
    row = scan(W)["q (LoRA)"]
    holds(row, spectral(product))
    assert row.deviation == pytest.approx(product.std())
    a, b = W["q.lora_A.weight"], W["q.lora_B.weight"]
    holds(scan({"k.lokr_w1": a[:2, :3], "k.lokr_w2": b})["k (LoKr)"],
          spectral(np.kron(a[:2, :3], b)))  # fmt: skip
    lengths = RNG.uniform(1, 2, (20, 1))
    unit = b / np.linalg.norm(b, axis=1, keepdims=True)
    holds(scan({"n.weight_g": lengths, "n.weight_v": b})["n.weight_v"], spectral(lengths * unit))
    u, _, vh = np.linalg.svd(b)
    found = scan({"s.weight_orig": b, "s.weight_u": u[:, 0], "s.weight_v": vh[0].conj()})
    ratio = found["s.weight_orig"].spectral_ratio
    assert ratio.lower <= 1.0 <= ratio.upper


def test_a_kronecker_factor_whose_product_cancels():
    """Both columns nearly cancel: the rounding of the product is more than the interval."""
    a = np.ones((50, 2)) / 3
    a[:, 1] = -(1 + 1e-9 * RNG.standard_normal(50)) / 3
    W = {"k.lokr_w1": np.eye(1), "k.lokr_w2_a": a, "k.lokr_w2_b": np.ones((2, 5))}
    row = scan(W, rtol=1e-12)["k (LoKr)"]
    exact = 5 * sum((Fraction(x) + Fraction(y)) ** 2 for x, y in a.tolist())
    assert Fraction(row.lower) ** 2 <= exact <= Fraction(row.upper) ** 2
    assert not row.converged


@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_kronecker_factors_of_any_size(size):
    row = scan({"k.lokr_w1": size * np.eye(2), "k.lokr_w2": size * np.eye(3)})["k (LoKr)"]
    assert row.upper > 0.0
    assert row.lower <= (np.finfo(float).max if size > 1 else 0.0)


@pytest.mark.parametrize("size", [1e300, 1e-300, 1.0])
def test_directions_of_any_size_have_the_lengths_that_are_given(size):
    v, g = RNG.standard_normal((6, 4)), RNG.uniform(1, 2, (6, 1))
    exact = g * v / np.linalg.norm(v, axis=1, keepdims=True)
    holds(scan({"c.weight_g": g, "c.weight_v": v * size})["c.weight_v"], spectral(exact))
    v[2] = 0.0
    assert scan({"c.weight_g": g, "c.weight_v": v})["c.weight_v"].non_finite == 4


@pytest.mark.parametrize("dtype", ["f4", "bool"])
@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 2, 2)])
def test_a_pruned_weight_is_multiplied_by_its_mask(dtype, shape):
    weight, mask = RNG.standard_normal(shape), RNG.random(shape) > 0.5
    found = scan({"l.weight_orig": weight, "l.weight_mask": mask.astype(dtype)})
    assert list(found) == ["l.weight_orig"]
    holds(found["l.weight_orig"], spectral(weight * mask))
    assert found["l.weight_orig"].kind.endswith("pruned")
    unfit = scan({"l.weight_orig": weight, "l.weight_mask": mask[:1]})["l.weight_orig"]
    assert unfit.note.startswith("expected a mask of the shape")


def test_vectors_of_a_transposed_convolution_with_as_many_channels_in_as_out():
    weight = RNG.standard_normal((6, 6, 3, 3))
    turned = np.moveaxis(weight, 1, 0).reshape(6, -1)
    u, s, vh = np.linalg.svd(turned, full_matrices=False)
    row = scan({"up.weight_orig": weight, "up.weight_u": u[:, 0], "up.weight_v": vh[0]})[
        "up.weight_orig"
    ]
    holds(row, s[0])
    assert "stale" not in row.note
    assert "the second of a transposed convolution" in row.note


NO_CLAIM = "in a way that the file does not say: the norm is that of the tensor"


@pytest.mark.parametrize(
    ("tensors", "row", "said"),
    [
        ({"m.lora_down.weight": (4, 8, 1, 1), "m.lora_mid.weight": (4, 4, 3, 3),
          "m.lora_up.weight": (16, 4, 1, 1)}, "m (LoRA)", "a core (lora_mid) stands between"),
        ({"h.hada_w1_a": (9, 3), "h.hada_w1_b": (3, 7), "h.hada_w2_a": (9, 3),
          "h.hada_w2_b": (3, 7), "h.hada_t1": (3, 3, 3, 3)}, "h (LoHa)", "LoHa with a core"),
        ({"h.hada_w1_a": (9, 3), "h.hada_w1_b": (3, 7), "h.hada_w2_a": (9, 3),
          "h.hada_w2_b": (3, 8)}, "h (LoHa)", "LoHa with factors that do not fit"),
        ({"h.hada_w1_a": (9, 3), "h.hada_w1_b": (3, 7), "h.hada_w2_a": (9, 3),
          "h.hada_w2_b": (3, 7)}, "h (LoHa)", "no alpha was found"),
        ({"x.lora_A.weight": (4, 9), "x.lora_B.weight": (8, 4), "x.dora_scale": (8, 1)},
         "x (LoRA)", "its magnitudes are not in it"),
        ({"x.lora_A.weight": (4, 9), "x.lora_B.weight": (8, 4), "x.lora_magnitude_vector": (8,)},
         "x (LoRA)", "its magnitudes are not in it"),
        ({"l.parametrizations.weight.original": (5, 7), "l.parametrizations.weight.1._u": (5,)},
         "l.parametrizations.weight.original", NO_CLAIM),
        ({"l.weight_orig": (5, 7)}, "l.weight_orig", NO_CLAIM),
    ],
)  # fmt: skip
def test_what_a_row_does_not_say_is_said(tensors, row, said):
    found = [e for e in entries_of(headers_of(tensors)) if e.name == row]
    assert [said in e.note for e in found] == [True]


@pytest.mark.parametrize(
    ("tensors", "dtypes", "row"),
    [
        ({"x.lora_A.weight": (4, 9), "x.lora_B.weight": (8, 4)}, "int8", "x (LoRA)"),
        ({"x.lora_A.weight": (4, 9), "x.lora_B.weight": (8, 4), "x.lora_A.weight_scale": ()},
         "float8_e4m3fn", "x (LoRA)"),
        ({"experts.w": (2, 8, 6), "experts.w_scale": (2,)}, "float8_e4m3fn", "experts.w"),
        ({"l.weight": (8, 6), "l.weight_scale": (), "l.weight_scale_2": ()}, "float8_e4m3fn",
         "l.weight"),
        ({"l.weight": (8, 6), "l.weight.scales": (2,)}, "float4_e2m1fn", "l.weight"),
        ({"e.up_blocks": (2, 8, 4, 16), "e.up_scales": (2, 8, 4)}, "uint8", "e.up_blocks"),
    ],
)  # fmt: skip
def test_numbers_with_scales_that_nobody_understands_are_refused(tensors, dtypes, row):
    kinds = {name: dtypes for name in tensors if "scale" not in name}
    found = {e.name: e for e in entries_of(headers_of(tensors, None, kinds))}
    assert found[row].kind == "refused"
    assert found[row].note
    assert all(e.hidden for name, e in found.items() if name != row)


def test_the_first_pattern_that_may_mean_a_layer_counts():
    """PEFT takes the first one; an expression is not survey into, so no alpha is known."""
    shapes = {"m.q.lora_A.weight": (4, 30), "m.q.lora_B.weight": (50, 4)}
    notes = {"adapter": {"lora_alpha": 8, "alpha_pattern": {"q|k": 16, "q": 32}}}
    (entry,) = (e for e in entries_of(headers_of(shapes, notes)) if not e.hidden)
    assert entry.note.startswith("no alpha was found")


def test_memory_counts_the_floats_that_8_bit_ones_become():
    tensor = header("w", (1000, 1000), dtype="float8_e4m3fn")
    plain = Request(entries_of(Model("m", "memory", {"w": header("w", (1000, 1000))}))[0])
    small = Request(entries_of(Model("m", "memory", {"w": tensor}))[0])
    assert memory_of(small) - memory_of(plain) == 4 * tensor.size
    assert isinstance(small.entry.form, Part)


def test_names_that_a_spreadsheet_or_a_line_would_obey():
    names = ["=1+1", "+x", "-y", "@z", "a\nb", "a\\nb", "n" * 3000]
    found = scan({name: k * np.eye(2) for k, name in enumerate(names, 1)})
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert [row["name"] for row in rows] == [
        "'=1+1", "'+x", "'-y", "'@z", "a\\nb", "a\\nb:2", "n" * 3000,
    ]  # fmt: skip
    assert max(map(len, found.summary().splitlines()[: 1 + len(names)])) < 300


def test_a_name_with_brackets_is_a_pattern_of_itself():
    W = {"qkv": RNG.standard_normal((6, 2)), "w": np.eye(2)}
    assert list(scan(W, only="qkv[q]")) == ["qkv[q]"]
    assert "qkv[q]" not in scan(W, leave_out="qkv[q]")
    assert scan(W, gate={"qkv[q]": {"max_norm": 0.0}}).ruling.named("failed") == ["qkv[q]"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["w", "typo"]}, "only: expected patterns that choose rows .* got 'typo'"),
        ({"split": "typo=2"}, "split: expected a pattern of the name of a matrix .* got 'typo'"),
        ({"minus": {"v": np.eye(4)}}, "minus: expected tensors of the same names, got none of the"),
    ],
)
def test_a_choice_that_chooses_nothing(options, message):
    with pytest.raises(ArgumentError, match=message):
        scan({"w": np.eye(4)}, **options)


def test_a_limit_on_a_tied_row_is_judged():
    shared = 3 * np.eye(4)
    found = scan({"embed": shared, "head": shared}, gate={"head": {"max_norm": 1.0}})
    assert found.ruling.named("failed") == ["head"]


def test_a_limit_on_a_row_without_a_partner_is_open():
    found = scan({"a": np.eye(2), "b": np.eye(2)}, minus={"a": np.eye(2)}, max_norm=9.0)
    assert (found.ruling.exit_status, found.ruling.reason) == (4, "b: no interval")


def test_kernels_with_channels_last_and_first_are_not_subtracted():
    kernel = RNG.standard_normal((3, 3, 3, 3))
    last = Model("m", "hdf5", {"c.weight": scan({"c.weight": kernel})._models[0]["c.weight"]})
    row = scan({"c.weight": kernel}, minus=last)["c.weight"]
    assert row.note == "one file has the channels of its kernels last, the other first"


def test_one_entry_of_a_large_array_in_memory_is_noticed(tmp_path):
    W = {"w": np.ones((1024, 300))}
    scan(W, checkpoint=tmp_path / "run").run()
    W["w"][517, 211] = 50.0
    with pytest.raises(ResumeError, match="of other content: w"):
        scan(W, checkpoint=tmp_path / "run").run()
    assert sigma(W["w"]) > 0.0
