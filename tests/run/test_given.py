"""Bounds that are given with an operator: used, named, and disproved if they are wrong."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator

import bigspec
from bigspec.certificate import GIVEN
from bigspec.errors import ArgumentError, DataError, ResumeError
from bigspec.results import Interval

RNG = np.random.default_rng(21)
A = RNG.standard_normal((300, 200))
NORM, FROBENIUS = float(np.linalg.norm(A, 2)), float(np.linalg.norm(A))
OPERATOR = aslinearoperator(A)


def opened(**said: Any) -> Any:
    return bigspec.open_matrix(OPERATOR, **said)


def test_an_upper_bound_is_the_upper_end_and_the_result_says_whose_word_it_is() -> None:
    est = bigspec.norm(opened(upper=NORM * 1.0001))
    assert (est.upper_bound, est.deterministic, est.upper) == ("upper (given)", True, NORM * 1.0001)
    assert est.lower <= NORM
    assert est.passes < bigspec.norm(OPERATOR).passes
    assert "certain, if what was given with the matrix is right" in str(est)
    assert est.status.endswith(
        "up to the rounding margin, if what was given with the matrix is right."
    )
    assert est.to_dict()["upper_bound"] == "upper (given)"
    assert est.frobenius is None


def test_a_loose_bound_gives_way_to_what_the_passes_prove() -> None:
    est = bigspec.norm(opened(upper=2 * NORM, frobenius=FROBENIUS))
    assert est.upper_bound in ("Lehmann", "Christoffel")
    assert est.lower <= NORM <= est.upper
    assert "given" not in est.status


def test_a_frobenius_norm_makes_an_operator_of_low_rank_certain() -> None:
    B = RNG.standard_normal((300, 5)) @ RNG.standard_normal((5, 200))
    matrix = bigspec.open_matrix(aslinearoperator(B), frobenius=np.linalg.norm(B))
    est = bigspec.norm(matrix, block_size=3)
    assert est.upper_bound == "bordered Frobenius (given)"
    assert est.lower <= np.linalg.norm(B, 2) * (1 + 1e-12)
    assert est.upper >= np.linalg.norm(B, 2) * (1 - 1e-12)
    assert est.frobenius is None  # it bounds the norm, and need not be it


def test_several_values_are_bounded_too() -> None:
    s = np.linalg.svd(A, compute_uv=False)[:2]
    tri = bigspec.svds(opened(upper=NORM), 2)
    assert tri.upper[0] <= NORM
    assert np.all(tri.upper >= s * (1 - 1e-13))


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"upper": 0.99 * NORM}, "upper"),
        ({"frobenius": 0.5 * FROBENIUS}, "frobenius"),
        ({"frobenius": 0.9 * NORM}, "frobenius"),
        ({"upper": 0.99 * NORM, "frobenius": FROBENIUS}, "upper"),
    ],
)
def test_products_that_disprove_it_are_an_error(said: Any, name: str) -> None:
    with pytest.raises(DataError, match=f"expected `{name}`, which was given with the matrix"):
        bigspec.norm(opened(**said), rtol=1e-6)


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf, "3", True])
def test_what_is_no_bound_is_named(wrong: Any) -> None:
    with pytest.raises(ArgumentError, match="upper: expected a number from 0 on"):
        opened(upper=wrong)


def test_entries_need_no_word() -> None:
    with pytest.raises(ArgumentError, match="upper and frobenius: expected an operator"):
        bigspec.open_matrix(A, upper=1.0)


def test_a_checkpoint_belongs_to_what_was_said(tmp_path: Path) -> None:
    place = tmp_path / "run"
    bigspec.norm(opened(upper=2 * NORM), checkpoint=place, seed=1)
    with pytest.raises(ResumeError, match="matrix given upper was"):
        bigspec.norm(opened(upper=NORM), checkpoint=place, seed=1)
    with pytest.raises(ResumeError, match="matrix given was"):
        bigspec.norm(OPERATOR, checkpoint=place, seed=1)


def test_results_know_the_mark_that_the_certificate_sets() -> None:
    assert Interval(0.0, 1.0, f"upper{GIVEN}", "none", deterministic=True).given
    assert not Interval(0.0, 1.0, "Frobenius", "none", deterministic=True).given
