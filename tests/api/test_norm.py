"""`bigspec.norm` and `bigspec.plan`: options, budgets, warm starts, what is returned."""

import json
import math

import numpy as np
import pytest
import scipy.sparse as sp
import zarr

import bigspec
from bigspec.errors import ArgumentError, MemoryLimitError, MissingSourceError
from bigspec.passes import find_executor
from bigspec.run.plan import Wishes
from bigspec.run.planner import make_plan
from bigspec.watch import Observer
from tests.matrices import Chunked, contains, decaying, gapped

ALGORITHMS = ["lanczos", "power", "gram"]


@pytest.fixture(scope="module")
def matrix():
    return gapped(400, 250)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("rtol", [1e-2, 1e-3, 1e-6])
@pytest.mark.parametrize("complex_", [False, True])
def test_interval_holds_the_norm_and_a_vector_attains_the_value(algorithm, rtol, complex_):
    A = gapped(400, 250, complex_=complex_)
    est = bigspec.norm(A, algorithm=algorithm, rtol=rtol, seed=7)
    assert est.converged
    assert est.upper / est.lower - 1 <= rtol
    assert contains(est, 1.0)
    assert np.linalg.norm(est.right) == pytest.approx(1.0, rel=1e-13)
    assert np.linalg.norm(A @ est.right) >= est.value * (1 - 1e-13)
    assert float(est) == est.value == est.lower
    low, high = est.stable_rank
    assert low <= np.linalg.norm(A) ** 2 <= high
    assert est.frobenius == pytest.approx(np.linalg.norm(A), rel=1e-13)


@pytest.mark.parametrize("form", [np.asarray, sp.csc_array, sp.csr_array])
def test_a_wide_matrix_gives_both_vectors(matrix, form):
    A = matrix.T.copy()
    est = bigspec.norm(form(A), algorithm="lanczos", rtol=1e-6)
    assert est.layout["orientation"] == "columns"
    for vector, image in ((est.left, A.T), (est.right, A)):
        assert np.linalg.norm(vector) == pytest.approx(1.0, rel=1e-13)
        assert np.linalg.norm(image @ vector) >= est.value * (1 - 1e-13)
    warm = bigspec.norm(form(A), algorithm="lanczos", rtol=1e-6, start=est)
    assert warm.passes < est.passes


def test_the_right_vector_of_a_wide_store_takes_one_more_pass_and_is_asked_for(matrix, tmp_path):
    A = Chunked.of(matrix.T.copy(), (matrix.shape[1], 7))
    plain = bigspec.norm(A, seed=1)
    assert plain.right is None
    assert set(A.log.reads.values()) == {plain.passes}
    est = bigspec.norm(A, seed=1, right=True)
    assert set(A.log.reads.values()) == {2 * plain.passes + 1}
    assert est.bytes_read == plain.bytes_read + A.nbytes
    assert (est.lower, est.upper, est.passes) == (plain.lower, plain.upper, plain.passes)
    assert np.linalg.norm(A.array @ est.right) >= est.value * (1 - 1e-13)
    np.save(tmp_path / "A.npy", A.array)
    assert bigspec.norm(tmp_path / "A.npy").right is None  # a memory map


def test_same_seed_same_bits_and_fresh_entropy_by_default(matrix):
    first, again = (bigspec.norm(matrix, algorithm="lanczos", seed=5) for _ in range(2))
    assert (first.lower, first.upper) == (again.lower, again.upper)
    fresh, other = (bigspec.norm(matrix, algorithm="lanczos") for _ in range(2))
    assert fresh.seed != other.seed
    repeated = bigspec.norm(matrix, algorithm="lanczos", seed=fresh.seed)
    assert (repeated.lower, repeated.upper) == (fresh.lower, fresh.upper)


def test_max_passes_returns_the_honest_interval_and_a_guess(matrix):
    est = bigspec.norm(matrix, algorithm="lanczos", rtol=1e-12, max_passes=3, block_size=4)
    assert not est.converged
    assert est.passes == 3
    assert contains(est, 1.0)
    assert est.status.startswith("Stopped by max_passes=3 after 3 passes at relative width")
    assert "At this rate it needs about" in est.status


