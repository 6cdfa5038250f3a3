"""A run that goes on where it stopped gives the bits of one that never stopped."""

import json
import math

import dask
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import bigspec
from bigspec.checkpoint import Checkpoint
from bigspec.checkpoint.codec import INLINE, Codec, array_digest
from bigspec.errors import CheckpointError, MemoryLimitError, ResumeError
from bigspec.run import SAVED_TYPES
from bigspec.watch import Observer
from tests.checkpoint.runs import Stopper
from tests.matrices import Chunked, decaying

SEED = 11
# What is resumed: one row for each kind of state. No basis is kept where `basis` is False.
ROWS = {
    "lanczos": {"algorithm": "lanczos", "block_size": 4},
    "lanczos, three blocks": {"algorithm": "lanczos", "block_size": 4, "basis": False},
    "power": {"algorithm": "power", "block_size": 4},
    "gram": {"algorithm": "gram"},
}
ALL = pytest.mark.parametrize("row", ROWS)


@pytest.fixture(autouse=True)
def many_rounds(monkeypatch):
    """Small panels and rounds, so that a pass over a small matrix has many."""
    monkeypatch.setattr("bigspec.panels.choose_layout.PANEL_BYTES", (1, 1))
    monkeypatch.setattr("bigspec.panels.choose_layout.ROUND_PANELS", 3)
    monkeypatch.setattr("bigspec.panels.choose_layout.READ_TO_RETURN", 1)


@pytest.fixture
def matrix():
    return Chunked.of(decaying(400, 60, 0.5).astype("f4"), (5, 60))


def options(row, monkeypatch, **more):
    chosen = dict(ROWS[row])
    if not chosen.pop("basis", True):
        monkeypatch.setattr("bigspec.panels.layout.Memory.spare", 0)
    return {"seed": SEED, "rtol": 1e-7} | chosen | more


def assert_same_bits(one, other):
    assert (one.lower, one.upper) == (other.lower, other.upper)
    assert [r.upper for r in one.history] == [r.upper for r in other.history]
    assert [r.ritz_values for r in one.history] == [r.ritz_values for r in other.history]
    assert (one.right is None) == (other.right is None)
    if one.right is not None:
        np.testing.assert_array_equal(one.right, other.right)
    assert one.frobenius == other.frobenius


def saved_once(matrix, folder, asked):
    bigspec.norm(matrix, checkpoint=folder / "once", max_passes=1, **asked)
    return folder / "once"


@ALL
@pytest.mark.parametrize("complex_", [False, True], ids=["real", "complex"])
def test_stopped_after_any_pass(row, complex_, tmp_path, monkeypatch):
    A = decaying(200, 60, 0.7, complex_=complex_)
    matrix = Chunked.of(A, (9, 60))
    asked = options(row, monkeypatch, rtol=1e-9)
    whole = bigspec.norm(matrix, **asked)
    for passes in range(1, whole.passes):
        place = tmp_path / str(passes)
        part = bigspec.norm(matrix, checkpoint=place, max_passes=passes, **asked)
        assert part.passes == passes
        assert_same_bits(bigspec.norm(matrix, checkpoint=place, **asked), whole)


