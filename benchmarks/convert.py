"""Converting and bracketing a matrix larger than the memory that is allowed; codecs beside another.

python -P benchmarks/convert.py codecs  # ratio and decoding of Blosc's choices
python -P benchmarks/convert.py run DIR --entries 20000000  # make, convert, norm: time and peak RSS
python -P benchmarks/convert.py parquet DIR --entries 20000000  # triplets in Parquet to CSC

The matrix is made row by row in bounded memory: 10 entries a row, columns drawn from a power law
(density of column j proportional to (j + 1)^-0.9, shuffled), values log-normal float32, seeded.
`run` converts it from unsorted COO (an uncompressed .npz) to CSC, from that CSC to CSR, copies that
CSR (in order already), and brackets its norm, each in a process of its own under `--limit`.
`parquet` writes the same triplets in row groups of a million (user, item, rating; Snappy) and
converts them to CSC; the split is by the stages of the conversion: what comes before the rows are
read (statistics or ids), reading and scattering, sorting and writing.
Peak RSS is that of the process (VmHWM), or of a child of it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np

ROW = 10


def columns(rng, n, count, shuffle):
    """Inverse of the distribution function of j^-0.9 on [1, n]."""
    u = rng.random(count)
    j = ((u * (n**0.1 - 1) + 1) ** 10).astype(np.int64) - 1
    return shuffle[np.clip(j, 0, n - 1)]


def blocks(entries, seed=0):
    """Yield the shape, then rows, columns, values of blocks of rows in an order that is drawn."""
    n = max(100, entries // 200)
    m = entries // ROW
    rng = np.random.default_rng(seed)
    shuffle = rng.permutation(n).astype(np.int32)
    block = min(m, 1 << 18)
    order = rng.permutation(-(-m // block))
    yield m, n
    for k in order:
        first, last = int(k) * block, min(int(k + 1) * block, m)
        rows = np.repeat(np.arange(first, last, dtype=np.int32), ROW)
        rng.shuffle(rows)
        drawn = columns(rng, n, rows.size, shuffle).astype(np.int32)
        yield rows, drawn, rng.lognormal(size=rows.size).astype(np.float32)


def make_parquet(folder, entries, group=1_000_000):
    """Write triplets as a table, row group by row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = blocks(entries)
    next(made)
    path = folder / "triplets.parquet"
    kinds = {"user": pa.int32(), "item": pa.int32(), "rating": pa.float32()}
    with pq.ParquetWriter(path, pa.schema(list(kinds.items()))) as writer:
        for parts in made:
            table = pa.table(dict(zip(kinds, parts, strict=True)))
            writer.write_table(table, row_group_size=group)
    return path


def make(folder, entries):
    """Write COO: blocks of rows, whose order is drawn, so that no axis is sorted."""
    made = blocks(entries)
    m, n = next(made)
    path = folder / "coo.npz"
    kinds = {"row": np.int32, "col": np.int32, "data": np.float32}
    files = {name: (folder / f"{name}.npy").open("wb") for name in kinds}
    total = m * ROW
    for name, file in files.items():
        header = {"descr": np.dtype(kinds[name]).str, "fortran_order": False, "shape": (total,)}
        np.lib.format.write_array_header_1_0(file, header)
    for rows, drawn, values in made:
        files["row"].write(rows.data)
        files["col"].write(drawn.data)
        files["data"].write(values.data)
    for file in files.values():
        file.close()
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name in kinds:
            archive.write(folder / f"{name}.npy", f"{name}.npy")
            (folder / f"{name}.npy").unlink()
        for name, value in (("shape", np.array([m, n])), ("format", np.array(b"coo"))):
            np.save(folder / f"{name}.npy", value)
            archive.write(folder / f"{name}.npy", f"{name}.npy")
            (folder / f"{name}.npy").unlink()
    return path


