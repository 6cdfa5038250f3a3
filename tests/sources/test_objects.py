"""What other tools hold or write: AnnData, h5py, 10x, MATLAB, NumPy's archives, PyLops, sigpy."""

import gzip
import io
import warnings

import dask.array as da
import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import zarr

import bigspec
from bigspec.errors import BigspecError
from bigspec.sources import open_source

RNG = np.random.default_rng(0)
A = RNG.standard_normal((60, 30))
S = sp.random_array((60, 30), density=0.2, rng=RNG, format="csr")


def holds(a, expected):
    est = bigspec.norm(a, rtol=1e-8)
    exact = np.linalg.norm(expected.toarray() if sp.issparse(expected) else expected, 2)
    assert est.lower <= exact <= est.upper
    assert est.matrix["shape"] == list(expected.shape)


@pytest.fixture(scope="module")
def anndata():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("anndata")


ENTRIES = {
    "dense": lambda: A,
    "csr": lambda: sp.csr_matrix(S),
    "csc": lambda: sp.csc_matrix(S),
    "dask": lambda: da.from_array(A, chunks=(20, 30)),
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_an_anndata_object_is_its_x(kind, anndata):
    entries = ENTRIES[kind]()
    holds(anndata.AnnData(entries), A if kind in ("dense", "dask") else S)


@pytest.mark.parametrize("kind", ["dense", "csr", "csc"])
def test_a_backed_anndata_object_stays_on_the_disk(kind, anndata, tmp_path):
    entries = ENTRIES[kind]()
    anndata.AnnData(entries).write_h5ad(tmp_path / "A.h5ad")
    backed = anndata.read_h5ad(tmp_path / "A.h5ad", backed="r")
    holds(backed, A if kind == "dense" else S)
    assert not open_source(backed).resident
    with pytest.raises(BigspecError, match=r"got a view of it.*to_memory"):
        bigspec.norm(backed[:10])
    backed.file.close()


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_sparse_datasets_of_both_kinds_of_file(form, anndata, tmp_path):
    whole = anndata.AnnData(ENTRIES[form](), layers={"counts": ENTRIES[form]()})
    whole.write_h5ad(tmp_path / "A.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole.write_zarr(tmp_path / "A.zarr")
    with h5py.File(tmp_path / "A.h5ad") as file:
        holds(anndata.io.sparse_dataset(file["layers/counts"]), S)
    holds(anndata.io.sparse_dataset(zarr.open_group(tmp_path / "A.zarr", mode="r")["X"]), S)


def test_an_anndata_object_without_x_names_its_layers(anndata):
    whole = anndata.AnnData(obs={"n": range(60)}, layers={"counts": A})
    with pytest.raises(TypeError, match=r"got None; pass one of its layers.*\(counts\)"):
        bigspec.norm(whole)
    holds(whole.layers["counts"], A)


def test_h5py_objects_are_opened_again_where_they_lie(tmp_path):
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file.create_dataset("dense/A", data=A, chunks=(20, 30))
        group = file.create_group("sparse")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        group.attrs["shape"] = S.shape
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(S, name)
    with h5py.File(tmp_path / "A.h5") as file:
        holds(file["dense/A"], A)
        holds(file["sparse"], S)
        assert bigspec.open_matrix(file["dense/A"]).identity["where"].endswith("::/dense/A")
        cube = bigspec.open_matrix(file["dense/A"], rows=("dim_1",))
        assert cube.shape == (30, 60)
        with pytest.raises(OSError, match=r"expected a matrix, got a group.*/dense/A"):
            bigspec.norm(file["dense"])
        held = file["dense/A"]
    with pytest.raises(OSError, match="got a closed one"):
        bigspec.norm(held)


def test_h5py_objects_that_no_other_process_can_open_say_why(tmp_path):
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file["A"] = A
        with pytest.raises(OSError, match=r"open for reading, got mode 'r\+'.*A.h5::/A"):
            bigspec.norm(file["A"])
    with h5py.File(io.BytesIO(), "w") as file:
        file["A"] = A
        with pytest.raises(OSError, match="got one in memory"):
            bigspec.norm(file["A"])


@pytest.mark.parametrize("version", [2, 3])
def test_a_folder_of_10x_is_its_matrix(version, tmp_path):
    text = io.BytesIO()
    scipy.io.mmwrite(text, S.tocoo())
    opened, ending = (open, "") if version == 2 else (gzip.open, ".gz")
    for name, content in {
        "matrix.mtx": text.getvalue(),
        "barcodes.tsv": b"AAAC-1\n" * 30,
        "genes.tsv" if version == 2 else "features.tsv": b"ENSG\tname\n" * 60,
    }.items():
        with opened(tmp_path / f"{name}{ending}", "wb") as file:
            file.write(content)
    holds(tmp_path, S)
    done = bigspec.convert(tmp_path, tmp_path / "B.zarr")
    assert done.shape == (60, 30)
    holds(tmp_path / "B.zarr", S)


def matlab(path, matrix, kind=b"double"):
    """Write what MATLAB's ``save -v7.3`` writes of a sparse matrix."""
    columns = matrix.tocsc()
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_group("#refs#")
        group = file.create_group("A")
        group.attrs["MATLAB_class"] = np.bytes_(kind)
        group.attrs["MATLAB_sparse"] = np.uint64(matrix.shape[0])
        group["jc"] = columns.indptr.astype("u8")
        if matrix.nnz:
            group["data"] = columns.data
            group["ir"] = columns.indices.astype("u8")
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116))


