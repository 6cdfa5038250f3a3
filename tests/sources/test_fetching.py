"""Stores far away: requests in flight, the slab read ahead, what is held, what is cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import LocalStore

import bigspec
from bigspec.errors import ChunkError, SourceError
from bigspec.kernels.buffers import Buffers
from bigspec.panels.choose_layout import choose_layout, memory_text
from bigspec.panels.context import run_panel
from bigspec.panels.fused import FusedContext
from bigspec.panels.limit import Abandoned, Limit
from bigspec.panels.reading import Reader
from bigspec.panels.upcoming import Upcoming
from bigspec.passes import Pass, one_blas_thread
from bigspec.passes.executor import ThreadExecutor
from bigspec.sources import fetching, open_source
from tests.matrices import decaying

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

A = decaying(96, 8)
PATIENCE = 20.0


class FarStore(Store):
    """A folder that is not known to be one: counts requests, and answers when it is told to.

    Attributes
    ----------
    asked : Counter
        Requests by key, of chunks only.
    flying, most, cancelled : int
        Requests under way now, most of them at once, and those that were cancelled.
    enough : int
        A request is answered when so many were under way at once.
    stuck : set of str
        Keys that are never answered.
    errors : dict
        What to raise, by key, one after another.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(read_only=True)
        self.inner = LocalStore(root, read_only=True)
        self.asked: Counter[str] = Counter()
        self.flying = self.most = self.cancelled = 0
        self.enough, self.stuck = 1, set[str]()
        self.errors: dict[str, list[Exception]] = {}

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __reduce__(self) -> Any:
        return FarStore, (self.inner.root,)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if key.rpartition("/")[2] in ("zarr.json", ".zarray", ".zattrs", ".zgroup"):
            return await self.inner.get(key, prototype, byte_range)
        self.asked[key] += 1
        self.flying += 1
        self.most = max(self.most, self.flying)
        try:
            async with asyncio.timeout(PATIENCE):
                while self.most < self.enough or key in self.stuck:
                    await asyncio.sleep(0.001)
            if self.errors.get(key):
                raise self.errors[key].pop(0)
            return await self.inner.get(key, prototype, byte_range)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.flying -= 1

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def exists(self, key: str) -> bool:
        return await self.inner.exists(key)

    supports_writes = supports_deletes = supports_partial_writes = False
    supports_listing = True

    async def set(self, *_: Any) -> None:
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        raise NotImplementedError

    def list(self) -> Any:
        return self.inner.list()

    def list_prefix(self, prefix: str) -> Any:
        return self.inner.list_prefix(prefix)

    def list_dir(self, prefix: str) -> Any:
        return self.inner.list_dir(prefix)


def far(path: Path, values: Any = A, **options: Any) -> tuple[FarStore, Any]:
    """Save an array, and open it as one that is far away."""
    options = {"chunks": (4, 8), **options}
    array = zarr.create_array(path / "A", shape=values.shape, dtype=values.dtype, **options)
    array[...] = values
    store = FarStore(path / "A")
    return store, open_source(zarr.open_array(store, mode="r"))


def context_of(matrix: Any, *, ahead: bool = True, limit: Limit | None = None) -> FusedContext:
    """Panels of 24 rows, in slabs of 8: two chunks each."""
    layout = choose_layout(matrix, 3, blocks=6, limit=1 << 30, tasks=1, local=True)
    layout = replace(layout, panel_cells=6, slab_cells=2, ahead=ahead)
    V = np.random.default_rng(3).standard_normal((8, 3))
    return FusedContext(matrix, layout, V, None, True, limit=limit or Limit())


def keys(*numbers: int) -> set[str]:
    return {f"c/{number}/0" for number in numbers}


def settled(store: FarStore, wanted: Callable[[], bool]) -> None:
    """Let zarr's event loop run until something holds."""

    async def until() -> None:
        async with asyncio.timeout(PATIENCE):
            while not wanted():
                await asyncio.sleep(0)

    sync(until())


