"""Binsparse matrices, written here by their specification and by the binsparse package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import binsparse
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from binsparse.conversions import from_scipy
from hypothesis import given, settings
from hypothesis import strategies as st

import bigspec
from bigspec.errors import DataError, SourceError
from bigspec.kernels.buffers import Buffers
from bigspec.sources import open_source
from bigspec.sources import sparse_store as module
from tests.memory import traced_peak

FORMATS = ["CSR", "CSC", "DCSR", "DCSC", "COO", "COOC"]


def parts_of(A: Any, form: str) -> dict[str, Any]:
    """Return the arrays of a format, as the specification lists them."""
    rowwise = form in ("CSR", "DCSR", "COO")
    B = sp.csr_array(A) if rowwise else sp.csc_array(A)
    B.sum_duplicates()
    lines = np.repeat(np.arange(len(B.indptr) - 1), np.diff(B.indptr))
    parts = {"indices_1": B.indices.astype("u8"), "values": B.data}
    if form.startswith("D"):
        listed = np.flatnonzero(np.diff(B.indptr))
        parts |= {"indices_0": listed.astype("u8")}
        parts |= {"pointers_to_1": np.append(0, B.indptr[1:][listed]).astype("u8")}
    elif form.startswith("COO"):
        parts |= {"indices_0": lines.astype("u4")}
    else:
        parts |= {"pointers_to_1": B.indptr.astype("u8")}
    return parts


def stored_as(values: Any) -> tuple[Any, str]:
    if values.dtype.kind == "c":
        real = np.ascontiguousarray(values).view(values.real.dtype)
        return real, f"complex[{real.dtype.name}]"
    if values.dtype.kind == "b":
        return values.astype("u1"), "bint8"
    return values, values.dtype.name


def write(where: Any, A: Any, form: str = "CSR", **changes: Any) -> Any:
    """Write a matrix; `changes` replace arrays, or keys of the descriptor."""
    arrays, step = parts_of(A, form), changes.pop("step", 13)
    count = changes.pop("stored", arrays["values"].size)
    types = {}
    for name in list(arrays):
        arrays[name], types[name] = stored_as(arrays[name])
    if changes.pop("iso", False):
        step = 2 if types["values"].startswith("complex") else 1
        arrays["values"], types["values"] = arrays["values"][:step], f"iso[{types['values']}]"
    types |= changes.pop("types", {})
    arrays |= {name: changes.pop(name) for name in list(changes) if name in arrays}
    if "fill_value" in changes:
        arrays["fill_value"] = np.array([changes.pop("fill_value")])
        types["fill_value"] = arrays["fill_value"].dtype.name
    said = {
        "version": "0.1",
        "format": form,
        "shape": list(A.shape),
        "number_of_stored_values": int(count),
        "data_types": types,
    } | changes
    if isinstance(where, h5py.Group):
        where.attrs["binsparse"] = json.dumps({"binsparse": said})
    else:
        where.attrs["binsparse"] = said
    for name, values in arrays.items():
        if values is None:
            continue
        if isinstance(where, h5py.Group):
            where.create_dataset(name, data=values, chunks=(max(1, min(step, len(values))),))
        else:
            array = where.create_array(
                name,
                shape=values.shape,
                dtype=values.dtype,
                chunks=(step,),
                config={"write_empty_chunks": True},  # coordinates that are missing are refused
            )
            array[...] = values
    return where


def in_memory(A: Any, form: str = "CSR", **changes: Any) -> Any:
    return write(zarr.create_group(zarr.storage.MemoryStore()), A, form, **changes)


def random(m: int, n: int, density: float = 0.15, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return sp.random_array((m, n), density=density, format="csr", rng=rng)  # type: ignore[call-overload]


def whole(matrix: Any) -> Any:
    m, n = matrix.shape
    return matrix.read(slice(0, m), slice(0, n), Buffers()).toarray()


@settings(max_examples=20, deadline=None)
@given(
    m=st.integers(1, 60),
    n=st.integers(1, 60),
    density=st.sampled_from([0.0, 0.02, 0.5]),
    form=st.sampled_from(FORMATS),
    entries=st.integers(1, 40),
    tallest=st.integers(1, 70),
)
def test_cut_anywhere_the_panels_are_the_matrix(
    m: int, n: int, density: float, form: str, entries: int, tallest: int
) -> None:
    A = random(m, n, density)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CELL_BYTES", entries * 16)
        patch.setattr("bigspec.sources.lines.RANGE", 7)
        patch.setattr("bigspec.sources.lines.TALLEST", tallest)
        matrix: Any = open_source(in_memory(A, form))
    axis = 0 if form in ("CSR", "DCSR", "COO") else 1
    grid = matrix.grids[axis]
    assert grid.extent == A.shape[axis]
    whole, parts = slice(0, A.shape[1 - axis]), []
    longest = np.bincount(A.nonzero()[axis], minlength=1).max(initial=0)
    for piece in range(grid.count):
        cut = slice(grid.cut(piece), grid.cut(piece + 1))
        assert form in ("CSR", "CSC") or cut.stop - cut.start <= tallest
        block = matrix.read(*((cut, whole) if axis == 0 else (whole, cut)), Buffers())
        assert block.nnz <= longest + entries
        parts.append(block.toarray())
    np.testing.assert_array_equal(np.concatenate(parts, axis=axis), A.toarray())
    pair = slice(grid.cut(0), grid.cut(min(2, grid.count)))
    block = matrix.read(*((pair, whole) if axis == 0 else (whole, pair)), Buffers())
    np.testing.assert_array_equal(block.toarray(), np.concatenate(parts[:2], axis=axis))


@pytest.mark.parametrize("form", FORMATS)
def test_a_norm_in_many_panels(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CELL_BYTES", 100 * 16)
    monkeypatch.setattr("bigspec.panels.choose_layout.PANEL_BYTES", (1, 1))
    monkeypatch.setattr("bigspec.panels.choose_layout.READ_TO_RETURN", 0)
    A = random(300, 40)
    est = bigspec.norm(in_memory(A, form), rtol=1e-8, algorithm="lanczos", seed=1)
    sigma = np.linalg.norm(A.toarray(), 2)
    assert est.lower <= sigma * (1 + 1e-14)
    assert sigma <= est.upper * (1 + 1e-14)
    assert est.layout["panels"] > 5
    assert est.history[0].bytes_read == pytest.approx(A.nnz * 12, rel=0.3)


@pytest.mark.parametrize("dtype", ["?", "u1", "f4", "c8", "c16"])
def test_one_value_for_all(dtype: str) -> None:
    A = random(30, 20)
    A.data = np.full(A.nnz, 3 - 2j if np.dtype(dtype).kind == "c" else 3).astype(dtype)
    matrix = open_source(in_memory(A, "COO", iso=True))
    assert matrix.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(whole(matrix), A.toarray())


@pytest.mark.parametrize("kind", ["symmetric", "hermitian", "skew_symmetric"])
@pytest.mark.parametrize("part", ["lower", "upper"])
@pytest.mark.parametrize("form", ["CSR", "COOC"])
def test_a_stored_triangle_is_mirrored(kind: str, part: str, form: str) -> None:
    A = random(30, 30).astype("c16")
    A.data = A.data * np.exp(1j * np.arange(A.nnz))
    strict = sp.tril(A, -1) if part == "lower" else sp.triu(A, 1)
    mirror = {"symmetric": strict.T, "hermitian": strict.conj().T, "skew_symmetric": -strict.T}
    expected = (strict + mirror[kind]).toarray()
    matrix = open_source(in_memory(sp.csr_array(strict), form, structure=f"{kind}_{part}"))
    np.testing.assert_array_equal(whole(matrix), expected)


def test_unsorted_coordinates_are_loaded_if_they_fit() -> None:
    A = random(30, 20).tocoo()
    order = np.random.default_rng(0).permutation(A.nnz)
    rows, columns = A.coords
    changed = {"indices_0": rows[order].astype("u4"), "indices_1": columns[order].astype("u8")}
    group = in_memory(A, "COO", values=A.data[order], **changed)
    assert open_source(group).resident
    np.testing.assert_array_equal(whole(open_source(group)), A.toarray())
    message = r"its coordinates are not sorted \(indices_0\[\d+\] is less .*'bigspec convert'"
    with pytest.raises(SourceError, match=message):
        open_source(group, memory=8 * A.nnz)
    with pytest.raises(SourceError, match=r"only a triangle .*'bigspec convert'"):
        open_source(in_memory(A, structure="symmetric_lower"), memory=8 * A.nnz)


def test_duplicate_coordinates_are_summed() -> None:
    parts = {"indices_0": [1, 1, 2], "indices_1": [3, 3, 0], "values": [1.0, 2.0, 4.0]}
    arrays = {k: np.array(v, "u8" if k != "values" else float) for k, v in parts.items()}
    arrays["indices_0"] = arrays["indices_0"].astype("u4")
    A = whole(open_source(in_memory(sp.csr_array((5, 4)), "COO", stored=3, **arrays)))
    assert (A[1, 3], A[2, 0], np.count_nonzero(A)) == (3.0, 4.0, 2)


def test_indices_may_count_from_1() -> None:
    A = random(30, 20)
    parts = parts_of(A, "DCSR")
    names = ("indices_0", "indices_1", "pointers_to_1")
    changes = {name: (parts[name] + np.uint64(1)) for name in names}
    np.testing.assert_array_equal(
        whole(open_source(in_memory(A, "DCSR", index_base=1, **changes))), A.toarray()
    )
    with pytest.raises(DataError, match=r"indices from 0 to 29, got indices_0\[0\] = -1"):
        open_source(
            in_memory(
                A,
                "DCSR",
                index_base=1,
                **changes | {"indices_0": changes["indices_0"] * np.uint64(0)},
            )
        )


def test_one_hypersparse_row_of_very_many() -> None:
    A = sp.coo_array(([2.0], ([10**9], [3])), shape=(10**9 + 7, 5))
    group = zarr.create_group(zarr.storage.MemoryStore())
    arrays = {"indices_0": np.array([10**9], "u8"), "indices_1": np.array([3], "u1")}
    types = {"indices_0": "uint64", "indices_1": "uint8", "values": "float64"}
    group.attrs["binsparse"] = {
        "version": "0.1", "format": "COO", "shape": list(A.shape),
        "number_of_stored_values": 1, "data_types": types,
    }  # fmt: skip
    for name, values in (arrays | {"values": np.array([2.0])}).items():
        group.create_array(name, data=values)
    matrix = open_source(group)
    grid = matrix.grids[0]
    last = slice(grid.cut(grid.count - 1), grid.extent)
    assert last.stop - last.start <= 1 << 20
    assert matrix.read(last, slice(0, 5), Buffers()).nnz == 1


@pytest.mark.parametrize("dtype", ["f8", "c16"])
@pytest.mark.parametrize("form", ["CSC", "DCSC", "COOC"])
def test_rows_that_cannot_be_told_apart_are_all_in_the_plan(form: str, dtype: str) -> None:
    group = in_memory(random(600_000, 4, 0.01).astype(dtype), form, step=10_000)
    options = {"block_size": 16, "max_passes": 1, "memory_limit": "1GiB"}
    with traced_peak() as peak:
        est = bigspec.norm(group, **options)  # type: ignore[arg-type]
    assert est.layout["orientation"] == "rows"
    assert peak[0] < est.layout["memory"]["total"]


@pytest.mark.parametrize("ending", ["h5", "zarr"])
@pytest.mark.parametrize("alias", [True, False])
@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
def test_what_the_binsparse_package_writes(
    ending: str, alias: bool, form: str, tmp_path: Path
) -> None:
    A = random(30, 20).astype("c8").asformat(form)
    if form == "coo":
        A.sum_duplicates()
    path = tmp_path / f"A.{ending}"
    binsparse.save_binsparse(from_scipy(A), path, alias=alias)
    np.testing.assert_array_equal(whole(open_source(path)), A.toarray())


# What is wrong with it -----------------------------------------------------------------------

A = random(30, 20, 0.2)


def changed(form: str, part: str, place: int, value: int) -> dict[str, Any]:
    array = parts_of(A, form)[part].copy()
    array[place] = value
    return {part: array}


def shorter(form: str, part: str) -> dict[str, Any]:
    return {part: parts_of(A, form)[part][:-1]}


@pytest.mark.parametrize(
    ("form", "changes", "kind", "said"),
    [
        ("CSR", {"version": "0.2"}, SourceError, "of version 0.1, got version 0.2"),
        ("CSR", {"version": "1.0.0"}, SourceError, "of version 0.1, got version 1.0.0"),
        ("CSR", {"format": "DMATR"}, SourceError, "of format CSR, CSC, .*, got DMATR"),
        ("CSR", {"format": "ELL"}, SourceError, "got ELL"),
        ("CSR", {"custom": {"level": {}}}, SourceError, "expected a binsparse descriptor"),
        ("CSR", {"shape": "wide"}, SourceError, "expected a binsparse descriptor"),
        ("CSR", {"shape": [30]}, DataError, "expected a matrix with"),
        ("CSR", {"data_types": None}, SourceError, "expected a binsparse descriptor"),
        ("CSR", {"structure": "banded"}, SourceError, "a structure such as symmetric_lower"),
        ("CSR", {"structure": "symmetric_lower"}, DataError, "expected a square matrix"),
        ("CSR", {"index_base": 2}, SourceError, "index_base of 0 or 1"),
        ("CSR", {"fill": True, "fill_value": 1.5}, DataError, "fill_value of 0, got 1.5"),
        ("CSR", {"values": None}, SourceError, "one-dimensional array 'values'"),
        ("CSR", {"types": {"values": "int128"}}, SourceError, "a type of binsparse for values"),
        ("CSR", {"types": {"values": "iso[float64"}}, SourceError, "a type of binsparse"),
        ("CSR", {"types": {"values": "complex[int8]"}}, SourceError, "a type of binsparse"),
        ("CSR", {"types": {"values": "float32"}}, DataError, "stored as float32, got float64"),
        ("CSR", {"types": {"values": "complex[float64]"}}, DataError, "array of 240 in values"),
        ("CSR", {"types": {"values": "iso[float64]"}}, DataError, "an array of 1 in values"),
        ("CSR", {"types": {"indices_1": "iso[uint64]"}}, SourceError, "type of binsparse for ind"),
        ("CSR", {"stored": 119}, DataError, "an array of 119 in values"),
        ("CSR", shorter("CSR", "indices_1"), DataError, "120 in indices_1 .* got 119 and 31"),
        ("CSR", shorter("CSR", "pointers_to_1"), DataError, "31 in pointers_to_1 .* and 30"),
        ("CSR", changed("CSR", "pointers_to_1", 5, 1), DataError, r"pointers_to_1\[0:31\]"),
        ("CSR", changed("CSR", "pointers_to_1", -1, 10**6), DataError, "last pointer to be 120"),
        ("DCSR", shorter("DCSR", "indices_0"), DataError, "in pointers_to_1 for 120 values"),
        ("DCSR", changed("DCSR", "indices_0", 5, 30), DataError, r"to 29, got indices_0\[5\] = 30"),
        ("DCSC", changed("DCSC", "indices_0", 5, 2), DataError, "increasing numbers"),
        ("COO", shorter("COO", "indices_0"), DataError, "120 in indices_0 .* got 120 and 119"),
        ("COO", changed("COO", "indices_0", 60, 30), DataError, r"29, got indices_0\[60\] = 30"),
        ("COOC", changed("COOC", "indices_0", 60, 20), DataError, r"19, got indices_0\[60\] = 20"),
        (
            "COO",
            changed("COO", "indices_0", 60, 0) | changed("COO", "indices_1", 7, 20),
            DataError,
            r"19, got indices_1\[7\] = 20",
        ),
    ],
)
def test_what_does_not_fit_is_named_when_it_is_opened(
    form: str, changes: dict[str, Any], kind: type[Exception], said: str, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "A.h5", "w") as file:
        write(file.create_group("X"), A, form, **changes)
    with pytest.raises(kind, match=said) as caught:
        open_source(f"{tmp_path}/A.h5::/X")
    assert "A.h5" in str(caught.value)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("value", [40, 2**63])
def test_an_index_out_of_range_is_named_when_it_is_read(form: str, value: int) -> None:
    wrong = changed(form, "indices_1", 60, value)
    with pytest.raises(DataError, match=r"expected indices from 0 to .*, got indices_1\[60\] = "):
        bigspec.norm(in_memory(A, form, **wrong))


@pytest.mark.parametrize(
    ("form", "part", "place", "value"),
    [
        ("CSC", "pointers_to_1", 7, 10**6),
        ("DCSR", "pointers_to_1", 7, 10**6),
        ("DCSR", "indices_0", 7, 10**6),
        ("COO", "indices_0", 7, 10**6),
    ],
)
def test_what_changes_later_is_not_followed(form: str, part: str, place: int, value: int) -> None:
    group = in_memory(A, form)
    matrix = open_source(group)
    group[part][place] = value
    with pytest.raises(DataError, match=rf"{part}\["):
        whole(matrix)


def test_a_file_names_what_it_holds(tmp_path: Path) -> None:
    write(zarr.create_group(tmp_path / "G.zarr/deep/X"), A, "DCSR")
    for outer in ("G.zarr", "G.zarr/deep"):
        zarr.create_group(tmp_path / outer)
    said = r"/deep/X \(30, 20\) sparse group \(binsparse DCSR\). Point at one: .*G.zarr::/deep/X"
    with pytest.raises(SourceError, match=said):
        open_source(tmp_path / "G.zarr")
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file["obs"] = np.arange(3)
        write(file.create_group("deep/X"), A, "COO")
    with pytest.raises(SourceError, match=r"the file holds /deep/X \(sparse\)"):
        open_source(tmp_path / "A.h5")
