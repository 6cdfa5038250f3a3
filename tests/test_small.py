"""Small runs without ceremony: what is looked up, built, factored and formed, counted."""

import importlib
import importlib.metadata
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import dask
import dask.array
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from dask.callbacks import Callback
from scipy.sparse.linalg import aslinearoperator

import bigspec
from bigspec.algorithms import Lanczos
from bigspec.certificate import comparison
from bigspec.panels.choose_layout import choose_layout
from bigspec.passes import DeadlinePassed, FirstRounds, Hooks, Pass, one_blas_thread
from bigspec.passes import executor as threads
from bigspec.passes.executor import ThreadExecutor
from bigspec.passes.inline import InlineExecutor
from bigspec.run import identity, start
from tests.matrices import Chunked, contains, decaying, largest_singular_value, with_spectrum

scan = importlib.import_module("bigspec.certificate.christoffel")  # a function has its name
A = decaying(300, 200)
SEED = 7


def of(a=A, **options):
    return bigspec.norm(a, **{"seed": SEED, "block_size": 8} | options)


def counted(monkeypatch, module, name):
    """The calls of a function, as they come."""
    calls, function = [], getattr(module, name)

    def count(*args, **options):
        calls.append(args)
        return function(*args, **options)

    monkeypatch.setattr(module, name, count)
    return calls


def passes_over(matrix, executor, **cut):
    layout = choose_layout(matrix, 3, blocks=6, limit=1 << 30, tasks=executor.tasks, local=True)
    return Pass(matrix, replace(layout, **cut), executor)


def test_versions_are_looked_up_once_a_process(monkeypatch):
    identity._versions.cache_clear()
    calls = counted(monkeypatch, identity, "version")
    first, second = of().versions, of().versions
    assert len(calls) == 6
    assert first == second == identity.versions()
    assert first["numpy"] == importlib.metadata.version("numpy")
    first["numpy"] = "another"  # an answer's own
    assert of().versions == second


# --- the calling thread -------------------------------------------------------------------


def on_threads():
    return dask.config.set(num_workers=2)


def test_a_small_matrix_in_memory_is_multiplied_here_without_a_graph(monkeypatch):
    with on_threads():
        expected = of()
    graphs = counted(monkeypatch, threads, "build_round")
    for a in (A, sp.csr_array(A), sp.csc_array(A), np.asfortranarray(A), A.astype("f4")):
        assert of(a).layout["where"] == "the calling thread"
        assert bigspec.plan(a, block_size=8).where == "the calling thread"
    assert bigspec.svds(A, 3, seed=SEED, block_size=8).layout["where"] == "the calling thread"
    assert not graphs
    got = of()
    assert (got.lower, got.upper) == (expected.lower, expected.upper)
    np.testing.assert_array_equal(got.right, expected.right)
    assert expected.layout["where"] == "2 threads of this process"


def test_an_operator_is_called_in_the_calling_thread_and_the_plan_reads_nothing_of_it():
    plan = bigspec.plan(aslinearoperator(np.zeros((3000, 2000))))
    assert (plan.where, plan.bytes_per_pass) == ("the calling thread", 0)
    assert "  pass        one product with it and one with its adjoint\n" in str(plan)
    assert "  matrix      3000 x 2000 float64\n" in str(plan)
    chain = bigspec.open_matrix(aslinearoperator(np.eye(300))) @ np.ones((300, 200))
    with dask.config.set(num_workers=2):
        both = "2 threads of this process and the calling thread"
        assert bigspec.plan(chain).where == both


def test_what_is_not_small_or_not_entries_in_memory_goes_to_dask(tmp_path, monkeypatch):
    zarr.create_array(tmp_path / "A.zarr", data=A)
    mapped = np.lib.format.open_memmap(tmp_path / "A.npy", "w+", dtype=float, shape=A.shape)
    mapped[:] = A
    others = [str(tmp_path / "A.zarr"), mapped, dask.array.from_array(A, (100, 200))]
    others += [np.ones((4000, 1000)), bigspec.open_matrix(A) - bigspec.open_matrix(A[::-1])]
    others += [sp.random_array((2000, 2000), density=0.1, rng=1)]
    for a in others:
        assert bigspec.plan(a, block_size=8).where == ThreadExecutor().name
    graphs = counted(monkeypatch, threads, "build_round")
    assert of(others[0]).layout["where"] == ThreadExecutor().name
    assert graphs


