"""Workers killed, joining, leaving, out of memory, slow; the scheduler killed: the same bits."""

import asyncio
import os
import signal
import threading
from contextlib import suppress

import dask
import dask.array as da
import numpy as np
import pytest
import zarr

import bigspec
from bigspec.errors import ClusterError
from bigspec.watch import Observer
from tests.checkpoint.serving import ASKED, CALL, SMALL, Run, Scheduler, Served
from tests.matrices import Chunked, decaying
from tests.workers import local_cluster

A = decaying(320, 60, 0.5).astype("f4")
SETTINGS = {
    # LocalCluster takes a worker for lost so long after a death, even if it was restarted and
    # has just died again.
    "distributed.deploy.lost-worker-timeout": "1h",
    # A worker that asks a dead one for its data waits as long.
    "distributed.comm.timeouts.connect": "2s",
}


@pytest.fixture(autouse=True)
def small_panels(monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(f"bigspec.panels.choose_layout.{name}", value)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    store = zarr.create_array(folder / "A.zarr", shape=A.shape, chunks=(5, 60), dtype="f4")
    store[:] = A
    with Served(folder) as served:
        yield served


@pytest.fixture
def whole(served):
    """The run on threads, that nothing happens to."""
    from bigspec.passes.executor import ThreadExecutor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bigspec.api.norm.find_executor", lambda _: ThreadExecutor())
        return bigspec.norm(served.path, **CALL)


@pytest.fixture(scope="module")
def trio():
    """Three workers for the tests that break them, and the one client that lives through it."""
    from distributed import Client

    with (
        dask.config.set(SETTINGS),
        local_cluster(n_workers=3) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield cluster, client


@pytest.fixture
def client(trio):
    with trio[1].as_current():
        yield trio[1]


def assert_same_bits(one, other):
    assert (one.lower, one.upper, one.passes) == (other.lower, other.upper, other.passes)
    np.testing.assert_array_equal(one.right, other.right)


class Killer(Observer):
    """Kills a worker every so many panels: the one that has run longest."""

    def __init__(self, cluster, every):
        self.cluster, self.every, self.left = cluster, every, every
        self.killed, self.done, self.passes = [], 0, 0

    def pass_started(self, number, panels):
        self.done = 0

    def panels_done(self, done, panels, bytes_read, seconds):
        assert self.done < done <= panels  # progress that is sent again is not told again
        self.left -= done - self.done
        self.done = done
        if self.left <= 0 and (pids := self.running()):
            os.kill(pids[0], signal.SIGKILL)
            self.killed.append(pids[0])
            self.left = self.every

    def running(self):
        """Those whose nanny would restart them: one that dies while it starts is given up."""
        from distributed import Status

        processes = [nanny.process for nanny in self.cluster.workers.values()]
        started = [p.pid for p in processes if p is not None and p.status == Status.running]
        return sorted(pid for pid in started if pid is not None and pid not in self.killed)


def test_a_worker_killed_every_few_panels(trio, client, served, whole):
    for _ in range(3):
        killer = Killer(trio[0], every=100)
        assert_same_bits(bigspec.norm(served.path, progress=killer, **CALL), whole)
        assert len(killer.killed) >= 2
    assert client.status == "running"
    assert client.submit(sum, [1, 2]).result() == 3


def test_workers_join_and_leave_in_the_middle_of_a_pass(trio, client, served, whole):
    cluster, _ = trio
    client.wait_for_workers(3)

    class Changing(Observer):
        retired = None

        def panels_done(self, done, *_):
            if self.retired is None and done >= 16:
                cluster.scale(4)
                client.wait_for_workers(4)
                old = min(cluster.scheduler.workers.values(), key=lambda ws: str(ws.name))
                self.retired = old.address
                client.retire_workers([self.retired])

    changing = Changing()
    estimate = bigspec.norm(served.path, progress=changing, **CALL)
    assert changing.retired is not None
    assert changing.retired not in cluster.scheduler.workers
    assert_same_bits(estimate, whole)


def killed(block, flag, times):
    """What the kernel's OOM killer does to a process that asks for too much."""
    for number in range(times):
        with suppress(FileExistsError):
            os.close(os.open(f"{flag}-{number}", os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), signal.SIGKILL)
    return block


def hungry(tmp_path, times):
    """A dask array one of whose chunks kills the worker that makes it, so many times."""
    array = da.from_array(A, chunks=(5, 60))
    flag = str(tmp_path / "killed")
    bad = array[100:105].map_blocks(killed, flag, times, dtype=A.dtype, meta=A[:0])
    return da.concatenate([array[:100], bad, array[105:]])


def test_a_worker_out_of_memory_once(client, tmp_path):
    expected = bigspec.norm(Chunked.of(A, (5, 60), resident=True), **CALL)
    estimate = bigspec.norm(hungry(tmp_path, 1), **CALL)
    assert (tmp_path / "killed-0").exists()
    assert "scheduler" in estimate.layout["where"]
    assert_same_bits(estimate, expected)


def test_a_worker_out_of_memory_every_time(trio, client, tmp_path, monkeypatch):
    monkeypatch.setattr(trio[0].scheduler, "allowed_failures", 0)
    monkeypatch.setattr("bigspec.passes.flight.ATTEMPTS", 2)
    monkeypatch.setattr("bigspec.passes.flight.RETURN", 5.0)
    # Which of the two comes depends on whether another worker has the iterate block already.
    message = r"(KilledWorker|CancelledError) \d+ times (.|\n)* running out of memory"
    with pytest.raises(ClusterError, match=message):
        bigspec.norm(hungry(tmp_path, 100), **CALL)


def test_a_block_that_cannot_be_sent_at_once_is_sent_again(client, served, whole, monkeypatch):
    """The worker that it was sent to dies meanwhile: what Dask raises is the client's OSError."""
    from distributed.comm import CommClosedError

    scatter, failures = type(client).scatter, [CommClosedError("gone"), CommClosedError("gone")]

    def failing(self, *args, **options):
        if failures:
            raise failures.pop()
        return scatter(self, *args, **options)

    monkeypatch.setattr(type(client), "scatter", failing)
    assert_same_bits(bigspec.norm(served.path, **CALL), whole)
    assert not failures


def test_no_worker_comes_back(client, served, monkeypatch):
    def failing(*_, timeout, **__):
        assert timeout == 60
        msg = "No valid workers found"
        raise TimeoutError(msg)

    monkeypatch.setattr(type(client), "scatter", failing)
    message = "expected an answer and a worker within 60 s, got TimeoutError: No valid workers"
    with pytest.raises(ClusterError, match=message):
        bigspec.norm(served.path, **CALL)


def test_a_straggler(client, served, whole):
    """One read of the second pass takes until all the others that do not wait for it are done."""
    caught_up = threading.Event()

    def slow(number):
        if number == 70:
            caught_up.wait()
        elif number >= 110:
            caught_up.set()

    served.chunks, served.on_chunk = 0, slow
    try:
        assert_same_bits(bigspec.norm(served.matrix, pin=False, **CALL), whole)
    finally:
        served.on_chunk = None
        caught_up.set()
    assert served.chunks == 5 * 64


async def both_at_work(dask_scheduler):
    """Return once two clients wait for results."""
    while sum(bool(client.wants_what) for client in dask_scheduler.clients.values()) < 2:
        await asyncio.sleep(0.01)


def test_the_scheduler_is_killed(served, whole, tmp_path):
    """Two runs on it: one with a checkpoint, one without. 3 s is how long Dask reconnects."""
    from distributed import Client

    environment = os.environ | {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s"}
    place = tmp_path / "run"
    runs = []

    def start(*args):
        where = ["--scheduler-file", dask_cluster.file]
        runs.append(Run(served.matrix, *ASKED, *where, *args, env=environment))
        return runs[-1]

    dask_cluster = Scheduler(tmp_path)
    try:
        with (
            Client(scheduler_file=str(dask_cluster.file), set_as_default=False) as client,
            served.holding(100) as reached,
        ):
            saved = start("--checkpoint", place)
            assert reached.wait(60)  # in its second pass
            bare = start()
            client.run_on_scheduler(both_at_work)
            os.kill(dask_cluster.scheduler.pid, signal.SIGKILL)
            saved.end(20)
            bare.end(20)
        dask_cluster.close()
        assert (saved.status, bare.status) == (75, 69)
        assert "bigspec: error: Dask scheduler tcp://127.0.0.1:" in bare.said
        assert saved.said.endswith(
            f"Everything up to here is saved in {place}: run the same command again to go on.\n"
        )
        assert bigspec.show(place).passes >= 1
        dask_cluster = Scheduler(tmp_path)
        with Client(scheduler_file=str(dask_cluster.file), set_as_default=False) as client:
            client.wait_for_workers(1)
        served.chunks = 0
        again = start("--checkpoint", place).end()
        assert again.status == 0
        assert (again.answer["lower"], again.answer["upper"]) == (whole.lower, whole.upper)
        assert served.chunks < 5 * 64
    finally:
        for run in runs:
            run.kill()
        dask_cluster.close()