def test_time_limit_before_the_first_pass_says_that_nothing_is_known():
    A = Chunked.of(decaying(90, 40), (1, 40))
    est = bigspec.norm(A, algorithm="lanczos", time_limit=1e-9)
    assert (est.lower, est.upper, est.passes) == (0.0, math.inf, 0)
    assert "before the first pass was complete" in est.status
    assert not est.converged
    assert json.loads(est.to_json())["upper"] is None


def test_interval_of_every_pass_is_kept_and_only_narrows(matrix):
    est = bigspec.norm(matrix, algorithm="lanczos", rtol=1e-8, block_size=4)
    lowers = [record.lower for record in est.history]
    uppers = [record.upper for record in est.history]
    assert lowers == sorted(lowers)
    assert uppers == sorted(uppers, reverse=True)
    assert (est.lower, est.upper) == (lowers[-1], uppers[-1])
    assert [record.number for record in est.history] == list(range(1, est.passes + 1))
    assert all(record.bytes_read == matrix.nbytes for record in est.history)


def test_basis_that_does_not_fit_is_dropped_and_the_interval_still_holds():
    from bigspec.algorithms import Lanczos
    from bigspec.panels.choose_layout import choose_layout
    from bigspec.passes import Pass
    from bigspec.run import Budget, solve

    A = gapped(600, 400)
    M = bigspec.open_matrix(A)
    executor = find_executor(True)
    layout = choose_layout(M, 4, blocks=6, limit=1 << 30, tasks=2, local=True)
    results = {}
    for blocks in (0, 3, 1000):
        algorithm = Lanczos(4, basis_bytes=blocks * 400 * 4 * 8)
        out = solve(
            Pass(M, layout, executor),
            algorithm,
            Budget(1e-7, 40),
            entropy=1,
            failure_probability=1e-6,
        )
        assert contains(out.interval, 1.0)
        assert out.converged
        results[blocks] = out
    assert results[0].vector is None
    assert results[1000].vector is not None
    # Section 6: dropping orthogonality costs at most a pass or so.
    assert len(results[0].history) <= len(results[1000].history) + 2
    assert len(results[3].history) <= len(results[1000].history) + 2


@pytest.mark.parametrize("algorithm", ["lanczos", "power"])
def test_warm_start_answers_in_one_pass_after_a_small_change(algorithm, tmp_path):
    A = decaying(400, 250, 0.5)
    old = bigspec.norm(A, algorithm="lanczos", rtol=1e-8, seed=1)
    B = A + 1e-5 * np.random.default_rng(3).standard_normal(A.shape) / 40
    sigma = np.linalg.norm(B, 2)
    cold = bigspec.norm(B, algorithm=algorithm, rtol=1e-2, seed=2)
    np.savez(tmp_path / "v.npz", right=old.right)
    np.save(tmp_path / "v.npy", old.right)
    for start in (old, old.right, old.right[:, None], tmp_path / "v.npz", tmp_path / "v.npy"):
        warm = bigspec.norm(B, algorithm=algorithm, rtol=1e-2, start=start, seed=3)
        assert contains(warm, sigma)
        assert warm.passes < cold.passes


def test_old_seed_with_an_old_estimate_is_refused(matrix):
    old = bigspec.norm(matrix, algorithm="lanczos", seed=5)
    with pytest.raises(ArgumentError, match="is the seed of the run given as start"):
        bigspec.norm(matrix, start=old, seed=5)


