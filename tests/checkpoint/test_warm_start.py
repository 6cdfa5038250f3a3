"""Starting from what an earlier run left: vectors, files, checkpoints of other matrices."""

import dask
import numpy as np
import pytest
import zarr

import bigspec
from bigspec.checkpoint import Checkpoint
from bigspec.errors import ArgumentError, MissingSourceError, ResumeError
from bigspec.watch import Observer
from tests.checkpoint.runs import ASKED, assert_same_bits
from tests.matrices import Chunked, contains, decaying, largest_singular_value

pytestmark = pytest.mark.usefixtures("many_rounds", "every_step")

M, N = 150, 60
OLD = decaying(M, N, 0.3)
NEW = OLD + 1e-4 * decaying(M, N, 0.3, seed=5)  # what a later training step left of it
NEW_SEED = {**ASKED, "seed": 77, "rtol": 1e-6}
SIGMA = largest_singular_value(NEW)


def chunked(array, wide=False):
    array = array.T.copy() if wide else array
    return Chunked.of(array, (60, 10) if wide else (10, 60))


@pytest.fixture
def cold():
    return bigspec.norm(chunked(NEW), **NEW_SEED)


@pytest.fixture
def old():
    return bigspec.norm(chunked(OLD), **ASKED)


def assert_warm(est, cold):
    assert contains(est, SIGMA)
    assert est.converged
    assert est.passes <= cold.passes


FORMS = {
    "estimate": lambda est, folder: est,
    "array": lambda est, folder: est.right,
    "two columns": lambda est, folder: np.stack([est.right, np.ones(N)], axis=1),
    ".npy": lambda est, folder: saved(folder / "v.npy", np.save, est.right),
    ".npz with right": lambda est, folder: savez(folder, a=np.ones(3), right=est.right),
    ".npz with one array": lambda est, folder: savez(folder, x=est.right),
    "Zarr array": lambda est, folder: in_zarr(folder / "v.zarr", None, est.right[:, None]),
    "Zarr vector": lambda est, folder: in_zarr(folder / "v.zarr", None, est.right),
    "Zarr group": lambda est, folder: in_zarr(folder / "g.zarr", "right", est.right[:, None]),
    "array in a Zarr group": lambda est, folder: (
        f"{in_zarr(folder / 'g.zarr', 'V', est.right[:, None])}::/V"
    ),
}


def saved(path, save, value):
    save(path, value)
    return str(path)


def savez(folder, **arrays):
    np.savez(folder / "v.npz", **arrays)
    return folder / "v.npz"


def in_zarr(path, name, value):
    store = zarr.create_array(path, name=name, shape=value.shape, dtype=value.dtype)
    store[...] = value
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_start_is_warm(form, old, cold, tmp_path):
    est = bigspec.norm(chunked(NEW), start=FORMS[form](old, tmp_path), **NEW_SEED)
    assert_warm(est, cold)
    assert est.passes < cold.passes
    assert est.history[0].lower > cold.history[0].lower


# Checkpoints ---------------------------------------------------------------------------------

ROWS = {
    "lanczos": {},
    "lanczos, three blocks": {"basis": False},
    "power": {"algorithm": "power"},
    "gram": {"algorithm": "gram", "block_size": None},
}


def left_by(row, place, monkeypatch, *, wide=False, passes=None):
    """A checkpoint of the old matrix."""
    options = {**ASKED, "rtol": 1e-3} | ROWS[row]
    with monkeypatch.context() as patch:
        if not options.pop("basis", True):
            patch.setattr("bigspec.panels.layout.Memory.spare", 0)
        return bigspec.norm(chunked(OLD, wide), checkpoint=place, max_passes=passes, **options)


@pytest.mark.parametrize("wide", [False, True], ids=["tall", "wide"])
@pytest.mark.parametrize("passes", [None, 2], ids=["finished", "unfinished"])
@pytest.mark.parametrize("row", ROWS)
def test_the_checkpoint_of_another_matrix(row, passes, wide, cold, tmp_path, monkeypatch):
    place = tmp_path / "old"
    left_by(row, place, monkeypatch, wide=wide, passes=passes)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    est = bigspec.norm(chunked(NEW, wide), start=place, **NEW_SEED)
    assert_warm(est, cold)
    assert est.history[0].lower > cold.history[0].lower
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before


def test_a_start_with_another_number_of_rows(old, cold, tmp_path, monkeypatch):
    """Only the width counts: the new matrix may have more rows."""
    taller = np.concatenate([NEW, 1e-5 * decaying(40, N)])
    left_by("lanczos", tmp_path / "old", monkeypatch)
    est = bigspec.norm(Chunked.of(taller, (10, 60)), start=tmp_path / "old", **NEW_SEED)
    assert contains(est, largest_singular_value(taller))
    assert est.passes < cold.passes


def test_a_bad_start_costs_nothing_but_passes(cold, tmp_path):
    """Vectors that say nothing, of any size, or zero: the certificate does not rest on them."""
    v = decaying(M, N, 0.3, seed=8)[0]
    for start in (v, 1e300 * v, 1e-300 * v, np.zeros(N), np.stack([v, v], axis=1), np.eye(N)):
        assert contains(bigspec.norm(chunked(NEW), start=start, **NEW_SEED), SIGMA)


