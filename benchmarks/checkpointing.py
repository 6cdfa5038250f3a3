"""What checkpoints and content tokens cost, in one run, alternating: ratios of medians.

python benchmarks/dense.py make DIR            # the 4 GB float32 matrix, once
python benchmarks/checkpointing.py DIR         # norm with and without; a pass with and without

Without options the run of `norm` has the default interval of 60 s; its steps are saved as well, as
soon as that costs at most 2 % of the time. `--interval 1` saves partial sums every second.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import bigspec
from bigspec.checkpoint import Checkpoint
from bigspec.layout import choose_layout
from bigspec.passes import Pass, find_executor, one_blas_thread, tasks


def seconds(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def compare(name, plain, other, repeats):
    """Alternate two calls; print the ratio of their medians, less one."""
    pairs = [(seconds(plain), seconds(other)) for _ in range(repeats)]
    one, two = (statistics.median(times) for times in zip(*pairs, strict=True))
    spread = statistics.median(abs(a / one - 1) for a, _ in pairs)
    print(f"{name:34} {one:8.3f} s {two:8.3f} s {two / one - 1:+8.2%}   (spread {spread:.1%})")


def checkpoints(path, interval, repeats):
    scratch = Path(tempfile.mkdtemp())
    options = {"rtol": 1e-6, "algorithm": "lanczos", "block_size": 8, "seed": 1}
    places = iter(range(10**6))

    def kept():
        place = Checkpoint(scratch / str(next(places)), interval=interval)
        bigspec.norm(path, checkpoint=place, **options)

    passes = bigspec.norm(path, **options).passes
    name = f"norm, {passes} passes, every {interval:g} s"
    compare(name, lambda: bigspec.norm(path, **options), kept, repeats)
    sizes = [sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) for p in scratch.iterdir()]
    print(f"{'':34} {max(sizes) / 1e6:.1f} MB held by a finished checkpoint")
    shutil.rmtree(scratch)


def tokens(path, repeats):
    matrix, executor = bigspec.open_matrix(path), find_executor(False)
    layout = choose_layout(
        matrix, 8, blocks=6, limit=4 << 30, tasks=executor.tasks, local=executor.local
    )
    V = np.linalg.qr(np.random.default_rng(0).standard_normal((layout.iterate_length, 8)))[0]
    passes, real = Pass(matrix, layout, executor), tasks.block_token

    def without():
        tasks.block_token, passes.tokens = (lambda _block, _token: 0), None
        passes.run(V, exponent=0)

    def with_tokens():
        tasks.block_token, passes.tokens = real, None
        passes.run(V, exponent=0)

    with one_blas_thread():
        without()
        compare("one pass, b = 8, content tokens", without, with_tokens, repeats)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--interval", type=float, default=60.0)
    parser.add_argument("--repeats", type=int, default=7)
    asked = parser.parse_args()
    print(f"{'':34} {'without':>10} {'with':>10} {'cost':>8}")
    tokens(asked.folder / "dense.zarr", asked.repeats)
    checkpoints(asked.folder / "dense.zarr", asked.interval, asked.repeats)


if __name__ == "__main__":
    main()
