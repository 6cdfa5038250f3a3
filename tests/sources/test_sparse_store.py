"""Sparse matrices in stores: read once, in panels of rows or columns, and never out of bounds."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import bigspec
from bigspec.errors import DataError, MissingSourceError, SourceError, UnsupportedTypeError
from bigspec.kernels.buffers import Buffers
from bigspec.sources import StoredSparse, open_source
from bigspec.sources import sparse_store as module
from tests.memory import traced_peak


def write(where: Any, A: Any, **changes: Any) -> Any:
    """Write a CSR or CSC matrix as AnnData does; `changes` replace parts of it."""
    group = zarr.create_group(where)
    parts = {name: getattr(A, name) for name in ("data", "indices", "indptr")} | changes
    group.attrs.update(
        {
            "encoding-type": parts.pop("encoding", f"{A.format}_matrix"),
            "encoding-version": parts.pop("version", "0.1.0"),
            "shape": list(parts.pop("shape", A.shape)),
        }
    )
    for name, values in parts.items():
        if values is not None:
            values = np.asarray(values)
            chunks = (50,) * values.ndim
            array = group.create_array(
                name,
                shape=values.shape,
                dtype=values.dtype,
                chunks=chunks,
                config={"write_empty_chunks": True},  # a missing chunk of indices is an error
            )
            array[...] = values
    return where


def random_sparse(m: int, n: int, density: float = 0.1, form: str = "csr", seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return sp.random_array((m, n), density=density, format=form, rng=rng)  # type: ignore[call-overload]


@settings(max_examples=30, deadline=None)
@given(
    m=st.integers(1, 60),
    n=st.integers(1, 60),
    density=st.sampled_from([0.0, 0.05, 0.5]),
    form=st.sampled_from(["csr", "csc"]),
    entries=st.integers(1, 40),
)
def test_cut_anywhere_the_panels_are_the_matrix(
    m: int, n: int, density: float, form: str, entries: int
) -> None:
    A = random_sparse(m, n, density, form)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CELL_BYTES", entries * 12)
        patch.setattr("bigspec.sources.lines.RANGE", 7)
        matrix: Any = open_source(zarr.open_group(write(zarr.storage.MemoryStore(), A), mode="r"))
    axis = 0 if form == "csr" else 1
    grid = matrix.grids[axis]
    assert grid.extent == A.shape[axis]
    assert matrix.grids[1 - axis].count == 1
    whole, parts = slice(0, A.shape[1 - axis]), []
    for piece in range(grid.count):
        cut = slice(grid.cut(piece), grid.cut(piece + 1))
        where = (cut, whole) if axis == 0 else (whole, cut)
        block = matrix.read(*where, Buffers())
        assert block.nnz <= max(entries, np.diff(A.indptr).max(initial=0)) + entries
        parts.append(block.toarray())
    np.testing.assert_array_equal(np.concatenate(parts, axis=axis), A.toarray())


@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize("shape", [(300, 40), (40, 300)], ids=["tall", "wide"])
def test_the_interval_is_that_of_the_dense_matrix(
    form: str, shape: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CELL_BYTES", 100 * 12)
    monkeypatch.setattr("bigspec.panels.choose_layout.PANEL_BYTES", (1, 1))
    monkeypatch.setattr("bigspec.panels.choose_layout.READ_TO_RETURN", 0)
    A = random_sparse(*shape, form=form)
    sigma = np.linalg.norm(A.toarray(), 2)
    est = bigspec.norm(write(tmp_path / "A.zarr", A), rtol=1e-8, algorithm="lanczos")
    assert est.lower <= sigma * (1 + 1e-14)
    assert sigma <= est.upper * (1 + 1e-14)
    assert est.converged
    assert est.layout["orientation"] == ("rows" if form == "csr" else "columns")
    assert est.layout["panels"] > 5
    stored = A.data.nbytes + A.indices.nbytes
    assert est.history[0].bytes_read == pytest.approx(stored, rel=0.3)  # and the pointers
    vector = est.right if est.right is not None else est.left
    image = A @ vector if est.right is not None else A.T @ vector
    assert np.linalg.norm(image) >= est.lower * (1 - 1e-12)


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_values_of_a_type_that_scipy_has_not(form: str, tmp_path: Path) -> None:
    A = random_sparse(60, 40, form=form)
    half = np.asarray(A.data * 100, np.float16)
    path = write(tmp_path / "A.zarr", A, data=half)
    D = type(A)((half.astype(float), A.indices, A.indptr), A.shape).toarray()
    for made, dense in ((path, D), (bigspec.centered(path), D - D.mean(axis=0))):
        est = bigspec.norm(made, rtol=1e-8)
        assert est.lower <= np.linalg.norm(dense, 2) * (1 + 1e-14)
        assert np.linalg.norm(dense, 2) <= est.upper * (1 + 1e-14)


def test_panels_run_on_a_cluster(client: Any, tmp_path: Path) -> None:
    A = random_sparse(400, 60)
    path = write(tmp_path / "A.zarr", A)
    there = bigspec.norm(path, rtol=1e-6, seed=1, algorithm="lanczos")
    assert "scheduler" in there.layout["where"]
    assert there.lower <= np.linalg.norm(A.toarray(), 2) <= there.upper


def test_the_root_of_an_anndata_is_its_x(tmp_path: Path) -> None:
    root = zarr.create_group(tmp_path / "A.zarr")
    root.attrs["encoding-type"] = "anndata"
    A = random_sparse(30, 20)
    write(tmp_path / "A.zarr" / "X", A)
    matrix = open_source(tmp_path / "A.zarr")
    assert isinstance(matrix, StoredSparse)
    assert matrix.shape == (30, 20)


def test_no_entries_at_all(tmp_path: Path) -> None:
    est = bigspec.norm(write(tmp_path / "A.zarr", sp.csr_array((30, 20))))
    assert (est.lower, est.upper) == (0.0, 0.0)


# What is wrong with it -----------------------------------------------------------------------

A = random_sparse(30, 20, 0.2)
POINTERS = A.indptr.copy()


def pointers(place: int, value: int) -> Any:
    changed = POINTERS.copy()
    changed[place] = value
    return changed


def indices(value: int) -> Any:
    changed = A.indices.copy()
    changed[40] = value
    return changed


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"indptr": pointers(5, 1)}, DataError, "begin with 0 and never decrease"),
        ({"indptr": pointers(0, 1)}, DataError, "begin with 0 and never decrease"),
        ({"indptr": pointers(-1, 10**6)}, DataError, "the last pointer to be 120, got 1000000"),
        ({"indptr": POINTERS[:-1]}, DataError, "31 in indptr .* got 120 and 30"),
        ({"indices": A.indices[:-1]}, DataError, "expected 120 in indices .* got 119 and 31"),
        ({"indices": A.indices.astype(float)}, DataError, "expected integers in indices"),
        ({"data": None}, SourceError, "one-dimensional array 'data' in the group, got None"),
        ({"data": np.ones((120, 1))}, SourceError, "one-dimensional array 'data'"),
        ({"data": np.zeros(120, "M8[s]")}, UnsupportedTypeError, "expected entries of type"),
        ({"shape": [30]}, DataError, "expected a matrix with"),
        ({"shape": [30, -20]}, DataError, r"expected a matrix with .*got shape \(30, -20\)"),
        ({"shape": "wide"}, SourceError, "'shape' of two integers"),
        ({"version": "0.2.0"}, SourceError, "of version 0.2.0"),
        ({"encoding": "array"}, SourceError, "expected a Zarr array, got a Zarr group"),
    ],
)
def test_what_does_not_fit_together_is_named_when_it_is_opened(
    changes: dict[str, Any], kind: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=said) as caught:
        open_source(write(tmp_path / "A.zarr", A, **changes))
    assert "A.zarr" in str(caught.value)


@pytest.mark.parametrize("value", [20, -1, 10**9])
def test_an_index_out_of_range_is_named_when_it_is_read(value: int, tmp_path: Path) -> None:
    path = write(tmp_path / "A.zarr", A, indices=indices(value))
    with pytest.raises(DataError, match=rf"from 0 to 19, got indices\[40\] = {value}"):
        bigspec.norm(path)


def test_pointers_that_change_later_are_not_followed(tmp_path: Path) -> None:
    matrix = open_source(write(tmp_path / "A.zarr", A))
    zarr.open_array(tmp_path / "A.zarr/indptr")[7] = 10**6
    with pytest.raises(DataError, match="pointers that never decrease, from 0 to 120"):
        matrix.read(slice(0, 30), slice(0, 20), Buffers())


def test_a_nan_is_named(tmp_path: Path) -> None:
    data = A.data.copy()
    data[40] = np.nan
    row = int(np.searchsorted(POINTERS, 40, side="right")) - 1
    with pytest.raises(bigspec.BigspecError, match=rf"first at \[{row}, {A.indices[40]}\]"):
        bigspec.norm(write(tmp_path / "A.zarr", A, data=data))


# Files ---------------------------------------------------------------------------------------


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "A.npy", np.array([[print]], object), allow_pickle=True)
    with pytest.raises(SourceError, match="cannot be read as a NumPy array"):
        open_source(tmp_path / "A.npy")
    np.savez(tmp_path / "A.npz", format=np.array(print, object), shape=(1, 1))
    with pytest.raises(SourceError, match="cannot be read as a SciPy sparse matrix"):
        open_source(tmp_path / "A.npz")


@pytest.mark.parametrize(
    "changes",
    [{"indptr": pointers(5, 10**6)}, {"indices": indices(20)}, {"indices": indices(-1)}],
    ids=["decreasing", "too large", "negative"],
)
def test_npz_that_points_outside(changes: dict[str, Any], tmp_path: Path) -> None:
    parts = {"data": A.data, "indices": A.indices, "indptr": POINTERS} | changes
    np.savez(tmp_path / "A.npz", format=b"csr", shape=A.shape, **parts)
    with pytest.raises(SourceError, match=r"A.npz: cannot be read as a SciPy sparse matrix"):
        open_source(tmp_path / "A.npz")


@pytest.mark.parametrize("packed", [False, True])
def test_truncated_matrix_market(packed: bool, tmp_path: Path) -> None:
    scipy.io.mmwrite(tmp_path / "A.mtx", A)
    path, text = tmp_path / "A.mtx", (tmp_path / "A.mtx").read_bytes()
    path.write_bytes(text[: len(text) // 2])
    if packed:
        whole = gzip.compress(text)
        path = tmp_path / "A.mtx.gz"
        path.write_bytes(whole[: len(whole) // 2])
    said = "damaged or cut short after line 3" if packed else "expected 120 entries .*, got 60"
    with pytest.raises(DataError, match=said):
        open_source(path)


@pytest.mark.parametrize("packed", [False, True])
def test_matrix_market_with_nul_bytes_is_refused(packed: bool, tmp_path: Path) -> None:
    scipy.io.mmwrite(tmp_path / "A.mtx", A)
    text = (tmp_path / "A.mtx").read_bytes()[:-2] + b"\0\n"
    path = tmp_path / ("A.mtx.gz" if packed else "A.mtx")
    path.write_bytes(gzip.compress(text) if packed else text)
    with pytest.raises(DataError, match="expected text in line 123, got the byte 0x00"):
        open_source(path)


def test_hdf5_that_is_no_matrix_names_what_is_there(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file["obs"] = np.arange(3)
        file["deep/X"] = np.ones((4, 3))
    with pytest.raises(SourceError, match=r"got a group; the file holds /deep/X \(4, 3\) float64"):
        open_source(tmp_path / "A.h5")
    with pytest.raises(MissingSourceError, match=r"nothing lies at 'Y'; the file holds /deep/X"):
        open_source(f"{tmp_path}/A.h5::/Y")
    with pytest.raises(DataError, match="expected a matrix"):
        open_source(f"{tmp_path}/A.h5::/obs")


def test_truncated_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file["X"] = np.ones((100, 30))
    whole = (tmp_path / "A.h5").read_bytes()
    (tmp_path / "A.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="expected an HDF5 file, got one that h5py cannot open"):
        open_source(tmp_path / "A.h5")


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_a_run_holds_no_more_than_was_planned_and_a_fifth_of_it(form: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(20_000, dtype=np.int32), 50)
    columns = (1000 * rng.random(len(rows)) ** 3).astype(np.int32)
    entries = rng.standard_normal(len(rows)).astype("f4")
    A = sp.csr_array((entries, (rows, columns)), shape=(20_000, 1000))
    sp.save_npz(tmp_path / "A.npz", A.asformat(form))
    bigspec.convert(tmp_path / "A.npz", tmp_path / "A.zarr", format=form)
    with traced_peak() as peak:
        est = bigspec.norm(tmp_path / "A.zarr", memory_limit="100MiB", max_passes=2, rtol=1e-9)
    assert est.layout["memory"]["total"] / 5 < peak[0] < est.layout["memory"]["total"]


@pytest.mark.parametrize(
    ("place", "reference"),
    [
        ("10x_pbmc68k_reduced.zarr.zip/layers/counts", 2.112728891542151e03),
        ("10x_pbmc68k_reduced.zarr.zip/obsp/connectivities", 7.591970975990225e00),
        ("10x_pbmc68k_reduced.h5ad", 1.679618493115838e02),
        ("10x_pbmc68k_reduced.h5ad::/raw.X", 5.983797238691751e02),
        ("10x_pbmc68k_reduced.h5ad::/uns/neighbors/connectivities", 7.591970975990225e00),
        ("bcsstk16.npz", 4.943165634199614e09),
        ("illc1850.mtx.gz", 2.123342642739717e00),
        ("lp_dfl001.npz", 1.591695297533131e01),
        ("mhd1280b.mtx", 7.032203242352814e01),
        ("west0479.mtx", 3.189517598051426e05),
        ("wiki-Vote.mtx.gz", 1.031876107138056e02),
        ("young1c.mtx", 4.701960548091826e02),
    ],
)
def test_real_files_by_their_paths(place: str, reference: float, data: Path) -> None:
    file, inside = re.match(r"(.*?(?:\.zip|\.h5ad|$))(.*)", place).groups()  # type: ignore[union-attr]
    est = bigspec.norm(f"{data / file}{inside}", rtol=1e-8)
    assert est.converged
    assert est.lower <= reference * (1 + 1e-14)
    assert reference * (1 - 1e-14) <= est.upper


@pytest.mark.parametrize("part", ["indices", "indptr"])
def test_indices_of_an_npz_that_are_no_integers(part: str, tmp_path: Path) -> None:
    """SciPy cuts fractions off: 1.5 would be column 1."""
    S = sp.csr_array(np.eye(4))
    members = {"indices": S.indices, "indptr": S.indptr}
    members[part] = members[part] + 0.5
    place = tmp_path / "A.npz"
    np.savez(place, format=b"csr", shape=np.array(S.shape), data=S.data, **members)
    for door in (bigspec.norm, lambda a: bigspec.convert(a, tmp_path / "C.zarr")):
        with pytest.raises(DataError, match=rf"expected (integers in {part}|as many integer)"):
            door(place)


@pytest.mark.parametrize("dtype", [">f8", ">f4", ">f2", ">i4", ">u8", ">c16"])
def test_big_endian_values_are_read(tmp_path: Path, dtype: str) -> None:
    S = sp.csr_array(np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]]))
    group = zarr.create_group(tmp_path / "A.zarr", zarr_format=2)
    group.attrs.update(
        {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [2, 3]}
    )
    for part, kind in (("data", dtype), ("indices", ">i4"), ("indptr", ">i8")):
        entries = getattr(S, part)
        group.create_array(
            part,
            shape=entries.shape,
            chunks=(2,),
            dtype=kind,
            config={"write_empty_chunks": True},
        )[...] = entries
    matrix = bigspec.open_matrix(tmp_path / "A.zarr")
    block: Any = matrix.read(slice(0, 2), slice(0, 3), Buffers())
    np.testing.assert_array_equal(block.toarray(), S.toarray())
    found = bigspec.norm(matrix)
    assert found.lower * (1 - 1e-9) <= 3.0 <= found.upper * (1 + 1e-9)
