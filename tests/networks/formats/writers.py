"""Files of networks as their own tools write them, and PyTorch's, which is too large to install.

Real files by PyTorch are read in `test_real_files.py`; these have the same instructions.
"""

import json
import struct
import zipfile

import gguf
import h5py
import numpy as np
import onnx
import safetensors.numpy
import zarr
from onnx import helper, numpy_helper

# Pickles, instruction by instruction ------------------------------------------------------------

STORAGES = {
    "float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage", "int64": "LongStorage", "int32": "IntStorage",
    "int8": "CharStorage", "uint8": "ByteStorage", "bool": "BoolStorage",
}  # fmt: skip
LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def whole(value):
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def several(*parts):
    return b"(" + b"".join(parts) + b"t"


def called(function, *arguments):
    return function + several(*arguments) + b"R"


def mapping(items, ordered=True):
    begin = name("collections", "OrderedDict") + b")R" if ordered else b"}"
    pairs = b"".join(text(key) + value for key, value in items.items())
    return begin + b"(" + pairs + b"u"


def storage(key, kind, count, legacy=False):
    more = (b"N",) if legacy else ()
    parts = (text("storage"), name("torch", kind), text(str(key)), text("cpu"), whole(count))
    return several(*parts, *more) + b"Q"


def rebuilt(stored, shape, strides, offset=0):
    hooks = name("collections", "OrderedDict") + b")R"
    return called(
        name("torch._utils", "_rebuild_tensor_v2"),
        stored,
        whole(offset),
        several(*map(whole, shape)),
        several(*map(whole, strides)),
        b"\x89",
        hooks,
    )


def steps(shape):
    return [int(np.prod(shape[k + 1 :])) for k in range(len(shape))]


def tensor(key, array, legacy=False):
    stored = storage(key, STORAGES[array.dtype.name], array.size, legacy)
    return rebuilt(stored, array.shape, steps(array.shape))


def pickled(value):
    return b"\x80\x02" + value + b"."


def state(weights, legacy=False):
    arrays = enumerate(weights.items())
    return mapping({key: tensor(number, array, legacy) for number, (key, array) in arrays})


def torch_zip(path, pickle, records, root="archive", packing=zipfile.ZIP_STORED, **others):
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr(f"{root}/data.pkl", pickle)
        archive.writestr(f"{root}/byteorder", others.get("byteorder", "little"))
        for key, raw in records.items():
            archive.writestr(f"{root}/data/{key}", raw)
        archive.writestr(f"{root}/version", "3\n")
    return path


def write_torch(path, weights):
    records = {str(number): array.tobytes() for number, array in enumerate(weights.values())}
    return torch_zip(path, pickled(state(weights)), records)


def torch_old(path, pickle, records, order=b"\x88"):
    said = b"}(" + text("protocol_version") + whole(1001) + text("little_endian") + order + b"u"
    head = LEGACY_MAGIC + pickled(whole(1001)) + pickled(said)
    keys = pickled(b"](" + b"".join(text(key) for key in records) + b"e")
    body = b"".join(struct.pack("<q", count) + raw for count, raw in records.values())
    path.write_bytes(head + pickle + keys + body)
    return path


def write_torch_old(path, weights):
    arrays = enumerate(weights.values())
    records = {str(number): (array.size, array.tobytes()) for number, array in arrays}
    return torch_old(path, pickled(state(weights, legacy=True)), records)


# The others -------------------------------------------------------------------------------------


def write_safetensors(path, weights, metadata=None):
    safetensors.numpy.save_file(weights, path, metadata=metadata)
    return path


def safetensors_of(path, header, body=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + body)
    return path


def entry(dtype="F32", shape=(2, 3), offsets=(0, 24)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def write_index(path, shards, ending="safetensors"):
    """Write shards, a dict of weights by their names, and the index beside them."""
    named = {}
    for shard, weights in shards.items():
        write = write_safetensors if ending == "safetensors" else write_torch
        write(path / shard, weights)
        named |= dict.fromkeys(weights, shard)
    index = path / f"model.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": named}))
    return index


def write_onnx(path, weights, nodes=(), **more):
    made = [numpy_helper.from_array(array, key) for key, array in weights.items()]
    graph = helper.make_graph(list(nodes), "g", [], [], initializer=made, **more)
    onnx.save(helper.make_model(graph), path)
    return path


def write_gguf(path, weights, kinds=None, **fields):
    writer = gguf.GGUFWriter(path, "test")
    for key, value in fields.items():
        writer.add_uint32(f"test.{key}", value)
    writer.add_array("test.words", ["a", "bc", ""])
    for key, array in weights.items():
        kind = (kinds or {}).get(key)
        raw = gguf.quants.quantize(array, kind) if kind else array
        writer.add_tensor(key, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_npz(path, weights):
    np.savez(path, **weights)
    return path


def write_npz_packed(path, weights):
    np.savez_compressed(path, **weights)
    return path


def write_zarr(path, weights):
    group = zarr.open_group(path, mode="w")
    for key, array in weights.items():
        group.create_array(key, data=array)
    return path


def write_hdf5(path, weights):
    with h5py.File(path, "w") as file:
        for key, array in weights.items():
            file.create_dataset(key, data=array)
    return path
