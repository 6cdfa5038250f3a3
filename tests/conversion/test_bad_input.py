"""What is wrong is named, with the line; nothing is left that looks complete."""

import errno
import gzip
import json

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from click.testing import CliRunner

import bigspec
from bigspec.cli import main
from bigspec.conversion import running, writing
from bigspec.errors import (
    ArgumentError,
    CheckpointInUseError,
    DataError,
    DestinationError,
    MemoryLimitError,
    ResumeError,
    SourceError,
    UnsupportedTypeError,
)
from bigspec.sources import matrix_market
from tests.conversion.test_sources import assert_is, triplets
from tests.memory import traced_peak

HEAD = "%%MatrixMarket matrix coordinate real general\n% a comment\n\n3 4 2\n"


def convert(tmp_path, text, name="A.mtx", **options):
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / name).write_bytes(data)
    return bigspec.convert(tmp_path / name, tmp_path / "out.zarr", **options)


def assert_nothing_left(tmp_path):
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            HEAD + "1 1 2.5\n",
            "expected 2 entries as the header says, got 1: the file ends after li",
        ),
        (HEAD + "1 1 1\n2 2 2\n3 3 3\n", "expected 2 entries .* got more, .* before line 7"),
        (
            HEAD + "1 1 1\n4 1 2\n",
            r"line 6, indices from 1 to 3 and 4; got '4 1 2' \(Row index out",
        ),
        (HEAD + "1 1 1\n1 5 2\n", r"line 6, .* got '1 5 2' \(Column index out of bounds\)"),
        (HEAD + "0 1 1\n1 5 2\n", r"line 5, .* got '0 1 1' \(Row index out of bounds\)"),
        (HEAD + "1 1 1\n\n% note\nhello world\n", "line 8, .* got 'hello world'"),
        (HEAD + "1 1 1\n2 2\n", "line 6, .* got '2 2'"),
        (HEAD.encode() + b"1 1 1\n2 2 2 \xff\n", "expected text in line 6, got the byte 0xff"),
        (HEAD.encode() + b"1 1 1 \x00\n2 2 2\n", "expected text in line 5, got the byte 0x0"),
        (HEAD + "1 1 1\n" + "2" * 70000 + "\n", "line 6, .* got '222"),
        (
            HEAD.replace("real", "integer") + "1 1 1\n2 2 99999999999999999999\n",
            "line 6.*out of ra",
        ),
        (HEAD.replace("3 4 2", "0 4 0"), "expected a matrix with at least one row"),
    ],
)
def test_a_bad_line_is_named(text, said, tmp_path):
    with pytest.raises(DataError, match=said) as caught:
        convert(tmp_path, text)
    assert "A.mtx" in str(caught.value)
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hello\n", "expected a first line such as '%%MatrixMarket matrix"),
        ("", "expected a first line such as"),
        (HEAD.replace("3 4 2", "3 4"), "expected 'rows columns entries' in line 4, got '3 4'"),
        (HEAD.replace("coordinate", "array"), "the format 'array', which is dense; load it"),
        (HEAD.replace("general", "triangular"), "expected a first line such as"),
    ],
)
def test_a_bad_header_is_named(text, said, tmp_path):
    with pytest.raises(SourceError, match=said):
        convert(tmp_path, text)
    assert_nothing_left(tmp_path)


