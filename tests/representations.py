"""Every way to hand bigspec one matrix: a table, one row a representation.

Each takes a dense array and an empty folder, and returns what `bigspec.norm` is given. Sparse ones
leave out the zeros; all hold the same numbers.
"""

import dask.array as da
import h5py
import numpy as np
import scipy.io
import scipy.sparse as sp
import sparse
import zarr
from scipy.sparse.linalg import aslinearoperator

import bigspec
from tests.sources.test_binsparse import write as write_binsparse
from tests.sources.test_netcdf import write as write_netcdf
from tests.sources.test_source_contract import write_group


def pieces(A):
    """Chunks that cut both axes, ragged at the end."""
    return tuple(max(1, int(extent * 0.3)) for extent in A.shape)


def npy(A, folder):
    np.save(folder / "A.npy", A)
    return folder / "A.npy"


def zarr_dense(version, **options):
    def make(A, folder):
        path = folder / "A.zarr"
        array = zarr.create_array(
            path, shape=A.shape, dtype=A.dtype, chunks=pieces(A), zarr_format=version, **options
        )
        array[...] = A
        return path

    return make


def hdf5_dense(A, folder):
    with h5py.File(folder / "A.h5", "w") as file:
        file.create_dataset("X", data=A, chunks=pieces(A), compression="lzf")
    return folder / "A.h5"


def npz(A, folder):
    sp.save_npz(folder / "A.npz", sp.csc_array(A))
    return folder / "A.npz"


def matrix_market(A, folder):
    # As many digits as bring a float64 back; those of a float32 would be read as another float64.
    wide = A.astype("c16" if A.dtype.kind == "c" else "f8")
    scipy.io.mmwrite(folder / "A.mtx", sp.coo_array(wide))
    return folder / "A.mtx"


def anndata(form, container):
    def make(A, folder):
        S = sp.csr_array(A) if form == "csr" else sp.csc_array(A)
        if container == "hdf5":
            with h5py.File(folder / "A.h5ad", "w") as file:
                write_group(file.create_group("X"), S, f"{form}_matrix", step=1 << 14)
            return folder / "A.h5ad"
        group = zarr.create_group(folder / "A.zarr")
        group.attrs.update(
            {"encoding-type": f"{form}_matrix", "encoding-version": "0.1.0"}
            | {"shape": list(S.shape)}
        )
        for part in ("data", "indices", "indptr"):
            group.create_array(part, data=getattr(S, part))
        return folder / "A.zarr"

    return make


def binsparse(form, container):
    def make(A, folder):
        if container == "hdf5":
            with h5py.File(folder / "A.h5", "w") as file:
                write_binsparse(file, sp.csr_array(A), form, step=1 << 14)
            return folder / "A.h5"
        version = 2 if container == "zarr v2" else 3
        group = zarr.create_group(folder / "A.zarr", zarr_format=version)
        write_binsparse(group, sp.csr_array(A), form, step=1 << 14)
        return folder / "A.zarr"

    return make


def netcdf(kind):
    def make(A, folder):
        chunks = pieces(A) if kind == "NETCDF4" else None
        return write_netcdf(folder / "A.nc", A, kind, dims=("y", "x"), chunks=chunks)

    return make


def netcdf_flattened(A, folder):
    """Rows over two dimensions, the second one before the first."""
    m = A.shape[0]
    p = next((p for p in range(2, 14) if m % p == 0), 1)
    cube = A.reshape(p, m // p, A.shape[1])
    path = write_netcdf(folder / "A.nc", cube, "NETCDF3_64BIT_OFFSET")
    return bigspec.open_matrix(path, rows=("lat", "time"))


def dask_dense(A, folder):
    return da.from_array(A, chunks=pieces(A))


def dask_sparse(convert):
    def make(A, folder):
        return da.from_array(A, chunks=pieces(A)).map_blocks(convert, dtype=A.dtype)

    return make


REPRESENTATIONS = {
    "ndarray": lambda A, folder: A,
    "column-major": lambda A, folder: np.asfortranarray(A),
    "memory map": lambda A, folder: np.load(npy(A, folder), mmap_mode="r"),
    ".npy": npy,
    "Zarr v2": zarr_dense(2),
    "Zarr v3": zarr_dense(3),
    "Zarr v3, uncompressed": zarr_dense(3, compressors=None),
    "HDF5": hdf5_dense,
    "csr_array": lambda A, folder: sp.csr_array(A),
    "csc_matrix": lambda A, folder: sp.csc_matrix(A),
    ".npz": npz,
    ".mtx": matrix_market,
    "AnnData CSR in Zarr": anndata("csr", "zarr"),
    "AnnData CSC in Zarr": anndata("csc", "zarr"),
    "AnnData CSR in HDF5": anndata("csr", "hdf5"),
    "AnnData CSC in HDF5": anndata("csc", "hdf5"),
    "binsparse CSR in Zarr v2": binsparse("CSR", "zarr v2"),
    "binsparse CSC in Zarr": binsparse("CSC", "zarr"),
    "binsparse COO in Zarr": binsparse("COO", "zarr"),
    "binsparse DCSR in Zarr": binsparse("DCSR", "zarr"),
    "binsparse CSR in HDF5": binsparse("CSR", "hdf5"),
    "binsparse CSC in HDF5": binsparse("CSC", "hdf5"),
    "binsparse COO in HDF5": binsparse("COO", "hdf5"),
    "binsparse COOC in HDF5": binsparse("COOC", "hdf5"),
    "netCDF-4": netcdf("NETCDF4"),
    "netCDF classic": netcdf("NETCDF3_64BIT_OFFSET"),
    "netCDF, flattened": netcdf_flattened,
    "dask": dask_dense,
    "dask of csr_array": dask_sparse(sp.csr_array),
    "dask of csr_matrix": dask_sparse(sp.csr_matrix),
    "dask of sparse.COO": dask_sparse(sparse.COO),
    "dask of sparse.GCXS": dask_sparse(sparse.GCXS),
    "sparse.GCXS": lambda A, folder: sparse.GCXS.from_numpy(A),
    "LinearOperator": lambda A, folder: aslinearoperator(A),
}


def cannot(name, A):
    """Say why a representation cannot hold this matrix, or return None."""
    if name.startswith("netCDF") and A.dtype.kind == "c":
        return "netCDF has no complex numbers"
    if name.startswith("netCDF") and A.dtype == np.uint8 and name != "netCDF-4":
        return "classic netCDF has no unsigned bytes"
    return None
