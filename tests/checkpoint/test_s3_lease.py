"""The lease on a store with conditional writes: each race in the order that would break it."""

# ruff: noqa: F811

import threading
import time
from types import SimpleNamespace

import pytest
from zarr.buffer.cpu import Buffer

from bigspec.checkpoint import lease
from bigspec.checkpoint.lease import OWNER, Lease, Timing
from bigspec.checkpoint.store import Store
from bigspec.errors import CheckpointInUseError
from bigspec.sources.object_store import RemoteStore
from tests.checkpoint.test_s3 import faulty, front  # noqa: F401

pytest.importorskip("obstore")
pytestmark = pytest.mark.usefixtures("no_pauses", "s3_environment")

DEAD = {"token": "0" * 32, "host": "here", "pid": 0, "started": "0", "beats": 3}


@pytest.fixture(autouse=True)
def no_heartbeats(monkeypatch):
    monkeypatch.setattr(lease, "TIMING", Timing(beat=3600.0, patience=0.0, settle=0.0))


@pytest.fixture
def place(bucket):
    return f"s3://{bucket}/run"


def sleeping(monkeypatch, sleep):
    """Replace the lease's own sleep, and nobody else's."""
    names = {name: getattr(time, name) for name in ("monotonic", "time", "strftime", "gmtime")}
    monkeypatch.setattr(lease, "time", SimpleNamespace(sleep=sleep, **names))


@pytest.fixture
def no_sleep(monkeypatch):
    """No race has to settle: the store decides."""

    def sleep(seconds):
        raise AssertionError(seconds)

    sleeping(monkeypatch, sleep)


def lease_at(place, *, steal=False):
    store = Store(place)
    store.start()
    return Lease(store, steal=steal)


def before_its_write(one, act):
    """Let something happen between what a lease reads and its next write: once."""
    write = one.store.write_if

    def later(*args):
        one.store.write_if = write
        act()
        return write(*args)

    one.store.write_if = later


def owner_of(place):
    return Store(place).read_document(OWNER)


@pytest.mark.parametrize("left", ["nothing", "a dead owner", "a damaged document"])
def test_of_two_that_saw_nobody_the_first_to_write_has_it(left, place, no_sleep):
    first, second = lease_at(place), lease_at(place)
    if left == "a dead owner":
        first.store.write_document(OWNER, DEAD | {"machine": lease._machine()})
    if left == "a damaged document":
        first.store._set(f"{OWNER}/zarr.json", Buffer.from_bytes(b"{"))
    before_its_write(second, first.claim)
    with pytest.raises(CheckpointInUseError, match="in use by process"):
        second.claim()
    assert owner_of(place)["token"] == first.token
    first.check()
    first.release()
    assert owner_of(place) is None


def test_one_that_ends_while_another_looks_leaves_the_place_to_it(place, no_sleep):
    first, second = lease_at(place), lease_at(place, steal=True)
    first.claim()
    before_its_write(second, first.release)
    second.claim()
    assert owner_of(place)["token"] == second.token
    second.release()


def test_a_heartbeat_that_comes_late_does_not_take_the_place_back(place, no_sleep):
    first, thief = lease_at(place), lease_at(place, steal=True)
    first.claim()
    before_its_write(first, thief.claim)
    first._beat_once()
    assert owner_of(place)["token"] == thief.token
    with pytest.raises(CheckpointInUseError):
        first.check()
    first.release()
    assert owner_of(place)["token"] == thief.token
    thief.release()


def test_a_thief_wins_against_a_heart_that_beats_in_between(place, no_sleep):
    first, thief = lease_at(place), lease_at(place, steal=True)
    first.claim()
    before_its_write(thief, first._beat_once)
    thief.claim()
    assert owner_of(place)["token"] == thief.token
    thief.release()


def test_a_write_that_came_through_although_it_seemed_to_fail(faulty, bucket):
    """Its repetition is refused by its own first attempt."""
    one, seen = lease_at(f"s3://{bucket}/run"), []
    put = RemoteStore.put_if

    async def twice(self, key, value, tag=None):
        done = await put(self, key, value, tag)
        seen.append(done)
        if len(seen) == 1:
            raise ConnectionResetError
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RemoteStore, "put_if", twice)
        one.claim()
    assert seen[0] is not None
    assert seen[1] is None
    assert one.claimed
    one.release()


@pytest.mark.parametrize("kind", ["it says so", "it writes in any case"])
def test_a_server_without_conditions_is_left_to_the_last_writer(
    kind,
    faulty,
    bucket,
    monkeypatch,
):
    if kind == "it says so":
        faulty.fault = lambda *_: "501" if faulty.conditional else None
    else:

        async def put_in_any_case(self, key, value, tag=None):
            await self.set(key, value)
            return {"e_tag": "any", "version": None}

        monkeypatch.setattr(RemoteStore, "put_if", put_in_any_case)
    meet, settled = threading.Barrier(4), threading.Barrier(4)
    claimed, refused = [], []
    sleeping(monkeypatch, lambda _: settled.wait(60))

    def claim():
        one = lease_at(f"s3://{bucket}/run")
        meet.wait(60)
        try:
            one.claim()
            claimed.append(one)
        except CheckpointInUseError as error:
            refused.append(error)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(claimed), len(refused)) == (1, 3)
    claimed[0].release()
