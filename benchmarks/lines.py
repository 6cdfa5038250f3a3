"""Straight lines: the time of a pass against bytes, workers, n and b, beside what others take.

python -P benchmarks/lines.py bytes DIR [--most 32]  # GB on disk, cold and warm, and peers
python -P benchmarks/lines.py workers                # LocalCluster(1, 2); 2 to 64 that sleep
python -P benchmarks/lines.py shape                  # n and b, in memory
python -P benchmarks/lines.py draw docs/lines.svg    # the last results of all three
python -P benchmarks/lines.py table docs/performance.md

Each part puts its medians into lines.json beside this script, for `draw` and `table`. Files
leave the page cache by posix_fadvise before a cold pass. Wall times; b = 16 if nothing is said.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

import bigspec
from bigspec.matrices import Grid, Matrix

RESULTS = Path(__file__).with_name("lines.json")
WIDTH, ROWS = 2500, 4000  # a chunk: 40 MB of float32
PASSES = {
    "cold": "first pass, files out of the page cache",
    "warm": "later passes",
    "dask A.T @ (A @ x)": "dask `A.T @ (A @ x)`",
    "dask svd_compressed, k = 16": "dask `svd_compressed`, k = 16, whole answer",
}
ANSWERS = {
    "bigspec.norm, rtol 1e-3": "**`bigspec.norm`, rtol 1e-3, from disk**",
    "scipy svds, k = 1": "SciPy `svds`, k = 1, from memory",
    "PRIMME svds, k = 1, tol 1e-3": "PRIMME `svds`, k = 1, tol 1e-3, from memory",
    "sklearn randomized_svd, k = 1": "scikit-learn `randomized_svd`, k = 1, from memory",
    "xeofs EOF, one mode": "xeofs `EOF`, one mode, from memory",
}
BEGIN, END = "<!-- lines: begin -->", "<!-- lines: end -->"


def note(part, rows):
    """Keep the rows of a part."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(known | {part: rows}, indent=1))


def wall(call):
    """Wall seconds of a call."""
    before = time.perf_counter()
    call()
    return time.perf_counter() - before


def passes(matrix, count=3, **options):
    """Median seconds of the passes after the first, each of which reads everything."""
    asked = {"algorithm": "lanczos", "block_size": 16, "seed": 1, "rtol": 1e-12, "pin": False}
    asked |= options
    est = bigspec.norm(matrix, max_passes=count, **asked)
    return statistics.median(one.seconds for one in est.history[1:])


def store(folder, gigabytes):
    """A store of so many GB: one chunk of noise, copied, so that making it costs only the disk."""
    chunks = max(1, round(gigabytes * 1e9 / (4 * WIDTH * ROWS)))
    path = folder / f"{gigabytes}.zarr"
    array = zarr.create_array(
        path, shape=(chunks * ROWS, WIDTH), chunks=(ROWS, WIDTH), dtype="f4", overwrite=True
    )
    array[:ROWS] = np.random.default_rng(0).standard_normal((ROWS, WIDTH), "f4")
    for number in range(1, chunks):
        (path / "c" / str(number)).mkdir()
        shutil.copyfile(path / "c" / "0" / "0", path / "c" / str(number) / "0")
    return path


def forget(path):
    """Put the files of a store on disk and out of the page cache."""
    for file in path.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def by_bytes(folder, most):
    """A pass against the size of the store, cold and warm; peers from the same store."""
    import dask.array as da

    rows = []
    size = 0.5
    while size <= most:
        path = store(folder, size)
        row = {"GB": size}
        forget(path)
        row["cold"] = (
            bigspec.norm(path, max_passes=1, algorithm="lanczos", block_size=16, seed=1)
            .history[0]
            .seconds
        )
        row["warm"] = passes(path)
        A = da.from_zarr(path)
        x = np.random.default_rng(1).standard_normal((WIDTH, 16))
        row["dask A.T @ (A @ x)"] = wall(lambda A=A, x=x: (A.T @ (A @ x)).compute())
        if size <= 4:
            row["dask svd_compressed, k = 16"] = wall(
                lambda A=A: da.compute(*da.linalg.svd_compressed(A, 16, n_power_iter=1, seed=1))
            )
        if size <= 2:
            row |= in_memory(path)
        rows.append(row)
        print(row, flush=True)
        shutil.rmtree(path)
        note("bytes", rows)
        size *= 2


def in_memory(path):
    """Whole answers of libraries that hold the matrix, and of bigspec from the store."""
    from scipy.sparse.linalg import svds
    from sklearn.utils.extmath import randomized_svd

    A = zarr.open_array(path, mode="r")[:]
    found = {
        "bigspec.norm, rtol 1e-3": wall(lambda: bigspec.norm(path, seed=1)),
        "scipy svds, k = 1": wall(lambda: svds(A, 1)),
        "sklearn randomized_svd, k = 1": wall(lambda: randomized_svd(A, 1, random_state=1)),
    }
    try:
        import primme

        found["PRIMME svds, k = 1, tol 1e-3"] = wall(lambda: primme.svds(A, 1, tol=1e-3))
    except ImportError:
        pass
    try:
        import xarray as xr
        from xeofs.single import EOF
    except ImportError:
        return found
    field = xr.DataArray(A, dims=("time", "x"), coords={"time": range(len(A)), "x": range(WIDTH)})
    found["xeofs EOF, one mode"] = wall(lambda: EOF(n_modes=1).fit(field, dim="time"))
    return found


