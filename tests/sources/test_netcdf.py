"""netCDF variables: which dimensions make the rows, what is missing, what is packed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import scipy.io
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import bigspec
from bigspec.cli import main
from bigspec.errors import ArgumentError, DataError, MissingSourceError, SourceError
from bigspec.kernels.buffers import Buffers
from bigspec.sources import open_source
from bigspec.sources.variable import VariableMatrix

DIMS = ("time", "lat", "lon")
KINDS = ["NETCDF4", "NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET"]


def write(
    path: Path,
    A: Any,
    kind: str = "NETCDF4",
    *,
    dims: tuple[str, ...] = DIMS,
    unlimited: bool = False,
    chunks: Any = None,
    fill: Any = None,
    name: str = "T",
    **attributes: Any,
) -> Path:
    """Write an array as it is to be stored; no library packs or masks it."""
    with netCDF4.Dataset(path, "w", format=kind) as file:
        for dim, size in zip(dims, A.shape, strict=True):
            file.createDimension(dim, None if unlimited and dim == dims[0] else size)
        options = {} if kind != "NETCDF4" else {"chunksizes": chunks}
        native = A.dtype.newbyteorder("=")
        variable = file.createVariable(name, native, dims, fill_value=fill, **options)
        variable.set_auto_maskandscale(False)
        variable.setncatts(attributes)
        variable[...] = A
    return path


def whole(matrix: Any) -> Any:
    m, n = matrix.shape
    return matrix.read(slice(0, m), slice(0, n), Buffers())


CUBE = np.arange(4 * 5 * 6, dtype="f4").reshape(4, 5, 6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unlimited", [False, True])
@pytest.mark.parametrize(
    ("rows", "order"),
    [
        ("time", (0, 1, 2)),
        (("time", "lat"), (0, 1, 2)),
        (("lat", "lon"), (1, 2, 0)),
        (("lon", "time"), (2, 0, 1)),
    ],
)
def test_named_dimensions_make_the_rows(
    kind: str, unlimited: bool, rows: Any, order: tuple[int, ...], tmp_path: Path
) -> None:
    path = write(tmp_path / "A.nc", CUBE, kind, unlimited=unlimited)
    matrix = bigspec.open_matrix(path, rows=rows)
    count = 1 if isinstance(rows, str) else len(rows)
    m = int(np.prod([CUBE.shape[i] for i in order[:count]]))
    np.testing.assert_array_equal(whole(matrix), CUBE.transpose(order).reshape(m, -1))
    arrived = pickle.loads(pickle.dumps(matrix))
    assert arrived == matrix
    np.testing.assert_array_equal(whole(arrived), whole(matrix))


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    chunks=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    order=st.permutations([0, 1, 2]),
    count=st.integers(1, 2),
    chunked=st.booleans(),
)
def test_any_grid_reads_the_matrix_and_every_chunk_once(
    shape: Any,
    chunks: Any,
    order: list[int],
    count: int,
    chunked: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    A = np.arange(np.prod(shape), dtype="i4").reshape(shape)
    sizes = tuple(min(c, e) for c, e in zip(chunks, shape, strict=True))
    kind = "NETCDF4" if chunked else "NETCDF3_CLASSIC"
    path = write(tmp_path_factory.mktemp("grid") / "A.nc", A, kind, chunks=sizes)
    order = order[:count] + sorted(order[count:])
    matrix = bigspec.open_matrix(path, rows=[DIMS[i] for i in order[:count]])
    flat = A.transpose(order).reshape(matrix.shape)
    rows, columns = matrix.grids
    steps = sizes if chunked else (1, 1, 1)
    for i in range(rows.count):
        for j in range(columns.count):
            cut = slice(rows.cut(i), rows.cut(i + 1)), slice(columns.cut(j), columns.cut(j + 1))
            np.testing.assert_array_equal(matrix.read(*cut, Buffers()), flat[cut])
            selection = [slice(0)] * 3
            matrix.down.select(cut[0], selection)  # type: ignore[attr-defined]
            matrix.across.select(cut[1], selection)  # type: ignore[attr-defined]
            for s, step, size in zip(selection, steps, shape, strict=True):
                assert s.start % step == 0
                assert s.stop % step == 0 or s.stop == size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "stored"),
    [
        ({"fill": -9.0}, -9.0),
        ({"missing_value": np.float32(-9)}, -9.0),
        ({"missing_value": np.float64([-9.1, -9])}, -9.0),
        ({"missing_value": np.float32(np.nan)}, np.nan),
        ({"valid_min": np.float32(-1)}, -9.0),
        ({"valid_max": np.float32(1000)}, 2000.0),
        ({"valid_range": np.float32([-1, 1000])}, -9.0),
        ({}, netCDF4.default_fillvals["f4"]),
    ],
)
def test_a_missing_value_is_named_or_filled(
    kind: str, options: dict[str, Any], stored: float, tmp_path: Path
) -> None:
    A = CUBE.copy()
    A[2, 3, 4] = stored
    path = write(tmp_path / "A.nc", A, kind, **options)
    said = r"A.nc: expected every entry .* at time=2, lat=3, lon=4; say .* fill= \(--fill\)"
    with pytest.raises(DataError, match=said):
        bigspec.norm(bigspec.open_matrix(path, rows=("time", "lat")))
    A[2, 3, 4] = 7.5
    filled = bigspec.open_matrix(path, rows=("time", "lat"), fill=7.5)
    np.testing.assert_array_equal(whole(filled), A.reshape(20, 6))


@pytest.mark.parametrize("kind", KINDS)
def test_packed_values_are_unpacked(kind: str, tmp_path: Path) -> None:
    stored = np.arange(-12, 12, dtype="i2").reshape(4, 6)
    stored[1, 2] = -999
    path = write(
        tmp_path / "A.nc", stored, kind, dims=("y", "x"), fill=np.int16(-999),
        scale_factor=0.1, add_offset=np.float32(273.25),
    )  # fmt: skip
    matrix = bigspec.open_matrix(path, fill=0.5)
    expected = stored * 0.1 + 273.25
    expected[1, 2] = 0.5
    assert matrix.dtype == np.float64
    np.testing.assert_allclose(whole(matrix), expected, rtol=1e-15)
    est = bigspec.norm(matrix, rtol=1e-10)
    assert est.lower <= np.linalg.norm(expected, 2) * (1 + 1e-14)
    assert np.linalg.norm(expected, 2) <= est.upper * (1 + 1e-14)


def test_limits_of_the_unpacked_type_are_compared_after_unpacking(tmp_path: Path) -> None:
    stored = np.array([[0, 10], [20, 30]], "i2")
    path = write(tmp_path / "A.nc", stored, dims=("y", "x"), scale_factor=0.1, valid_max=2.5)
    np.testing.assert_allclose(whole(bigspec.open_matrix(path, fill=9)), [[0, 1], [2, 9]])


def test_unsigned_integers_in_a_file_that_has_none(tmp_path: Path) -> None:
    stored = np.array([[0, 127], [-128, -1]], "i1")
    path = write(tmp_path / "A.nc", stored, "NETCDF3_CLASSIC", dims=("y", "x"), _Unsigned="true",
                 missing_value=np.int8(-1))  # fmt: skip
    matrix = bigspec.open_matrix(path, fill=0)
    assert matrix.dtype == np.uint8
    np.testing.assert_array_equal(whole(matrix), [[0, 127], [128, 0]])


def test_a_nan_that_is_no_missing_value_stays_an_error(tmp_path: Path) -> None:
    A = CUBE[0].copy()
    A[1, 2] = np.nan
    path = write(tmp_path / "A.nc", A, dims=("y", "x"))
    with pytest.raises(bigspec.BigspecError, match=r"first at \[1, 2\], in the place y=1, x=2"):
        bigspec.norm(bigspec.open_matrix(path, fill=0))


def test_a_record_that_was_never_written_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "A.nc", CUBE, unlimited=True)
    with netCDF4.Dataset(path, "a") as file:
        other = file.createVariable("U", "f4", DIMS)
        other[0:6] = np.ones((6, 5, 6), "f4")
    matrix = bigspec.open_matrix(f"{path}::/T", rows="time", fill=0)
    assert matrix.shape == (6, 30)
    np.testing.assert_array_equal(whole(matrix)[:4], CUBE.reshape(4, 30))
    assert not whole(matrix)[4:].any()


def test_a_variable_of_a_group(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "A.nc", "w") as file:
        file.createDimension("y", 3)
        inner = file.createGroup("deep")
        inner.createDimension("x", 2)
        inner.createVariable("T", "f8", ("y", "x"))[:] = np.ones((3, 2))
        inner.createVariable("U", "f8", ("y", "x"))[:] = np.ones((3, 2))
    est = bigspec.norm(f"{tmp_path}/A.nc::/deep/T")
    assert est.lower <= np.sqrt(6) <= est.upper
    with pytest.raises(SourceError, match=r"got 2: /deep/T \(y, x\) .*A.nc::/deep/T"):
        open_source(tmp_path / "A.nc")


def test_panels_run_on_a_cluster(client: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    A = rng.standard_normal((40, 5, 6))
    matrix = bigspec.open_matrix(write(tmp_path / "A.nc", A), rows=("time", "lat"))
    there = bigspec.norm(matrix, rtol=1e-6, seed=1)
    assert "scheduler" in there.layout["where"]
    assert there.lower <= np.linalg.norm(A.reshape(200, 6), 2) <= there.upper


def test_what_is_asked_wrongly(tmp_path: Path) -> None:
    path = write(tmp_path / "A.nc", CUBE.astype("i2"))
    with pytest.raises(DataError, match=r"two dimensions, got time \(4\), .* \(--rows time,lat\)"):
        open_source(path)
    for rows in (("time", "depth"), ("time", "time"), DIMS, ()):
        with pytest.raises(ArgumentError, match=r"rows: expected some of the dimensions of .*lon"):
            bigspec.open_matrix(path, rows=rows)
    for mistyped, meant in (("tiem", "time"), ("Lon", "lon"), ("latt", "lat")):
        with pytest.raises(ArgumentError, match=rf"got {mistyped}; did you mean {meant}\?$"):
            bigspec.open_matrix(path, rows=mistyped)
    with pytest.raises(ArgumentError, match=r"got depth$"):
        bigspec.open_matrix(path, rows="depth")
    for fill in (0.5, 10**6, np.nan, 1j):
        with pytest.raises(ArgumentError, match=r"fill: expected a finite number that int16"):
            bigspec.open_matrix(path, rows="time", fill=fill)
    with pytest.raises(MissingSourceError, match=r"no variable lies at '/U'; the file holds /T"):
        open_source(f"{path}::/U")
    np.save(tmp_path / "A.npy", np.ones((3, 2)))
    for other in (np.ones((3, 2)), tmp_path / "A.npy"):
        for options in ({"rows": "time"}, {"fill": 0}, {"raw": True}):
            with pytest.raises(ArgumentError, match="expected a netCDF variable, a Zarr array or"):
                bigspec.open_matrix(other, **options)
    with pytest.raises(ArgumentError, match="fill: expected none with raw"):
        bigspec.open_matrix(path, rows="time", fill=0, raw=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "A.nc", np.ones((50, 40)), kind, dims=("y", "x"))
    text = path.read_bytes()
    path.write_bytes(text[: len(text) // 2])
    with pytest.raises(SourceError, match=r"A.nc: expected a netCDF file, got one that cannot"):
        open_source(path)


def test_a_classic_file_of_the_fifth_kind_says_how_to_convert(tmp_path: Path) -> None:
    path = write(tmp_path / "A.nc", CUBE, "NETCDF3_64BIT_DATA")
    with pytest.raises(SourceError, match=r"got CDF-5; convert it: nccopy -k nc4"):
        open_source(path)


def test_a_file_that_went_away(tmp_path: Path) -> None:
    path = write(tmp_path / "A.nc", CUBE[0], dims=("y", "x"))
    matrix = open_source(path)
    assert isinstance(matrix, VariableMatrix)
    path.unlink()
    with pytest.raises(MissingSourceError, match=r"A.nc: this process does not see it"):
        whole(matrix)


def test_the_command_line(data: Path) -> None:
    place = f"{data / 'coads_climatology.cdf'}::/SLP"
    run = CliRunner().invoke(main, ["norm", place, "--rows", "TIME, COADSY", "--quiet"])
    assert run.exit_code == 65
    assert "at TIME=0, COADSY=0, COADSX=0" in run.stderr
    run = CliRunner().invoke(main, ["plan", place, "--rows", "TIME,COADSY", "--fill", "0"])
    assert run.exit_code == 0
    assert "1080 x 180 float32" in run.stdout


def test_scipy_reads_what_it_wrote(tmp_path: Path) -> None:
    with scipy.io.netcdf_file(tmp_path / "A.cdf", "w") as file:
        file.createDimension("record", None)
        file.createDimension("x", 3)
        for name, kind in (("a", "i2"), ("b", "f8")):
            variable = file.createVariable(name, kind, ("record", "x"))
            variable[0:5] = np.arange(15).reshape(5, 3)
    for name in "ab":
        matrix = open_source(f"{tmp_path}/A.cdf::/{name}")
        np.testing.assert_array_equal(whole(matrix), np.arange(15).reshape(5, 3))
