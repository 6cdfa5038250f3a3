"""npz, npy, Zarr groups, HDF5 and Keras files: each array a tensor, checked as elsewhere."""

import io
import json
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest
import scipy.sparse as sp
import zarr

from bigspec.errors import (
    ArgumentError,
    ChunkError,
    DataError,
    MemoryLimitError,
    MissingSourceError,
    SourceError,
)
from bigspec.networks.formats import open_model
from tests.networks.formats import writers

A = np.arange(6, dtype="f4").reshape(2, 3)


def npy(array, cut=None, **header):
    """The bytes of an .npy, whose header may say something else."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": array.shape} | header
    )
    return (file.getvalue() + array.tobytes())[:cut]


def archive(path, members, packing=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", packing) as file:
        for name, raw in members.items():
            file.writestr(name, raw)
    return path


def read(path, name=None):
    model = open_model(path)
    return (model[name] if name else next(iter(model.values()))).read()


def failure(path, name=None):
    with pytest.raises((SourceError, DataError, ChunkError)) as caught:
        read(path, name)
    return str(caught.value).removeprefix(f"{path}: ")


# NumPy -------------------------------------------------------------------------------------------


def test_objects_and_texts_are_rows_with_a_reason(tmp_path):
    np.savez(tmp_path / "m.npz", o=np.asarray([{}], object), s=np.asarray(["x"]), a=A)
    model = open_model(tmp_path / "m.npz")
    assert model["o"].refusal == "it holds pickled Python objects, which are never loaded"
    assert model["s"].refusal.startswith("s: expected entries of type bool, int, float")
    assert failure(tmp_path / "m.npz", "o") == (
        "tensor 'o' has no numbers to read: it holds pickled Python objects, which are never loaded"
    )
    np.testing.assert_array_equal(model["a"].read(), A)
    np.save(tmp_path / "o.npy", np.asarray([{}], object))
    assert open_model(tmp_path / "o.npy")["o"].refusal == model["o"].refusal


def test_a_sparse_matrix_is_no_network(tmp_path):
    sp.save_npz(tmp_path / "m.npz", sp.csr_array(A))
    assert failure(tmp_path / "m.npz") == (
        "expected the arrays of a network, got one sparse matrix by SciPy; bigspec norm takes that"
    )


SHORT = "it was cut short, or its header is wrong: copy it again"
NUMPY = {
    "a shape of 2^60": (npy(A, shape=(1 << 60,)), f"expected tensor 'm' at bytes 128 to {128 + (1 << 62)}, got a file of 152 bytes; {SHORT}"),
    "a shape of 2^80": (npy(A, shape=(1 << 40, 1 << 40)), "expected a shape of whole lengths from 0 on, whose product fits 62 bits, for tensor 'm', got [1099511627776, 1099511627776]"),
    "a negative shape": (npy(A, shape=(-2, 3)), "expected a shape of whole lengths from 0 on, whose product fits 62 bits, for tensor 'm', got [-2, 3]"),
    "cut short": (npy(A, -1), f"expected tensor 'm' at bytes 128 to 152, got a file of 151 bytes; {SHORT}"),
    "cut in the header": (npy(A, 50), "the header of tensor 'm' cannot be read (EOF: reading array header, expected 118 bytes got 40); write it again"),
    "many brackets": (npy(A).replace(b"'shape': (2, 3), }", b"'shape': " + b"(" * 9), None),
}  # fmt: skip


@pytest.mark.parametrize("case", NUMPY.values(), ids=NUMPY)
def test_an_array_file_that_lies(case, tmp_path):
    raw, said = case
    (tmp_path / "m.npy").write_bytes(raw)
    got = failure(tmp_path / "m.npy")
    assert got == said if said else "the header of tensor 'm' cannot be read" in got


def test_an_archive_that_lies(tmp_path):
    path = tmp_path / "m.npz"
    for raw, said in [
        (npy(A, shape=(1 << 40,)), f"expected {1 << 42} bytes in 'm.npy' for float32 ({1 << 40},), got a member of {{}} packed bytes, which cannot hold them; write it again"),
        (npy(A, shape=(2, 4)), "expected 160 bytes in the member of tensor 'm', of shape (2, 4) and type float32, got 152; write it again"),
        (npy(A, shape=(2, 2)), "expected 144 bytes in the member of tensor 'm', of shape (2, 2) and type float32, got 152; write it again"),
    ]:  # fmt: skip
        for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            with zipfile.ZipFile(archive(path, {"m.npy": raw}, packing)) as made:
                size = made.infolist()[0].compress_size
            assert failure(path) == said.format(size)


def test_a_bomb_is_not_unpacked(tmp_path):
    """A megabyte that unpacks to a gigabyte, and says so: only what the header needs is unpacked."""
    raw = npy(A, shape=(1 << 28,)) + bytes(1 << 26)
    path = archive(tmp_path / "m.npz", {"m.npy": raw}, zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    size = len(raw).to_bytes(4, "little")
    path.write_bytes(data.replace(size, (128 + (1 << 30)).to_bytes(4, "little")))
    assert "which they cannot; it is damaged" in failure(path)


def test_a_damaged_member(tmp_path):
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = archive(tmp_path / "m.npz", {"m.npy": npy(A)}, packing)
        raw = bytearray(path.read_bytes())
        raw[60] ^= 0xFF
        path.write_bytes(raw)
        said = failure(path)
        assert "checksum of the member 'm.npy' is wrong" in said or "cannot be unpacked" in said
    path = archive(tmp_path / "m.npz", {"m.npy": npy(A)}, zipfile.ZIP_LZMA)
    assert (
        failure(path) == "expected the member 'm.npy' stored or deflated, got another compression"
    )


def test_a_directory_that_points_elsewhere(tmp_path):
    path = archive(tmp_path / "m.npz", {"a.npy": npy(A), "b.npy": npy(A + 1)})
    raw = path.read_bytes()
    place = raw.rindex(b"PK\x01\x02") + 42  # of the second member's header
    path.write_bytes(raw[:place] + bytes(4) + raw[place + 4 :])
    assert failure(path) == (
        "expected the member 'b.npy' at byte 0, as its directory says, got something else there; "
        "it is damaged: copy it again"
    )
    path.write_bytes(raw[:-30])
    assert failure(path).startswith("its list of members, at its end, cannot be read (")


def test_a_member_twice(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as file:
        file.writestr("a.npy", npy(A))
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("a.npy", npy(A + 1))
    assert failure(tmp_path / "m.npz") == "it has two members called 'a.npy'; write it again"


# Zarr --------------------------------------------------------------------------------------------


def test_a_zarr_group_is_listed_by_path(tmp_path):
    for version in (2, 3):
        group = zarr.open_group(tmp_path / f"{version}.zarr", mode="w", zarr_format=version)
        group.create_group("enc").create_array("w", data=A, chunks=(1, 3))
        group.create_array("scale", data=np.asarray(2.5))
        model = open_model(tmp_path / f"{version}.zarr")
        assert set(model) == {"enc/w", "scale"}
        np.testing.assert_array_equal(model["enc/w"].read(), A)
        assert model["scale"].read() == 2.5
        assert len(model["scale"].token()) == 32
        inner = open_model(tmp_path / f"{version}.zarr" / "enc")
        assert list(inner) == ["w"]


def test_packed_arrays_are_unpacked_and_missing_values_are_an_error(tmp_path):
    group = zarr.open_group(tmp_path / "m.zarr", mode="w", zarr_format=2)
    array = group.create_array("w", data=np.int16([[1, 2], [3, 4]]))
    array.attrs.update({"scale_factor": 0.5, "add_offset": 1.0})
    assert open_model(tmp_path / "m.zarr")["w"].dtype == "float64"
    np.testing.assert_array_equal(open_model(tmp_path / "m.zarr")["w"].read(), [[1.5, 2], [2.5, 3]])
    array.attrs["missing_value"] = 3
    with pytest.raises(DataError) as caught:
        open_model(tmp_path / "m.zarr")["w"].read()
    assert str(caught.value) == (
        f"{tmp_path}/m.zarr/w: expected a value in every place, got a missing one at [1, 0]"
    )


def test_missing_chunks_hold_the_fill_value_or_are_an_error(tmp_path):
    group = zarr.open_group(tmp_path / "m.zarr", mode="w")
    group.create_array("w", shape=(4, 2), chunks=(2, 2), dtype="f4", fill_value=7)[:2] = 1
    tensor = open_model(tmp_path / "m.zarr")["w"]
    assert tensor.read()[3, 1] == 7
    assert tensor.missing_chunks == 1
    with pytest.raises(ChunkError, match="chunk c/1/0 is not in the store"):
        open_model(tmp_path / "m.zarr", missing_chunks="error")["w"].read()


def test_a_large_zarr_token_changes_with_its_last_chunk(tmp_path):
    group = zarr.open_group(tmp_path / "m.zarr", mode="w")
    array = group.create_array("w", shape=(600, 600), chunks=(100, 100), dtype="f4")
    array[:] = 1
    before = open_model(tmp_path / "m.zarr")["w"].token()
    assert before == open_model(tmp_path / "m.zarr")["w"].token()
    array[599, 599] = 2
    assert before != open_model(tmp_path / "m.zarr")["w"].token()


def test_a_codec_that_runs_code_is_refused(tmp_path):
    group = zarr.open_group(tmp_path / "m.zarr", mode="w", zarr_format=2)
    group.create_array("w", data=A, compressors=None)
    document = tmp_path / "m.zarr" / "w" / ".zarray"
    said = json.loads(document.read_text()) | {"filters": [{"id": "pickle"}]}
    document.write_text(json.dumps(said))
    with pytest.raises(SourceError, match="pickle"):
        open_model(tmp_path / "m.zarr")


def test_an_array_larger_than_the_memory_is_not_begun(tmp_path):
    group = zarr.open_group(tmp_path / "m.zarr", mode="w")
    group.create_array("w", shape=(1 << 40,), chunks=(1 << 10,), dtype="f4")
    tensor = open_model(tmp_path / "m.zarr")["w"]
    with pytest.raises(MemoryLimitError, match=r"m\.zarr/w: expected an array that fits in half"):
        tensor.read()


def test_a_zarr_group_behind_a_url_and_in_a_zip(tmp_path):
    with zarr.storage.ZipStore(tmp_path / "m.zarr.zip", mode="w") as store:
        zarr.open_group(store, mode="w").create_array("w", data=A)
    np.testing.assert_array_equal(open_model(tmp_path / "m.zarr.zip")["w"].read(), A)
    zarr.open_group("memory://nets/m.zarr", mode="w").create_array("w", data=A)
    np.testing.assert_array_equal(open_model("memory://nets/m.zarr")["w"].read(), A)


# HDF5 --------------------------------------------------------------------------------------------


def test_an_hdf5_file_is_listed_by_path_and_links_are_ties(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("model/fc/kernel", data=A, chunks=(1, 3), compression="gzip")
        file["model/tied"] = file["model/fc/kernel"]
        file["model/soft"] = h5py.SoftLink("/model/fc/kernel")
        file.create_dataset("step", data=3)
        file.create_dataset("name", data="x")
        brain = file.create_dataset("brain", data=np.asarray([1, 2], ml_dtypes.bfloat16))
        brain.attrs["dtype"] = "bfloat16"  # as Keras does
    model = open_model(tmp_path / "m.h5")
    assert set(model) == {
        "model/fc/kernel", "model/tied", "model/soft", "step", "name", "brain",
    }  # fmt: skip
    ties = {model[f"model/{name}"].storage for name in ("fc/kernel", "tied", "soft")}
    assert len(ties) == 1
    np.testing.assert_array_equal(model["model/soft"].read(), A)
    assert model["step"].read() == 3
    assert model["name"].refusal.startswith(f"{tmp_path}/m.h5::/name: expected entries of type")
    assert model["brain"].dtype == "bfloat16"
    np.testing.assert_array_equal(model["brain"].read().astype("f4"), [1, 2])


def test_a_place_inside_a_file_is_no_network(tmp_path):
    path = writers.write_hdf5(tmp_path / "m.h5", {"a": A})
    with pytest.raises(SourceError) as caught:
        open_model(f"{path}::/a")
    assert str(caught.value) == (
        f"{path}::/a: expected a network as a whole, got a place inside a file; open the file, and "
        "take those of its tensors whose names begin with that place"
    )


def test_links_that_lead_out_or_nowhere_or_round(tmp_path):
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file["out"] = h5py.ExternalLink("/etc/secret.h5", "/x")
    assert failure(path) == (
        "out is a link to another file, /etc/secret.h5, which is not followed; take that file, or "
        "copy what it holds into this one"
    )
    with h5py.File(path, "w") as file:
        file["no"] = h5py.SoftLink("/nothing")
    assert failure(path) == "no is a link to /nothing, which is not there"
    with h5py.File(path, "w") as file:
        file["round"] = file["/"]
    assert failure(path) == (
        "expected at most 100000 arrays in 32 levels of groups, got more; does a link make a "
        "circle?"
    )
    h5py.File(path, "w").close()
    assert failure(path) == "expected arrays, got a store without one"


def test_a_file_may_be_listed_again_while_it_is_read(tmp_path):
    path = writers.write_hdf5(tmp_path / "m.h5", {"a": A, "b": A + 1})
    first = open_model(path)
    first["a"].read()
    second = open_model(path)
    np.testing.assert_array_equal(first["a"].read(), A)
    np.testing.assert_array_equal(second["b"].read(), A + 1)


def test_damaged_hdf5(tmp_path):
    path = writers.write_hdf5(tmp_path / "m.h5", {"a": A})
    path.write_bytes(path.read_bytes()[:300])
    assert "expected an HDF5 file, got one that h5py cannot open" in failure(path)


def test_a_keras_archive_says_what_to_do(tmp_path):
    path = archive(tmp_path / "m.keras", {"config.json": "{}", "model.weights.h5": b"x"})
    assert failure(path) == (
        "expected the weights of a Keras archive as a file; take them out: unzip it, and open "
        "model.weights.h5"
    )


# What else lies there ------------------------------------------------------------------------------


def test_anything_else_is_told_what_is_accepted(tmp_path):
    kinds = (
        "a safetensors file, an index of shards (*.index.json), a folder of shards, a PyTorch file "
        "(.pt, .pth, .bin, .ckpt), an ONNX, GGUF, .npz or .npy file, a Zarr group, or an HDF5 or "
        "Keras .h5 file"
    )
    (tmp_path / "x.bin").write_bytes(b"hello there")
    (tmp_path / "y.bin").write_bytes(b"")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "README").write_text("x")
    for place, got in {
        tmp_path / "x.bin": "a file that begins with b'hello th'",
        tmp_path / "y.bin": "an empty file",
        archive(tmp_path / "x.zip", {"a.txt": "1"}): "a zip archive that holds a.txt",
        tmp_path / "sub": "a folder with README",
    }.items():
        assert failure(place) == f"expected a network, got {got}. A network is {kinds}"
    for word in ("a.pt", "b.pt"):
        writers.write_torch(tmp_path / "sub" / word, {"a": A})
    assert failure(tmp_path / "sub") == (
        "expected one network, got a folder with several: a.pt, b.pt. Point at one"
    )
    with pytest.raises(MissingSourceError):
        open_model(tmp_path / "nothing")
    for wrong in (None, 3, "", b"x"):
        with pytest.raises(ArgumentError):
            open_model(wrong)


def test_the_first_bytes_count_and_not_the_ending(tmp_path):
    writers.write_torch(tmp_path / "a.safetensors", {"w": A})
    assert open_model(tmp_path / "a.safetensors").format == "pytorch"
    writers.write_safetensors(tmp_path / "a.bin", {"w": A})
    assert open_model(tmp_path / "a.bin").format == "safetensors"
