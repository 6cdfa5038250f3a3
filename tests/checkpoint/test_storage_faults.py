"""Checkpoints on stores that are full, read-only or slow: the run goes on, and its bits stay."""

import asyncio
import errno
import os
import subprocess
import threading
from collections import Counter
from contextlib import suppress
from typing import ClassVar

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

import bigspec
from bigspec.checkpoint import Checkpoint, Writer
from bigspec.checkpoint.codec import Codec
from bigspec.checkpoint.store import Store
from bigspec.errors import CheckpointInUseError
from bigspec.run import SAVED_TYPES
from bigspec.watch import CheckpointWarning
from tests.checkpoint.runs import ASKED, Stepwise, assert_same_bits
from tests.matrices import Chunked, decaying

pytestmark = pytest.mark.usefixtures("every_step", "no_pauses")

ROWS, COLUMNS = 1200, 900  # a block is 28 kB: too much to lie in a record
A = decaying(ROWS, COLUMNS, 0.25)


@pytest.fixture
def matrix():
    return Chunked.of(A, (100, COLUMNS))


@pytest.fixture(scope="module")
def whole():
    est = bigspec.norm(Chunked.of(A, (100, COLUMNS)), **ASKED)
    assert est.passes >= 6
    return est


class Hooked(LocalStore):
    """Calls `before` with each key that is about to be written, which may raise or wait."""

    before: ClassVar = staticmethod(lambda key: None)
    writes: ClassVar = Counter()

    async def _set(self, key, value, exclusive=False):
        await asyncio.to_thread(type(self).before, key)
        self.writes[key] += 1
        return await super()._set(key, value, exclusive=exclusive)

    def set_sync(self, key, value):
        type(self).before(key)
        self.writes[key] += 1
        return super().set_sync(key, value)


@pytest.fixture
def hooked(monkeypatch):
    class Store(Hooked):
        writes: ClassVar = Counter()

    monkeypatch.setattr("bigspec.checkpoint.store.LocalStore", Store)
    return Store


def failing(number, path):
    """An error as the file system gives it, with the name of a temporary file in its text."""

    def before(key):
        raise OSError(number, os.strerror(number), f"{path}/{key}.{os.urandom(4).hex()}.partial")

    return before


FAULTS = {"full": errno.ENOSPC, "read-only": errno.EROFS, "forbidden": errno.EACCES}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_store_that_refuses_from_the_start(fault, matrix, whole, hooked, tmp_path):
    hooked.before = staticmethod(failing(FAULTS[fault], tmp_path))
    with pytest.warns(CheckpointWarning, match="cannot be written .*nothing is saved yet") as heard:
        est = bigspec.norm(matrix, checkpoint=Checkpoint(tmp_path / "run", interval=0), **ASKED)
    assert len(heard) == 1
    assert_same_bits(est, whole)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("package", ["azure.core.exceptions", "somebody.elses"])
def test_a_client_whose_errors_are_no_os_errors(package, matrix, whole, hooked, tmp_path):
    def before(key):
        kind = type("HttpResponseError", (Exception,), {"__module__": package, "status_code": 403})
        raise kind("not with this key\nRequestId:1\nErrorCode:AuthorizationFailure")

    hooked.before = staticmethod(before)
    said = r"cannot be written \(.*HttpResponseError: not with this key"
    with pytest.warns(CheckpointWarning, match=said) as heard:
        est = bigspec.norm(matrix, checkpoint=Checkpoint(tmp_path / "run", interval=0), **ASKED)
    assert len(heard) == 1
    assert_same_bits(est, whole)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("part", ["blocks", "records"])
def test_a_store_that_refuses_for_a_while(
    fault, part, matrix, whole, hooked, tmp_path, monkeypatch
):
    place, seen = tmp_path / "run", []
    fail = failing(FAULTS[fault], tmp_path)

    def begin():
        hooked.before = staticmethod(lambda key: fail(key) if key.startswith(part) else None)

    def end():
        seen.append(bigspec.show(place))
        hooked.before = staticmethod(lambda key: None)

    watcher = Stepwise(monkeypatch, {3: begin, 5: end})
    est = bigspec.norm(matrix, checkpoint=place, progress=watcher, **ASKED)
    assert_same_bits(est, whole)
    assert len(watcher.heard) == 1
    assert watcher.saved[:6] == [True, True, True, False, False, True]
    assert (seen[0].passes, seen[0].place["damage"]) == (2, [])
    saved = bigspec.show(place)
    assert (saved.finished, saved.passes) == (True, whole.passes)
    assert_same_bits(bigspec.norm(matrix, checkpoint=place, **ASKED), whole)
    assert_only_needed_files(place)


