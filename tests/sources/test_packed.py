"""Packed and masked arrays: one reading of the conventions behind every door."""

from __future__ import annotations

import base64
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from click.testing import CliRunner

import bigspec
from bigspec.cli import main
from bigspec.errors import ArgumentError, DataError, NonFiniteError, ResumeError, SourceError
from bigspec.kernels.buffers import Buffers
from bigspec.sources import open_source
from bigspec.sources.hdf5 import HDF5Matrix
from bigspec.sources.zarr_store import ZarrMatrix

Array = np.ndarray[Any, Any]
DIMS = ("y", "x")
SHAPE = (12, 8)
STEP = (5, 8)


def whole(matrix: Any) -> Array:
    m, n = matrix.shape
    return np.array(matrix.read(slice(0, m), slice(0, n), Buffers()))


def holds(est: bigspec.Estimate, true: Any) -> bool:
    """Whether the reference, rounded as it is, lies in the interval."""
    return bool(est.lower <= true * (1 + 1e-14) and true <= est.upper * (1 + 1e-14))


def plain(value: Any) -> Any:
    """Return an attribute as JSON has it."""
    return value.tolist() if hasattr(value, "tolist") else value


def chunks_of(A: Array) -> tuple[int, ...]:
    return STEP if A.ndim == 2 else (3, *A.shape[1:])


# Doors: each writes stored numbers as they are, with attributes, and returns what is opened.


def zarr_v2(folder: Path, A: Array, attrs: dict[str, Any], dims: Any = DIMS) -> Any:
    """As xarray does: _FillValue is the array's fill value, and no attribute."""
    attrs = {key: plain(value) for key, value in attrs.items()} | {"_ARRAY_DIMENSIONS": dims}
    fill = attrs.pop("_FillValue", None)
    fill = float(fill) if isinstance(fill, str) else fill
    fill = fill + 2**16 if A.dtype == "u2" and fill is not None and fill < 0 else fill
    zarr.create_array(
        folder / "A.zarr", data=A, chunks=chunks_of(A), zarr_format=2, fill_value=fill,
        attributes=attrs,
    )  # fmt: skip
    return folder / "A.zarr"


def zarr_v3(folder: Path, A: Array, attrs: dict[str, Any], dims: Any = DIMS) -> Any:
    """As xarray does: a float _FillValue is in base64."""
    attrs = {key: plain(value) for key, value in attrs.items()}
    if A.dtype.kind == "f" and isinstance(attrs.get("_FillValue"), float):
        packed = struct.pack("<d", attrs["_FillValue"])
        attrs["_FillValue"] = base64.standard_b64encode(packed).decode()
    zarr.create_array(
        folder / "A.zarr", data=A, chunks=chunks_of(A), attributes=attrs, dimension_names=dims
    )
    return str(folder / "A.zarr")


def zarr_object(folder: Path, A: Array, attrs: dict[str, Any], dims: Any = DIMS) -> Any:
    return zarr.open_array(zarr_v3(folder, A, attrs, dims), mode="r")


def zarr_in_memory(folder: Path, A: Array, attrs: dict[str, Any], dims: Any = DIMS) -> Any:
    array = zarr.create_array({}, data=A, chunks=chunks_of(A), zarr_format=2, fill_value=None)
    array.attrs.update({key: plain(value) for key, value in attrs.items()})
    array.attrs["_ARRAY_DIMENSIONS"] = list(dims)
    return array


def references(folder: Path, A: Array, attrs: dict[str, Any], dims: Any = DIMS) -> Any:
    """As kerchunk does: a JSON file that says where in other files the chunks lie."""
    store = zarr_v2(folder, A, attrs, dims)
    refs: dict[str, Any] = {".zgroup": '{"zarr_format": 2}'}
    for file in store.iterdir():
        documents = file.name.startswith(".")
        refs[f"T/{file.name}"] = (
            file.read_text() if documents else [str(file), 0, file.stat().st_size]
        )
    (folder / "refs.json").write_text(json.dumps({"version": 1, "refs": refs}))
    return f"reference://::{folder}/refs.json::/T"


