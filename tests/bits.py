"""Runs whose bits are recorded in ``tests/data/bits.json``: the table, and how it is recorded.

``python -m tests.bits``, from the root of the checkout, makes every run of `ROWS`, says how each
differs from the record, and records it. Do that only for a change that is meant to change bits,
and name the reason in CHANGELOG.md. `tests/test_bits.py` makes the same runs and compares.

Only public names of bigspec are used here, so that moving its modules changes nothing. All that
depends on the machine is given: block size and memory limit by arguments, the number of threads by
Dask's configuration. Entries are elementwise arithmetic on uniform draws, whose bits are the same
on every machine. What a plan says of memory is not recorded: it may change without a bit.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import tempfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import scipy
import scipy.sparse as sp
import threadpoolctl
import zarr
from scipy.sparse.linalg import aslinearoperator

import bigspec

RECORD = Path(__file__).parent / "data" / "bits.json"
THREADS = 2
SHAPE = (260, 90)
LAYOUT = ("orientation", "iterate_length", "panels", "rounds", "reads_per_pass")
# Where other libraries or another CPU compute, numbers may differ by so much of the largest lower
# end. Intervals of products hold the error of images carried from pass to pass, estimated from
# rounding itself: 5e-10 was seen between two kinds of CPU.
CLOSE = 1e-12
CLOSE_OF_PRODUCT = 1e-8


# Entries -------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def entries(m=SHAPE[0], n=SHAPE[1], *, seed=0, dtype="f8"):
    """Uniform draws, columns scaled by 8 / (8 + j) so that the singular values fall."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    A = np.empty((m, n), "c16" if dtype.kind == "c" else "f8")
    A.real = rng.random((m, n)) - 0.5
    if dtype.kind == "c":
        A.imag = rng.random((m, n)) - 0.5
    if dtype.kind in "iu":
        A *= 100.0
    A *= 8.0 / (8.0 + np.arange(n))
    A = A.astype(dtype, copy=False)
    A.flags.writeable = False
    return A


def sparse_entries(m=3 * SHAPE[0], n=SHAPE[1], *, seed=0, dtype="f8", share=0.1):
    """Of those entries, a tenth."""
    kept = np.random.default_rng(seed + 100).random((m, n)) < share
    return entries(m, n, seed=seed, dtype=dtype) * kept


def positive(length, seed):
    return 0.5 + np.random.default_rng(seed).random(length)


# Sources: each is called with a folder of its own ---------------------------------------------


def array(place, m=SHAPE[0], n=SHAPE[1], *, dtype="f8", order="C", scale=1.0):
    A = entries(m, n, dtype=dtype)
    return np.asarray(A if scale == 1.0 else A * scale, order=order)


def store(place, m=SHAPE[0], n=SHAPE[1], *, dtype="f8", chunks=(64, 40), seed=0, **options):
    path = place / f"A{seed}.zarr"
    A = entries(m, n, seed=seed, dtype=dtype)
    zarr.create_array(path, shape=A.shape, chunks=chunks, dtype=A.dtype, **options)[:] = A
    return path


def in_dask(place, m=SHAPE[0], n=SHAPE[1], *, dtype="f8", chunks=(64, 40)):
    return da.from_array(entries(m, n, dtype=dtype), chunks=chunks)


def in_dask_sparse(place):
    rows = da.from_array(sparse_entries(), chunks=(200, SHAPE[1]))
    return rows.map_blocks(sp.csr_array)


def csr(place, **options):
    return sp.csr_array(sparse_entries(**options))


def csc(place, **options):
    return sp.csc_array(sparse_entries(**options))


def sparse_store(place, form, **options):
    """A group in the layout of AnnData."""
    A = {"csr": csr, "csc": csc}[form](place, **options)
    group = zarr.create_group(place / f"{form}.zarr")
    for name, part in (("data", A.data), ("indices", A.indices), ("indptr", A.indptr)):
        group.create_array(name, shape=part.shape, chunks=(1000,), dtype=part.dtype)[:] = part
    group.attrs.update({"encoding-type": f"{form}_matrix", "shape": list(A.shape)})
    return place / f"{form}.zarr"


def centered(place):
    return bigspec.centered(sparse_store(place, "csr"), memory_limit="1GiB")


def standardized(place):
    return bigspec.standardized(store(place), memory_limit="1GiB")


def difference(place, dtype="f8"):
    one = bigspec.open_matrix(store(place, dtype=dtype))
    return one - bigspec.open_matrix(entries(seed=5, dtype=dtype))


def sparse_difference(place):
    return bigspec.open_matrix(csr(place)) - bigspec.open_matrix(csr(place, seed=5))


