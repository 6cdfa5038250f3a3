"""Triplets in Parquet and Arrow, as PyArrow, Polars, DuckDB and pandas make them."""

import datetime as dt
import decimal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
import zarr

import bigspec
from bigspec.conversion import arrow, running

M, N, COUNT = 70, 40, 900


def table(seed=0, **changed):
    """Unsorted, with duplicates; whole numbers, so that no order of summing matters."""
    rng = np.random.default_rng(seed)
    parts = {
        "rating": rng.integers(-9, 10, COUNT).astype(float),
        "user": np.append(rng.integers(0, M, COUNT - 1), M - 1),
        "item": np.append(rng.integers(0, N, COUNT - 1), N - 1),
    }
    return pa.table(parts | changed)


def exact(whole, row="user", column="item", value="rating"):
    parts = (whole[name].to_numpy() for name in (value, row, column))
    values, rows, columns = parts
    return sp.coo_array((values, (rows, columns)), shape=(M, N)).toarray()


def entries(place):
    group = zarr.open_group(place)
    parts = (group["data"][:], group["indices"][:], group["indptr"][:])
    kind = sp.csr_array if group.attrs["encoding-type"] == "csr_matrix" else sp.csc_array
    return kind(parts, shape=tuple(group.attrs["shape"])).toarray()


def one_file(place, whole):
    pq.write_table(whole, place / "A.parquet", row_group_size=111)
    return place / "A.parquet"


def folder(place, whole):
    (place / "A").mkdir()
    for k in range(3):
        pq.write_table(whole[300 * k : 300 * k + 300], place / "A" / f"{k}.parquet")
    return place / "A"


def partitioned(place, whole):
    ds.write_dataset(
        whole, place / "A", format="parquet",
        partitioning=ds.partitioning(pa.schema([("item", pa.int64())]), flavor="hive"),
    )  # fmt: skip
    return place / "A"


def feather(place, whole):
    pyarrow.feather.write_feather(whole, place / "A.feather", chunksize=100)
    return place / "A.feather"


def by_duckdb(place, whole):
    duckdb = pytest.importorskip("duckdb")
    duckdb.sql("select * from whole").write_parquet(str(place / "A.parquet"))
    return place / "A.parquet"


def by_polars(place, whole):
    polars = pytest.importorskip("polars")
    polars.from_arrow(whole).write_parquet(place / "A.parquet", row_group_size=100)
    return place / "A.parquet"


def by_pandas(place, whole):
    pytest.importorskip("pandas")
    whole.to_pandas().to_parquet(place / "A.parquet")
    return place / "A.parquet"


FILES = {f.__name__: f for f in (one_file, folder, partitioned, feather, by_duckdb, by_polars)}
FILES["by_pandas"] = by_pandas


@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize("write", FILES)
def test_a_table_becomes_the_matrix_that_scipy_makes_of_it(write, form, tmp_path):
    whole = table()
    src = FILES[write](tmp_path, whole)
    done = bigspec.convert(src, tmp_path / "B.zarr", columns="user,item,rating", format=form)
    assert (done.shape, done.read, done.ids) == ((M, N), COUNT, ())
    A = exact(whole)
    np.testing.assert_array_equal(entries(tmp_path / "B.zarr"), A)
    est = bigspec.norm(tmp_path / "B.zarr")
    assert est.lower <= np.linalg.norm(A, 2) <= est.upper


def of_pandas(whole):
    pytest.importorskip("pandas")
    return whole.to_pandas()


def of_polars(whole):
    return pytest.importorskip("polars").from_arrow(whole)


def of_duckdb(whole):
    return pytest.importorskip("duckdb").sql("select * from whole")


OBJECTS = {"pyarrow": lambda whole: whole, "pandas": of_pandas,
           "polars": of_polars, "duckdb": of_duckdb}  # fmt: skip


