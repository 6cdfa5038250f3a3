"""A convolution is the matrix that its definition writes out: products, adjoint, norms, content."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.sparse.linalg import aslinearoperator

import bigspec
from bigspec.convolutions import products
from bigspec.errors import ArgumentError, NonFiniteError, UnsupportedTypeError
from tests.convolutions.dense import Geometry, geometries, written_out

RNG = np.random.default_rng(8)
K = RNG.standard_normal((4, 6, 3, 2))
SHAPE = (6, 9, 7)


def dense(A: Any) -> Any:
    return A.apply(np.eye(A.shape[1]))


@settings(max_examples=60, deadline=None)
@given(geometries())
def test_products_are_those_of_the_matrix_that_the_definition_writes_out(case: Geometry) -> None:
    A, D = case.matrix(), case.dense()
    assert A.shape == D.shape == (np.prod(A.output_shape), np.prod(A.input_shape))
    np.testing.assert_allclose(dense(A), D, atol=1e-13)
    np.testing.assert_allclose(A.apply_adjoint(np.eye(A.shape[0])), D.conj().T, atol=1e-13)
    np.testing.assert_allclose(dense(A.H), D.conj().T, atol=1e-13)


@settings(max_examples=60, deadline=None)
@given(geometries())
def test_norms_in_closed_form_are_those_of_the_entries(case: Geometry) -> None:
    A, D = case.matrix(), case.dense()
    known, scale = A.claims, 2.0**A.claims.exponent
    size = np.linalg.norm(D)
    terms = max(known.magnitude * scale, size)  # taps of opposite sign may meet in an entry
    assert abs((known.frobenius * scale) ** 2 - size**2) <= 1e-12 * terms**2
    slack = 1 + 1e-13
    assert known.one_norm * scale * slack >= np.abs(D).sum(axis=0).max()
    assert known.inf_norm * scale * slack >= np.abs(D).sum(axis=1).max()
    assert known.nonnegative <= bool(np.all(D.real >= 0) and not np.any(D.imag))
    if not known.magnitude:  # no two taps meet: then all of them are exact
        np.testing.assert_allclose(known.one_norm * scale, np.abs(D).sum(axis=0).max(), rtol=1e-13)
        np.testing.assert_allclose(known.inf_norm * scale, np.abs(D).sum(axis=1).max(), rtol=1e-13)


def test_a_few_columns_at_a_time_give_the_same_products(monkeypatch: pytest.MonkeyPatch) -> None:
    A = bigspec.conv(K, SHAPE, padding=(1, 2), mode="reflect", stride=(1, 2))
    V, W = RNG.standard_normal((A.shape[1], 5)), RNG.standard_normal((A.shape[0], 5))
    whole = A.apply(V), A.apply_adjoint(W)
    monkeypatch.setattr(products, "PADDED_BYTES", 2 * 8 * 6 * 11 * 11)
    monkeypatch.setattr(products, "PATCHES_BYTES", 8 * 6 * 6 * 6)
    np.testing.assert_allclose(A.apply(V), whole[0], rtol=1e-13)
    np.testing.assert_allclose(A.apply_adjoint(W), whole[1], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "output_padding"),
    [(1, 0, 1, 0), (2, 1, 1, 1), ((3, 2), (2, 1), 1, (2, 0)), (1, 1, 2, 1), (2, 0, (3, 1), (2, 1))],
)
def test_a_transposed_convolution_adds_kernels(
    stride: Any, padding: Any, dilation: Any, output_padding: Any
) -> None:
    """PyTorch's definition: each input position adds a multiple of the kernel to the output."""
    groups, given, made = 2, (4, 5, 4), 3
    L = RNG.standard_normal((4, made, 3, 2))
    A = bigspec.conv(
        L, given, stride=stride, padding=padding, dilation=dilation, groups=groups,
        transposed=True, output_padding=output_padding,
    )  # fmt: skip
    s, p, e, extra = (np.broadcast_to(x, 2) for x in (stride, padding, dilation, output_padding))
    size = [(given[1 + i] - 1) * s[i] + e[i] * (L.shape[2 + i] - 1) + 1 + extra[i] for i in (0, 1)]
    assert A.output_shape == (groups * made, *(n - 2 * q for n, q in zip(size, p, strict=True)))
    X = RNG.standard_normal(given)
    Y = np.zeros((groups * made, *size))
    for c, i, j, a, b in np.ndindex(*given, *L.shape[2:]):
        first = c // 2 * made
        Y[first : first + made, s[0] * i + e[0] * a, s[1] * j + e[1] * b] += (
            X[c, i, j] * L[c, :, a, b]
        )
    Y = Y[:, p[0] : size[0] - p[0], p[1] : size[1] - p[1]]
    np.testing.assert_allclose(A.matvec(X.reshape(-1)), Y.reshape(-1), atol=1e-13)


def test_a_transposed_complex_convolution_is_the_transpose_and_not_the_adjoint() -> None:
    L = RNG.standard_normal((2, 3, 3)) + 1j * RNG.standard_normal((2, 3, 3))
    back = bigspec.conv(L, (2, 8), transposed=True)
    there = bigspec.conv(L, back.output_shape)
    np.testing.assert_allclose(dense(back), dense(there).T, atol=1e-14)


@pytest.mark.parametrize("taps", [4, 5])
def test_same_keeps_the_size_with_the_odd_zero_after(taps: int) -> None:
    L = RNG.standard_normal((1, 1, taps))
    A = bigspec.conv(L, (1, 9), padding="same", dilation=2)
    pads = (taps - 1, taps - 1)
    assert A.shape == (9, 9)
    np.testing.assert_allclose(dense(A), written_out(L, (1, 9), (1,), (pads,), "zeros", (2,), 1))


