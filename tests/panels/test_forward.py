"""The forward pass: ``S V`` in order, in memory or in a target, from every kind of matrix."""

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

from bigspec.errors import ChunkError, NonFiniteError
from bigspec.panels.target import FinishContext
from bigspec.passes import DeadlinePassed, Hooks, find_executor, open_dask_array
from bigspec.sources import open_source
from bigspec.sources.targets import create_target
from tests.matrices import Chunked, decaying
from tests.passes.test_passes import block, in_two_reads, passes_over


def expected(A, V, orientation):
    return (A if orientation == "rows" else A.conj().T) @ V


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 40),
    n=st.integers(1, 40),
    chunks=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    pieces=st.integers(1, 5),
    rounds=st.integers(1, 4),
    two=st.booleans(),
    dtype=st.sampled_from(["f4", "c8", "i2"]),
)
def test_it_is_the_product_and_reads_every_chunk_once(m, n, chunks, pieces, rounds, two, dtype):
    rng = np.random.default_rng(m * 41 + n)
    A = (9 * rng.standard_normal((m, n))).astype(dtype)
    matrix = Chunked.of(A, chunks)
    passes = passes_over(matrix, pieces=pieces, rounds=rounds)
    if two:
        in_two_reads(passes)
    V = rng.standard_normal((passes.length, 2))
    done = passes.forward(V)
    reference = expected(A, V, passes.layout.orientation)
    np.testing.assert_allclose(done.Y, reference, atol=1e-11)
    np.testing.assert_allclose(done.R.conj().T @ done.R, reference.conj().T @ reference, atol=1e-8)
    assert set(matrix.log.reads.values()) == {1}
    assert done.cost.bytes_read == A.nbytes


A = decaying(90, 40)
S = np.where(np.abs(A) > 0.02, A, 0)
KINDS = {
    "dask": lambda: open_dask_array(da.from_array(A, chunks=((30, 11, 49), (25, 15)))),
    "dask of CSR": lambda: open_dask_array(
        da.from_array(S, chunks=(30, 20)).map_blocks(sp.csr_array, dtype=float)
    ),
    "CSR": lambda: open_source(sp.csr_array(S)),
    "wide CSC": lambda: open_source(sp.csc_array(S.T)),
    "operator": lambda: open_source(aslinearoperator(A)),
    "wide operator": lambda: open_source(aslinearoperator(A.T)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_matrix(kind):
    passes = passes_over(KINDS[kind]())
    B = S if "CS" in kind else A
    V = block(40)
    np.testing.assert_allclose(passes.forward(V).Y, B @ V, atol=1e-14)
    np.testing.assert_allclose(passes.forward(V, exponent=3).Y, B @ V / 8, atol=1e-14)


def test_rows_go_to_a_target_and_are_multiplied_once(tmp_path):
    passes, V = passes_over(Chunked.of(A, (10, 40)), pieces=2), block(40)
    height = passes.target_rows(15)
    assert height == 10
    target = create_target(tmp_path / "Y.zarr", (90, 3), height, np.dtype(float), "u_store")
    done = passes.forward(V, target=target)
    assert done.Y is None
    np.testing.assert_allclose(target[:], A @ V, atol=1e-14)
    T = np.diag([1.0, 2.0, 3.0])
    passes.multiply_target(target, T, done)
    context = FinishContext(
        passes.matrix, passes.layout, None, 0, False, target=target, T=T, tokens=done.checksums
    )
    context.work(0)  # as when a worker dies after it has written
    np.testing.assert_allclose(target[:], A @ V @ T, atol=1e-14)


def test_a_cluster_writes_the_same_rows(cluster, tmp_path):
    zarr.create_array(tmp_path / "A.zarr", shape=A.shape, chunks=(10, 40), dtype=float)[:] = A
    matrix, V = open_source(tmp_path / "A.zarr"), block(40)
    with Client(cluster):
        passes = passes_over(matrix, executor=find_executor(False), pieces=2, rounds=2)
        target = create_target(tmp_path / "Y.zarr", (90, 3), 20, np.dtype(float), "u_store")
        done = passes.forward(V, target=target)
        np.testing.assert_array_equal(passes.forward(V).Y, target[:])
        passes.multiply_target(target, np.eye(3)[:, ::-1], done)
    here = passes_over(matrix, pieces=2, rounds=2).forward(V)
    np.testing.assert_array_equal(here.Y[:, ::-1], target[:])
    np.testing.assert_array_equal(here.R, done.R)


def test_panels_of_unequal_height_share_no_chunks():
    ragged = Chunked.of(A, ((30, 11, 49), 40))
    assert passes_over(ragged, pieces=1).target_rows(20) is None
    assert passes_over(ragged, pieces=3).target_rows(1000) == 90
    assert passes_over(Chunked.of(A, (9, 40)), pieces=2).target_rows(100) == 18
    assert passes_over(Chunked.of(A, (89, 40)), pieces=1).target_rows(40) == 89  # a prime height


def test_trouble_is_reported_as_in_any_pass():
    broken = Chunked.of(A, (10, 40))
    broken.log.fail_at[3] = ChunkError("chunk (2, 0) is damaged")
    with pytest.raises(ChunkError, match="damaged"):
        passes_over(broken, pieces=1).forward(block(40))
    B = A.copy()
    B[51, 3] = np.nan
    with pytest.raises(NonFiniteError, match="in rows 50 to 59"):
        passes_over(Chunked.of(B, (10, 40)), pieces=1).forward(block(40))
    late = passes_over(Chunked.of(A, (10, 40)), pieces=1, rounds=1)
    with pytest.raises(DeadlinePassed):
        late.forward(block(40), hooks=Hooks(deadline=0.0))