@pytest.mark.parametrize("make", OBJECTS)
def test_a_table_in_memory_is_handed_over(make, tmp_path):
    whole = table()
    bigspec.convert(OBJECTS[make](whole), tmp_path / "B.zarr", columns=["user", "item", "rating"])
    np.testing.assert_array_equal(entries(tmp_path / "B.zarr"), exact(whole))


def test_a_query_of_duckdb_is_handed_over(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    whole = table()
    made = duckdb.sql('select "user", item, sum(rating) as r from whole group by all')
    done = bigspec.convert(made, tmp_path / "B.zarr")
    np.testing.assert_array_equal(entries(tmp_path / "B.zarr"), exact(whole))
    assert done.read < COUNT


def test_columns_are_named_by_position_too_and_without_values_all_are_one(tmp_path):
    whole = table()
    src = one_file(tmp_path, whole)
    bigspec.convert(src, tmp_path / "B.zarr", columns="1,2,0")
    np.testing.assert_array_equal(entries(tmp_path / "B.zarr"), exact(whole))
    bigspec.convert(src, tmp_path / "C.zarr", columns=(1, "item"))
    ones = whole.set_column(0, "rating", pa.array(np.ones(COUNT)))
    np.testing.assert_array_equal(entries(tmp_path / "C.zarr"), exact(ones))


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_text_is_numbered_in_sorted_order_and_kept_beside_the_matrix(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "SCAN", 50)
    monkeypatch.setattr("bigspec.conversion.ids.LEAST_PENDING", 20)
    whole = table()
    names = pa.array([f"ü{user:02}" for user in whole["user"].to_pylist()]).cast(kind)
    src = one_file(tmp_path, whole.set_column(1, "user", names))
    done = bigspec.convert(src, tmp_path / "B.zarr", columns="user,item,rating")
    assert done.ids == ("row_ids",)
    assert "kept as row_ids" in str(done)
    there, numbers = np.unique(whole["user"].to_numpy(), return_inverse=True)
    A = exact(whole.set_column(1, "user", pa.array(numbers)))[: len(there)]
    np.testing.assert_array_equal(entries(tmp_path / "B.zarr"), A)
    assert zarr.open_array(tmp_path / "B.zarr/row_ids")[:].tolist() == [f"ü{u:02}" for u in there]


def test_large_and_negative_numbers_are_numbered_on_demand(tmp_path):
    whole = table()
    hashed = (whole["user"].to_numpy() - 7) * 2**55
    src = one_file(tmp_path, whole.set_column(1, "user", pa.array(hashed)))
    done = bigspec.convert(src, tmp_path / "B.zarr", columns="user,item,rating", renumber=True)
    assert done.ids == ("row_ids", "column_ids")
    there = np.unique(hashed)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "B.zarr/row_ids")[:], there)
    full = exact(whole)
    rows, columns = np.unique(whole["user"].to_numpy()), np.unique(whole["item"].to_numpy())
    np.testing.assert_array_equal(entries(tmp_path / "B.zarr"), full[np.ix_(rows, columns)])


@pytest.mark.parametrize(
    ("kind", "values", "stored"),
    [
        (pa.int8(), [-3, 2], "int8"),
        (pa.uint16(), [3, 65535], "uint16"),
        (pa.bool_(), [True, False], "bool"),
        (pa.float32(), [0.5, 1.5], "float32"),
        (pa.float16(), [np.float16(0.5), np.float16(2)], "float32"),
        (pa.decimal128(9, 2), [decimal.Decimal("1.25"), decimal.Decimal("-7.50")], "float64"),
    ],
)
def test_values_keep_their_type_and_decimals_are_rounded(kind, values, stored, tmp_path):
    whole = pa.table({"r": [0, 1], "c": [1, 0], "v": pa.array(values, kind)})
    done = bigspec.convert(whole, tmp_path / "B.zarr")
    assert np.dtype(done.dtype) == stored
    np.testing.assert_array_equal(
        entries(tmp_path / "B.zarr"), [[0, float(values[0])], [float(values[1]), 0]]
    )


