"""One owner: races, refusals, crashes, other machines, stealing, and letting go."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import fsspec
import pytest
import zarr
from click.testing import CliRunner

import bigspec
from bigspec.checkpoint import Checkpoint, lease
from bigspec.checkpoint.lease import Lease, Timing
from bigspec.checkpoint.store import Store
from bigspec.cli import main
from bigspec.errors import CheckpointInUseError, ChunkError
from bigspec.watch import Observer
from tests.checkpoint.runs import ASKED, Stepwise, assert_same_bits
from tests.matrices import Chunked, decaying

A = decaying(300, 60, 0.25)


@pytest.fixture
def matrix():
    return Chunked.of(A, (50, 60))


@pytest.fixture
def quick(monkeypatch):
    """The patience of minutes, in milliseconds."""
    monkeypatch.setattr(lease, "TIMING", Timing(beat=0.01, patience=0.1, settle=0.02))


@pytest.fixture
def whole(matrix):
    return bigspec.norm(matrix, **ASKED)


@pytest.fixture
def memory():
    """A fresh place in fsspec's in-process file system."""
    yield "memory://bigspec-tests"
    with suppress(FileNotFoundError):
        fsspec.filesystem("memory").rm("/bigspec-tests", recursive=True)


def owner_document(place):
    return place / "owner" / "zarr.json"


def write_owner(place, **changes):
    """Leave the document of another owner there, by hand."""
    owner = {
        "token": "0" * 32,
        "host": "elsewhere",
        "machine": "elsewhere boot pid",
        "pid": 4711,
        "started": "0",
        "since": "2026-01-01 00:00:00 UTC",
        "beats": 3,
        "time": time.time(),
    }
    folder = Store(place)
    folder.start()
    folder.write_document("owner", owner | changes)


# Races ---------------------------------------------------------------------------------------

RUNNERS = 4


class WaitForOthers(Observer):
    """Holds the run until all others have been refused."""

    def __init__(self, meet):
        self.meet = meet

    def pass_started(self, number, panels):
        if number == 1:
            self.meet.wait(60)


def race(A, places, meet, results):
    """One of the racers: in every round all start at once, and who runs waits for the others.

    The matrix is handed over: made here, with another number of BLAS threads, it would have
    other bits.
    """
    matrix = Chunked.of(A, (50, 60))
    for place in places:
        meet.wait(60)
        try:
            bigspec.norm(matrix, checkpoint=place, progress=WaitForOthers(meet), **ASKED)
            results.put((place, "ran"))
        except CheckpointInUseError as error:
            results.put((place, str(error)))
            meet.wait(60)


