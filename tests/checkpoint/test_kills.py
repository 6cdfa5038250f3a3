"""Kill -9 at any moment: every run goes on, to the same bits (more: benchmarks/faults.py)."""

import random

import pytest

from tests.checkpoint.killing import (
    PHASES,
    ROWS,
    Kill,
    Runner,
    check,
    drawn_kills,
)

INTERVAL = 15  # panels between saves


@pytest.fixture(scope="module")
def runner():
    with Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def matrices(tmp_path_factory):
    return tmp_path_factory.mktemp("matrices")


@pytest.mark.parametrize("row", ROWS)
def test_killed_again_and_again_at_panels_and_writes(row, runner, matrices, tmp_path):
    reference = runner.reference(row, matrices)
    kills = drawn_kills(random.Random(row), 4, panels=50, writes=40)
    options = {"matrices": matrices, "interval": INTERVAL}
    chain = runner.chain(row, tmp_path / "run", kills, **options)
    check(chain, reference, interval=INTERVAL)
    assert len(chain.killed) >= 2


@pytest.mark.parametrize("phase", PHASES)
def test_killed_inside_the_first_and_a_later_record(phase, runner, matrices, tmp_path):
    """Writes are counted, so that the k-th is the same one in every run.

    A second process does not write the documents of the three groups.
    """
    reference = runner.reference("gram", matrices)
    whole = runner.chain("gram", tmp_path / "run", [], matrices=matrices, interval=INTERVAL)
    records = whole.writes("records/")
    kills = [Kill("write", records[1], phase), Kill("write", records[2] - 3, phase)]
    options = {"matrices": matrices, "interval": INTERVAL}
    chain = check(
        runner.chain("gram", tmp_path / "run", kills, **options), reference, interval=INTERVAL
    )
    assert len(chain.killed) == 2


def test_killed_while_it_saves_beside_the_next_panels(runner, matrices, tmp_path):
    """Not on schedule, as saving runs beside reading: what holds, holds wherever it dies."""
    reference = runner.reference("lanczos", matrices)
    kills = [Kill("write", 30, "half"), Kill("panel", 50), Kill("write", 41, "after")]
    options = {"matrices": matrices, "waited": False}
    chain = check(runner.chain("lanczos", tmp_path / "run", kills, **options), reference)
    assert chain.killed