def broken(name, kind, bad):
    whole = table()
    column = whole[name].cast(kind).combine_chunks().to_pylist()
    column[500] = bad
    return whole.set_column(whole.schema.get_field_index(name), name, pa.array(column, kind))


@pytest.mark.parametrize(
    ("name", "kind", "bad", "words"),
    [
        ("user", pa.int64(), None, "no nulls in 'user' .row ids., got 1 of them, the first"),
        ("user", pa.string(), None, "no nulls in 'user' .row ids."),
        ("item", pa.int64(), -4, "ids from 0 to .* in 'item' .column ids., got -4"),
        (
            "item",
            pa.uint64(),
            2**63,
            "ids .* 'item' .*, got 9223372036854775808.*cast them to text",
        ),
        ("rating", pa.float64(), None, "no nulls in 'rating' .values..*in row 56 of it"),
        (
            "rating",
            pa.float64(),
            float("nan"),
            "finite .* 'rating' .values., got nan in row 56 of it",
        ),
        (
            "rating",
            pa.float32(),
            float("inf"),
            "finite .* 'rating' .values., got inf in row 56 of it",
        ),
    ],
)
def test_what_is_no_entry_is_refused_by_row_group_and_column(name, kind, bad, words, tmp_path):
    src = one_file(tmp_path, broken(name, kind, bad))
    with pytest.raises(ValueError, match=rf"row group 4 of .*A.parquet: expected {words}"):
        bigspec.convert(src, tmp_path / "B.zarr", columns="user,item,rating")
    assert not list(tmp_path.glob("B.zarr*"))


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("user", np.ones(COUNT), "whole numbers or text in 'user' .row ids., got double"),
        ("item", [dt.datetime(2026, 1, 1)] * COUNT, "'item' .column ids., got timestamp"),
        ("user", [decimal.Decimal(3)] * COUNT, "'user' .row ids., got decimal128"),
        ("rating", [dt.date(2026, 1, 1)] * COUNT, "numbers in 'rating' .values."),
        ("rating", ["5"] * COUNT, "numbers in 'rating' .values., got string"),
        ("rating", [[5.0]] * COUNT, "numbers in 'rating' .values., got list"),
    ],
)
def test_a_column_of_another_kind_is_refused_before_it_is_read(name, values, words, tmp_path):
    with pytest.raises(TypeError, match=words):
        bigspec.convert(table(**{name: values}), tmp_path / "B.zarr", columns="user,item,rating")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"columns": None},
            r"columns: .* --columns user,item,rating .* it has user, item, rating, t",
        ),
        ({"columns": "user,item,stars"}, "names or positions .* of user, item, rating, t"),
        ({"columns": "0,1,7"}, "got '7'"),
        ({"columns": "user,item,0"}, "different columns"),
        ({"columns": "user"}, "two or three of"),
        ({"columns": "user,item,rating", "shape": (3, 3)}, "ids below 3 in 'user' .row ids."),
    ],
)
def test_columns_and_shapes_that_do_not_fit(given, words, tmp_path):
    whole = table().select(["user", "item", "rating"]).append_column("t", pa.array(range(COUNT)))
    with pytest.raises(ValueError, match=words):
        bigspec.convert(whole, tmp_path / "B.zarr", **given)


def test_a_shape_may_be_larger_than_the_ids(tmp_path):
    done = bigspec.convert(
        table(), tmp_path / "B.zarr", columns="user,item,rating", shape=(100, 50)
    )
    assert done.shape == (100, 50)
    assert entries(tmp_path / "B.zarr")[M:].sum() == 0


def test_the_norm_of_a_table_says_to_convert_it(tmp_path):
    src = one_file(tmp_path, table())
    with pytest.raises(
        OSError, match=r"bigspec convert .*A\.parquet A\.zarr --columns ROW,COL,VALUE"
    ):
        bigspec.norm(src)
    with pytest.raises(TypeError, match=r"table of triplets: bigspec\.convert"):
        bigspec.norm(table())


