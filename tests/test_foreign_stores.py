"""What stores of others say of their place, and clusters that are not ready."""

import asyncio
import logging
from types import SimpleNamespace

import dask
import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore, WrapperStore

import bigspec
from bigspec.errors import ArgumentError, ClusterError


class Versioned(WrapperStore):
    """Its `repr` is an address; its session is that of icechunk."""

    def __init__(self, store, *, snapshot, changes=False):
        super().__init__(store)
        self.session = SimpleNamespace(snapshot_id=snapshot, has_uncommitted_changes=changes)

    def _with_store(self, store):
        held = self.session
        return Versioned(store, snapshot=held.snapshot_id, changes=held.has_uncommitted_changes)

    __str__ = __repr__ = object.__repr__


class Foreign(WrapperStore):
    """Its `repr` is an address, and it has nothing else."""

    __str__ = __repr__ = object.__repr__


@pytest.fixture
def entries():
    store = MemoryStore()
    zarr.create_array(store, name="A", data=np.diag(np.arange(1.0, 13.0)), chunks=(4, 12))
    return store


def array(store):
    return zarr.open_array(store, path="A", mode="r")


def test_a_run_of_a_snapshot_goes_on(entries, tmp_path, monkeypatch):
    monkeypatch.setattr("bigspec.sources.zarr_place.lives_in_process", lambda _: False)
    call = {"checkpoint": tmp_path / "run", "seed": 1, "rtol": 1e-12, "block_size": 2}
    first = bigspec.norm(array(Versioned(entries, snapshot="QC5G")), max_passes=1, **call)
    assert first.matrix["where"] == "icechunk:QC5G/A"
    again = bigspec.norm(array(Versioned(entries, snapshot="QC5G")), **call)
    assert again.run_id == first.run_id
    with pytest.raises(ArgumentError, match="where was 'icechunk:QC5G/A', is 'icechunk:R7"):
        bigspec.norm(array(Versioned(entries, snapshot="R7")), **call)


@pytest.mark.parametrize(
    "kind", [Foreign, lambda store: Versioned(store, snapshot="QC5G", changes=True)]
)
def test_a_run_that_nobody_could_recognise_is_not_saved(kind, entries, tmp_path, monkeypatch):
    monkeypatch.setattr("bigspec.sources.zarr_place.lives_in_process", lambda _: False)
    A = array(kind(entries))
    for matrix in (A, bigspec.open_matrix(A) - np.eye(12)):
        with pytest.raises(ArgumentError, match=r"another process can recognise.* unknown place"):
            bigspec.norm(matrix, checkpoint=tmp_path / "run")
        answer = bigspec.norm(matrix)
        assert answer.lower <= 12 + 1e-9
        assert " at 0x" not in answer.to_json()


def test_a_cluster_that_starts_without_workers_is_waited_for(tmp_path, caplog):
    from distributed import Client, LocalCluster

    A = zarr.create_array(tmp_path / "A.zarr", data=np.diag(np.arange(1.0, 13.0)))
    options = {"threads_per_worker": 1, "processes": False, "dashboard_address": ":0"}
    with LocalCluster(n_workers=0, **options) as cluster:
        cluster.adapt(minimum=0, maximum=1, interval="50ms")
        with Client(cluster), caplog.at_level(logging.WARNING, "bigspec.cluster"):
            estimate = bigspec.norm(A)
    assert estimate.lower <= 12 * (1 + 1e-12)
    assert estimate.upper >= 12
    assert "no worker yet; waiting for one, 300 s at most" in caplog.text


def test_a_cluster_where_no_worker_comes_is_an_error(tmp_path, monkeypatch):
    from distributed import Client, LocalCluster

    monkeypatch.setattr("bigspec.passes.on_cluster.WORKER_TIMEOUT", 0.2)
    A = zarr.create_array(tmp_path / "A.zarr", data=np.eye(12))
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        Client(cluster),
        pytest.raises(ClusterError, match=r"one worker within 0\.2 s, got none"),
    ):
        bigspec.norm(A)


def test_a_call_in_a_running_loop_says_what_to_await(tmp_path):
    from distributed import Client, LocalCluster

    A = zarr.create_array(tmp_path / "A.zarr", data=np.diag(np.arange(1.0, 13.0)))

    async def both():
        options = {"n_workers": 1, "processes": False, "dashboard_address": ":0"}
        async with (
            LocalCluster(asynchronous=True, **options) as cluster,
            Client(cluster, asynchronous=True),
        ):
            with pytest.raises(ClusterError, match=r"await asyncio\.to_thread\(bigspec\.norm"):
                bigspec.norm(A)
            return await asyncio.to_thread(bigspec.norm, A)

    assert asyncio.run(both()).upper >= 12


def test_a_distributed_scheduler_without_a_client_is_named(tmp_path):
    A = zarr.create_array(tmp_path / "A.zarr", data=np.eye(12))
    with dask.config.set(scheduler="distributed"):
        for matrix in (A, np.eye(3)):
            with pytest.raises(ClusterError, match=r"expected a client.*distributed\.Client"):
                bigspec.norm(matrix)
