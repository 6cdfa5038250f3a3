"""A pass: one read of every chunk, the same bits wherever and in whatever order it runs."""

import importlib
import os
import pickle
import signal
from dataclasses import replace

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
import sparse
import zarr
from dask.sizeof import sizeof
from distributed import wait
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator

import bigspec
from bigspec.errors import AdjointError, ChunkError, DataError, MemoryLimitError, NonFiniteError
from bigspec.panels.choose_layout import choose_layout
from bigspec.passes import (
    DaskMatrix,
    DeadlinePassed,
    Hooks,
    Pass,
    find_executor,
    one_blas_thread,
    open_dask_array,
)
from bigspec.passes.executor import ThreadExecutor
from bigspec.passes.sizes import register_sizes
from tests.matrices import Chunked, contains, decaying, largest_singular_value
from tests.workers import local_cluster

GIB = 1 << 30


def passes_over(matrix, b=3, *, executor=None, limit=GIB, pieces=None, rounds=None):
    """A pass with, if given, forced panel and round sizes, so that small matrices have many."""
    executor = executor or ThreadExecutor()
    layout = choose_layout(
        matrix, b, blocks=6, limit=limit, tasks=executor.tasks, local=executor.local
    )
    if pieces:
        slab = pieces if not matrix.streams else min(layout.slab_cells, max(1, pieces // 2))
        layout = replace(layout, panel_cells=pieces, slab_cells=slab)
    if rounds:
        layout = replace(layout, round_panels=rounds)
    return Pass(matrix, layout, executor)


def in_two_reads(passes, tile_cells=1):
    """The same pass, reading tile by tile, twice."""
    passes.layout = replace(passes.layout, slab_cells=1, tile_cells=tile_cells)
    return passes


@pytest.fixture(scope="module", autouse=True)
def blas_is_held():
    with one_blas_thread():
        yield


@pytest.fixture(scope="module")
def dense():
    return decaying(90, 40).astype("f4")


def block(n, b=3, seed=5):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, b)))[0]


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 50),
    n=st.integers(1, 50),
    chunks=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    pieces=st.integers(1, 7),
    rounds=st.integers(1, 5),
    two=st.booleans(),
    dtype=st.sampled_from(["f4", "c8", "i2"]),
)
def test_a_pass_is_the_product_and_reads_every_chunk_once(m, n, chunks, pieces, rounds, two, dtype):
    A = (decaying(m, n, complex_=dtype == "c8") * 100).astype(dtype)
    matrix = Chunked.of(A, (min(chunks[0], m), min(chunks[1], n)))
    passes = passes_over(matrix, pieces=pieces, rounds=rounds)
    if two:
        in_two_reads(passes)
    S = A.astype(complex if dtype == "c8" else float)
    S = S if passes.layout.orientation == "rows" else S.conj().T
    V = block(passes.length, min(3, passes.length))
    result = passes.run(V)
    np.testing.assert_allclose(result.Z, S.conj().T @ (S @ V), atol=1e-11 * np.linalg.norm(S) ** 2)
    grid = matrix.grids
    assert len(matrix.log.reads) == grid[0].count * grid[1].count
    assert set(matrix.log.reads.values()) == {passes.layout.reads_per_pass}
    assert result.cost.bytes_read == A.nbytes * passes.layout.reads_per_pass
    assert result.facts.frobenius_squared == pytest.approx(np.linalg.norm(S) ** 2, rel=1e-12)


def test_the_same_bits_on_a_cluster_in_two_reads(dense, client, tmp_path):
    store = zarr.create_array(tmp_path / "A.zarr", shape=(90, 40), chunks=(3, 17), dtype="f4")
    store[:] = dense
    matrix, V = bigspec.open_matrix(tmp_path / "A.zarr"), block(40)
    here = passes_over(matrix, pieces=2, rounds=4, executor=ThreadExecutor())
    there = passes_over(matrix, pieces=2, rounds=4, executor=find_executor(False))
    two = in_two_reads(here).run(V), in_two_reads(there).run(V)
    np.testing.assert_array_equal(two[0].Z, two[1].Z)