# Requests in flight --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "by columns", "sharded"])
def test_all_chunks_of_a_slab_are_asked_for_at_once(kind: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "plain": {},
        "by columns": {"filters": [zarr.codecs.TransposeCodec(order=(1, 0))]},
        "sharded": {"shards": (4, 8), "chunks": (2, 4)},
    }[kind]
    store, matrix = far(tmp_path, **options)
    store.enough = 24  # of zarr's ten none would ever be answered
    before = zarr.config.get("async.concurrency")
    buffers = Buffers()
    block = matrix.read(slice(0, 96), slice(0, 8), buffers)
    np.testing.assert_array_equal(block, A)
    assert (store.most, store.flying, set(store.asked.values())) == (24, 0, {1})
    assert (buffers.chunks, buffers.missing_chunks, buffers.retries) == (24, 0, 0)
    assert zarr.config.get("async.concurrency") == before


@pytest.mark.parametrize("kind", ["plain", "of zarr"])
def test_no_more_chunks_are_held_than_are_counted(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "AT_ONCE", 12)  # zarr itself has ten
    options: dict[str, Any] = {} if kind == "plain" else {"zarr_format": 2, "order": "F"}
    store, matrix = far(tmp_path, **options)
    store.enough = 12
    np.testing.assert_array_equal(matrix.read(slice(0, 96), slice(0, 8), Buffers()), A)
    assert store.most == 12
    assert matrix.ahead_nbytes(96 * 64) == 12 * 4 * 64


