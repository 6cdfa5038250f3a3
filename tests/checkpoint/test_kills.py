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

INTERVAL = 40  # panels between saves


@pytest.fixture(scope="module")
def runner():
    with Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def matrices(tmp_path_factory):
    return tmp_path_factory.mktemp("matrices")


@pytest.fixture(scope="module")
def unharmed(runner, matrices, tmp_path_factory):
    place = tmp_path_factory.mktemp("unharmed") / "run"
    return runner.chain("gram", place, [], matrices=matrices, interval=INTERVAL)


@pytest.mark.parametrize("row", ROWS)
def test_killed_again_and_again_at_panels_and_writes(row, runner, matrices, tmp_path):
    reference = runner.reference(row, matrices)
    most = 70 if reference["passes"] > 1 else 25  # so that the later kills still hit the run
    kills = drawn_kills(random.Random(row), 3, panels=most, writes=most)
    options = {"matrices": matrices, "interval": INTERVAL}
    chain = runner.chain(row, tmp_path / "run", kills, **options)
    check(chain, reference, interval=INTERVAL)
    assert len(chain.killed) >= 2


@pytest.mark.parametrize("phase", PHASES)
def test_killed_inside_the_first_and_the_last_record(phase, unharmed, runner, matrices, tmp_path):
    """Writes are counted, so that the k-th is the same one in every run."""
    reference = runner.reference("gram", matrices)
    options = {"matrices": matrices, "interval": INTERVAL}
    kills = [Kill("write", unharmed.writes("records/0", "zarr.json")[0], phase)]
    once = runner.chain("gram", tmp_path / "run", kills, **options)
    kills.append(Kill("write", once.writes("records/0", "zarr.json", process=-1)[-1], phase))
    chain = runner.chain("gram", tmp_path / "run", kills, **options)
    check(chain, reference, interval=INTERVAL)
    assert chain.killed == kills


def test_killed_while_it_saves_beside_the_next_panels(runner, matrices, tmp_path):
    """Not on schedule, as saving runs beside reading: what holds, holds wherever it dies."""
    reference = runner.reference("lanczos", matrices)
    kills = [Kill("write", 30, "half"), Kill("panel", 50), Kill("write", 41, "after")]
    options = {"matrices": matrices, "waited": False}
    chain = check(runner.chain("lanczos", tmp_path / "run", kills, **options), reference)
    assert chain.killed
