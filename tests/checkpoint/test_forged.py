"""Records that somebody has changed and given the right checksum: an error, never an accident."""

import copy
import json
import shutil

import numpy as np
import pytest

import bigspec
from bigspec.checkpoint import lease
from bigspec.checkpoint.store import Store
from bigspec.errors import ArgumentError, CheckpointError, MatrixChangedError, MemoryLimitError
from tests.checkpoint.runs import Stopper
from tests.matrices import Chunked, decaying

A = decaying(48, 12, 0.6)
MATRIX = Chunked.of(A, (4, 12))
INSTEAD = [None, "text", [], {}, {"tuple": []}, -1, 1 << 70, 1e300, True, {"float": "nan"},
           {"array": {"dtype": "<f8", "shape": [1, 1], "order": "C", "base64": "AAAAAAAA8D8="}},
           {"array": {"dtype": "|O", "shape": [1], "order": "C", "base64": "AAAAAAAA8D8="}},
           {"array": {"block": "0" * 40, "order": "C"}},
           {"object": "StoredBlock", "fields": {"block": "0" * 40, "shape": {"tuple": [9, 9]}}},
           ]  # fmt: skip
REFUSED = (CheckpointError, ArgumentError, MemoryLimitError, MatrixChangedError)
OPTIONS = {"seed": 3, "rtol": 1e-9, "failure_probability": 1e-6}
RUNS = {
    "lanczos": (bigspec.norm, {"algorithm": "lanczos", "block_size": 2}),
    "power": (bigspec.norm, {"algorithm": "power", "block_size": 2}),
    "gram": (bigspec.norm, {"algorithm": "gram"}),
    "svds": (bigspec.svds, {"k": 2, "block_size": 3}),
    "inside": (bigspec.norm, {"algorithm": "lanczos", "block_size": 2}),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("bigspec.panels.choose_layout.PANEL_BYTES", (1, 1))
    monkeypatch.setattr("bigspec.panels.choose_layout.ROUND_PANELS", 2)
    monkeypatch.setattr("bigspec.panels.choose_layout.READ_TO_RETURN", 0)
    monkeypatch.setattr(lease, "TIMING", lease.Timing(beat=0.02, patience=0.05, settle=0.0))


def leaves(data, path=()):
    """Yield the path of every part of a record, the whole parts before their own."""
    yield path
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, part in items:
        if isinstance(part, (dict, list)):
            yield from leaves(part, (*path, key))
        else:
            yield (*path, key)


def changed(data, path, value):
    if not path:
        return value
    data = copy.deepcopy(data)
    part = data
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return data


def saved(name, place):
    """Run until something is saved, and return the call that goes on, and its number of record."""
    run, options = RUNS[name]
    options = OPTIONS | options
    call = {"checkpoint": bigspec.Checkpoint(place, interval=0)} | options
    if name == "inside":
        with pytest.raises(KeyboardInterrupt):
            run(MATRIX, progress=Stopper(9), **call)
    else:
        run(MATRIX, max_passes=1 if name == "gram" else 2, **call)
    store = Store(place)
    number = store.records()[-1]
    for other in store.records()[:-1]:
        store.remove_record(other)
    shutil.rmtree(place / "owner", ignore_errors=True)
    data = store.read_record(number)
    return lambda: run(MATRIX, checkpoint=place, max_passes=3, **options), store, number, data


@pytest.mark.parametrize("name", RUNS)
def test_no_change_of_a_record_ends_in_an_accident(name, tmp_path):
    place = tmp_path / "run"
    go_on, store, number, data = saved(name, place)
    doors = (lambda: bigspec.norm(A, start=place), lambda: str(bigspec.show(place)))
    ends, accidents = [], []
    for at, path in enumerate(list(leaves(data))[1::2]):
        value = INSTEAD[at % len(INSTEAD)]  # all of them at every place take minutes
        for old in store.records():
            store.remove_record(old)
        store.write_record(number, json.loads(json.dumps(changed(data, path, value))))
        for door in (go_on, doors[at % 2]):
            try:
                door()
                ends.append("answered")
            except REFUSED:
                ends.append("refused")
            except Exception as error:
                accidents.append(f"{path} as {value!r}: {type(error).__name__}: {error}")
    assert not accidents
    assert ends.count("refused") > ends.count("answered")


def test_bounds_that_are_not_those_of_the_last_pass_are_refused(tmp_path):
    go_on, store, number, data = saved("lanczos", tmp_path / "run")
    lower = data["value"]["fields"]["running"]["fields"]["lower"]["tuple"][0]["tuple"]
    lower[0] *= 1.5
    store.write_record(number, data)
    with pytest.raises(CheckpointError, match=r"interval|bounds beside its history"):
        go_on()


def test_a_block_that_claims_more_than_is_there_is_refused_before_it_is_allocated(tmp_path):
    store = Store(tmp_path / "run")
    store.start()
    store.write_block(np.ones((4, 4)), "0" * 40, on_chunk=lambda: None)
    path = tmp_path / "run/blocks" / ("0" * 40) / "zarr.json"
    document = json.loads(path.read_text())
    document["shape"] = [1 << 40, 4]
    path.write_text(json.dumps(document))
    with pytest.raises(Exception, match="128 bytes are there, 35184372088832 by its shape"):
        store.read_block("0" * 40)
