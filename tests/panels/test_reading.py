"""The one loop that reads panels: what it counts, when it stops, what it holds of a sparse slab."""

import pickle
import threading
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

import bigspec
from bigspec.kernels import working_dtype
from bigspec.kernels.buffers import Buffers
from bigspec.matrices import Grid, Matrix
from bigspec.panels.backward import BackwardContext
from bigspec.panels.choose_layout import choose_layout
from bigspec.panels.columns import SumsContext
from bigspec.panels.context import run_panel
from bigspec.panels.forward import ForwardContext
from bigspec.panels.fused import FusedContext
from bigspec.panels.limit import Abandoned, Limit
from bigspec.passes import DeadlinePassed, FirstRounds, find_executor, open_dask_array
from bigspec.passes.executor import ThreadExecutor, build_round
from bigspec.sources import open_source
from tests.matrices import Chunked, contains, decaying, largest_singular_value
from tests.memory import traced_peak

A = decaying(90, 40)
KINDS = ["fused", "forward", "backward", "columns"]


def layout_of(matrix, **cut):
    layout = choose_layout(matrix, 3, blocks=6, limit=1 << 30, tasks=2, local=True)
    return replace(layout, **cut)


def context_of(kind, matrix, layout):
    """The work of one kind over a real matrix of panels of rows."""
    m, n = matrix.shape
    if kind == "fused":
        return FusedContext(matrix, layout, np.ones((n, 3)), None, True)
    if kind == "forward":
        return ForwardContext(matrix, layout, np.ones((n, 3)), 0, False)
    if kind == "backward":
        return BackwardContext(matrix, layout, np.ones((m, 3)), 0, False)
    return SumsContext(matrix, layout, None, None, False)


def run(context, *, executor=None, deadline=None, on_panels=lambda _: None):
    return (executor or ThreadExecutor()).sum_rounds(
        context, FirstRounds(), on_panels=on_panels, on_sum=lambda *_: None, deadline=deadline
    )


def tokens_of(total):
    return total.contents if hasattr(total, "contents") else total.tokens


@dataclass(frozen=True)
class Told(Chunked):
    """Calls `each` before every read, with its number."""

    each: object = None

    def read(self, rows, columns, buffers):
        self.each(self.log.count + 1, buffers)
        return super().read(rows, columns, buffers)


def told(each):
    return replace(Told.of(A, (10, 4)), each=each)


