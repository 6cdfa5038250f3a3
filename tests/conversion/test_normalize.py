"""A matrix divided by its norm: the norm of what was written, in every form; kills; refusals."""

import json
import signal

import dask.array as da
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.numpy import save_file

import bigspec
from bigspec.cli import main
from bigspec.conversion import scaling, sinks
from bigspec.conversion.scaling import DenseCopy
from bigspec.errors import (
    ArgumentError,
    BigspecError,
    DataError,
    MatrixChangedError,
    MemoryLimitError,
    NonFiniteError,
    UnsupportedTypeError,
)
from tests.conversion.test_kills import contents
from tests.representations import REPRESENTATIONS, cannot


def matrix(dtype="f8", shape=(50, 30), seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind in "iu":
        return rng.integers(0, 100, shape).astype(dtype)
    A = rng.standard_normal(shape) * (rng.random(shape) < 0.4)
    return (A + 1j * rng.standard_normal(shape) * (A != 0) if dtype == "c16" else A).astype(dtype)


def norm(A):
    return float(np.linalg.norm(A.astype(np.result_type(A.dtype, "f8")), 2))


def entries(place):
    """What was written, by other readers than bigspec's."""
    if str(place).endswith(".safetensors"):
        with safe_open(place, "np") as file:
            (name,) = file.keys()
            return file.get_tensor(name)
    node = zarr.open(place, mode="r")
    if isinstance(node, zarr.Array):
        return node[...]
    kind = sp.csr_array if node.attrs["encoding-type"] == "csr_matrix" else sp.csc_array
    parts = (node[part][...] for part in ("data", "indices", "indptr"))
    return kind(tuple(parts), shape=node.attrs["shape"]).toarray()


FORMS = {name: make for name, make in REPRESENTATIONS.items() if name != "LinearOperator"}
SPARSE_CHUNKS = {name for name in FORMS if name.startswith("dask of")}


@pytest.mark.parametrize("name", sorted(FORMS))
def test_every_source_that_has_entries_is_brought_to_norm_one(name, tmp_path):
    A = matrix("f4")
    assert cannot(name, A) is None
    source = FORMS[name](A, tmp_path)
    if name in SPARSE_CHUNKS:
        with pytest.raises(DataError, match="dense chunks that can be computed again"):
            bigspec.normalize(source, tmp_path / "B.zarr")
        return
    done = bigspec.normalize(source, tmp_path / "B.zarr", seed=1)
    B = entries(tmp_path / "B.zarr")
    assert done.lower <= norm(B) <= done.upper <= 1.0
    assert norm(B) >= 0.999
    unit = np.finfo(np.dtype(done.dtype)).eps
    if name != "netCDF, flattened":  # whose rows are in another order
        exact = A.astype(np.float64) * done.factor
        np.testing.assert_allclose(B, exact, rtol=2 * unit, atol=0)
    assert done.format == ("zarr" if isinstance(zarr.open(done.destination), zarr.Array) else (
        zarr.open(done.destination).attrs["encoding-type"].split("_")[0]))  # fmt: skip
    assert done.source_lower * (1 - 1e-14) <= norm(A) <= done.source_upper * (1 + 1e-14)


@pytest.mark.parametrize("by", ["upper", "lower"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("form", ["zarr", "safetensors"])
def test_the_promise_holds_for_what_is_stored_in_each_type(form, dtype, by, tmp_path):
    if (form, dtype) == ("safetensors", "complex128"):
        with pytest.raises(ArgumentError, match=r"dtype: expected float16, .* got complex128"):
            bigspec.normalize(matrix("c16"), tmp_path / "B.safetensors", dtype=dtype)
        return
    A = matrix("c16" if dtype.startswith("c") else "f8")
    place = tmp_path / f"B.{form}"
    done = bigspec.normalize(A, place, to=0.7, by=by, dtype=dtype, name="layer.0")
    B = entries(place)
    assert B.dtype == dtype
    assert done.lower <= norm(B) <= done.upper * (1 + 1e-15)
    assert (norm(B) <= 0.7 * (1 + 1e-15)) if by == "upper" else (norm(B) >= 0.7 * (1 - 1e-15))
    assert done.upper / done.lower < (1.01 if dtype == "float16" else 1.001 + 1e-4)


@pytest.mark.parametrize(("stored", "written"), [("u1", "<f4"), ("i2", "<f4"), ("i8", "<f8")])
def test_integers_become_floating(stored, written, tmp_path):
    done = bigspec.normalize(matrix(stored), tmp_path / "B.zarr")
    assert done.dtype == written
    assert 0.999 <= norm(entries(tmp_path / "B.zarr")) <= 1.0


def test_the_interval_lies_beside_the_entries(tmp_path):
    A = matrix("f4")
    bigspec.normalize(A, tmp_path / "B.zarr")
    bigspec.normalize(sp.csc_array(A), tmp_path / "C.zarr")
    bigspec.normalize(A, tmp_path / "D.safetensors")
    with safe_open(tmp_path / "D.safetensors", "np") as file:
        notes = [json.loads(file.metadata()["bigspec"])]
    notes += [dict(zarr.open(tmp_path / f"{x}.zarr").attrs)["bigspec"] for x in "BC"]
    for note in notes:
        assert note["schema"] == "bigspec.normal/1"
        assert note["source_lower"] <= norm(A) * (1 + 1e-12)
        assert norm(A) <= note["source_upper"] * (1 + 1e-12)
        assert note["to"] == 1.0
        assert 0.999 < note["lower"] <= note["upper"] <= 1.0


def test_a_sum_and_a_centred_sparse_matrix_are_written_out(tmp_path):
    A, B = matrix(seed=1), matrix(seed=2)
    made = bigspec.open_matrix(A) - bigspec.open_matrix(B)
    done = bigspec.normalize(made, tmp_path / "C.zarr")
    np.testing.assert_allclose(entries(tmp_path / "C.zarr"), (A - B) * done.factor, rtol=1e-14)
    centred = bigspec.centered(sp.csr_array(A))
    done = bigspec.normalize(centred, tmp_path / "D.zarr")
    exact = (A - A.mean(axis=0)) * done.factor
    np.testing.assert_allclose(entries(tmp_path / "D.zarr"), exact, rtol=1e-9, atol=1e-15)
    made = bigspec.open_matrix(sp.csr_array(A)) - bigspec.open_matrix(sp.csr_array(B))
    with pytest.raises(UnsupportedTypeError, match="a sum of sparse ones; store the sum"):
        bigspec.normalize(made, tmp_path / "E.zarr")


def test_chunks_stay_and_blocks_fit_the_memory(tmp_path, monkeypatch):
    A = matrix("f4", (90, 70))
    source = zarr.create_array(tmp_path / "A.zarr", shape=A.shape, dtype="f4", chunks=(20, 32))
    source[...] = A
    monkeypatch.setattr(scaling, "BLOCK_BYTES", 20 * 32 * 8)
    sizes, put = [], sinks.ArraySink.put

    def recorded(self, rows, columns, values):
        sizes.append(values.size)
        put(self, rows, columns, values)

    monkeypatch.setattr(sinks.ArraySink, "put", recorded)
    done = bigspec.normalize(source, tmp_path / "B.zarr")
    assert zarr.open_array(tmp_path / "B.zarr").chunks == (20, 32)
    assert max(sizes) <= 20 * 32
    assert sum(sizes) == A.size
    np.testing.assert_allclose(entries(done.destination), A * done.factor, rtol=1e-6)
    opened = bigspec.open_matrix(source)
    with pytest.raises(MemoryLimitError, match=r"expected at least 30\.0 KiB to copy chunks of"):
        DenseCopy(opened, None, sinks.ArraySink(
            tmp_path / "C.zarr", A.shape, (20, 32), np.dtype("f4"), {}, begin=True
        ), 1000, 2)  # fmt: skip


@pytest.mark.parametrize("kind", ["array", "csr", "csc"])
def test_in_place_the_new_one_takes_the_place_of_the_old(kind, tmp_path):
    A, place = matrix(), tmp_path / "A.zarr"
    if kind == "array":
        held = zarr.create_array(place, data=A, chunks=(20, 30), attributes={"units": "m"})
        assert held.chunks == (20, 30)
    else:
        bigspec.convert(sp.csr_array(A), place, format=kind)
    with pytest.raises(ArgumentError, match=r"another place than the source, got .*in_place=True"):
        bigspec.normalize(place, place, overwrite=True)
    done = bigspec.normalize(place, in_place=True)
    np.testing.assert_allclose(entries(place), A * done.factor, rtol=1e-15)
    assert [path.name for path in tmp_path.iterdir()] == ["A.zarr"]
    if kind == "array":
        assert zarr.open_array(place).attrs["units"] == "m"
    again = bigspec.normalize(place, to=2.0, in_place=True)
    assert again.upper <= 2.0
    assert norm(entries(place)) <= 2.0


def test_in_place_nothing_that_lies_beside_is_lost(tmp_path):
    A = matrix()
    bigspec.convert(sp.csr_array(A), tmp_path / "A.zarr")
    zarr.open_group(tmp_path / "A.zarr").create_array("row_ids", data=np.arange(50))
    zarr.create_array(tmp_path / "P.zarr", data=A, attributes={"scale_factor": 2.0})
    zarr.create_group(tmp_path / "G.zarr").create_array("X", data=A)
    np.save(tmp_path / "A.npy", A)
    whole = contents(tmp_path)
    for source, why in [
        (tmp_path / "A.zarr", "nothing else in it .*row_ids"),
        (tmp_path / "P.zarr", "without the attribute scale_factor"),
        (f"{tmp_path}/G.zarr::/X", "a store of its own"),
        (tmp_path / "A.npy", "a store of its own"),
        (A, "a path on this machine|a store of its own"),
    ]:
        with pytest.raises(ArgumentError, match=why):
            bigspec.normalize(source, in_place=True)
    with pytest.raises(ArgumentError, match="leave one of them out"):
        bigspec.normalize(tmp_path / "A.zarr", tmp_path / "B.zarr", in_place=True)
    with pytest.raises(ArgumentError, match="rows: expected None beside in_place"):
        bigspec.normalize(tmp_path / "A.zarr", rows="x", in_place=True)
    assert contents(tmp_path) == whole


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        (np.zeros((4, 3)), {}, DataError, "entries are all zero"),
        (np.array([[1.0, np.nan]]), {}, NonFiniteError, "nan|NaN"),
        (np.eye(3), {"to": 0.0}, ArgumentError, "to: expected a positive, finite norm, got 0.0"),
        (np.eye(3), {"to": np.inf}, ArgumentError, "to: expected a positive, finite norm"),
        (np.eye(3), {"to": True}, ArgumentError, "to: expected a positive, finite norm"),
        (np.eye(3), {"by": "value"}, ArgumentError, "by: expected 'upper' .*, got 'value'"),
        (np.eye(3), {"dtype": "int8"}, ArgumentError, "dtype: expected one of float16, .* got i"),
        (np.eye(3), {"dtype": "wide"}, ArgumentError, "dtype: expected a NumPy type .* 'wide'"),
        (np.eye(3) * 1j, {"dtype": "f4"}, ArgumentError, "a complex type for complex128 entries"),
        (np.eye(3), {"dtype": "f2", "to": 1e-9}, ArgumentError, "to: expected a norm that this"),
        (sp.eye_array(3).tocsr(), {"dtype": "f2"}, ArgumentError, "dtype: expected one of float32"),
        (REPRESENTATIONS["LinearOperator"](np.eye(3), None), {}, UnsupportedTypeError, "operator"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_says_why_and_leaves_nothing(source, options, error, message, tmp_path):
    with pytest.raises(error, match=message) as caught:
        bigspec.normalize(source, tmp_path / "B.zarr", **options)
    assert list(tmp_path.iterdir()) == []
    # The run inside saves as it goes, and what it saved is gone with the work.
    assert caught.value.saved is None
    assert not getattr(caught.value, "__notes__", [])


def test_a_place_that_is_taken_is_not_replaced_without_a_word(tmp_path):
    (tmp_path / "B.zarr").mkdir()
    (tmp_path / "C.safetensors").write_text("weights")
    (tmp_path / "D.safetensors").mkdir()
    for name in ("B.zarr", "C.safetensors"):
        with pytest.raises(ArgumentError, match="dst: expected a new place"):
            bigspec.normalize(np.eye(3), tmp_path / name)
    with pytest.raises(ArgumentError, match=r"expected a file to replace, got .*, which is a fol"):
        bigspec.normalize(np.eye(3), tmp_path / "D.safetensors", overwrite=True)
    with pytest.raises(ArgumentError, match="dst: expected a place to write to, got None"):
        bigspec.normalize(np.eye(3))
    with pytest.raises(UnsupportedTypeError, match="expected a dense matrix for a file of safete"):
        bigspec.normalize(sp.eye_array(3).tocsr(), tmp_path / "E.safetensors")
    with pytest.raises(ArgumentError, match="name: expected the name of a tensor, got '__meta"):
        bigspec.normalize(np.eye(3), tmp_path / "E.safetensors", name="__metadata__")
    done = bigspec.normalize(np.eye(3), tmp_path / "C.safetensors", overwrite=True)
    assert done.bytes_written == (tmp_path / "C.safetensors").stat().st_size
    assert 0.999 < norm(entries(tmp_path / "C.safetensors")) <= 1.0


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_a_matrix_that_changes_before_the_copy_is_not_written(form, tmp_path, monkeypatch):
    A = matrix("f4")
    source = A if form == "dense" else sp.csr_array(A)
    made = bigspec.conversion.normal._certify

    def then_changed(*args):
        made(*args)
        values = A if form == "dense" else source.data
        values *= np.float32(1.001)

    monkeypatch.setattr("bigspec.conversion.normal._certify", then_changed)
    with pytest.raises(MatrixChangedError, match="expected the matrix whose norm was computed"):
        bigspec.normalize(source, tmp_path / "B.zarr")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["zarr", "safetensors", "sparse", "network"])
def test_killed_again_and_again_it_goes_on_to_the_same_bytes(form, child, tmp_path):
    A, source = matrix("f4", (120, 60)), tmp_path / "A.zarr"
    command = "model" if form == "network" else "normalize"
    if form == "network":
        source = tmp_path / "A.safetensors"
        save_file({"a.weight": A, "bias": A[0], "b.weight": A[:30]}, source)
    elif form == "sparse":
        bigspec.convert(sp.csr_array(A), source)
    else:
        zarr.create_array(source, data=A, chunks=(30, 25))
    ending = ".safetensors" if form in ("safetensors", "network") else ".zarr"
    whole, place = tmp_path / f"whole{ending}", tmp_path / f"B{ending}"
    assert child(0, source, whole, command) == 0
    count = int((tmp_path / "whole.count").read_text())
    for at in (1, 3, count // 3, count // 4, 6):
        assert child(at, source, place, command) == -signal.SIGKILL
        assert not place.exists()
    assert child(0, source, place, command) == 0
    if place.is_file():
        assert place.read_bytes() == whole.read_bytes()
    else:
        assert contents(place) == contents(whole)
    assert not place.with_name(f"{place.name}.partial").exists()


def test_a_file_holds_none_of_its_pages_after_each_few_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "BLOCK_BYTES", 4000)
    maps, mapped = [], np.memmap

    def recorded(*args):
        maps.append(mapped(*args))
        return maps[-1]

    monkeypatch.setattr(sinks.np, "memmap", recorded)
    source = zarr.create_array(tmp_path / "A.zarr", data=matrix("f4", (120, 60)), chunks=(30, 25))
    bigspec.normalize(source, tmp_path / "B.safetensors")
    assert len(maps) >= 3  # one at the start, and one after each few blocks
    assert len({id(one) for one in maps}) == len(maps)


def test_other_work_in_progress_is_not_mixed_with_this_one(tmp_path, monkeypatch):
    def fails(*_):
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(DenseCopy, "_copy", fails)
        with pytest.raises(ConnectionError):
            bigspec.normalize(matrix(), tmp_path / "B.zarr")
    with pytest.raises(BigspecError, match="got other work"):
        bigspec.normalize(matrix(seed=3), tmp_path / "B.zarr")
    bigspec.normalize(matrix(seed=3), tmp_path / "B.zarr", overwrite=True)
    assert 0.999 < norm(entries(tmp_path / "B.zarr")) <= 1.0


def test_the_command_writes_and_tells(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zarr.create_array("A.zarr", data=matrix())

    def command(*args):
        return CliRunner().invoke(main, ["normalize", *args, "--quiet"])

    done = command("A.zarr", "B.zarr", "--to", "0.5", "--json", "-")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["schema"] == "bigspec.normalization/1"
    assert told["lower"] <= norm(entries("B.zarr")) <= told["upper"] <= 0.5
    done = command("A.zarr", "--in-place", "--by", "lower")
    assert done.exit_code == 0, done.output
    assert "at least 1.0" in done.stdout
    assert norm(entries("A.zarr")) >= 1 - 1e-15
    assert command("A.zarr").exit_code == 2
    assert command("A.zarr", "A.zarr").exit_code == 2
    assert command("A.zarr", "--in-place", "--raw").exit_code == 2
    with h5py.File("A.h5", "w") as file:
        file["W"] = matrix("f4")
    done = command("A.h5::/W", "W.safetensors", "--missing-chunks", "error")
    assert done.exit_code == 0, done.output
    assert norm(entries("W.safetensors")) <= 1.0


def test_a_dask_array_is_computed_block_by_block(tmp_path):
    A = matrix()
    done = bigspec.normalize(da.from_array(A, chunks=(20, 7)), tmp_path / "B.zarr")
    np.testing.assert_allclose(entries(tmp_path / "B.zarr"), A * done.factor, rtol=1e-15)


@pytest.mark.parametrize("to", [1e200, 1e308, 1e-200])
@pytest.mark.parametrize("make", [np.asarray, sp.csr_array])
def test_a_norm_whose_square_is_no_number_is_reached(make, to, tmp_path):
    found = bigspec.normalize(make(matrix()), tmp_path / "B.zarr", to=to, seed=1)
    with np.errstate(under="ignore"):
        exact = norm(entries(tmp_path / "B.zarr") / to) * to
    assert to * (1 - 1e-6) < found.lower <= exact * (1 + 1e-12) <= found.upper * (1 + 2e-12)


@pytest.mark.parametrize(("to", "dtype"), [(1e39, "float32"), (1e6, "float16")])
def test_an_entry_that_the_type_cannot_hold_is_refused(to, dtype, tmp_path):
    with pytest.raises(ArgumentError, match=f"got {dtype}, whose largest number"):
        bigspec.normalize(np.diag([1.0, 2.0, 3.0]), tmp_path / "B.zarr", to=to, dtype=dtype, seed=1)
    assert not (tmp_path / "B.zarr").exists()


@pytest.mark.parametrize("form", [2, 3])
def test_nothing_that_lies_in_the_folder_of_a_matrix_is_lost(form, tmp_path):
    place = tmp_path / "A.zarr"
    zarr.create_array(place, data=matrix(), chunks=(20, 30), zarr_format=form)
    with pytest.raises(ArgumentError, match="dst: expected a place outside of the source"):
        bigspec.normalize(place, place / "B.zarr")
    (place / "notes.txt").write_text("mine")
    with pytest.raises(ArgumentError, match=r"not one beside notes.txt"):
        bigspec.normalize(place, in_place=True)
    (place / "notes.txt").unlink()
    assert bigspec.normalize(place, in_place=True, seed=1).upper <= 1