def low_rank(place):
    m, n = SHAPE
    factors = bigspec.low_rank(entries(m, 3, seed=7), Vh=entries(3, n, seed=8))
    return bigspec.open_matrix(store(place)) - factors


def scaled(place):
    return bigspec.scaled(store(place), rows=positive(SHAPE[0], 1), columns=positive(SHAPE[1], 2))


def stacked(place):
    parts = [bigspec.hstack([store(place, seed=k), array(place)]) for k in (0, 1)]
    return bigspec.vstack(parts)


def adjoint(place):
    return bigspec.open_matrix(store(place, dtype="c8")).H


def product(place, dtype="f8"):
    left, right = store(place, dtype=dtype), entries(SHAPE[1], 60, seed=9, dtype=dtype)
    return bigspec.open_matrix(left) @ right


def chain(place):
    """Of three, sparse and stored among them."""
    return bigspec.open_matrix(csr(place)) @ store(place, SHAPE[1], 70) @ entries(70, 50, seed=9)


def operator(place, dtype="f8"):
    return aslinearoperator(entries(dtype=dtype))


def product_with_operator(place):
    return bigspec.open_matrix(store(place)) @ aslinearoperator(entries(SHAPE[1], 60, seed=9))


# The table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One run: a source with its arguments, and the options of `norm`, or of `svds` with a k."""

    source: Any
    given: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    start: str = ""  # "vectors", or "estimate" of an earlier run
    saved: bool = False  # with a checkpoint, which takes a basis that does not fit


SOURCES = {
    "store": (store, {}),
    "csr": (csr, {}),
    "csc": (csc, {}),
    "csr store": (sparse_store, {"form": "csr"}),
    "csc store": (sparse_store, {"form": "csc"}),
    "dask": (in_dask, {}),
    "centered": (centered, {}),
    "difference": (difference, {}),
    "low rank": (low_rank, {}),
    "scaled": (scaled, {}),
    "stacked": (stacked, {}),
    "product": (product, {}),
    "operator": (operator, {}),
}
# Gram needs entries. Of power the sources matter less: what a pass does is the same for lanczos.
WITHOUT = {
    "gram": ("product", "operator"),
    "power": ("csc", "csc store", "low rank", "scaled", "stacked"),
}
OTHERS = {
    "array": (array, {}),
    "array in Fortran's order": (array, {"order": "F"}),
    "store of float32": (store, {"dtype": "f4", "compressors": None}),
    "store of big-endian int16": (store, {"dtype": ">i2"}),
    "store of irregular strips": (store, {"chunks": (37, 90), "shards": (74, 90)}),
    "sparse dask": (in_dask_sparse, {}),
    "standardized": (standardized, {}),
    "sparse difference": (sparse_difference, {}),
    "adjoint": (adjoint, {}),
    "chain": (chain, {}),
    "product with operator": (product_with_operator, {}),
    "tiny entries": (array, {"scale": 2.0**-700}),
    "huge entries": (array, {"scale": 2.0**700}),
}
COMPLEX = {
    "array": (array, {"dtype": "c16"}),
    "store": (store, {"dtype": "c8"}),
    "csr": (csr, {"dtype": "c16"}),
    "csc store": (sparse_store, {"form": "csc", "dtype": "c8"}),
    "dask": (in_dask, {"dtype": "c16"}),
    "difference": (difference, {"dtype": "c8"}),
    "product": (product, {"dtype": "c16"}),
    "operator": (operator, {"dtype": "c16"}),
}
WIDE = {
    "array": (array, {"m": 90, "n": 260}),
    "store": (store, {"m": 90, "n": 260}),
    "csc": (csc, {"m": 90, "n": 780}),
    "csr store": (sparse_store, {"form": "csr", "m": 90, "n": 780}),
}
LARGE = {"m": 2200, "n": 1024}
# Beside what a pass holds (`bigspec.plan` says it), these leave room for one block of the basis.
# Where a later plan counts otherwise, give the rows limits that leave as much.
ROOM = {
    "array": "14400KiB",
    "warm": "14664KiB",
    "store": "17300KiB",
    "complex": "16512KiB",
    "svds": "14720KiB",
}
TWO_READS = "22MiB"