def test_a_packed_file_that_is_cut_short(tmp_path):
    scipy.io.mmwrite(tmp_path / "A.mtx", triplets(), symmetry="general")
    whole = gzip.compress((tmp_path / "A.mtx").read_bytes())
    with pytest.raises(DataError, match="is damaged or cut short after line"):
        convert(tmp_path, whole[: len(whole) // 2], "A.mtx.gz")
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize("kind", ["real", "integer", "complex", "pattern", "unsigned-integer"])
@pytest.mark.parametrize("symmetry", ["general", "symmetric", "skew-symmetric", "hermitian"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_matrix_market_is_read_as_scipy_does(kind, symmetry, ends, tmp_path, monkeypatch):
    if symmetry == "hermitian" and kind != "complex":
        pytest.skip("there is no such matrix")
    if symmetry == "skew-symmetric" and kind in ("pattern", "unsigned-integer"):
        pytest.skip("there is no such matrix")
    monkeypatch.setattr(matrix_market, "BLOCK_BYTES", 200)
    monkeypatch.setattr(running, "CAPACITY_BYTES", 1000)
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(100):
        i, j = sorted(rng.integers(1, 21, 2).tolist(), reverse=True)
        if symmetry in ("skew-symmetric", "hermitian") and i == j:
            continue
        values = {"pattern": "", "complex": f"{rng.integers(9)} -{rng.integers(9)}"}
        lines.append(f"{i} {j} {values.get(kind, rng.integers(9))}".strip())
    lines[50:50] = ["", "   "]
    head = f"%%MatrixMarket Matrix Coordinate {kind.title()} {symmetry}"
    body = [head, "%", "% c", f"20 20 {len(lines) - 2}", *lines]
    convert(tmp_path, ends.join(body))
    (tmp_path / "B.mtx").write_text("\n".join(line for line in body if line.strip()))
    assert_is(tmp_path / "out.zarr", scipy.io.mmread(tmp_path / "B.mtx", spmatrix=False).tocsr())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"row": np.full(900, 70)}, r"row indices from 0 to 69, got 70 in entry 0"),
        ({"col": np.full(900, -1)}, r"column indices from 0 to 39, got -1 in entry 0"),
        (
            {"row": np.zeros(899, int)},
            "as many integer indices as values, got 900 float64 data, 899",
        ),
        ({"row": np.zeros(900)}, "as many integer indices as values"),
        ({"data": np.zeros((900, 1))}, "'data' to be one-dimensional numbers"),
        ({"data": np.full(900, "x")}, "expected entries of type"),
    ],
)
def test_three_arrays_that_do_not_fit(changes, said, tmp_path):
    A = triplets()
    parts = {"data": A.data, "row": A.row, "col": A.col, "shape": A.shape} | changes
    np.savez(tmp_path / "A.npz", **parts)
    with pytest.raises(DataError, match=said):
        bigspec.convert(tmp_path / "A.npz", tmp_path / "out.zarr")
    assert_nothing_left(tmp_path)


def test_npz_pointers_that_point_outside(tmp_path):
    A = triplets().tocsr()
    for place, value in ((0, 1), (5, 0), (-1, 10**6), (-1, A.nnz - 1)):
        indptr = A.indptr.copy()
        indptr[place] = value
        np.savez(tmp_path / "A.npz", format=b"csr", shape=A.shape, data=A.data, indices=A.indices,
                 indptr=indptr)  # fmt: skip
        with pytest.raises(DataError, match="expected pointers that begin with 0, never decrease"):
            bigspec.convert(tmp_path / "A.npz", tmp_path / "out.zarr", format="csc")
        assert_nothing_left(tmp_path)


def test_pickled_objects_are_not_loaded(tmp_path):
    np.savez(tmp_path / "A.npz", data=np.array([print], object), row=[0], col=[0], shape=(1, 1))
    with pytest.raises(DataError, match="'data' to be one-dimensional numbers, got object"):
        bigspec.convert(tmp_path / "A.npz", tmp_path / "out.zarr")
    np.savez(tmp_path / "B.npz", format=np.array(print, object), shape=(1, 1))
    with pytest.raises(SourceError, match="expected a sparse matrix as scipy"):
        bigspec.convert(tmp_path / "B.npz", tmp_path / "out.zarr")


