"""Runs that were stopped by an earlier bigspec, committed under ``tests/data/checkpoints``.

``python -m tests.checkpoint.old_runs``, from the root of the checkout, adds the checkpoints of
`RUNS` that are not there yet, each with what the same run gave that was never stopped. What is
there stays: its point is that code of its day wrote it. `test_old_runs.py` goes on from each.

The matrices are `Chunked`, whose identity holds no path, so that a checkpoint from anywhere meets
its matrix again; the identity check is the one of every run. The tall ones are as small as a
matrix of two rounds can be. Where a run goes on, the panels and the bytes of the basis are those
of the checkpoint, so the limits below matter only here.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import dask

import bigspec
from tests.bits import described, entries, environment
from tests.checkpoint.runs import Stopper
from tests.matrices import Chunked

PLACE = Path(__file__).parents[1] / "data" / "checkpoints"
EXPECTED = PLACE / "expected.json"
ROUND, PANELS = 16, 18  # panels in a round, and of a tall matrix: each of 4 MiB, one read
DONE = 2  # passes of a run that was stopped after a pass
LARGE = "1GiB"


# Matrices ------------------------------------------------------------------------------------


def tall(dtype="f8"):
    height = (4 << 20) // (16 * entries(1, 1, dtype=dtype).itemsize)
    return Chunked.of(entries(height * PANELS, 16, dtype=dtype), (height, 16))


def square():
    """Blocks of four columns are too large for a record: they lie beside it."""
    return Chunked.of(entries(560, 520), (80, 520))


def product():
    left, right = entries(500, 80), entries(80, 60, seed=9)
    return bigspec.open_matrix(Chunked.of(left, (50, 80))) @ Chunked.of(right, (20, 60))


def reads(matrix):
    """How many reads were made so far."""
    factors = [getattr(matrix, name, None) for name in ("left", "right")]
    return sum(part.log.count for part in factors if part) if any(factors) else matrix.log.count


# The table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A run, and where it was stopped: "finished", "between" two passes, "inside" one."""

    matrix: Any
    options: dict[str, Any]
    stages: tuple[str, ...]
    start: bool = False
    basis: int | None = None  # bytes that were left for it; None for plenty

    def call(self, matrix, **more):
        """Make the run, or go on with it."""
        # Their counts of bytes are of passes that read everything.
        options = {"seed": 11, "memory_limit": LARGE, "pin": False} | self.options | more
        if self.start:
            options.setdefault("start", entries(16, 2, seed=4))
        return (bigspec.svds if "k" in options else bigspec.norm)(matrix, **options)

    def limit(self, matrix):
        """Return a memory limit that leaves so many bytes for the basis."""
        if self.basis is None:
            return LARGE
        (m, n), k, b = matrix.shape, self.options.get("k"), self.options["block_size"]
        kind = {"k": k} if k else {"algorithm": "lanczos"}
        plan = bigspec.plan(matrix, block_size=b, memory_limit=LARGE, pin=False, **kind)
        return plan.layout.memory.total + self.basis + (8 * k * (2 * n + 3 * m) if k else 0)


ALL = ("finished", "between", "inside")
LANCZOS = {"algorithm": "lanczos", "block_size": 2, "rtol": 1e-6}
RUNS = {
    "lanczos": Run(tall, LANCZOS, ALL),
    "lanczos, no basis": Run(tall, LANCZOS, ALL, basis=0),
    "lanczos, large blocks": Run(square, LANCZOS | {"block_size": 4, "rtol": 0.1}, ("between",)),
    "power": Run(tall, LANCZOS | {"algorithm": "power", "block_size": 4, "rtol": 0.03}, ALL),
    "power, complex, warm": Run(
        lambda: tall("c16"), LANCZOS | {"algorithm": "power", "rtol": 1e-2}, ALL, start=True
    ),
    "gram": Run(tall, {"algorithm": "gram"}, ("finished", "inside")),
    "svds": Run(tall, {"k": 2, "block_size": 4, "rtol": 1e-6}, ALL),
    "svds, basis in the checkpoint": Run(
        square, {"k": 1, "block_size": 4, "rtol": 0.1}, ("finished", "between"), basis=30_000
    ),
    "product": Run(product, LANCZOS, ("finished", "between")),
}
NAMES = [(name, stage) for name, run in RUNS.items() for stage in run.stages]


def folder(name, stage):
    return f"{name.replace(', ', '-').replace(' ', '-')}-{stage}"


# Making them ---------------------------------------------------------------------------------


def stop(run, stage, place, matrix):
    """Make a run that is stopped, and return how many of its reads the checkpoint holds."""
    kept = bigspec.Checkpoint(place, interval=1e9)
    limit = run.limit(matrix)
    before = reads(matrix)
    with mock.patch("socket.gethostname", return_value="host"):
        if stage != "inside":
            passes = {"max_passes": DONE} if stage == "between" else {}
            done = run.call(matrix, checkpoint=kept, memory_limit=limit, **passes)
            again = getattr(done, "vector_passes", 0) * done.layout["panels"]
            return reads(matrix) - before - again
        complete = 0 if run.options.get("algorithm") == "gram" else 1
        try:
            run.call(
                matrix,
                checkpoint=kept,
                memory_limit=limit,
                progress=Stopper(PANELS * complete + PANELS - 1),
            )
        except KeyboardInterrupt:
            saved = bigspec.show(place)
            assert (saved.passes, saved.rounds) == (complete, 1), str(saved)
            return PANELS * complete + ROUND
        raise AssertionError(place)


def shown(place):
    saved = bigspec.show(place)
    return {
        "lower": saved.lower.hex(),
        "upper": saved.upper.hex(),
        "passes": saved.passes,
        "rounds": saved.rounds,
        "finished": saved.finished,
        "algorithm": saved.run["algorithm"],
    }


def warm(matrix, place):
    """Start a run from what another one left; None from one that left no complete pass."""
    options = {"algorithm": "lanczos", "block_size": 2, "seed": 12, "max_passes": 2}
    if bigspec.show(place).passes == 0:
        return None
    return described(bigspec.norm(matrix, start=place, memory_limit=LARGE, pin=False, **options))


def make(name):
    """Make the checkpoints of a run, and return what to expect of each."""
    run, made = RUNS[name], {}
    matrix = run.matrix()
    with tempfile.TemporaryDirectory() as place:  # where a basis goes that does not fit
        beside = {"checkpoint": place} if "k" in run.options else {}
        whole = run.call(matrix, memory_limit=run.limit(matrix), **beside)
    total = reads(matrix)
    for stage in run.stages:
        with tempfile.TemporaryDirectory() as place:
            held = stop(run, stage, place, matrix)
            for part in Path(place).rglob("*"):
                assert not part.name.endswith(".partial")
            shutil.copytree(place, PLACE / folder(name, stage))
        made[stage] = {
            "shown": shown(PLACE / folder(name, stage)),
            "answer": described(whole),
            "reads": total - held,
            "warm": warm(matrix, PLACE / folder(name, stage)),
        }
    return made


def load():
    return json.loads(EXPECTED.read_text(encoding="utf-8"))


def main():
    """Add what is not there yet."""
    there = load() if EXPECTED.exists() else {"environment": environment(), "runs": {}}
    if there["environment"] != environment():
        raise SystemExit(f"expected the environment of the others, {there['environment']}")
    with dask.config.set(num_workers=1):  # what a limit leaves depends on it, and where one stops
        for name in RUNS.keys() - there["runs"].keys():
            there["runs"][name] = make(name)
    there["runs"] = {name: there["runs"][name] for name in RUNS}
    EXPECTED.write_text(json.dumps(there) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
