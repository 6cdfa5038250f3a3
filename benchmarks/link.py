"""A pass over a slow link: against raw requests for the same bytes, and against the local copy.

python -P benchmarks/link.py DIR [--before CHECKOUT] [--pins] [--write docs/performance.md]

With --pins instead: the first pass of a run and the later ones, where all panels stay in memory,
half of them, and none.

A folder is served on loopback with 50 ms a request and 200 MB/s for all requests together, by
`tools/slow_store.py` of the folder that BIGSPEC_SHARED names. CHECKOUT is an older version of this
repository, to compare. Needs aiohttp and obstore. Medians of one run, wall times and CPU times;
server and reader share the cores. On a machine that is not quiet the CPU time of a pass beside
that of the local pass says what the link costs.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import zarr

URL = "http://127.0.0.1:8765"
AT_ONCE, ROUNDS, COLUMNS = 64, 5, 8
DENSE = {
    "1.3 MB": {"chunks": (500, 2000)},
    "13 MB": {"chunks": (5000, 2000)},
    "67 kB": {"chunks": (25, 2000)},
    "1.3 MB, shards of ten": {"chunks": (50, 2000), "shards": (500, 2000)},
}
SPARSE = "sparse rows, 0.4 MB"
MARKS = "<!-- {0}: begin -->", "<!-- {0}: end -->"
PASSES = 6
RUN = {"algorithm": "lanczos", "block_size": COLUMNS, "rtol": 1e-12}


def stores(folder):
    """Write the stores: about 107 MB each, float32 40000 x 2000 where dense."""
    for number, options in enumerate(DENSE.values()):
        path = folder / f"dense{number}.zarr"
        if not path.exists():
            rng = np.random.default_rng(0)
            made = zarr.create_array(path, shape=(40000, 2000), dtype="f4", **options)
            for start in range(0, 40000, 5000):
                made[start : start + 5000] = rng.integers(-100, 101, (5000, 2000)) / 256
        yield path.name
    path, m, n, k = folder / "sparse.zarr", 400_000, 5000, 100
    if not path.exists():
        rng, group = np.random.default_rng(0), zarr.open_group(path, mode="w")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        group.attrs["shape"] = [m, n]
        columns = np.sort(rng.integers(0, n // k, (m, k)) + np.arange(k) * (n // k), axis=1)
        parts = {
            "data": (rng.integers(-100, 101, m * k) / 256).astype("f4"),
            "indices": columns.astype("i4").ravel(),
            "indptr": np.arange(0, m * k + 1, k),
        }
        for name, values in parts.items():
            chunk = 20_000 if name == "indptr" else 250_000
            group.create_array(name, shape=values.shape, chunks=chunk, dtype=values.dtype)[...] = (
                values
            )
    yield path.name


def raw(folder, name):
    """Median seconds of getting every chunk with obstore, 64 in flight; the bytes."""
    import obstore
    from obstore.store import HTTPStore

    files = [path for path in (folder / name).rglob("*") if path.is_file()]
    keys = [str(path.relative_to(folder)) for path in files if path.name != "zarr.json"]
    store = HTTPStore.from_url(URL, client_options={"allow_http": True})

    async def get(key, limit):
        async with limit:
            return len(await (await obstore.get_async(store, key)).bytes_async())

    async def all_of_them():
        limit = asyncio.Semaphore(AT_ONCE)
        return sum(await asyncio.gather(*(get(key, limit) for key in keys)))

    took, size = [], 0
    for _ in range(ROUNDS):
        before = time.perf_counter()
        size = asyncio.run(all_of_them())
        took.append(time.perf_counter() - before)
    return statistics.median(took), size


def passes(where, cluster, how):
    """Print the seconds of some passes over a matrix, and a hash of the product, as JSON.

    `how`: "fsspec" opens it without obstore, "alone" asks for nothing ahead, "slabs" cuts panels
    into slabs of one chunk, so that a task reads ahead inside of its panel.
    """
    import bigspec
    from bigspec.panels import choose_layout as choosing
    from bigspec.passes import Pass, find_executor, one_blas_thread

    choose_layout, client = choosing.choose_layout, None
    if "slabs" in how:
        choosing.SLAB_BYTES = 1
        choosing.PANEL_BYTES = (32 << 20, 32 << 20)
    if "fsspec" in how:
        from bigspec.sources import object_store

        object_store.find_spec = lambda _: None
    if cluster:
        from distributed import Client, LocalCluster

        workers, threads = (int(number) for number in cluster.split("x"))
        client = Client(
            LocalCluster(n_workers=workers, threads_per_worker=threads, dashboard_address=None)
        )
    matrix, executor = bigspec.open_matrix(where), find_executor(False)
    room = {"limit": executor.memory() // 2, "tasks": executor.tasks, "local": executor.local}
    if hasattr(executor, "waiting"):
        room["waiting"] = executor.waiting
    if "alone" in how:
        room["waiting"] = executor.tasks
    layout = choose_layout(matrix, COLUMNS, blocks=6, **room)
    if "alone" in how:
        layout = replace(layout, ahead=False, panels_ahead=0)
    V = np.random.default_rng(1).standard_normal((matrix.shape[1], COLUMNS))
    took, cpu = [], []
    with one_blas_thread():
        for _ in range(ROUNDS + 1):
            before, spent = time.perf_counter(), time.process_time()
            result = Pass(matrix, layout, executor).run(V)
            took.append(time.perf_counter() - before)
            cpu.append(time.process_time() - spent)
    digest = hashlib.sha256(np.ascontiguousarray(result.Z).tobytes()).hexdigest()
    memory = layout.memory
    ahead = getattr(layout, "panels_ahead", 0)
    told = [digest, memory.tasks, memory.total, statistics.median(cpu[1:]), ahead]
    print(json.dumps([statistics.median(took[1:]), *told]))
    if client is not None:
        client.shutdown()


def measured(where, checkout=None, cluster="", how="", job="--pass"):
    """Seconds of passes in a process of its own, by this version or by another checkout."""
    root = Path(checkout or Path(__file__).parent.parent).resolve()
    command = [sys.executable, "-P", __file__, where, job, "--cluster", cluster, "--how", how]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def runs(where, cluster):
    """Print the seconds of the passes of runs over a matrix with all, half and no panels pinned."""
    import bigspec

    client = None
    if cluster:
        from distributed import Client, LocalCluster

        workers, threads = (int(number) for number in cluster.split("x"))
        client = Client(
            LocalCluster(n_workers=workers, threads_per_worker=threads, dashboard_address=None)
        )
    plan = bigspec.plan(where, **RUN)
    panels, enough = plan.layout.panels, plan.layout.memory.limit
    assert plan.layout.pinned_panels == panels
    less, more = 0, enough  # the limit at which half of the panels stay
    while more - less > 1 << 20:
        limit = (less + more) // 2
        try:
            pinned = bigspec.plan(where, memory_limit=limit, **RUN).layout.pinned_panels
        except bigspec.MemoryLimitError:
            pinned = 0
        less, more = (limit, more) if pinned < panels // 2 else (less, limit)
    kinds = {"all": {}, "half": {"memory_limit": more}, "none": {"pin": False}}
    seconds, intervals = {kind: [] for kind in kinds}, set()
    for number in range(3 + 1):  # the first ones also connect, and import
        for kind, options in kinds.items():
            est = bigspec.norm(where, seed=1, max_passes=PASSES, **RUN, **options)
            intervals.add((est.lower, est.upper))
            read = est.history[1].bytes_read / est.history[0].bytes_read
            if number:
                seconds[kind].append(([one.seconds for one in est.history], read, est.layout))
    assert len(intervals) == 1
    print(json.dumps(seconds))
    if client is not None:
        client.shutdown()


def table_of_pins(folder):
    """The lines of the table of pinned panels in docs/performance.md."""
    yield (
        "| chunks | where | panels that stay | memory, of | first pass | later passes | ratio | "
        "of the smallest |"
    )
    yield "|--|--|--|--|--|--|--|--|"
    kinds = dict(zip([*DENSE, SPARSE], stores(folder), strict=True))
    for said in ("1.3 MB", SPARSE):
        for cluster in ("", "2x1"):
            took = measured(f"{URL}/{kinds[said]}", None, cluster, job="--runs")
            for runs_of in took.values():
                firsts = [one[0][0] for one in runs_of]
                laters = [seconds for one in runs_of for seconds in one[0][1:]]
                first, later = statistics.median(firsts), statistics.median(laters)
                layout = runs_of[0][2]
                memory = layout["memory"]
                yield (
                    f"| {said} | {'2 workers of 1 thread' if cluster else '2 threads'} | "
                    f"{layout['pinned_panels']} of {layout['panels']} | "
                    f"{memory['total'] / 2**20:.0f} MiB, {memory['limit'] / 2**20:.0f} MiB | "
                    f"{first:.2f} s | {later:.2f} s | {first / later:.1f} | "
                    f"{min(firsts):.2f} s, {min(laters):.2f} s: {min(firsts) / min(laters):.1f} |"
                )


def table(folder, before):
    """The lines of the table in docs/performance.md."""
    column = " before |" if before else ""
    yield (
        f"| chunks | raw requests | local pass |{column} fsspec | nothing ahead | now | ratio | "
        "CPU now, local | tasks, panels ahead, memory |"
    )
    yield "|--" * (10 if before else 9) + "|"
    kinds = dict(zip([*DENSE, SPARSE], stores(folder), strict=True))
    rows = [(title, name, "", "") for title, name in kinds.items()]
    some = kinds["1.3 MB"]
    rows += [
        ("1.3 MB, slabs of one chunk", some, "", "slabs"),
        ("1.3 MB, 2 workers of 1 thread", some, "2x1", ""),
        ("of 8 threads", some, "2x8", ""),
        ("sparse rows, 2 workers of 1 thread", kinds[SPARSE], "2x1", ""),
    ]
    for said, name, cluster, how in rows:
        requests, size = raw(folder, name)
        was = measured(f"{URL}/{name}", before, cluster) if before and not cluster else None
        now = measured(f"{URL}/{name}", None, cluster, how)
        local = measured(str(folder / name), None, cluster, how)
        old_client = measured(f"{URL}/{name}", None, cluster, f"{how} fsspec")
        alone = measured(f"{URL}/{name}", None, cluster, f"{how} alone")
        assert now[1] == local[1] == old_client[1] == alone[1]
        assert was is None or now[1] == was[1]
        old = f" {was[0]:.2f} s |" if was else column and "  |"
        cpu = "" if cluster else f"{now[4]:.2f} s, {local[4]:.2f} s"
        yield (
            f"| {said} | {requests:.2f} s ({size / 1e6:.0f} MB) | {local[0]:.2f} s |{old} "
            f"{old_client[0]:.2f} s | {alone[0]:.2f} s | "
            f"{now[0]:.2f} s | {now[0] / max(requests, local[0]):.2f} | {cpu} | "
            f"{now[2]}, {now[5]}, {now[3] / 2**20:.0f} MiB |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--before")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--pins", action="store_true")
    parser.add_argument("--pass", action="store_true", dest="one")
    parser.add_argument("--runs", action="store_true")
    parser.add_argument("--cluster", default="")
    parser.add_argument("--how", default="")
    options = parser.parse_args()
    if options.one:
        passes(options.folder, options.cluster, options.how.split())
        return
    if options.runs:
        runs(options.folder, options.cluster)
        return
    folder = Path(options.folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    list(stores(folder))
    script = Path(os.environ["BIGSPEC_SHARED"]) / "tools" / "slow_store.py"
    lines = []
    server = subprocess.Popen([sys.executable, script, str(folder), "0.05", "200"])
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"{URL}/_stats").close()
                break
            except OSError:
                time.sleep(0.1)
        lines_of = table_of_pins(folder) if options.pins else table(folder, options.before)
        for line in lines_of:
            print(line, flush=True)
            lines.append(line)
    finally:
        server.terminate()
        server.wait()
        if options.write:  # what there is, where it is interrupted
            text = options.write.read_text()
            begin, end = (mark.format("pins" if options.pins else "link") for mark in MARKS)
            head, _, rest = text.partition(begin)
            tail = rest.partition(end)[2]
            options.write.write_text("\n".join([f"{head}{begin}", "", *lines, "", f"{end}{tail}"]))


if __name__ == "__main__":
    main()