def test_channels_are_scaled_as_batchnorm_does() -> None:
    A = bigspec.conv(K, SHAPE, padding=1)
    gamma, inputs = RNG.standard_normal(4), RNG.standard_normal(6)
    rows = np.repeat(gamma, np.prod(A.output_shape[1:]))
    columns = np.repeat(inputs, np.prod(A.input_shape[1:]))
    B = bigspec.scaled(A, rows=rows, columns=columns)
    expected = np.diag(rows) @ dense(A) @ np.diag(columns)
    np.testing.assert_allclose(dense(B), expected, atol=1e-13)
    np.testing.assert_allclose(dense(bigspec.scaled(A.H, rows=columns, columns=rows)),
                               expected.T, atol=1e-13)  # fmt: skip
    assert B.claims.upper >= np.linalg.norm(expected, 2)
    np.testing.assert_allclose(dense(-2.0 * A / 4.0), -0.5 * dense(A))


def test_weights_that_differ_within_a_channel_are_refused() -> None:
    A = bigspec.conv(K, SHAPE)
    with pytest.raises(UnsupportedTypeError, match="expected matrices with entries"):
        bigspec.scaled(A, rows=np.arange(1.0, A.shape[0] + 1))
    with pytest.raises(ArgumentError, match="rows: expected 168 finite numbers"):
        bigspec.scaled(A, rows=np.ones(4))


def test_scipy_multiplies_by_it_and_bigspec_by_scipys() -> None:
    A = bigspec.conv(K.astype("f4"), SHAPE)
    operator = aslinearoperator(A)
    V, W = RNG.standard_normal((A.shape[1], 2)), RNG.standard_normal((A.shape[0], 2))
    np.testing.assert_allclose(operator @ V, A.apply(V))
    np.testing.assert_allclose(operator.H @ W, A.apply_adjoint(W))
    black, known = bigspec.norm(operator), bigspec.norm(A)
    assert max(black.lower, known.lower) <= min(black.upper, known.upper)


def test_it_travels_and_is_known_by_its_content() -> None:
    A = bigspec.conv(K, SHAPE, padding=1)
    B = pickle.loads(pickle.dumps(A))
    np.testing.assert_array_equal(dense(A), dense(B))
    assert A.identity == B.identity == bigspec.conv(K, SHAPE, padding=(1, 1)).identity
    others = [
        bigspec.conv(K, SHAPE, padding=1, mode="circular"),
        bigspec.conv(K * (1 + 1e-15), SHAPE, padding=1),
        bigspec.conv(K.astype("f4"), SHAPE, padding=1),
        bigspec.conv(K, SHAPE, padding=((1, 1), (0, 2))),
        A.H,
    ]
    assert all(other.identity != A.identity for other in others)


def test_the_kernel_is_copied() -> None:
    L = K.copy()
    A = bigspec.conv(L, SHAPE)
    before = dense(A)
    L[:] = 0
    np.testing.assert_array_equal(dense(A), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": np.ones((2, 3))}, r"kernel: expected \(out, in / groups, k\.\.\)"),
        ({"kernel": np.ones((2, 6, 0, 1))}, "kernel: expected .* nothing empty"),
        (
            {"input_shape": (6, 9)},
            r"input_shape: expected 3 positive numbers \(in, height, width\)",
        ),
        ({"input_shape": (5, 9, 7)}, "input_shape: expected 6 channels .* got 5"),
        (
            {"input_shape": (6, 2, 7)},
            "input_shape: expected at least 3 positions, padding included",
        ),
        ({"groups": 3}, "groups: expected a whole number that divides the 4"),
        ({"groups": 2}, "input_shape: expected 12 channels .* groups=2"),
        ({"stride": 0}, "stride: expected a whole number from 1 on"),
        ({"stride": (1, 2, 3)}, "stride: .* one for each of 2 axes"),
        ({"dilation": 1.5}, "dilation: expected a whole number"),
        ({"padding": -1}, "padding: expected a whole number from 0 on"),
        ({"padding": ((1, 2, 3), 1)}, "padding: expected"),
        ({"padding": "SAME"}, "padding: expected 'valid', or 'same'"),
        ({"padding": "same", "stride": 2}, "'same' for a stride of 1"),
        ({"mode": "wrap"}, "mode: expected one of zeros, circular, replicate, reflect"),
        ({"mode": "reflect", "padding": 9}, "padding: expected at most 8 on axis 0"),
        ({"output_padding": 1}, "output_padding: expected 0"),
    ],
)
def test_arguments_that_are_no_geometry_are_named(change: Any, message: str) -> None:
    given = {"kernel": K, "input_shape": SHAPE} | change
    with pytest.raises(ArgumentError, match=message):
        bigspec.conv(given.pop("kernel"), given.pop("input_shape"), **given)


def test_arguments_of_a_transposed_convolution_are_named() -> None:
    with pytest.raises(ArgumentError, match=r"mode: .*conv\(\.\.\.\)\.H"):
        bigspec.conv(K, (4, 9, 7), transposed=True, mode="circular")
    with pytest.raises(ArgumentError, match="output_padding: expected less than the stride"):
        bigspec.conv(K, (4, 9, 7), transposed=True, output_padding=1)
    with pytest.raises(ArgumentError, match="padding: expected an output of at least one"):
        bigspec.conv(K, (4, 1, 1), transposed=True, padding=2)


def test_a_kernel_that_is_not_finite_is_refused() -> None:
    with pytest.raises(NonFiniteError, match="kernel: expected finite"):
        bigspec.conv(np.full((1, 1, 3), np.nan), (1, 5))
    with pytest.raises(UnsupportedTypeError, match="kernel: expected entries of type"):
        bigspec.conv(np.array([[["a"]]]), (1, 5))