def test_values_indices_and_pointers_travel_together(tmp_path: Path) -> None:
    S = sp.random_array((60, 40), density=0.3, format="csr", rng=np.random.default_rng(1))
    group = zarr.open_group(tmp_path / "S", mode="w")
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
    group.attrs["shape"] = list(S.shape)
    for name, chunk in (("data", 100), ("indices", 100), ("indptr", 61)):
        part = getattr(S, name)
        group.create_array(name, shape=part.shape, dtype=part.dtype, chunks=(chunk,))[...] = part
    store = FarStore(tmp_path / "S")
    matrix = open_source(zarr.open_group(store, mode="r"))
    store.asked.clear()
    store.most, store.enough = 0, 2 * -(-S.nnz // 100) + 1
    block: Any = matrix.read(slice(0, 60), slice(0, 40), Buffers())
    np.testing.assert_array_equal(block.toarray(), S.toarray())
    assert store.most == store.enough
    assert set(store.asked.values()) == {1}


# The slab that is read ahead -----------------------------------------------------------------


def test_the_next_slab_travels_while_one_is_multiplied_and_nothing_beyond_the_panel(
    tmp_path: Path,
) -> None:
    store, matrix = far(tmp_path)
    context = context_of(matrix)
    seen = []
    for slab in Reader(context, 0).slabs():
        for _, block in slab.tiles():
            np.testing.assert_array_equal(block, A[slab.start : slab.stop])
            last = min(slab.stop // 4 + 2, 6)  # of the next slab, if the panel has one
            settled(store, lambda last=last: len(store.asked) == last)  # type: ignore[misc]
            seen.append(set(store.asked))
    assert seen == [keys(*range(4)), keys(*range(6)), keys(*range(6))]
    assert set(store.asked.values()) == {1}
    assert not context.buffers.ahead


@pytest.mark.parametrize("missing", [False, True])
def test_bits_and_counts_are_those_of_a_local_store(missing: bool, tmp_path: Path) -> None:
    _, matrix = far(tmp_path, A[:93])  # a ragged edge
    if missing:
        (tmp_path / "A" / "c" / "3" / "0").unlink()
    here = run_panel(context_of(open_source(tmp_path / "A"), ahead=False), 0)
    there = run_panel(context_of(matrix), 0)
    np.testing.assert_array_equal(there.Z, here.Z)
    np.testing.assert_array_equal(there.tokens, here.tokens)
    counts = ("bytes_read", "chunks", "missing_chunks", "retries")
    assert [getattr(there, name) for name in counts] == [getattr(here, name) for name in counts]
    assert there.missing_chunks == missing


@pytest.mark.parametrize("codecs", [{}, {"shards": (4, 8), "chunks": (2, 4)}])
def test_an_interval_is_that_of_a_local_store(codecs: Any, tmp_path: Path) -> None:
    _, matrix = far(tmp_path, A[:93], **codecs)
    here = bigspec.norm(tmp_path / "A", seed=2)
    there = bigspec.norm(matrix, seed=2)
    assert (there.lower, there.upper) == (here.lower, here.upper)


# The panels that come next --------------------------------------------------------------------


def upcoming_of(matrix: Any, most: int, panels: Any = range(4)) -> tuple[FusedContext, Upcoming]:
    context = context_of(matrix)
    layout = replace(context.layout, panels_ahead=most)
    upcoming = Upcoming(matrix, layout, context.first, panels)
    return replace(context, layout=layout, upcoming=upcoming), upcoming


def test_the_next_panels_travel_before_their_tasks_begin(tmp_path: Path) -> None:
    """A panel is six chunks, and its first slab two."""
    store, matrix = far(tmp_path)
    context, upcoming = upcoming_of(matrix, 2)
    plain = [run_panel(context_of(matrix), k) for k in range(4)]
    store.asked.clear()
    for number, (index, ahead) in enumerate([(0, (1, 2)), (2, (1, 3)), (1, (3,)), (3, ())]):
        if index == 2:
            settled(store, lambda: len(store.asked) == 10)
        done = run_panel(context, index)
        np.testing.assert_array_equal(done.Z, plain[index].Z)
        settled(store, lambda n=number, k=ahead: len(store.asked) == 6 * (n + 1) + 2 * len(k))  # type: ignore[misc]
        assert all(keys(6 * k, 6 * k + 1) <= set(store.asked) for k in ahead)
    assert set(store.asked.values()) == {1}  # nothing twice
    assert not context.buffers.ahead
    upcoming.cancel()


def test_another_thread_takes_what_was_asked_for(tmp_path: Path) -> None:
    store, matrix = far(tmp_path)
    context, _ = upcoming_of(matrix, 1, range(2))
    run_panel(context, 0)
    thread = threading.Thread(target=run_panel, args=(context, 1))
    thread.start()
    thread.join(PATIENCE)
    assert set(store.asked) == keys(*range(12))
    assert set(store.asked.values()) == {1}


def test_what_is_never_read_is_cancelled_at_the_end(tmp_path: Path) -> None:
    store, matrix = far(tmp_path)
    store.stuck = keys(6, 7)
    context, upcoming = upcoming_of(matrix, 1)
    run_panel(context, 0)
    settled(store, lambda: store.flying == 2)
    upcoming.cancel()
    assert (store.flying, store.cancelled) == (0, 2)
    upcoming.begin(1, context.buffers)
    assert not context.buffers.ahead  # and nothing more is asked for
    assert set(store.asked) == keys(*range(8))


def test_a_pass_of_threads_asks_for_every_chunk_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigspec.panels.choose_layout.PANEL_BYTES", (1, 1))
    monkeypatch.setattr("bigspec.panels.choose_layout.READ_TO_RETURN", 1)
    store, matrix = far(tmp_path)
    plan = bigspec.plan(matrix, algorithm="power", block_size=2)
    assert plan.layout.panels_ahead > 0
    est = bigspec.norm(matrix, algorithm="power", block_size=2, seed=1, max_passes=1)
    here = bigspec.norm(tmp_path / "A", algorithm="power", block_size=2, seed=1, max_passes=1)
    assert (est.lower, est.upper) == (here.lower, here.upper)
    assert store.asked == Counter(keys(*range(24)))
    assert store.flying == 0


@pytest.mark.parametrize("most", [1, 5, 40])
def test_chunks_are_asked_for_in_the_order_in_which_dask_begins_their_panels(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That order depends on the names of the tasks, which are new in each pass."""
    store, matrix = far(tmp_path, decaying(400, 8))
    layout = choose_layout(matrix, 3, blocks=6, limit=1 << 30, tasks=1, local=True)
    layout = replace(layout, panel_cells=1, slab_cells=1, panels_ahead=most, round_panels=16)
    begun: list[int] = []
    begin = Upcoming.begin
    monkeypatch.setattr(Upcoming, "begin", lambda *of: (begun.append(of[1]), begin(*of))[1])
    with dask.config.set(num_workers=1), one_blas_thread():
        for _ in range(3):
            store.asked.clear()
            begun.clear()
            Pass(matrix, layout, ThreadExecutor()).run(np.ones((8, 3)))
            assert sorted(begun) == list(range(100))
            assert list(store.asked) == [f"c/{panel}/0" for panel in begun]


def test_on_a_worker_of_one_thread_panels_wait_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No chunk is answered before those of three panels are asked for: one thread would hang."""
    from distributed import Client, LocalCluster

    monkeypatch.setattr("bigspec.panels.choose_layout.PANEL_BYTES", (1, 1))
    monkeypatch.setattr("bigspec.panels.choose_layout.READ_TO_RETURN", 1)
    store, matrix = far(tmp_path)
    store.enough = 3
    monkeypatch.setattr(FarStore, "__reduce__", lambda self: (_known, (id(self),)))
    _STORES[id(store)] = store
    options = {"threads_per_worker": 1, "processes": False, "dashboard_address": ":0"}
    asked: dict[str, Any] = {"algorithm": "power", "block_size": 2, "seed": 1, "max_passes": 1}
    with LocalCluster(n_workers=1, **options) as cluster, Client(cluster):
        plan = bigspec.plan(matrix, algorithm="power", block_size=2)
        assert plan.layout.memory.tasks > 3
        est = bigspec.norm(matrix, **asked)
    here = bigspec.norm(tmp_path / "A", **asked)
    assert (est.lower, est.upper) == (here.lower, here.upper)
    assert 3 <= store.most <= plan.layout.memory.tasks
    assert store.flying == 0
    assert set(store.asked.values()) == {1}


_STORES: dict[int, FarStore] = {}


def _known(number: int) -> FarStore:
    return _STORES[number]


# What fails ----------------------------------------------------------------------------------


def test_what_fails_ahead_is_told_at_its_slab(tmp_path: Path) -> None:
    store, matrix = far(tmp_path)
    store.errors["c/3/0"] = [PermissionError("403")] * 9
    slabs = Reader(context_of(matrix), 0).slabs()
    assert len(list(next(slabs).tiles())) == 1  # the next slab is asked for, and fails
    second = next(slabs)
    with pytest.raises(SourceError, match=r"chunk c/3/0 may not be read by this process"):
        list(second.tiles())
    assert store.asked["c/2/0"] == 1  # what came with it is not asked for again


def test_what_fails_once_is_read_again_alone(tmp_path: Path) -> None:
    store, matrix = far(tmp_path)
    store.errors["c/1/0"] = [TimeoutError("slow")]
    total = run_panel(context_of(matrix), 0)
    assert total.retries == 1
    assert total.chunks == 6
    assert store.asked["c/1/0"] == 2
    assert sum(store.asked.values()) == 7


def test_damage_names_its_chunk(tmp_path: Path) -> None:
    _, matrix = far(tmp_path)
    path = tmp_path / "A" / "c" / "4" / "0"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ChunkError, match=r"chunk c/4/0 is damaged and cannot be decoded"):
        run_panel(context_of(matrix), 0)


def test_a_panel_that_ends_early_leaves_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, matrix = far(tmp_path)
    store.stuck = keys(2, 3)
    limit = Limit()
    context = context_of(matrix, limit=limit)

    def abandoned(*_: Any) -> None:
        settled(store, lambda: store.flying == 2)
        limit.abandon()
        limit.check()

    monkeypatch.setattr("bigspec.kernels.Accumulator.add_slab", abandoned)
    with pytest.raises(Abandoned):
        run_panel(context, 0)
    assert (store.flying, store.cancelled) == (0, 2)
    assert not context.buffers.ahead


def test_an_interrupted_read_leaves_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, matrix = far(tmp_path)
    store.stuck = keys(5)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(matrix.far.plan), "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        matrix.read(slice(0, 24), slice(0, 8), Buffers())
    assert store.flying == 0
    assert store.cancelled >= 1


# Memory --------------------------------------------------------------------------------------


def test_what_is_on_its_way_is_counted_and_changes_no_cut(tmp_path: Path) -> None:
    _, matrix = far(tmp_path, np.zeros((4096, 1024)), chunks=(64, 1024))
    near = open_source(tmp_path / "A")
    room = {"blocks": 6, "limit": 1 << 30, "tasks": 2}
    here = choose_layout(near, 3, local=True, waiting=16, **room)  # type: ignore[arg-type]
    there = choose_layout(matrix, 3, local=True, waiting=16, **room)  # type: ignore[arg-type]
    assert there.cut == here.cut
    assert (here.panels_ahead, here.memory.link) == (0, 0)
    assert there.memory.tasks == here.memory.tasks == 2
    assert there.panels_ahead == there.panels - 2
    slab = matrix.ahead_nbytes(there.slab_cells * 64 * 1024 * 8)
    assert there.memory.link == there.panels_ahead * slab
    assert there.memory.total == here.memory.total + there.memory.link + 2 * slab
    assert "on their way" in memory_text(there.memory)
    tight = {**room, "limit": there.memory.total - there.memory.link + 2 * slab}
    little = choose_layout(matrix, 3, local=True, **tight)  # type: ignore[arg-type]
    assert (little.panels_ahead, little.cut) == (1, there.cut)  # half of what is left


def test_tasks_that_a_worker_begins_are_counted_and_change_no_cut(tmp_path: Path) -> None:
    _, matrix = far(tmp_path, np.zeros((4096, 1024)), chunks=(64, 1024))
    room = {"blocks": 6, "tasks": 2, "local": False}
    there = choose_layout(matrix, 3, limit=1 << 30, waiting=16, **room)  # type: ignore[arg-type]
    alone = choose_layout(matrix, 3, limit=1 << 30, **room)  # type: ignore[arg-type]
    assert there.cut == alone.cut
    assert (alone.memory.tasks, there.memory.tasks) == (2, min(16, there.panels))
    assert there.memory.total <= there.memory.limit
    tight = alone.memory.total + alone.memory.task // 2
    little = choose_layout(matrix, 3, limit=tight, waiting=16, **room)  # type: ignore[arg-type]
    assert (little.memory.tasks, little.cut) == (2, there.cut)


def test_a_slab_ahead_is_in_the_memory_of_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, matrix = far(tmp_path, np.zeros((4096, 1024)), chunks=(64, 1024))
    monkeypatch.setattr("bigspec.panels.choose_layout.SLAB_BYTES", 1 << 20)
    wanted = {"blocks": 6, "tasks": 1, "local": False}
    ahead = choose_layout(matrix, 3, limit=1 << 30, **wanted)  # type: ignore[arg-type]
    assert ahead.ahead
    assert ahead.slab_cells == 2
    near = choose_layout(open_source(tmp_path / "A"), 3, limit=1 << 30, **wanted)  # type: ignore[arg-type]
    assert not near.ahead
    # Encoded chunks of the slab that is read, and of the next.
    assert ahead.memory.task == near.memory.task + 2 * (1 << 20)


def test_the_terms_of_an_expression_are_read_ahead(tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    (one, first), (two, second) = far(tmp_path / "1"), far(tmp_path / "2", 2 * A)
    matrix = second - first[:, :]
    assert matrix.ahead_nbytes(512) == 2 * first.ahead_nbytes(512)
    context = context_of(matrix)
    slabs = Reader(context, 0).slabs()
    assert len(list(next(slabs).tiles())) == 1
    settled(two, lambda: len(one.asked) == len(two.asked) == 4)
    total = run_panel(context, 0)
    plain = run_panel(context_of(open_source(tmp_path / "1" / "A")), 0)
    np.testing.assert_allclose(total.Z, plain.Z, rtol=1e-12)
    assert not context.buffers.ahead
    assert (one.flying, two.flying) == (0, 0)
