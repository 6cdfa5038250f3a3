"""The symbol of a kernel: its margins, the search for its peak, and the theorems that use it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import bigspec
from bigspec.convolutions.bounds import norm_bound
from bigspec.convolutions.geometry import phases
from bigspec.convolutions.grids import best_grid
from bigspec.convolutions.peak import COARSE, TURNS, Grid, over_all, over_grid
from bigspec.convolutions.symbol import SMALL, Symbol
from tests.convolutions.dense import Geometry, geometries, written_out

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(12)


def symbol_of(case: Geometry) -> Symbol:
    A = case.matrix()
    assume(A.kernel.any())
    return Symbol.of(A.kernel.astype(complex if case.complex_ else float), A.axes)


def norm_at(symbol: Symbol, group: int, turns: Any) -> float:
    """The definition: sum over taps of the kernel times exp(i w v), and an SVD."""
    K, F = symbol.kernel[group], np.zeros(symbol.kernel.shape[1:3], complex)
    for tap in np.ndindex(*K.shape[2:]):
        F += K[(slice(None), slice(None), *tap)] * np.exp(2j * np.pi * np.dot(turns, tap))
    return float(np.linalg.norm(F, 2))


def on_grid(symbol: Symbol, grid: Grid) -> float:
    """The largest norm on a grid, by looking at all of it."""
    points = itertools.product(*map(range, grid.sizes))
    shifts = np.array(grid.turns) / TURNS
    return max(
        norm_at(symbol, group, (np.array(point) + shifts) / grid.sizes)
        for point in points
        for group in range(symbol.kernel.shape[0])
    )


@settings(max_examples=25, deadline=None)
@given(geometries(), st.data())
def test_the_search_finds_the_largest_norm_of_a_grid(case: Geometry, data: st.DataObject) -> None:
    symbol = symbol_of(case)
    most = {1: 40, 2: 12, 3: 5}[len(symbol.axes)]
    sizes = tuple(data.draw(st.integers(1, most)) for _ in symbol.axes)
    turns = tuple(data.draw(st.sampled_from((0, 3, TURNS // 2))) for _ in symbol.axes)
    found = over_grid(symbol, Grid(sizes, turns), over_all(symbol, 1))
    expected = on_grid(symbol, Grid(sizes, turns))
    assert found.lower <= expected * (1 + 1e-12)
    assert found.upper >= expected * (1 - 1e-12)
    if symbol.kernel.shape[0] == 1:  # of groups, one that stays low may be known more roughly
        assert found.upper <= expected * (1 + 1e-9)


@settings(max_examples=25, deadline=None)
@given(geometries(), st.integers(0, 1 << 16))
def test_no_frequency_has_a_norm_above_that_of_all_sizes(case: Geometry, seed: int) -> None:
    symbol = symbol_of(case)
    peak, rng = over_all(symbol), np.random.default_rng(seed)
    assert peak.upper <= peak.lower * 1.001
    near = [np.array(place.point) / place.sizes for place in peak.places]
    points = [
        *rng.random((20, len(symbol.axes))),
        *(p + 0.01 * rng.standard_normal(len(p)) for p in near),
    ]
    for point, group in itertools.product(points, range(symbol.kernel.shape[0])):
        assert norm_at(symbol, group, point) <= peak.upper * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(geometries())
def test_a_coarse_grid_bounds_all_frequencies_and_closer_than_pfister_and_bresler(
    case: Geometry,
) -> None:
    symbol = symbol_of(case)
    sizes = tuple(COARSE * n if n else 1 for n in symbol.degrees)
    largest = on_grid(symbol, Grid(sizes, (0,) * len(sizes)))
    cosines = math.prod(
        math.cos(n * math.pi / (2 * N)) for n, N in zip(symbol.degrees, sizes, strict=True)
    )
    theirs = math.prod((1 - n / N) ** -0.5 for n, N in zip(symbol.degrees, sizes, strict=True))
    peak = over_all(symbol)
    assert peak.lower <= largest / cosines * (1 + 1e-12)
    assert 1 / cosines <= theirs


def test_the_constant_between_grid_points_is_attained() -> None:
    """The peak of ``|1 + exp(i w)| = 2 |cos(w / 2)|`` lies between points of a shifted grid."""
    symbol = Symbol.of(np.ones((1, 1, 1, 2)), bigspec.conv(np.ones((1, 1, 2)), (1, 8)).axes)
    N = 7
    found = over_grid(symbol, Grid((N,), (TURNS // 2,)), over_all(symbol))
    assert found.upper == pytest.approx(2 * math.cos(math.pi / (2 * N)), rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(geometries(("zeros",)), st.data())
def test_zeros_beyond_the_edges_lose_to_every_grid_that_holds_the_image(
    case: Geometry, data: st.DataObject
) -> None:
    symbol, norm = symbol_of(case), np.linalg.norm(case.dense(), 2)
    most = {1: 9, 2: 4, 3: 1}[len(symbol.axes)]
    sizes = tuple(axis.least + data.draw(st.integers(0, most)) for axis in symbol.axes)
    turns = tuple(data.draw(st.integers(0, TURNS - 1)) for _ in symbol.axes)
    assert norm <= over_grid(symbol, Grid(sizes, turns), over_all(symbol, 2)).upper * (1 + 1e-12)


def test_fewer_frequencies_than_that_do_not_hold_it() -> None:
    """With one frequency less the ends of the image meet, and the bound fails."""
    L = np.array([[[1.0, -2.0, 1.0]]])
    A = bigspec.conv(L, (1, 4), padding=1)
    norm, symbol = np.linalg.norm(A.apply(np.eye(4)), 2), Symbol.of(L[None], A.axes)
    (axis,) = symbol.axes
    peak = over_all(symbol)
    lows = [min(over_grid(symbol, Grid((N,), (turn,)), peak).upper for turn in range(TURNS))
            for N in (axis.least, axis.least - 1)]  # fmt: skip
    assert lows[1] < norm <= lows[0]


@settings(max_examples=60, deadline=None)
@given(geometries(("zeros",)))
def test_the_fewest_frequencies_are_no_more_than_those_of_space_to_depth(case: Geometry) -> None:
    for axis in case.matrix().axes:
        p = max(axis.before, axis.after)
        part = phases(axis, 0, axis.taps - 1)
        if axis.dilation == 1 and axis.before == axis.after:
            assert part.least <= max(-(-(axis.size + 2 * p) // axis.stride), 1)
        if axis.stride == 1 and min(axis.before, axis.after) < axis.span:
            assert part.least <= -(-(axis.size + p) // axis.dilation)


def flattened(case: Geometry) -> float:
    """The norm of the kernel as a matrix of out rows: what torch.nn.utils.spectral_norm takes."""
    parts = np.split(case.kernel, case.groups)
    return max(float(np.linalg.norm(part.reshape(len(part), -1), 2)) for part in parts)


@settings(max_examples=60, deadline=None)
@given(geometries(("zeros",)))
def test_the_flattened_kernel_bounds_both_ways(case: Geometry) -> None:
    A, norm, R = case.matrix(), np.linalg.norm(case.dense(), 2), flattened(case)
    overlaps = math.prod(
        -(-axis.taps // (axis.stride // math.gcd(axis.stride, axis.dilation))) for axis in A.axes
    )
    assert norm <= R * math.sqrt(overlaps) * (1 + 1e-12)
    if all(np.any((axis.table >= 0).all(axis=1)) for axis in A.axes):
        assert norm >= R * (1 - 1e-12)


def test_the_flattened_kernel_is_no_lower_end_where_no_output_sees_the_whole_kernel() -> None:
    L = np.array([[[3.0, 1.0, 3.0]]])
    A = bigspec.conv(L, (1, 1), padding=1)
    assert bigspec.norm(A).upper == pytest.approx(1.0)
    assert np.linalg.norm(L) > 4


@settings(max_examples=60, deadline=None)
@given(geometries(("zeros", "circular")))
def test_all_sizes_are_bounded(case: Geometry) -> None:
    A = case.matrix()
    if case.mode == "circular":  # the stride divides the image, and each output counts once
        assume(all(axis.size % axis.stride == 0 and axis.out <= axis.size // axis.stride
                   for axis in A.axes))  # fmt: skip
    found = bigspec.conv_norm(
        case.kernel, stride=case.stride, dilation=case.dilation, groups=case.groups
    )
    assert np.linalg.norm(case.dense(), 2) <= found.upper * (1 + 1e-14)
    assert found.lower <= found.upper


def test_large_images_come_near_the_norm_of_all_sizes() -> None:
    L = RNG.standard_normal((2, 2, 3))
    found = bigspec.conv_norm(L)
    norms = [
        bigspec.norm(bigspec.conv(L, (2, n), padding=1), rtol=1e-6).lower for n in (8, 32, 128)
    ]
    assert norms == sorted(norms)
    assert found.lower / norms[-1] - 1 < 1e-3
    assert bigspec.conv_norm(L.transpose(1, 0, 2), transposed=True).upper > norms[-1]


@pytest.mark.parametrize("exponent", [-1000, -300, 0, 300, 1000])
def test_all_sizes_at_any_scale(exponent: int) -> None:
    L = RNG.standard_normal((2, 3, 3, 3)).astype("f4").astype("f8")
    one, other = bigspec.conv_norm(L), bigspec.conv_norm(np.ldexp(L, exponent))
    np.testing.assert_allclose([np.ldexp(other.lower, -exponent), np.ldexp(other.upper, -exponent)],
                               [one.lower, one.upper], rtol=1e-14)  # fmt: skip


def exactly(symbol: Symbol, point: Array, sizes: tuple[int, ...]) -> Array:
    """The symbol of the first group in extended precision."""
    one, K = np.longdouble(1), symbol.kernel[0]
    pi = np.arccos(-one)
    F = np.zeros(K.shape[:2], np.clongdouble)
    for tap in np.ndindex(*K.shape[2:]):
        turn = sum(one * (int(p) * v % N) / N for p, v, N in zip(point, tap, sizes, strict=True))
        own = K[(slice(None), slice(None), *tap)]
        F += own * (np.cos(2 * pi * turn) + 1j * np.sin(2 * pi * turn))
    return F


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="no extended precision here")
@pytest.mark.parametrize("kind", ["f", "c"])
def test_the_margin_covers_the_rounding_of_the_symbol(kind: str) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        K = rng.standard_normal((1, 3, 4, 7, 5)) * 10.0 ** rng.integers(-8, 1, (1, 3, 4, 7, 5))
        K = K + 1j * rng.standard_normal(K.shape) if kind == "c" else K
        symbol = Symbol.of(K, bigspec.conv(K[0], (4, 40, 40)).axes)
        sizes = (int(rng.integers(7, 9999)), int(rng.integers(7, 9999)))
        points = rng.integers(0, sizes, (4, 2))
        F = symbol.at(0, points, sizes)
        for got, point in zip(F, points, strict=True):
            error = float(np.sqrt((np.abs(got - exactly(symbol, point, sizes)) ** 2).sum()))
            assert error <= symbol.errors[0]
            assert symbol.errors[0] <= 1e-13 * np.abs(K).sum()


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="no extended precision here")
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (3, 8), (40, 40)])
def test_norms_of_symbols_are_bracketed(shape: tuple[int, int]) -> None:
    """Against power iteration in extended precision, which is below the norm and next to it."""
    K = RNG.standard_normal((1, *shape, 3)) @ np.diag([1.0, 1e-3, 1.0])
    K[0, 0] *= 30  # a leading singular value apart from the others: iteration converges
    symbol = Symbol.of(K, bigspec.conv(K[0], (shape[1], 9)).axes)
    points = np.arange(5)[:, None]
    lower, upper = symbol.norms(0, points, (11,), lambda _: 0.0, 0.0)
    for number, point in enumerate(points):
        F = exactly(symbol, point, (11,))
        x = np.ones(shape[1], np.clongdouble)
        for _ in range(60):
            x = F.conj().T @ (F @ x)
            x = x / np.sqrt((np.abs(x) ** 2).sum())
        norm = np.sqrt((np.abs(F @ x) ** 2).sum())
        assert lower[number] <= norm <= upper[number] * (1 + np.finfo(np.longdouble).eps)
        assert upper[number] <= lower[number] * (1 + 1e-11)


def test_a_wide_symbol_is_bracketed_by_factorisations() -> None:
    channels = SMALL + 4
    K = RNG.standard_normal((1, channels, channels + 3, 2))
    symbol = Symbol.of(K, bigspec.conv(K[0], (channels + 3, 9)).axes)
    points = np.arange(3)[:, None]
    norms = [norm_at(symbol, 0, point / 7) for point in points]
    lower, upper = symbol.norms(0, points, (7,), lambda _: 0.0, 0.0)
    assert np.all(lower <= norms)
    assert np.all(norms <= upper)
    assert np.all(upper <= lower * (1 + 1e-5))
    # Those that are proved to be low are not looked at more closely.
    lower, upper = symbol.norms(0, points, (7,), lambda _: 2 * max(norms), 0.0)
    assert not lower.any()
    assert np.all(upper >= norms)


def test_a_grid_is_chosen_that_misses_the_peak() -> None:
    """A low pass has its peak at 0, where every plain grid has a point."""
    L = np.ones((1, 1, 3, 3))
    A = bigspec.conv(L, (1, 20, 20), padding=1)
    symbol = Symbol.of(L[None], A.axes)
    grid = best_grid(symbol, over_all(symbol).places)
    assert grid == Grid((21, 21), (TURNS // 2, TURNS // 2))
    dense = written_out(L, (1, 20, 20), (1, 1), ((1, 1), (1, 1)), "zeros", (1, 1), 1)
    norm = np.linalg.norm(dense, 2)
    assert norm <= norm_bound(symbol).upper <= norm * (1 + 2e-3)
    assert norm * 1.015 < 9