@pytest.mark.parametrize("told", ["scheduler", "num_workers", "pool"])
def test_whoever_configures_dask_gets_that(told, monkeypatch):
    expected, graphs = of(), counted(monkeypatch, threads, "build_round")
    with ThreadPoolExecutor(3) as pool:
        value = {"scheduler": "synchronous", "num_workers": 3, "pool": pool}[told]
        with dask.config.set({told: value}):
            got = of()
    assert "threads of this process" in got.layout["where"]
    assert len(graphs) == got.passes
    assert (got.lower, got.upper) == (expected.lower, expected.upper)


def test_whoever_watches_dask_sees_the_tasks():
    tasks = []
    with Callback(posttask=lambda key, *_: tasks.append(key)):
        assert "threads of this process" in of().layout["where"]
    assert tasks


@pytest.fixture
def pairs():
    """The same pass in the calling thread and on threads: 15 panels in rounds of 4."""
    matrix = Chunked.of(decaying(90, 40), (3, 17))
    with one_blas_thread():
        yield [
            passes_over(matrix, one, panel_cells=2, slab_cells=1, round_panels=4)
            for one in (InlineExecutor(), ThreadExecutor())
        ]


def test_the_tree_and_what_is_told_are_those_of_the_threads(pairs):
    V = np.linalg.qr(np.random.default_rng(5).standard_normal((40, 3)))[0]
    results, told = [], []
    for passes in pairs:
        panels, rounds = [], []
        hooks = Hooks(lambda *args, to=panels: to.append(args[:3]), rounds.append)
        results.append((passes.run(V, hooks=hooks), passes.forward(V)))
        told.append((panels, [(one.rounds, one.total.Z.tobytes()) for one in rounds]))
        assert [one.rounds for one in rounds] == [1, 2, 3, 4]
        again = passes.run(V, done=rounds[1], hooks=Hooks())
        np.testing.assert_array_equal(again.Z, results[-1][0].Z)
    assert told[0] == told[1]
    (here, rows), (there, others) = results
    np.testing.assert_array_equal(here.Z, there.Z)
    np.testing.assert_array_equal(here.gram, there.gram)
    np.testing.assert_array_equal(here.tokens, there.tokens)
    np.testing.assert_array_equal(rows.Y, others.Y)
    assert here.facts == there.facts


def test_a_deadline_ends_a_pass_in_the_calling_thread_after_the_panel_at_hand(pairs):
    passes, told = pairs[0], []

    def later(done, *_):
        told.append(done)
        if done == 5:
            clock[0] = True

    clock = [False]
    deadline = time.monotonic() + 1e6
    with pytest.MonkeyPatch.context() as patch:
        real = time.monotonic
        patch.setattr(time, "monotonic", lambda: real() + 2e6 * clock[0])
        with pytest.raises(DeadlinePassed):
            passes.run(np.eye(40, 3), hooks=Hooks(later, deadline=deadline))
    assert told == [1, 2, 3, 4, 5]


def test_an_interrupt_leaves_the_pass_at_once(pairs):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pairs[0].run(np.eye(40, 3), done=FirstRounds(), hooks=Hooks(interrupt))


# --- old Ritz vectors -----------------------------------------------------------------------


def test_old_ritz_vectors_are_formed_when_somebody_asks_and_once(monkeypatch):
    calls = counted(monkeypatch, start, "leading_vectors")
    estimate = of()
    text = estimate.summary() + estimate.to_json() + repr(estimate)
    assert not calls
    assert "ritz_vectors" not in text
    vectors = estimate.ritz_vectors
    assert vectors.shape == (200, 4)
    np.testing.assert_array_equal(vectors[:, 0], estimate.right)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(estimate)).ritz_vectors, vectors)
    assert replace(estimate, lower=0.0).ritz_vectors is vectors
    assert estimate.ritz_vectors is vectors
    assert len(calls) == 1
    other = of()
    assert pickle.loads(pickle.dumps(other)).ritz_vectors is not None  # formed to travel
    assert of(start=other, seed=8).start_columns == 4
    assert len(calls) == 2


