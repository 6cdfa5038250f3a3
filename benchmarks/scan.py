"""Every matrix of a network: bigspec scan beside numpy's norm, a Gram by hand, bigspec.norm.

python -P benchmarks/scan.py peers MODEL.safetensors    # such as MiniLM; medians in turns
python -P benchmarks/scan.py make DIR [LAYERS]          # layers of a 7B transformer, bfloat16
python -P benchmarks/scan.py layers DIR [MEMORY]        # time a layer, peak memory
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
from threadpoolctl import threadpool_limits

import bigspec

LAYERS_OF_7B, WIDTH, HIDDEN, WORDS = 32, 4096, 11008, 32000


def clock(function):
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def by_hand(arrays):
    """What a script does: the smaller Gram matrix and all its eigenvalues."""
    for array in arrays:
        X = array.astype(np.float64)
        X = X if X.shape[0] >= X.shape[1] else X.T
        np.sqrt(np.linalg.eigvalsh(X.T @ X)[-1])


def peers(path, repeats=5):
    from safetensors.numpy import load_file

    tensors = load_file(path)
    arrays = [a for a in tensors.values() if a.ndim == 2 and a.dtype.kind == "f"]
    ways = {
        "bigspec.scan": lambda: bigspec.scan(tensors).run(),
        "Gram and eigvalsh by hand": lambda: by_hand(arrays),
        "bigspec.norm in a loop": lambda: [bigspec.norm(a, rtol=1e-2) for a in arrays],
    }
    found = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            found[name].append(clock(way))
    found["numpy.linalg.norm(W, 2) in a loop"] = [
        clock(lambda: [np.linalg.norm(a.astype(np.float64), 2) for a in arrays])
    ]
    first = [statistics.median(times) for times in zip(*found["bigspec.scan"], strict=True)]
    print(f"{len(tensors)} tensors, {len(arrays)} matrices; medians of {repeats}, in turns")
    for name, times in found.items():
        wall, cpu = (statistics.median(one) for one in zip(*times, strict=True))
        print(f"{name:36} {wall:7.2f} s wall ({wall / first[0]:5.1f})  {cpu:7.2f} s CPU "
              f"({cpu / first[1]:5.1f})")  # fmt: skip


def weight(rng, m, n):
    """Noise of a layer, with one direction half above its edge."""
    array = rng.standard_normal((m, n), dtype=np.float32)
    u, v = (rng.standard_normal(k, dtype=np.float32) for k in (m, n))
    edge = m**0.5 + n**0.5
    array += 1.5 * edge * np.outer(u / np.linalg.norm(u), v / np.linalg.norm(v))
    array *= 0.02
    return array.astype(ml_dtypes.bfloat16)


def make(folder, layers):
    from safetensors.numpy import save_file

    rng, place = np.random.default_rng(0), Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for k in range(layers):
        shapes = {f"self_attn.{x}_proj": (WIDTH, WIDTH) for x in "qkvo"}
        shapes |= {"mlp.gate_proj": (HIDDEN, WIDTH), "mlp.up_proj": (HIDDEN, WIDTH)}
        shapes["mlp.down_proj"] = (WIDTH, HIDDEN)
        tensors = {f"model.layers.{k}.{n}.weight": weight(rng, *s) for n, s in shapes.items()}
        save_file(tensors, place / f"model-{k + 1:05d}-of-{layers + 1:05d}.safetensors")
    tensors = {"model.embed_tokens.weight": weight(rng, WORDS, WIDTH)}
    save_file(tensors, place / f"model-{layers + 1:05d}-of-{layers + 1:05d}.safetensors")


def layers(folder, memory):
    found = bigspec.scan(folder, memory_limit=memory)
    count = len({name.split(".")[2] for name in found.names if ".layers." in name})
    wall, cpu = clock(found.run)
    outside = sum(row.seconds for name, row in found.items() if ".layers." not in name)
    share = 1 - outside / sum(row.seconds for row in found.values())
    for what, seconds in (("wall", wall), ("CPU", cpu)):
        layer = seconds * share / count
        whole = LAYERS_OF_7B * layer + 2 * seconds * (1 - share)  # embedding and head
        print(f"{what:5} {layer:6.2f} s a layer, {whole:6.0f} s for {LAYERS_OF_7B} layers")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak {peak:.2f} GiB at a memory_limit of {memory}; passes "
          f"{statistics.median(row.passes for row in found.values())} (median)")  # fmt: skip
    assert all(row.converged for row in found.values())


def main():
    what, where, *more = sys.argv[1:]
    if what == "peers":
        with threadpool_limits(None):
            peers(where)
    elif what == "make":
        make(where, int(more[0]) if more else 8)
    else:
        layers(where, more[0] if more else "2GiB")


if __name__ == "__main__":
    main()
