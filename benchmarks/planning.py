"""What a run costs before its first pass: the measurement, the choice, the start, tiny chunks.

python -P benchmarks/planning.py measurement DIR  # 2 GB, n = 2500: as it was, and now
python -P benchmarks/planning.py slab DIR         # the choices on some stores, by both
python -P benchmarks/planning.py choices          # Gaussian matrices in memory: auto, gram, lanczos
python -P benchmarks/planning.py start            # import bigspec, bigspec --help: new processes
python -P benchmarks/planning.py chunks DIR       # a chunk of 400 bytes, missing and stored
python -P benchmarks/planning.py header DIR       # two entries in a 10^9 x 10^9 matrix

The last four run on an older checkout as well, to compare: in its folder, in turns with this one.
CPU times, unless it says wall: others may use the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import zarr

import bigspec

REPEATS = 5


def cpu(function, *arguments, **options):
    """CPU and wall seconds of a call, and what it returns."""
    before = time.process_time(), time.perf_counter()
    result = function(*arguments, **options)
    return time.process_time() - before[0], time.perf_counter() - before[1], result


def median(function, repeats=REPEATS):
    """Medians of CPU and wall seconds."""
    runs = [cpu(function)[:2] for _ in range(repeats)]
    return [statistics.median(times) for times in zip(*runs, strict=True)]


def store(folder, name, shape, chunks, decay=0.97, **options):
    """A float32 store whose columns shrink."""
    path = folder / f"{name}.zarr"
    if path.exists():
        return path
    made = zarr.create_array(path, shape=shape, chunks=chunks, dtype="f4", **options)
    rng, scale = np.random.default_rng(0), (decay ** np.arange(shape[1])).astype("f4")
    for start in range(0, shape[0], chunks[0]):
        stop = min(start + chunks[0], shape[0])
        made[start:stop] = rng.standard_normal((stop - start, shape[1]), "f4") * scale
    return path


# Measurement ---------------------------------------------------------------------------------


def planner_of(path):
    """The planner of a run of `bigspec.norm` with no wishes, and the layout it measures with."""
    from bigspec.algorithms import REGISTRY
    from bigspec.passes import find_executor
    from bigspec.run.plan import Wishes
    from bigspec.run.planner import _Planner

    executor = find_executor(False)
    planner = _Planner(bigspec.open_matrix(path), executor, Wishes(), executor.memory() // 2)
    return planner, planner.layout(REGISTRY.named("lanczos"), 16)


def as_it_was(matrix, layout, sizes=(4, 8, 16, 32)):
    """The measurement until this one: products with the whole slab, each twice, and Gram."""
    from bigspec.kernels import Accumulator
    from bigspec.kernels.buffers import Buffers
    from bigspec.passes import Measurement

    slab, buffers = next(layout.slabs(layout.panel(0))), Buffers()
    started = time.perf_counter()
    block = matrix.read(*layout.rectangle(slab, (0, layout.iterate_length)), buffers)
    reading, scale = time.perf_counter() - started, layout.along.extent / (slab[1] - slab[0])
    spent, times = 0.0, []
    for b in (*sizes, None):
        V = None if b is None else np.ones((layout.iterate_length, b))
        total = Accumulator(
            V, layout.iterate_length, matrix.dtype, exponent=0, facts=False,
            transposed=layout.orientation == "columns", buffers=buffers,
        )  # fmt: skip
        took = []
        for _ in range(2):
            before = time.perf_counter()
            total.add_slab([(0, block)])
            took.append(time.perf_counter() - before)
        spent, times = spent + sum(took), [*times, min(took) * scale]
    by_width = dict(zip(sizes, times[:-1], strict=True))
    return Measurement(reading * scale, by_width, times[-1], block.nbytes, None, spent)


def choice(planner, measured):
    """The algorithm and block that a measurement leads to."""
    plan = planner.plan(measured)
    return f"{plan.algorithm.name}, block of {plan.block_size}"


def measurement(folder):
    """Seconds of products by the whole slab and by a sample, beside the run that they plan."""
    from bigspec.passes import one_blas_thread

    planner, layout = planner_of(store(folder, "A", (200_000, 2500), (4000, 2500)))
    with one_blas_thread():
        was = [as_it_was(planner.matrix, layout) for _ in range(3)]
        now = [planner.measure() for _ in range(2 * REPEATS)]
    for name, runs in (("whole slab, as it was", was), ("sample, now", now)):
        times = sorted(run.seconds for run in runs)
        gram = [run.gram for run in runs if run.gram is not None]
        print(
            f"{name}: products {statistics.median(times):.3f} s (most {times[-1]:.3f}); a pass "
            f"with 16 columns {statistics.median(r.multiplying.get(16, np.nan) for r in runs):.2f} "
            f"core-s, gram {statistics.median(gram):.1f} core-s; chosen "
            f"{ {choice(planner, run) for run in runs} }"
        )
    for options in ({}, {"algorithm": "lanczos", "block_size": 16}):
        _, wall, est = cpu(bigspec.norm, planner.matrix, seed=1, **options)
        passes = sum(record.seconds for record in est.history)
        read = est.bytes_read - est.passes * planner.matrix.nbytes
        print(
            f"norm {options or 'auto'}: {wall:.2f} s, {est.algorithm}, {est.passes} pass(es) of "
            f"{passes:.2f} s in all, {read} bytes read besides"
        )


def slabs(folder):
    """The choices on stores of several shapes."""
    from bigspec.passes import one_blas_thread

    shapes = {
        "n = 600": ((200_000, 600), (10_000, 600)),
        "n = 2500": ((200_000, 2500), (4000, 2500)),
        "n = 10000": ((10_000, 10_000), (1000, 10_000)),
    }
    for name, (shape, chunks) in shapes.items():
        label = "A" if name == "n = 2500" else name.replace(" ", "")
        planner, layout = planner_of(store(folder, label, shape, chunks))
        with one_blas_thread():
            was = [choice(planner, as_it_was(planner.matrix, layout)) for _ in range(2)]
            now = [choice(planner, planner.measure()) for _ in range(REPEATS)]
        print(f"{name}: by the whole slab {set(was)}, by a sample {set(now)}")


# Choices -------------------------------------------------------------------------------------


def choices():
    """What auto takes, and what gram and lanczos take, in turns."""
    rng = np.random.default_rng(0)
    shapes = {(768, 768): "f4", (3072, 768): "f4", (4096, 1024): "f4", (1000, 1000): "f8",
              (2000, 2000): "f8", (20_000, 600): "f4"}  # fmt: skip
    bigspec.norm(np.eye(600), seed=1)
    for shape, dtype in shapes.items():
        A, said = rng.standard_normal(shape).astype(dtype), []
        for options in ({}, {"algorithm": "gram"}, {"algorithm": "lanczos", "block_size": 16}):
            est = bigspec.norm(A, seed=1, **options)
            used, wall = median(lambda A=A, options=options: bigspec.norm(A, seed=1, **options))
            name = "auto" if not options else est.algorithm
            width = est.upper / est.lower - 1
            said.append(
                f"{name} {1e3 * used:.0f} ms CPU, {1e3 * wall:.0f} ms wall ({est.algorithm}, "
                f"{est.passes} pass(es), width {width:.0e})"
            )
        print(f"{shape[0]} x {shape[1]} {dtype}: " + "; ".join(said), flush=True)


# Start ---------------------------------------------------------------------------------------


def start():
    """CPU and wall time of fresh processes."""
    commands = {
        "python, nothing": ["-c", "pass"],
        "import bigspec": ["-c", "import bigspec"],
        "bigspec --help": ["-m", "bigspec", "--help"],
        "bigspec norm --help": ["-m", "bigspec", "norm", "--help"],
        "import bigspec; bigspec.norm": ["-c", "import bigspec; bigspec.norm"],
    }
    for name, command in commands.items():
        runs = []
        for _ in range(2 * REPEATS):
            before, began = os.times(), time.perf_counter()
            subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
            after = os.times()
            used = after.children_user + after.children_system
            used -= before.children_user + before.children_system
            runs.append((used, time.perf_counter() - began))
        used, wall = (statistics.median(times) for times in zip(*runs, strict=True))
        print(f"{name}: {used:.2f} s CPU, {wall:.2f} s wall")


# Tiny chunks ---------------------------------------------------------------------------------


def chunks(folder):
    """Microseconds a chunk of 10 x 10 float32, of a read of 10 000 of them."""
    from bigspec.kernels.buffers import Buffers

    kinds = {
        "missing": None,
        "raw": {"compressors": None},
        "blosc": {"compressors": zarr.codecs.BloscCodec()},
        "zstd": {},
    }
    for name, options in kinds.items():
        path = folder / f"tiny-{name}.zarr"
        if options is None and not path.exists():
            zarr.create_array(path, shape=(20_000, 1000), chunks=(10, 10), dtype="f4")
        if options is not None:
            store(folder, path.stem, (1000, 1000), (10, 10), decay=1.0, **options)
        matrix, buffers = bigspec.open_matrix(path), Buffers()
        used, wall = median(lambda m=matrix, b=buffers: m.read(slice(0, 1000), slice(0, 1000), b))
        print(f"{name}: {100 * used:.1f} us CPU, {100 * wall:.1f} us wall a chunk")
    matrix = bigspec.open_matrix(folder / "tiny-missing.zarr")
    used, wall, _ = cpu(bigspec.norm, matrix, algorithm="power", block_size=1, max_passes=1, seed=0)
    print(
        f"norm, one pass over 200 000 missing chunks: {5 * used:.1f} us CPU a chunk, {wall:.1f} s"
    )


def header(folder):
    """Seconds until a matrix is refused whose vectors nothing holds."""
    path = folder / "two.mtx"
    text = "%%MatrixMarket matrix coordinate real general\n{0} {0} 2\n1 1 1.0\n{0} {0} 2.0\n"
    path.write_text(text.format(10**9))
    bigspec.norm(np.eye(3))

    def refused():
        try:
            bigspec.norm(path)
        except bigspec.errors.MemoryLimitError as error:
            return str(error)
        return "not refused"

    _, wall, said = cpu(refused)
    print(f"{wall:.3f} s wall: {said}")


def main():
    """Run one part."""
    parts = {"measurement": measurement, "choices": choices, "start": start, "chunks": chunks,
             "header": header, "slab": slabs}  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=parts)
    parser.add_argument("folder", nargs="?", type=Path)
    arguments = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    own = [arguments.folder] if arguments.part not in ("choices", "start") else []
    parts[arguments.part](*own)


if __name__ == "__main__":
    main()
