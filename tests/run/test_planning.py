"""Planning reads one slab, which the first pass takes, and multiplies a sample of it."""

import pickle
from collections import Counter
from functools import cache
from unittest import mock

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from distributed import Client, LocalCluster

import bigspec
from bigspec.algorithms import FLAT, PASSES, REGISTRY
from bigspec.kernels import Accumulator
from bigspec.kernels.buffers import Buffers
from bigspec.panels import measure as measuring
from bigspec.panels.first import FirstSlab
from bigspec.passes import Measurement, find_executor, measure
from bigspec.run import planner
from bigspec.run.costs import Setting, gram_seconds, pass_seconds, passes_expected
from bigspec.run.plan import Wishes
from bigspec.run.planner import make_plan
from tests.matrices import Chunked, contains, decaying


@pytest.fixture
def always(monkeypatch):
    """Measure matrices of any size."""
    monkeypatch.setattr(planner, "MEASURE_FROM", 0)
    monkeypatch.setattr(planner, "MEASURE_SPARSE_FROM", 0)
    monkeypatch.setattr(measuring, "LEAST", 1)


@cache
def array():
    return decaying(1200, 520)


def chunked():
    return Chunked.of(array(), (100, 520))


# The slab ------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["auto", "lanczos", "power"])
def test_no_chunk_is_read_twice_to_plan_a_run(always, algorithm):
    matrix = chunked()
    est = bigspec.norm(matrix, algorithm=algorithm, seed=1, max_passes=3)
    assert contains(est, 1.0)
    assert set(matrix.log.reads.values()) == {1}  # later passes take it from memory
    assert (est.passes > 1, est.bytes_read) == (algorithm != "auto", matrix.nbytes)


def test_the_slab_has_the_bits_and_the_counts_of_a_pass_that_reads_it(always, tmp_path):
    stored = zarr.create_array(tmp_path / "A", shape=(1200, 520), chunks=(100, 520), dtype="f8")
    stored[100:] = array()[100:]  # the first chunk is missing
    chosen = bigspec.norm(tmp_path / "A", seed=1, algorithm="lanczos")
    given = bigspec.norm(tmp_path / "A", seed=1, algorithm="lanczos", block_size=chosen.block_size)
    assert any("measured" in choice for choice in chosen.choices)
    assert (chosen.lower, chosen.upper) == (given.lower, given.upper)
    for one, other in zip(chosen.history, given.history, strict=True):
        counts = ("bytes_read", "chunks", "missing_chunks", "retries")
        assert [getattr(one, name) for name in counts] == [getattr(other, name) for name in counts]
    assert chosen.history[0].missing_chunks == 1


def test_the_slab_is_read_again_where_no_memory_is_left_to_keep_it(always):
    matrix = chunked()
    executor, wishes = find_executor(False), Wishes(algorithm="lanczos", pin=False)
    plan = make_plan(matrix, executor, wishes)
    assert plan.first_slab is not None
    assert plan.measured_bytes == 0
    measured = measure(matrix, plan.layout, [16], False, True)
    total = plan.layout.memory.total
    tight = planner._Planner(matrix, executor, wishes, total + measured.bytes_read - 1)
    layout = tight.layout(REGISTRY.named("lanczos"), plan.block_size)
    assert tight.first_slab(measured, layout) == (None, measured.bytes_read)
    roomy = planner._Planner(matrix, executor, wishes, total + measured.bytes_read)
    layout = roomy.layout(REGISTRY.named("lanczos"), plan.block_size)
    assert roomy.first_slab(measured, layout) == (measured.slab, 0)


def test_a_slab_waits_once_and_for_its_own_rectangle():
    read = Buffers()
    read.chunks, read.missing_chunks, read.retries = 4, 3, 2
    first = FirstSlab((slice(0, 5), slice(0, 3)), "block", read)
    here = Buffers()
    assert first.take((slice(5, 10), slice(0, 3)), here) is None
    assert first.take((slice(0, 5), slice(0, 3)), here) == "block"
    assert first.take((slice(0, 5), slice(0, 3)), here) is None
    assert (here.chunks, here.missing_chunks, here.retries) == (4, 3, 2)


def test_parts_of_a_dense_slab_are_given_until_all_of_it_is_gone():
    whole = np.arange(12.0).reshape(4, 3)
    first, here = FirstSlab((slice(0, 4), slice(0, 3)), whole, Buffers()), Buffers()
    np.testing.assert_array_equal(first.take((slice(1, 4), slice(0, 3)), here), whole[1:])
    assert first.take((slice(3, 5), slice(0, 3)), here) is None  # reaches beyond
    np.testing.assert_array_equal(first.take((slice(0, 1), slice(0, 3)), here), whole[:1])
    assert first.take((slice(0, 1), slice(0, 3)), here) is None


