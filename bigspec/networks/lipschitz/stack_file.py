"""A stack in a TOML file: a list of layers, each a path, a name, or a table of both.

    layers = [
        "w1.npy",
        "relu",
        {matrix = "model.safetensors::w2", bias = "model.safetensors::b2"},
        {layer = "leaky_relu", alpha = 0.1},
        {layer = "layer_norm", epsilon = 1e-5, gamma = "gamma.npy"},
        {layer = "conv", kernel = "k.npy", input_shape = [3, 32, 32], stride = 2, padding = 1},
        {layer = "residual", branches = [["w3.npy", "relu", "w4.npy"]]},
    ]

Paths begin at the folder of the file. ``FILE::NAME`` names a tensor of a file of a network, or a
member of a store as elsewhere. Texts in the place of an array are paths.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bigspec.errors import ArgumentError, MissingSourceError, SourceError
from bigspec.networks.formats import open_model
from bigspec.networks.lipschitz.items import BRANCHES, KNOWN, is_place
from bigspec.networks.lipschitz.parameters import ARRAYS
from bigspec.networks.tensors import Model

__all__ = ["FileReader", "read_stack"]

TENSORS = (".safetensors", ".index.json", ".pt", ".pth", ".bin", ".ckpt", ".onnx", ".gguf")
"""Endings of files whose members are tensors of a network."""


def read_stack(path: str | os.PathLike[str]) -> list[Any]:
    """Read the list of layers of a TOML file, as `bigspec.lipschitz` takes it.

    Raises
    ------
    MissingSourceError, SourceError
        The file is not there, or is no TOML.
    ArgumentError
        It says something that is not understood; the message has the layer.
    """
    place = Path(path)
    try:
        document = tomllib.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        msg = f"{place}: expected a file with a stack, got nothing there; check the path"
        raise MissingSourceError(msg) from error
    except (OSError, ValueError) as error:  # TOML and Unicode errors are ValueErrors
        msg = f"{place}: expected a TOML file with a list 'layers', got one that says: {error}"
        raise SourceError(msg) from error
    layers = document.pop("layers", None)
    if document or not isinstance(layers, list):
        got = ", ".join(sorted(document)) or f"layers = {layers!r}"
        msg = f"{place}: expected one list called layers and nothing else, got {got}"
        raise ArgumentError(msg)
    return FileReader(place).layers(layers, "layers")


class FileReader:
    """Turns what a TOML file says into items of a list.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.absolute().parent
        self._models: dict[str, Model] = {}

    def layers(self, layers: list[Any], where: str) -> list[Any]:
        """Return the items of a list."""
        return [self._item(item, f"{where}[{k}]") for k, item in enumerate(layers)]

    def _item(self, item: Any, where: str) -> Any:
        if isinstance(item, str):
            return self.source(item) if is_place(item) else item
        if isinstance(item, Mapping):
            return self._table(dict(item), where)
        msg = f"{self.path}: {where}: expected a path, a name or a table, got {item!r}"
        raise ArgumentError(msg)

    def _table(self, table: dict[str, Any], where: str) -> Any:
        if "matrix" in table:
            matrix, bias = table.pop("matrix"), table.pop("bias", None)
            if table or not isinstance(matrix, str):
                msg = f"{self.path}: {where}: expected matrix and bias, got {sorted(table)} as well"
                raise ArgumentError(msg)
            source = self.source(matrix)
            return source if bias is None else (source, self.array(bias))
        name = table.pop("layer", None)
        if not isinstance(name, str):
            msg = (
                f"{self.path}: {where}: expected a table with matrix = or layer =, got "
                f"{sorted(table)}"
            )
            raise ArgumentError(msg)
        if name in BRANCHES:
            branches = table.pop("branches", None)
            if table or not isinstance(branches, list):
                msg = f"{self.path}: {where}: expected branches, a list of lists of layers"
                raise ArgumentError(msg)
            lists = [b if isinstance(b, list) else [b] for b in branches]
            return (name, *(self.layers(b, f"{where}.branches[{k}]") for k, b in enumerate(lists)))
        if name not in KNOWN:
            return (name,)  # which says what was meant, or why there is no bound
        return (name, {k: self.array(v) if k in ARRAYS else v for k, v in table.items()})

    def source(self, text: str) -> Any:
        """Return a matrix that a path names: an array if it is a tensor of a network's file."""
        outer, separator, inner = text.partition("::")
        where = outer if "://" in outer else str(self.folder / Path(outer).expanduser())
        if separator and outer.endswith(TENSORS):
            return self._tensor(where, inner)
        return f"{where}{separator}{inner}"

    def array(self, value: Any) -> Any:
        """Return the array that a path names, or a list of numbers as it is."""
        if not isinstance(value, str):
            return value
        found = self.source(value)
        if not isinstance(found, str):
            return found
        try:
            return np.load(found, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            msg = f"{self.path}: expected {value!r} to be an .npy file or FILE::NAME, got {error}"
            raise SourceError(msg) from error

    def _tensor(self, where: str, name: str) -> np.ndarray[Any, Any]:
        if where not in self._models:
            self._models[where] = open_model(where)
        model = self._models[where]
        if name not in model:
            near = difflib.get_close_matches(name, list(model), n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {len(model)} tensors"
            msg = f"{where}: expected a tensor {name!r}, got none of that name; {hint}"
            raise SourceError(msg)
        values = model[name].read()
        return values if values.dtype.kind in "iuf" else values.astype(np.float32)
