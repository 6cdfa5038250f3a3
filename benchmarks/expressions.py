"""A pass over an expression beside the pass over its operand, and beside dask's own expression.

python -P benchmarks/expressions.py DIR [--rows 20000]  # makes two matrices of rows x 10000 float32
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import dask.array as da
import numpy as np
import scipy.sparse as sp
import zarr
from zarr.codecs import BloscCodec

import bigspec
from bigspec.panels.choose_layout import choose_layout
from bigspec.passes import Pass, find_executor, one_blas_thread
from bigspec.passes.products.images import Images

COLUMNS, BLOCK, RANK = 10_000, 8, 20


def make(folder, name, rows, chunk, across=COLUMNS):
    path = folder / f"{name}-{rows}.zarr"
    if not path.exists():
        rng = np.random.default_rng(len(name))
        codec = BloscCodec(cname="lz4", shuffle="bitshuffle", clevel=5)
        store = zarr.create_array(
            path, shape=(rows, COLUMNS), chunks=(chunk, across), dtype="f4", compressors=codec
        )
        for start in range(0, rows, chunk):
            part = rng.standard_normal((min(chunk, rows - start), COLUMNS), dtype="f4")
            store[start : start + chunk] = np.round(part * 2**10) / 2**10
    return path


def one_pass(matrix):
    """Return a function that makes one pass of a block over the matrix."""
    executor = find_executor(matrix.resident)
    limit = executor.memory() // 2
    layout = choose_layout(matrix, BLOCK, blocks=6, limit=limit, tasks=executor.tasks, local=True)
    V = np.random.default_rng(0).standard_normal((layout.iterate_length, BLOCK))

    def run():
        with one_blas_thread():
            Pass(matrix, layout, executor).run(V, exponent=0)

    return run


def product(A, B, repeats):
    """The norm of ``A @ B`` as it is, and with the image of every block read."""
    find, taken = Images.find, {"images carried": [], "images read": []}
    for _ in range(repeats):
        for how in taken:
            Images.find = find if how == "images carried" else lambda self, V: None
            est = bigspec.norm(A @ B, rtol=1e-3, seed=1)
            taken[how].append((est.seconds, est.passes, est.bytes_read))
    Images.find = find
    for how, runs in taken.items():
        seconds, (_, passes, read) = statistics.median(run[0] for run in runs), runs[0]
        print(
            f"A @ B, {how:16s} {seconds:6.2f} s, {passes} passes, {read / 1e9:.2f} GB", flush=True
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    paths = [make(options.folder, *spec, options.rows, chunk)
             for spec, chunk in ((("A",), 1000), (("copy",), 1000), (("other",), 750))]  # fmt: skip
    A, B, C = map(bigspec.open_matrix, paths)
    rng = np.random.default_rng(0)
    U, Vh = rng.standard_normal((options.rows, RANK)), rng.standard_normal((RANK, COLUMNS))
    S = bigspec.open_matrix(sp.random(10 * options.rows, COLUMNS, 1e-3, format="csr", rng=rng))
    x = rng.standard_normal((COLUMNS, BLOCK))
    D = da.from_zarr(paths[0]) - da.from_zarr(paths[1])
    E = da.from_zarr(paths[0]) - da.from_zarr(paths[2])

    def dask(expression):
        return lambda: (expression.T @ (expression @ x)).compute()

    table = {
        "A": one_pass(A),
        "A - B, same chunks": one_pass(A - B),
        "A - C, other chunks": one_pass(A - C),
        f"A - U S V^H, rank {RANK}": one_pass(A - bigspec.low_rank(U, None, Vh)),
        "centered(A)": one_pass(bigspec.centered(A)),
        "dask: (A - B).T @ ((A - B) @ x)": dask(D),
        "dask: (A - C).T @ ((A - C) @ x)": dask(E),
        "sparse S": one_pass(S),
        "centered(S)": one_pass(bigspec.centered(S)),
    }
    seconds = {name: [] for name in table}
    for _ in range(options.repeats):
        for name, run in table.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    for name, times in seconds.items():
        base = "sparse S" if "S" in name and "U S" not in name else "A"
        median = statistics.median(times)
        ratio = median / statistics.median(seconds[base])
        spread = f"[{min(times):.2f}-{max(times):.2f}]"
        print(f"{name:34s} {median:6.2f} s {spread:14s} {ratio:5.2f} times {base}", flush=True)
    path = make(options.folder, "square", COLUMNS, 1000, across=1000)
    product(A, bigspec.open_matrix(path), options.repeats)


if __name__ == "__main__":
    main()