def test_of_processes_that_start_at_once_exactly_one_runs(tmp_path, whole, matrix):
    """In fresh places, in one left by a run that was killed, and without exclusive creation."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    places = [str(tmp_path / f"run{number}") for number in range(6)]
    for place in places[3:]:
        write_owner(place, machine=lease._machine(), pid=process.pid)
    context = multiprocessing.get_context("spawn")
    meet, results = context.Barrier(RUNNERS), context.Queue()
    runners = [
        context.Process(target=race, args=(A, places, meet, results)) for _ in range(RUNNERS)
    ]
    for runner in runners:
        runner.start()
    outcomes = [results.get(timeout=100) for _ in range(RUNNERS * len(places))]
    for runner in runners:
        runner.join(60)
        assert runner.exitcode == 0
    for place in places:
        refused = [text for where, text in outcomes if where == place and text != "ran"]
        assert len(refused) == RUNNERS - 1
        assert all("in use by process" in text for text in refused)
        assert_same_bits(bigspec.norm(matrix, checkpoint=place, **ASKED), whole)


def test_of_threads_that_start_at_once_on_a_remote_store_exactly_one_has_it(quick, memory):
    """An object store has no exclusive creation: the last to write has it, once it settled."""
    for number in range(5):
        meet, claimed, refused = threading.Barrier(4), [], []

        def claim(number=number, meet=meet, claimed=claimed, refused=refused):
            one = Lease(Store(f"{memory}/run{number}"))
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


# Refusals ------------------------------------------------------------------------------------

HOLD = """
import sys, os
from bigspec.checkpoint.store import Store
from bigspec.checkpoint.lease import Lease
folder = Store(sys.argv[1])
folder.start()
Lease(folder).claim()
print("claimed", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def live(tmp_path):
    """A process that owns a checkpoint and goes on living."""
    place = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(place)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "claimed\n"
        yield process, place
        process.kill()


def test_a_second_process_is_refused_by_the_name_of_the_first(live, matrix, tmp_path):
    process, place = live
    before = owner_document(place).read_bytes()
    host = re.escape(os.uname().nodename)
    message = rf"in use by process {process.pid} on {host} since 20.*take it over with --steal"
    with pytest.raises(CheckpointInUseError, match=message):
        bigspec.norm(matrix, checkpoint=place, **ASKED)
    assert matrix.log.count == 0
    store = zarr.create_array(tmp_path / "A.zarr", shape=A.shape, dtype="f8")
    store[:] = A
    command = ["norm", str(tmp_path / "A.zarr"), "--checkpoint", str(place), "--quiet"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 75
    assert f"in use by process {process.pid} on" in result.stderr
    assert result.stdout == ""
    assert owner_document(place).read_bytes() == before


@pytest.mark.parametrize("reaped", [True, False], ids=["gone", "zombie"])
def test_one_that_was_killed_on_this_machine_is_taken_at_once(
    reaped, live, matrix, whole, monkeypatch
):
    monkeypatch.setattr(lease, "TIMING", Timing(beat=10, patience=1e9, settle=0.01))
    process, place = live
    process.send_signal(signal.SIGKILL)
    if reaped:
        process.wait()
    else:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert owner_document(place).exists()
    assert_same_bits(bigspec.norm(matrix, checkpoint=place, **ASKED), whole)


def test_a_process_number_that_came_again_is_another_process(live, matrix, whole):
    process, place = live
    write_owner(place, machine=lease._machine(), pid=process.pid, started="1")
    assert_same_bits(bigspec.norm(matrix, checkpoint=place, **ASKED), whole)


def test_show_tells_an_owner_that_was_killed_from_one_that_runs(matrix, tmp_path):
    place = tmp_path / "run"
    bigspec.norm(matrix, checkpoint=place, max_passes=2, **ASKED)
    write_owner(place, machine=lease._machine(), pid=os.getppid(), started="1")
    text = str(bigspec.show(place))
    assert f"left        by process {os.getppid()} on elsewhere, which is gone" in text
    assert "in use" not in text
    write_owner(place)
    assert "in use      by process 4711 on elsewhere" in str(bigspec.show(place))


def test_a_lease_of_this_process_that_could_not_be_removed_does_not_block(
    matrix, whole, tmp_path, monkeypatch
):
    place = tmp_path / "run"

    def fail(*_):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "remove_document", fail)
        bigspec.norm(matrix, checkpoint=place, max_passes=2, **ASKED)
    assert owner_document(place).exists()
    assert_same_bits(bigspec.norm(matrix, checkpoint=place, **ASKED), whole)


def test_two_runs_in_one_process_are_two_owners(matrix, tmp_path):
    class Second(Observer):
        def pass_started(self, number, panels):
            with pytest.raises(CheckpointInUseError, match=f"in use by process {os.getpid()} on"):
                bigspec.norm(matrix, checkpoint=tmp_path / "run", **ASKED)

    bigspec.norm(matrix, checkpoint=tmp_path / "run", progress=Second(), max_passes=1, **ASKED)


# Other machines ------------------------------------------------------------------------------


class Beating(Store):
    """A place whose owner elsewhere beats whenever somebody looks."""

    def read_document(self, path):
        found = super().read_document(path)
        if path == "owner" and found is not None and found["host"] == "elsewhere":
            self.write_document("owner", found | {"beats": found["beats"] + 1})
        return found


def test_an_owner_elsewhere_that_beats_is_left_alone(quick, matrix, tmp_path, monkeypatch):
    write_owner(tmp_path / "run")
    monkeypatch.setattr("bigspec.checkpoint.writer.Store", Beating)
    with pytest.raises(CheckpointInUseError, match="in use by process 4711 on elsewhere since"):
        bigspec.norm(matrix, checkpoint=tmp_path / "run", **ASKED)
    assert json.loads(owner_document(tmp_path / "run").read_text())["attributes"]["beats"] > 3


def test_an_owner_elsewhere_that_is_silent_is_taken_after_a_while(
    quick, matrix, whole, tmp_path, monkeypatch
):
    place, looks = tmp_path / "run", []
    write_owner(place)
    read = Store.read_document
    monkeypatch.setattr(
        Store, "read_document", lambda self, path: looks.append(path) or read(self, path)
    )
    before = time.monotonic()
    assert_same_bits(bigspec.norm(matrix, checkpoint=place, **ASKED), whole)
    assert time.monotonic() - before >= lease.TIMING.patience
    assert looks.count("owner") > 3


def test_an_owner_elsewhere_that_lets_go_while_it_is_watched(
    quick, matrix, whole, tmp_path, monkeypatch
):
    write_owner(tmp_path / "run")

    class Leaving(Store):
        def read_document(self, path):
            found = super().read_document(path)
            if path == "owner" and found is not None and found["host"] == "elsewhere":
                self.remove_document("owner")
            return found

    monkeypatch.setattr("bigspec.checkpoint.writer.Store", Leaving)
    assert_same_bits(bigspec.norm(matrix, checkpoint=tmp_path / "run", **ASKED), whole)


def test_the_heart_beats_while_a_run_lives(quick, matrix, tmp_path):
    place = tmp_path / "run"

    class Watching(Observer):
        def pass_started(self, number, panels):
            seen, until = set(), time.monotonic() + 60
            while len(seen) < 3 and time.monotonic() < until:
                document = json.loads(owner_document(place).read_text())["attributes"]
                seen.add(document["beats"])
            assert len(seen) >= 3

    bigspec.norm(matrix, checkpoint=place, progress=Watching(), max_passes=1, **ASKED)


# Stealing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("local", [True, False], ids=["folder", "URL"])
def test_a_run_that_is_robbed_ends_and_does_not_harm_the_thief(
    local, every_step, quick, matrix, whole, memory, tmp_path, monkeypatch
):
    # A beat of milliseconds that falls between the thief's claim and its look would win it back.
    monkeypatch.setattr(lease, "TIMING", Timing(beat=30.0, patience=0.1, settle=0.02))
    place = str(tmp_path / "run") if local else f"{memory}/run"
    answers = []

    def steal():
        with monkeypatch.context() as patch:
            patch.setattr("bigspec.run.identity.Writer", bigspec.checkpoint.Writer)
            thief = Checkpoint(place, steal=True)
            answers.append(bigspec.norm(matrix, checkpoint=thief, max_passes=4, **ASKED))

    watcher = Stepwise(monkeypatch, {3: steal})
    with pytest.raises(CheckpointInUseError, match="another process has continued this run"):
        bigspec.norm(matrix, checkpoint=place, progress=watcher, **ASKED)
    (stolen,) = answers
    assert stolen.passes == 4
    assert stolen.history[3].upper == whole.history[3].upper
    assert bigspec.show(place).passes == 4
    assert bigspec.show(place).place["damage"] == []
    monkeypatch.undo()
    assert_same_bits(bigspec.norm(matrix, checkpoint=place, **ASKED), whole)


def test_a_robbed_run_learns_it_at_its_next_save_while_the_thief_still_runs(
    every_step, matrix, whole, tmp_path, monkeypatch
):
    place, thieves = tmp_path / "run", []

    def steal():
        thieves.append(Lease(Store(place), steal=True))
        thieves[0].claim()

    watcher = Stepwise(monkeypatch, {3: steal})
    with pytest.raises(CheckpointInUseError, match=f"in use by process {os.getpid()} on"):
        bigspec.norm(matrix, checkpoint=place, progress=watcher, **ASKED)
    assert len(watcher.saved) <= 5
    assert bigspec.show(place).passes == 2
    assert thieves[0].token in owner_document(place).read_text()  # not removed by the robbed run
    thieves[0].release()
    assert not owner_document(place).exists()


def test_a_run_robbed_in_its_last_pass_has_its_answer_and_says_so(
    every_step, matrix, whole, tmp_path, monkeypatch
):
    place, thieves = tmp_path / "run", []

    def steal():
        thieves.append(Lease(Store(place), steal=True))
        thieves[0].claim()

    watcher = Stepwise(monkeypatch, {whole.passes: steal})
    est = bigspec.norm(matrix, checkpoint=place, progress=watcher, **ASKED)
    assert_same_bits(est, whole)
    assert any("in use by process" in message for message in watcher.heard)
    thieves[0].release()


# Letting go ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["answer", "error", "interrupt"])
def test_the_lease_is_gone_after(ending, matrix, tmp_path):
    place = tmp_path / "run"

    class Watching(Observer):
        def pass_started(self, number, panels):
            assert owner_document(place).exists()
            if ending == "interrupt":
                raise KeyboardInterrupt

    expected = {"answer": None, "error": ChunkError, "interrupt": KeyboardInterrupt}[ending]
    if ending == "error":
        matrix.log.fail_at[4] = ChunkError("chunk is damaged")
    if expected is None:
        bigspec.norm(matrix, checkpoint=place, progress=Watching(), **ASKED)
    else:
        with pytest.raises(expected):
            bigspec.norm(matrix, checkpoint=place, progress=Watching(), **ASKED)
    assert not owner_document(place).exists()
    assert not [t for t in threading.enumerate() if t.name.startswith("bigspec-")]


def test_the_lease_is_gone_after_a_refusal_of_the_run(matrix, tmp_path):
    place = tmp_path / "run"
    bigspec.norm(matrix, checkpoint=place, max_passes=1, **ASKED)
    with pytest.raises(bigspec.errors.ResumeError):
        bigspec.norm(matrix, checkpoint=place, **ASKED | {"block_size": 5})
    assert not owner_document(place).exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"attributes": 3}', '{"attributes": {}}', "\0"])
@pytest.mark.parametrize("steal", [True, False])
def test_a_damaged_owner_document_does_not_block(text, steal, quick, matrix, whole, tmp_path):
    place = tmp_path / "run"
    bigspec.norm(matrix, checkpoint=place, max_passes=1, **ASKED)
    owner_document(place).parent.mkdir()
    owner_document(place).write_text(text)
    assert bigspec.show(place).passes == 1
    est = bigspec.norm(matrix, checkpoint=Checkpoint(place, steal=steal), **ASKED)
    assert_same_bits(est, whole)
    assert not owner_document(place).exists()
