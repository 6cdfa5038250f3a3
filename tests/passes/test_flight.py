"""Running sums on workers: the bits of threads, few fetches, nothing lost with a worker."""

import os
import signal

import numpy as np
import pytest
import zarr

import bigspec
from bigspec.panels.choose_layout import choose_layout
from bigspec.panels.fused import FusedContext
from bigspec.panels.layout import Layout
from bigspec.passes import DeadlinePassed, Hooks, InlineExecutor, find_executor, one_blas_thread
from bigspec.passes.executor import window
from bigspec.passes.flight import STRETCH, stretch
from tests.matrices import decaying
from tests.panels.test_layout import huge
from tests.passes.test_passes import block, passes_over
from tests.workers import local_cluster

V = block(40)
PANELS, ROUND = 30, 3
ROUNDS = PANELS // ROUND


@pytest.fixture(scope="module", autouse=True)
def blas_is_held():
    with one_blas_thread():
        yield


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    path = tmp_path_factory.mktemp("flight") / "A.zarr"
    store = zarr.create_array(path, shape=(180, 40), chunks=(6, 40), dtype="f4")
    store[:] = decaying(180, 40).astype("f4")
    return bigspec.open_matrix(path)


def passes_on(executor, matrix):
    return passes_over(matrix, pieces=1, rounds=ROUND, executor=executor)


@pytest.fixture(scope="module")
def expected(matrix):
    """The pass in the calling thread, and its sums after every round."""
    rounds = []
    result = passes_on(InlineExecutor(), matrix).run(V, hooks=Hooks(on_rounds=rounds.append))
    assert len(rounds) == ROUNDS
    return result, rounds


@pytest.fixture
def large(monkeypatch):
    """A block as large as one that is fetched three times a pass."""
    monkeypatch.setattr("bigspec.passes.flight.FETCHED", 3 * V.nbytes)


@pytest.fixture
def passes(client, matrix):
    return passes_on(find_executor(False), matrix)


def test_large_sums_come_a_few_times_a_pass_with_the_same_bits(large, passes, expected):
    result, rounds = expected
    held, panels = [], []
    here = passes.run(V, hooks=Hooks(lambda done, *_: panels.append(done), held.append))
    np.testing.assert_array_equal(here.Z, result.Z)
    np.testing.assert_array_equal(here.gram, result.gram)
    np.testing.assert_array_equal(here.tokens, result.tokens)
    assert here.facts == result.facts
    assert [one.rounds for one in held] == [4, 8, ROUNDS]
    for one in held:
        np.testing.assert_array_equal(one.total.Z, rounds[one.rounds - 1].total.Z)
    assert panels == sorted(set(panels))
    assert panels[-1] == PANELS


def test_goes_on_from_a_sum_that_was_fetched(large, passes, expected):
    result, rounds = expected
    held = []
    here = passes.run(V, done=rounds[2], hooks=Hooks(on_rounds=held.append))
    np.testing.assert_array_equal(here.Z, result.Z)
    assert [one.rounds for one in held] == [7, ROUNDS]


def test_a_sum_that_is_wanted_is_fetched_at_once(large, passes, expected):
    held, asked = [], []

    def wanted():
        asked.append(None)
        return len(asked) == 2

    here = passes.run(V, hooks=Hooks(on_rounds=held.append, wanted=wanted))
    np.testing.assert_array_equal(here.Z, expected[0].Z)
    assert [one.rounds for one in held] == [2, 6, ROUNDS]
    np.testing.assert_array_equal(held[0].total.Z, expected[1][1].total.Z)


@pytest.mark.parametrize("saves", [True, False])
def test_a_pass_that_is_interrupted_leaves_its_sum_if_someone_saves_it(
    large, passes, expected, saves
):
    held = []

    def interrupt(done, *_):
        if done > 7 * ROUND:  # three rounds after the last fetch
            raise KeyboardInterrupt

    wanted = (lambda: False) if saves else None
    with pytest.raises(KeyboardInterrupt):
        passes.run(V, hooks=Hooks(interrupt, held.append, wanted=wanted))
    told = [one.rounds for one in held]
    assert told[0] == 4
    assert (len(told) == 2 and 4 < told[1] <= 7) if saves else len(told) == 1
    for one in held:
        np.testing.assert_array_equal(one.total.Z, expected[1][one.rounds - 1].total.Z)
        again = passes.run(V, done=one)
        np.testing.assert_array_equal(again.Z, expected[0].Z)


