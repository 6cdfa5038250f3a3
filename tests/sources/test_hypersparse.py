"""Two entries in a matrix of a thousand million rows: refused by its shape, before any pointer."""

import numpy as np
import pytest
import scipy.sparse as sp
import sparse
import zarr

import bigspec
from bigspec.algorithms import REGISTRY
from bigspec.errors import DataError, MemoryLimitError
from bigspec.sources.checks import LEAST_BLOCKS
from tests.memory import traced_peak

N = 10**9
PLACES = np.array([0, N - 1])


def market(place):
    text = "%%MatrixMarket matrix coordinate real general\n{0} {0} 2\n1 1 1.0\n{0} {0} 2.0\n"
    (place / "A.mtx").write_text(text.format(N))
    return place / "A.mtx"


def npz(place):
    np.savez(place / "A.npz", row=PLACES, col=PLACES, data=[1.0, 2.0], format=b"coo", shape=[N, N])
    return place / "A.npz"


def group(place):
    made = zarr.create_group(place / "A.zarr")
    parts = {"data": np.ones(2), "indices": PLACES}
    for name, part in parts.items():
        made.create_array(name, shape=part.shape, chunks=part.shape, dtype=part.dtype)[:] = part
    made.create_array("indptr", shape=(N + 1,), chunks=(1 << 20,), dtype="i8")  # nothing is read
    made.attrs.update({"encoding-type": "csr_matrix", "shape": [N, N]})
    return place / "A.zarr"


def coordinates(place):
    return sp.coo_array(([1.0, 2.0], (PLACES, PLACES)), shape=(N, N))


def pydata(place):
    return sparse.COO(np.stack([PLACES, PLACES]), np.array([1.0, 2.0]), shape=(N, N))


DOORS = pytest.mark.parametrize("source", [market, npz, group, coordinates, pydata])


@DOORS
@pytest.mark.parametrize(
    "call", [bigspec.norm, bigspec.plan, lambda a, **o: bigspec.svds(a, 1, **o)]
)
def test_what_no_memory_holds_is_refused_by_the_header(source, call, tmp_path):
    a = source(tmp_path)
    refused = pytest.raises(
        MemoryLimitError, match=r"expected at least 37\.3 GiB for the vectors of"
    )
    with traced_peak() as peak, refused:
        call(a, memory_limit="8GiB")
    assert peak[0] < 64 << 20  # pointers would take 8 GB


@pytest.mark.parametrize("source", [market, npz])
def test_a_conversion_says_by_the_header_too_that_the_rows_are_empty(source, tmp_path):
    with pytest.raises(DataError, match="no more than 64 rows for each stored entry"):
        bigspec.convert(source(tmp_path), tmp_path / "B.zarr", memory_limit="1GiB")


def test_no_run_holds_fewer_vectors():
    assert min(row.blocks for row in REGISTRY.rows if not row.entries) == LEAST_BLOCKS


def test_a_long_matrix_of_few_columns_has_short_vectors(tmp_path):
    tall = sp.coo_array(([3.0, 4.0], ([0, 20_000_000], [0, 1])), shape=(20_000_001, 2))
    assert bigspec.plan(tall, memory_limit="2GiB").block_size == 2
