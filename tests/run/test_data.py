"""The real matrices: as chunked Zarr of two grids the interval holds the reference.

`PASSES` is the table of section 9 for these matrices: passes of block Lanczos (b = 16,
delta = 1e-6) run densely in memory until the certified relative width is 1e-2, 1e-3, 1e-6 and
1e-10. Runs on chunks must stay within one pass of it.
"""

from functools import cache

import numpy as np
import pytest
import zarr

import bigspec
from tests.conftest import DATA
from tests.real import REFERENCE, load
from tests.representations import REPRESENTATIONS, cannot

RTOLS = (1e-2, 1e-3, 1e-6, 1e-10)
PASSES = {
    "pbmc raw.X": (2, 2, 3, 3),
    "pbmc X": (3, 3, 4, 5),
    "pbmc counts": (2, 2, 2, 3),
    "pbmc connectivities": (5, 5, 6, 7),
    "bcsstk16": (4, 4, 5, 7),
    "coads SLP": (2, 2, 2, 3),
    "coads SST": (1, 1, 1, 1),
    "fashion": (2, 2, 3, 3),
    "illc1850": (6, 7, 9, 11),
    "lp_dfl001": (4, 4, 5, 7),
    "mhd1280b": (2, 2, 2, 3),
    "silero": (3, 3, 4, 5),
    "west0479": (2, 2, 2, 2),
    "wiki-Vote": (3, 3, 3, 4),
    "young1c": (7, 10, 13, 17),
}
GRIDS = {"strips": (0.1, 1.0), "ragged rectangles": (0.23, 0.41)}


def passes_until(est, rtol):
    return next((r.number for r in est.history if r.width <= rtol), None)


def assert_reference_inside(record, sigma):
    """The references are given to a few units of float64 rounding."""
    slack = 4e-15 * sigma
    assert record.lower <= sigma + slack
    assert sigma - slack <= record.upper


def same_interval(est, dense, sigma, rtol):
    """Say how an answer differs from that of the dense matrix, or return None.

    The sums are made in another order, and rounding margins differ by the kernel, so "the same"
    is: as converged, in as many passes, containing the reference, and with ends that differ by
    no more than what both were allowed.
    """
    slack = 4e-15 * sigma
    if not est.converged:
        return f"not converged: {est.status}"
    if not est.lower - slack <= sigma <= est.upper + slack:
        return f"[{est.lower!r}, {est.upper!r}] misses {sigma!r}"
    if abs(est.passes - dense.passes) > 1:
        return f"{est.passes} passes, {dense.passes} of the dense matrix"
    if est.frobenius is not None and abs(est.frobenius / dense.frobenius - 1) > 1e-12:
        return f"Frobenius norm {est.frobenius!r}, {dense.frobenius!r} of the dense matrix"
    if max(abs(est.lower - dense.lower), abs(est.upper - dense.upper)) > rtol * sigma:
        return f"[{est.lower!r}, {est.upper!r}], [{dense.lower!r}, {dense.upper!r}] of the dense"
    return None


def test_the_table_covers_every_reference():
    assert PASSES.keys() == REFERENCE.keys()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", REFERENCE)
def test_reference_lies_in_every_interval(name, grid, data, tmp_path):
    A = load(data, name)
    chunks = tuple(max(1, int(e * f)) for e, f in zip(A.shape, GRIDS[grid], strict=True))
    store = zarr.create_array(tmp_path / "A.zarr", shape=A.shape, chunks=chunks, dtype=A.dtype)
    store[:] = A
    est = bigspec.norm(tmp_path / "A.zarr", algorithm="lanczos", block_size=16, rtol=1e-10, seed=1)
    assert est.converged
    for record in est.history:
        assert_reference_inside(record, REFERENCE[name])
    for rtol, expected in zip(RTOLS, PASSES[name], strict=True):
        assert abs(passes_until(est, rtol) - expected) <= 1, (rtol, est.history)
    assert est.frobenius == pytest.approx(np.linalg.norm(A.astype(complex)), rel=1e-12)


@pytest.mark.parametrize("name", ["pbmc X", "mhd1280b", "silero", "coads SLP"])
@pytest.mark.parametrize("algorithm", ["power", "gram", "auto"])
@pytest.mark.parametrize("rtol", [1e-2, 1e-3, 1e-6])
def test_every_algorithm_brackets_the_reference(name, algorithm, rtol, data):
    est = bigspec.norm(load(data, name), algorithm=algorithm, rtol=rtol, seed=1, max_passes=300)
    assert est.converged
    assert_reference_inside(est, REFERENCE[name])
    if algorithm == "gram":
        assert est.passes == 1
        assert est.deterministic


def test_zipped_zarr_with_consolidated_metadata_that_zarr_rejects(data):
    est = bigspec.norm(f"{data / '10x_pbmc68k_reduced.zarr.zip'}::/X", rtol=1e-8)
    assert_reference_inside(est, REFERENCE["pbmc X"])


# Every representation meets a complex, a very wide and a float32 matrix; the whole product
# (each matrix in each representation) is run by benchmarks/representations.py.
SAMPLE = ["young1c", "coads SST", "silero"]
ALGORITHMS = {"young1c": "gram", "coads SST": "lanczos", "silero": "power"}


@cache
def densely(name):
    """The matrix, and the answer of it as an array, made once."""
    A = load(DATA, name)
    return A, bigspec.norm(A, rtol=1e-8, algorithm=ALGORITHMS[name], seed=1, max_passes=500)


@pytest.mark.parametrize("kind", REPRESENTATIONS)
@pytest.mark.parametrize("name", SAMPLE)
def test_every_representation_gives_the_interval_of_the_dense_matrix(name, kind, tmp_path):
    A, dense = densely(name)
    if (why := cannot(kind, A)) is not None:
        pytest.skip(why)
    a = REPRESENTATIONS[kind](A, tmp_path)
    options = {"rtol": 1e-8, "algorithm": ALGORITHMS[name], "seed": 1, "max_passes": 500}
    if kind == "LinearOperator" and options["algorithm"] == "gram":  # which needs entries
        options["algorithm"] = "lanczos"
        dense = bigspec.norm(A, **options)
    assert same_interval(bigspec.norm(a, **options), dense, REFERENCE[name], 1e-8) is None
