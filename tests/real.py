"""Real matrices, dense, with their references; tests/data/matrices/README.md says whose."""

import json
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import zarr
from zarr.storage import ZipStore

FASHION = Path(__file__).parents[1] / "examples" / "data" / "fashion_mnist.zarr"

REFERENCE = {
    "pbmc raw.X": 5.983797238691751e02,
    "pbmc X": 1.679618493115838e02,
    "pbmc counts": 2.112728891542151e03,
    "pbmc connectivities": 7.591970975990225e00,
    "bcsstk16": 4.943165634199614e09,
    "coads SLP": 2.910648281441590e05,
    "coads SST": 6.552435693502744e03,
    "fashion": 2.681266223092185e05,
    "illc1850": 2.123342642739717e00,
    "lp_dfl001": 1.591695297533131e01,
    "mhd1280b": 7.032203242352814e01,
    "silero": 1.888569779163081e01,
    "west0479": 3.189517598051426e05,
    "wiki-Vote": 1.031876107138056e02,
    "young1c": 4.701960548091826e02,
}


class Shelf:
    """Folders of real files; a test that needs a file which is nowhere is skipped."""

    def __init__(self, *folders: Path):
        self.folders = folders

    def find(self, name: str):
        return next((f / name for f in self.folders if (f / name).exists()), None)

    def __truediv__(self, name: str) -> Path:
        if (path := self.find(name)) is None:
            pytest.skip(f"{name} is neither in this checkout nor beside it")
        return path


def load(folder: Path | Shelf, name: str):
    """Return one of them as a dense array, in the narrowest type that holds it exactly."""
    folder = Shelf(folder) if isinstance(folder, Path) else folder
    if name.startswith("pbmc"):
        return _pbmc(folder, name.removeprefix("pbmc "))
    if name.startswith("coads"):
        return _coads(folder, name.removeprefix("coads "))
    if name == "fashion":
        return zarr.open_array(FASHION, mode="r")[:]
    if name == "silero":
        raw = (folder / "silero_vad_16k.safetensors").read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        entry = next(v for k, v in json.loads(raw[8 : 8 + length]).items() if "weight_ih" in k)
        start, stop = (8 + length + offset for offset in entry["data_offsets"])
        return np.frombuffer(raw[start:stop], "<f4").reshape(entry["shape"])
    for ending in (".npz", ".mtx", ".mtx.gz"):
        if (path := folder.find(f"{name}{ending}")) is not None:
            return _narrow(_stored(path).toarray())
    return folder / f"{name}.mtx"  # which skips the test


def _stored(path: Path):
    if path.suffix != ".npz":
        return sp.coo_array(scipy.io.mmread(path))
    A = sp.csr_array(sp.load_npz(path))
    if path.stem == "bcsstk16":  # only the lower triangle may be stored
        upper = sp.triu(A, 1)
        A = A if upper.nnz else A + sp.tril(A, -1).T
    return A


def _pbmc(folder, part):
    if part == "raw.X":
        with h5py.File(folder / "10x_pbmc68k_reduced.h5ad") as file:
            return _csr(file["raw.X"], "h5sparse_shape").toarray()
    store = ZipStore(folder / "10x_pbmc68k_reduced.zarr.zip", mode="r")
    try:
        root = zarr.open_group(store, mode="r", use_consolidated=False)
        if part == "X":
            return root["X"][:]
        place = {"counts": "layers/counts", "connectivities": "obsp/connectivities"}[part]
        return _csr(root[place]).toarray()
    finally:
        store.close()


def _csr(group, shape="shape"):
    parts = (group[key][:] for key in ("data", "indices", "indptr"))
    return sp.csr_array(tuple(parts), shape=tuple(group.attrs[shape]))


def _coads(folder, variable):
    with scipy.io.netcdf_file(folder / "coads_climatology.cdf", mmap=False) as file:
        held = file.variables[variable]
        data = np.array(held[:], "f4")
        missing = np.float32(held.missing_value)
    data[data == missing] = 0
    return data.reshape(-1, 180) if variable == "SLP" else data.reshape(12, -1)


def _narrow(A):
    with np.errstate(invalid="ignore"):
        return _narrowest(A)


def _narrowest(A):
    for dtype in ("i1", "f4"):
        if A.dtype.kind != "c" and np.array_equal(A.astype(dtype), A):
            return A.astype(dtype)
    return A
