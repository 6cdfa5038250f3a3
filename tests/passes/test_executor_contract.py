"""What every executor keeps to: a new one joins with a row of `EXECUTORS`."""

import random
from contextlib import contextmanager, nullcontext

import dask
import numpy as np
import pytest
import zarr

import bigspec
from bigspec.kernels.partials import merge
from bigspec.panels.context import run_panel
from bigspec.panels.fused import FusedContext
from bigspec.passes import DeadlinePassed, Hooks, find_executor, one_blas_thread
from bigspec.passes.executor import ThreadExecutor
from bigspec.passes.inline import InlineExecutor
from tests.matrices import decaying
from tests.passes.test_passes import block, passes_over

V = block(40)
PANELS, ROUNDS = 15, 4  # 30 rows of chunks in panels of two; the last round is not full


class Shuffled(ThreadExecutor):
    """Runs the tasks of each graph one by one in a random topological order."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def sum_rounds(self, *args, **options):
        def get(graph, keys, **_):
            done, order = {}, list(graph)
            random.Random(self.seed).shuffle(order)
            graph = {key: dask._task_spec.convert_legacy_graph(graph)[key] for key in graph}
            while order:
                for key in list(order):
                    if graph[key].dependencies <= done.keys():
                        done[key] = graph[key](
                            {name: done[name] for name in graph[key].dependencies}
                        )
                        order.remove(key)
            return [done[key] for key in keys]

        with dask.config.set(scheduler=get):
            return super().sum_rounds(*args, **options)


@contextmanager
def configured(**options):
    with dask.config.set(**options):
        yield ThreadExecutor()


@contextmanager
def shuffled(seed):
    yield Shuffled(seed)


@contextmanager
def on_cluster(cluster):
    from distributed import Client

    with Client(cluster):
        executor = find_executor(False)
        assert not executor.local
        yield executor


EXECUTORS = {
    "one thread": lambda _: configured(num_workers=1),
    "two threads": lambda _: configured(num_workers=2),
    "five threads": lambda _: configured(num_workers=5),
    "synchronous": lambda _: configured(scheduler="synchronous"),
    "calling thread": lambda _: nullcontext(InlineExecutor()),
    "any order": lambda _: shuffled(1),
    "another order": lambda _: shuffled(2),
    "cluster": lambda request: on_cluster(request.getfixturevalue("cluster")),
}


@pytest.fixture(scope="module", params=EXECUTORS)
def executor(request):
    with one_blas_thread(), EXECUTORS[request.param](request) as executor:
        yield executor


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    path = tmp_path_factory.mktemp("executors") / "A.zarr"
    store = zarr.create_array(path, shape=(90, 40), chunks=(3, 17), dtype="f4")
    store[:] = decaying(90, 40).astype("f4")
    return bigspec.open_matrix(path)


@pytest.fixture
def passes(matrix, executor):
    return passes_over(matrix, pieces=2, rounds=ROUNDS, executor=executor)


def by_hand(passes):
    """The sum of all panels in the fixed tree: within a round, then round after round."""
    layout = passes.layout
    context = FusedContext(passes.matrix, layout, V, None, True)
    total = None
    for first in range(0, layout.panels, layout.round_panels):
        last = min(first + layout.round_panels, layout.panels)
        parts = [run_panel(context, index, None) for index in range(first, last)]
        level = 0
        while len(parts) > 1 or level == 0:
            cuts = range(0, len(parts), layout.fan_in)
            parts, level = [merge(parts[cut : cut + layout.fan_in]) for cut in cuts], level + 1
        total = parts[0] if total is None else merge([total, parts[0]])
    return total


def test_the_bits_are_those_of_the_fixed_tree(passes):
    assert passes.layout.panels == PANELS
    result, expected = passes.run(V), by_hand(passes)
    np.testing.assert_array_equal(result.Z, expected.Z)
    np.testing.assert_array_equal(result.gram, expected.gram)
    np.testing.assert_array_equal(result.tokens, expected.tokens)
    assert result.facts.frobenius_squared == expected.facts.squares
    assert result.cost.bytes_read == passes.matrix.nbytes
    later = passes.run(V, exponent=0, tokens=result.tokens)
    assert later.facts is None
    np.testing.assert_array_equal(later.Z, result.Z)


def test_every_panel_and_every_round_is_told_once(passes):
    panels, rounds = [], []
    passes.run(V, hooks=Hooks(lambda done, *_: panels.append(done), rounds.append))
    assert panels[-1] == PANELS
    assert panels == sorted(set(panels))
    told = [one.rounds for one in rounds]
    # A scheduler that a user configured may know no callbacks: then the rounds in flight are told.
    assert told in (list(range(1, passes.layout.rounds + 1)), [passes.layout.rounds])


def test_goes_on_after_any_round_to_the_same_bits(passes):
    rounds, panels = [], []
    expected = passes.run(V, hooks=Hooks(on_rounds=rounds.append))
    for one in rounds:
        panels.clear()
        again = passes.run(V, done=one, hooks=Hooks(lambda done, *_: panels.append(done)))
        np.testing.assert_array_equal(again.Z, expected.Z)
        rest = range(min(one.rounds * ROUNDS, PANELS) + 1, PANELS + 1)
        assert set(panels) <= set(rest)


def test_a_deadline_in_the_past_ends_the_pass(passes):
    with pytest.raises(DeadlinePassed):
        passes.run(V, hooks=Hooks(deadline=0.0))
    np.testing.assert_array_equal(passes.run(V).Z, by_hand(passes).Z)  # nothing is left behind


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_from_a_hook_ends_the_pass(passes, error):
    heard = []

    def fail(one):
        heard.append(one.rounds)
        raise error

    with pytest.raises(error):
        passes.run(V, hooks=Hooks(on_rounds=fail))
    assert heard in ([1], [passes.layout.rounds])
    np.testing.assert_array_equal(passes.run(V).Z, by_hand(passes).Z)


def test_forward_rows_come_in_order(passes):
    A = passes.matrix.read(slice(0, 90), slice(0, 40), FusedContext(*[None] * 5).buffers)
    np.testing.assert_allclose(passes.forward(V).Y, A.astype(float) @ V, atol=1e-12)
