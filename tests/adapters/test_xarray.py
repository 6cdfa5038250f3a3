"""DataArrays: in memory, of dask's chunks, not loaded yet; and EOFs beside those of xeofs."""

import importlib
import sys

import h5netcdf  # noqa: F401 - the engine of xarray here
import numpy as np
import pytest
import xarray as xr

import bigspec
import bigspec.xarray
from bigspec.sources.variable import VariableMatrix

TIME, LAT, LON = 120, 9, 14


def field(seed=0):
    """A climate-like variable: a few patterns in time, and noise."""
    rng = np.random.default_rng(seed)
    lat = np.linspace(-80, 80, LAT)
    patterns = rng.standard_normal((5, LAT, LON)) * np.cos(np.deg2rad(lat))[:, None]
    series = rng.standard_normal((TIME, 5)) * [9, 6, 4, 2, 1]
    values = np.einsum("tk,kyx->tyx", series, patterns) + 0.3 * rng.standard_normal(
        (TIME, LAT, LON)
    )
    return xr.DataArray(
        values + 15, dims=("time", "lat", "lon"), name="T",
        coords={"time": np.arange(TIME), "lat": lat, "lon": np.linspace(0, 350, LON)},
    )  # fmt: skip


def flat(da, rows=("time",)):
    others = [dim for dim in da.dims if dim not in rows]
    return da.transpose(*rows, *others).values.reshape(np.prod([da.sizes[d] for d in rows]), -1)


PACKED = {"T": {"dtype": "i2", "scale_factor": 0.01, "add_offset": 15.0, "_FillValue": -32768}}


def in_memory(place):
    return field()


def dask_chunks(place):
    return field().chunk({"time": 25, "lat": 4})


def not_loaded(place):
    field().to_dataset().to_netcdf(
        place / "T.nc", engine="h5netcdf", encoding={"T": {"chunksizes": (30, 9, 7)}}
    )
    return xr.open_dataset(place / "T.nc", engine="h5netcdf")["T"]


def contiguous(place):
    field().to_dataset().to_netcdf(place / "T.nc", engine="h5netcdf")
    return xr.open_dataset(place / "T.nc", engine="h5netcdf")["T"]


def part_of_a_file(place):
    return not_loaded(place)[10:90, ::2]


def zarr_chunks(place):
    field().to_dataset().to_zarr(
        place / "T.zarr", encoding={"T": {"chunks": (40, 9, 14)}}, consolidated=False
    )
    return xr.open_zarr(place / "T.zarr", consolidated=False)["T"]


def packed(place):
    field().to_dataset().to_netcdf(place / "T.nc", engine="h5netcdf", encoding=PACKED)
    return xr.open_dataset(place / "T.nc", engine="h5netcdf")["T"]


MADE = [in_memory, dask_chunks, not_loaded, contiguous, part_of_a_file, zarr_chunks, packed]


@pytest.mark.parametrize("rows", [("time",), ("lat", "time"), ("lon",)])
@pytest.mark.parametrize("make", MADE)
def test_a_data_array_is_the_matrix_of_its_flattened_values(make, rows, tmp_path):
    da = make(tmp_path)
    est = bigspec.norm(da, rows=rows, rtol=1e-8)
    A = flat(da, rows)
    assert est.lower <= np.linalg.norm(A, 2) <= est.upper
    assert est.matrix["shape"] == list(A.shape)


def test_what_was_not_loaded_stays_so(tmp_path):
    da = not_loaded(tmp_path)
    assert not bigspec.open_matrix(da, rows="time").streams  # chunks of dask's, read in the pass
    bigspec.norm(da, rows="time")
    assert not da.variable._in_memory


def test_the_same_interval_by_zarr_and_by_netcdf(tmp_path):
    field().to_dataset().to_netcdf(tmp_path / "T.nc", engine="h5netcdf", encoding=PACKED)
    decoded = xr.open_dataset(tmp_path / "T.nc", engine="h5netcdf")
    decoded["T"].encoding.clear()
    decoded.to_zarr(
        tmp_path / "T.zarr", encoding={"T": {"chunks": (40, 9, 14)}}, consolidated=False
    )
    call = {"rows": ["time"], "rtol": 1e-6, "seed": 1}
    by_path = [
        bigspec.norm(f"{tmp_path}/T.nc::/T", **call),
        bigspec.norm(f"{tmp_path}/T.zarr/T", **call),
    ]
    by_xarray = bigspec.norm(decoded["T"], **call)
    exact = np.linalg.norm(flat(decoded["T"]), 2)
    for est in (*by_path, by_xarray):
        assert est.lower <= exact <= est.upper
        assert est.lower == pytest.approx(by_path[0].lower, rel=1e-12)


