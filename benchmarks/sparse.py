"""In-memory CSR: a certified norm beside solvers that certify nothing, and the fused product.

python -P benchmarks/sparse.py [--entries 7e6] [--columns powerlaw uniform] [--repeats 3]
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import svds
from sklearn.utils.extmath import randomized_svd

import bigspec
from bigspec.kernels import Accumulator
from bigspec.kernels.buffers import Buffers
from bigspec.panels.choose_layout import choose_layout
from bigspec.passes import Pass, find_executor, one_blas_thread

try:
    import primme
except ImportError:
    primme = None

PER_ROW = 100


def make(entries, columns, seed=0):
    """About `entries` counts: rows of 100, columns drawn by a power law or evenly."""
    rng = np.random.default_rng(seed)
    m = max(1000, entries // PER_ROW)
    n = m // 10
    row = np.repeat(np.arange(m, dtype=np.int32), PER_ROW)
    if columns == "powerlaw":
        places = (n * rng.random(len(row)) ** 3).astype(np.int32)  # density ~ c^(-2/3)
        places = rng.permutation(n).astype(np.int32)[places]
    else:
        places = rng.integers(0, n, len(row), dtype=np.int32)
    values = rng.poisson(1.5, len(row)).astype(np.float64) + 1.0
    A = sp.csr_array((values, (row, places)), shape=(m, n))
    A.sum_duplicates()
    return A


def timed(function):
    started = time.perf_counter()
    value = function()
    return time.perf_counter() - started, value


def compare(runs, repeats):
    """Run all in turn, `repeats` times; print medians, spreads and what they returned."""
    seconds, values = {name: [] for name in runs}, {}
    for _ in range(repeats):
        for name, run in runs.items():
            took, values[name] = timed(run)
            seconds[name].append(took)
    return {name: (statistics.median(t), min(t), max(t)) for name, t in seconds.items()}, values


def norms(A, repeats):
    runs = {
        "bigspec rtol=1e-3": lambda: bigspec.norm(A, rtol=1e-3),
        "svds arpack": lambda: float(svds(A, k=1, return_singular_vectors=False)[0]),
        "svds arpack tol=1e-3": lambda: float(
            svds(A, k=1, tol=1e-3, return_singular_vectors=False)[0]
        ),
        "svds propack": lambda: float(
            svds(A, k=1, solver="propack", return_singular_vectors=False)[0]
        ),
        "randomized_svd": lambda: float(randomized_svd(A, 1, random_state=0)[1][0]),
    }
    if primme is not None:
        runs["primme tol=1e-3"] = lambda: float(
            primme.svds(A, 1, tol=1e-3, return_singular_vectors=False)[0]
        )
    taken, values = compare(runs, repeats)
    est = values["bigspec rtol=1e-3"]
    fastest = min(t[0] for name, t in taken.items() if "bigspec" not in name)
    for name, (median, low, high) in taken.items():
        value = values[name]
        said = (
            f"[{est.lower:.4f}, {est.upper:.4f}] {est.passes} passes, block {est.block_size}"
            if value is est
            else f"{value:.4f} ({value / est.lower - 1:+.1e})"
        )
        print(f"  {name:22s} {median:7.2f} s [{low:.2f}-{high:.2f}]  {said}", flush=True)
    ours = taken["bigspec rtol=1e-3"][0]
    print(f"  certified / fastest peer: {ours / fastest:.2f} (wanted <= 1.5)", flush=True)


def products(A, repeats):
    executor = find_executor(True)
    matrix = bigspec.open_matrix(A)
    scratch = Buffers()  # a thread keeps its own for the length of a pass
    for b in (1, 4, 16):
        V = np.random.default_rng(0).standard_normal((A.shape[1], b))

        def fused(V=V):
            total = Accumulator(
                V, A.shape[1], A.dtype, exponent=0, facts=False, transposed=False, buffers=scratch
            )
            total.add_slab([(0, A)])
            return total.partial().Z

        def two(V=V):
            return A.T @ (A @ V)

        layout = choose_layout(
            matrix, b, blocks=6, limit=1 << 40, tasks=executor.tasks, local=executor.local
        )

        def one_pass(V=V, layout=layout):
            return Pass(matrix, layout, executor).run(V, exponent=0).Z

        runs = {"fused": fused, "a pass": one_pass, "two products": two}
        taken, values = compare(runs, repeats + 2)
        assert np.allclose(values["fused"], values["two products"], rtol=1e-9)
        assert np.allclose(values["a pass"], values["two products"], rtol=1e-9)
        theirs = taken["two products"][0]
        print(
            f"  b = {b:2d}: two SciPy products {theirs:6.3f} s; fused on one thread "
            f"{theirs / taken['fused'][0]:.2f} times as fast, a pass on {executor.tasks} threads "
            f"{theirs / taken['a pass'][0]:.2f} times (wanted >= 1)",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=float, default=7e6)
    parser.add_argument("--columns", nargs="+", default=["powerlaw", "uniform"])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for columns in options.columns:
        A = make(int(options.entries), columns)
        print(f"{columns}: {A.shape[0]} x {A.shape[1]}, {A.nnz} entries", flush=True)
        with one_blas_thread():
            products(A, options.repeats)
        norms(A, options.repeats)


if __name__ == "__main__":
    main()
