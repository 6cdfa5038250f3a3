"""Runs for triplets go on to the same bits, their basis in memory or in the checkpoint."""

import numpy as np
import pytest
import zarr

import bigspec
from bigspec.checkpoint import load_latest
from bigspec.errors import CheckpointError, ResumeError
from bigspec.run import SAVED_TYPES
from tests.checkpoint.runs import Stopper
from tests.matrices import Chunked, decaying

ASKED = {"k": 4, "block_size": 6, "seed": 11, "rtol": 1e-3}

pytestmark = pytest.mark.usefixtures("many_rounds", "every_step")


@pytest.fixture
def matrix():
    return Chunked.of(decaying(200, 140).astype("f4"), (10, 140))


@pytest.fixture(params=["basis in memory", "basis in the checkpoint"])
def stored(request, monkeypatch):
    """Whether blocks of the basis lie in the store."""
    if request.param == "basis in the checkpoint":
        one = 140 * 6 * 8  # one block is kept in memory, the others are not
        monkeypatch.setattr("bigspec.run.planner._Planner.basis_beside_vectors", lambda *_: one)
    return request.param == "basis in the checkpoint"


def assert_same_bits(one, other):
    assert len(one.history) == len(other.history)
    for name in ("lowers", "uppers", "ritz_values"):
        assert [getattr(r, name) for r in one.history] == [getattr(r, name) for r in other.history]
    for left, right in zip((*one, one.upper), (*other, other.upper), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.fixture
def reference(matrix):
    return bigspec.svds(matrix, **ASKED)


def test_stopped_after_every_pass(reference, matrix, stored, tmp_path):
    run = tmp_path / "run"
    for passes in range(1, reference.passes + 1):
        tri = bigspec.svds(matrix, **ASKED, checkpoint=run, max_passes=passes)
    assert_same_bits(tri, reference)
    state = load_latest(run, SAVED_TYPES).state
    kinds = [type(block).__name__ for block in state.basis]
    assert kinds == ["ndarray"] + ["StoredBlock" if stored else "ndarray"] * (len(kinds) - 1)


@pytest.mark.parametrize("panels", [7, 33])
def test_interrupted_within_a_pass(reference, matrix, stored, panels, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        bigspec.svds(matrix, **ASKED, checkpoint=run, progress=Stopper(panels))
    assert_same_bits(bigspec.svds(matrix, **ASKED, checkpoint=run), reference)


def test_interrupted_in_the_last_pass_a_finished_run_makes_it_again(reference, matrix, tmp_path):
    run, panels = tmp_path / "run", 20 * reference.passes + 3
    with pytest.raises(KeyboardInterrupt):
        bigspec.svds(matrix, **ASKED, checkpoint=run, progress=Stopper(panels))
    assert bigspec.show(run).finished
    before = matrix.log.count
    assert_same_bits(bigspec.svds(matrix, **ASKED, checkpoint=run), reference)
    assert matrix.log.count - before == 20  # one pass
    assert "of 4 values" in str(bigspec.show(run))


def test_left_vectors_in_a_store_survive_an_interruption(reference, matrix, tmp_path):
    options = ASKED | {"checkpoint": tmp_path / "run", "u_store": tmp_path / "U.zarr"}
    with pytest.raises(KeyboardInterrupt):
        bigspec.svds(matrix, **options, progress=Stopper(20 * reference.passes + 3))
    assert zarr.open_array(tmp_path / "U.zarr", mode="r").attrs["complete"] is False
    tri = bigspec.svds(matrix, **options)
    assert tri.u.attrs["complete"] is True
    np.testing.assert_allclose(tri.u[:], reference.u, atol=1e-12)


def test_another_k_and_the_norm_are_other_runs(matrix, tmp_path):
    bigspec.svds(matrix, **ASKED, checkpoint=tmp_path / "run", max_passes=1)
    with pytest.raises(ResumeError, match="k was 4, is 5"):
        bigspec.svds(matrix, **(ASKED | {"k": 5}), checkpoint=tmp_path / "run")
    with pytest.raises(ResumeError, match="k was 4, is 'none"):
        bigspec.norm(matrix, checkpoint=tmp_path / "run")


@pytest.mark.parametrize("stored", ["basis in the checkpoint"], indirect=True)
def test_a_damaged_block_of_the_basis_is_noticed(matrix, stored, tmp_path):
    run = tmp_path / "run"
    bigspec.svds(matrix, **ASKED, checkpoint=run, max_passes=3)
    name = load_latest(run, SAVED_TYPES).state.basis[1].block
    chunk = next(path for path in (run / "blocks" / name).rglob("*") if path.parent.name != name)
    while chunk.is_dir():
        chunk = next(chunk.iterdir())
    data = bytearray(chunk.read_bytes())
    data[40] ^= 1
    chunk.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="the basis of the run is damaged"):
        bigspec.svds(matrix, **ASKED, checkpoint=run)


@pytest.mark.parametrize("stored", ["basis in the checkpoint"], indirect=True)
def test_blocks_that_no_record_needs_are_removed(matrix, stored, tmp_path):
    tri = bigspec.svds(matrix, **ASKED, checkpoint=tmp_path / "run")
    state = load_latest(tmp_path / "run", SAVED_TYPES).state
    named = {block.block for block in state.basis[1:]}
    there = {path.name for path in (tmp_path / "run" / "blocks").iterdir() if path.is_dir()}
    assert named <= there
    assert len(there) <= tri.passes + 6  # the basis, and the blocks of two records


def test_a_checkpoint_warms_another_run(matrix, tmp_path):
    bigspec.svds(matrix, **ASKED, checkpoint=tmp_path / "run")
    warm = bigspec.svds(matrix, 4, block_size=16, start=tmp_path / "run")
    assert warm.passes <= 2
