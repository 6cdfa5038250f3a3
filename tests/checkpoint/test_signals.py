"""SIGTERM and Ctrl-C in the middle of a pass: saved, gone in time, continued to the same bits."""

import signal
import threading
import time
from contextlib import contextmanager

import numpy as np
import psutil
import pytest
import zarr

import bigspec
from bigspec.checkpoint import Checkpoint
from bigspec.passes.blas import _controller
from bigspec.watch import Observer
from tests.checkpoint.serving import ASKED, CALL, SMALL, Run, Served
from tests.matrices import decaying

GRACE = 20  # seconds; what bigspec promises, and less than any scheduler gives
MIDDLE = 100  # of 320 chunks in 5 passes: inside the second one


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    store = zarr.create_array(folder / "A.zarr", shape=(320, 60), chunks=(5, 60), dtype="f4")
    store[:] = decaying(320, 60, 0.5)
    with Served(folder) as served:
        yield served


@pytest.fixture(scope="module")
def whole(served):
    """The run that nothing happened to."""
    return Run(served.matrix, *ASKED).end().answer


@contextmanager
def held_in_the_middle(served, *args):
    """Yield a run whose chunks are not answered from `MIDDLE` on, until this is left."""
    with served.holding(MIDDLE) as reached:
        run = Run(served.matrix, *ASKED, *args)
        try:
            assert reached.wait(60)
            yield run
        finally:
            run.kill()


def assert_continues(served, whole, place):
    before = served.chunks
    again = Run(served.matrix, *ASKED, "--checkpoint", place).end()
    assert again.status == 0
    for end in ("lower", "upper"):
        assert again.answer[end] == whole[end]
    assert 320 - MIDDLE < served.chunks - before < 320  # the second pass was begun, the first done


@pytest.mark.parametrize(
    ("number", "word", "group", "where"),
    [
        (signal.SIGTERM, "terminated", False, []),
        (signal.SIGINT, "interrupted", True, []),
        (signal.SIGTERM, "terminated", False, ["--workers", 2]),
    ],
    ids=["SIGTERM, threads", "Ctrl-C, threads", "SIGTERM, workers"],
)
def test_a_signal_saves_the_run_though_its_panels_hang(
    number, word, group, where, served, whole, tmp_path
):
    place = tmp_path / "run"
    with held_in_the_middle(served, "--checkpoint", place, *where) as run:
        children = psutil.Process(run.process.pid).children(recursive=True)
        assert bool(children) is bool(where)
        run.signal(number, group=group)
        run.end(GRACE)
        assert run.status == 75
        assert run.said.endswith(
            f"bigspec: error: {word}. Everything up to here is saved in {place}: "
            "run the same command again to go on.\n"
        )
        assert psutil.wait_procs(children, timeout=5)[1] == []
    assert_continues(served, whole, place)


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_without_a_checkpoint_the_interval_of_the_first_pass_is_the_result(
    number, status, word, served, whole, tmp_path
):
    with held_in_the_middle(served, "--history", tmp_path / "past.db") as run:
        run.signal(number)
        run.end(GRACE)
    assert run.status == status
    assert run.said.endswith(f"bigspec: error: {word}; the interval so far is the result\n")
    first = whole["history"][0]
    assert (run.answer["lower"], run.answer["upper"]) == (first["lower"], first["upper"])
    assert (run.answer["stopped_by"], run.answer["converged"]) == ("interrupted", False)
    assert run.answer["status"].startswith("Stopped by an interrupt after 1 pass at ")
    (row,) = bigspec.History(tmp_path / "past.db").rows()
    assert (row.exit_status, row.accepted, row.lower) == (status, False, first["lower"])


def test_a_run_on_a_foreign_cluster_leaves_no_tasks_there(served, whole, tmp_path, cluster, client):
    def tasks():
        return [
            key
            for key in client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))
            if "bigspec" in str(key) or "Context" in str(key)
        ]

    place = tmp_path / "run"
    where = ["--checkpoint", place, "--scheduler", cluster.scheduler_address]
    with held_in_the_middle(served, *where) as run:
        assert tasks()
        run.signal(signal.SIGTERM)
        run.end(GRACE)
        assert run.status == 75
        assert tasks() == []
    assert_continues(served, whole, place)


SAVES = (
    "import os, signal, bigspec.checkpoint as held; flush = held.Writer.flush; "
    "held.Writer.flush = lambda *args, **options: ({kills}, flush(*args, **options))[1]; "
)
SAYS = (
    "import os, signal, bigspec.cli.statuses as held; say = held.say; "
    "held.say = lambda *args, **options: (say(*args, **options), {kills})[0]; "
)
ENDS = "import atexit, os, signal; atexit.register(lambda: {kills}); "
"""Before the last save; after the last word; when Python has called all else that it calls."""


def again(number):
    return f"os.kill(os.getpid(), {int(number)})"


def ended_by(served, place, first, patch):
    with served.holding(MIDDLE) as reached:
        run = Run(served.matrix, *ASKED, "--checkpoint", place, patch=patch)
        assert reached.wait(60)
        run.signal(first)
        return run.end(GRACE)


@pytest.mark.parametrize(
    ("first", "second", "moment"),
    [
        (signal.SIGTERM, signal.SIGTERM, SAVES),
        (signal.SIGINT, signal.SIGTERM, SAVES),
        (signal.SIGINT, signal.SIGINT, SAVES),
        (signal.SIGTERM, signal.SIGINT, SAYS),
        (signal.SIGTERM, signal.SIGTERM, ENDS),
        (signal.SIGINT, signal.SIGINT, ENDS),
    ],
)
def test_a_second_signal_changes_nothing(first, second, moment, served, whole, tmp_path):
    place = tmp_path / "run"
    run = ended_by(served, place, first, moment.format(kills=again(second)))
    assert run.status == 75
    assert run.said.endswith(": run the same command again to go on.\n")
    if moment == SAVES:
        assert_continues(served, whole, place)


