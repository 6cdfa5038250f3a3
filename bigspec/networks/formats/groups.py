"""Zarr groups and HDF5 files (Keras among them): each array is a tensor, by its path.

`bigspec.sources.nodes` reads the arrays, and says how.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bigspec.errors import SourceError
from bigspec.kernels.buffers import Buffers
from bigspec.networks.formats.file_tensors import finished
from bigspec.networks.formats.pytorch import stem
from bigspec.networks.formats.types import as_dtype
from bigspec.networks.tensors import Model, Tensor
from bigspec.sources.nodes import Node

__all__ = ["open_nodes"]


@dataclass(frozen=True, kw_only=True)
class NodeTensor(Tensor):
    """An array of a store.

    Attributes
    ----------
    node : Node
    """

    node: Node = field(repr=False, compare=False)

    @property
    def missing_chunks(self) -> int:
        """Chunks that the last `read` did not find in the store."""
        return self.node.tally.missing_chunks

    def read(self) -> np.ndarray[Any, Any]:
        """Return the whole array, unpacked as its attributes say.

        Raises
        ------
        SourceError, ChunkError, DataError, MemoryLimitError, StoreUnavailableError
            See `Node.read`.
        """
        self.check_readable()
        return self._typed(self.node.read())

    @property
    def streams(self) -> bool:
        """Chunks are read as they are needed."""
        return True

    def steps(self, depth: int) -> tuple[int, int]:
        """Chunks are read whole."""
        steps, behind = self.node.steps, self.shape[depth + 1 :]
        return steps[depth], steps[-1] if len(behind) == 1 else max(math.prod(behind), 1)

    def rectangle(
        self, lead: tuple[int, ...], rows: slice, columns: slice, buffers: Buffers
    ) -> np.ndarray[Any, Any]:
        """Read the chunks of a part.

        Raises
        ------
        SourceError, ChunkError, DataError, StoreUnavailableError
            See `Node.read_box`.
        """
        self.check_readable()
        behind = self.shape[len(lead) + 1 :]
        rest = (columns,) if len(behind) == 1 else tuple(slice(0, extent) for extent in behind)
        box = (*(slice(k, k + 1) for k in lead), rows, *rest)
        values = self._typed(self.node.read_box(box, buffers))
        folded = values.reshape(rows.stop - rows.start, -1)
        return folded if len(behind) == 1 else folded[:, columns]

    def _typed(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return values.view(as_dtype(self.dtype, self.file)) if values.dtype.kind == "V" else values

    def token(self) -> str:
        """Digest the values of a small array, and what the store says of a large one."""
        return self.node.token() if self.refusal is None else self.refusal


def open_nodes(nodes: Iterable[Node], file: str, format: str) -> Model:  # noqa: A002
    """Return the model of the arrays of a store.

    Parameters
    ----------
    nodes : iterable of Node
    file : str
        The store, as it may be shown.
    format : str
        "zarr" or "hdf5".

    Raises
    ------
    SourceError
        There are none.
    """
    tensors = [
        NodeTensor(
            name=node.path or stem(file),
            file=file,
            shape=node.shape,
            dtype="bfloat16" if node.brain else node.dtype.name,
            nbytes=node.nbytes,
            storage=node.same,
            refusal=node.refusal,
            node=node,
        )
        for node in nodes
    ]
    if not tensors:
        msg = f"{file}: expected arrays, got a store without one"
        raise SourceError(msg)
    return finished(file, format, tensors)