def hdf5(folder: Path, A: Array, attrs: dict[str, Any], dims: Any = DIMS) -> Any:
    with h5py.File(folder / "A.h5", "w") as file:
        dataset = file.create_dataset("T", data=A, chunks=chunks_of(A))
        dataset.attrs.update(attrs)
        for dim, name in zip(dataset.dims, dims, strict=True):
            dim.label = name
    return folder / "A.h5"


def hdf5_eos(folder: Path, A: Array, attrs: dict[str, Any], dims: Any = DIMS) -> Any:
    """Contiguous, with attributes as arrays of one element, dimensions from scales."""
    with h5py.File(folder / "A.he5", "w") as file:
        dataset = file.create_dataset("T", data=A)
        for key, value in attrs.items():
            held = value.encode() if isinstance(value, str) else value  # text of fixed length
            dataset.attrs[key] = np.atleast_1d(held)
        for i, (name, size) in enumerate(zip(dims, A.shape, strict=True)):
            file[name] = np.arange(size)
            file[name].make_scale(name)
            dataset.dims[i].attach_scale(file[name])
    return f"{folder}/A.he5::/T"


def netcdf4(folder: Path, A: Array, attrs: dict[str, Any], dims: Any = DIMS) -> Any:
    return netcdf(folder, A, attrs, dims, "NETCDF4")


def classic(folder: Path, A: Array, attrs: dict[str, Any], dims: Any = DIMS) -> Any:
    return netcdf(folder, A, attrs, dims, "NETCDF3_CLASSIC")


def netcdf(folder: Path, A: Array, attrs: dict[str, Any], dims: Any, kind: str) -> Any:
    attrs = dict(attrs)
    fill = attrs.pop("_FillValue", None)
    with netCDF4.Dataset(folder / "A.nc", "w", format=kind) as file:
        for dim, size in zip(dims, A.shape, strict=True):
            file.createDimension(dim, size)
        # Text cannot be its own fill value for the library; it is left to the netCDF default.
        variable = file.createVariable("T", A.dtype, dims, fill_value=fill)
        variable.set_auto_maskandscale(False)
        variable.setncatts(attrs)
        variable[...] = A
    return folder / "A.nc"


DOORS = {
    door.__name__: door
    for door in (
        zarr_v2, zarr_v3, zarr_object, zarr_in_memory, references, hdf5, hdf5_eos, netcdf4, classic,
    )
}  # fmt: skip


# Kinds: stored numbers and attributes, and the values with NaN where there is none.


def numbered(dtype: str) -> Array:
    return (np.arange(96).reshape(SHAPE) * 37 % 101).astype(dtype)


def scaled() -> tuple[Array, dict[str, Any], Array]:
    A = numbered("i2")
    A[2, 3] = A[11, 7] = -9999
    values = np.where(A == -9999, np.nan, A * 0.01 + 250.0)
    return A, {"scale_factor": 0.01, "add_offset": 250.0, "_FillValue": np.int16(-9999)}, values


def filled_floats() -> tuple[Array, dict[str, Any], Array]:
    A = numbered("f4")
    A[2, 3] = -9999
    return A, {"_FillValue": np.float32(-9999)}, np.where(A == -9999, np.nan, A)


def nan_floats() -> tuple[Array, dict[str, Any], Array]:
    A = numbered("f8")
    A[2, 3] = np.nan
    return A, {"_FillValue": np.float64(np.nan)}, A


def missing_values() -> tuple[Array, dict[str, Any], Array]:
    A = numbered("i4")
    A[2, 3], A[4, 0] = -1, -2
    return A, {"missing_value": np.int32([-1, -2])}, np.where(A < 0, np.nan, A)


def unsigned() -> tuple[Array, dict[str, Any], Array]:
    A = numbered("i2")
    A[0, :4], A[2, 3] = -2, -1
    values = np.where(A == -1, np.nan, A.view("u2") * 0.5)
    return A, {"_Unsigned": "true", "scale_factor": 0.5, "_FillValue": np.int16(-1)}, values


