"""LoHa, and differences of Kronecker products: made in memory, with a proven margin."""

import math
from fractions import Fraction

import numpy as np
import pytest

from bigspec import scan
from bigspec.networks.adapter_matrices import Hadamard, dense_of, difference_of
from bigspec.networks.forms import Kronecker
from bigspec.networks.models import as_model


def exactly(a, b):
    """The product of two matrices of floats, as fractions."""
    columns = list(zip(*b.tolist(), strict=True))
    return [
        [sum(Fraction(x) * Fraction(y) for x, y in zip(row, c, strict=True)) for c in columns]
        for row in a.tolist()
    ]


def loha(rng, m=9, n=7, ranks=(3, 2), size=1.0):
    a, c = (rng.standard_normal((m, r)) * size for r in ranks)
    b, d = (rng.standard_normal((r, n)) for r in ranks)
    return {"q.hada_w1_a": a, "q.hada_w1_b": b, "q.hada_w2_a": c, "q.hada_w2_b": d}


def lokr(rng, first=(3, 4), second=(5, 2)):
    return {"q.lokr_w1": rng.standard_normal(first), "q.lokr_w2": rng.standard_normal(second)}


@pytest.mark.parametrize("size", [1.0, 1e-120, 1e120])
def test_the_margin_of_loha_covers_its_rounding(size):
    W = loha(np.random.default_rng(0), size=size)
    tensors = as_model(W)
    form = Hadamard(
        (tensors["q.hada_w1_a"], tensors["q.hada_w1_b"]),
        (tensors["q.hada_w2_a"], tensors["q.hada_w2_b"]),
        0.7,
    )
    array, error = form.dense(lambda tensor: tensor.read())
    P, Q = (exactly(W[f"q.hada_w{k}_a"], W[f"q.hada_w{k}_b"]) for k in (1, 2))
    off = [
        Fraction(0.7) / 3 * p * q - Fraction(x)
        for row, other, given in zip(P, Q, array.tolist(), strict=True)
        for p, q, x in zip(row, other, given, strict=True)
    ]
    true = math.sqrt(float(sum(x * x for x in off) / Fraction(np.abs(array).max()) ** 2))
    true *= np.abs(array).max()
    assert 0.0 < true <= error <= 1e-12 * np.abs(array).max()


@pytest.mark.parametrize("alpha", [None, 8.0])
def test_loha_is_bracketed_with_alpha_over_its_rank(alpha):
    W = loha(np.random.default_rng(1), 60, 50, (4, 4))
    exact = (W["q.hada_w1_a"] @ W["q.hada_w1_b"]) * (W["q.hada_w2_a"] @ W["q.hada_w2_b"])
    if alpha is not None:
        W["q.alpha"] = np.float32(alpha)
        exact = exact * (alpha / 4)
    row = scan(W)["q (LoHa)"]
    assert (row.kind, row.matrix, bool(row.note)) == ("LoHa product", (60, 50), alpha is None)
    assert row.lower <= np.linalg.norm(exact, 2) * (1 + 1e-13)
    assert row.upper >= np.linalg.norm(exact, 2) * (1 - 1e-13)
    assert row.frobenius == pytest.approx(np.linalg.norm(exact))
    assert row.converged


@pytest.mark.parametrize("make", [loha, lokr])
def test_the_difference_of_two_adapters(make):
    first, second = (make(np.random.default_rng(k)) for k in (1, 2))

    def dense(W):
        if make is lokr:
            return np.kron(W["q.lokr_w1"], W["q.lokr_w2"])
        P, Q = (W[f"q.hada_w{k}_a"] @ W[f"q.hada_w{k}_b"] for k in (1, 2))
        return P * Q / (3 if "q.alpha" in W else 1)

    (row,) = scan(first, minus=second).values()
    exact = np.linalg.norm(dense(first) - dense(second), 2)
    assert row.lower <= exact * (1 + 1e-12)
    assert row.upper >= exact * (1 - 1e-12)
    assert row.other_lower <= np.linalg.norm(dense(second), 2) * (1 + 1e-12)
    assert row.other_upper >= np.linalg.norm(dense(second), 2) * (1 - 1e-12)
    (same,) = scan(first, minus=dict(first)).values()
    assert same.lower == 0.0
    assert 0.0 <= same.upper <= 1e-12 * np.linalg.norm(dense(first), 2)


def test_kronecker_products_of_other_shapes_are_subtracted():
    rng = np.random.default_rng(3)
    first, second = lokr(rng, (3, 4), (4, 2)), lokr(rng, (2, 2), (6, 4))
    (row,) = scan(first, minus=second).values()
    exact = np.kron(*first.values()) - np.kron(*second.values())
    assert row.lower <= np.linalg.norm(exact, 2) * (1 + 1e-12)
    assert row.upper >= np.linalg.norm(exact, 2) * (1 - 1e-12)
    assert row.matrix == (12, 8)


def test_an_adapter_and_a_matrix_are_not_subtracted():
    W = lokr(np.random.default_rng(0))
    row = scan(W, minus={"q (LoKr)": np.ones((15, 8))})["q (LoKr)"]
    assert row.note == "a LoKr product cannot be compared with a matrix"


def test_nan_in_a_factor_is_a_row():
    W = loha(np.random.default_rng(1))
    W["q.hada_w1_a"][2, 1] = np.nan
    assert scan(W)["q (LoHa)"].non_finite == 7


def test_the_error_of_a_difference_holds_both():
    W = {f"{name}{j}": np.random.default_rng(j).standard_normal((3, 3)) for name in "ab"
         for j in (1, 2)}  # fmt: skip
    t = as_model(W)
    first, second = Kronecker((t["a1"],), (t["a2"],)), Kronecker((t["b1"],), (t["b2"],))
    read = lambda tensor: tensor.read()  # noqa: E731
    array, base, error, own = difference_of(first, second, read)
    assert not array.any()
    np.testing.assert_array_equal(base, np.kron(W["b1"], W["b2"]))
    assert error >= dense_of(first, read)[1] + own
