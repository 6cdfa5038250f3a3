"""Measured peaks of `svds`, its last pass included, against the memory that `plan` says.

    python benchmarks/peaks.py [--rows 400000] [--columns 3000] [--entries 20000000] [-k 10]

Each run is a process of its own: CSR in memory and CSR in a Zarr group, with the memory limit of
the machine and with the least that `svds` accepts. The peak is the largest resident set that the
kernel saw (VmHWM) over the one before the run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import scipy.sparse as sp

import bigspec
from bigspec.errors import MemoryLimitError

OPTIONS = {"block_size": 16, "seed": 3, "max_passes": 4}


def make(rows, columns, entries):
    rng = np.random.default_rng(1)
    where = rng.integers(0, columns, entries, dtype=np.int32)
    pointers = np.linspace(0, entries, rows + 1).astype(np.int64)
    A = sp.csr_array((rng.standard_normal(entries), where, pointers), (rows, columns))
    A.sum_duplicates()
    return A


def status(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) << 10
    raise LookupError(key)


def least(A, k):
    """The least memory limit that a plan of `svds` accepts, to 2 MiB."""
    low, high = 0, 8 << 30
    while high - low > 2 << 20:
        middle = (low + high) // 2
        try:
            bigspec.svds(A, k, memory_limit=middle, **(OPTIONS | {"max_passes": 1}))
        except MemoryLimitError:
            low = middle
        else:
            high = middle
    return high


def child(where, kind, k, limit):
    A = bigspec.open_matrix(where)
    if kind == "in memory":
        with np.load(where + ".npz") as parts:
            A = sp.csr_array((parts["data"], parts["indices"], parts["indptr"]), A.shape)
    small = sp.random_array((5000, 200), density=0.05, format="csr", rng=1)
    bigspec.svds(small, 2, **OPTIONS)  # modules, threads, buffers of the libraries
    bigspec.svds(where, 2, **(OPTIONS | {"max_passes": 1}))
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    triplets = bigspec.svds(A, k, memory_limit=limit, **OPTIONS)
    after = status("VmHWM")
    plan = bigspec.plan(A, k=k, block_size=OPTIONS["block_size"], memory_limit=limit)
    total = plan.layout.memory.total + plan.vectors_bytes
    assert triplets.layout["memory"]["total"] == plan.layout.memory.total
    print(json.dumps({"plan": total, "peak": after - before}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--columns", type=int, default=3000)
    parser.add_argument("--entries", type=int, default=20_000_000)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        where, kind, k, limit = args.child
        child(where, kind, int(k), int(limit) or None)
        return
    A = make(args.rows, args.columns, args.entries)
    with tempfile.TemporaryDirectory() as folder:
        where = f"{folder}/A.zarr"
        np.savez(where + ".npz", data=A.data, indices=A.indices, indptr=A.indptr)
        bigspec.convert(A, where)
        print(f"{'CSR':<12}{'limit':>12}{'plan':>12}{'peak':>12}   peak/plan")
        for kind, source in [("in memory", A), ("stored", where)]:
            for limit in (0, least(source, args.k)):
                command = [
                    sys.executable,
                    __file__,
                    "--child",
                    where,
                    kind,
                    str(args.k),
                    str(limit),
                ]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                got = json.loads(done.stdout.splitlines()[-1])
                said = f"{limit / 2**20:.0f} MiB" if limit else "machine"
                plan, peak = got["plan"] / 2**20, got["peak"] / 2**20
                print(f"{kind:<12}{said:>12}{plan:>8.0f} MiB{peak:>8.0f} MiB{peak / plan:>10.2f}")


if __name__ == "__main__":
    main()
