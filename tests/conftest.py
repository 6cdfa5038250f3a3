"""Shared fixtures: the real matrices, one small cluster for the whole run."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("BIGSPEC_SHARED", Path(__file__).parents[2] / "shared")) / "data"


@pytest.fixture(scope="session")
def data():
    if not DATA.is_dir():
        pytest.skip("the shared matrices are not beside this checkout")
    return DATA


@pytest.fixture(scope="session")
def cluster():
    """Two worker processes, shared by all tests that do not break it."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    from distributed import Client

    with Client(cluster) as client:
        yield client