def test_pickled_start_is_not_unpickled(tmp_path, matrix):
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "evil.npz", right=np.array([{"a": 1}], dtype=object))
    for name in ("evil.npy", "evil.npz"):
        with pytest.raises(ArgumentError, match="start: cannot read"):
            bigspec.norm(matrix, start=tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": 0}, "rtol: expected 1e-15 <= rtol < 1, got 0"),
        ({"rtol": 1.5}, "rtol: expected"),
        ({"rtol": math.nan}, "rtol: expected"),
        ({"rtol": "x"}, "rtol: expected"),
        ({"failure_probability": "x"}, "failure_probability: expected"),
        ({"algorithm": "gram", "block_size": 4}, "block_size: expected none with algorithm='gram'"),
        ({"failure_probability": 0}, "failure_probability: expected 1e-300 <= p < 1, got 0"),
        ({"failure_probability": 1.0}, "failure_probability: expected"),
        ({"algorithm": "qr"}, "algorithm: expected one of auto, lanczos, power, gram, got 'qr'"),
        ({"block_size": 0}, "block_size: expected at least 1, got 0"),
        ({"block_size": 2.5}, "block_size: expected an integer, got 2.5"),
        ({"max_passes": 0}, "max_passes: expected at least 1, got 0"),
        ({"time_limit": -1}, "time_limit: expected positive seconds"),
        ({"time_limit": "soon"}, "time_limit: expected positive seconds or a text such as '30min'"),
        ({"memory_limit": "much"}, "memory_limit: expected bytes or a text such as '4GiB'"),
        ({"memory_limit": 0}, "memory_limit: expected bytes"),
        ({"seed": -1}, "seed: expected a non-negative integer, got -1"),
        ({"seed": 1.5}, "seed: expected an integer, got 1.5"),
        (
            {"start": np.ones(3)},
            "start: the old vectors have length 3, .* needs right vectors of length 250",
        ),
        ({"start": np.full(250, np.nan)}, "start: expected finite numbers"),
        ({"start": np.ones(250, complex)}, "start: the old vectors are complex"),
    ],
)
def test_argument_out_of_range_is_named_before_anything_is_read(matrix, options, message):
    counted = Chunked.of(matrix, (50, 250))
    with pytest.raises(ArgumentError, match=message.replace("(", r"\(")):
        bigspec.norm(counted, **options)
    assert counted.log.count == 0


def test_missing_start_file_is_named(matrix):
    with pytest.raises(MissingSourceError, match=r"start: expected .* 'nowhere.npz'"):
        bigspec.norm(matrix, start="nowhere.npz")


def test_run_that_cannot_fit_is_refused_before_the_first_byte(matrix):
    counted = Chunked.of(matrix, (400, 250))
    with pytest.raises(MemoryLimitError, match="memory_limit: expected at least"):
        bigspec.norm(counted, memory_limit="1MB")
    assert counted.log.count == 0


def test_two_reads_a_pass_are_planned_said_and_right():
    A = decaying(700, 700, 0.5)
    matrix = Chunked.of(A, (200, 200), transient_nbytes=37 << 20)
    plan = bigspec.plan(matrix, memory_limit="53MB", algorithm="lanczos")
    assert plan.layout.reads_per_pass == 2
    assert "read TWICE" in str(plan)
    assert any("two reads a pass" in choice for choice in plan.choices)
    est = bigspec.norm(matrix, memory_limit="53MB", algorithm="lanczos", rtol=1e-6)
    assert contains(est, 1.0)
    assert est.history[0].bytes_read == 2 * A.nbytes
    assert set(matrix.log.reads.values()) == {2 * est.passes}


def test_plan_reads_nothing_and_is_what_the_run_does(tmp_path):
    store = zarr.create_array(tmp_path / "A.zarr", shape=(700, 600), chunks=(64, 600), dtype="f4")
    store[:] = decaying(700, 600)
    matrix = Chunked.of(decaying(700, 600), (64, 600))
    assert bigspec.plan(matrix).layout.panels >= 1
    assert matrix.log.count == 0
    plan, est = bigspec.plan(tmp_path / "A.zarr"), bigspec.norm(tmp_path / "A.zarr")
    assert plan.algorithm.name == est.algorithm
    assert plan.block_size == est.block_size
    assert plan.layout.to_dict().items() <= est.layout.items()
    assert est.bytes_read == est.passes * plan.bytes_per_pass
    json.dumps(plan.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("shape", "algorithm"),
    [((3000, 100), "gram"), ((100, 3000), "gram"), ((900, 800), "gram"), ((1300, 1300), "lanczos")],
)
def test_auto_takes_gram_where_one_side_is_small(shape, algorithm):
    est = bigspec.norm(decaying(*shape))
    assert est.algorithm == algorithm
    assert any(choice.startswith(algorithm) for choice in est.choices)


