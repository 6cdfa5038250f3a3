"""A damaged checkpoint gives the same number as a whole one, or an error that names the damage."""

import ast
import json
import pickle
import shutil
import sys
import warnings
from collections import Counter
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr

import bigspec
from bigspec.checkpoint import Checkpoint, Writer, lease
from bigspec.checkpoint.store import Damaged, Store
from bigspec.errors import CheckpointError
from bigspec.watch import CheckpointWarning, Observer
from tests.checkpoint.runs import Stopper
from tests.matrices import Chunked, decaying

ASKED = {"algorithm": "lanczos", "block_size": 4, "seed": 11, "rtol": 1e-7}
PANELS = 30
# When each one was left: finished, by `max_passes`, inside a pass by a process that was killed.
LEFT = ("finished", "passes", "inside")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Many rounds, blocks of several chunks, and no waiting for owners that died."""
    monkeypatch.setattr("bigspec.panels.choose_layout.PANEL_BYTES", (1, 1))
    monkeypatch.setattr("bigspec.panels.choose_layout.ROUND_PANELS", 3)
    monkeypatch.setattr("bigspec.panels.choose_layout.READ_TO_RETURN", 0)
    monkeypatch.setattr("bigspec.checkpoint.codec.INLINE", 512)
    monkeypatch.setattr("bigspec.checkpoint.store.CHUNK_BYTES", 1 << 10)
    monkeypatch.setattr(lease, "TIMING", lease.Timing(beat=0.02, patience=0.05, settle=0.0))


@pytest.fixture(scope="module")
def matrix():
    return Chunked.of(decaying(120, 40, 0.5), (4, 40))


@pytest.fixture
def whole(matrix):
    return bigspec.norm(matrix, **ASKED)


@pytest.fixture
def left(matrix, tmp_path, monkeypatch):
    """Return a function that makes a checkpoint as a process left it."""

    def make(when, name="left"):
        made, kept = tmp_path / "made", tmp_path / name
        if when == "finished":
            bigspec.norm(matrix, checkpoint=kept, **ASKED)
            return kept
        if when == "passes":
            bigspec.norm(matrix, checkpoint=kept, max_passes=2, **ASKED)
            return kept
        close = Writer.close
        place, stopper = Checkpoint(made, interval=0), Stopper(5 * PANELS // 2)
        with monkeypatch.context() as patch, dask.config.set(num_workers=1):
            # All is saved then, and the owner's document is still there, as after a kill.
            patch.setattr(Writer, "close", lambda k: (shutil.copytree(made, kept), close(k)))
            with pytest.raises(KeyboardInterrupt):
                bigspec.norm(matrix, checkpoint=place, progress=stopper, **ASKED)
        document = kept / "owner/zarr.json"  # whose process is not this one, and is gone
        document.write_text(document.read_text().replace('"started": "', '"started": "0'))
        return kept

    return make


def files(place):
    return {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}


def harm(data, number, step):
    """Yield a name and what is left of a file: nothing at all, cut short, one bit another.

    Files of one kind are many: each gets every `step`-th of these, from `number` on.
    """
    size = len(data)
    yield "removed", None
    lengths = [0, 1, size // 3, size // 2, size - 20, size - 1]
    cuts = [(f"cut to {length}", data[:length]) for length in lengths if 0 <= length < size]
    flips = []
    for k in range(10):
        at, bit = k * (size - 1) // 9, 1 << (3 * k + number) % 8
        flipped = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
        flips.append((f"bit {bit} of byte {at} of {size}", flipped))
    every = [*cuts, *flips]
    yield from every[number % step :: step]


def node(path, place):
    """What a message about this file must name."""
    parts = Path(path).parts
    return str(place) if len(parts) == 1 else "/".join(parts[:2])


def same(est, whole):
    return (
        (est.lower, est.upper, est.passes) == (whole.lower, whole.upper, whole.passes)
        and [r.ritz_values for r in est.history] == [r.ritz_values for r in whole.history]
        and np.array_equal(est.right, whole.right)
    )


def check_norm(matrix, place, path, whole):
    """The same bits, with a warning that names the damage or none; or an error that does."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            est = bigspec.norm(matrix, checkpoint=place, **ASKED)
        except CheckpointError as error:
            refusal = str(error)
        else:
            refusal = ""
    if refusal:
        assert node(path, place) in refusal
        return "refused"
    assert same(est, whole)
    said = [w for w in heard if w.category is CheckpointWarning]
    assert all(node(path, place) in str(w.message) for w in said)
    saved = bigspec.show(place)
    assert saved.finished
    assert (saved.lower, saved.upper) == (whole.lower, whole.upper)
    return "warned" if said else "same"


def check_show(place, path, whole):
    """An interval that the whole run had, with the damage named; or an error that names it."""
    try:
        saved, refusal = bigspec.show(place), ""
    except CheckpointError as error:
        refusal = str(error)
    if refusal:
        assert node(path, place) in refusal
        return
    had = whole.history[saved.passes - 1] if saved.passes else None
    assert (saved.lower, saved.upper) == ((had.lower, had.upper) if had else (0.0, np.inf))
    assert all(node(path, place) in text for text in saved.place["damage"])
    str(saved), json.dumps(saved.to_dict(), allow_nan=False)