def test_a_damaged_npz(tmp_path):
    sp.save_npz(tmp_path / "A.npz", triplets(count=5000), compressed=True)
    whole = bytearray((tmp_path / "A.npz").read_bytes())
    place = whole.index(b"data.npy") + 2000
    whole[place : place + 200] = bytes(200)
    (tmp_path / "A.npz").write_bytes(whole)
    with pytest.raises(SourceError, match=r"'data' (is damaged|cannot be decompressed)"):
        bigspec.convert(tmp_path / "A.npz", tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()


# Arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "options", "kind", "said"),
    [
        (
            triplets(),
            {"format": "coo"},
            ArgumentError,
            "format: expected 'csr' or 'csc', got 'coo'",
        ),
        (triplets(), {"dtype": "float16"}, ArgumentError, "dtype: expected a type that SciPy sums"),
        (triplets(), {"dtype": "wide"}, ArgumentError, "dtype: expected a NumPy type"),
        (triplets(dtype="c16"), {"dtype": "f8"}, ArgumentError, "expected a complex type"),
        (triplets(), {"shape": (70, 40)}, ArgumentError, "shape: expected only beside"),
        (triplets(), {"memory_limit": "much"}, ArgumentError, "memory_limit: expected bytes"),
        (
            triplets(),
            {"scratch": "nowhere"},
            ArgumentError,
            "scratch: expected a folder that exists",
        ),
        (([1.0], ([0], [0])), {}, DataError, "shape: expected the shape of the matrix beside"),
        (
            ([1.0], ([0], [0, 1])),
            {"shape": (2, 2)},
            DataError,
            "expected three vectors of one leng",
        ),
        (np.eye(3), {}, DataError, "got a dense one, which stores all its .*csr_array"),
        ([[1, 2]], {}, UnsupportedTypeError, "expected a matrix, got list"),
        ("", {}, ArgumentError, "expected a path or URL, got an empty text"),
    ],
)
def test_arguments_are_checked_before_anything_is_written(source, options, kind, said, tmp_path):
    with pytest.raises(kind, match=said):
        bigspec.convert(source, tmp_path / "out.zarr", **options)
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize("kind", ["f8", "c16"])
def test_a_narrower_type_in_which_a_number_would_be_infinite(kind, tmp_path):
    A = triplets(dtype=kind)
    narrow = {"f8": "f4", "c16": "c8"}[kind]
    with pytest.raises(DataError, match=r"dtype: expected entries that .* holds, got .*e\+"):
        bigspec.convert(A * 1e40, tmp_path / "out.zarr", dtype=narrow)
    bigspec.convert(A, tmp_path / "B.zarr", dtype=narrow)
    assert_is(tmp_path / "B.zarr", A.astype(narrow).tocsr())


@pytest.mark.parametrize("place", ["s3://bucket/A.zarr", "A.zarr::/X", "A.zarr.zip", "no/A.zarr"])
def test_places_that_cannot_be_written_to(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match="dst: expected a"):
        bigspec.convert(triplets(), place)


def test_a_row_longer_than_the_memory(tmp_path):
    bigspec.convert(triplets(count=5000), tmp_path / "A.zarr")
    with pytest.raises(MemoryLimitError, match="whose longest row or column is read at once"):
        bigspec.convert(tmp_path / "A.zarr", tmp_path / "out.zarr", memory_limit=45_000)
    assert_nothing_left(tmp_path)


def test_what_lies_there_is_replaced_only_if_asked_and_when_complete(tmp_path):
    A, B = triplets(seed=1), triplets(seed=2)
    bigspec.convert(A, tmp_path / "out.zarr")
    with pytest.raises(
        ArgumentError, match=r"expected a new place, got .*which exists.*--overwrite"
    ):
        bigspec.convert(B, tmp_path / "out.zarr")
    with pytest.raises(DataError):
        convert(tmp_path, HEAD + "1 1 x\n", overwrite=True)
    assert_is(tmp_path / "out.zarr", A.tocsr())
    bigspec.convert(B, tmp_path / "out.zarr", overwrite=True)
    assert_is(tmp_path / "out.zarr", B.tocsr())
    assert [path.name for path in tmp_path.glob("out*")] == ["out.zarr"]


# Trouble on the way --------------------------------------------------------------------------


def fail_at(monkeypatch, number, error):
    """Let the k-th block that is written fail."""
    put, count = writing.GroupWriter.put, iter(range(10**6))

    def failing(*arguments):
        if next(count) == number:
            raise error
        put(*arguments)

    monkeypatch.setattr(writing.GroupWriter, "put", failing)


