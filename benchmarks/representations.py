"""Every real matrix in every representation: the full product that the tests take a sample of.

    python -P benchmarks/representations.py [--rtol 1e-8] [FOLDER]

FOLDER holds the matrices (see tests/real.py). Prints one line a matrix, and every pair that failed.
"""

import argparse
import collections
import sys
import tempfile
import time
from pathlib import Path

# In place of this folder, whose coverage.py would be taken for the package (numba imports it).
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[1]))

import bigspec
from tests.real import REFERENCE, load
from tests.representations import REPRESENTATIONS, cannot
from tests.run.test_data import same_interval


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default=Path(__file__).parents[2] / "shared/data")
    parser.add_argument("--rtol", type=float, default=1e-8)
    options = parser.parse_args()
    failures = 0
    print(f"{'matrix':20} {'shape':>13} dtype       same  left out  widest    seconds")
    for name, sigma in REFERENCE.items():
        A, began = load(Path(options.folder), name), time.perf_counter()
        count, widths = collections.Counter(), [0.0]
        dense = bigspec.norm(A, rtol=options.rtol, algorithm="lanczos", block_size=16, seed=1)
        for kind, make in REPRESENTATIONS.items():
            if cannot(kind, A):
                count["left out"] += 1
                continue
            with tempfile.TemporaryDirectory() as folder:
                est = bigspec.norm(
                    make(A, Path(folder)),
                    rtol=options.rtol,
                    algorithm="lanczos",
                    block_size=16,
                    seed=1,
                )
            widths.append(est.width)
            wrong = same_interval(est, dense, sigma, options.rtol)
            count["wrong" if wrong else "same"] += 1
            if wrong:
                failures += 1
                print(f"  FAILED {name} as {kind}: {wrong}")
        seconds, shape = time.perf_counter() - began, f"{A.shape[0]} x {A.shape[1]}"
        print(
            f"{name:20} {shape:>13} {A.dtype.name:11} {count['same']:4} {count['left out']:9}"
            f"  {max(widths):.2e}  {seconds:7.1f}",
            flush=True,
        )
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