def test_the_interval_is_the_same_to_the_last_bit_on_threads_and_cluster(cluster, tmp_path):
    from distributed import Client

    store = zarr.create_array(tmp_path / "A.zarr", shape=(900, 300), chunks=(100, 130), dtype="f4")
    store[:] = decaying(900, 300, 0.5)
    options = {"seed": 3, "algorithm": "lanczos", "rtol": 1e-8}
    here = bigspec.norm(tmp_path / "A.zarr", **options)
    with Client(cluster):
        there = bigspec.norm(tmp_path / "A.zarr", **options)
    assert "scheduler" in there.layout["where"]
    assert (here.lower, here.upper, here.passes) == (there.lower, there.upper, there.passes)
    np.testing.assert_array_equal(here.right, there.right)


@pytest.mark.parametrize("chunks", [(20, 40), (20, 11), ((5, 60, 25), (1, 30, 9)), (90, 7)])
def test_dask_arrays_with_any_chunks(dense, chunks):
    matrix = open_dask_array(da.from_array(dense, chunks=chunks))
    passes = passes_over(matrix, pieces=1, rounds=2)
    V = block(40)
    S = dense.astype(float)
    np.testing.assert_allclose(passes.run(V).Z, S.T @ (S @ V), atol=1e-12)


@pytest.mark.parametrize("wide", [False, True], ids=["tall", "wide"])
@pytest.mark.parametrize(
    "kind", ["csr_array", "csc_array", "csr_matrix", "coo_array", "COO", "GCXS", "mixed"]
)
@pytest.mark.parametrize("dtype", ["f4", "c16"])
@pytest.mark.parametrize("algorithm", ["lanczos", "gram"])
def test_dask_array_with_sparse_chunks_in_both_directions(kind, wide, dtype, algorithm):
    """A row of S spans several chunks: products need their cross terms."""
    A = decaying(90, 40, complex_=dtype == "c16").astype(dtype)
    A = A.T.copy() if wide else A

    def convert(block, block_info=None):
        if kind == "mixed":
            even = sum(block_info[0]["chunk-location"]) % 2 == 0
            return sp.csr_array(block) if even else block
        return getattr(sparse if kind in ("COO", "GCXS") else sp, kind)(block)

    meta = sp.csr_array((0, 0), dtype=dtype)
    array = da.from_array(A, chunks=(25, 15)).map_blocks(convert, dtype=A.dtype, meta=meta)
    est = bigspec.norm(array, algorithm=algorithm, rtol=1e-6, seed=1)
    assert contains(est, largest_singular_value(A))
    assert est.frobenius == pytest.approx(np.linalg.norm(A), rel=1e-6)


def test_duplicates_in_sparse_chunks_are_summed_in_the_norms():
    def convert(block):
        rows, columns = np.nonzero(block)
        halves = np.repeat(block[rows, columns] / 2, 2)
        pointers = 2 * np.searchsorted(rows, np.arange(block.shape[0] + 1))
        return sp.csr_array((halves, np.repeat(columns, 2), pointers), shape=block.shape)

    A = decaying(30, 20)
    array = da.from_array(A, chunks=(10, 20)).map_blocks(convert, dtype=A.dtype)
    est = bigspec.norm(array, algorithm="lanczos", rtol=1e-6)
    assert est.frobenius == pytest.approx(np.linalg.norm(A), rel=1e-12)
    assert contains(est, 1.0)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr"])
def test_dask_knows_the_size_of_sparse_chunks(kind):
    A = sp.random_array((300, 200), density=0.1, format=kind, rng=np.random.default_rng(0))
    held = A.nnz * (A.dtype.itemsize + 4)
    assert held <= sizeof(A) <= 2 * held + 4000
    assert sizeof(sp.csr_matrix(A)) >= A.nnz * 12  # as Dask has it


def test_dask_knows_the_size_of_pydata_chunks():
    A = sparse.COO.from_scipy_sparse(sp.random_array((300, 200), density=0.1))
    assert sizeof(sparse.GCXS(A)) >= A.nnz * 12
    assert sizeof(A) >= A.nnz * 16


def test_workers_know_it_too(client):
    client.run(importlib.import_module, "bigspec.passes")  # as a task of a pass does
    chunks = client.map(sp.csr_array, [np.ones((50, 50 + i)) for i in range(4)])
    wait(chunks)  # measured where they were made
    keys = {chunk.key for chunk in chunks}
    sizes = client.run_on_scheduler(
        lambda dask_scheduler: [t.nbytes for k, t in dask_scheduler.tasks.items() if k in keys]
    )
    assert len(sizes) == 4
    assert min(sizes) > 50 * 50 * 12


def test_what_is_told_already_stays():
    held = dict(sizeof._lookup)
    register_sizes()
    assert sizeof._lookup == held