def signed() -> tuple[Array, dict[str, Any], Array]:
    A = numbered("u2")
    A[0, :4] = 2**16 - 5
    values = np.where(A.view("i2") == -5, np.nan, A.view("i2") + 0.5)
    return A, {"_Unsigned": "false", "add_offset": 0.5, "missing_value": np.int16(-5)}, values


def limited() -> tuple[Array, dict[str, Any], Array]:
    A = numbered("i2")
    A[2, 3], A[4, 0] = 1000, -3
    attrs = {"valid_range": np.int16([0, 200]), "scale_factor": 2.0}
    return A, attrs, np.where((A < 0) | (A > 200), np.nan, 2.0 * A)


def limited_below() -> tuple[Array, dict[str, Any], Array]:
    A = numbered("f8")
    A[2, 3], A[4, 0] = -1e5, -3.5
    return A, {"valid_min": -3.5}, np.where(A < -3.5, np.nan, A)


def texts() -> tuple[Array, dict[str, Any], Array]:
    A = numbered("i4")
    A[2, 3] = -99
    attrs = {"scale_factor": "0.25", "add_offset": " -1 ", "missing_value": "-99"}
    return A, attrs, np.where(A == -99, np.nan, A * 0.25 - 1)


def days() -> tuple[Array, dict[str, Any], Array]:
    A = numbered("i4")
    A[2, 3] = -1
    return A, {"units": "days", "_FillValue": np.int32(-1)}, np.where(A == -1, np.nan, A)


def eos() -> tuple[Array, dict[str, Any], Array]:
    A = numbered("f4")
    A[2, 3] = -1e30
    attrs = {"ScaleFactor": 2.0, "Offset": 0.0, "MissingValue": np.float32(-1e30)}
    return A, attrs, np.where(A < -1, np.nan, A * 2.0)


KINDS = {
    kind.__name__: kind
    for kind in (
        scaled, filled_floats, nan_floats, missing_values, unsigned, signed, limited,
        limited_below, texts, days, eos,
    )
}  # fmt: skip
TABLE = [
    (kind, door)
    for kind in KINDS
    for door in DOORS
    if not (kind == "signed" and door == "classic")  # it has no unsigned types
]


@pytest.mark.parametrize(("kind", "door"), TABLE)
def test_each_kind_at_each_door_is_read_as_its_conventions_say(
    kind: str, door: str, tmp_path: Path
) -> None:
    A, attrs, values = KINDS[kind]()
    place = DOORS[door](tmp_path, A, attrs)
    missing = np.isnan(values)
    expected = np.where(missing, 7, values)
    matrix = bigspec.open_matrix(place, fill=7)
    np.testing.assert_allclose(whole(matrix), expected, rtol=1e-14)
    est = bigspec.norm(matrix, rtol=1e-9)
    true = np.linalg.norm(expected, 2)
    assert holds(est, true)
    np.testing.assert_array_equal(whole(bigspec.open_matrix(place, raw=True)), A)
    row, column = np.argwhere(missing)[0]
    said = rf"expected every entry to have a value.* at y={row}, x={column}; .*fill= \(--fill\)"
    if kind == "nan_floats" and door not in ("netcdf4", "classic"):
        said = r"got a NaN or infinity first at \[2, 3\]"  # the array is read as it always was
    with pytest.raises(DataError, match=said):
        bigspec.norm(place)
    if not matrix.resident:
        np.testing.assert_array_equal(whole(pickle.loads(pickle.dumps(matrix))), whole(matrix))


