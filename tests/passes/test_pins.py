"""Panels that stay in memory: the same bits, fewer reads, lost for good with their worker."""

import math
import os
import pickle
import signal
from collections import Counter
from dataclasses import replace

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
import zarr

import bigspec
from bigspec.errors import ChunkError, MatrixChangedError
from bigspec.panels.choose_pinned import SHARE
from bigspec.panels.pinned import Pinned, PinnedPanel, copied
from bigspec.passes import Pass, find_executor, one_blas_thread
from bigspec.run import planner
from bigspec.watch import Observer
from tests.checkpoint.serving import CALL, SMALL
from tests.matrices import Chunked, decaying
from tests.memory import traced_peak
from tests.passes.test_passes import block, passes_over
from tests.workers import local_cluster

A = decaying(320, 60, 0.5).astype("f4")
PANELS = 16
HALF = {"algorithm": "power", "block_size": 4, "seed": 1, "rtol": 1e-12, "max_passes": 4}


@pytest.fixture(autouse=True)
def small_panels(monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(f"bigspec.panels.choose_layout.{name}", value)


@pytest.fixture
def small_cells(monkeypatch):
    monkeypatch.setattr("bigspec.sources.sparse_store.CELL_BYTES", 5000)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The matrix in stores of several kinds; the first chunk of the dense one is missing."""
    folder = tmp_path_factory.mktemp("pins")
    dense = zarr.create_array(folder / "dense", shape=A.shape, chunks=(20, 60), dtype="f4")
    dense[20:] = A[20:]
    other = zarr.create_array(folder / "other", shape=A.shape, chunks=(20, 60), dtype="f4")
    other[:] = A[::-1] / 2
    for form in ("csr", "csc"):
        write(folder / form, sp.csr_array(np.where(np.abs(A) > 0.01, A, 0)).asformat(form), form)
    return folder


def write(place, S, form):
    group = zarr.create_group(place)
    group.attrs.update({"encoding-type": f"{form}_matrix", "encoding-version": "0.1.0"})
    group.attrs["shape"] = list(S.shape)
    for name in ("data", "indices", "indptr"):
        values = getattr(S, name)
        group.create_array(name, shape=values.shape, chunks=2000, dtype=values.dtype)[:] = values


def opened(places, kind):
    if kind == "difference":
        return bigspec.open_matrix(places / "dense") - bigspec.open_matrix(places / "other")
    return bigspec.open_matrix(places / kind)


def half(matrix, processes=1):
    """The memory limit at which half of the panels of a run of power iteration stay."""
    memory = bigspec.plan(matrix, algorithm="power", block_size=4, pin=False).layout.memory
    return math.ceil((memory.total + A.nbytes // 2 // processes) / SHARE)


def bits(est):
    ends = [(record.lower, record.upper) for record in est.history]
    return ends, est.right.tobytes() if est.right is not None else est.left.tobytes()


def counts(est, name):
    return [getattr(record, name) for record in est.history]


# Bits and reads --------------------------------------------------------------------------------

KINDS = ("dense", "csr", "csc", "difference")


@pytest.fixture(params=["threads", "cluster"])
def somewhere(request):
    if request.param == "cluster":
        request.getfixturevalue("client")


@pytest.mark.parametrize("kind", KINDS)
def test_panels_that_stay_change_no_bit_and_are_read_once(somewhere, small_cells, places, kind):
    matrix = opened(places, kind)
    before = bigspec.norm(matrix, pin=False, **CALL)
    est = bigspec.norm(matrix, **CALL)
    assert bits(est) == bits(before)
    first, *later = counts(before, "bytes_read")
    assert later == [first] * (est.passes - 1)
    assert counts(est, "bytes_read") == [first] + [0] * (est.passes - 1)
    assert counts(est, "bytes_pinned") == [0] + [first] * (est.passes - 1)
    assert est.bytes_read == first
    for name in ("chunks", "missing_chunks"):
        assert counts(est, name) == counts(before, name)
    assert est.missing_chunks == (kind in ("dense", "difference"))


def test_half_of_the_panels_stay_on_workers_too(somewhere, places):
    matrix = opened(places, "dense")
    limit = half(matrix, find_executor(False).processes)
    est = bigspec.norm(matrix, memory_limit=limit, **HALF)
    assert counts(est, "bytes_read") == [A.nbytes] + [A.nbytes // 2] * 3
    assert counts(est, "bytes_pinned") == [0] + [A.nbytes // 2] * 3
    assert bits(est) == bits(bigspec.norm(matrix, memory_limit=limit, pin=False, **HALF))


def test_every_chunk_of_an_unpinned_panel_is_read_in_each_pass_and_no_other():
    matrix = Chunked.of(A, (20, 60))
    est = bigspec.norm(matrix, memory_limit=half(matrix), **HALF)
    layout = bigspec.plan(matrix, memory_limit=half(matrix), algorithm="power", block_size=4).layout
    assert matrix.log.reads == {
        (index, 0): 1 if layout.pins(index) else est.passes for index in range(PANELS)
    }


def test_a_panel_in_memory_is_not_asked_for_ahead(monkeypatch):
    asked = Counter()

    def ahead(self, rows, columns, buffers):
        asked[rows.start // 20] += 1

    monkeypatch.setattr(Chunked, "ahead", ahead)
    monkeypatch.setattr(Chunked, "ahead_nbytes", lambda self, slab: 1)
    matrix = Chunked.of(A, (20, 60))
    est = bigspec.norm(matrix, memory_limit=half(matrix), **HALF)
    layout = bigspec.plan(matrix, memory_limit=half(matrix), algorithm="power", block_size=4).layout
    assert layout.panels_ahead > 0
    for index in range(PANELS):
        assert asked[index] == (1 if layout.pins(index) else est.passes)


@pytest.mark.parametrize("pinned", [0, 1, 5, 8, 15, 16])
def test_every_kth_panel_stays(pinned):
    layout = replace(passes_over(Chunked.of(A, (20, 60)), pieces=1).layout, pinned_panels=pinned)
    chosen = [index for index in range(layout.panels) if layout.pins(index)]
    assert len(chosen) == pinned
    gaps = set(np.diff(chosen))
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_triplets_take_panels_from_memory_in_their_last_pass_too(places):
    matrix = Chunked.of(A, (20, 60))
    options = {"block_size": 8, "seed": 1, "rtol": 1e-6}
    tri = bigspec.svds(matrix, 3, **options)
    assert set(matrix.log.reads.values()) == {1}
    assert tri.bytes_read == A.nbytes
    before = bigspec.svds(Chunked.of(A, (20, 60)), 3, pin=False, **options)
    for one, other in ((tri.u, before.u), (tri.s, before.s), (tri.vh, before.vh)):
        np.testing.assert_array_equal(one, other)


def test_the_slab_of_the_planning_stays_without_another_read(monkeypatch):
    monkeypatch.setattr(planner, "MEASURE_FROM", 0)
    monkeypatch.setattr("bigspec.panels.measure.LEAST", 1)
    B = np.random.default_rng(1).standard_normal((1200, 520))
    matrix = Chunked.of(B, (100, 520))
    est = bigspec.norm(matrix, algorithm="lanczos", seed=1, max_passes=3)
    assert any("measured" in choice for choice in est.choices)
    assert set(matrix.log.reads.values()) == {1}
    assert counts(est, "bytes_read") == [B.nbytes, 0, 0]


def test_a_copy_has_the_layout_of_its_block_and_memory_of_its_own():
    for array in (np.asfortranarray(A), A[:, :7]):
        kept = copied(array)
        np.testing.assert_array_equal(kept, array)
        assert not np.shares_memory(kept, array)
        assert kept.flags.f_contiguous == array.flags.f_contiguous
    for block_ in (sp.csr_array(A[:5]), sp.csc_matrix(A[:5])):
        kept = copied(block_)
        assert type(kept) is type(block_)
        assert not any(
            np.shares_memory(getattr(kept, part), getattr(block_, part))
            for part in ("data", "indices", "indptr")
        )
        np.testing.assert_array_equal(kept.toarray(), block_.toarray())


# Plans -----------------------------------------------------------------------------------------


def test_a_plan_says_how_many_panels_stay_and_what_is_read():
    matrix = Chunked.of(A, (20, 60))
    limit = half(matrix)
    plan = bigspec.plan(matrix, algorithm="power", block_size=4, memory_limit=limit)
    memory = plan.layout.memory
    assert memory.pinned == A.nbytes // 2
    assert memory.total <= SHARE * limit
    assert "8 of 16 panels stay in memory; later passes read 50 %" in str(plan)
    assert "pinned panels 37.5 KiB" in str(plan)
    told = plan.to_dict()["layout"]
    assert (told["pinned_panels"], told["memory"]["pinned"]) == (8, A.nbytes // 2)
    everything = bigspec.plan(matrix, algorithm="power", block_size=4)
    assert "16 of 16 panels stay in memory; later passes read nothing" in str(everything)
    without = bigspec.plan(matrix, algorithm="power", block_size=4, pin=False)
    assert without.layout.memory == replace(everything.layout.memory, pinned=0)
    assert "stay in memory" not in str(without)
    assert without.layout.cut == everything.layout.cut


def test_what_gains_nothing_from_it_stays_as_it_was(small_cells, places):
    def pinned(matrix, **options):
        return bigspec.plan(matrix, **options).layout.pinned_panels

    stored = opened(places, "dense")
    assert pinned(stored, algorithm="gram") == 0  # one pass
    assert pinned(stored, algorithm="lanczos", block_size=60) == 0
    assert pinned(A, algorithm="power") == 0
    assert pinned(da.from_array(A, chunks=(20, 60)), algorithm="power") == 0
    sparse = opened(places, "csr")
    assert pinned(sparse, algorithm="power") > 1
    assert pinned(sparse - opened(places, "csr"), algorithm="power") == 0
    assert pinned(stored @ np.eye(60), algorithm="power") == 0


def test_a_run_with_pinned_panels_takes_no_more_than_planned(tmp_path, monkeypatch):
    monkeypatch.setattr("bigspec.panels.choose_layout.PANEL_BYTES", (1 << 20, 1 << 20))
    monkeypatch.setattr(planner, "MEASURE_FROM", 0)
    B = np.random.default_rng(1).integers(-9, 9, (12_000, 250)).astype("f8")
    store = zarr.create_array(tmp_path / "B", shape=B.shape, chunks=(500, 250), dtype="f8")
    store[:] = B
    options = {"algorithm": "lanczos", "memory_limit": "128MiB"}
    planned = bigspec.plan(tmp_path / "B", **options).layout.memory
    assert planned.pinned == B.nbytes
    bigspec.norm(tmp_path / "B", seed=1, max_passes=1, **options)  # imports, tables of codecs
    with traced_peak() as peak:
        est = bigspec.norm(tmp_path / "B", seed=1, max_passes=3, **options)
    assert est.bytes_read == B.nbytes
    assert planned.pinned < peak[0] < planned.total


def test_panels_give_way_to_a_basis():
    layout = passes_over(Chunked.of(A, (20, 60)), pieces=1).layout
    memory = replace(layout.memory, pinned=100, limit=layout.memory.total + 1000)
    held = Pinned(replace(layout, pinned_panels=layout.panels, memory=memory))
    panel = PinnedPanel((), 0, 30, 1, 0, 30, 0.5, 0)
    for index in range(4):
        held.keep(index, panel)
    assert held.indices == {0, 1, 2}  # four would be more than planned
    held.make_room(900)
    assert held.indices == {0, 1, 2}
    held.make_room(950)
    assert held.indices == {0}
    held.keep(1, panel)
    assert held.indices == {0}
    assert [held.wants(index) for index in range(1, 5)] == [False, False, False, True]
    assert not pickle.loads(pickle.dumps(held)).wants(0)
    held.drop()
    assert not held.indices
    assert not held.wants(0)


def test_a_run_whose_basis_grows_reads_again_what_gave_way(monkeypatch):
    matrix = Chunked.of(A, (20, 60))
    room = Pinned.make_room
    two_blocks = 2 * 60 * 4 * 8  # one after the first pass, and the one that comes next

    def tight(self, held):
        room(self, held if held <= two_blocks else 1 << 50)

    monkeypatch.setattr(Pinned, "make_room", tight)
    est = bigspec.norm(matrix, **CALL)
    assert counts(est, "bytes_read") == [A.nbytes, 0] + [A.nbytes] * (est.passes - 2)
    assert bits(est) == bits(bigspec.norm(Chunked.of(A, (20, 60)), pin=False, **CALL))


# Faults ----------------------------------------------------------------------------------------


def test_a_panel_that_fails_on_its_way_leaves_no_part():
    matrix = Chunked.of(A, (20, 60))
    matrix.log.fail_at[4] = ChunkError("bad")
    layout = passes_over(matrix, pieces=2).layout
    memory = replace(layout.memory, pinned=1 << 20)
    layout = replace(layout, slab_cells=1, pinned_panels=layout.panels, memory=memory)
    with one_blas_thread():
        passes = Pass(matrix, layout, find_executor(False))
        with pytest.raises(ChunkError):
            passes.run(block(60))
        left = passes.pinned.indices
        assert all(len(passes.pinned.get(index).slabs) == 2 for index in left)
        assert len(left) < layout.panels
        passes.run(block(60))
        assert passes.pinned.indices == set(range(layout.panels))
        passes.close()
        assert not passes.pinned.indices


class Changing(Observer):
    def __init__(self, store, rows):
        self.store, self.rows = store, rows

    def pass_finished(self, record):
        if record.number == 2:
            self.store[self.rows] = 7.0


@pytest.mark.parametrize("stays", [False, True])
def test_a_change_is_noticed_in_panels_that_are_read_and_in_no_other(stays, tmp_path):
    store = zarr.create_array(tmp_path / "A", shape=A.shape, chunks=(20, 60), dtype="f4")
    store[:] = A
    matrix = bigspec.open_matrix(tmp_path / "A")
    limit = half(matrix)
    layout = bigspec.plan(matrix, memory_limit=limit, algorithm="power", block_size=4).layout
    index = next(i for i in range(PANELS) if layout.pins(i) == stays)
    changing = Changing(store, slice(*layout.extent(index)))
    expected = bigspec.norm(matrix, memory_limit=limit, pin=False, **HALF)
    if stays:
        est = bigspec.norm(matrix, memory_limit=limit, progress=changing, **HALF)
        assert bits(est) == bits(expected)
    else:
        with pytest.raises(MatrixChangedError, match=f"got others in panel {index}"):
            bigspec.norm(matrix, memory_limit=limit, progress=changing, **HALF)


@pytest.mark.parametrize("pins", [(True, True), (True, False), (False, True)])
def test_a_run_that_goes_on_has_the_same_bits_whatever_it_pins(pins, places, tmp_path):
    matrix = opened(places, "dense")
    expected = bigspec.norm(matrix, pin=False, **CALL)

    class Interrupting(Observer):
        def panels_done(self, done, panels, bytes_read, seconds):
            if self.number == 3 and done > panels // 2:
                raise KeyboardInterrupt

        def pass_started(self, number, panels):
            self.number = number

    with pytest.raises(KeyboardInterrupt):
        bigspec.norm(
            matrix, pin=pins[0], checkpoint=tmp_path / "run", progress=Interrupting(), **CALL
        )
    est = bigspec.norm(matrix, pin=pins[1], checkpoint=tmp_path / "run", **CALL)
    assert bits(est) == bits(expected)
    assert est.passes == 5


# Workers ---------------------------------------------------------------------------------------


def pinned_tasks(scheduler):
    return {
        key: task
        for key, task in scheduler.tasks.items()
        if str(key).startswith("bigspec-pinned") and "panel" not in str(key)
    }


def test_panels_on_workers_are_managed_memory_and_move_nowhere(cluster, client, places):
    seen = []

    class Looking(Observer):
        def pass_finished(self, record):
            tasks = pinned_tasks(cluster.scheduler).values()
            seen.append(sum(task.nbytes for task in tasks))
            for task in tasks:
                assert {ws.address for ws in task.who_has} == task.worker_restrictions
                assert not task.loose_restrictions
            workers = [next(iter(task.worker_restrictions)) for task in tasks]
            assert {workers.count(address) for address in workers} == {PANELS // 2}

    bigspec.norm(opened(places, "dense"), progress=Looking(), **CALL)
    assert seen == [A.nbytes] * len(seen)
    client.nthreads()  # by then the client's loop has released what it was asked to
    assert not [key for key in client.futures if "bigspec" in str(key)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_panels_on_workers_are_released_after_an_error(client, places, error):
    class Failing(Observer):
        def panels_done(self, *_):
            raise error

    with pytest.raises(error):
        bigspec.norm(opened(places, "dense"), progress=Failing(), **CALL)
    client.nthreads()
    assert not [key for key in client.futures if "bigspec" in str(key)]


class Killing(Observer):
    """Kills a worker that holds panels, in the middle of a pass."""

    pid = None

    def __init__(self, cluster, number):
        self.cluster, self.when = cluster, number

    def pass_started(self, number, panels):
        self.number = number

    def panels_done(self, done, panels, *_):
        if self.pid is None and self.number == self.when and done > panels // 2:
            scheduler = self.cluster.scheduler
            tasks = pinned_tasks(scheduler).values()
            holders = {address for task in tasks for address in task.worker_restrictions}
            self.pid = scheduler.workers[min(holders & scheduler.workers.keys())].pid
            os.kill(self.pid, signal.SIGKILL)


def test_panels_are_lost_for_good_with_their_worker(places, monkeypatch):
    """From then on they are read in each pass, and the others come from memory."""
    from distributed import Client

    matrix = opened(places, "dense")
    monkeypatch.setattr("bigspec.passes.flight.LOOK", 0.05)
    expected = bigspec.norm(matrix, pin=False, **CALL)
    patience = {"distributed.comm.timeouts.connect": "2s"}  # with a worker that has just died
    with dask.config.set(patience), local_cluster(n_workers=3) as cluster, Client(cluster):
        for number in (1, 3):  # while panels are read to stay, and when they are there
            killing = Killing(cluster, number)
            est = bigspec.norm(matrix, progress=killing, **CALL)
            assert killing.pid is not None
            assert bits(est) == bits(expected)
            read, pinned = counts(est, "bytes_read"), counts(est, "bytes_pinned")
            assert read[1 : number - 1] == [0] * max(number - 2, 0)
            assert 0 < read[-1] < A.nbytes
            assert read[number:] == [read[-1]] * (est.passes - number)
            assert [sum(both) for both in zip(read, pinned, strict=True)] == [A.nbytes] * est.passes
