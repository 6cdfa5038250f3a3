"""Dense passes side by side with dask.array in one run: ratios of medians, memory, overhead.

python -P benchmarks/dense.py make DIR            # the 4 GB float32 matrix, once
python -P benchmarks/dense.py passes DIR          # one pass, b = 8, against A.T @ (A @ x)
python -P benchmarks/dense.py norm DIR            # norm(rtol=1e-3) against svd_compressed
python -P benchmarks/dense.py memory DIR          # peak memory under memory_limit="1GiB"
python -P benchmarks/dense.py panels DIR          # 10 000 tiny panels on a cluster
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import dask.array as da
import numpy as np
import zarr
from distributed import Client, LocalCluster
from zarr.codecs import BloscCodec

import bigspec
from bigspec.panels.choose_layout import choose_layout
from bigspec.passes import Pass, find_executor, one_blas_thread

SHAPE, CHUNKS = (100_000, 10_000), (1_000, 10_000)  # 4 GB in chunks of 40 MB


def make(folder):
    """Low rank with sigma_i ~ 1/i plus noise, rounded to 14 bits: compresses 2.4 times."""
    path = folder / "dense.zarr"
    if path.exists():
        return
    rng = np.random.default_rng(0)
    rank = 64
    U = rng.standard_normal((SHAPE[0], rank)) / np.arange(1, rank + 1)
    V = np.linalg.qr(rng.standard_normal((SHAPE[1], rank)))[0]
    codec = BloscCodec(cname="lz4", shuffle="bitshuffle", clevel=5)
    store = zarr.create_array(path, shape=SHAPE, chunks=CHUNKS, dtype="f4", compressors=codec)
    for start in range(0, SHAPE[0], CHUNKS[0]):
        rows = slice(start, start + CHUNKS[0])
        noise = 1e-4 * rng.standard_normal(CHUNKS, dtype="f4")
        store[rows] = np.round((U[rows] @ V.T + noise) * 2**14).astype("f4") / 2**14
    tiny = zarr.create_array(
        folder / "tiny.zarr", shape=(100_000, 64), chunks=(10, 64), dtype="f4", compressors=None
    )
    tiny[:] = rng.standard_normal(tiny.shape)


@contextlib.contextmanager
def on(where):
    if where == "threads":
        yield
        return
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as c, Client(c):
        yield


def timed(function):
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def report(name, ours, theirs, target):
    ours_, theirs_ = statistics.median(ours), statistics.median(theirs)
    print(
        f"{name:28s} bigspec {ours_:6.2f} s [{min(ours):.2f}-{max(ours):.2f}]   "
        f"peer {theirs_:6.2f} s [{min(theirs):.2f}-{max(theirs):.2f}]   "
        f"ratio {theirs_ / ours_:5.2f} (wanted >= {target})",
        flush=True,
    )


def one_pass(matrix, b, **changes):
    executor = find_executor(False)
    layout = choose_layout(
        matrix, b, blocks=6, limit=1 << 30, tasks=executor.tasks, local=executor.local
    )
    return Pass(matrix, replace(layout, **changes), executor)


def passes(folder, repeats=5):
    matrix = bigspec.open_matrix(folder / "dense.zarr")
    x = np.random.default_rng(0).standard_normal(SHAPE[1]).astype("f4")
    V = np.linalg.qr(np.random.default_rng(0).standard_normal((SHAPE[1], 8)))[0]
    for where in ("threads", "LocalCluster(2)"):
        with on(where):
            A = da.from_zarr(str(folder / "dense.zarr"))
            ours, first, theirs = [], [], []
            runner = one_pass(matrix, 8)
            with one_blas_thread():
                runner.run(V)
            for _ in range(repeats):
                theirs.append(timed((A.T @ (A @ x)).compute))
                with one_blas_thread():
                    ours.append(timed(partial(runner.run, V, exponent=0)))
                    first.append(timed(partial(runner.run, V)))
            report(f"pass, {where}", ours, theirs, 1.8)
            report(f"first pass, {where}", first, theirs, 1.8)


def norm(folder, repeats=2):
    path = folder / "dense.zarr"
    A = da.from_zarr(str(path))
    ours, theirs = [], []

    def peer():
        s = da.linalg.svd_compressed(A, k=1, iterator="QR", n_power_iter=2, compute=True)[1]
        peer.value = float(s.compute()[0])

    for _ in range(repeats):
        ours.append(timed(lambda: setattr(norm, "est", bigspec.norm(path, rtol=1e-3))))
        theirs.append(timed(peer))
    report("norm(rtol=1e-3), threads", ours, theirs, 4)
    est = norm.est
    print(f"  bigspec [{est.lower:.6f}, {est.upper:.6f}] in {est.passes} passes; {est.choices}")
    print(f"  svd_compressed {peer.value:.6f}, no bound")


CHILD = """
import sys, bigspec
def peak():
    lines = open("/proc/self/status").readlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("VmHWM")) / 2**20
if __name__ == "__main__":
    if sys.argv[2] == "threads":
        bigspec.norm(sys.argv[1], rtol=1e-3, memory_limit="1GiB", seed=1)
        print(f"process {peak():.2f} GiB")
    else:
        from distributed import Client, LocalCluster
        options = {"threads_per_worker": 1, "dashboard_address": ":0"}
        with LocalCluster(n_workers=2, **options) as c, Client(c) as client:
            bigspec.norm(sys.argv[1], rtol=1e-3, memory_limit="1GiB", seed=1)
            workers = ", ".join(f"{v:.2f} GiB" for v in client.run(peak).values())
            print(f"client {peak():.2f} GiB, workers {workers}")
"""


def memory(folder):
    script = folder / "child.py"
    script.write_text(CHILD)
    for where in ("threads", "LocalCluster(2)"):
        command = [sys.executable, str(script), str(folder / "dense.zarr"), where]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"peak memory, {where}: {out.strip()} (wanted < 1.5 GiB each)", flush=True)


def panels(folder):
    matrix = bigspec.open_matrix(folder / "tiny.zarr")
    V = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 4)))[0]
    with on("cluster"), one_blas_thread():
        for label, changes in (
            ("as planned", {}),
            ("one task each", {"panel_pieces": 1, "slab_pieces": 1}),
        ):
            runner = one_pass(matrix, 4, **changes)
            seconds, held = [], []
            for _ in range(6):
                seconds.append(timed(partial(runner.run, V, exponent=0)))
                held.append(resident())
            print(
                f"10 000 chunks {label}: {runner.layout.panels} tasks, "
                f"{statistics.median(seconds) * 1e3 / 10_000:.3f} ms a chunk a pass "
                f"(wanted < 1.5); client memory after each pass "
                f"{', '.join(f'{h:.0f}' for h in held)} MiB",
                flush=True,
            )


def resident():
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in x)
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["make", "passes", "norm", "memory", "panels"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    globals()[arguments.part](arguments.folder)
