"""The norm of convolutions: bigspec.conv beside its products as an operator, and torch's value.

python -P benchmarks/convolutions.py kernels               # random kernels
python -P benchmarks/convolutions.py model M.onnx SHAPE    # each layer; 1,3,48,192 or x=1,8;y=1
python -P benchmarks/convolutions.py dense M.onnx SHAPE [MOST]   # beside the dense SVD
python -P benchmarks/convolutions.py table NAME=FILE ...   # of what `model` has printed to files

Models of PyPI packages (silero-vad, magika, basic-pitch, rapidocr_onnxruntime) are unpacked by
`pip download --no-deps` and `unzip`; nothing of them is kept here.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from scipy.sparse.linalg import LinearOperator

import bigspec
from bigspec.networks.layer import layers_of
from bigspec.networks.models import as_model, with_shapes

KERNELS = [
    ((24, 96, 3, 3), (96, 40, 40), {"padding": 1}),
    ((24, 96, 3, 3), (96, 40, 40), {"padding": 1, "mode": "circular"}),
    ((64, 64, 3, 3), (64, 28, 28), {"padding": 1, "stride": 2}),
    ((64, 3, 7, 7), (3, 112, 112), {"padding": 3, "stride": 2}),
    ((32, 1, 5, 5), (32, 28, 28), {"padding": 2, "groups": 32}),
    ((64, 64, 9), (64, 500), {"padding": 8, "dilation": 2}),
    ((8, 8, 3, 3, 3), (8, 12, 12, 12), {"padding": 1}),
]


def flattened(kernel):
    """What torch.nn.utils.spectral_norm divides by."""
    return float(np.linalg.norm(kernel.reshape(len(kernel), -1).astype(np.float64), 2))


def black_box(A):
    """The same products, of which nothing else is known."""
    return LinearOperator(
        A.shape, matvec=A.matvec, rmatvec=A.rmatvec, matmat=A.matmat, rmatmat=A.rmatmat,
        dtype=A.dtype,
    )  # fmt: skip


def timed(function):
    wall, cpu = time.perf_counter(), time.process_time()
    found = function()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def compare(name, A, flat, rtol=1e-3):
    """Print a line: the certain interval of one pass, a run to `rtol`, and the black box."""
    one, wall, cpu = timed(lambda: bigspec.norm(A, max_passes=1, rtol=1e-12))
    run, run_wall, run_cpu = timed(lambda: bigspec.norm(A, rtol=rtol))
    box, box_wall, box_cpu = timed(lambda: bigspec.norm(black_box(A), rtol=rtol))
    sure = "certain" if run.deterministic else "probable"
    print(
        f"{name:44} {run.lower:9.4f}  torch {flat:9.4f} ({flat / run.lower:5.2f})  one pass "
        f"{one.width:.1e} {cpu:6.2f} s | {run.width:.1e} {run.passes:3} {run_cpu:6.2f} s {sure} | "
        f"black box {box.width:.1e} {box.passes:3} {box_cpu:6.2f} s | wall "
        f"{wall:.1f} {run_wall:.1f} {box_wall:.1f}",
        flush=True,
    )
    assert max(one.lower, run.lower, box.lower) <= min(one.upper, run.upper, box.upper)


def kernels():
    rng = np.random.default_rng(0)
    for shape, image, options in KERNELS:
        K = rng.standard_normal(shape)
        said = ", ".join(f"{key}={value}" for key, value in options.items())
        name = f"{'x'.join(map(str, shape))} on {'x'.join(map(str, image[1:]))} {said}"
        compare(name, bigspec.conv(K, image, **options), flattened(K))


def layers(path, shape):
    """Yield the name, the kernel and each layer of an ONNX model that has a size."""
    parts = [part.rpartition("=") for part in shape.split(";")]
    given = {name: tuple(map(int, numbers.split(","))) for name, _, numbers in parts}
    model = with_shapes(as_model(path), path, given.get("", given))
    for name, found in layers_of(model).items():
        for layer in found or ():
            if layer.sized:
                yield name, np.asarray(model[name].read(), np.float64), layer


def model(path, shape):
    for name, K, layer in layers(path, shape):
        compare(f"{name[-24:]} {layer.text}", layer.matrix(K), flattened(K), rtol=1e-2)


def dense(path, shape, most="2500"):
    """Form each operator that is not too large, and compare its float64 norm with the interval."""
    checked = missed = skipped = 0
    for name, K, layer in layers(path, shape):
        A = layer.matrix(K)
        for B in (A, circular(K, layer)):
            if B is None or min(B.shape) > int(most) or max(B.shape) > 20 * int(most):
                skipped += B is not None
                continue
            wide = B if B.shape[0] <= B.shape[1] else B.H
            exact = float(np.linalg.norm(wide.apply_adjoint(np.eye(wide.shape[0])), 2))
            found = bigspec.norm(B, rtol=1e-2)
            good = found.lower <= exact * (1 + 1e-12) and exact <= found.upper * (1 + 1e-12)
            checked, missed = checked + 1, missed + (not good)
            print(f"{name[-30:]:30} {layer.text}: {exact:.6g} in [{found.lower:.6g}, "
                  f"{found.upper:.6g}] {found.upper_bound} {good}", flush=True)  # fmt: skip
    print(f"{checked} operators, {missed} outside of their interval, {skipped} too large")


def circular(K, layer):
    """The same layer with circular edges, where its padding allows them."""
    sizes = layer.shape[1:]
    if layer.transposed or any(max(p) > n for p, n in zip(layer.padding, sizes, strict=True)):
        return None
    return bigspec.conv(
        K, layer.shape, stride=layer.stride, padding=layer.padding, dilation=layer.dilation,
        groups=layer.groups, mode="circular",
    )  # fmt: skip


LINE = re.compile(
    r".*torch +\S+ \( *(?P<torch>\S+)\).*\| (?P<width>\S+) +\d+ +(?P<seconds>\S+) s "
    r"(?P<sure>certain|probable) \| black box (?P<box>\S+) +\d+ +(?P<box_seconds>\S+) s"
)


def table(*files):
    """Print medians, and in brackets the extremes, of each model."""
    print("| model | layers | torch's value of the norm | width | CPU | width, black box | CPU |")
    print("|--|--|--|--|--|--|--|")
    for file in files:
        name, _, path = file.partition("=")
        found = [LINE.match(line) for line in Path(path).read_text().splitlines()]
        rows = [one.groupdict() for one in found if one]
        sure = sum(row["sure"] == "certain" for row in rows)
        least, most = (f(float(row["torch"]) for row in rows) for f in (min, max))
        middle = statistics.median(float(row["torch"]) for row in rows)
        cells = [name, f"{len(rows)}, {sure} certain", f"{middle:.2f} ({least:.2f} to {most:.2f})"]
        for width, seconds in (("width", "seconds"), ("box", "box_seconds")):
            for key, form, unit in ((width, ".0e", ""), (seconds, ".2f", " s")):
                values = [float(row[key]) for row in rows]
                middle, most = statistics.median(values), max(values)
                cells.append(f"{middle:{form}} ({most:{form}}){unit}")
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    part, *rest = sys.argv[1:] or ["kernels"]
    {"kernels": kernels, "model": model, "dense": dense, "table": table}[part](*rest)
