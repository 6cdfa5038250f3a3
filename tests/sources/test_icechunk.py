"""Icechunk repositories: a snapshot is the matrix, and what its manifest names must be there."""

import shutil

import numpy as np
import pytest
import zarr

import bigspec
from bigspec.errors import ArgumentError, ChunkError

icechunk = pytest.importorskip("icechunk")

A = np.random.default_rng(0).standard_normal((64, 16))
CALL = {"seed": 1, "rtol": 1e-9, "algorithm": "lanczos", "block_size": 2}


@pytest.fixture
def place(tmp_path):
    """Every chunk is a file of its own."""
    icechunk.set_logs_filter("error")
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=0)
    storage = icechunk.local_filesystem_storage(str(tmp_path / "repo"))
    written(icechunk.Repository.create(storage, config=config), A)
    return tmp_path / "repo"


def written(repository, values):
    session = repository.writable_session("main")
    array = zarr.create_array(
        session.store, name="A", shape=A.shape, chunks=(8, 16), dtype="f8", overwrite=True
    )
    array[: len(values)] = values
    return session.commit("written")


def opened(place):
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(place)))


def array(place):
    return zarr.open_array(opened(place).readonly_session("main").store, path="A", mode="r")


def holds(estimate, values):
    sigma = np.linalg.norm(values, 2)
    return estimate.lower <= sigma * (1 + 1e-12) <= estimate.upper * (1 + 2e-12)


def test_a_repository_as_it_was_written(place):
    estimate = bigspec.norm(array(place), **CALL)
    assert holds(estimate, A)
    assert estimate.missing_chunks == 0
    assert estimate.matrix["where"].startswith("icechunk:")


def test_a_chunk_that_the_manifest_names_and_that_is_gone(place):
    next((place / "chunks").iterdir()).unlink()
    for door in (
        lambda: bigspec.norm(array(place), **CALL),
        lambda: bigspec.svds(array(place), 2),
        lambda: bigspec.norm(bigspec.open_matrix(array(place)) - A),
    ):
        with pytest.raises(ChunkError, match=r"chunk c/\d/0 .*not found"):
            door()


def test_a_repository_that_goes_away_in_mid_pass(place):
    matrix = bigspec.open_matrix(array(place))
    shutil.rmtree(place)
    with pytest.raises(ChunkError, match="not found"):
        bigspec.norm(matrix, **CALL)


def test_a_chunk_that_was_never_written_counts_as_the_fill_value(place):
    written(opened(place), A[:40])
    estimate = bigspec.norm(array(place), **CALL)
    assert holds(estimate, A[:40])
    assert (estimate.missing_chunks, estimate.chunks) == (3, 8)


def test_a_run_goes_on_with_its_snapshot_and_with_no_other(place, tmp_path):
    first = bigspec.norm(array(place), checkpoint=tmp_path / "run", max_passes=1, **CALL)
    again = bigspec.norm(array(place), checkpoint=tmp_path / "run", **CALL)
    assert again.run_id == first.run_id
    assert holds(again, A)
    written(opened(place), 2 * A)
    with pytest.raises(ArgumentError, match="where was 'icechunk:"):
        bigspec.norm(array(place), checkpoint=tmp_path / "run", **CALL)