def test_columns_are_refused_where_there_are_none(tmp_path):
    with pytest.raises(ValueError, match="columns: expected only with Parquet or Arrow"):
        bigspec.convert(sp.eye_array(4, format="coo"), tmp_path / "B.zarr", columns="a,b")


def test_an_empty_table_and_a_stream_that_ends_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="expected rows, got none"):
        bigspec.convert(table()[:0], tmp_path / "B.zarr", columns="user,item")
    with pytest.raises(ValueError, match="read_all"):
        bigspec.convert(table().to_reader(), tmp_path / "B.zarr", columns="user,item")


def test_ids_that_do_not_fit_are_refused(tmp_path):
    whole = pa.table({"r": [f"a{k:0100}" for k in range(2000)], "c": [0] * 2000, "v": [1.0] * 2000})
    with pytest.raises(MemoryError, match="distinct ids of column 'r'"):
        bigspec.convert(whole, tmp_path / "B.zarr", memory_limit="512KiB")


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "A.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(OSError, match=r"A\.parquet: cannot be read as Parquet or Arrow"):
        bigspec.convert(tmp_path / "A.parquet", tmp_path / "B.zarr")


def test_work_that_was_cut_off_goes_on_in_the_middle_of_a_row_group(tmp_path, monkeypatch):
    whole = table()
    src = folder(tmp_path, whole)
    monkeypatch.setattr(running, "SAVE_ENTRIES", 1)
    monkeypatch.setattr(running, "CAPACITY_BYTES", 8000)
    real, seen = arrow.ArrowStream._batch, []

    def cut_off(self, *given):
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.append(given)
        return real(self, *given)

    monkeypatch.setattr(arrow.ArrowStream, "_batch", cut_off)
    given = {"columns": "user,item,rating", "memory_limit": "1MiB"}
    with pytest.raises(KeyboardInterrupt):
        bigspec.convert(src, tmp_path / "B.zarr", **given)
    monkeypatch.setattr(arrow.ArrowStream, "_batch", real)
    done = bigspec.convert(src, tmp_path / "B.zarr", **given)
    assert done.read == COUNT
    np.testing.assert_array_equal(entries(tmp_path / "B.zarr"), exact(whole))


def test_a_file_that_changed_is_another_source(tmp_path, monkeypatch):
    src = one_file(tmp_path, table())
    monkeypatch.setattr(arrow.ArrowStream, "_batch", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bigspec.convert(src, tmp_path / "B.zarr", columns="user,item,rating")
    monkeypatch.undo()
    one_file(tmp_path, table(seed=1))
    with pytest.raises(ValueError, match="expected no partial work"):
        bigspec.convert(src, tmp_path / "B.zarr", columns="user,item,rating")


def test_a_file_in_a_bucket_is_read_there(s3_environment, endpoint, tmp_path):
    import s3fs

    whole = table()
    system = s3fs.S3FileSystem(endpoint_url=endpoint)
    system.mkdir("tables")
    system.put(str(folder(tmp_path, whole)), "tables/A", recursive=True)
    done = bigspec.convert("s3://tables/A/1.parquet", tmp_path / "B.zarr", columns="user,item")
    assert done.read == 300


def test_the_command_line_takes_columns(tmp_path):
    src = one_file(tmp_path, table())
    line = [sys.executable, "-m", "bigspec", "convert", str(src), str(tmp_path / "B.zarr"),
            "--columns", "user,item,rating", "--renumber", "--quiet"]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "row_ids and column_ids" in done.stdout


def test_without_pyarrow_it_is_said_what_to_install(tmp_path, monkeypatch):
    src = one_file(tmp_path, table())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OSError, match="pip install pyarrow"):
        bigspec.convert(src, tmp_path / "B.zarr")