def test_a_third_signal_kills(served, tmp_path):
    kills = f"{again(signal.SIGTERM)}, {again(signal.SIGINT)}"
    run = ended_by(served, tmp_path / "run", signal.SIGTERM, SAVES.format(kills=kills))
    assert run.status == -signal.SIGINT


# In Python -----------------------------------------------------------------------------------


@pytest.fixture
def small_panels(monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(f"bigspec.panels.choose_layout.{name}", value)


class Interrupting(Observer):
    """Ctrl-C after so many calls, or in a pass, as a notebook's stop button sends it."""

    def __init__(self, calls=0, pass_=0):
        self.calls, self.pass_ = calls, pass_

    def pass_started(self, number, _):
        if number == self.pass_:
            raise KeyboardInterrupt

    def panels_done(self, *_):
        self.calls -= 1
        if self.calls == 0:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("small_panels")
@pytest.mark.parametrize("on", ["threads", "cluster"])
def test_an_interrupted_call_names_its_checkpoint_and_leaves_no_tasks(
    on, served, whole, tmp_path, request
):
    scheduler = None
    if on == "cluster":
        request.getfixturevalue("client")
        scheduler = request.getfixturevalue("cluster").scheduler
    place = Checkpoint(tmp_path / "run", interval=0.0)
    with pytest.raises(KeyboardInterrupt) as caught:
        bigspec.norm(served.path, checkpoint=place, progress=Interrupting(20), **CALL)
    assert caught.value.saved == str(place.where)
    if scheduler is not None:  # though the traceback with all its frames is still held, as a
        # notebook holds the last one
        eventually(lambda: not [key for key in scheduler.tasks if "bigspec" in str(key)])
    assert bigspec.show(place.where).rounds or bigspec.show(place.where).passes
    again = bigspec.norm(served.path, checkpoint=place, **CALL)
    assert (again.lower, again.upper) == (whole["lower"], whole["upper"])


@pytest.mark.usefixtures("small_panels")
@pytest.mark.parametrize("door", ["norm", "svds"])
def test_an_interrupted_call_has_its_interval_on_the_exception(door, served, whole):
    call, k = (bigspec.norm, []) if door == "norm" else (bigspec.svds, [2])
    options = {name: value for name, value in CALL.items() if k == [] or name != "algorithm"}
    with pytest.raises(KeyboardInterrupt) as caught:
        call(served.path, *k, progress=Interrupting(pass_=2), **options)
    known = caught.value.estimate
    assert (known.stopped_by, known.converged, known.passes) == ("interrupted", False, 1)
    assert known.intervals[0].lower <= whole["upper"]
    assert whole["lower"] <= known.intervals[0].upper
    with pytest.raises(KeyboardInterrupt) as caught:
        call(served.path, *k, progress=Interrupting(pass_=1), **options)
    assert not hasattr(caught.value, "estimate")


def eventually(true):
    """Poll a state of another thread that nothing announces."""
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def blas_threads():
    return [pool["num_threads"] for pool in _controller().info() if pool["user_api"] == "blas"]


@pytest.mark.usefixtures("small_panels")
def test_runs_in_several_threads_do_not_disturb_one_another(served, whole):
    before, results, errors = blas_threads(), [], []
    together = threading.Barrier(3)

    class Together(Observer):
        """Every run is inside its first pass while the others are, too; one has no time for it."""

        def __init__(self):
            self.met = False

        def panels_done(self, *_):
            if not self.met:
                self.met = True
                together.wait(30)

    def run(options):
        try:
            results.append(bigspec.norm(served.path, progress=Together(), **CALL | options))
        except BaseException as error:
            errors.append(error)

    runs = [{}, {}, {}, {"time_limit": 1e-3}]
    threads = [threading.Thread(target=run, args=(options,)) for options in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(result.stopped_by for result in results) == ["converged"] * 3 + ["time"]
    for result in results:
        if result.stopped_by == "converged":
            assert (result.lower, result.upper) == (whole["lower"], whole["upper"])
    assert blas_threads() == before


def norm_in_a_task(path, options):
    import bigspec.panels.choose_layout
    from tests.checkpoint.serving import SMALL as small

    before = {name: getattr(bigspec.panels.choose_layout, name) for name in small}
    vars(bigspec.panels.choose_layout).update(small)
    try:
        estimate = bigspec.norm(path, **options)
    finally:
        vars(bigspec.panels.choose_layout).update(before)
    return estimate.lower, estimate.upper, estimate.layout["where"]


def test_norm_inside_dask_tasks_does_not_wait_for_its_own_slot(served, whole, client):
    """As many as there are threads: without their slots given up, no panel could ever run."""
    futures = [client.submit(norm_in_a_task, served.path, CALL, pure=False) for _ in range(2)]
    for lower, upper, where in client.gather(futures):
        assert (lower, upper) == (whole["lower"], whole["upper"])
        assert "scheduler" in where


@pytest.mark.usefixtures("small_panels")
def test_norm_inside_delayed_on_threads(served, whole):
    import dask

    task = dask.delayed(bigspec.norm)(served.path, **CALL)
    (estimate,) = dask.compute(task, scheduler="threads")
    assert (estimate.lower, estimate.upper) == (whole["lower"], whole["upper"])
    assert np.isfinite(estimate.upper)
