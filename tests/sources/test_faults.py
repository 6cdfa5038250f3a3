"""Stores that fail on schedule, read through zarr: retried, counted, or named."""

from __future__ import annotations

import gc
import gzip
import weakref
from functools import partial
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from bigspec.errors import ChunkError, StoreUnavailableError
from bigspec.kernels.buffers import Buffers
from bigspec.sources import open_source, retries

A = np.arange(48.0).reshape(8, 6)


def opened(failing_store: Any, errors: list[Any], forever: bool = False) -> Any:
    store = MemoryStore()
    zarr.create_array(store, shape=A.shape, chunks=(2, 3), dtype="f8")[...] = A
    return open_source(zarr.open_array(failing_store(store, errors, forever), mode="r"))


def test_a_store_that_recovers_is_read(failing_store: Any) -> None:
    matrix = opened(failing_store, [None, None, TimeoutError("slow")])
    buffers = Buffers()
    block = matrix.read(slice(0, 8), slice(0, 6), buffers)
    np.testing.assert_array_equal(block, A)
    assert buffers.retries == 1


def test_many_failures_among_many_chunks_do_not_add_up(failing_store: Any) -> None:
    # One chunk in three fails; a rectangle read as one would never get through.
    errors: list[Any] = [None, None, ConnectionError("reset")] * 8
    matrix = opened(failing_store, errors)
    buffers = Buffers()
    np.testing.assert_array_equal(matrix.read(slice(0, 8), slice(0, 6), buffers), A)
    assert 1 < buffers.retries < 24


def test_a_store_that_does_not_recover_is_named(failing_store: Any) -> None:
    matrix = opened(failing_store, [None, None, OSError(5, "EIO")], forever=True)
    message = r"^memory:: chunk c/0/0 could not be read, .* after retries; .*EIO.*Run the same"
    buffers = Buffers()
    with pytest.raises(StoreUnavailableError, match=message):
        matrix.read(slice(0, 8), slice(0, 6), buffers)
    assert buffers.retries == 5


def test_memory_of_a_failed_read_is_not_used_again(failing_store: Any) -> None:
    # Requests of the failed read may still be on their way, and zarr will write them there.
    matrix = opened(failing_store, [TimeoutError()])
    buffers = Buffers()
    before = buffers.take("source.block", A.shape, A.dtype)
    read = matrix.read(slice(0, 8), slice(0, 6), buffers)
    later = matrix.read(slice(0, 8), slice(0, 6), buffers)
    assert not np.shares_memory(before, read)
    assert not np.shares_memory(before, later)
    np.testing.assert_array_equal(later, A)


def test_the_damaged_chunk_of_a_rectangle_is_found(failing_store: Any) -> None:
    store = MemoryStore()
    array = zarr.create_array(store, shape=A.shape, chunks=(2, 3), dtype="f8")
    array[...] = A
    stored = store._store_dict["c/2/1"].to_bytes()
    store._store_dict["c/2/1"] = zarr.buffer.cpu.Buffer.from_bytes(stored[:9])
    matrix = open_source(array)
    buffers = Buffers()
    np.testing.assert_array_equal(matrix.read(slice(0, 4), slice(0, 6), buffers), A[:4])
    with pytest.raises(ChunkError, match=r"chunk c/2/1 is damaged and cannot be decoded \("):
        matrix.read(slice(0, 8), slice(0, 6), buffers)
    assert buffers.retries == 0


def test_a_damaged_shard_is_named_by_its_own_key() -> None:
    store = MemoryStore()
    array = zarr.create_array(store, shape=A.shape, chunks=(1, 3), shards=(4, 3), dtype="f8")
    array[...] = A
    stored = store._store_dict["c/1/0"].to_bytes()
    store._store_dict["c/1/0"] = zarr.buffer.cpu.Buffer.from_bytes(b"\x55" * len(stored))
    with pytest.raises(ChunkError, match=r"chunk c/1/0 is damaged"):
        open_source(array).read(slice(0, 8), slice(0, 6), Buffers())


def test_a_read_leaves_nothing_to_the_garbage_collector() -> None:
    # A slab that waits for it is one more than was planned.
    buffers = Buffers()
    gone = weakref.ref(buffers)
    gc.disable()
    try:
        retries.with_retries(partial(buffers.take, "slab", (3,), np.float64), buffers)
        del buffers
        assert gone() is None
    finally:
        gc.enable()


def network_errors() -> list[tuple[Exception, bool]]:
    import aiohttp
    from botocore import exceptions as boto

    return [
        (boto.EndpointConnectionError(endpoint_url="http://x"), True),
        (boto.ReadTimeoutError(endpoint_url="http://x"), True),
        (boto.ConnectTimeoutError(endpoint_url="http://x"), True),
        (boto.NoCredentialsError(), False),
        (aiohttp.ClientPayloadError(), True),
        (aiohttp.ServerDisconnectedError(), True),
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (OSError(5, "EIO"), True),
        (FileNotFoundError(), False),
        (PermissionError(), False),
        (IsADirectoryError(), False),
        (gzip.BadGzipFile(), False),
        (OSError("Invalid data stream"), False),
        (ValueError(), False),
        (ChunkError(), False),
    ]


@pytest.mark.parametrize(("error", "passing"), network_errors(), ids=repr)
def test_what_may_pass_by_itself(error: Exception, passing: bool) -> None:
    assert retries.is_transient(error) is passing


def test_the_usual_policy_waits_less_than_fifteen_seconds() -> None:
    policy = retries.RetryPolicy()
    waits = [min(policy.first_wait * 2**k, policy.longest_wait) for k in range(policy.attempts - 1)]
    assert policy.attempts == 5
    assert 2 < sum(waits) < 15