@pytest.mark.parametrize("when", LEFT)
def test_any_file_damaged_never_gives_another_number(when, matrix, whole, left, tmp_path):
    before = left(when)
    ends = Counter()
    place = tmp_path / "damaged"
    for number, (path, data) in enumerate(sorted(files(before).items())):
        for name, rest in harm(data, number, 12 if path.startswith("blocks/") else 3):
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(before, place)
            (place / path).unlink()
            if rest is not None:
                (place / path).write_bytes(rest)
            try:
                check_show(place, path, whole)
                ends[check_norm(matrix, place, path, whole)] += 1
            except Exception as error:
                error.add_note(f"{when}: {path} {name}")
                raise
    assert ends.keys() == {"same", "warned", "refused"}  # or damage was not where it counts


@pytest.mark.parametrize("when", LEFT)
def test_any_byte_of_a_record_flipped_is_noticed_or_changes_nothing(when, left):
    place = left(when)
    folder = Store(place)
    number = folder.records()[-1]
    path, known = place / f"records/{number:06d}/zarr.json", folder.read_record(number)
    data = path.read_bytes()
    noticed = 0
    for at in range(0, len(data), max(1, len(data) // 800)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        try:
            assert folder.read_record(number) == known
        except (Damaged, CheckpointError) as error:
            noticed += path.parent.name in str(error)
    assert noticed > 700


@pytest.mark.parametrize("when", LEFT)
def test_all_records_damaged_is_an_error_that_changes_nothing(when, matrix, left):
    place = left(when)
    records = list((place / "records").glob("*/zarr.json"))
    assert len(records) == 2
    for path in records:
        path.write_bytes(path.read_bytes().replace(b'"kind"', b'"kinds"'))
    before = files(place)
    for call in (bigspec.show, lambda p: bigspec.norm(matrix, checkpoint=p, **ASKED)):
        with pytest.raises(CheckpointError, match="Remove it, or name another place") as caught:
            call(place)
        assert all(path.parent.name in str(caught.value) for path in records)
    now = files(place)
    assert {k: v for k, v in now.items() if "owner" not in k} == {
        k: v for k, v in before.items() if "owner" not in k
    }


@pytest.mark.parametrize("steal", [False, True])
def test_damaged_owner_is_no_owner(steal, matrix, whole, left):
    place = left("inside")
    (place / "owner/zarr.json").write_bytes(b'{"zarr')
    est = bigspec.norm(matrix, checkpoint=Checkpoint(place, steal=steal), **ASKED)
    assert same(est, whole)
    assert not (place / "owner").exists()


def test_damaged_document_of_a_live_owner_is_mended_and_stops_nothing(matrix, whole, tmp_path):
    place, document = tmp_path / "run", tmp_path / "run/owner/zarr.json"

    class Damaging(Observer):
        def pass_finished(self, record):
            document.write_bytes(b"{")

    est = bigspec.norm(matrix, checkpoint=place, progress=Damaging(), **ASKED)
    assert same(est, whole)
    assert not document.exists()


@pytest.mark.parametrize("what", ["root", "record"])
def test_newer_layout_is_refused_and_nothing_changes(what, matrix, left):
    place = left("finished")
    newest = max((place / "records").glob("*/zarr.json"))
    path = place / "zarr.json" if what == "root" else newest
    text = path.read_text()
    assert "bigspec.checkpoint/1" in text
    path.write_text(text.replace("bigspec.checkpoint/1", "bigspec.checkpoint/2"))
    if what == "record":  # the checksums of a layout to come may be others, too
        path.write_text(path.read_text().replace('"kind"', '"sort"'))
    before = files(place)
    for call in (bigspec.show, lambda p: bigspec.norm(matrix, checkpoint=p, **ASKED)):
        with pytest.raises(CheckpointError, match="got layout 2, which a newer bigspec wrote"):
            call(place)
    assert files(place) == before


def make_array(place):
    zarr.create_array(place, shape=(3,), dtype="f8")[:] = 1.0


def make_group(place):
    zarr.create_group(place, attributes={"mine": 1}).create_array("x", shape=(3,), dtype="f8")


def make_text(place):
    place.mkdir()
    (place / "notes.txt").write_text("mine")


def make_file(place):
    place.write_text("mine")


@pytest.mark.parametrize("make", [make_array, make_group, make_text, make_file])
def test_somebody_elses_place_is_refused_and_nothing_changes(make, matrix, tmp_path):
    place = tmp_path / "mine"
    make(place)
    before = files(tmp_path)
    for call in (bigspec.show, lambda p: bigspec.norm(matrix, checkpoint=p, **ASKED)):
        with pytest.raises(CheckpointError, match=r"expected a.* empty folder") as caught:
            call(place)
        assert str(place) in str(caught.value)
    assert files(tmp_path) == before


def test_no_pickle_anywhere(matrix, whole, left, monkeypatch):
    place = left("inside")
    for path, data in files(place).items():
        assert not data.startswith(b"\x80"), path
        if path.endswith("zarr.json"):
            assert b"pickle" not in data
            assert json.loads(data).get("data_type", "float64") in {"float64", "uint32"}

    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    assert same(bigspec.norm(matrix, checkpoint=place, **ASKED), whole)
    for source in Path(lease.__file__).parent.glob("*.py"):
        for part in ast.walk(ast.parse(source.read_text())):
            names = [alias.name for alias in getattr(part, "names", []) if hasattr(alias, "name")]
            names.append(getattr(part, "module", None) or "")
            assert not {"pickle", "marshal", "shelve", "cloudpickle", "dill"} & set(names)
    assert "pickle" in sys.modules  # or nothing was refused above