def peak_mib():
    """The most this process held, or a child of it if it had any.

    Not `ru_maxrss` of the process itself, which begins with what its parent held at the fork.
    """
    own = next(
        int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def stage_clock(began):
    """Return an observer that notes when the stages of a conversion begin."""
    from bigspec.watch import Observer

    class Stages(Observer):
        def __init__(self):
            self.began = [("before", began)]

        def stage_started(self, stage, entries):
            self.began.append((stage, time.perf_counter()))

        def split(self):
            ends = [*(at for _, at in self.began[1:]), time.perf_counter()]
            both = zip(self.began, ends, strict=True)
            return {f"s_{stage}": end - at for (stage, at), end in both}

    return Stages()


def child(arguments):
    """Run one step here, and print what it took."""
    import bigspec

    source, destination, form, limit = arguments
    began = time.perf_counter()
    if destination == "norm":
        est = bigspec.norm(source, memory_limit=limit, seed=1)
        said = {
            "interval": [est.lower, est.upper],
            "passes": est.passes,
            "gigabytes": est.bytes_read / 1e9,
            "reading": sum(record.seconds_reading for record in est.history),
            "multiplying": sum(record.seconds_multiplying for record in est.history),
            "memory": est.layout["memory"]["total"],
        }
    else:
        stages = stage_clock(began)
        done = bigspec.convert(
            source, destination, format=form, memory_limit=limit, progress=stages
        )
        said = {"stored": done.stored, "megabytes": done.bytes_written / 1e6} | stages.split()
    took = time.perf_counter() - began
    print(json.dumps({"seconds": took, "peak_mib": peak_mib()} | said))


def step(name, *arguments):
    command = [sys.executable, __file__, "child", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    said = json.loads(done.stdout)
    text = ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in said.items()
    )
    print(f"{name:16} {text}", flush=True)


def reading(path):
    """Seconds to read the chunks' files and nothing else, from the disk and from the page cache."""
    files = [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    for where in ("from disk", "from cache"):
        began = time.perf_counter()
        size = sum(len(file.read_bytes()) for file in files)
        took = time.perf_counter() - began
        print(f"{'reading alone':16} {took:.3g} s, {size / took / 1e9:.3g} GB/s {where}")


def decoding(path, entries=1 << 22):
    """Seconds to read and decode data and indices as norm does, without multiplying."""
    import zarr

    group = zarr.open_group(path, mode="r")
    count = group["data"].shape[0]
    size = sum(group[name].dtype.itemsize for name in ("data", "indices")) * count
    began = time.perf_counter()
    for start in range(0, count, entries):
        for name in ("data", "indices"):
            group[name][start : start + entries]
    took = time.perf_counter() - began
    print(f"{'and decoding':16} {took:.3g} s, {size / took / 1e9:.3g} GB/s of one pass")


def run(folder, entries, limit, keep, columns_too):
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    source = make(folder, entries)
    size = source.stat().st_size
    print(
        f"{'made':16} {entries} entries, {size / 1e9:.3g} GB in {time.perf_counter() - began:.3g} s"
    )
    step("COO to CSC", source, folder / "csc.zarr", "csc", limit)
    if not keep:
        source.unlink()
    step("CSC to CSR", folder / "csc.zarr", folder / "csr.zarr", "csr", limit)
    step("CSR to CSR", folder / "csr.zarr", folder / "copy.zarr", "csr", limit)
    reading(folder / "csr.zarr")
    decoding(folder / "csr.zarr")
    step("norm of CSR", folder / "csr.zarr", "norm", "-", limit)
    if columns_too:
        step("norm of CSC", folder / "csc.zarr", "norm", "-", limit)


def parquet(folder, entries, limit):
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    source = make_parquet(folder, entries)
    size, took = source.stat().st_size, time.perf_counter() - began
    print(f"{'made':16} {entries} entries, {size / 1e9:.3g} GB in {took:.3g} s", flush=True)
    step("Parquet to CSC", source, folder / "csc.zarr", "csc", limit)


def codecs(entries=1 << 22, chunk=1 << 18):
    """Ratio, encoding and decoding of a chunk's values and indices, one thread a chunk."""
    from numcodecs import Blosc, Delta, blosc

    blosc.set_nthreads(1)
    rng = np.random.default_rng(0)
    n = 30_000
    shuffle = rng.permutation(n)
    rows = np.sort(columns(rng, n, entries, shuffle).reshape(-1, 256), axis=1).astype(np.int32)
    counts = np.minimum(rng.zipf(1.8, entries), 1 << 20).astype(np.float32)
    parts = {
        "indices": rows.ravel(),
        "counts": counts,
        "log-normal": rng.lognormal(size=entries).astype(np.float32),
    }
    print(f"{'codec':24}" + "".join(f"{name:>30}" for name in parts))
    print(f"{'':24}" + f"{'ratio':>10}{'enc GB/s':>10}{'dec GB/s':>10}" * len(parts))
    names = {0: "", 1: "shuffle", 2: "bitshuffle"}
    for codec, level, how, delta in [
        ("lz4", 1, 1, False), ("lz4", 5, 1, False), ("lz4", 9, 1, False), ("lz4", 5, 2, False),
        ("lz4", 5, 1, True), ("zstd", 1, 1, False), ("zstd", 3, 1, False), ("zstd", 7, 1, False),
        ("zstd", 3, 2, False), ("zstd", 3, 1, True),
    ]:  # fmt: skip
        cells = ""
        for name, values in parts.items():
            if delta and name != "indices":
                cells += " " * 30
                continue
            packer, filter_ = Blosc(codec, level, how), Delta(values.dtype) if delta else None
            chunks = [values[k : k + chunk] for k in range(0, values.size, chunk)]
            began = time.perf_counter()
            packed = [packer.encode(filter_.encode(c) if filter_ else c) for c in chunks]
            encoded = time.perf_counter() - began
            out, times = np.empty_like(chunks[0]), []
            for _ in range(5):
                began = time.perf_counter()
                for block in packed:
                    packer.decode(block, out=out)
                    if filter_:
                        np.cumsum(out, dtype=out.dtype, out=out)
                times.append(time.perf_counter() - began)
            ratio = values.nbytes / sum(map(len, packed))
            rates = [values.nbytes / took / 1e9 for took in (encoded, np.median(times))]
            cells += f"{ratio:10.2f}{rates[0]:10.2f}{rates[1]:10.2f}"
        print(
            f"{codec + '-' + str(level) + ' ' + names[how] + (' delta' if delta else ''):24}{cells}"
        )


def main():
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("codecs")
    running = commands.add_parser("run")
    running.add_argument("folder", type=Path)
    running.add_argument("--entries", type=int, default=20_000_000)
    running.add_argument("--limit", default="512MiB")
    running.add_argument("--keep", action="store_true", help="keep the COO file")
    running.add_argument("--columns", action="store_true", help="bracket the norm of the CSC too")
    table = commands.add_parser("parquet")
    table.add_argument("folder", type=Path)
    table.add_argument("--entries", type=int, default=20_000_000)
    table.add_argument("--limit", default="512MiB")
    asked = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if asked.command == "codecs":
        codecs()
    elif asked.command == "parquet":
        parquet(asked.folder, asked.entries, asked.limit)
    else:
        run(asked.folder, asked.entries, asked.limit, asked.keep, asked.columns)


if __name__ == "__main__":
    main()
