"""Every source, converted to rows and to columns, is what SciPy makes of it."""

import gzip

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import bigspec
from bigspec.conversion import buckets, running, writing
from tests.sources import test_binsparse as binsparse


def triplets(m=70, n=40, count=900, dtype="f8", seed=0):
    """Unsorted, with duplicates; small whole numbers, so that no order of summing matters."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-9, 10, count).astype(dtype)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.integers(-9, 10, count)
    place = (rng.integers(0, m, count), rng.integers(0, n, count))
    return sp.coo_array((values.astype(dtype), place), shape=(m, n))


def anndata_group(where, A):
    group = zarr.create_group(where)
    kind = f"{A.format}_matrix"
    group.attrs.update({"encoding-type": kind, "encoding-version": "0.1.0", "shape": A.shape})
    for name in ("data", "indices", "indptr"):
        group[name] = getattr(A, name)


def unsorted(A, form):
    """Compressed, neither sorted nor summed."""
    major, minor = (A.row, A.col) if form == "csr" else (A.col, A.row)
    order = np.argsort(major, kind="stable")
    extent = A.shape[0 if form == "csr" else 1]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(major, minlength=extent))])
    kind = sp.csr_array if form == "csr" else sp.csc_array
    return kind((A.data[order], minor[order], indptr), shape=A.shape)


def zarr_csr(place, A):
    anndata_group(place / "A.zarr", unsorted(A, "csr"))
    return place / "A.zarr"


def zarr_csc(place, A):
    anndata_group(place / "A.zarr", unsorted(A, "csc"))
    return place / "A.zarr"


def hdf5_csr(place, A):
    B = A.tocsr()
    with h5py.File(place / "A.h5ad", "w") as file:
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        group.attrs["shape"] = A.shape
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(B, name)
    return place / "A.h5ad"


def h5sparse(place, A):
    B = A.tocsc()
    with h5py.File(place / "A.h5", "w") as file:
        group = file.create_group("X")
        group.attrs.update({"h5sparse_format": "csc", "h5sparse_shape": A.shape})
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(B, name)
    return f"{place}/A.h5::/X"


def tenx(place, A):
    B = A.tocsc()
    with h5py.File(place / "A.h5", "w") as file:
        group = file.create_group("matrix")
        group["shape"], group["barcodes"] = A.shape, np.zeros(A.shape[1], "S4")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(B, name)
    return place / "A.h5"


def npz(form, compressed):
    def write(place, A):
        B = A if form == "coo" else unsorted(A, form)
        sp.save_npz(place / "A.npz", B, compressed=compressed)
        return place / "A.npz"

    return write


def in_binsparse(form):
    def write(place, A):
        binsparse.write(zarr.create_group(place / "A.zarr"), A.tocsr(), form)
        return place / "A.zarr"

    return write


def three_arrays(place, A):
    np.savez(place / "A.npz", data=A.data, row=A.row, col=A.col, shape=A.shape)
    return place / "A.npz"


def market(place, A):
    scipy.io.mmwrite(place / "A.mtx", A, symmetry="general", precision=17)
    return place / "A.mtx"


def market_gz(place, A):
    path = market(place, A)
    (place / "A.mtx.gz").write_bytes(gzip.compress(path.read_bytes()))
    return place / "A.mtx.gz"


SOURCES = {
    "zarr csr": zarr_csr,
    "zarr csc": zarr_csc,
    "hdf5 csr": hdf5_csr,
    "h5sparse": h5sparse,
    "10x": tenx,
    "binsparse csc": in_binsparse("CSC"),
    "binsparse coo": in_binsparse("COO"),
    "npz coo": npz("coo", False),
    "npz coo compressed": npz("coo", True),
    "npz csr": npz("csr", True),
    "npz csc": npz("csc", False),
    "three arrays in an npz": three_arrays,
    "Matrix Market": market,
    "Matrix Market gz": market_gz,
    "in memory coo": lambda place, A: A,
    "in memory csr": lambda place, A: unsorted(A, "csr"),
    "in memory csc": lambda place, A: unsorted(A, "csc"),
}


def stored(place):
    group = zarr.open_group(place, mode="r")
    form = group.attrs["encoding-type"].removesuffix("_matrix")
    kind = {"csr": sp.csr_array, "csc": sp.csc_array}[form]
    parts = tuple(group[name][:] for name in ("data", "indices", "indptr"))
    return kind(parts, shape=tuple(group.attrs["shape"])), parts


def assert_is(place, expected):
    expected.sum_duplicates()
    B, parts = stored(place)
    assert B.format == expected.format
    assert B.shape == expected.shape
    for part, name in zip(parts, ("data", "indices", "indptr"), strict=True):
        np.testing.assert_array_equal(part, getattr(expected, name))
    assert parts[0].dtype == expected.dtype
    assert parts[1].dtype == np.int32


@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize("name", SOURCES)
def test_every_source_is_what_scipy_makes_of_it(name, form, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "CAPACITY_BYTES", 4000)
    A = triplets()
    done = bigspec.convert(SOURCES[name](tmp_path, A), tmp_path / "out.zarr", format=form)
    assert_is(tmp_path / "out.zarr", A.asformat(form))
    assert done.stored == A.asformat(form).nnz
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.zarr"]


@pytest.mark.parametrize("name", ["zarr csc", "npz csc", "in memory csc", "10x", "npz coo"])
def test_the_default_orientation_is_that_of_the_source(name, tmp_path):
    done = bigspec.convert(SOURCES[name](tmp_path, triplets()), tmp_path / "out.zarr")
    assert done.format == ("csr" if name == "npz coo" else "csc")


@pytest.mark.parametrize("dtype", ["?", "u1", "i4", "i8", "u8", "f4", "f8", "c8", "c16"])
def test_value_types_are_kept(dtype, tmp_path):
    A = triplets(dtype=dtype)
    bigspec.convert(A, tmp_path / "out.zarr")
    assert_is(tmp_path / "out.zarr", A.tocsr())


def test_another_value_type(tmp_path):
    A = triplets()
    bigspec.convert(A, tmp_path / "out.zarr", dtype="float32")
    assert_is(tmp_path / "out.zarr", A.astype("f4").tocsr())


def test_three_vectors_with_a_shape(tmp_path):
    A = triplets()
    parts = (A.data, (A.row.astype("i8"), A.col.astype("u2")))
    bigspec.convert(parts, tmp_path / "out.zarr", shape=A.shape)
    assert_is(tmp_path / "out.zarr", A.tocsr())


def test_anndata_reads_it(tmp_path):
    anndata = pytest.importorskip("anndata")
    A = triplets()
    for form in ("csr", "csc"):
        place = tmp_path / f"{form}.zarr"
        bigspec.convert(A, place, format=form)
        group = zarr.open_group(place, mode="r")
        for B in (anndata.io.read_elem(group), anndata.io.sparse_dataset(group).to_memory()):
            assert B.format == form
            np.testing.assert_array_equal(B.toarray(), A.toarray())


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_the_norm_is_that_of_the_source(form, tmp_path):
    place = market(tmp_path, triplets())
    bigspec.convert(place, tmp_path / "out.zarr", format=form)
    one, two = (bigspec.norm(a, rtol=1e-8) for a in (place, tmp_path / "out.zarr"))
    assert one.lower == pytest.approx(two.lower, rel=1e-12)
    assert one.upper == pytest.approx(two.upper, rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(
    m=st.integers(1, 50),
    n=st.integers(1, 50),
    count=st.integers(0, 300),
    limit=st.integers(500, 20_000),
    chunk=st.integers(1, 80),
    fan_out=st.integers(2, 6),
    bins=st.integers(1, 9),
    form=st.sampled_from(["csr", "csc"]),
    steep=st.booleans(),
)
def test_cut_into_any_buckets(
    m, n, count, limit, chunk, fan_out, bins, form, steep, tmp_path_factory
):
    rng = np.random.default_rng(count)
    power = 6 if steep else 1
    rows, columns = ((rng.random(count) ** power * extent).astype("i4") for extent in (m, n))
    A = sp.coo_array((rng.integers(1, 9, count).astype("f8"), (rows, columns)), shape=(m, n))
    place = tmp_path_factory.mktemp("any")
    largest = 0

    def sort_bucket(folder, bucket, *rest):
        nonlocal largest
        if bucket.majors[1] - bucket.majors[0] > 1 or bucket.minors[1] - bucket.minors[0] > 1:
            largest = max(largest, bucket.entries)
        return buckets.sort_bucket(folder, bucket, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "CHUNK", chunk)
        patch.setattr(buckets, "FAN_OUT", fan_out)
        patch.setattr(buckets, "BINS", bins)
        patch.setattr(running, "sort_bucket", sort_bucket)
        bigspec.convert(A, place / "out.zarr", format=form, memory_limit=limit)
    assert_is(place / "out.zarr", A.asformat(form))
    assert largest <= max(1, limit // running.SHARE // 16)