def test_chunks_of_another_kind_are_named():
    array = da.from_array(np.eye(8), chunks=4)
    lists = array.map_blocks(lambda b: [b], dtype=float, meta=np.eye(0))
    with pytest.raises(DataError, match=r"expected a NumPy array, .* got builtins.list"):
        bigspec.norm(lists)
    filled = array.map_blocks(lambda b: sparse.COO.from_numpy(b, fill_value=1.0), dtype=float)
    with pytest.raises(DataError, match=r"expected a fill value of 0, got 1.0"):
        bigspec.norm(filled)


def test_wide_dask_array_is_swept_by_columns(dense):
    matrix = open_dask_array(da.from_array(dense.T, chunks=(13, 20)))
    passes = passes_over(matrix, pieces=1)
    assert passes.layout.orientation == "columns"
    S = dense.astype(float)
    np.testing.assert_allclose(passes.run(block(40)).Z, S.T @ (S @ block(40)), atol=1e-12)


def test_dask_array_on_a_cluster_gives_the_bits_of_threads(dense, client):
    array = da.from_array(dense, chunks=(20, 11)) * 2
    V = block(40)
    here = passes_over(open_dask_array(array), pieces=1, executor=ThreadExecutor())
    there = passes_over(open_dask_array(array), pieces=1, executor=find_executor(False))
    with dask.config.set(scheduler="threads"):
        expected = here.run(V).Z
    np.testing.assert_array_equal(there.run(V).Z, expected)


def test_array_in_this_process_is_not_sent_to_an_active_cluster(dense, client):
    matrix = Chunked.of(dense, (10, 40), resident=True)
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(matrix)
    est = bigspec.norm(matrix, algorithm="lanczos")
    assert "threads of this process" in est.layout["where"]


def test_persisted_dask_array_is_not_computed_again(dense, client):
    array = client.persist(da.from_array(dense, chunks=(20, 11)))
    passes = passes_over(open_dask_array(array), executor=find_executor(False))
    S = dense.astype(float)
    np.testing.assert_allclose(passes.run(block(40)).Z, S.T @ (S @ block(40)), atol=1e-12)


def test_graphs_grow_with_the_rounds_in_flight_and_not_with_the_matrix():
    sizes = []

    class Watching(ThreadExecutor):
        def sum_rounds(self, *args, **options):
            def get(graph, keys, **_):
                sizes.append(len(graph))
                return dask.get(graph, keys)

            with dask.config.set(scheduler=get):
                return super().sum_rounds(*args, **options)

    A = np.ones((4000, 3), "f4")
    passes = passes_over(Chunked.of(A, (1, 3)), pieces=1, executor=Watching())
    result = passes.run(block(3, 1))
    assert result.cost.panels == 4000
    assert len(sizes) > 30
    assert max(sizes) < 200


def test_nan_names_entry_chunk_and_panel(dense):
    A = dense.copy()
    A[61, 23] = np.nan
    passes = passes_over(Chunked.of(A, (10, 20)), pieces=2)
    with pytest.raises(NonFiniteError, match=r"first at \[61, 23\], in chunk \(6, 1\), panel 3"):
        passes.run(block(40))
    with pytest.raises(NonFiniteError, match=r"first at \[61, 23\], in chunk \(6, 1\)"):
        in_two_reads(passes_over(Chunked.of(A, (10, 20)), pieces=2)).run(block(40))
    with pytest.raises(NonFiniteError, match=r"first at \[23, 61\], in chunk \(1, 6\)"):
        passes_over(Chunked.of(A.T, (20, 10)), pieces=2).run(block(40))


def test_nan_on_a_worker_reaches_the_caller_as_itself(dense, client):
    A = dense.copy()
    A[61, 23] = np.inf
    matrix = open_dask_array(da.from_array(A, chunks=(10, 20)))
    passes = passes_over(matrix, executor=find_executor(False), pieces=2)
    with pytest.raises(NonFiniteError, match=r"first at \[61, 23\], in chunk \(6, 1\)"):
        passes.run(block(40))


def test_read_that_fails_in_the_middle_of_a_pass_is_not_swallowed(dense):
    matrix = Chunked.of(dense, (10, 40))
    matrix.log.fail_at[5] = ChunkError("chunk c/4/0 is damaged")
    passes = passes_over(matrix, pieces=1)
    with pytest.raises(ChunkError, match="c/4/0"):
        passes.run(block(40))


