"""One row a format: the same weights give the same names, shapes, types and bits."""

import os
import pickle

import ml_dtypes
import numpy as np
import pytest

from bigspec.networks.formats import open_model
from tests.networks.formats import writers


def numbers(shape, dtype):
    made = np.random.default_rng(0).standard_normal(shape) * 100
    return made.astype(dtype)


WEIGHTS = {
    "fc.weight": numbers((5, 7), "f4"),
    "fc.bias": numbers((5,), "f4"),
    "half": numbers((4, 6), "f2"),
    "steps": numbers((3,), "i8"),
    "conv": numbers((3, 2, 4), "f4"),
    "wide": numbers((2, 3), "f8"),
}
FORMATS = {
    "safetensors": ("m.safetensors", writers.write_safetensors, "safetensors"),
    "PyTorch, zip": ("m.pth", writers.write_torch, "pytorch"),
    "PyTorch, old": ("m.pt", writers.write_torch_old, "pytorch"),
    "ONNX": ("m.onnx", writers.write_onnx, "onnx"),
    "GGUF": ("m.gguf", writers.write_gguf, "gguf"),
    "npz": ("m.npz", writers.write_npz, "npz"),
    "npz, packed": ("m.npz", writers.write_npz_packed, "npz"),
    "Zarr": ("m.zarr", writers.write_zarr, "zarr"),
    "HDF5": ("m.h5", writers.write_hdf5, "hdf5"),
}
ROWS = pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)


@ROWS
def test_the_same_weights_in_every_format(row, tmp_path):
    file, write, known_as = row
    model = open_model(write(tmp_path / file, WEIGHTS))
    assert model.format == known_as
    assert set(model) == set(WEIGHTS)
    for name, expected in WEIGHTS.items():
        tensor = model[name]
        got = tensor.read()
        assert (tensor.name, tensor.shape, tensor.dtype) == (
            name,
            expected.shape,
            expected.dtype.name,
        )
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape
        assert got.tobytes() == expected.tobytes()
        assert tensor.nbytes == expected.nbytes
        assert tensor.refusal is None


@ROWS
def test_a_tensor_travels_and_is_opened_again(row, tmp_path):
    file, write, _ = row
    model = open_model(write(tmp_path / file, WEIGHTS))
    model["conv"].read()
    sent = pickle.dumps(model["conv"])
    assert len(sent) < 10_000
    np.testing.assert_array_equal(pickle.loads(sent).read(), WEIGHTS["conv"])


@ROWS
def test_a_token_stays_with_the_numbers_and_changes_with_one(row, tmp_path):
    file, write, _ = row
    (tmp_path / "again").mkdir()
    changed = {name: array.copy() for name, array in WEIGHTS.items()}
    changed["conv"][1, 1, 1] += 1
    first = open_model(write(tmp_path / file, WEIGHTS))["conv"].token()
    assert first == open_model(tmp_path / file)["conv"].token()
    assert first != open_model(write(tmp_path / "again" / file, changed))["conv"].token()


def test_an_array_file_is_one_tensor(tmp_path):
    for order in "CF":
        array = np.asarray(WEIGHTS["conv"], order=order)
        np.save(tmp_path / "conv.npy", array)
        model = open_model(tmp_path / "conv.npy")
        assert (model.format, list(model)) == ("npy", ["conv"])
        np.testing.assert_array_equal(model["conv"].read(), array)


def test_other_orders_of_bytes_come_as_numbers_of_this_machine(tmp_path):
    array = WEIGHTS["wide"].astype(">f8")
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", a=array)
    np.savez_compressed(tmp_path / "b.npz", a=array)
    writers.write_hdf5(tmp_path / "a.h5", {"a": array})
    raw = {"0": WEIGHTS["wide"].byteswap().tobytes()}
    pickled = writers.pickled(writers.mapping({"a": writers.tensor(0, WEIGHTS["wide"])}))
    writers.torch_zip(tmp_path / "a.pt", pickled, raw, byteorder="big")
    brain = np.asarray([[1, 2.5], [-3, 4]], ml_dtypes.bfloat16)
    pickled = writers.pickled(writers.mapping({"b": writers.tensor(0, brain)}))
    swapped = {"0": brain.view("u2").byteswap().tobytes()}
    writers.torch_zip(tmp_path / "b.pt", pickled, swapped, byteorder="big")
    got = open_model(tmp_path / "b.pt")["b"].read()
    np.testing.assert_array_equal(got.astype("f4"), brain.astype("f4"))
    for file in ("a.npy", "a.npz", "b.npz", "a.h5", "a.pt"):
        got = open_model(tmp_path / file)["a"].read()
        assert got.dtype.isnative, file
        np.testing.assert_array_equal(got, WEIGHTS["wide"], err_msg=file)


def test_a_large_token_is_a_sample_and_the_time_of_the_file(tmp_path):
    array = np.zeros((600, 600), "f4")
    path = writers.write_safetensors(tmp_path / "m.safetensors", {"a": array})
    before = open_model(path)["a"].token()
    array[299, 17] = 1  # between two samples: the file is as long, and its time is another
    writers.write_safetensors(tmp_path / "m.safetensors", {"a": array})
    later = path.stat().st_mtime_ns + 1_000_000
    os.utime(path, ns=(later, later))
    assert before != open_model(path)["a"].token()
