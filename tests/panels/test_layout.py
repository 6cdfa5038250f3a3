"""Cutting a matrix: panels of whole chunks, each once, within the memory given or a refusal."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import bigspec
from bigspec.errors import MemoryLimitError
from bigspec.panels.choose_layout import ROUND_PANELS, choose_layout, keep_layout
from tests.matrices import Chunked

GIB = 1 << 30


def huge(shape, chunks, dtype="f4", **options):
    """A matrix that is only a shape: nothing is allocated."""
    return Chunked.of(np.broadcast_to(np.zeros((), dtype), shape), chunks, **options)


def layout_of(matrix, b=16, *, blocks=6, limit=GIB, tasks=2, local=True):
    return choose_layout(matrix, b, blocks=blocks, limit=limit, tasks=tasks, local=local)


sizes = st.integers(1, 60).flatmap(
    lambda extent: st.one_of(
        st.integers(1, extent),
        st.lists(st.integers(1, extent), min_size=1, max_size=8).map(tuple),
    ).map(lambda chunk: (sum(chunk) if isinstance(chunk, tuple) else extent, chunk))
)


@settings(max_examples=200, deadline=None)
@given(rows=sizes, columns=sizes, b=st.integers(1, 20), limit=st.integers(20 << 20, 1 << 30))
def test_slabs_of_all_panels_cover_the_swept_axis_once_in_order(rows, columns, b, limit):
    (m, row_chunks), (n, column_chunks) = rows, columns
    matrix = huge((m, n), (row_chunks, column_chunks))
    layout = layout_of(matrix, b, limit=limit)
    cuts = [cut for k in range(layout.panels) for cut in layout.slabs(layout.panel(k))]
    edges = [0] + [stop for _, stop in cuts]
    assert [start for start, _ in cuts] == edges[:-1]
    assert edges[-1] == layout.along.extent
    assert all(start < stop for start, stop in cuts)
    across = list(layout.tiles())
    assert across[0][0] == 0
    assert across[-1][1] == layout.across.extent
    assert layout.memory.total <= limit


@pytest.mark.parametrize(
    ("shape", "chunks", "orientation", "reads"),
    [
        ((10**6, 10**4), (1000, 10**4), "rows", 1),
        ((10**4, 10**6), (10**4, 1000), "columns", 1),
        ((10**6, 10**4), (1000, 1000), "rows", 1),
        # One strip of chunks of rows is the whole matrix; strips of columns fit.
        ((10**6, 10**4), (10**6, 10), "columns", 1),
        # Neither strip fits: 4 GB each. Chunks do.
        ((32000, 32000), (32000, 32000), None, None),
        ((10**6, 10**6), (2000, 2000), "rows", 2),
    ],
    ids=["tall", "wide", "tall in squares", "columns chunked", "one chunk", "square chunks"],
)
def test_orientation_and_reads_follow_the_chunk_grid(shape, chunks, orientation, reads):
    matrix = huge(shape, chunks)
    if orientation is None:
        with pytest.raises(MemoryLimitError):
            layout_of(matrix)
        return
    layout = layout_of(matrix, limit=4 * GIB)
    assert (layout.orientation, layout.reads_per_pass) == (orientation, reads)


def test_panels_do_not_depend_on_who_multiplies_them():
    matrix = huge((10**6, 10**4), (1000, 10**4))
    here = layout_of(matrix, tasks=2, local=True)
    there = layout_of(matrix, tasks=7, local=False, limit=8 * GIB)
    assert (here.panels, here.panel_cells, here.slab_cells, here.round_panels) == (
        there.panels,
        there.panel_cells,
        there.slab_cells,
        there.round_panels,
    )


@pytest.mark.parametrize(("n", "step"), [(10**6, 100), (10**4, 2000)])
def test_a_hundred_terabytes_are_few_panels_in_few_rounds(n, step):
    matrix = huge((10**14 // (4 * n), n), (step, n))
    layout = layout_of(matrix, 16, limit=8 * GIB, tasks=1, local=False)
    assert 20_000 <= layout.panels <= 25_000
    assert layout.rounds <= 256
    assert layout.panel_cells * step * n * 4 <= 4 * GIB
    assert layout.slab_cells * step * n * 4 <= max(32 << 20, step * n * 4)
    # The same on every number of threads.
    other = layout_of(matrix, 16, limit=8 * GIB, tasks=4, local=False)
    assert layout.cut == other.cut


@pytest.mark.parametrize("terabytes", [1, 2])
def test_a_matrix_of_up_to_4096_panels_is_cut_as_ever(terabytes):
    matrix = huge((10**12 * terabytes // (4 * 10**4), 10**4), (500, 10**4))
    layout = layout_of(matrix, 16, limit=8 * GIB, tasks=1, local=False)
    assert layout.panel_cells == (512 << 20) // (500 * 4 * 10**4)
    assert (layout.round_panels, layout.fan_in) == (16, 16)


def test_the_cut_of_an_earlier_run_is_kept_whatever_is_chosen_now():
    """Rounds of 16, two sums at a time, panels of 1.2 GB: 100 TB as they once were."""
    matrix = huge((25 * 10**6, 10**6), (100, 10**6))
    room = {"blocks": 6, "limit": 8 * GIB, "tasks": 1, "local": False}
    now = choose_layout(matrix, 16, **room)
    old = {"panel_pieces": 3, "slab_pieces": 1, "round_panels": 16, "fan_in": 2}
    kept = keep_layout(matrix, now.cut | old, 16, **room)
    assert kept.cut == now.cut | old
    assert (kept.panels, kept.rounds) == (83_334, 5209)


def test_a_panel_reads_ten_times_what_it_returns():
    layout = layout_of(huge((10**6, 10**6), (10, 10**6)), 16, limit=32 * GIB)
    block = 10**6 * 16 * 8
    first, last = layout.panel(0).first, layout.panel(0).last
    assert (last - first) * 10 * 10**6 * 4 >= 10 * block


def test_fewer_threads_before_a_second_read():
    matrix = huge((10**5, 10**5), (1000, 1000))  # strips of 400 MB
    assert layout_of(matrix, tasks=8, limit=GIB).reads_per_pass == 1
    assert layout_of(matrix, tasks=8, limit=GIB).memory.tasks < 8
    assert layout_of(matrix, tasks=8, limit=GIB, local=False).reads_per_pass == 2


def test_ten_thousand_tiny_chunks_are_read_in_few_panels():
    layout = layout_of(huge((10**5, 100), (10, 100)))
    assert layout.panels <= ROUND_PANELS


def test_refusal_has_the_numbers_and_the_advice():
    matrix = huge((10**7, 10**7), (1000, 1000))
    with pytest.raises(
        MemoryLimitError, match=r"memory_limit: expected at least .* GiB.*got 1.0 GiB"
    ):
        layout_of(matrix)
    with pytest.raises(
        MemoryLimitError, match=r"block_size=16.*smaller block_size, or smaller chunks"
    ):
        layout_of(matrix)


@pytest.mark.parametrize("wide", [False, True])
def test_a_sparse_matrix_that_only_its_long_side_cuts_keeps_short_iterates(wide):
    A = sp.random(20_000, 20, 0.9, format="csc", rng=np.random.default_rng(0))
    matrix = bigspec.open_matrix(sp.csr_array(A.T) if wide else A)
    assert matrix.nbytes > 4 << 20
    layout = layout_of(matrix)
    assert layout.iterate_length == 20
    estimate = bigspec.norm(matrix)
    assert estimate.algorithm == "gram"
    assert estimate.lower <= np.linalg.norm(A.toarray(), 2) <= estimate.upper


def test_the_gram_matrix_is_never_that_of_the_larger_side():
    A = sp.random(20_000, 20, 0.9, format="csc", rng=np.random.default_rng(0))
    with pytest.raises(MemoryLimitError, match="memory_limit"):
        choose_layout(
            bigspec.open_matrix(A), 20, blocks=3, limit=1 << 20, tasks=2, local=True, order=20
        )


@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_large_sparse_matrix_with_a_side_too_small_to_measure_blocks(side):
    rows = (20 << 20) // (12 * side)
    A = sp.csr_array(np.random.default_rng(side).standard_normal((rows, side)))
    estimate = bigspec.norm(A, algorithm="auto", rtol=1e-6)
    exact = np.sqrt(np.linalg.eigvalsh(A.T @ A.toarray())[-1])
    assert estimate.lower <= exact * (1 + 1e-13)
    assert exact <= estimate.upper * (1 + 1e-13)
