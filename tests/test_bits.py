"""Runs give the bits that are recorded in ``tests/data/bits.json``; see `tests.bits`.

On another CPU, or with another BLAS, NumPy, SciPy or libm than those of the record, products round
otherwise. There numbers are compared within `CLOSE`, and passes, bytes and layout as everywhere.
Nothing is skipped.
"""

import math

import pytest

from tests.bits import ROWS, differences, environment, load, run

RECORD = load()
EXACT = environment() == RECORD["environment"]
AGAIN = (
    "If bits were meant to change: run `python -m tests.bits`, and name the reason in CHANGELOG.md"
)


def test_every_run_of_the_table_is_recorded():
    assert list(RECORD["rows"]) == list(ROWS), AGAIN


@pytest.mark.parametrize("name", ROWS)
def test_a_run_gives_the_recorded_bits(name, tmp_path):
    said = differences(name, RECORD["rows"][name], run(ROWS[name], tmp_path), exact=EXACT)
    how = "bit by bit" if EXACT else f"with room for rounding: recorded on {RECORD['environment']}"
    assert not said, "\n".join([f"{name}, compared {how}", *said, AGAIN])


def test_a_basis_that_does_not_fit_is_dropped_in_the_rows_that_say_so():
    rows = {name: row for name, row in RECORD["rows"].items() if "no basis" in name}
    assert len(rows) == 4
    assert all("right" not in row["vectors"] for row in rows.values())
    assert RECORD["rows"]["lanczos, store, two reads"]["layout"]["reads_per_pass"] == 2
    assert RECORD["rows"]["power, dask, two rounds"]["layout"]["rounds"] == 2


@pytest.mark.parametrize("name", ["lanczos, array, no basis", "svds, complex store"])
def test_one_bit_is_told_exactly_and_more_than_rounding_always(name):
    was = RECORD["rows"][name]

    def changed(ends):
        if isinstance(was["upper"], list):
            return was | {
                "upper": [*was["upper"][:-1], ends(float.fromhex(was["upper"][-1])).hex()]
            }
        return was | {"upper": ends(float.fromhex(was["upper"])).hex()}

    bit = changed(lambda upper: math.nextafter(upper, math.inf))
    assert len(differences(name, was, bit, exact=True)) == 1
    assert not differences(name, was, bit, exact=False)
    more = changed(lambda upper: upper * (1 + 1e-11))
    (said,) = differences(name, was, more, exact=False)
    assert said.startswith("upper")
    assert " was " in said


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "change",
    [{"passes": 99}, {"bytes_read": 1}, {"layout": {}}, {"vectors": {}}, {"stopped_by": ""}],
)
def test_passes_bytes_and_layout_are_the_same_everywhere(change, exact):
    name = "lanczos, store"
    was = RECORD["rows"][name]
    assert differences(name, was, was | change, exact=exact)