def test_a_sparse_matrix_of_matlab(tmp_path):
    matlab(tmp_path / "A.mat", S)
    holds(tmp_path / "A.mat", S)
    tri = bigspec.svds(tmp_path / "A.mat", 1)
    np.testing.assert_allclose(S @ tri.vh[0], tri.s[0] * tri.u[:, 0], atol=1e-6)
    bigspec.convert(tmp_path / "A.mat", tmp_path / "B.zarr", format="csr")
    holds(tmp_path / "B.zarr", S)


def test_a_dense_matrix_of_matlab_has_its_rows_and_columns(tmp_path):
    matlab(tmp_path / "A.mat", S)
    with h5py.File(tmp_path / "A.mat", "r+") as file:
        del file["A"]
        file["A"] = A.T
        file["A"].attrs["MATLAB_class"] = np.bytes_(b"double")
    holds(tmp_path / "A.mat", A)
    tri = bigspec.svds(tmp_path / "A.mat", 1)
    np.testing.assert_allclose(A @ tri.vh[0], tri.s[0] * tri.u[:, 0], atol=1e-6)


def test_a_sparse_matrix_of_matlab_without_entries_is_said_to_be_one(tmp_path):
    matlab(tmp_path / "A.mat", sp.csr_array((60, 30)))
    with pytest.raises(ValueError, match="MATLAB writes no values of a zero matrix"):
        bigspec.norm(tmp_path / "A.mat")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_of_one_array(save, tmp_path):
    save(tmp_path / "A.npz", A)
    holds(tmp_path / "A.npz", A)
    save(tmp_path / "B.npz", weights=A, bias=np.ones(3))
    holds(tmp_path / "B.npz", A)
    save(tmp_path / "C.npz", one=A, two=S.toarray())
    with pytest.raises(OSError, match=r"got 2 in .* one \(60, 30\), two .*as in C.npz::one"):
        bigspec.norm(tmp_path / "C.npz")
    holds(f"{tmp_path}/C.npz::two", S)
    with pytest.raises(OSError, match="no array 'three' in it; it holds one, two"):
        bigspec.norm(f"{tmp_path}/C.npz::three")
    with pytest.raises(MemoryError, match="for loading"):
        open_source(tmp_path / "A.npz", memory=1000)


def test_an_archive_of_objects_is_never_unpickled(tmp_path):
    np.savez(tmp_path / "A.npz", np.array([[{}]], dtype=object))
    with pytest.raises(OSError, match="not numbers"):
        bigspec.norm(tmp_path / "A.npz")


def test_an_archive_whose_member_claims_more_than_it_holds(tmp_path):
    np.savez(tmp_path / "A.npz", A)
    raw = (tmp_path / "A.npz").read_bytes().replace(b"(60, 30)", b"(60, 99)")
    (tmp_path / "A.npz").write_bytes(raw)
    with pytest.raises(OSError, match="cannot be read as a NumPy archive"):
        bigspec.norm(tmp_path / "A.npz")


def test_operators_of_pylops():
    pylops = pytest.importorskip("pylops")
    holds(pylops.MatrixMult(A), A)
    C = A + 1j * RNG.standard_normal(A.shape)
    holds(pylops.MatrixMult(C, dtype="complex128"), C)
    derivative = pylops.FirstDerivative(50)
    holds(derivative, derivative.todense())


def test_operators_of_sigpy():
    sigpy = pytest.importorskip("sigpy")
    holds(sigpy.linop.FFT((4, 5)), np.eye(20))
    C = A[:6, :4] + 1j * RNG.standard_normal((6, 4))
    holds(sigpy.linop.MatMul((4, 1), C), C)


class Product:
    """An operator that says `@` and nothing else."""

    def __init__(self, a, **names):
        self.a, self.shape, self.dtype = a, a.shape, a.dtype
        self.__dict__.update(names)

    def __matmul__(self, v):
        return self.a @ v


C = A + 1j * RNG.standard_normal(A.shape)


@pytest.mark.parametrize(
    "names",
    [
        {"H": Product(C.conj().T)},
        {"T": Product(C.T)},
        {"adjoint": lambda: Product(C.conj().T)},
        {"rmatvec": lambda y: C.conj().T @ y},
    ],
    ids=lambda names: next(iter(names)),
)
def test_an_operator_that_has_only_products(names):
    holds(Product(C, **names), C)
    assert open_source(Product(C, **names)).name.endswith(" Product (60, 30)")


def test_an_operator_whose_adjoint_is_wrong_or_not_there():
    with pytest.raises(ValueError, match="expected rmatvec to be the adjoint"):
        bigspec.norm(Product(C, H=Product(C.T)))
    with pytest.raises(TypeError, match=r"expected an operator with an adjoint \(rmatvec, H"):
        bigspec.norm(Product(C))


class Tensor(Product):
    """Has entries, as an array of another package."""

    def __array__(self):
        return self.a


def test_an_array_of_another_package_is_no_operator():
    with pytest.raises(TypeError, match=r"pass numpy\.asarray"):
        bigspec.norm(Tensor(A, T=A.T))
