"""Runs that an earlier bigspec stopped go on, to the bits of those that were never stopped."""

import re
import shutil

import dask
import pytest

import bigspec
from bigspec.errors import ArgumentError, ResumeError
from bigspec.run.state import SAVED_TYPES
from tests.bits import described, differences, environment, number
from tests.checkpoint.old_runs import NAMES, PLACE, RUNS, folder, load, reads, shown, warm

EXPECTED = load()
# Elsewhere, numbers are compared with room for rounding: see `tests.bits`. Nothing is skipped.
EXACT = environment() == EXPECTED["environment"]
EACH = pytest.mark.parametrize(("name", "stage"), NAMES)


@pytest.fixture(scope="module", autouse=True)
def two_threads():
    with dask.config.set(num_workers=2):
        yield


def copied(name, stage, tmp_path):
    return shutil.copytree(PLACE / folder(name, stage), tmp_path / "run")


@EACH
def test_goes_on_to_the_same_bits_and_repeats_no_complete_pass(name, stage, tmp_path):
    expected, matrix = EXPECTED["runs"][name][stage], RUNS[name].matrix()
    answer = RUNS[name].call(matrix, checkpoint=copied(name, stage, tmp_path))
    said = differences(name, expected["answer"], described(answer), exact=EXACT)
    assert not said, "\n".join([f"{name}, {stage}", *said])
    assert reads(matrix) == expected["reads"]
    assert bigspec.show(tmp_path / "run").finished


def test_goes_on_in_the_rounds_that_it_was_begun_with(tmp_path, monkeypatch):
    """Today's cut of the same matrix has other panels, other rounds and another tree."""
    run = RUNS["lanczos"]
    place = copied("lanczos", "inside", tmp_path)
    for name, value in {"ROUNDS": 3, "ROUND_PANELS": 2, "MANY_PANELS": 1, "PANELS": 4}.items():
        monkeypatch.setattr(f"bigspec.panels.choose_layout.{name}", value)
    assert bigspec.plan(run.matrix(), memory_limit="1GiB", block_size=2).layout.rounds == 3
    answer = run.call(run.matrix(), checkpoint=place)
    expected = EXPECTED["runs"]["lanczos"]["inside"]["answer"]
    said = differences("lanczos", expected, described(answer), exact=EXACT)
    assert not said, "\n".join(said)
    assert (answer.layout["panels"], answer.layout["rounds"]) == (18, 2)


@EACH
def test_shows_what_it_holds(name, stage):
    saved = bigspec.show(PLACE / folder(name, stage))
    assert shown(saved.where) == EXPECTED["runs"][name][stage]["shown"]
    assert saved.place["damage"] == []
    after = {"finished": "finished", "between": "pass 3", "inside": "from round 2 of 2"}[stage]
    assert re.search(rf"  next        .*{after}", str(saved))


@pytest.mark.parametrize(("name", "stage"), [n for n in NAMES if n != ("gram", "inside")])
def test_starts_another_run(name, stage):
    place = PLACE / folder(name, stage)
    expected = EXPECTED["runs"][name][stage]["warm"]
    said = differences(name, expected, warm(RUNS[name].matrix(), place), exact=EXACT)
    assert not said, "\n".join([f"{name}, {stage}", *said])


def test_one_without_a_complete_pass_starts_no_other():
    assert EXPECTED["runs"]["gram"]["inside"]["warm"] is None
    with pytest.raises(ArgumentError, match="has no complete pass yet"):
        RUNS["power"].call(RUNS["gram"].matrix(), start=PLACE / folder("gram", "inside"))


def test_another_matrix_is_refused(tmp_path):
    place = copied("lanczos", "between", tmp_path)
    with pytest.raises(ResumeError, match=r"matrix shape was \[\d+, 16\], is \[560, 520\]"):
        RUNS["lanczos"].call(RUNS["lanczos, large blocks"].matrix(), checkpoint=place)


def test_every_saved_class_lies_in_one_of_them():
    text = "".join(path.read_text() for path in PLACE.glob("*/records/*/zarr.json"))
    newer = {"Known"}  # replaced "Running" and "RunningTop", which are still read
    assert set(re.findall(r'"object": "(\w+)"', text)) == {w.name for w in SAVED_TYPES} - newer


def test_an_answer_is_narrower_than_what_was_saved():
    """Else a run that begins anew would pass for one that goes on."""
    for name, stage in NAMES:
        expected = EXPECTED["runs"][name][stage]
        answer, saved = expected["answer"], expected["shown"]
        first = answer["lower"][0] if "s" in answer else answer["lower"]
        assert number(saved["lower"]) <= number(first)
        assert (saved["passes"] == answer["passes"]) == (stage == "finished")
