"""Runs over convolutions: certain upper ends, waves as a start, checkpoints, chains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import bigspec
from bigspec.convolutions.bounds import norm_bound
from bigspec.convolutions.symbol import Symbol
from bigspec.errors import ResumeError
from tests.convolutions.dense import Geometry, geometries

RNG = np.random.default_rng(9)
K = RNG.standard_normal((4, 6, 3, 3))


@settings(max_examples=60, deadline=None)
@given(geometries())
def test_the_upper_end_is_above_the_norm(case: Geometry) -> None:
    A, D = case.matrix(), case.dense()
    norm = np.linalg.norm(D, 2)
    assert A.claims.upper >= norm * (1 - 1e-14)
    if A.kernel.any():  # the symbol alone: small matrices have a bound of their own
        kernel = A.kernel.astype(complex if case.complex_ else float)
        assert norm_bound(Symbol.of(kernel, A.axes)).upper >= norm * (1 - 1e-14)
    exact = case.mode == "circular" and all(
        n % s == 0 and out == n // s
        for n, s, out in zip(A.input_shape[1:], case.stride, A.output_shape[1:], strict=True)
    )
    if exact:
        assert A.claims.upper <= norm * (1 + 1e-9)


@settings(max_examples=25, deadline=None)
@given(geometries())
def test_the_interval_holds_the_norm_of_the_dense_matrix(case: Geometry) -> None:
    A, norm = case.matrix(), np.linalg.norm(case.dense(), 2)
    est = bigspec.norm(A)
    assert est.lower <= norm * (1 + 1e-14)
    assert est.upper >= norm * (1 - 1e-14)
    assert est.converged or norm == 0.0


def test_neither_circular_nor_zero_padded_bounds_the_other() -> None:
    L = np.array([[[-1.0, 2.0, -1.0]]])
    padded = bigspec.norm(bigspec.conv(L, (1, 3), padding=1))
    circular = bigspec.norm(bigspec.conv(L, (1, 3), padding=1, mode="circular"))
    assert padded.lower <= 2 + np.sqrt(2) <= padded.upper
    assert circular.lower <= 3 <= circular.upper < padded.lower


def test_one_pass_gives_an_interval_that_is_certain() -> None:
    est = bigspec.norm(bigspec.conv(K, (6, 48, 48), padding=1))
    assert est.passes == 1
    assert est.converged
    assert est.deterministic
    assert est.upper_bound == "Fourier symbol"
    assert "with certainty, up to the rounding margin." in est.status
    assert est.start_columns > 0
    assert est.frobenius == pytest.approx(frobenius(K, 48, 1), rel=1e-12)


def frobenius(L: Any, n: int, pad: int) -> float:
    """Each tap of a 3 x 3 kernel is used where its place lies in the image."""
    uses = np.array([n - pad, n, n - pad])
    return float(np.sqrt(((L**2).sum((0, 1)) * np.outer(uses, uses)).sum()))


@pytest.mark.parametrize("exponent", [-700, 700])
def test_kernels_of_any_scale_have_the_same_interval(exponent: int) -> None:
    scale = 2.0**exponent
    one = bigspec.norm(bigspec.conv(K, (6, 9, 9), padding=1), seed=1)
    other = bigspec.norm(bigspec.conv(K * scale, (6, 9, 9), padding=1), seed=1)
    np.testing.assert_allclose([other.lower / scale, other.upper / scale],
                               [one.lower, one.upper], rtol=1e-12)  # fmt: skip


def test_a_depthwise_layer_on_a_small_image_is_bounded_by_its_groups() -> None:
    """The edges are most of it: no grid of frequencies is close."""
    L = RNG.standard_normal((40, 1, 5, 5))
    A = bigspec.conv(L, (40, 2, 12), padding=2, groups=40)
    norms = [
        np.linalg.norm(bigspec.conv(one[None], (1, 2, 12), padding=2).apply(np.eye(24)), 2)
        for one in L
    ]
    known = A.claims
    assert known.upper_name == "Gram matrix of each group"
    assert max(norms) <= known.upper <= max(norms) * (1 + 1e-9)
    est = bigspec.norm(A)
    assert est.lower <= max(norms) * (1 + 1e-13)
    assert est.upper >= max(norms)


def test_a_kernel_of_zeros_has_norm_zero() -> None:
    est = bigspec.norm(bigspec.conv(np.zeros((2, 3, 3)), (3, 8)))
    assert (est.lower, est.upper, est.deterministic) == (0.0, 0.0, True)


def test_a_run_goes_on_from_its_checkpoint_and_no_other_kernel_does(tmp_path: Path) -> None:
    A = bigspec.conv(K, (6, 12, 12), padding=1)
    options: dict[str, Any] = {"rtol": 1e-10, "seed": 3}
    whole = bigspec.norm(A, **options)
    assert whole.passes > 2
    part = bigspec.norm(A, checkpoint=tmp_path / "run", max_passes=2, **options)
    assert part.passes == 2
    again = bigspec.conv(K.copy(), (6, 12, 12), padding=1)
    rest = bigspec.norm(again, checkpoint=tmp_path / "run", **options)
    assert (rest.lower, rest.upper, rest.passes) == (whole.lower, whole.upper, whole.passes)
    other = bigspec.conv(K + 1e-9, (6, 12, 12), padding=1)
    with pytest.raises(ResumeError, match="matrix token was"):
        bigspec.norm(other, checkpoint=tmp_path / "run", **options)


def test_the_callers_start_takes_the_place_of_the_waves() -> None:
    A = bigspec.conv(K, (6, 12, 12), padding=1)
    est = bigspec.norm(A, start=np.ones(min(A.shape)))
    assert est.start_columns == 1


def test_leading_triplets_of_a_convolution() -> None:
    A = bigspec.conv(K, (6, 8, 8), padding=1, stride=2)
    D = A.apply(np.eye(A.shape[1]))
    tri = bigspec.svds(A, 3)
    s = np.linalg.svd(D, compute_uv=False)[:3]
    assert np.all(tri.lower <= s * (1 + 1e-13))
    assert np.all(tri.upper >= s * (1 - 1e-13))
    np.testing.assert_allclose(np.linalg.norm(D @ tri.vh[0]), s[0], rtol=1e-3)


def test_a_chain_of_convolutions_has_the_norm_of_their_product() -> None:
    first = bigspec.conv(K, (6, 10, 10), padding=1)
    second = bigspec.conv(RNG.standard_normal((5, 4, 3, 3)), (4, 10, 10), stride=2)
    D = second.apply(first.apply(np.eye(first.shape[1])))
    est = bigspec.norm(second @ first)
    assert est.lower <= np.linalg.norm(D, 2) <= est.upper


def test_a_stored_matrix_and_a_convolution_make_a_chain() -> None:
    A = bigspec.conv(K, (6, 8, 8), padding=1)
    B = RNG.standard_normal((20, A.shape[0]))
    est = bigspec.norm(B @ A)
    assert est.lower <= np.linalg.norm(B @ A.apply(np.eye(A.shape[1])), 2) <= est.upper