def table():
    """Return the rows by their names."""
    rows = {}
    fixed = {"seed": 3, "memory_limit": "1GiB", "rtol": 1e-4, "max_passes": 6}

    def add(name, source, *, start="", saved=False, **options):
        assert name not in rows
        rows[name] = Row(*source, fixed | options, start, saved)

    for algorithm in ("lanczos", "power", "gram"):
        block = {} if algorithm == "gram" else {"block_size": 4}
        for name, source in SOURCES.items():
            if name not in WITHOUT.get(algorithm, ()):
                add(f"{algorithm}, {name}", source, algorithm=algorithm, **block)
    lanczos = {"algorithm": "lanczos", "block_size": 4}
    power, gram = {"algorithm": "power", "block_size": 4}, {"algorithm": "gram"}
    for name, source in OTHERS.items():
        add(f"lanczos, {name}", source, **lanczos)
    for name, source in COMPLEX.items():
        add(f"lanczos, complex {name}", source, **lanczos)
    add("power, complex csr", COMPLEX["csr"], **power)
    add("gram, complex store", COMPLEX["store"], **gram)
    for b in (1, 16):
        for name in ("store", "csr", "product"):
            add(f"lanczos, {name}, block of {b}", SOURCES[name], **lanczos | {"block_size": b})
        add(f"power, store, block of {b}", SOURCES["store"], **power | {"block_size": b})
    for name, source in WIDE.items():
        add(f"lanczos, wide {name}", source, **lanczos)
    add("power, wide store", WIDE["store"], **power)
    add("gram, wide csc", WIDE["csc"], **gram)
    for start in ("vectors", "estimate"):
        add(f"lanczos, store, warm by {start}", SOURCES["store"], start=start, **lanczos)
        add(f"power, csr, warm by {start}", SOURCES["csr"], start=start, **power)
    add("lanczos, product, warm by vectors", SOURCES["product"], start="vectors", **lanczos)
    add("auto, store", SOURCES["store"])
    add("auto, csr, a block", SOURCES["csr"], block_size=3)
    add("lanczos, store, a gate", SOURCES["store"], gate=bigspec.Gate(max_norm=1.0), **lanczos)

    # What only larger matrices show: a basis that does not fit, two reads a pass, two rounds.
    dropped = {"algorithm": "lanczos", "block_size": 16, "rtol": 1e-6, "max_passes": 6}
    large = {
        "array": (array, LARGE),
        "store": (store, LARGE | {"dtype": "f4", "chunks": (400, 512)}),
    }
    for name, source in large.items():
        add(f"lanczos, {name}, no basis", source, **dropped | {"memory_limit": ROOM[name]})
    add(
        "lanczos, complex array, no basis",
        (array, {"m": 1100, "n": 1024, "dtype": "c16"}),
        **dropped | {"memory_limit": ROOM["complex"]},
    )
    add(
        "lanczos, array, no basis, warm by vectors",
        large["array"],
        start="vectors",
        **dropped | {"memory_limit": ROOM["warm"]},
    )
    twice = (store, {"m": 1600, "n": 1500, "chunks": (800, 500)})
    add(
        "lanczos, store, two reads", twice, **lanczos | {"memory_limit": TWO_READS, "max_passes": 3}
    )
    rounds = {"m": 3000, "n": 3000}
    two = {"max_passes": 2}
    add("lanczos, array, two rounds", (array, rounds), **lanczos | two)
    add("power, dask, two rounds", (in_dask, rounds | {"chunks": (75, 3000)}), **power | two)

    top = {"k": 4, "block_size": 8, "rtol": 1e-5}
    for name in ("store", "csr", "csc store", "dask", "difference", "product", "operator"):
        add(f"svds, {name}", SOURCES[name], **top)
    add("svds, array, whole space", OTHERS["array"], **top | {"block_size": None})
    add("svds, complex store", COMPLEX["store"], **top)
    add("svds, complex product", COMPLEX["product"], **top)
    add("svds, wide csc", WIDE["csc"], **top)
    add("svds, wide store, right alone", WIDE["store"], left=False, **top)
    add("svds, store, warm by vectors", SOURCES["store"], start="vectors", **top)
    narrow = top | {"block_size": 2, "max_passes": 5}
    add("svds, csr, narrow block", SOURCES["csr"], **narrow)
    saved = {"k": 4, "block_size": 16, "rtol": 1e-5, "max_passes": 4, "memory_limit": ROOM["svds"]}
    add("svds, array, basis in the checkpoint", large["array"], saved=True, **saved)
    return rows


ROWS = table()


# Running and recording -----------------------------------------------------------------------


def run(row, place):
    """Make the run of a row in a folder and return what is recorded of it."""
    options = dict(row.options)
    call = bigspec.svds if "k" in options else bigspec.norm
    with dask.config.set(num_workers=THREADS):
        source = row.source(place, **row.given)
        if row.saved:
            options["checkpoint"] = place / "run"
        if row.start:
            options["start"] = started(row, source, options)
        answer = call(source, **options)
    return described(answer)


def started(row, source, options):
    """Two old vectors, or the estimate of a rough run."""
    if row.start == "vectors":
        return entries(bigspec.open_matrix(source).shape[1], 2, seed=4)
    return bigspec.norm(source, **options | {"seed": 8, "rtol": 0.1})