@ALL
def test_interrupted_inside_a_pass_goes_on_from_its_rounds(row, matrix, tmp_path, monkeypatch):
    asked = options(row, monkeypatch, pin=False)
    whole = bigspec.norm(matrix, **asked)
    panels = whole.layout["panels"]
    assert whole.layout["rounds"] >= (2 if row == "gram" else 20)
    pieces = bigspec.show(saved_once(matrix, tmp_path, asked)).run["cut"]["panel_pieces"]
    total = panels * whole.passes
    for number, stop in enumerate(range(min(7, total - 1), total, total // 6 + 1)):
        place = Checkpoint(tmp_path / str(number), interval=1e9)
        matrix.log.reads.clear()
        with pytest.raises(KeyboardInterrupt) as caught, dask.config.set(num_workers=1):
            bigspec.norm(matrix, checkpoint=place, progress=Stopper(stop), **asked)
        assert caught.value.saved == str(place.where)
        again = bigspec.norm(matrix, checkpoint=place, **asked)
        assert_same_bits(again, whole)
        # Lost on one thread: the round of 3 that was not complete, and the panel being read.
        reads, lost = sum(matrix.log.reads.values()), 3 * pieces
        assert 80 * whole.passes <= reads <= 80 * whole.passes + lost


def test_interrupted_again_and_again(matrix, tmp_path, monkeypatch):
    asked = options("lanczos", monkeypatch)
    whole = bigspec.norm(matrix, **asked)
    stops = 0
    while True:
        try:
            est = bigspec.norm(matrix, checkpoint=tmp_path / "run", progress=Stopper(31), **asked)
        except KeyboardInterrupt:
            stops += 1
            continue
        break
    assert stops > whole.passes
    assert_same_bits(est, whole)


@ALL
def test_a_finished_run_returns_its_answer_without_reading(row, matrix, tmp_path, monkeypatch):
    asked = options(row, monkeypatch)
    once = bigspec.norm(matrix, checkpoint=tmp_path / "run", **asked)
    matrix.log.reads.clear()
    again = bigspec.norm(matrix, checkpoint=tmp_path / "run", **asked)
    assert not matrix.log.reads
    assert_same_bits(again, once)
    assert (again.status, again.converged, again.seed) == (once.status, once.converged, once.seed)
    assert again.bytes_read == once.bytes_read
    looser = bigspec.norm(matrix, checkpoint=tmp_path / "run", **asked | {"rtol": 0.5})
    assert not matrix.log.reads
    assert looser.lower == once.lower


def test_a_tighter_rtol_goes_on(matrix, tmp_path):
    loose = bigspec.norm(matrix, checkpoint=tmp_path / "run", algorithm="lanczos", rtol=1e-2)
    tight = bigspec.norm(matrix, checkpoint=tmp_path / "run", algorithm="lanczos", rtol=1e-8)
    assert tight.passes > loose.passes
    whole = bigspec.norm(matrix, algorithm="lanczos", rtol=1e-8, seed=loose.seed)
    assert_same_bits(tight, whole)


def test_time_that_is_up_inside_a_pass_is_not_lost(matrix, tmp_path, monkeypatch):
    asked = options("lanczos", monkeypatch)
    whole = bigspec.norm(matrix, **asked)
    now = [0.0]

    class Clock(Observer):
        def panels_done(self, *_):
            now[0] += 1.0

    with monkeypatch.context() as patch, dask.config.set(num_workers=1):
        patch.setattr("bigspec.run.loop.time.monotonic", lambda: now[0])
        patch.setattr("bigspec.panels.limit.time.monotonic", lambda: now[0])
        part = bigspec.norm(
            matrix, checkpoint=tmp_path / "run", time_limit=100, progress=Clock(), **asked
        )
    assert (part.stopped_by, part.passes) == ("time", 1)
    saved = bigspec.show(tmp_path / "run")
    assert saved.rounds > 0
    assert f"pass 2, from round {saved.rounds + 1} of 27" in str(saved)
    assert_same_bits(bigspec.norm(matrix, checkpoint=tmp_path / "run", **asked), whole)


@pytest.mark.parametrize("limit", ["80MiB", "13MiB"])
def test_another_memory_limit_keeps_the_panels(limit, matrix, tmp_path):
    asked = {"algorithm": "power", "block_size": 2, "seed": 1, "rtol": 1e-4}
    whole = bigspec.norm(matrix, memory_limit="40MiB", **asked)
    place = tmp_path / "run"
    bigspec.norm(matrix, memory_limit="40MiB", checkpoint=place, max_passes=1, **asked)
    est = bigspec.norm(matrix, memory_limit=limit, checkpoint=place, **asked)
    assert_same_bits(est, whole)


def test_panels_that_no_longer_fit_are_cut_anew_and_said_so(tmp_path, monkeypatch):
    A = decaying(4000, 60, 0.5)
    matrix = Chunked.of(A, (100, 60))
    asked = {"algorithm": "power", "block_size": 2, "seed": 1, "rtol": 1e-4}
    monkeypatch.setattr("bigspec.panels.choose_layout.PANEL_BYTES", (1 << 20, 1 << 20))
    monkeypatch.setattr("bigspec.panels.choose_layout.SLAB_BYTES", 1 << 20)
    place = tmp_path / "run"
    bigspec.norm(matrix, memory_limit="16MiB", checkpoint=place, max_passes=1, **asked)
    tight = bigspec.plan(matrix, memory_limit="16MiB", algorithm="power", block_size=2)
    least = tight.layout.memory.task - tight.layout.memory.iterates
    est = bigspec.norm(matrix, memory_limit=least, checkpoint=place, **asked)
    assert any("new panels" in choice for choice in est.choices)
    assert est.lower <= 1.0 <= est.upper
    with pytest.raises(MemoryLimitError):
        bigspec.norm(matrix, memory_limit="100KiB", checkpoint=place, **asked | {"rtol": 1e-9})


def test_begun_on_threads_and_finished_on_a_cluster(tmp_path, client, monkeypatch):
    A = decaying(300, 60, 0.5).astype("f4")
    store = zarr.create_array(tmp_path / "A.zarr", shape=A.shape, chunks=(4, 60), dtype="f4")
    store[:] = A
    asked = options("lanczos", monkeypatch)
    path, place = tmp_path / "A.zarr", tmp_path / "run"
    whole = bigspec.norm(path, **asked)
    with client.as_current():
        bigspec.norm(path, checkpoint=place, max_passes=2, **asked)
    monkeypatch.setattr("bigspec.api.norm.find_executor", lambda _: here())
    with pytest.raises(KeyboardInterrupt):
        bigspec.norm(path, checkpoint=place, progress=Stopper(20), **asked)
    monkeypatch.undo()
    est = bigspec.norm(path, checkpoint=place, **asked)
    assert "scheduler" in est.layout["where"]
    assert_same_bits(est, whole)


def here():
    from bigspec.passes.executor import ThreadExecutor

    return ThreadExecutor()


# Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"failure_probability": 1e-3}, "failure_probability was 1e-06, is 0.001"),
        ({"algorithm": "power"}, "algorithm was 'lanczos', is 'power'"),
        ({"block_size": 5}, "block_size was 4, is 5"),
        ({"seed": 12}, "seed was 11, is 12"),
        ({"start": np.ones(60)}, "start was None, is '"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_run_is_refused_by_the_name_of_what_differs(
    change, named, matrix, tmp_path, monkeypatch
):
    asked = options("lanczos", monkeypatch)
    once = bigspec.norm(matrix, checkpoint=tmp_path / "run", max_passes=1, **asked)
    before = files(tmp_path)
    with pytest.raises(ResumeError, match=named.replace("'", ".")) as caught:
        bigspec.norm(matrix, checkpoint=tmp_path / "run", **asked | change)
    assert "Name another place for this run" in str(caught.value)
    assert files(tmp_path) == before
    assert once.passes == bigspec.show(tmp_path / "run").passes


def test_another_matrix_is_refused_by_the_name_of_what_differs(matrix, tmp_path):
    bigspec.norm(matrix, checkpoint=tmp_path / "run", max_passes=1, algorithm="lanczos")
    wider = Chunked.of(decaying(400, 61).astype("f4"), (5, 61))
    message = r"matrix shape was \[400, 60\], is \[400, 61\]"
    with pytest.raises(ResumeError, match=message):
        bigspec.norm(wider, checkpoint=tmp_path / "run", algorithm="lanczos")
    other = Chunked.of(decaying(400, 60), (5, 60))
    with pytest.raises(ResumeError, match="matrix dtype was 'float32', is 'float64'"):
        bigspec.norm(other, checkpoint=tmp_path / "run", algorithm="lanczos")


def test_nothing_to_show(tmp_path):
    with pytest.raises(CheckpointError, match="got nothing; check the path, or wait"):
        bigspec.show(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_is_shown_is_json(matrix, tmp_path, monkeypatch):
    bigspec.norm(matrix, checkpoint=tmp_path / "run", **options("lanczos", monkeypatch))
    saved = bigspec.show(tmp_path / "run")
    data = json.loads(json.dumps(saved.to_dict(), allow_nan=False))
    assert data["schema"] == "bigspec.saved/1"
    assert data["finished"]
    assert data["run"]["delta_ledger"][0]["delta"] == 1e-6
    assert "returns this answer without reading" in str(saved)


def test_gram_spends_no_failure_probability(matrix, tmp_path):
    bigspec.norm(matrix, checkpoint=tmp_path / "run", algorithm="gram")
    assert bigspec.show(tmp_path / "run").run["delta_ledger"] == []


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Encoding ------------------------------------------------------------------------------------

CODEC = Codec(SAVED_TYPES)
NUMBERS = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.floats(allow_nan=False))
VALUES = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(st.text(), inner),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(VALUES)
def test_values_survive_json_to_the_last_bit(value):
    data = json.loads(json.dumps(CODEC.encode(value, refuse), allow_nan=False))
    back = CODEC.decode(data, refuse)
    assert repr(back) == repr(value)  # -0.0 and tuples included


@pytest.mark.parametrize("dtype", ["f8", "c16", "u4", "?"])
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (4, 0), (5,), (2, 1)])
@pytest.mark.parametrize("inline", [True, False])
def test_arrays_come_back_in_their_memory_order(dtype, order, shape, inline, monkeypatch):
    monkeypatch.setattr("bigspec.checkpoint.codec.INLINE", INLINE if inline else -1)
    rng = np.random.default_rng(3)
    array = np.asarray(rng.integers(0, 2, shape).astype(dtype), order=order)
    blocks = {}

    def put(block):
        name = array_digest(block)
        blocks[name] = np.ascontiguousarray(block)  # what a store gives back
        return name

    data = json.loads(json.dumps(CODEC.encode(array, put)))
    assert bool(blocks) is not inline
    back = CODEC.decode(data, blocks.__getitem__)
    assert back.dtype == array.dtype
    assert back.flags.c_contiguous == array.flags.c_contiguous
    assert back.flags.f_contiguous == array.flags.f_contiguous
    np.testing.assert_array_equal(back, array)


def test_only_listed_classes_come_out():
    with pytest.raises(KeyError):
        CODEC.decode({"object": "Popen", "fields": {"args": "true"}}, refuse)
    with pytest.raises(TypeError, match="listed dataclass, got Checkpoint"):
        CODEC.encode(Checkpoint("x"), refuse)


def refuse(_):
    raise AssertionError


def test_infinities_are_no_numbers_in_json():
    assert CODEC.encode(math.inf, refuse) == {"float": "inf"}