def test_a_full_disk_keeps_what_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "CAPACITY_BYTES", 2000)
    A = triplets()
    with monkeypatch.context() as patch:
        fail_at(patch, 3, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(DestinationError, match=r"No space left.* is in .*out.zarr.partial: ma"):
            bigspec.convert(A, tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()
    done = json.loads((tmp_path / "out.zarr.partial/progress.json").read_text())
    assert done["position"] > 0
    with pytest.raises(ResumeError, match=r"got other work \(source was .*format was csr, is csc"):
        bigspec.convert(triplets(seed=9), tmp_path / "out.zarr", format="csc")
    bigspec.convert(A, tmp_path / "out.zarr")
    assert_is(tmp_path / "out.zarr", A.tocsr())


def test_interrupted_it_says_where_it_goes_on(tmp_path, monkeypatch):
    A = triplets()
    with monkeypatch.context() as patch:
        fail_at(patch, 0, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt) as caught:
            bigspec.convert(A, tmp_path / "out.zarr", scratch=tmp_path)
    assert caught.value.saved.endswith("out.zarr.partial")
    assert len(list(tmp_path.glob("bigspec-*"))) == 1
    bigspec.convert(A, tmp_path / "out.zarr", scratch=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]


def test_two_at_once(tmp_path):
    class Second(bigspec.watch.Observer):
        def stage_started(self, stage, entries):
            with pytest.raises(
                CheckpointInUseError, match="another process converts to this place"
            ):
                bigspec.convert(triplets(), tmp_path / "out.zarr")

    bigspec.convert(triplets(), tmp_path / "out.zarr", progress=Second())
    assert_is(tmp_path / "out.zarr", triplets().tocsr())


def test_memory_does_not_grow_with_the_matrix(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "CHUNK", 4096)
    limit = 2 << 20
    rng = np.random.default_rng(0)
    peaks = []
    for count in (200_000, 800_000):
        rows, columns = (rng.integers(0, 3000, count) for _ in range(2))
        np.savez(tmp_path / "A.npz", data=np.ones(count), row=rows, col=columns, shape=(3000, 3000))
        with traced_peak() as peak:
            bigspec.convert(tmp_path / "A.npz", tmp_path / f"{count}.zarr", memory_limit=limit)
        peaks += peak
    assert 2 * limit < 24 * 200_000
    # How many chunks are on their way at once differs from run to run; the bound does not.
    assert max(peaks) < limit + 20 * 8 * writing.CHUNK < 24 * 200_000


# Command line --------------------------------------------------------------------------------


def test_the_command(tmp_path):
    scipy.io.mmwrite(tmp_path / "A.mtx", triplets(), symmetry="general")
    command = ["convert", str(tmp_path / "A.mtx"), str(tmp_path / "out.zarr"), "--format", "csc"]
    done = CliRunner().invoke(main, [*command, "--json", "-", "--memory-limit", "64MiB"])
    assert done.exit_code == 0
    data = json.loads(done.stdout)
    assert data["schema"] == "bigspec.conversion/1"
    assert data["read"] == 900 > data["stored"]
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    text = CliRunner().invoke(main, [*command, "--overwrite", "--quiet"])
    assert "compressed columns" in text.stdout
    assert "duplicates summed" in text.stdout


def test_norm_of_a_file_that_does_not_fit_points_here(tmp_path):
    head = "%%MatrixMarket matrix coordinate real symmetric\n% big\n"
    (tmp_path / "A.mtx").write_text(head + "9999999 9999999 999999999999\n")
    for call in (bigspec.norm, bigspec.plan, lambda a: bigspec.norm(a, memory_limit="1GiB")):
        with pytest.raises(MemoryLimitError, match=r"for loading .*bigspec convert .*A.mtx A.zarr"):
            call(tmp_path / "A.mtx")


@pytest.mark.parametrize("end", ["", " ", " \r", "\n"])
def test_a_last_line_without_an_end(end, tmp_path):
    """SciPy's reader ends the process at some of these, if it is given the file as it is."""
    convert(tmp_path, HEAD + "1 1 1\n2 2 5" + end)
    expected = sp.csr_array(([1.0, 5.0], ([0, 1], [0, 1])), shape=(3, 4))
    assert_is(tmp_path / "out.zarr", expected)
    assert bigspec.norm(tmp_path / "A.mtx").value == pytest.approx(5)