CUBE = (np.arange(120).reshape(4, 5, 6) * 7 % 31).astype("i2")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("rows", "order"), [(("t", "y"), (0, 1, 2)), (("y", "x"), (1, 2, 0)), ("x", (2, 0, 1))]
)
def test_dimensions_make_the_rows_at_each_door(
    door: str, rows: Any, order: tuple[int, ...], tmp_path: Path
) -> None:
    attrs = {"scale_factor": 0.5, "add_offset": -3.0, "_FillValue": np.int16(30)}
    place = DOORS[door](tmp_path, CUBE, attrs, ("t", "y", "x"))
    m = int(np.prod([CUBE.shape[i] for i in order[: 1 if rows == "x" else 2]]))
    values = np.where(CUBE == 30, 9.0, CUBE * 0.5 - 3.0)
    matrix = bigspec.open_matrix(place, rows=rows, fill=9)
    np.testing.assert_array_equal(whole(matrix), values.transpose(order).reshape(m, -1))
    raw = bigspec.open_matrix(place, rows=rows, raw=True)
    np.testing.assert_array_equal(whole(raw), CUBE.transpose(order).reshape(m, -1))
    cuts = [[grid.cut(i) for i in range(grid.count + 1)] for grid in matrix.grids]
    for i, j in np.ndindex(len(cuts[0]) - 1, len(cuts[1]) - 1):
        box = slice(*cuts[0][i : i + 2]), slice(*cuts[1][j : j + 2])
        np.testing.assert_array_equal(matrix.read(*box, Buffers()), whole(matrix)[box])
    with pytest.raises(DataError, match=r"rows=\('t', 'y'\) \(--rows t,y\)"):
        bigspec.open_matrix(place)
    with pytest.raises(ArgumentError, match=r"rows: expected some of .*t \(4\), y \(5\), x \(6\)"):
        bigspec.open_matrix(place, rows="depth")


def test_dimensions_without_names_are_numbered_and_equal_names_told_apart(tmp_path: Path) -> None:
    place = zarr_v3(tmp_path, CUBE, {}, None)
    matrix = bigspec.open_matrix(place, rows=("dim_2",))
    np.testing.assert_array_equal(whole(matrix), CUBE.transpose(2, 0, 1).reshape(6, 20))
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file["T"] = CUBE
    matrix = bigspec.open_matrix(tmp_path / "A.h5", rows=("dim_2",))
    np.testing.assert_array_equal(whole(matrix), CUBE.transpose(2, 0, 1).reshape(6, 20))
    A = np.arange(9.0).reshape(3, 3)
    zarr.create_array(tmp_path / "C", data=A, dimension_names=("s", "s"))
    np.testing.assert_array_equal(whole(open_source(tmp_path / "C")), A)
    np.testing.assert_array_equal(whole(bigspec.open_matrix(tmp_path / "C", rows="s_1")), A.T)


# Where nothing is unpacked.


def test_the_fill_value_of_zarr_is_no_missing_value(tmp_path: Path) -> None:
    A = numbered("i2")
    A[:5] = -9999  # a whole chunk, which is not stored
    attrs = {"scale_factor": 0.1, "add_offset": 5.0}
    zarr.create_array(
        tmp_path / "A", data=A, chunks=STEP, fill_value=-9999, attributes=attrs,
        config={"write_empty_chunks": False},
    )  # fmt: skip
    assert not (tmp_path / "A/c/0").exists()
    np.testing.assert_allclose(whole(open_source(tmp_path / "A")), A * 0.1 + 5.0, rtol=1e-14)
    zarr.create_array(tmp_path / "B", data=A, zarr_format=2, fill_value=-9999)
    assert isinstance(open_source(tmp_path / "B"), ZarrMatrix)
    np.testing.assert_array_equal(whole(open_source(tmp_path / "B")), A)


def test_a_zero_that_xarray_would_mask_is_asked_about(tmp_path: Path) -> None:
    # In format 2 its offset would be taken for a value; zarr-python writes this 0 by itself.
    A = numbered("i2")
    attrs = {"add_offset": 250.0}
    zarr.create_array(tmp_path / "A", data=A, zarr_format=2, fill_value=0, attributes=attrs)
    np.testing.assert_array_equal(whole(open_source(tmp_path / "A")), A + 250.0)
    attrs["_ARRAY_DIMENSIONS"] = DIMS
    zarr.create_array(tmp_path / "B", data=A, zarr_format=2, fill_value=0, attributes=attrs)
    with pytest.raises(DataError, match=r"a missing one \(0 as stored\) at y=0, x=0"):
        whole(open_source(tmp_path / "B"))