def test_operator_with_a_wrong_adjoint_is_found_in_its_first_pass(dense):
    A = dense.astype(float)
    calls = []

    def rmatmat(Y):
        calls.append(Y.shape)
        return 1.001 * (A.T @ Y)

    wrong = LinearOperator(
        A.shape,
        matvec=lambda x: A @ x,
        matmat=lambda X: A @ X,
        rmatvec=lambda y: A.T @ y,
        rmatmat=rmatmat,
        dtype=float,
    )
    with pytest.raises(AdjointError, match="rmatvec to be the adjoint of matvec"):
        bigspec.norm(wrong)
    assert len(calls) == 1


def test_operator_gives_the_interval_of_its_matrix(dense):
    A = dense.astype(float)
    operator = LinearOperator(
        A.shape, matvec=lambda x: A @ x, rmatvec=lambda y: A.T @ y, dtype=float
    )
    est = bigspec.norm(operator, rtol=1e-6, seed=1)
    assert est.lower <= np.linalg.norm(A, 2) <= est.upper
    assert est.converged
    assert est.frobenius is None


def test_deadline_ends_a_pass_between_panels(dense):
    passes = passes_over(Chunked.of(dense, (1, 40)), pieces=1, rounds=4)
    with pytest.raises(DeadlinePassed):
        passes.run(block(40), hooks=Hooks(deadline=0.0))


def test_dask_array_whose_strips_do_not_fit_is_read_twice(dense, client):
    array = da.from_array(dense, chunks=(20, 11)) * 2
    S = dense.astype(float) * 2
    for executor, tile in ((ThreadExecutor(), 1), (ThreadExecutor(), 3), (find_executor(False), 2)):
        passes = passes_over(open_dask_array(array), executor=executor, pieces=2)
        in_two_reads(passes, tile)
        with dask.config.set(scheduler="threads"):
            result = passes.run(block(40))
        np.testing.assert_allclose(result.Z, S.T @ (S @ block(40)), atol=1e-12)
        assert result.cost.bytes_read == 2 * dense.nbytes


def test_dask_array_that_cannot_fit_is_refused_before_it_is_computed():
    def never(*_):
        raise AssertionError

    chunks = ((1000,) * 100, (1000,) * 1000)
    array = da.map_blocks(never, chunks=chunks, dtype="f8", meta=np.empty((0, 0)))
    plan = bigspec.plan(array, memory_limit="900MB", algorithm="lanczos")
    assert plan.layout.reads_per_pass == 2
    with pytest.raises(MemoryLimitError, match="memory_limit: expected at least"):
        bigspec.plan(array, memory_limit="10MB")


def test_worker_killed_in_the_middle_of_a_pass_changes_no_bit(tmp_path):
    """On schedule: after the first panels are summed; the worker that holds the block dies too."""
    from distributed import Client

    A = decaying(600, 40).astype("f4")
    store = zarr.create_array(tmp_path / "A.zarr", shape=A.shape, chunks=(2, 40), dtype="f4")
    store[:] = A
    matrix = bigspec.open_matrix(tmp_path / "A.zarr")
    V = block(40)
    expected = passes_over(matrix, pieces=2, rounds=16, executor=ThreadExecutor()).run(V)
    with local_cluster(n_workers=2) as cluster, Client(cluster) as client:
        pids = list(client.run(os.getpid).values())
        passes = passes_over(matrix, pieces=2, rounds=16, executor=find_executor(False))

        def kill_all_once(*_):
            while pids:
                os.kill(pids.pop(), signal.SIGKILL)

        result = passes.run(V, hooks=Hooks(kill_all_once))
    assert not pids
    np.testing.assert_array_equal(result.Z, expected.Z)
    assert result.facts == expected.facts


def test_dask_arrays_that_are_no_matrix_are_refused():
    with pytest.raises(DataError, match=r"expected 2 dimensions, got shape \(3, 4, 5\)"):
        bigspec.open_matrix(da.zeros((3, 4, 5)))
    x = da.ones((10, 10), chunks=5)
    with pytest.raises(DataError, match="compute_chunk_sizes"):
        bigspec.open_matrix(x[x[:, 0] > 0])
    with pytest.raises(bigspec.BigspecError, match="expected entries of type bool, int"):
        bigspec.open_matrix(da.from_array(np.array([["a", "b"]])))


def test_dask_matrix_is_recognised():
    assert isinstance(bigspec.open_matrix(da.ones((3, 3))), DaskMatrix)
