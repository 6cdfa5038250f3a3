"""What checkpoints and content tokens cost, in one run, alternating: ratios of medians.

python -P benchmarks/dense.py make DIR            # the 4 GB float32 matrix, once
python -P benchmarks/checkpointing.py DIR         # norm with and without; the share of the tokens

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
from bigspec.panels import fused
from bigspec.panels.choose_layout import choose_layout
from bigspec.passes import Pass, find_executor, one_blas_thread


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


def checkpoints(path, interval, repeats, long):
    scratch = Path(tempfile.mkdtemp())
    options = {"rtol": 1e-6, "algorithm": "lanczos", "block_size": 8, "seed": 1}
    if long:  # a flat start that power iteration with one vector does not leave soon
        options |= {"algorithm": "power", "block_size": 1, "rtol": 1e-14, "max_passes": long}
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
    passes, real, spent = Pass(matrix, layout, executor), fused.block_token, [0.0]

    def timed(block, token):
        began = time.perf_counter()
        token = real(block, token)
        spent[0] += time.perf_counter() - began
        return token

    fused.block_token = timed
    shares = []
    with one_blas_thread():
        passes.run(V, exponent=0)
        for _ in range(repeats):
            spent[0] = 0.0
            took = seconds(lambda: passes.run(V, exponent=0))
            shares.append(spent[0] / took / layout.memory.tasks)
    fused.block_token = real
    share, most = statistics.median(shares), max(shares)
    print(f"content tokens: {share:.2%} of a pass, b = 8 (at most {most:.2%} of {repeats})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--interval", type=float, default=60.0)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--long", type=int, default=0, help="passes of power iteration instead")
    parser.add_argument("--only", choices=["tokens", "checkpoints"])
    asked = parser.parse_args()
    if asked.only != "checkpoints":
        tokens(asked.folder / "dense.zarr", asked.repeats)
    if asked.only != "tokens":
        print(f"{'':34} {'without':>10} {'with':>10} {'cost':>8}")
        checkpoints(asked.folder / "dense.zarr", asked.interval, asked.repeats, asked.long)


if __name__ == "__main__":
    main()
