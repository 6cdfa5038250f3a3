"""A real S3 endpoint on loopback (moto), reached as a user reaches it: URL and environment."""

from __future__ import annotations

import pickle
import socket
from typing import Any

import numpy as np
import pytest
import zarr

from bigspec.errors import MissingSourceError, SourceError, StoreUnavailableError
from bigspec.kernels.buffers import Buffers
from bigspec.sources import open_source

A = np.arange(48.0, dtype="f4").reshape(8, 6)


pytestmark = pytest.mark.usefixtures("s3_environment")


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


@pytest.mark.parametrize("place", ["A.npy", "A.npz", "A.mtx.gz"])
def test_a_file_that_only_a_path_can_name(place: str) -> None:
    with pytest.raises(
        SourceError, match=r"got a \.\S+ file, which is read from a path only; copy"
    ):
        open_source(f"s3://bucket/{place}")
