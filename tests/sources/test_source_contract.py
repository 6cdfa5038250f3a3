"""Every source keeps the contract of `Matrix`; a new format joins with one row of `FORMATS`."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import sparse
import zarr
from scipy.sparse.linalg import aslinearoperator
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import LocalStore, MemoryStore, ZipStore

from bigspec.kernels.buffers import Buffers
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.sources import open_source
from tests.sources.test_binsparse import parts_of as binsparse_parts
from tests.sources.test_binsparse import write as write_binsparse
from tests.sources.test_netcdf import write as write_netcdf

M, N = 23, 17


def dense(dtype: str = "f8") -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(7)
    A = np.round(10 * rng.standard_normal((M, N)))
    A[np.abs(A) < 8] = 0
    if np.dtype(dtype).kind == "c":
        A = A + 1j * A[::-1]
    return A.astype(dtype)


Made = tuple[Any, np.ndarray[Any, Any]]


def zarr_at(store: Any, A: np.ndarray[Any, Any], **options: Any) -> zarr.Array[Any]:
    array = zarr.create_array(store, shape=A.shape, dtype=A.dtype, **options)
    array[...] = A
    return array


def v3_blosc(tmp_path: Path) -> Made:
    A = dense("f4")
    zarr_at(tmp_path / "A.zarr", A, chunks=(5, N), compressors=BloscCodec())
    return str(tmp_path / "A.zarr"), A


def v3_checksum_path(tmp_path: Path) -> Made:
    A = dense("c16")
    zarr_at(tmp_path / "A.zarr", A, chunks=(8, 6), compressors=Crc32cCodec())
    return tmp_path / "A.zarr", A


def v2_column_order(tmp_path: Path) -> Made:
    A = dense("i2")
    zarr_at(tmp_path / "A.zarr", A, chunks=(8, 6), zarr_format=2, order="F")
    return str(tmp_path / "A.zarr"), A


def v2_big_endian(tmp_path: Path) -> Made:
    A = dense(">f8")
    zarr_at(tmp_path / "A.zarr", A, chunks=(8, 6), zarr_format=2)
    return f"file://{tmp_path}/A.zarr", A


def sharded(tmp_path: Path) -> Made:
    A = dense("f8")
    zarr_at(tmp_path / "A.zarr", A, chunks=(2, 3), shards=(8, 6))
    return zarr.open_array(tmp_path / "A.zarr", mode="r"), A


def inside_a_group(tmp_path: Path) -> Made:
    A = dense("f8")
    zarr_at(tmp_path / "G.zarr", A, name="deep/X", chunks=(8, 6))
    return f"{tmp_path}/G.zarr::/deep/X", A


def sub_path_of_a_group(tmp_path: Path) -> Made:
    A = dense("?")
    zarr_at(tmp_path / "G.zarr", A, name="deep/X", chunks=(8, 6))
    return tmp_path / "G.zarr" / "deep" / "X", A


def zipped(tmp_path: Path) -> Made:
    A = dense("f2")
    with ZipStore(tmp_path / "A.zarr.zip", mode="w") as store:
        zarr_at(store, A, name="X", chunks=(8, 6))
    return str(tmp_path / "A.zarr.zip::/X"), A


def sub_path_of_a_zip(tmp_path: Path) -> Made:
    _, A = zipped(tmp_path)
    return str(tmp_path / "A.zarr.zip" / "X"), A


def memory_store(tmp_path: Path) -> Made:
    A = dense("u1")
    return zarr_at(MemoryStore(), A, chunks=(8, 6)), A


def opened_for_writing(tmp_path: Path) -> Made:
    A = dense("c8")
    return zarr_at(LocalStore(tmp_path / "A.zarr"), A, chunks=(30, 30)), A


def numpy_array(tmp_path: Path) -> Made:
    return dense(), dense()


def numpy_transposed(tmp_path: Path) -> Made:
    return np.asfortranarray(dense("c16"))[::2], dense("c16")[::2]


def numpy_matrix(tmp_path: Path) -> Made:
    return dense().view(np.matrix), dense()  # calling np.matrix warns that it will go


def memory_map(tmp_path: Path) -> Made:
    np.save(tmp_path / "A.npy", dense())
    return np.load(tmp_path / "A.npy", mmap_mode="r"), dense()


def masked_nowhere(tmp_path: Path) -> Made:
    return np.ma.masked_invalid(dense()), dense()


def csr(tmp_path: Path) -> Made:
    return sp.csr_array(dense()), dense()


def csc_matrix(tmp_path: Path) -> Made:
    return sp.csc_matrix(dense("c8")), dense("c8")


def coo_with_duplicates(tmp_path: Path) -> Made:
    rows, columns = np.array([0, 0, 4, 4]), np.array([1, 1, 2, 3])
    A = sp.coo_array((np.array([1.0, 2.0, 3.0, 4.0]), (rows, columns)), shape=(M, N))
    return A, A.toarray()


def write_group(group: Any, A: Any, encoding: str, step: int = 16) -> None:
    group.attrs.update(
        {"encoding-type": encoding, "encoding-version": "0.1.0", "shape": list(A.shape)}
    )
    for part in ("data", "indices", "indptr"):
        values = getattr(A, part)
        if isinstance(group, zarr.Group):
            group.create_array(part, shape=values.shape, dtype=values.dtype, chunks=(16,))
            group[part][...] = values
        else:
            group.create_dataset(
                part, data=values, chunks=(min(step, len(values)),), compression="gzip"
            )


def stored_rows(tmp_path: Path) -> Made:
    write_group(zarr.create_group(tmp_path / "A.zarr"), sp.csr_array(dense("f4")), "csr_matrix")
    return str(tmp_path / "A.zarr"), dense("f4")


def stored_columns_v2(tmp_path: Path) -> Made:
    A = sp.csc_array(dense("c16"))
    A.indices, A.indptr = A.indices.astype("i8"), A.indptr.astype("i8")
    group = zarr.create_group(tmp_path / "G.zarr", zarr_format=2)
    write_group(group.create_group("layers/counts"), A, "csc_matrix")
    return f"{tmp_path}/G.zarr::/layers/counts", dense("c16")


def stored_unsorted_with_duplicates(tmp_path: Path) -> Made:
    A = sp.csr_array(
        (np.array([1.0, 2.0, 4.0, 8.0]), np.array([5, 1, 5, 0]), [0, 3, *[4] * (M - 1)]),
        shape=(M, N),
    )
    write_group(zarr.create_group(tmp_path / "A.zarr"), A, "csr_matrix")
    return zarr.open_group(tmp_path / "A.zarr", mode="r"), A.toarray()


def hdf5_dataset(tmp_path: Path) -> Made:
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file.create_dataset("deep/X", data=dense("f4"), chunks=(8, 6), compression="gzip")
    return f"{tmp_path}/A.h5::/deep/X", dense("f4")


def hdf5_contiguous(tmp_path: Path) -> Made:
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file["only"] = dense("c16")
    return tmp_path / "A.h5", dense("c16")


def anndata_in_hdf5(tmp_path: Path) -> Made:
    with h5py.File(tmp_path / "A.h5ad", "w") as file:
        file["obs"] = np.arange(M)
        write_group(file.create_group("X"), sp.csr_array(dense("i4")), "csr_matrix")
    return tmp_path / "A.h5ad", dense("i4")


def h5sparse_in_hdf5(tmp_path: Path) -> Made:
    with h5py.File(tmp_path / "A.h5ad", "w") as file:
        group = file.create_group("raw.X")
        write_group(group, sp.csc_array(dense()), "")
        del group.attrs["encoding-type"], group.attrs["encoding-version"], group.attrs["shape"]
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = b"csc", (M, N)
    return f"{tmp_path}/A.h5ad::/raw.X", dense()


def tenx_in_hdf5(tmp_path: Path) -> Made:
    with h5py.File(tmp_path / "A.h5", "w") as file:
        group = file.create_group("matrix")
        write_group(group, sp.csc_array(dense("i4")), "")
        for name in list(group.attrs):
            del group.attrs[name]
        group["shape"], group["barcodes"] = np.array([M, N]), np.array([b"A"] * N)
    return tmp_path / "A.h5", dense("i4")


def binsparse_rows(tmp_path: Path) -> Made:
    path = tmp_path / "A.zarr"
    write_binsparse(zarr.create_group(path), sp.csr_array(dense("c16")), "CSR")
    return path, dense("c16")


def binsparse_listed_columns_v2(tmp_path: Path) -> Made:
    group = zarr.create_group(tmp_path / "G.zarr", zarr_format=2).create_group("deep/X")
    write_binsparse(group, sp.csr_array(dense("u1")), "DCSC")
    return f"{tmp_path}/G.zarr::/deep/X", dense("u1")


def binsparse_coordinates_of_one_value(tmp_path: Path) -> Made:
    A = sp.csr_array(dense("?"))
    with h5py.File(tmp_path / "A.h5", "w") as file:
        write_binsparse(file, A, "COO", iso=True)
    return tmp_path / "A.h5", A.toarray()


def binsparse_unsorted(tmp_path: Path) -> Made:
    A = sp.csr_array(dense())
    backwards = {part: v[::-1] for part, v in binsparse_parts(A, "COO").items()}
    with h5py.File(tmp_path / "A.h5", "w") as file:
        write_binsparse(file.create_group("deep/X"), A, "COO", **backwards)
    return f"{tmp_path}/A.h5::/deep/X", dense()


def binsparse_triangle(tmp_path: Path) -> Made:
    A = np.tril(dense("c16")[:N, :N], -1)
    path = tmp_path / "A.zarr"
    group = zarr.create_group(path)
    write_binsparse(group, sp.csr_array(A), "COOC", structure="hermitian_lower")
    return path, A + A.conj().T


def netcdf_4(tmp_path: Path) -> Made:
    write_netcdf(tmp_path / "A.nc", dense("f4"), dims=("y", "x"), chunks=(8, 6))
    return tmp_path / "A.nc", dense("f4")


def netcdf_classic(tmp_path: Path) -> Made:
    write_netcdf(tmp_path / "A.cdf", dense("i2"), "NETCDF3_CLASSIC", dims=("y", "x"))
    return f"{tmp_path}/A.cdf::/T", dense("i2")


def netcdf_flattened(tmp_path: Path) -> Made:
    A = np.arange(8 * 5 * 6, dtype="f8").reshape(8, 5, 6)
    path = write_netcdf(tmp_path / "A.nc", A, chunks=(2, 2, 3))
    return open_source(path, rows=("lon", "lat")), A.transpose(2, 1, 0).reshape(30, 8)


def netcdf_packed_and_filled(tmp_path: Path) -> Made:
    stored = np.round(dense()).astype("i2")
    path = write_netcdf(
        tmp_path / "A.nc", stored, dims=("y", "x"), scale_factor=0.5, missing_value=np.int16(0)
    )
    return open_source(path, fill=9.0), np.where(stored == 0, 9.0, stored * 0.5)


def pydata_coordinates(tmp_path: Path) -> Made:
    return sparse.COO.from_numpy(dense("c8")), dense("c8")


def pydata_compressed_columns(tmp_path: Path) -> Made:
    return sparse.GCXS.from_numpy(dense(), compressed_axes=(1,)), dense()


def npy(tmp_path: Path) -> Made:
    np.save(tmp_path / "A.npy", dense())
    return tmp_path / "A.npy", dense()


def scipy_npz(tmp_path: Path) -> Made:
    sp.save_npz(tmp_path / "A.npz", sp.csc_array(dense("f4")))
    return tmp_path / "A.npz", dense("f4")


def matrix_market_skew(tmp_path: Path) -> Made:
    A = np.triu(dense()[:N, :N], 1)
    A = A - A.T
    scipy.io.mmwrite(tmp_path / "A.mtx", sp.coo_array(A), symmetry="skew-symmetric")
    (tmp_path / "A.mtx.gz").write_bytes(gzip.compress((tmp_path / "A.mtx").read_bytes()))
    return tmp_path / "A.mtx.gz", A


def matrix_market_hermitian(tmp_path: Path) -> Made:
    A = dense("c16")[:N, :N]
    A = A + A.conj().T
    scipy.io.mmwrite(tmp_path / "A.mtx", sp.coo_array(A), symmetry="hermitian")
    return tmp_path / "A.mtx", A


def linear_operator(tmp_path: Path) -> Made:
    return aslinearoperator(dense("c16")), dense("c16")


FORMATS: list[Callable[[Path], Made]] = [
    v3_blosc,
    v3_checksum_path,
    v2_column_order,
    v2_big_endian,
    sharded,
    inside_a_group,
    sub_path_of_a_group,
    zipped,
    sub_path_of_a_zip,
    memory_store,
    opened_for_writing,
    numpy_array,
    numpy_transposed,
    numpy_matrix,
    memory_map,
    masked_nowhere,
    csr,
    csc_matrix,
    coo_with_duplicates,
    stored_rows,
    stored_columns_v2,
    stored_unsorted_with_duplicates,
    hdf5_dataset,
    hdf5_contiguous,
    anndata_in_hdf5,
    h5sparse_in_hdf5,
    tenx_in_hdf5,
    binsparse_rows,
    binsparse_listed_columns_v2,
    binsparse_coordinates_of_one_value,
    binsparse_unsorted,
    binsparse_triangle,
    netcdf_4,
    netcdf_classic,
    netcdf_flattened,
    netcdf_packed_and_filled,
    pydata_coordinates,
    pydata_compressed_columns,
    npy,
    scipy_npz,
    matrix_market_skew,
    matrix_market_hermitian,
    linear_operator,
]
IDS = [make.__name__ for make in FORMATS]


@pytest.fixture(params=FORMATS, ids=IDS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    result: Made = request.param(tmp_path)
    return result


def entries(block: Any) -> np.ndarray[Any, Any]:
    return block.toarray() if sp.issparse(block) else np.asarray(block)


def random_rectangle(matrix: Matrix, rng: np.random.Generator) -> tuple[slice, slice]:
    spans = []
    for grid in matrix.grids:
        first, last = np.sort(rng.choice(grid.count + 1, 2, replace=False))
        spans.append(slice(grid.cut(int(first)), grid.cut(int(last))))
    return spans[0], spans[1]


def test_shape_and_dtype_are_those_of_the_matrix(made: Made) -> None:
    source, A = made
    matrix = open_source(source)
    assert matrix.shape == A.shape
    assert matrix.dtype == A.dtype
    assert [grid.extent for grid in matrix.grids] == list(A.shape)
    assert matrix.nbytes > 0
    assert matrix.transient_nbytes >= 0


def test_reads_any_rectangle_on_the_cuts(made: Made) -> None:
    source, A = made
    matrix = open_source(source)
    if isinstance(matrix, OperatorMatrix):
        pytest.skip("an operator has no entries to read")
    rng, buffers = np.random.default_rng(11), Buffers()
    for _ in range(20):
        rows, columns = random_rectangle(matrix, rng)
        block = matrix.read(rows, columns, buffers)
        assert not sp.issparse(block) or block.format in ("csr", "csc")
        np.testing.assert_array_equal(entries(block), A[rows, columns])


def test_travels_in_a_pickle(made: Made) -> None:
    source, A = made
    matrix = open_source(source)
    if matrix.resident:
        pytest.skip("lies in this process and stays there")
    sent = pickle.dumps(matrix)
    assert len(sent) < 10_000
    arrived = pickle.loads(sent)
    assert arrived == matrix
    assert arrived.identity == matrix.identity
    block = arrived.read(slice(0, A.shape[0]), slice(0, A.shape[1]), Buffers())
    np.testing.assert_array_equal(entries(block), A)
    assert pickle.loads(pickle.dumps(arrived)) == matrix


def test_identity_is_json_and_stable(made: Made) -> None:
    source, _ = made
    identity = open_source(source).identity
    assert set(identity) == {"where", "shape", "dtype", "chunks", "token"}
    assert json.loads(json.dumps(identity)) == identity
    assert open_source(source).identity == identity


def test_names_the_place_of_an_entry(made: Made) -> None:
    source, _ = made
    assert open_source(source).chunk_at(9, 7).startswith(("chunk ", "the "))


def test_a_matrix_is_returned_as_it_is(made: Made) -> None:
    source, _ = made
    matrix = open_source(source)
    assert open_source(matrix) is matrix
