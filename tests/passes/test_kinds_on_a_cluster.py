"""The kinds of inputs that once gave another matrix's norm: the right value on a cluster, too."""

import dask.array as da
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from distributed import Client, LocalCluster

import bigspec
from bigspec.errors import BigspecError

CALL = {"rtol": 1e-6, "seed": 1}


@pytest.fixture(scope="module")
def cluster():
    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": ":0"}
    with LocalCluster(**options) as cluster, Client(cluster):
        yield


def packed(folder):
    """Integers with a scale, an offset and a missing value, as Zarr and as HDF5."""
    numbers = np.random.default_rng(1).integers(-300, 300, (60, 20)).astype("i2")
    numbers[3, 4] = -999
    real = np.where(numbers == -999, 0.0, numbers * 0.5 + 10)
    attributes = {"scale_factor": 0.5, "add_offset": 10.0, "_FillValue": -999}
    array = zarr.create_array(folder / "A.zarr", shape=(60, 20), chunks=(7, 20), dtype="i2")
    array[:] = numbers
    array.attrs.update(attributes)
    with h5py.File(folder / "A.h5", "w") as file:
        file.create_dataset("A", data=numbers, chunks=(7, 20)).attrs.update(attributes)
    return real


@pytest.mark.parametrize("name", ["A.zarr", "A.h5"])
def test_packed_variables(cluster, name, tmp_path):
    real = packed(tmp_path)
    est = bigspec.norm(bigspec.open_matrix(tmp_path / name, fill=0), **CALL)
    assert est.lower <= np.linalg.norm(real, 2) * (1 + 1e-14) <= est.upper * (1 + 2e-14)
    with pytest.raises(BigspecError, match="got a missing one"):
        bigspec.norm(tmp_path / name, **CALL)


def test_a_virtual_dataset_that_lost_a_source_on_the_way(cluster, tmp_path):
    layout = h5py.VirtualLayout((8, 4), "f8")
    for k in range(2):
        with h5py.File(tmp_path / f"{k}.h5", "w") as file:
            file["x"] = np.ones((4, 4))
        layout[4 * k : 4 * k + 4] = h5py.VirtualSource(str(tmp_path / f"{k}.h5"), "x", (4, 4))
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file.create_virtual_dataset("A", layout)
    matrix = bigspec.open_matrix(tmp_path / "A.h5")
    (tmp_path / "1.h5").unlink()
    with pytest.raises(BigspecError, match=r"1\.h5"):
        bigspec.norm(matrix, **CALL)


def test_chunks_that_do_not_keep_their_word(cluster):
    x = da.ones((40, 10), chunks=(10, 10))
    hidden = x.map_blocks(lambda block: np.ma.masked_equal(block, 1.0), dtype=float)
    other = x.map_blocks(lambda block: block[:, :1], dtype=float)
    turned = x.map_blocks(lambda block: block * 1j, dtype=float)
    for array, said in ((hidden, "mask"), (other, "shape"), (turned, "complex")):
        for door in (array, bigspec.open_matrix(array) - np.zeros((40, 10))):
            with pytest.raises(BigspecError, match=said):
                bigspec.norm(door, **CALL)


def test_many_equal_entries_of_a_sparse_store(cluster, tmp_path):
    count = 200_000
    A = sp.csc_array((np.full(count, 0.1), np.arange(count), [0, count]), (count, 1))
    bigspec.convert(A, tmp_path / "A.zarr")
    est = bigspec.norm(tmp_path / "A.zarr", rtol=1e-9)
    assert est.lower <= 0.1 * np.sqrt(count) <= est.upper


def test_a_stored_sparse_matrix_whose_means_nearly_cancel_it(cluster, tmp_path):
    signs = np.random.default_rng(2).choice([-1.0, 1.0], (60, 60))
    bigspec.convert(sp.csr_array(signs + 2.0**27), tmp_path / "A.zarr")
    matrix = bigspec.centered(bigspec.open_matrix(tmp_path / "A.zarr"), means=np.full(60, 2.0**27))
    est = bigspec.norm(matrix, **CALL)
    assert "worker" in est.layout["where"]
    assert est.lower <= np.linalg.norm(signs, 2) <= est.upper
    assert est.frobenius == pytest.approx(60.0, rel=1e-6)


def test_factors_of_wide_integers_that_cancel(cluster, tmp_path):
    rng = np.random.default_rng(3)
    small = rng.integers(-300, 300, (60, 20))
    large = rng.integers(2**61, 2**62, (60, 20))
    for name, values in (("A", large + small), ("B", large)):
        array = zarr.create_array(tmp_path / name, shape=(60, 20), chunks=(7, 20), dtype="i8")
        array[:] = values
    A, B = (bigspec.open_matrix(tmp_path / name) for name in "AB")
    est = bigspec.norm((A - B) @ bigspec.open_matrix(np.eye(20)), **CALL)
    assert "worker" in est.layout["where"]
    assert est.lower <= np.linalg.norm(small.astype(float), 2) <= est.upper
