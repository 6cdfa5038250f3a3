"""Jobs on threads and on a cluster: the largest first, in bounded memory, ended together."""

import threading
import time

import pytest

from bigspec.passes import DeadlinePassed, Job, find_executor, map_jobs
from bigspec.passes.executor import ThreadExecutor
from tests.workers import local_cluster


@pytest.fixture
def two_threads():
    executor = ThreadExecutor()
    executor.tasks = 2
    return executor


def collected(function, jobs, executor, **options):
    results = []
    map_jobs(function, jobs, executor, on_result=lambda *pair: results.append(pair), **options)
    return results


def double(task, limit):
    return 2 * task


def test_every_job_once_whatever_the_order(two_threads):
    jobs = [Job(k, float(k % 5), 1) for k in range(40)]
    results = collected(double, jobs, two_threads, memory=100)
    assert sorted(results) == [(k, 2 * k) for k in range(40)]


def test_the_largest_begin_first(two_threads):
    begun = []
    two_threads.tasks = 1
    jobs = [Job(k, float(work), 1) for k, work in enumerate((3, 9, 1, 5))]
    collected(lambda task, limit: begun.append(task), jobs, two_threads, memory=10)
    assert begun == [1, 3, 0, 2]


def test_no_more_memory_at_once_than_given_and_one_that_is_too_large_runs_alone(two_threads):
    two_threads.tasks = 4
    held, most, lock = [], [], threading.Lock()

    def work(size, limit):
        with lock:
            held.append(size)
            most.append(list(held))
        time.sleep(0.005)  # so that others would overlap if they could
        with lock:
            held.remove(size)

    sizes = [6, 5, 5, 4, 3, 3, 2, 1, 12]
    collected(work, [Job(s, float(s), s) for s in sizes], two_threads, memory=10)
    assert all(sum(several) <= 10 or several == [12] for several in most)
    assert max(map(len, most)) > 1


def test_an_error_ends_the_others(two_threads):
    def work(task, limit):
        if task == 0:
            msg = "zero"
            raise ValueError(msg)
        while True:
            limit.check()

    with pytest.raises(ValueError, match="zero"):
        collected(work, [Job(0, 1.0, 1), Job(1, 2.0, 1), Job(2, 0.0, 1)], two_threads, memory=9)


def test_what_the_receiver_raises_ends_the_others(two_threads):
    def stop(task, result):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        map_jobs(double, [Job(k, 1.0, 1) for k in range(9)], two_threads, memory=9, on_result=stop)


def test_the_deadline_ends_jobs_that_look(two_threads):
    def work(task, limit):
        while True:
            limit.check()

    with pytest.raises(DeadlinePassed):
        collected(work, [Job(0, 1.0, 1)], two_threads, memory=9, deadline=time.monotonic() + 0.01)


def test_on_the_workers_of_a_cluster(client):
    executor = find_executor(False)
    jobs = [Job(k, 1.0, 1) for k in range(6)]
    assert sorted(collected(double, jobs, executor, memory=2)) == [(k, 2 * k) for k in range(6)]


def die_once(place, limit):
    import os
    from pathlib import Path

    mark = Path(place)
    if not mark.exists():
        mark.touch()
        os._exit(1)
    return "done"


def test_a_worker_that_dies_of_a_job(tmp_path):
    from distributed import Client

    with local_cluster(n_workers=1) as own, Client(own):
        jobs = [Job(str(tmp_path / "mark"), 1.0, 1)]
        results = collected(die_once, jobs, find_executor(False), memory=2)
    assert [result for _, result in results] == ["done"]