def assert_only_needed_files(place):
    """Two records, their blocks, and nothing that a failed save left."""
    folder = Store(place)
    assert len(folder.records()) <= 2
    held = set()
    for number in folder.records():
        Codec(SAVED_TYPES).decode(
            folder.read_record(number)["value"],
            lambda name: held.add(name) or folder.read_block(name),
        )
    assert set(folder.names("blocks")) == held
    assert not list(place.rglob("*.partial"))


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 1 MB."""
    where = tmp_path / "disk"
    where.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a tmpfs")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "bigspec-test", str(where)]
    if (done := subprocess.run(mount, capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_disk_that_fills_up_and_gets_space_again(matrix, whole, small_disk, monkeypatch):
    place, ballast, seen = small_disk / "run", small_disk / "ballast", []

    def fill():
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(512)):
                pass

    def free():
        seen.append(bigspec.show(place))
        ballast.unlink()

    watcher = Stepwise(monkeypatch, {3: fill, 5: free})
    est = bigspec.norm(matrix, checkpoint=place, progress=watcher, **ASKED)
    assert_same_bits(est, whole)
    assert (seen[0].passes, seen[0].place["damage"]) == (2, [])
    assert watcher.saved[:4] == [True, True, True, False]
    assert len(watcher.heard) == 1
    assert "No space left" in watcher.heard[0]
    assert bigspec.show(place).finished
    assert_only_needed_files(place)


def test_a_disk_too_small_for_the_run_keeps_a_step_that_goes_on(
    matrix, whole, small_disk, monkeypatch
):
    """Nothing gives space back: the newest step that fits stands, and another disk takes it."""
    place = small_disk / "run"
    (small_disk / "ballast").write_bytes(bytes(820_000))
    watcher = Stepwise(monkeypatch)
    est = bigspec.norm(matrix, checkpoint=place, progress=watcher, **ASKED)
    assert_same_bits(est, whole)
    assert watcher.heard
    saved = bigspec.show(place)
    assert 0 < saved.passes < whole.passes
    (small_disk / "ballast").unlink()
    assert_same_bits(bigspec.norm(matrix, checkpoint=place, **ASKED), whole)
    assert bigspec.show(place).finished


def test_a_disk_that_becomes_read_only(matrix, whole, small_disk, monkeypatch):
    place = small_disk / "run"

    def remount(mode):
        subprocess.run(["mount", "-o", f"remount,{mode}", str(small_disk)], check=True)

    watcher = Stepwise(monkeypatch, {3: lambda: remount("ro")})
    assert_same_bits(bigspec.norm(matrix, checkpoint=place, progress=watcher, **ASKED), whole)
    assert len(watcher.heard) == 1
    assert "Read-only file system" in watcher.heard[0]
    assert bigspec.show(place).passes == 2
    # From the start: what is there goes on; what is not there cannot be made.
    watcher = Stepwise(monkeypatch)
    assert_same_bits(bigspec.norm(matrix, checkpoint=place, progress=watcher, **ASKED), whole)
    assert len(watcher.heard) == 1
    with pytest.warns(CheckpointWarning, match="nothing is saved yet") as heard:
        est = bigspec.norm(matrix, checkpoint=small_disk / "other", **ASKED)
    assert len(heard) == 1
    assert_same_bits(est, whole)
    remount("rw")
    assert_same_bits(bigspec.norm(matrix, checkpoint=place, **ASKED), whole)
    assert bigspec.show(place).finished


# Slow stores ---------------------------------------------------------------------------------


@pytest.fixture
def slow(hooked):
    """Every write of a block waits until the event is set."""
    event = threading.Event()
    hooked.before = staticmethod(lambda key: key.endswith("c/0/0") and event.wait(60))
    yield event
    event.set()


def savers():
    return [thread for thread in threading.enumerate() if thread.name == "bigspec-checkpoint"]


def test_a_store_that_does_not_answer_delays_no_pass(matrix, whole, slow, tmp_path, monkeypatch):
    monkeypatch.setattr("bigspec.checkpoint.writer.PATIENCE", 0.05)
    monkeypatch.setattr("bigspec.checkpoint.writer.CLOSING", 0.05)
    with pytest.warns(CheckpointWarning, match=r"the last save was not done within 0\.05 s"):
        est = bigspec.norm(matrix, checkpoint=tmp_path / "run", **ASKED)
    assert not slow.is_set()
    assert_same_bits(est, whole)


def test_the_end_of_a_run_waits_for_its_last_save(matrix, whole, slow, tmp_path, monkeypatch):
    flush = Writer.flush

    def hurry(self, *args):
        slow.set()
        return flush(self, *args)

    monkeypatch.setattr(Writer, "flush", hurry)
    assert_same_bits(bigspec.norm(matrix, checkpoint=tmp_path / "run", **ASKED), whole)
    assert bigspec.show(tmp_path / "run").finished


def test_of_several_saves_that_wait_only_the_newest_is_made(matrix, slow, tmp_path, monkeypatch):
    made = []
    save = Writer._save
    monkeypatch.setattr(Writer, "_save", lambda self, *a: made.append(a[0]) or save(self, *a))
    monkeypatch.setattr("bigspec.checkpoint.writer.PATIENCE", 0.05)
    monkeypatch.setattr("bigspec.checkpoint.writer.CLOSING", 0.05)
    with pytest.warns(CheckpointWarning, match="not done within"):
        bigspec.norm(matrix, checkpoint=tmp_path / "run", **ASKED)
    assert len(made) <= 2  # the first has no blocks yet; the second waits for the store
    threads = savers()
    slow.set()
    for thread in threads:
        thread.join(60)


def test_a_save_that_comes_too_late_does_not_touch_the_next_owner(
    matrix, whole, hooked, tmp_path, monkeypatch
):
    place, event = tmp_path / "run", threading.Event()
    hooked.before = staticmethod(lambda key: key.endswith("c/0/0") and event.wait(60))
    monkeypatch.setattr("bigspec.checkpoint.writer.PATIENCE", 0.05)
    monkeypatch.setattr("bigspec.checkpoint.writer.CLOSING", 0.05)
    with pytest.warns(CheckpointWarning, match="not done within"):
        bigspec.norm(matrix, checkpoint=place, max_passes=4, **ASKED)
    (late,) = savers()
    with pytest.raises(CheckpointInUseError, match=f"in use by process {os.getpid()}"):
        bigspec.norm(matrix, checkpoint=place, **ASKED)  # the save still owns it
    event.set()
    late.join(60)
    assert not late.is_alive()
    assert not list((place / "records").glob("*/zarr.json"))  # nobody waited for it
    monkeypatch.undo()
    assert_same_bits(bigspec.norm(matrix, checkpoint=place, **ASKED), whole)
    saved = bigspec.show(place)
    assert (saved.finished, saved.passes) == (True, whole.passes)


# Blocks --------------------------------------------------------------------------------------


def test_blocks_are_written_once_and_dropped_when_a_newer_step_is_complete(
    matrix, hooked, tmp_path, monkeypatch
):
    place, counts = tmp_path / "run", []
    # Three blocks carry the recurrence.
    monkeypatch.setattr("bigspec.panels.layout.Memory.spare", 0)
    folder = Store(place)
    at = {number: lambda: counts.append(len(folder.names("blocks"))) for number in range(2, 9)}
    for passes in (3, 5, None):  # across processes, too
        watcher = Stepwise(monkeypatch, at)
        est = bigspec.norm(matrix, checkpoint=place, max_passes=passes, progress=watcher, **ASKED)
    assert est.passes > 6
    blocks = {key: n for key, n in hooked.writes.items() if key.startswith("blocks/")}
    assert len(blocks) > 2 * est.passes
    assert set(blocks.values()) == {1} | {
        n for key, n in hooked.writes.items() if key == "blocks/zarr.json"
    }
    assert max(counts) <= 2 * 4  # two steps of V_last, V_next and what a partial sum adds
    assert_only_needed_files(place)


@pytest.mark.parametrize("spare", [True, False], ids=["basis", "three blocks"])
def test_kept_blocks_are_the_krylov_basis(spare, matrix, tmp_path, monkeypatch):
    if not spare:
        monkeypatch.setattr("bigspec.panels.layout.Memory.spare", 0)
    place = Checkpoint(tmp_path / "run", keep_blocks=True)
    written = {}
    for passes in (3, 6):
        watcher = Stepwise(monkeypatch)
        bigspec.norm(matrix, checkpoint=place, max_passes=passes, progress=watcher, **ASKED)
        now = {
            path: (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in (tmp_path / "run/blocks").rglob("c/*/*")
        }
        assert written.items() <= now.items()
        written = now
    folder, codec = Store(place.where), Codec(SAVED_TYPES)
    records = [folder.read_record(number) for number in folder.records()]
    states = [
        codec.decode(record["value"], folder.read_block).state
        for record in records
        if record["kind"] == "step"
    ]
    assert [state.passes for state in states] == [1, 2, 3, 4, 5, 6]
    V = np.hstack([state.V_last for state in states])
    np.testing.assert_allclose(V.T @ V, np.eye(24), atol=1e-10)
    # H V = V T + V_+ B E: what they span is the Krylov space of this matrix.
    state, scale = states[-1], 2.0 ** -states[-1].exponent
    residual = (A * scale).T @ ((A * scale) @ V) - V @ state.T
    residual[:, -4:] -= state.V_next @ state.B
    assert np.linalg.norm(residual) < 1e-12 * np.linalg.norm(state.T)
    # Any Zarr reader finds them: no bigspec is needed.
    group = zarr.open_group(tmp_path / "run/blocks", mode="r")
    found = [array[:] for _, array in group.arrays() if array.shape == (COLUMNS, 4)]
    assert all(any(np.array_equal(state.V_last, block) for block in found) for state in states)
