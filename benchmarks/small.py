"""Small matrices in memory: what a norm costs, and which part of it are the products.

python -P benchmarks/small.py          # medians of CPU and wall time, shares of a profile

CPU time of one BLAS thread does not count what others do on the machine, but their caches and
turbo are shared: compare only runs made in turns.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import statistics
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

import bigspec

SHARES = {  # of a profile: cumulative time of these functions
    "passes": ("single.py", "run"),
    "certificate": ("bounds.py", "bound_largest"),
    "block_lanczos": ("recurrence.py", "_extend"),
    "versions": ("identity.py", "versions"),
}


def matrices():
    """The issue's two, and what else is small."""
    rng = np.random.default_rng(0)
    return {
        "64 x 64": rng.standard_normal((64, 64)),
        "1000 x 1000": rng.standard_normal((1000, 1000)),
        "20000 x 100, CSR": sp.random_array((20_000, 100), density=0.05, rng=1, format="csr"),
    }


def times(a, repeats):
    """Medians of the CPU and the wall time of a norm, in milliseconds."""
    cpu, wall = [], []
    bigspec.norm(a, seed=1)
    for _ in range(repeats):
        before = time.process_time(), time.perf_counter()
        estimate = bigspec.norm(a, seed=1)
        cpu.append(time.process_time() - before[0])
        wall.append(time.perf_counter() - before[1])
    return 1e3 * statistics.median(cpu), 1e3 * statistics.median(wall), estimate


def shares(a, repeats):
    """Which share of a profile each part takes."""
    profile = cProfile.Profile()
    for _ in range(repeats):
        profile.runcall(bigspec.norm, a, seed=1)
    stats = pstats.Stats(profile).stats
    found = {}
    for (path, _, function), (_, _, _, total, _) in stats.items():
        found[Path(path).name, function] = total
    whole = max(found.values())  # the norm itself
    return {name: found.get(place, 0.0) / whole for name, place in SHARES.items()}


def main():
    """Print a line a matrix."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, a in matrices().items():
        cpu, wall, estimate = times(a, repeats)
        parts = ", ".join(f"{part} {share:.0%}" for part, share in shares(a, repeats).items())
        how = f"{estimate.algorithm}, {estimate.passes} pass(es), {estimate.layout['where']}"
        print(f"{name}: CPU {cpu:.1f} ms, wall {wall:.1f} ms ({how}); {parts}")


if __name__ == "__main__":
    main()