def test_block_size_follows_what_the_first_slab_cost(monkeypatch):
    from bigspec.passes import Measurement
    from bigspec.run import planner

    matrix = Chunked.of(decaying(2000, 600), (100, 600))
    monkeypatch.setattr(planner, "MEASURE_FROM", 0)
    cases = [
        (Measurement(100.0, {4: 1, 8: 1.5, 16: 2, 32: 3}, None, 10), 32),
        (Measurement(3.0, {4: 1, 8: 1.5, 16: 2, 32: 6}, None, 10), 16),
        (Measurement(0.0, {4: 1, 8: 3, 16: 9, 32: 30}, None, 10), 4),
    ]
    for measured, expected in cases:
        monkeypatch.setattr(planner, "measure", lambda *_, m=measured: m)
        plan = make_plan(matrix, find_executor(False), Wishes(algorithm="lanczos"))
        assert plan.block_size == expected
        assert any(f"block of {expected}: measured" in choice for choice in plan.choices)
    monkeypatch.undo()
    monkeypatch.setattr(planner, "MEASURE_FROM", 0)
    est = bigspec.norm(matrix, algorithm="lanczos")
    assert est.bytes_read == matrix.nbytes  # the slab is not read again, and all panels stay
    assert contains(est, 1.0)


def test_gram_is_chosen_when_one_pass_costs_less_than_many(monkeypatch):
    from bigspec.passes import Measurement
    from bigspec.run import planner

    matrix = Chunked.of(decaying(2000, 600), (100, 600))
    monkeypatch.setattr(planner, "MEASURE_FROM", 0)
    for gram, expected in ((1.0, "gram"), (1000.0, "lanczos")):
        measured = Measurement(10.0, {16: 1.0}, gram, 10)
        monkeypatch.setattr(planner, "measure", lambda *_, m=measured: m)
        assert make_plan(matrix, find_executor(False), Wishes()).algorithm.name == expected


def test_power_when_three_blocks_do_not_fit_and_two_do():
    matrix = Chunked.of(np.broadcast_to(np.zeros((), "f4"), (10**6, 10**6)), (1, 10**6))
    one = bigspec.plan(matrix, memory_limit="100GiB", pin=False).layout.memory
    plan = bigspec.plan(matrix, memory_limit=one.total // 2)
    assert plan.algorithm.name == "power" or plan.block_size < 16
    assert any("the largest that fits the memory limit" in choice for choice in plan.choices)


def test_observer_hears_the_run_in_order(matrix):
    heard = []

    class Listening(Observer):
        def run_started(self, matrix_name, layout):
            heard.append("start")

        def pass_started(self, number, panels):
            heard.append(f"pass {number}")

        def panels_done(self, done, panels, bytes_read, seconds):
            heard.append(f"panels {done}/{panels}")

        def pass_finished(self, record):
            heard.append(f"end {record.number}")

        def run_finished(self, estimate):
            heard.append("answer")

        def close(self):
            heard.append("close")

    est = bigspec.norm(Chunked.of(matrix, (100, 250)), algorithm="lanczos", progress=Listening())
    assert heard[0] == "start"
    assert heard[-2:] == ["answer", "close"]
    assert [h for h in heard if h.startswith("end")] == [f"end {k + 1}" for k in range(est.passes)]
    total = heard[2].split("/")[1]
    assert f"panels {total}/{total}" in heard


def test_event_of_probability_delta_leaves_only_certain_bounds():
    """A start block orthogonal to x_1: the probabilistic bound fails, and it is noticed."""
    from bigspec.certificate import Bounds, UpperBound
    from bigspec.run import Known

    known = Known()

    def bounds(lower, likely):
        uppers = (
            UpperBound(np.array([100.0]), "Frobenius", True),
            UpperBound(np.array([likely]), "Christoffel", False),
        )
        return Bounds(np.array([lower]), ("Ritz value",), uppers, (), 0.0)

    known = known.updated(bounds(4.0, 5.0), 0)
    assert known.interval.upper_bound == "Christoffel"
    known = known.updated(bounds(9.0, 10.0), 0)
    interval = known.interval
    assert known.failed
    assert (interval.upper_bound, interval.deterministic) == ("Frobenius", True)
    assert interval.lower <= 3.0 <= 10.0 <= interval.upper


def test_tasks_have_one_blas_thread_and_the_callers_are_given_back(matrix):
    from threadpoolctl import threadpool_info

    seen = set()

    class Watching(Chunked):
        def read(self, *where):
            seen.update(i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas")
            return super().read(*where)

    before = threadpool_info()
    for _ in range(5):
        bigspec.norm(Watching.of(matrix, (10, 250)), algorithm="lanczos")
    assert seen == {1}
    assert threadpool_info() == before
