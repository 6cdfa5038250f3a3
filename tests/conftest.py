"""Shared fixtures: the real matrices, one small cluster for the whole run."""

import os
import uuid
from pathlib import Path

# For xdist's workers, which inherit it before they import NumPy. An idle thread of OpenBLAS spins
# for 2^26 cycles before it sleeps, and three workers on two cores lose a third of their time to
# that. As many threads as ever compute, and the same bits.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

import pytest

from bigspec.passes import one_blas_thread
from tests.real import Shelf
from tests.workers import forked

SHARED = Path(os.environ.get("BIGSPEC_SHARED", Path(__file__).parents[2] / "shared")) / "data"
HEAVY = (
    "certificate/test_coverage.py",
    "checkpoint/test_cluster_faults.py",
    "checkpoint/test_signals.py",
    "run/test_data.py",
    "test_docs.py",
    "test_examples.py",
    "test_hostile.py",
    "sources/test_remote_hdf5.py",
    "sources/test_missing_chunks.py",
    "history/test_week.py",
)
"""Files of ten seconds and more are begun first: none is left alone on one worker at the end."""

DATA = Shelf(Path(__file__).parent / "data" / "matrices", SHARED)


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    heavy = [here / name for name in HEAVY]
    assert all(path.exists() for path in heavy)
    items.sort(key=lambda item: item.path not in heavy)


@pytest.fixture(scope="session")
def data():
    """The real matrices: those of the repository, and those that may only lie beside it."""
    return DATA


@pytest.fixture(scope="module")
def blas_of_a_run():
    """One BLAS thread, as within `bigspec.norm`: small algebra takes a third of the time."""
    with one_blas_thread():
        yield


@pytest.fixture(scope="session")
def cluster():
    """Two worker processes, shared by all tests that do not break it.

    Dask replaces a worker that hangs after five minutes, which is when pytest ends a test.
    """
    import dask
    from distributed import LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with dask.config.set({"distributed.scheduler.worker-ttl": "60 s"}):
        with forked():
            cluster = LocalCluster(**options, preload=["tests.watched"])
        with cluster:
            yield cluster


@pytest.fixture
def client(cluster):
    from distributed import Client

    with Client(cluster) as client:
        yield client


@pytest.fixture(scope="session")
def endpoint():
    """A real S3 endpoint on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_environment(endpoint, monkeypatch):
    """Reach it as a user does: by the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    yield
    forget_s3_clients()


def forget_s3_clients():
    """Close the clients that s3fs keeps: by their options, and those do not hold the endpoint.

    s3fs closes the session of a synchronous client by itself, and leaves that of an
    asynchronous one, which is what zarr uses, to its owner.
    """
    import s3fs
    from zarr.core.sync import sync

    for client in list(s3fs.S3FileSystem._cache.values()):
        session = sync(client.set_session())
        sync(session.close())
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(endpoint, s3_environment):
    import boto3

    name = f"bucket-{uuid.uuid4().hex}"
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=name)
    client.close()
    return name