def described(answer):
    """Return what two runs of equal bits have in common; numbers as hexadecimal text."""
    if isinstance(answer, bigspec.Triplets):
        vectors = {"u": answer.u, "vh": answer.vh}
        ends = {name: hexed(getattr(answer, name)) for name in ("s", "lower", "upper", "rounding")}
        why = [answer.lower_bounds, answer.upper_bounds, answer.certain]
        passes = [[hexed(record.lowers), hexed(record.uppers)] for record in answer.history]
    else:
        names = ("right", "left", "ritz_vectors")
        vectors = {name: getattr(answer, name) for name in names}
        ends = {name: getattr(answer, name).hex() for name in ("lower", "upper", "rounding")}
        why = [answer.lower_bound, answer.upper_bound, answer.deterministic]
        passes = [[record.lower.hex(), record.upper.hex()] for record in answer.history]
    return {
        **ends,
        "because": json.loads(json.dumps(why)),
        "frobenius": None if answer.frobenius is None else answer.frobenius.hex(),
        "passes": answer.passes,
        "bytes_read": answer.bytes_read,
        "stopped_by": answer.stopped_by,
        "algorithm": answer.algorithm,
        "block_size": answer.block_size,
        "layout": {name: answer.layout[name] for name in LAYOUT},
        "after_each_pass": passes,
        "vectors": {name: digest(V) for name, V in vectors.items() if V is not None},
    }


def hexed(values):
    return [float(value).hex() for value in values]


def digest(V):
    V = np.ascontiguousarray(V)
    return hashlib.sha256(f"{V.dtype} {V.shape}".encode() + V.tobytes()).hexdigest()[:16]


def environment():
    """Return what may change the last bits: the libraries that compute, and the CPU they see."""
    pools = threadpoolctl.threadpool_info()
    blas = {f"{p['internal_api']} {p['version']} {p.get('architecture')}" for p in pools}
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    return {
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "blas": sorted(blas),
        "simd": simd["found"],
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
    }


def differences(name, was, now, *, exact):
    """Say how a run differs from its record, one sentence each.

    Where `exact` is false, numbers may differ by `CLOSE` and vectors by anything: another BLAS, or
    the same one on another CPU, rounds otherwise. All else has to be the same everywhere.
    """
    close = CLOSE_OF_PRODUCT if "product" in name or "chain" in name else CLOSE
    if not exact:
        was, now = (dict(row) for row in (was, now))
        was["vectors"], now["vectors"] = sorted(was["vectors"]), sorted(now["vectors"])
    scale = max(leaves(was["lower"]))
    said = []
    for key in sorted(was.keys() | now.keys()):
        slack = 0.0 if exact else close if key == "rounding" else close * scale
        said += compared(key, was.get(key), now.get(key), slack)
    return said


def leaves(value):
    return (
        [x for item in value for x in leaves(item)] if isinstance(value, list) else [number(value)]
    )


def number(text):
    return float.fromhex(text)


def compared(name, was, now, slack):
    if was == now:
        return []
    pair = (was, now)
    if all(isinstance(value, dict) for value in pair):
        keys = sorted(was.keys() | now.keys())
        return [t for k in keys for t in compared(f"{name} {k}", was.get(k), now.get(k), slack)]
    if all(isinstance(value, list) for value in pair) and len(was) == len(now):
        each = enumerate(zip(was, now, strict=True), 1)
        return [t for k, (a, b) in each for t in compared(f"{name}[{k}]", a, b, slack)]
    if all(isinstance(value, str) and "0x" in value for value in pair):
        gap = abs(number(now) - number(was))
        if gap <= slack:
            return []
        return [f"{name} was {number(was)!r}, is {number(now)!r}, {gap:.1e} away"]
    return [f"{name} was {was!r}, is {now!r}"]


def load():
    return json.loads(RECORD.read_text(encoding="utf-8"))


def main():
    """Make all runs, say what changed, and record them."""
    old = load() if RECORD.exists() else {"environment": {}, "rows": {}}
    here = environment()
    exact = old["environment"] == here
    rows = {}
    for name, row in ROWS.items():
        with tempfile.TemporaryDirectory() as place:
            rows[name] = run(row, Path(place))
        was = old["rows"].get(name)
        said = ["new"] if was is None else differences(name, was, rows[name], exact=exact)
        sys.stdout.writelines(f"{name}: {text}\n" for text in said)
    sys.stdout.writelines(f"{name}: gone\n" for name in old["rows"].keys() - rows.keys())
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    text = f'{{\n "environment": {json.dumps(here)},\n "rows": {{\n{lines}\n }}\n}}\n'
    RECORD.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
