"""Tasks of workers whose panels come over a link: who waits, who multiplies, how many there are."""

import threading
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
from distributed import Client, LocalCluster

from bigspec.matrices import Grid, Matrix
from bigspec.panels.limit import Limit
from bigspec.passes import (
    DeadlinePassed,
    Hooks,
    InlineExecutor,
    far_panels,
    find_executor,
    one_blas_thread,
)
from tests.passes.test_passes import block, passes_over

PANELS, ROWS, TASKS = 12, 2, 4
PATIENCE = 60.0
A = np.arange(PANELS * ROWS * 5.0).reshape(-1, 5)
V = block(5, 2)


class Link:
    """What was asked for, what has come and what was read, by the first row of a panel."""

    def __init__(self):
        self._changed = threading.Condition()
        self.asked, self.read, self.come, self.most, self.fast = [], [], set(), 0, False

    def until(self, true):
        with self._changed:
            assert self._changed.wait_for(true, PATIENCE), (self.asked, self.come, self.read)

    def came(self, row, seconds):
        with self._changed:
            patience = PATIENCE if seconds is None else seconds
            return self._changed.wait_for(lambda: self.fast or row in self.come, patience)

    def tell(self, change):
        with self._changed:
            change()
            self.most = max(self.most, len(self.asked) - len(self.read))
            self._changed.notify_all()

    def bring(self, *rows):
        self.tell(lambda: self.come.update(rows))

    def open(self):
        def change():
            self.fast = True

        self.tell(change)


LINK = Link()


@dataclass(frozen=True)
class Way:
    """A panel on its way."""

    row: int

    def wait(self, seconds=None):
        return LINK.came(self.row, seconds)

    def cancel(self):
        pass


class Far(Matrix):
    """A matrix behind `LINK`."""

    def read(self, rows, columns, buffers):
        if buffers.ahead:
            LINK.tell(lambda: LINK.read.append(buffers.ahead.popitem()[1].row))
        return A[rows, columns]

    def ahead(self, rows, columns, buffers):
        LINK.tell(lambda: LINK.asked.append(rows.start))
        buffers.ahead[rows.start] = Way(rows.start)

    @property
    def identity(self):
        return {"kind": "far"}


@pytest.fixture(autouse=True)
def one_link(monkeypatch):
    monkeypatch.setattr(f"{__name__}.LINK", Link())
    with one_blas_thread():
        yield
        LINK.open()


@pytest.mark.parametrize("threads", [1, 2])
def test_what_has_come_is_multiplied_and_the_next_is_asked_for_while_others_wait(threads):
    matrix = Far(A.shape, A.dtype, "far", (Grid(len(A), ROWS), Grid(5, 5)))
    found = []
    options = {"n_workers": 1, "threads_per_worker": threads, "dashboard_address": ":0"}
    with LocalCluster(processes=False, **options) as cluster, Client(cluster):
        passes = passes_over(matrix, 2, pieces=1, rounds=PANELS, executor=find_executor(False))
        memory = replace(passes.layout.memory, tasks=TASKS)
        passes.layout = replace(passes.layout, memory=memory)
        there = threading.Thread(target=lambda: found.append(passes.run(V)))
        there.start()
        LINK.until(lambda: len(LINK.asked) == TASKS)
        first = LINK.asked[0]
        LINK.bring(first)  # the other three never come before all others were read
        slow = LINK.asked[1:]
        for count in range(1, PANELS - TASKS + 2):
            LINK.until(lambda count=count: len(LINK.read) == count)
            LINK.until(lambda count=count: len(LINK.asked) == min(TASKS + count, PANELS))
            LINK.bring(*(row for row in LINK.asked if row not in slow))
        assert not set(slow) & set(LINK.read)
        LINK.open()
        there.join(PATIENCE)
    assert LINK.most == TASKS
    assert sorted(LINK.read) == list(range(0, len(A), ROWS))
    here = passes_over(matrix, 2, pieces=1, rounds=PANELS, executor=InlineExecutor()).run(V)
    np.testing.assert_array_equal(found[0].Z, here.Z)


def test_tasks_that_wait_leave_their_places_when_the_deadline_passes():
    matrix = Far(A.shape, A.dtype, "far", (Grid(len(A), ROWS), Grid(5, 5)))
    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": ":0"}
    with LocalCluster(processes=False, **options) as cluster, Client(cluster) as client:
        passes = passes_over(matrix, 2, pieces=1, rounds=PANELS, executor=find_executor(False))
        memory = replace(passes.layout.memory, tasks=TASKS)
        passes.layout = replace(passes.layout, memory=memory)
        with pytest.raises(DeadlinePassed):
            passes.run(V, hooks=Hooks(deadline=time.monotonic() + 1.0))
        tasks = client.submit(far_panels._tasks, pure=False).result(PATIENCE)
        with tasks.one_more(1, Limit(time.monotonic() + PATIENCE / 2)):
            pass  # it is the only one, although nothing ever came
    assert not LINK.read


class Asked(Limit):
    """A limit of a task that is about to wait for a place."""

    def __init__(self):
        super().__init__()
        self.asked = threading.Event()

    @property
    def left(self):
        self.asked.set()
        return None


def test_every_task_that_waits_is_told_of_a_place():
    # Runs with different layouts meet on a worker. The first to wait may not be the one that fits.
    tasks, inside = far_panels._Tasks(1), threading.Semaphore(0)

    def take(most, limit):
        with tasks.one_more(most, limit):
            inside.release()

    with tasks.one_more(2, Limit()):
        with tasks.one_more(2, Limit()):
            for most in (1, 2):
                limit = Asked()
                threading.Thread(target=take, args=(most, limit), daemon=True).start()
                assert limit.asked.wait(PATIENCE)
                with tasks._changed:
                    pass  # it gave the lock back, so it waits
        assert inside.acquire(timeout=10.0)  # the second has the place of the task that ended
    assert inside.acquire(timeout=PATIENCE)
