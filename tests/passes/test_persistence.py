"""Arrays whose chunks a cluster holds, another cluster, or nobody; workers that lack a module."""

import asyncio
import importlib.util
import logging
import subprocess
import sys

import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

import bigspec
from bigspec.errors import ClusterError
from tests.matrices import decaying, largest_singular_value

A = decaying(60, 20, 0.5)
ELSEWHERE = "its chunks are on another cluster"
GONE = "expected chunks that the cluster still holds"
DOORS = {
    "norm": bigspec.norm,
    "svds": lambda array: bigspec.svds(array, 2),
    "plan": bigspec.plan,
    "a sum": lambda array: bigspec.norm(bigspec.open_matrix(array) - np.ones(A.shape)),
    "a chain": lambda array: bigspec.norm(bigspec.open_matrix(A.T) @ bigspec.open_matrix(array)),
    "a stack": lambda array: bigspec.norm(bigspec.vstack([A, array])),
    "a range": lambda array: bigspec.norm(bigspec.open_matrix(array)[:30]),
    "means": bigspec.centered,
    "another dask array": lambda array: bigspec.norm(2 * array + 1),
}


@pytest.fixture(autouse=True)
def quiet():
    """Clients that go away are logged at length."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


@pytest.fixture(scope="module")
def other():
    """A second cluster, in threads, whose client is not the current one."""
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def persisted(client):
    return client.persist(da.from_array(A, chunks=(20, 20)))


@pytest.mark.parametrize("door", DOORS)
def test_an_array_that_is_on_another_cluster(door, other, client):
    array = persisted(other)
    with pytest.raises(ClusterError, match=rf"{ELSEWHERE}.*{client.scheduler.address}"):
        DOORS[door](array)


@pytest.mark.parametrize("door", DOORS)
def test_an_array_whose_client_is_not_the_current_one(door, other):
    array = persisted(other)
    with pytest.raises(ClusterError, match=f"{ELSEWHERE}.*the passes run on this process"):
        DOORS[door](array)


def test_an_array_within_its_own_client(other):
    array = persisted(other)
    with other.as_current():
        assert bigspec.norm(array).upper >= largest_singular_value(A) * (1 - 1e-12)


@pytest.mark.parametrize("how", ["closed", "cancelled", "released", "closed, with another open"])
def test_chunks_that_nobody_holds(how, cluster):
    first = Client(cluster)
    array = persisted(first)
    if how.startswith("closed"):
        first.close()
    elif how == "cancelled":
        first.cancel(array)
    else:
        for future in dict(array.__dask_graph__()).values():
            future.release()
        first.sync(asyncio.sleep, 0)  # a release is a callback of the client's loop
    second = Client(cluster) if how.endswith("open") else None
    for door in DOORS.values():
        with pytest.raises(ClusterError, match=GONE):
            door(array)
    for left in (first, second):
        if left is not None:
            left.close()


def test_a_persisted_array_as_a_term(client):
    """Its chunks are fetched by the task that adds them, also while they are being made."""
    array = client.persist(da.from_array(A, chunks=(20, 20)).map_blocks(lambda x: x * 2.0))
    B = np.ones(A.shape)
    estimate = bigspec.norm(bigspec.open_matrix(array) - B)
    assert "Dask worker" in estimate.layout["where"]
    sigma = largest_singular_value(2 * A - B)
    assert estimate.lower <= sigma * (1 + 1e-12)
    assert estimate.upper >= sigma * (1 - 1e-12)
    centred = bigspec.norm(bigspec.centered(array))
    sigma = largest_singular_value(2 * (A - A.mean(axis=0)))
    assert centred.lower <= sigma * (1 + 1e-12) <= centred.upper * (1 + 2e-12)


def test_two_clients_of_one_cluster(client, cluster):
    array = persisted(client)
    with Client(cluster):
        assert bigspec.norm(array).upper >= largest_singular_value(A) * (1 - 1e-12)


BLOCKING = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "bigspec":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in [name for name in sys.modules if name.partition(".")[0] == "bigspec"]:
    del sys.modules[name]
sys.meta_path.insert(0, Blocked())
"""


def test_workers_without_bigspec(tmp_path):
    (tmp_path / "block.py").write_text(BLOCKING)
    store = zarr.create_array(tmp_path / "A.zarr", shape=A.shape, chunks=(20, 20), dtype=A.dtype)
    store[:] = A
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=":0",
            preload=[str(tmp_path / "block.py")],
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        (worker,) = client.nthreads()
        for door in (
            lambda: bigspec.norm(str(tmp_path / "A.zarr")),
            lambda: bigspec.svds(str(tmp_path / "A.zarr"), 2),
            lambda: bigspec.centered(str(tmp_path / "A.zarr")),
            lambda: bigspec.norm(da.from_array(A, chunks=20)),
        ):
            with pytest.raises(ClusterError) as caught:
                door()
            text = str(caught.value)
            assert text.startswith(f"Dask worker {worker}: expected the module 'bigspec'")
            assert f"pip install 'bigspec=={bigspec.__version__}'" in text
            assert "PipInstall" in text
            assert caught.value.exit_status == 69


def test_a_scheduler_without_bigspec(tmp_path):
    """It unpickles the graphs, too."""
    (tmp_path / "block.py").write_text(BLOCKING)
    store = zarr.create_array(tmp_path / "A.zarr", shape=A.shape, chunks=(20, 20), dtype=A.dtype)
    store[:] = A
    file = tmp_path / "scheduler.json"
    common = ["--scheduler-file", str(file), "--no-dashboard"]
    run = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with (
        subprocess.Popen(
            [*run, "scheduler", "--port", "0", *common, "--preload", str(tmp_path / "block.py")],
            **quiet,
        ) as scheduler,
        subprocess.Popen([*run, "worker", "--no-nanny", "--nthreads", "1", *common], **quiet) as w,
    ):
        try:
            with (
                bigspec.connect(scheduler_file=file, worker_timeout=30),
                pytest.raises(ClusterError, match=r"Dask scheduler tcp.*expected the module"),
            ):
                bigspec.norm(str(tmp_path / "A.zarr"))
        finally:
            w.kill()
            scheduler.kill()


def test_a_module_that_only_this_process_has(client, tmp_path, monkeypatch):
    """A class of the user's own module, as a map over the chunks of a dask array."""
    (tmp_path / "only_here_15.py").write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = importlib.util.find_spec("only_here_15")
    assert spec is not None
    from only_here_15 import double

    array = da.from_array(A, chunks=(20, 20)).map_blocks(double, dtype=A.dtype, meta=A[:0, :0])
    with pytest.raises(ClusterError, match="expected the module 'only_here_15'"):
        bigspec.norm(array)