# Refusals ------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    left_by("lanczos", tmp_path / "old", monkeypatch)
    return tmp_path / "old"


def test_vectors_of_another_length(place, old):
    wider = Chunked.of(decaying(M, N + 1), (10, N + 1))
    message = r"start: the old vectors have length 60, .* needs right vectors of length 61"
    for start in (old, old.right, place):
        with pytest.raises(ArgumentError, match=message):
            bigspec.norm(wider, start=start, **NEW_SEED)
    assert wider.log.count == 0


def test_vectors_of_the_other_side(place, old):
    wide = chunked(NEW, wide=True)
    for start in (old, place):
        with pytest.raises(ArgumentError, match=r"start: expected .* with a left vector, got one"):
            bigspec.norm(wide, start=start, **NEW_SEED)
    assert wide.log.count == 0


@pytest.mark.parametrize("panels", [9, 1])
def test_a_checkpoint_without_a_complete_pass(panels, tmp_path):
    class Stop(Observer):
        def panels_done(self, done, *_):
            if done == panels:
                raise KeyboardInterrupt

    place = tmp_path / "old"
    with pytest.raises(KeyboardInterrupt), dask.config.set(scheduler="synchronous"):
        bigspec.norm(chunked(OLD), checkpoint=place, progress=Stop(), **ASKED)
    named = r"the checkpoint .*old has no complete pass yet"
    with pytest.raises(ArgumentError, match=named):
        bigspec.norm(chunked(NEW), start=place, **NEW_SEED)


def test_places_that_hold_no_vectors(tmp_path):
    group = tmp_path / "g.zarr"
    in_zarr(group, "left", np.ones(3))
    with pytest.raises(ArgumentError, match=r"a group with an array 'right', .*\['left'\]"):
        bigspec.norm(chunked(NEW), start=group, **NEW_SEED)
    for name in ("none.npy", "none.zarr"):
        with pytest.raises(MissingSourceError, match=name):
            bigspec.norm(chunked(NEW), start=tmp_path / name, **NEW_SEED)


def test_complex_vectors_for_a_real_matrix(tmp_path):
    bigspec.norm(
        Chunked.of(decaying(M, N, complex_=True), (10, N)), checkpoint=tmp_path / "old", **ASKED
    )
    with pytest.raises(ArgumentError, match="the old vectors are complex, the matrix is real"):
        bigspec.norm(chunked(NEW), start=tmp_path / "old", **NEW_SEED)


def test_the_same_entropy_again_is_refused(place, old):
    for start in (old, place):
        with pytest.raises(ArgumentError, match=r"seed: 11 is the seed of the run given as start"):
            bigspec.norm(chunked(NEW), start=start, **ASKED)


def test_entropy_is_fresh_if_none_is_given(place, old):
    options = {**ASKED, "seed": None}
    for start in (old, place):
        seeds = {bigspec.norm(chunked(NEW), start=start, **options).seed for _ in range(2)}
        assert len(seeds) == 2
        assert 11 not in seeds


# Resuming a warm run -------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["estimate", "array", "checkpoint"])
def test_a_warm_run_goes_on_to_the_same_bits(form, place, old, tmp_path):
    start = {"estimate": old, "array": old.right, "checkpoint": place}[form]
    asked = {**NEW_SEED, "rtol": 1e-9}
    whole = bigspec.norm(chunked(NEW), start=start, **asked)
    assert whole.passes >= 4
    for passes in (1, 3, None):
        run = Checkpoint(tmp_path / "run", interval=0)
        est = bigspec.norm(chunked(NEW), start=start, checkpoint=run, max_passes=passes, **asked)
    assert_same_bits(est, whole)


def test_a_warm_run_with_fresh_entropy_goes_on_with_the_same_call(place, tmp_path):
    asked = {"block_size": 4, "rtol": 1e-9, "start": place, "checkpoint": tmp_path / "run"}
    part = bigspec.norm(chunked(NEW), max_passes=2, **asked)
    est = bigspec.norm(chunked(NEW), **asked)
    assert est.seed == part.seed
    asked["checkpoint"] = None
    assert_same_bits(est, bigspec.norm(chunked(NEW), seed=est.seed, **asked))


def test_a_warm_run_is_not_resumed_from_another_start(old, tmp_path, monkeypatch):
    run, place = tmp_path / "run", tmp_path / "old"
    left_by("lanczos", place, monkeypatch, passes=2)
    bigspec.norm(chunked(NEW), start=old, checkpoint=run, max_passes=1, **NEW_SEED)
    for other in (None, 2 * old.right, np.ones(N), place):
        with pytest.raises(
            ResumeError, match=r"it holds another run, .*: start was '[0-9a-f]+', is "
        ):
            bigspec.norm(chunked(NEW), start=other, checkpoint=run, **NEW_SEED)
    bigspec.norm(
        chunked(NEW), start=old.ritz_vectors, checkpoint=run, **NEW_SEED
    )  # the same numbers


def test_a_run_is_not_its_own_start(place):
    with pytest.raises(ResumeError, match="start was None, is '"):
        bigspec.norm(chunked(OLD), start=place, checkpoint=place, **ASKED)