@pytest.mark.parametrize("door", ["zarr_v2", "zarr_v3", "hdf5"])
@pytest.mark.parametrize("attrs", [{}, {"scale_factor": 1.0, "units": "K"}, {"_FillValue": "NaN"}])
def test_an_array_whose_numbers_are_its_values_keeps_its_identity(
    door: str, attrs: dict[str, Any], tmp_path: Path
) -> None:
    place = DOORS[door](tmp_path, numbered("f8"), attrs)
    matrix = open_source(place)
    assert isinstance(matrix, (ZarrMatrix, HDF5Matrix))
    assert set(matrix.identity) == {"where", "shape", "dtype", "chunks", "token"}
    assert matrix.identity == bigspec.open_matrix(place, raw=True).identity


@pytest.mark.parametrize("door", ["zarr_v3", "hdf5", "netcdf4"])
def test_how_an_array_is_read_belongs_to_its_identity(door: str, tmp_path: Path) -> None:
    A, attrs, _ = scaled()
    place = DOORS[door](tmp_path, A, attrs)
    readings: list[dict[str, Any]] = [{}, {"fill": 0}, {"fill": 1}, {"raw": True}, {"rows": "x"}]
    found = [bigspec.open_matrix(place, **reading).identity for reading in readings]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])
    run = tmp_path / "run"
    bigspec.norm(bigspec.open_matrix(place, raw=True), checkpoint=run, max_passes=1, seed=0)
    with pytest.raises(ResumeError, match="matrix dtype was '<i2', is '<f8'"):
        bigspec.norm(bigspec.open_matrix(place, fill=0), checkpoint=run, max_passes=2, seed=0)


def test_raw_numbers_have_the_identity_of_runs_that_were_saved_before(tmp_path: Path) -> None:
    A, attrs, _ = scaled()
    place = zarr_v3(tmp_path, A, attrs)
    raw = bigspec.open_matrix(place, raw=True)
    assert isinstance(raw, ZarrMatrix)
    assert set(raw.identity) == {"where", "shape", "dtype", "chunks", "token"}


def test_a_chunk_that_is_not_stored_is_missing_where_its_value_is_no_value(tmp_path: Path) -> None:
    A = numbered("i2")
    attrs = {"_ARRAY_DIMENSIONS": DIMS, "_FillValue": -1, "scale_factor": 2.0}
    for fill, expected in ((-9999, 7.0), (0, 0.0)):
        array = zarr.create_array(
            tmp_path / f"A{fill}", shape=SHAPE, dtype="i2", chunks=STEP, zarr_format=2,
            fill_value=fill, attributes=attrs,
        )  # fmt: skip
        array[5:] = A[5:]
        matrix = bigspec.open_matrix(tmp_path / f"A{fill}", fill=7)
        np.testing.assert_array_equal(whole(matrix)[:5], np.full(STEP, expected))
        np.testing.assert_array_equal(whole(matrix)[5:], 2.0 * A[5:])


# What is not clear is refused.


@pytest.mark.parametrize("door", ["zarr_v3", "hdf5", "netcdf4"])
@pytest.mark.parametrize(
    ("attrs", "said"),
    [
        ({"scale_factor": "see the manual"}, "one finite number|a number in the attribute scale"),
        ({"scale_factor": [0.1, 0.2]}, "one finite number in the attribute scale_factor"),
        ({"scale_factor": 0.0}, "a number other than 0 in the attribute scale_factor"),
        ({"add_offset": "NaN"}, "one finite number in the attribute add_offset"),
        ({"missing_value": "n/a"}, "a number in the attribute missing_value, got 'n/a'"),
        ({"missing_value": "1,5"}, "a number in the attribute missing_value"),
        ({"missing_value": 65535}, "a number that int16 holds in the attribute missing_value"),
        ({"missing_value": -0.5}, "a number that int16 holds in the attribute missing_value"),
        ({"valid_range": [1, 2, 3]}, "two numbers in the attribute valid_range"),
        ({"_Unsigned": "maybe"}, "'true' or 'false' in the attribute _Unsigned"),
        ({"ScaleFactor": 0.1, "Offset": 3.0}, "expected 0 in the attribute Offset"),
        ({"ScaleFactor": 0.1, "scale_factor": 0.2}, "as in scale_factor"),
        ({"scale_factor": 0.1, "add_offset": 3.0, "calibrated_nt": 5}, "got HDF4's, which are"),
    ],
)
def test_an_attribute_that_does_not_say_clearly_what_is_meant(
    door: str, attrs: dict[str, Any], said: str, tmp_path: Path
) -> None:
    place = DOORS[door](tmp_path, numbered("i2"), attrs)
    with pytest.raises(DataError, match=rf"A\.(zarr|h5|nc): .*({said}).* raw=True \(--raw\)"):
        open_source(place)
    np.testing.assert_array_equal(whole(open_source(place, raw=True)), numbered("i2"))