def test_what_nobody_takes_is_gone_after_the_pass(always):
    plan = make_plan(chunked(), find_executor(False), Wishes(algorithm="lanczos"))
    first = plan.first_slab
    assert first.rectangle is not None
    first.drop()
    assert first.rectangle is None


def test_a_slab_stays_in_its_process():
    rectangle = slice(0, 5), slice(0, 3)
    first = FirstSlab(rectangle, "block", Buffers())
    assert not pickle.loads(pickle.dumps(first)).holds(rectangle)


def test_a_worker_keeps_no_slab_and_its_bytes_are_counted(always, tmp_path):
    stored = zarr.create_array(tmp_path / "A", shape=(1200, 520), chunks=(100, 520), dtype="f8")
    stored[:] = array()
    options = {"processes": False, "n_workers": 1, "dashboard_address": ":0"}
    with LocalCluster(**options) as cluster, Client(cluster):
        plan = make_plan(bigspec.open_matrix(tmp_path / "A"), find_executor(False), Wishes())
        est = bigspec.norm(tmp_path / "A", seed=1)
    assert plan.first_slab is None
    assert plan.measured_bytes > 0
    assert est.bytes_read == plan.measured_bytes + est.passes * stored.nbytes


# The sample ----------------------------------------------------------------------------------


def entries(block):
    return block.nnz if sp.issparse(block) else int(np.prod(block.shape))


SOURCES = {
    "store": lambda: Chunked.of(np.ones((40_000, 600), "f4"), (1000, 600)),
    "wide store": lambda: Chunked.of(np.ones((600, 40_000), "f4"), (600, 1000)),
    "long rows": lambda: Chunked.of(np.ones((3000, 3000), "f4"), (100, 3000)),
    "rows": lambda: bigspec.open_matrix(sp.random_array((200_000, 700), density=0.01, rng=0)),
    "columns": lambda: bigspec.open_matrix(
        sp.random_array((700, 200_000), density=0.01, rng=0, format="csc")
    ),
    "centered": lambda: bigspec.centered(sp.random_array((20_000, 700), density=0.05, rng=0)),
    "difference": lambda: SOURCES["store"]() - bigspec.open_matrix(np.zeros((40_000, 600), "f4")),
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_sample_costs_a_small_share_of_any_run(name, monkeypatch):
    monkeypatch.setattr(measuring, "LEAST", 1)
    matrix, executor = SOURCES[name](), find_executor(False)
    planning = planner._Planner(matrix, executor, Wishes(), 8 << 30)
    layout = planning.layout(REGISTRY.named("lanczos"), 16)
    work = Counter()

    def add(self, blocks):
        (offset, block), b = blocks[0], None if self.V is None else self.V.shape[1]
        assert offset == 0
        size = entries(getattr(block, "S", block))
        work["gram" if b is None else "products"] += 4 * size * (b or self.n / 2)

    with mock.patch.object(Accumulator, "add_slab", add):
        measured = measure(matrix, layout, [4, 8, 16, 32], True, True)
    assert measured.multiplying
    block = measured.slab.take(
        layout.rectangle(next(layout.slabs(layout.panel(0))), (0, layout.iterate_length)),
        Buffers(),
    )
    slabs = matrix.nbytes / measured.bytes_read
    whole = slabs * entries(getattr(block, "S", block)) / layout.memory.tasks
    fewest = min(4 * b * passes * whole for b, passes in PASSES.items() if b >= 4)
    assert work["products"] <= 0.03 * fewest
    assert work["gram"] <= max(0.03 * 4 * 16 * FLAT[16] * whole, 3 * measuring.GRAM_FLOPS * 0.1)


@pytest.mark.parametrize("name", SOURCES)
def test_the_sample_is_scaled_to_the_whole(name, monkeypatch):
    """Where each entry takes a second, a pass takes as many as there are entries."""
    matrix, executor, now = SOURCES[name](), find_executor(False), [0.0]
    planning = planner._Planner(matrix, executor, Wishes(), 8 << 30)
    layout = planning.layout(REGISTRY.named("lanczos"), 16)
    monkeypatch.setattr(measuring, "LEAST", 1)
    monkeypatch.setattr(measuring, "SECONDS", np.inf)
    monkeypatch.setattr(measuring, "STEEP", np.inf)
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: now[0])

    def add(self, blocks):
        stored = getattr(blocks[0][1], "S", blocks[0][1])
        now[0] += entries(stored) * (self.n if self.V is None else self.V.shape[1])

    with mock.patch.object(Accumulator, "add_slab", add):
        measured = measure(matrix, layout, [4, 8], True, False)
    m, n = matrix.shape
    rectangle = slice(0, m), slice(0, n)
    whole = entries(getattr(matrix.read(*rectangle, Buffers()), "S", np.empty((m, n))))
    if name in ("rows", "columns"):
        whole = matrix.entries.nnz
    assert measured.multiplying[4] == pytest.approx(4 * whole, rel=0.02)
    assert measured.multiplying[8] == pytest.approx(8 * whole, rel=0.02)
    if name != "centered":  # whose Gram matrix is not sampled
        assert measured.gram == pytest.approx(layout.iterate_length * whole, rel=0.25)


