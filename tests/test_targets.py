"""The place of the left vectors has one owner: two runs never mix their chunks."""

import subprocess
import sys

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

import bigspec
from bigspec.checkpoint import Documents, lease
from bigspec.errors import ArgumentError, CheckpointInUseError, DestinationError
from bigspec.sources.targets import complete_target, create_target, write_failure, write_rows
from bigspec.watch import Observer
from tests.matrices import decaying

A = decaying(300, 20, seed=2)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "TIMING", lease.Timing(beat=0.02, patience=0.1, settle=0.0))


def made(place, shape=(6, 2)):
    return create_target(place, shape, 2, np.dtype(float), "u_store")


def owner(place, **said):
    store = LocalStore(place, read_only=False)
    document = {"token": "another", "host": "node-3", "machine": "node-3", "pid": 7} | said
    Documents(store, str(place), local=True).write_document("owner", document)


def check(tri, A):
    residual = A @ tri.vh.conj().T - tri.u[:] * tri.s
    assert np.linalg.norm(residual) < 1e-8
    assert tri.u.attrs["complete"] is True


class Second(Observer):
    """Begins another run on the same place while the first one makes its passes."""

    def __init__(self, place):
        self.place, self.errors = place, []

    def pass_started(self, number, panels):
        try:
            bigspec.svds(2 * A, 2, seed=2, u_store=self.place)
        except CheckpointInUseError as error:
            self.errors.append(str(error))


def test_a_second_run_is_refused_while_the_first_one_lives(tmp_path):
    second = Second(tmp_path / "U.zarr")
    tri = bigspec.svds(A, 2, seed=1, u_store=tmp_path / "U.zarr", progress=second)
    assert len(second.errors) == len(tri.history) + 1
    assert all("u_store: " in said and "in use by process" in said for said in second.errors)
    assert "--steal" not in second.errors[0]
    check(tri, A)
    assert sorted(path.name for path in (tmp_path / "U.zarr").iterdir()) == ["c", "zarr.json"]
    check(bigspec.svds(2 * A, 2, seed=1, u_store=tmp_path / "U.zarr"), 2 * A)


def test_the_place_of_a_killed_run_is_taken_over(tmp_path):
    made(tmp_path / "U.zarr")
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    owner(tmp_path / "U.zarr", machine=lease._machine(), pid=int(ended.stdout), started="1")
    check(bigspec.svds(A, 2, seed=1, u_store=tmp_path / "U.zarr"), A)
    owner(tmp_path / "V.zarr")  # on another machine, silent, and killed before its last pass
    check(bigspec.svds(A, 2, seed=1, u_store=tmp_path / "V.zarr"), A)


class Thief(Observer):
    """Another run takes the place over: this process was suspended for too long."""

    def __init__(self, place, last):
        self.place, self.last = place, last

    def pass_started(self, number, panels):
        if number == self.last:
            made(self.place, (300, 2))
            owner(self.place)


def test_a_run_that_has_lost_its_place_ends_and_touches_nothing(tmp_path, monkeypatch):
    # A heartbeat that read before the theft may write after it. Real thieves wait for that and
    # look who has won (`Timing.settle`); this one does not, so the run has no heartbeat here.
    monkeypatch.setattr(lease, "TIMING", lease.Timing(beat=60.0, patience=0.1, settle=0.0))
    passes = len(bigspec.svds(A, 2, seed=1).history)
    thief = Thief(tmp_path / "U.zarr", passes + 1)
    with pytest.raises(CheckpointInUseError, match="in use by process 7 on node-3"):
        bigspec.svds(A, 2, seed=1, u_store=tmp_path / "U.zarr", progress=thief)
    there = zarr.open_array(tmp_path / "U.zarr", mode="r")
    assert there.attrs["complete"] is False
    assert not there[:].any()


def test_an_array_that_was_replaced_is_written_no_more(tmp_path):
    first, rows = made(tmp_path / "U.zarr"), np.ones((2, 2))
    write_rows(first, 0, 2, rows)
    second = made(tmp_path / "U.zarr")
    assert not second[:].any()
    write_rows(second, 2, 4, 3 * rows)
    for late in (lambda: write_rows(first, 2, 4, rows), lambda: complete_target(first)):
        with pytest.raises(CheckpointInUseError, match="a second run has taken the place"):
            late()
    np.testing.assert_array_equal(complete_target(second)[2:4], 3 * rows)


def test_a_run_that_fails_leaves_no_owner(tmp_path):
    with pytest.raises(ArgumentError):
        bigspec.svds(A, 21, u_store=tmp_path / "U.zarr")
    assert not (tmp_path / "U.zarr").exists()


@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "Permission denied"), type("Forbidden", (OSError,), {"code": 403})("no")],
    ids=["a disk", "an object store"],
)
def test_a_place_that_may_not_be_written_is_not_said_to_be_unreadable(error):
    said = write_failure(error, "U.zarr")
    assert isinstance(said, DestinationError)
    assert "U.zarr: this process may not write there" in str(said)
    assert "read" not in str(said)
