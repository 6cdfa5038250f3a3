"""A real S3 endpoint on loopback (moto), reached as a user reaches it: URL and environment."""

from __future__ import annotations

import pickle
import socket
import uuid
from collections.abc import Iterator
from typing import Any

import boto3
import numpy as np
import pytest
import s3fs
import zarr
from moto.server import ThreadedMotoServer
from zarr.core.sync import sync

from bigspec.buffers import Buffers
from bigspec.errors import MissingSourceError, SourceError, StoreUnavailableError
from bigspec.sources import open_source

A = np.arange(48.0, dtype="f4").reshape(8, 6)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def environment(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    yield
    forget_clients()


def forget_clients() -> None:
    """Close the clients that s3fs keeps: by their options, and those do not hold the endpoint.

    s3fs closes the session of a synchronous client by itself, and leaves that of an
    asynchronous one, which is what zarr uses, to its owner.
    """
    for client in list(s3fs.S3FileSystem._cache.values()):
        session = sync(client.set_session())
        sync(session.close())
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(endpoint: str) -> str:
    name = f"bucket-{uuid.uuid4().hex}"
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=name)
    client.close()
    return name


def save(url: str, **options: Any) -> zarr.Array[Any]:
    array = zarr.create_array(url, shape=A.shape, dtype=A.dtype, chunks=(2, 3), **options)
    array[...] = A
    return array


def everything(matrix: Any) -> Any:
    return matrix.read(slice(0, 8), slice(0, 6), Buffers())


def test_an_array_is_read_by_its_url(bucket: str) -> None:
    save(f"s3://{bucket}/A.zarr")
    matrix = open_source(f"s3://{bucket}/A.zarr")
    assert not matrix.resident
    assert matrix.identity["where"] == f"s3://{bucket}/A.zarr"
    np.testing.assert_array_equal(everything(matrix), A)
    arrived = pickle.loads(pickle.dumps(matrix))
    np.testing.assert_array_equal(everything(arrived), A)
    assert arrived == matrix


def test_an_array_inside_a_group(bucket: str) -> None:
    save(f"s3://{bucket}/G.zarr", name="X", zarr_format=2)
    np.testing.assert_array_equal(everything(open_source(f"s3://{bucket}/G.zarr::/X")), A)
    np.testing.assert_array_equal(everything(open_source(f"s3://{bucket}/G.zarr/X")), A)
    with pytest.raises(SourceError, match=rf"Point at one: 's3://{bucket}/G.zarr::/X'"):
        open_source(f"s3://{bucket}/G.zarr")


def test_nothing_there(bucket: str) -> None:
    with pytest.raises(MissingSourceError, match=r"none.zarr: nothing lies there"):
        open_source(f"s3://{bucket}/none.zarr")


def test_no_such_bucket() -> None:
    with pytest.raises(MissingSourceError, match=r"nothing lies there"):
        open_source("s3://no-such-bucket/A.zarr")


def test_a_refused_endpoint_is_named_after_retries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    message = r"s3://bucket/A.zarr: the store does not answer, after retries; .*Check the address"
    with pytest.raises(StoreUnavailableError, match=message):
        open_source("s3://bucket/A.zarr")