def test_old_ritz_vectors_are_formed_at_once_where_they_would_keep_much_alive(monkeypatch):
    expected = of().ritz_vectors
    monkeypatch.setattr(start, "KEPT_BYTES", A.nbytes // 100)
    calls = counted(monkeypatch, start, "leading_vectors")
    estimate = of()
    assert len(calls) == 1
    np.testing.assert_array_equal(estimate.ritz_vectors, expected)


# --- the certificate ------------------------------------------------------------------------


def test_a_pass_of_a_certificate_evaluates_the_christoffel_function_a_few_times(monkeypatch):
    values = counted(monkeypatch, scan, "christoffel")
    norms = counted(monkeypatch, scan, "_norm2")
    factors = counted(monkeypatch, np.linalg, "eigh")
    matrix = np.random.default_rng(0).standard_normal((600, 600))
    estimate = bigspec.norm(matrix, seed=1, algorithm="lanczos")
    assert contains(estimate, largest_singular_value(matrix))
    assert estimate.passes >= 8
    # Before: 28 a pass, each of up to 17 points.
    assert len(values) <= 3 * estimate.passes
    assert sum(len(shift) for _, shift, _ in values) <= 3 * estimate.passes
    assert len(norms) <= 16 * estimate.passes
    assert len(factors) <= 3 * estimate.passes + 3  # Ritz pairs, half steps of two sizes


def brute(relation, q, drop, shifts):
    above = np.flatnonzero(scan.christoffel(relation, shifts, drop) >= q)
    return int(above[0]) if above.size else len(shifts)


def some_relations():
    """After 1 to 4 passes: real and complex, with two blocks, and with margins that rule."""
    for number, complex_ in enumerate((False, True)):
        matrix = with_spectrum(60, 60, np.linspace(1, 0.2, 60), seed=number, complex_=complex_)
        for b in (4, 6):
            passes, algorithm = (
                passes_over(bigspec.open_matrix(matrix), InlineExecutor()),
                Lanczos(b, 1 << 30),
            )
            state = algorithm.init(passes, 3, None)
            for _ in range(4):
                relation = state.relation
                yield relation
                yield replace(relation, eps=1e-3 * relation.theta[0])
                yield replace(relation, orthonormal=False)
                yield replace(relation, start_defect=0.1)
                state = algorithm.step(passes, state)


@pytest.mark.parametrize("entries", [comparison.ENTRIES, 64])  # small: no products for all points
def test_comparisons_are_those_of_the_values(entries, monkeypatch):
    monkeypatch.setattr(comparison, "ENTRIES", entries)
    asked = told = 0
    for relation in some_relations():
        for drop in range(3):
            shifts = relation.theta[0] * 2.0 ** np.linspace(8, -20, 40)
            values = scan.christoffel(relation, shifts, drop)
            for q in (1e-6, 1e-3, 0.3, 3.0, float(values[20]), float(np.nextafter(values[7], 9e9))):
                calls = []

                def value(some, relation=relation, drop=drop, calls=calls):
                    calls.append(some)
                    return scan.christoffel(relation, some, drop)

                got = comparison.first_above(relation, q, drop, shifts, value)
                assert got == brute(relation, q, drop, shifts)
                if relation.eps < 1e-6 and relation.start_defect < 1e-6:
                    told, asked = told + min(got + 1, len(shifts)), asked + sum(map(len, calls))
    assert asked < 0.1 * told


def test_a_value_at_the_threshold_is_evaluated():
    relation = next(some_relations())
    shift = np.array([0.3 * relation.theta[0]])
    q = float(scan.christoffel(relation, shift)[0])
    calls = []

    def value(some):
        calls.append(some)
        return scan.christoffel(relation, some)

    assert comparison.first_above(relation, q, 0, shift, value) == 0
    assert comparison.first_above(relation, float(np.nextafter(q, 1e9)), 0, shift, value) == 1
    assert len(calls) == 2
    assert comparison.first_above(relation, 1.01 * q, 0, shift, value) == 1
    assert comparison.first_above(relation, 0.99 * q, 0, shift, value) == 0
    assert len(calls) == 2


def test_bounds_of_no_use_are_infinite_and_the_others_stay():
    useless = 0
    for relation in some_relations():
        for drop in (1, 2):
            q, limit = 0.1, float(relation.theta[drop - 1])
            whole = scan.christoffel_bound(relation, q, drop)
            got = scan.christoffel_bound(relation, q, drop, useless=limit)
            assert got == whole or (got == np.inf and whole >= limit)
            useless += got == np.inf
    assert useless > 10
