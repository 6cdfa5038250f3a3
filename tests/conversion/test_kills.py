"""Killed at any moment, the same command goes on to the same bytes; nothing half done is seen."""

import random
import signal
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import zarr

import bigspec
from bigspec.conversion.running import Run
from bigspec.errors import ArgumentError, BigspecError, DataError


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("row", ["sorted again", "copied"])
def test_killed_again_and_again(row, child, tmp_path):
    rng = np.random.default_rng(0)
    A = sp.random_array((60, 40), density=0.25, rng=rng, format="csr")
    if row == "copied":
        source, form = tmp_path / "A.zarr", "csr"
        bigspec.convert(A, source)
    else:
        source, form = tmp_path / "A.mtx", "csc"
        scipy.io.mmwrite(source, A)
    assert child(0, source, tmp_path / "whole.zarr", form) == 0
    count = int((tmp_path / "whole.count").read_text())
    whole = contents(tmp_path / "whole.zarr")
    draw = random.Random(row)
    everywhere = {1, 3, count - 2, count - 1, count}
    for first in sorted(everywhere | set(draw.sample(range(4, count), 4))):
        place = tmp_path / f"{first}.zarr"
        kills = [first, draw.randint(1, count // 2)]
        for at in kills:
            status = child(at, source, place, form)
            assert status in (0, -signal.SIGKILL)
            if not place.exists():
                with pytest.raises(BigspecError):
                    bigspec.open_matrix(place)
            else:
                assert contents(place) == whole
                break
        else:
            assert child(0, source, place, form) == 0
        assert contents(place) == whole, f"killed at {kills} of {count}"
        # Killed between its last two steps, it leaves a folder, which the same command takes.
        if place.with_name(place.name + ".partial").exists():
            assert child(0, source, place, form) == 0
            assert contents(place) == whole
        assert not place.with_name(place.name + ".partial").exists()
    B = zarr.open_group(tmp_path / "whole.zarr", mode="r")
    assert B.attrs["encoding-type"] == f"{form}_matrix"


class Died(BaseException):
    """In place of a kill."""


def die(_work):
    raise Died


@pytest.mark.parametrize("taken", [False, True], ids=["in place", "taken away since"])
def test_killed_just_after_a_replacement_it_is_not_replaced_by_nothing(
    taken, tmp_path, monkeypatch
):
    place = tmp_path / "A.zarr"
    bigspec.convert(sp.eye_array(30, format="csr"), place)
    scipy.io.mmwrite(tmp_path / "A.mtx", 2 * sp.eye_array(20, format="coo"))
    with monkeypatch.context() as patch:
        patch.setattr("bigspec.conversion.work.Work.remove", die)
        with pytest.raises(Died):
            bigspec.convert(tmp_path / "A.mtx", place, overwrite=True)
    whole = contents(place)
    if taken:
        place.rename(tmp_path / "elsewhere")
    bigspec.convert(tmp_path / "A.mtx", place, overwrite=True)
    assert contents(place) == whole
    assert not (tmp_path / "A.zarr.partial").exists()


def test_killed_between_the_steps_of_a_replacement_what_was_replaced_comes_back(
    tmp_path, monkeypatch
):
    place = tmp_path / "A.zarr"
    bigspec.convert(sp.eye_array(30, format="csr"), place)
    whole, replace = contents(place), Path.replace

    def once(self, target):
        if self.name == "matrix":
            raise Died
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", once)
        with pytest.raises(Died):
            bigspec.convert(sp.eye_array(20, format="csr"), place, overwrite=True)
    assert not place.exists()
    bad = sp.csr_array(np.array([[np.nan]]))
    with pytest.raises(DataError):
        bigspec.convert(bad, place, dtype="int8", overwrite=True)
    assert contents(place) == whole


def test_what_has_come_to_lie_there_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    place = tmp_path / "A.zarr"

    def published_first(run, *args):
        place.mkdir()
        (place / "zarr.json").write_text("of another process")
        return go(run, *args)

    go = Run.go
    monkeypatch.setattr(Run, "go", published_first)
    with pytest.raises(ArgumentError, match="expected a new place"):
        bigspec.convert(sp.eye_array(20, format="csr"), place)
    assert contents(place) == {"zarr.json": b"of another process"}
    assert (tmp_path / "A.zarr.partial" / "matrix").exists()


def test_only_a_zarr_store_is_overwritten(tmp_path):
    kept = tmp_path / "home" / "thesis.tex"
    kept.parent.mkdir()
    kept.write_text("years of work")
    for place in (kept, kept.parent):
        with pytest.raises(ArgumentError, match="expected a Zarr store to replace, got"):
            bigspec.convert(sp.eye_array(30, format="csr"), place, overwrite=True)
    assert contents(tmp_path) == {"home/thesis.tex": b"years of work"}