def test_a_matrix_of_two_dimensions_needs_no_rows_and_svds_takes_them():
    da = field().isel(lat=4)
    A = flat(da)
    assert bigspec.open_matrix(da).shape == A.shape
    tri = bigspec.svds(field(), 3, rows="time", rtol=1e-9)
    np.testing.assert_allclose(tri.s, np.linalg.svd(flat(field()))[1][:3], rtol=1e-9)
    assert bigspec.plan(field(), rows="time").matrix.shape == (TIME, LAT * LON)


def test_values_that_are_missing_are_refused_or_filled():
    da = field().where(lambda d: d.lat < 70)
    with pytest.raises(ArithmeticError, match="NaN"):
        bigspec.norm(da, rows="time")
    est = da.bigspec.norm("time", fill=0)
    exact = np.linalg.norm(flat(da.fillna(0)), 2)
    assert est.lower <= exact <= est.upper


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda da: bigspec.norm(da), r"DataArray T .*expected two dimensions, got time \(120\)"),
        (lambda da: bigspec.norm(da, rows="t"), r"rows: expected some of the dimensions .*got t"),
        (lambda da: bigspec.open_matrix(da, rows="time", raw=True), "raw: .*mask_and_scale=False"),
        (lambda da: bigspec.open_matrix(da, rows="time", missing_chunks="error"), "missing_chunks"),
        (lambda da: bigspec.norm(da.to_dataset()), r"got Dataset; pass one of its .*'T'"),
        (lambda da: bigspec.norm(da.astype("M8[ns]").isel(lat=0)), "datetime64"),
    ],
)
def test_what_is_no_matrix_is_said(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call(field())


def test_the_accessor_has_the_norm_the_triplets_and_the_matrix():
    da = field().chunk({"time": 30})
    assert da.bigspec.norm(["time"], seed=1).lower == bigspec.norm(da, rows="time", seed=1).lower
    assert da.bigspec.svds(2, "time", seed=1).s[0] == bigspec.svds(da, 2, rows="time", seed=1).s[0]
    assert da.bigspec.matrix("time").shape == (TIME, LAT * LON)


def test_a_variable_of_a_path_takes_rows_too(tmp_path):
    not_loaded(tmp_path)
    assert isinstance(bigspec.open_matrix(f"{tmp_path}/T.nc", rows="time"), VariableMatrix)
    est = bigspec.norm(f"{tmp_path}/T.nc", rows="time", rtol=1e-8)
    assert est.lower <= np.linalg.norm(flat(field()), 2) <= est.upper


@pytest.mark.filterwarnings("ignore:Deleting a single level:FutureWarning")  # of xeofs
def test_eofs_with_weights_are_those_of_xeofs():
    xeofs = pytest.importorskip("xeofs")
    da = field().chunk({"time": 30})
    weighted = da * np.sqrt(np.cos(np.deg2rad(da.lat)))
    tri = bigspec.svds(bigspec.centered(weighted.bigspec.matrix("time")), 3, rtol=1e-9)
    model = xeofs.single.EOF(n_modes=3, use_coslat=True, solver="full")
    model.fit(field(), dim="time")
    np.testing.assert_allclose(tri.s, model.singular_values().values, rtol=1e-8)
    assert (tri.lower <= model.singular_values().values * (1 + 1e-12)).all()
    assert (model.singular_values().values <= tri.upper * (1 + 1e-12)).all()
    theirs = model.components().transpose("mode", "lat", "lon").values.reshape(3, -1)
    np.testing.assert_allclose(np.abs(np.sum(tri.vh * theirs, axis=1)), 1, rtol=1e-8)
    share = tri.s**2 / tri.frobenius**2
    np.testing.assert_allclose(share, model.explained_variance_ratio().values, rtol=1e-8)


def test_without_xarray_the_import_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "bigspec.xarray")
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match="pip install xarray"):
        importlib.import_module("bigspec.xarray")
