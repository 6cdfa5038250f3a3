"""Faults on schedule, many of them (the suite has the same, fewer: `tests/checkpoint`).

    python -P benchmarks/faults.py kills                  # kill -9 at 200 moments, all algorithms
    python -P benchmarks/faults.py kills --kills 1000 --seed 7 --jobs 2

One row an algorithm. Each run is killed one to five times, at panels and at the file operations of
its checkpoint, before, inside and after them, and must finish with the bits of a run that was
never saved; what is read twice is counted and bounded (`tests.checkpoint.killing.check`). Half of
the runs wait for each save, every 15 panels, so that each kill falls where it was drawn; the
others save beside reading, as often as they can. The exit status is 1 if anything fails.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.checkpoint.killing import ROWS, Runner, check, drawn_kills, make_matrix

INTERVAL = 40  # panels


@dataclass
class Tally:
    """What came of the runs of one row."""

    runs: int = 0
    kills: Counter = field(default_factory=Counter)  # (at, phase) -> how many
    again: Counter = field(default_factory=Counter)  # waited -> panels read twice
    most: Counter = field(default_factory=Counter)  # waited -> after one kill
    by_mode: Counter = field(default_factory=Counter)  # waited -> kills
    failures: list = field(default_factory=list)
    seconds: float = 0.0

    def take(self, chain, waited):
        self.runs += 1
        self.kills.update((kill.what, kill.phase) for kill in chain.killed)
        self.by_mode[waited] += len(chain.killed)
        self.again[waited] += chain.again
        self.most[waited] = max(self.most[waited], chain.most)


def one_row(row, wanted, seed, folder):
    """Kill runs of one row until `wanted` kills have hit."""
    rng, tally, started = random.Random(f"{seed} {row}"), Tally(), time.perf_counter()
    with Runner() as runner:
        reference = runner.reference(row, folder)
        place = folder / row.replace(" ", "-").replace(",", "")
        whole = runner.chain(row, place, [], matrices=folder, interval=INTERVAL)
        panels, writes = reference["panels"] * reference["passes"], len(whole.writes())
        while tally.kills.total() < wanted:
            waited = rng.random() < 0.5
            count = min(rng.randint(1, 5), wanted - tally.kills.total())
            share = min(1.0, 1.5 / count)  # of the run, so that the last kills still hit it
            kills = drawn_kills(rng, count, panels=int(panels * share), writes=int(writes * share))
            options = {"matrices": folder, "waited": waited, "interval": INTERVAL * waited}
            try:
                chain = runner.chain(row, place, kills, **options)
                check(chain, reference, interval=INTERVAL if waited else None)
            except AssertionError as error:
                tally.failures.append(f"{row}, waited={waited}, {kills}: {error}")
                tally.kills["failed", ""] += count
                continue
            tally.take(chain, waited)
    tally.seconds = time.perf_counter() - started
    return row, tally


def kills(options):
    rows = [row for row in ROWS if options.rows is None or options.rows in row]
    shares = [
        options.kills // len(rows) + (k < options.kills % len(rows)) for k in range(len(rows))
    ]
    heading = ("algorithm", "runs", "kills", "at panels", "at writes", "read twice a kill (most)")
    print("{:24} {:>5} {:>6} {:>10} {:>10}  {:34} {:>7}".format(*heading, "seconds"))
    print("{:24} {:>5} {:>6} {:>10} {:>10}  {:17}{:17}".format(*[""] * 5, "waited", "beside"))
    phases, failures, done = Counter(), [], 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        for row in rows:
            make_matrix(row, folder)
        work = [
            pool.submit(one_row, r, n, options.seed, Path(folder))
            for r, n in zip(rows, shares, strict=True)
        ]
        for future in work:
            row, tally = future.result()
            at = Counter()
            for (what, _), number in tally.kills.items():
                at[what] += number
            twice = "".join(f"{rate(tally, waited):17}" for waited in (True, False))
            count = at["panel"] + at["write"]
            line = f"{row:24} {tally.runs:5} {count:6} {at['panel']:10} {at['write']:10}  {twice}"
            verdict = f"{len(tally.failures)} FAILED" if tally.failures else "ok"
            print(f"{line} {tally.seconds:7.0f}  {verdict}", flush=True)
            phases += tally.kills
            failures += tally.failures
            done += count
    print(", ".join(f"{what} {phase}: {n}" for (what, phase), n in sorted(phases.items())))
    print(f"{done} kills, {len(failures)} runs failed")
    for failure in failures:
        print(f"\n{failure}", file=sys.stderr)
    return int(bool(failures) or done < options.kills)


def rate(tally, waited):
    if not tally.by_mode[waited]:
        return "-"
    mean = tally.again[waited] / tally.by_mode[waited]
    return f"{mean:.1f} ({tally.most[waited]})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    jobs = parser.add_subparsers(required=True)
    job = jobs.add_parser("kills", help="kill -9 of the whole process")
    job.add_argument("--kills", type=int, default=200)
    job.add_argument("--rows", help="part of an algorithm's name")
    job.add_argument("--seed", type=int, default=0)
    job.add_argument("--jobs", type=int, default=1, help="rows at once")
    job.set_defaults(run=kills)
    options = parser.parse_args()
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