def test_attributes_that_are_no_object(tmp_path: Path) -> None:
    A = numbered("f4")
    zarr.create_array(tmp_path / "A", data=A, zarr_format=2)
    (tmp_path / "A/.zattrs").write_text("[1]")
    with pytest.raises(SourceError, match="expected an object in JSON for attributes"):
        open_source(tmp_path / "A")
    np.testing.assert_array_equal(whole(open_source(tmp_path / "A", raw=True)), A)


@pytest.mark.parametrize("ending", ["zarr", "h5"])
@pytest.mark.parametrize("where", ["the group", "its data", "its indices"])
def test_a_sparse_group_is_never_unpacked(ending: str, where: str, tmp_path: Path) -> None:
    A = sp.random_array((9, 7), density=0.4, rng=np.random.default_rng(0), format="csr")
    path = tmp_path / f"A.{ending}"
    file: Any = zarr.create_group(path) if ending == "zarr" else h5py.File(path, "w")
    group = file.create_group("X")
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
    group.attrs["shape"] = list(A.shape)
    for part in ("data", "indices", "indptr"):
        group[part] = getattr(A, part)
    node = group if where == "the group" else group[where.removeprefix("its ")]
    node.attrs["scale_factor"] = 0.01
    if ending == "h5":
        file.close()
    place = f"{path}::/X"
    for opened in (open_source, lambda p: bigspec.convert(p, tmp_path / "B.zarr")):
        with pytest.raises(SourceError, match=r"the attribute scale_factor.* raw=True \(--raw\)"):
            opened(place)
    true = np.linalg.norm(A.toarray(), 2)
    est = bigspec.norm(bigspec.open_matrix(place, raw=True), rtol=1e-9)
    assert holds(est, true)
    run = CliRunner().invoke(main, ["convert", place, f"{tmp_path}/B.zarr", "--raw", "--quiet"])
    assert run.exit_code == 0, run.output
    assert holds(bigspec.norm(tmp_path / "B.zarr", rtol=1e-9), true)
    with pytest.raises(ArgumentError, match="rows, fill and raw: expected"):
        bigspec.open_matrix(place, fill=0)


def test_a_nan_that_nothing_marks_stays_an_error(tmp_path: Path) -> None:
    A, _, _ = nan_floats()
    with pytest.raises(NonFiniteError, match=r"first at \[2, 3\]"):
        bigspec.norm(bigspec.open_matrix(zarr_v3(tmp_path, A, {}), fill=0))


def test_times_that_are_missing_are_seen_without_an_attribute(tmp_path: Path) -> None:
    A = numbered("i8")
    A[1, 1] = np.iinfo(np.int64).min
    for name, units in (("A", "days"), ("B", "Hours since 1970-01-01")):
        zarr.create_array(tmp_path / name, data=A, attributes={"units": units})
        with pytest.raises(DataError, match=r"missing one .* at dim_0=1, dim_1=1"):
            whole(open_source(tmp_path / name))
    A[1, 1] = 4
    np.testing.assert_array_equal(whole(bigspec.open_matrix(tmp_path / "A", fill=4)), A)


