"""How often the certificate fails, measured: 200 000 runs a cell (`tests/monte_carlo.py`).

    python -P benchmarks/coverage.py --runs 200000 --jobs 2                 # all cells
    python -P benchmarks/coverage.py --cells lanczos-real-b16-cold --delta 0.01
    python -P benchmarks/coverage.py --cells b4 --cells power-complex       # parts of names

One row a cell: the bare tau_0 must fail within four binomial standard deviations of its delta, on
both sides; the whole interval at most that often. In rows of triplets (``svds``), "bare" is their
event of windows, a union bound, which fails at most that often. The exit status is 1 if a row does
not.
"""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: the matrices are tiny
sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.monte_carlo import (
    CELLS,
    DELTA,
    TOP_CELLS,
    Tally,
    TopCell,
    assert_failure_rate,
    binomial_sd,
    simulate,
    simulate_top,
)

BATCH = 2000


def judge(tally, delta, at_most):
    try:
        assert_failure_rate(tally.bare, tally.runs, delta, at_most=at_most)
        assert_failure_rate(tally.whole, tally.runs, delta, at_most=True)
    except AssertionError as error:
        return str(error)
    return "ok"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200_000, help="a cell")
    parser.add_argument("--cells", action="append", help="part of a name; may be repeated")
    parser.add_argument("--delta", type=float, default=DELTA)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    parts = options.cells or [""]
    cells = [
        replace(c, delta=options.delta)
        for c in [*CELLS, *TOP_CELLS]
        if any(p in c.name for p in parts)
    ]
    print(f"{options.runs} runs a cell, seeds fixed; bare: tau_0; interval: all upper bounds")
    heading = ("cell", "nominal", "bare", "interval", "sd", "seconds")
    print("{:28} {:>9} {:>9} {:>9} {:>9} {:>8}".format(*heading))
    failed = False
    with ProcessPoolExecutor(options.jobs) as pool:
        for cell in cells:
            started = time.perf_counter()
            firsts = range(0, options.runs, BATCH)
            counts = [min(BATCH, options.runs - first) for first in firsts]
            top = isinstance(cell, TopCell)
            run = simulate_top if top else simulate
            batches = pool.map(run, [cell] * len(firsts), firsts, counts)
            tally = sum(batches, Tally())
            bare, whole = tally.bare / tally.runs, tally.whole / tally.runs
            sd = binomial_sd(tally.runs, cell.delta)
            verdict = judge(tally, cell.delta, top)
            failed |= verdict != "ok"
            row = f"{cell.name:28} {cell.delta:9.5f} {bare:9.5f} {whole:9.5f} {sd:9.5f}"
            print(f"{row} {time.perf_counter() - started:8.1f}  {verdict}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