def test_a_deadline_that_passed_ends_it(large, passes, expected):
    with pytest.raises(DeadlinePassed):
        passes.run(V, hooks=Hooks(deadline=0.0, wanted=lambda: False))
    np.testing.assert_array_equal(passes.run(V).Z, expected[0].Z)


def test_a_large_block_travels_in_pieces(large, passes, expected, client, monkeypatch):
    monkeypatch.setattr("bigspec.passes.pieces.LARGE_BLOCK", 1)
    scatter, sent = type(client).scatter, []

    def noting(self, data, **options):
        sent.append(list(data.values()))
        return scatter(self, data, **options)

    monkeypatch.setattr(type(client), "scatter", noting)
    here = passes.run(V)
    np.testing.assert_array_equal(here.Z, expected[0].Z)
    _shell, *pieces = sent[0]
    np.testing.assert_array_equal(np.concatenate(pieces), V)
    assert len(pieces) == 3


def test_the_client_holds_no_more_futures_late_in_a_pass(large, passes, client, monkeypatch):
    monkeypatch.setattr("bigspec.passes.executor.WINDOW", 1)
    monkeypatch.setattr("bigspec.passes.executor.LEAST_WINDOW", 1)
    most = []
    passes.run(V, hooks=Hooks(lambda *_: most.append(len(client.futures))))
    # Two rounds in flight of one sum and a root each, those that wait to be added, and the block.
    assert max(most) <= 4 * (ROUND + 1) + 4
    client.nthreads()  # by then the client's loop has released what it was asked to
    assert not [key for key in client.futures if "bigspec" in str(key)]


def test_a_worker_killed_with_the_running_sum_changes_no_bit(large, matrix, expected):
    """Mostly the base dies with it, on one of two workers: all that came after is sent again."""
    from distributed import Client

    with local_cluster(n_workers=2) as cluster, Client(cluster) as client:
        passes = passes_on(find_executor(False), matrix)
        killed, told = [], []

        def kill(done, *_):
            told.append(done)
            if killed or done < 6 * ROUND:  # the second stretch, which starts from a base
                return
            holders, workers = set(), cluster.scheduler.workers
            while not holders:  # the running sum has been asked for, and will be there
                found = client.who_has().items()
                totals = [who for key, who in found if "-total-" in str(key)]
                holders = {one for who in totals for one in who} & workers.keys()
            for address in holders:
                killed.append(address)
                os.kill(workers[address].pid, signal.SIGKILL)

        here = passes.run(V, hooks=Hooks(kill))
    assert killed
    np.testing.assert_array_equal(here.Z, expected[0].Z)
    assert here.facts == expected[0].facts
    assert told == sorted(set(told))  # what is made again is not told again
    assert told[-1] == PANELS


# How many, of what size ----------------------------------------------------------------------


def layout_for(n, rows):
    return choose_layout(
        huge((rows, n), (1000, n)), 16, blocks=6, limit=8 << 30, tasks=1, local=False
    )


def stretch_for(n, rows, b=16):
    layout = layout_for(n, rows)
    context = FusedContext(
        huge((rows, n), (1000, n)), layout, np.broadcast_to(0.0, (n, b)), 0, False
    )
    return stretch(context), layout


def test_small_sums_are_fetched_after_every_round_and_large_ones_four_times_a_pass():
    every, layout = stretch_for(10**4, 25 * 10**8)
    assert every == 1
    every, layout = stretch_for(10**6, 25 * 10**6)
    assert -(-layout.rounds // every) * 128_000_000 < 1e9
    assert every * layout.round_panels <= STRETCH


@pytest.mark.parametrize(
    ("threads", "panels"),
    [(1, 32), (100, 3200), (375, 12_000), (500, 12_000), (1000, 12_000), (5000, 20_000)],
)
def test_the_window_of_many_threads_is_smaller_for_each(threads, panels):
    layout: Layout = layout_for(10**4, 10**6)
    assert window(layout, threads) == max(2, -(-panels // layout.round_panels))