# What it counts -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_work_reports_bytes_seconds_tokens_and_retries(kind):
    def again(_number, buffers):
        buffers.retries += 1

    matrix = told(again)
    total = run(context_of(kind, matrix, layout_of(matrix, panel_cells=2, slab_cells=1)))
    assert (total.bytes_read, total.retries) == (A.nbytes, 9)
    assert total.seconds_reading > 0
    assert len(tokens_of(total)) == 5
    assert set(matrix.log.reads.values()) == {1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_chunks_of_a_dask_array_are_counted_as_those_of_a_store(kind, sparse):
    array = da.from_array(A, chunks=(10, 9))
    if sparse:
        array = array.map_blocks(sp.csr_array, dtype=float, meta=sp.csr_array((0, 0)))
    matrix = open_dask_array(array)
    total = run(context_of(kind, matrix, layout_of(matrix, panel_cells=2, slab_cells=2)))
    assert total.retries == 0
    assert total.bytes_read == A.nbytes if not sparse else total.bytes_read > A.nbytes
    assert len(tokens_of(total)) == 5


def test_both_ways_over_a_dask_array_see_the_same_content():
    matrix = open_dask_array(da.from_array(A, chunks=(10, 9)))
    layout = layout_of(matrix, panel_cells=2, slab_cells=2)
    ways = [tokens_of(run(context_of(kind, matrix, layout))) for kind in KINDS]
    for tokens in ways[1:]:
        np.testing.assert_array_equal(tokens, ways[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lazy", [False, True], ids=["store", "dask array"])
def test_a_panel_is_one_task_of_one_kind(kind, lazy):
    matrix = open_dask_array(da.from_array(A, chunks=(10, 9))) if lazy else Chunked.of(A, (10, 9))
    layout = layout_of(matrix, panel_cells=2, slab_cells=2 if lazy else 1)
    graph = build_round(context_of(kind, matrix, layout), "context", "token", 0).graph
    panels = [task for key, task in graph.items() if str(key).startswith("bigspec-panel")]
    assert [task[:3] for task in panels] == [(run_panel, "context", k) for k in range(5)]
    assert all((task[3] is None) != lazy for task in panels)


def test_products_of_dask_arrays_with_sparse_chunks():
    def lazy(B):
        B = np.where(np.abs(B) > 0.01, B, 0)
        array = da.from_array(B, chunks=(13, 9))
        return B, array.map_blocks(sp.csr_array, dtype=float, meta=sp.csr_array((0, 0)))

    (L, left), (R, right) = lazy(A), lazy(decaying(40, 30, seed=4))
    est = bigspec.norm(bigspec.open_matrix(left) @ bigspec.open_matrix(right), rtol=1e-6, seed=1)
    assert contains(est, largest_singular_value(L @ R))


# When it stops --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_a_time_limit_is_noticed_before_the_next_tile_of_a_panel(kind, scheduler, monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("bigspec.panels.limit.time", clock)

    def late(number, _buffers):
        clock.now = 100.0 if number == 3 else clock.now

    matrix = told(late)  # one panel, ten tiles of each of its slabs
    layout = layout_of(matrix, panel_cells=9, slab_cells=1, tile_cells=1)
    with dask.config.set(scheduler=scheduler), pytest.raises(DeadlinePassed):
        run(context_of(kind, matrix, layout), deadline=50.0)
    assert matrix.log.count == 3


def test_a_time_limit_ends_a_run_that_reads_in_tiles(monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now + time.monotonic())
    monkeypatch.setattr("bigspec.panels.limit.time", clock)
    monkeypatch.setattr(
        "bigspec.run.planner.choose_layout",
        lambda *a, **o: replace(choose_layout(*a, **o), slab_cells=1, tile_cells=1),
    )

    def late(number, _buffers):
        clock.now = 1e6 if number == 5 else clock.now

    matrix = told(late)
    est = bigspec.norm(matrix, algorithm="lanczos", time_limit=1000)
    assert (est.stopped_by, est.passes, matrix.log.count) == ("time", 0, 5)


def test_an_interrupt_stops_the_threads_before_their_next_tile(monkeypatch):
    """Two panels on two threads: the interrupt comes when one is done and the other reads."""
    both, abandoned, stopped = threading.Barrier(2), threading.Event(), threading.Event()
    abandon, check, readers = Limit.abandon, Limit.check, []

    def note_abandon(limit):
        abandon(limit)
        abandoned.set()

    def note_check(limit):
        try:
            check(limit)
        except Abandoned:
            stopped.set()
            raise

    monkeypatch.setattr(Limit, "abandon", note_abandon)
    monkeypatch.setattr(Limit, "check", note_check)

    def each(_number, _buffers):
        if (reader := threading.get_ident()) not in readers:
            readers.append(reader)
            both.wait(20)
            if reader == readers[1]:
                assert abandoned.wait(20)

    def interrupt(_panels):
        raise KeyboardInterrupt

    matrix = told(each)
    layout = layout_of(matrix, panel_cells=5, slab_cells=5, tile_cells=1)
    layout = replace(layout, memory=replace(layout.memory, tasks=2))
    with dask.config.set(num_workers=2), pytest.raises(KeyboardInterrupt):
        run(context_of("forward", matrix, layout), on_panels=interrupt)
    assert stopped.wait(20)
    assert matrix.log.count == 10 + 1


def test_what_travels_is_the_time_that_is_left(monkeypatch):
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("bigspec.panels.limit.time", clock)
    limit = Limit(1010.0)
    clock.now = 1004.0
    sent = pickle.dumps(limit)
    clock.now = 17.0  # another machine's clock
    there = pickle.loads(sent)
    assert there.left == 6.0
    there.check()
    clock.now = 24.0
    with pytest.raises(Abandoned):
        there.check()
    assert pickle.loads(pickle.dumps(Limit())).left is None


LIMIT = 0.5


@dataclass(frozen=True)
class Waiting(Matrix):
    """A read leaves a file, and lasts longer than its pass may."""

    folder: object = None

    @property
    def identity(self):
        return {"where": self.name}

    def read(self, rows, columns, buffers):
        (self.folder / f"read {rows.start} {columns.start}").touch()
        begun = time.monotonic()
        while time.monotonic() < begun + LIMIT:  # then the limit has passed on the worker, too
            time.sleep(0.01)
        return np.ones((rows.stop - rows.start, columns.stop - columns.start))


def test_a_cluster_stops_at_the_time_limit_inside_a_panel(client, tmp_path):
    grids = Grid(4, 4), Grid(40, 4)
    matrix = Waiting((4, 40), np.dtype(float), "waiting", grids, folder=tmp_path)
    layout = layout_of(matrix, orientation="rows", along=grids[0], across=grids[1])
    layout = replace(layout, panel_cells=1, slab_cells=1, tile_cells=1)
    context = context_of("forward", matrix, layout)
    with pytest.raises(DeadlinePassed):  # while the first read goes on
        run(context, executor=find_executor(False), deadline=time.monotonic() + LIMIT)
    for worker in client.scheduler_info(n_workers=-1)["workers"]:  # each has one thread
        assert client.submit(len, "ab", workers=[worker], pure=False).result() == 2
    assert len(list(tmp_path.glob("read *"))) <= 1


# What it holds of a sparse slab ---------------------------------------------------------------


@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["f4", "c16"])
def test_no_work_copies_a_sparse_slab(kind, transposed, dtype, monkeypatch):
    monkeypatch.setattr("bigspec.kernels.sparse.ENTRIES", 1 << 14)
    rng = np.random.default_rng(0)
    S = sp.random_array((4000, 3000), density=0.1, format="csr", rng=rng).astype(dtype)
    matrix = open_source(sp.csc_array(S.T) if transposed else S)
    if transposed and kind == "columns":
        pytest.skip("sums of columns have no orientation")
    layout = layout_of(matrix, panel_cells=10**6, slab_cells=10**6)
    context = context_of(kind, matrix, layout)
    if context.V is not None:
        length = 4000 if kind == "backward" else 3000
        context = replace(context, V=np.ones((length, 3), working_dtype(S.dtype)))
    with traced_peak() as peak:
        context.work(0)
    assert peak[0] < 0.25 * S.data.nbytes


def test_a_sparse_slab_with_factors_is_not_copied_after_the_first_pass(monkeypatch):
    monkeypatch.setattr("bigspec.kernels.sparse.ENTRIES", 1 << 14)
    S = sp.random_array((4000, 3000), density=0.1, format="csr", rng=np.random.default_rng(0))
    matrix = bigspec.centered(S)
    layout = layout_of(matrix, panel_cells=10**6, slab_cells=10**6)
    rows, columns = layout.rectangle((0, 4000), (0, 3000))
    block, buffers = matrix.read(rows, columns, Buffers()), Buffers()
    context = FusedContext(matrix, layout, np.ones((3000, 3)), 0, False, buffers=buffers)
    total = context.accumulator()
    with traced_peak() as peak:
        total.add_slab([(0, block)])
    assert peak[0] < 0.25 * S.data.nbytes
