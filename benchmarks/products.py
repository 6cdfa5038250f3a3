"""Products of a pass: NumPy, the compiled package, and what was tried besides.

python -P benchmarks/products.py kernels       # one thread: convert, multiply, multiply back
python -P benchmarks/products.py passes DIR    # whole passes over a 2 GB float32 store

The package is installed for this: pip install ./deploy/compiled. CPU seconds, medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import zarr
from threadpoolctl import threadpool_limits

import bigspec
from bigspec.kernels import Accumulator
from bigspec.kernels.compiled import COMPILED, NUMPY

ENTRIES, REPEATS = 10_000_000, 7
SHAPES = [(n, b) for n in (512, 2500, 10_000, 200_000) for b in (1, 4, 8, 16, 32)]


def seconds(call):
    """Median CPU seconds of a call."""
    taken = []
    for _ in range(REPEATS):
        before = time.process_time()
        call()
        taken.append(time.process_time() - before)
    return statistics.median(taken)


def product(S, V, kernel):
    """One slab through the accumulator of a pass."""
    total = Accumulator(
        V, S.shape[1], S.dtype, exponent=0, facts=False, transposed=False, kernel=kernel
    )
    total.add_slab([(0, S)])


def in_float32(S, V, rows=64):
    """Both products in float32, summed in float64 over tiles of 64 rows: not used."""
    Z, V = np.zeros(V.shape), V.astype("f4")
    for start in range(0, len(S), rows):
        tile = S[start : start + rows]
        Z += tile.T @ (tile @ V)


def kernels():
    """Print the table of docs/performance.md."""
    print("| n | b | float32: NumPy | compiled | ratio | float64: NumPy | compiled | ratio |")
    print("|--|--|--|--|--|--|--|--|")
    ratios = []
    rng = np.random.default_rng(0)
    for n, b in SHAPES:
        V, line = np.linalg.qr(rng.standard_normal((n, b)))[0], [f"| {n} | {b} |"]
        for dtype in ("f4", "f8"):
            S = rng.standard_normal((ENTRIES // n, n)).astype(dtype)
            plain = seconds(lambda S=S, V=V: product(S, V, NUMPY))
            ours = seconds(lambda S=S, V=V: product(S, V, COMPILED))
            ratios.append(ours / plain)
            line.append(f" {plain * 1e3:.1f} ms | {ours * 1e3:.1f} | {ours / plain:.2f} |")
        print("".join(line), flush=True)
    print(f"median ratio {statistics.median(ratios):.2f}, largest {max(ratios):.2f}")
    S = rng.standard_normal((ENTRIES // 2500, 2500)).astype("f4")
    V = np.linalg.qr(rng.standard_normal((2500, 16)))[0]
    ratio = seconds(lambda: in_float32(S, V)) / seconds(lambda: product(S, V, NUMPY))
    print(f"float32 products with float64 sums over tiles, n = 2500, b = 16: {ratio:.2f} of NumPy")


def passes(folder):
    """Whole passes over a store, by both kernels in turns."""
    path = folder / "products.zarr"
    if not path.exists():
        array = zarr.create_array(path, shape=(200_000, 2500), chunks=(4000, 2500), dtype="f4")
        rng = np.random.default_rng(0)
        for start in range(0, 200_000, 4000):
            array[start : start + 4000] = rng.standard_normal((4000, 2500), "f4")
    taken = {NUMPY: [], COMPILED: []}
    for _ in range(3):
        for kernel in taken:
            run_with(kernel, path, taken[kernel])
    for kernel, rows in taken.items():
        read, multiplied, wall = (statistics.median(column) for column in zip(*rows, strict=True))
        print(
            f"{kernel}: a pass {wall:.2f} s; core-seconds reading {read:.2f}, "
            f"multiplying {multiplied:.2f}"
        )


def run_with(kernel, path, rows):
    """Note the costs of the passes after the first one."""
    from bigspec.run import planner

    planner.available = lambda: kernel == COMPILED
    est = bigspec.norm(path, algorithm="lanczos", block_size=16, max_passes=4, seed=1, pin=False)
    assert est.layout["kernel"] == kernel
    rows += [(one.seconds_reading, one.seconds_multiplying, one.seconds) for one in est.history[1:]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["kernels", "passes"])
    parser.add_argument("folder", nargs="?", type=Path)
    asked = parser.parse_args()
    with threadpool_limits(1):
        kernels() if asked.what == "kernels" else passes(asked.folder)