def test_too_few_entries_for_a_sample_leave_the_default(monkeypatch):
    monkeypatch.setattr(planner, "MEASURE_FROM", 0)
    plan = make_plan(chunked(), find_executor(False), Wishes(algorithm="lanczos"))
    assert plan.block_size == 16
    assert any("block of 16: the default" in choice for choice in plan.choices)


# The choice ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "algorithm"),
    [
        ((768, 768), "gram"),
        ((3072, 768), "gram"),
        ((4096, 1024), "gram"),
        ((20_000, 600), "gram"),
        ((3000, 3000), "lanczos"),
        ((100_000, 10_000), "lanczos"),
    ],
)
def test_gram_where_it_costs_less_than_the_passes_of_a_flat_spectrum(shape, algorithm):
    A = np.broadcast_to(np.zeros((), "f4"), shape)
    plan = bigspec.plan(A)
    assert plan.algorithm.name == algorithm
    (why,) = [choice for choice in plan.choices if choice.startswith(f"{algorithm}: about")]
    assert "14 passes with 16 columns, as many as a flat spectrum needs" in why
    assert why.endswith("(estimated)")


def test_a_gaussian_matrix_needs_the_passes_that_are_expected():
    A = np.random.default_rng(0).standard_normal((900, 700))
    setting = Setting(bigspec.open_matrix(A), Wishes(), 2)
    for b in (8, 16, 32):
        needed = bigspec.norm(A, algorithm="lanczos", block_size=b, seed=0).passes
        expected, whose = passes_expected(setting, b)
        assert abs(needed - expected) <= 0.5 * needed
        assert whose == "a flat spectrum"


def test_a_coarser_interval_and_old_vectors_speak_for_lanczos():
    matrix = bigspec.open_matrix(np.broadcast_to(np.zeros((), "f4"), (4096, 1024)))
    executor = find_executor(True)
    assert make_plan(matrix, executor, Wishes(rtol=0.1)).algorithm.name == "lanczos"
    plan = make_plan(matrix, executor, Wishes(extra=2))
    assert plan.algorithm.name == "lanczos"
    assert any("as many as a typical spectrum needs" in choice for choice in plan.choices)


def test_a_measurement_decides_against_the_estimate(always, monkeypatch):
    matrix = chunked()
    for gram, expected in ((1.0, "gram"), (1000.0, "lanczos")):
        measured = Measurement(10.0, {16: 1.0}, gram, 10)
        monkeypatch.setattr(planner, "measure", lambda *_, m=measured: m)
        plan = make_plan(matrix, find_executor(False), Wishes())
        assert plan.algorithm.name == expected
        (why,) = [choice for choice in plan.choices if "(measured on the first slab)" in choice]
        assert "as many as a typical spectrum needs" in why
    setting = Setting(matrix, Wishes(), 4, Measurement(10.0, {16: 1.0}, 2.0, 10))
    between = pass_seconds(setting, 16) - 11.0 / 4
    assert gram_seconds(setting) - between == pytest.approx(12.0 / 4, rel=0.01)


def test_gram_that_does_not_fit_is_not_called_dear():
    matrix = Chunked.of(np.broadcast_to(np.zeros((), "f4"), (400_000, 1500)), (1000, 1500))
    plan = bigspec.plan(matrix, memory_limit="60MiB")
    assert plan.algorithm.name == "lanczos"
    assert any(
        "A^H A of order 1500, which gram needs, does not fit the memory limit" in choice
        for choice in plan.choices
    )


def test_sparse_entries_that_were_not_measured_are_not_judged():
    plan = bigspec.plan(sp.random_array((3000, 900), density=0.01, rng=0))
    assert plan.algorithm.name == "lanczos"
    assert any("and they were not measured" in choice for choice in plan.choices)


def test_chunks_as_long_as_the_matrix_are_the_reason_and_not_memory():
    A = da.zeros((5000, 4000), chunks=(5000, 500), dtype="f4")
    said = "\n".join(bigspec.plan(A, block_size=16).choices)
    assert (
        "panels of columns: nothing cuts the matrix into rows: its chunks are as long as its "
        "columns"
    ) in said
    assert "memory limit" not in said