@dataclass(frozen=True)
class Slow(Matrix):
    """A matrix whose reads only wait, as for a disk that is shared."""

    seconds: float = 0.1

    @property
    def identity(self):
        return {"kind": "slow", "shape": list(self.shape)}

    def read(self, rows, columns, buffers):
        time.sleep(self.seconds)
        return np.ones((rows.stop - rows.start, columns.stop - columns.start), "f4")


def by_workers(folder):
    """A pass against the number of workers."""
    from distributed import Client, LocalCluster

    rows, path = [], store(folder, 1)
    for count in (1, 2):
        options = {"n_workers": count, "threads_per_worker": 1, "dashboard_address": ":0"}
        with LocalCluster(**options) as cluster, Client(cluster):
            rows.append({"workers": count, "reads": "disk", "seconds": passes(path)})
        print(rows[-1], flush=True)
    shutil.rmtree(path)
    panel, panels = 16_384, 256  # rows of a panel of the least size, 4 MiB
    grids = Grid(panel * panels, panel), Grid(64, 64)
    slow = Slow((panel * panels, 64), np.dtype("f4"), "slow", grids, seconds=0.25)
    options = {"processes": False, "threads_per_worker": 1, "dashboard_address": ":0"}
    options["memory_limit"] = 0  # all are in this process, and each would count its memory
    for count in (2, 4, 8, 16, 32, 64):
        with LocalCluster(n_workers=count, **options) as cluster, Client(cluster):
            seconds = passes(slow, count=2, block_size=1)
        rows.append({"workers": count, "reads": "sleep", "seconds": seconds})
        print(rows[-1], flush=True)
    note("workers", rows)


def by_shape():
    """A pass over 0.5 GB in memory against the short side n and the block b."""
    rows, entries = [], 125_000_000
    pool = np.random.default_rng(0).standard_normal(entries, "f4")
    for n in (250, 500, 1000, 2500, 5000, 10_000, 50_000):
        A = pool[: entries // n * n].reshape(-1, n)
        orientation = "n" if len(A) >= n else "m"
        rows.append({orientation: min(A.shape), "b": 16, "seconds": passes(A)})
        print(rows[-1], flush=True)
    A = pool.reshape(-1, WIDTH)
    for b in (1, 2, 4, 8, 16, 32, 64, 128):
        rows.append({"n": WIDTH, "b": b, "seconds": passes(A, block_size=b)})
        print(rows[-1], flush=True)
    note("shape", rows)


def draw(path):
    """Draw all that was measured: seconds against each.

    What should be proportional has two logarithmic axes, on which it is a straight line.
    """
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams |= {"svg.hashsalt": "bigspec", "svg.fonttype": "none", "font.size": 9}
    known = json.loads(RESULTS.read_text())
    figure, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
    first, second, third, fourth = axes.flat
    kinds = ("cold", "warm", "dask A.T @ (A @ x)", "dask svd_compressed, k = 16")
    for kind in kinds:
        line(first, [(row["GB"], row[kind]) for row in known["bytes"] if kind in row], kind)
    first.set(xlabel="GB on disk", ylabel="seconds a pass (svd_compressed: all)")
    for reads in ("disk", "sleep"):
        some = [(r["workers"], r["seconds"]) for r in known["workers"] if r["reads"] == reads]
        line(second, some, f"reads: {reads}")
    second.set(xlabel="workers of one thread", ylabel="seconds a pass")
    shapes = known["shape"]
    line(
        third, [(r["n"], r["seconds"]) for r in shapes if r["b"] == 16 and "n" in r][:-1], "b = 16"
    )
    third.set(xlabel="n, of 0.5 GB in memory", ylabel="seconds a pass")
    line(fourth, [(r["b"], r["seconds"]) for r in shapes[7:]], f"n = {WIDTH}")
    fourth.set(xlabel="b, of 0.5 GB in memory", ylabel="seconds a pass")
    for part in axes.flat:
        part.set_xscale("log", base=2)
        part.xaxis.set_major_formatter("{x:g}")
        if part is third:
            part.set_ylim(0, 1.5 * part.get_ylim()[1])
        else:
            part.set_yscale("log", base=2)
            part.yaxis.set_major_formatter("{x:g}")
        part.legend(frameon=False)
        part.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def line(axes, points, name):
    """Draw one line, if anything of it was measured."""
    if not points:
        return
    axes.plot(*zip(*points, strict=True), marker="o", label=name)


def table(kinds, rows, head):
    """The lines of a table: a row for each kind, a column for each size that has any of them."""
    rows = [row for row in rows if any(kind in row for kind in kinds)]
    yield "".join([f"| {head} |", *(f" {row['GB']:g} GB |" for row in rows)])
    yield "|--" * (len(rows) + 1) + "|"
    for kind, title in kinds.items():
        cells = [f" {row[kind]:#.3g} s |" if kind in row else " |" for row in rows]
        yield "".join([f"| {title} |", *cells]).replace(". s", " s")


def write(path):
    """Put the tables of bytes between their marks."""
    rows = json.loads(RESULTS.read_text())["bytes"]
    lines = [*table(PASSES, rows, "float32 on disk, b = 16"), "", *table(ANSWERS, rows, "answers")]
    before, _, rest = path.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text("\n".join([f"{before}{BEGIN}", "", *lines, "", f"{END}{after}"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["bytes", "workers", "shape", "draw", "table"])
    parser.add_argument("place", nargs="?", type=Path, default=Path())
    parser.add_argument("--most", type=float, default=32)
    asked = parser.parse_args()
    if asked.what == "bytes":
        by_bytes(asked.place, asked.most)
    elif asked.what == "workers":
        by_workers(asked.place)
    elif asked.what == "shape":
        by_shape()
    elif asked.what == "table":
        write(asked.place)
    else:
        draw(asked.place)