def test_complex_entries_are_scaled_and_marked(tmp_path: Path) -> None:
    A = (numbered("f8") + 1j * numbered("f8").T.reshape(SHAPE)).astype("c16")
    A[2, 3] = -9 - 9j
    mark = base64.standard_b64encode(struct.pack("<d", -9.0)).decode()
    attrs = {"scale_factor": 0.5, "_FillValue": [mark, mark]}
    zarr.create_array(tmp_path / "A", data=A, attributes=attrs)
    matrix = bigspec.open_matrix(tmp_path / "A", fill=1j)
    A[2, 3] = 2j
    assert matrix.dtype == np.complex128
    np.testing.assert_array_equal(whole(matrix), A * 0.5)


def test_another_byte_order(tmp_path: Path) -> None:
    A, attrs, values = unsigned()
    place = zarr_v2(tmp_path, A.astype(">i2"), attrs)
    expected = np.where(np.isnan(values), 0, values)
    np.testing.assert_array_equal(whole(bigspec.open_matrix(place, fill=0)), expected)
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file["T"] = A.astype(">i2")
        file["T"].attrs.update(attrs)
    np.testing.assert_array_equal(whole(bigspec.open_matrix(tmp_path / "A.h5", fill=0)), expected)


# Expressions, the command, a cluster.


def test_packed_matrices_in_expressions(tmp_path: Path) -> None:
    A, attrs, values = scaled()
    B = np.where(np.isnan(values), 0, values)
    place = zarr_v3(tmp_path, A, attrs)
    packed = bigspec.open_matrix(place, fill=0)
    for made in (packed - B, B - packed, bigspec.vstack([packed, B]) - np.vstack([B, B])):
        assert bigspec.norm(made).upper < 1e-8
    with pytest.raises(DataError, match="expected every entry to have a value"):
        bigspec.norm(bigspec.open_matrix(B) - place)
    zarr.create_array(tmp_path / "C", data=A, attributes={"scale_factor": 0.01})
    assert bigspec.norm(bigspec.open_matrix(A * 0.01) - str(tmp_path / "C")).upper < 1e-8
    assert bigspec.norm(bigspec.hstack([tmp_path / "C"]) - A * 0.01).upper < 1e-8


def test_the_command_reads_src_and_minus_alike(tmp_path: Path) -> None:
    A, attrs, values = scaled()
    values = np.where(np.isnan(values), 0, values)
    place = str(zarr_v3(tmp_path, A, attrs))
    unpacked = f"{tmp_path}/B.npy"
    np.save(unpacked, values)
    run = CliRunner().invoke

    def upper(*arguments: str) -> float:
        done = run(main, ["norm", *arguments, "--quiet", "--json", "-"])
        assert done.exit_code == 0, done.output
        return float(json.loads(done.stdout)["upper"])

    assert upper(unpacked, "--minus", place, "--fill", "0") < 1e-8
    assert upper(place, "--minus", unpacked, "--fill", "0") < 1e-8
    assert upper(place, "--minus", place, "--fill", "0") < 1e-8
    raw = upper(place, "--raw")
    assert raw == pytest.approx(np.linalg.norm(A.astype(float), 2), rel=1e-3)
    assert run(main, ["plan", place, "--fill", "0"]).exit_code == 0
    done = run(main, ["svds", place, "-k", "1", "--fill", "0", "--quiet", "--json", "-"])
    assert done.exit_code == 0, done.output
    done = run(main, ["norm", place, "--quiet"])
    assert (done.exit_code, "at y=2, x=3" in done.stderr) == (65, True)
    done = run(main, ["norm", unpacked, "--minus", unpacked, "--fill", "0", "--quiet"])
    assert (done.exit_code, "rows, fill and raw: expected" in done.stderr) == (2, True)


@pytest.mark.parametrize("door", ["zarr_v3", "hdf5"])
def test_packed_panels_run_on_a_cluster(client: Any, door: str, tmp_path: Path) -> None:
    A, attrs, values = scaled()
    expected = np.where(np.isnan(values), 0, values)
    matrix = bigspec.open_matrix(DOORS[door](tmp_path, A, attrs), fill=0)
    est = bigspec.norm(matrix, rtol=1e-9)
    true = np.linalg.norm(expected, 2)
    assert "scheduler" in est.layout["where"]
    assert holds(est, true)
