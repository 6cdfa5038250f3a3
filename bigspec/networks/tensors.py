"""What a file of a network is to bigspec: names, and tensors that are read one at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bigspec.errors import SourceError
from bigspec.kernels.buffers import Buffers

__all__ = ["Model", "Tensor", "called"]


@dataclass(frozen=True, kw_only=True)
class Tensor(ABC):
    """One tensor of a file: what its header says, and the numbers when they are asked for.

    Attributes
    ----------
    name : str
        As the file has it. It is shown escaped (`bigspec.names`).
    file : str
        The file that the numbers lie in, as it may be shown: without secrets.
    shape : tuple of int
    dtype : str
        As the format calls it, in NumPy's words where it has some: "float32", "bfloat16",
        "float8_e4m3fn", "Q4_K".
    nbytes : int
        Bytes in the file; in memory it is `size` times the item size of what `read` returns.
    storage : str or None
        Equal for two tensors of a model that are the same numbers of the same file in the same
        order (tied weights), None where the format cannot say.
    refusal : str or None
        Why the numbers cannot be read as what they stand for (integers whose scale is not in the
        file). The row has this reason, and the tensor is never read.
    """

    name: str
    file: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    storage: str | None = None
    refusal: str | None = None

    @property
    def missing_chunks(self) -> int:
        """Chunks that the last `read` did not find in a store, and took for its fill value."""
        return 0

    @property
    def size(self) -> int:
        """How many entries it has."""
        product = 1
        for length in self.shape:
            product *= length
        return product

    def check_readable(self) -> None:
        """Raise `SourceError` if there is a reason why the numbers cannot be read."""
        if self.refusal is not None:
            msg = f"{self.file}: {called(self.name)} has no numbers to read: {self.refusal}"
            raise SourceError(msg)

    @abstractmethod
    def read(self) -> np.ndarray:
        """The whole tensor, of shape `shape`; read-only where it is mapped.

        Raises
        ------
        bigspec.errors.SourceError
            The bytes are not there, or are not what the header says. The message names the tensor.
        """

    @property
    def streams(self) -> bool:
        """Whether `rectangle` takes only about as much memory as what it returns."""
        return False

    def steps(self, depth: int) -> tuple[int, int]:
        """Return where `rectangle` begins at no extra cost: multiples of these.

        Along axis `depth`, and along what is behind it, folded.
        """
        return 1, 1

    def rectangle(
        self, lead: tuple[int, ...], rows: slice, columns: slice, buffers: Buffers
    ) -> np.ndarray:
        """Read a part of the tensor as a matrix.

        Parameters
        ----------
        lead : tuple of int
            Places along the first axes.
        rows, columns : slice
            Along the axis after these, and along all that is behind it, folded; with integer ends.
        buffers : Buffers
            Count missing chunks, and may hold the result until the next read.

        Raises
        ------
        bigspec.errors.SourceError, bigspec.errors.ChunkError
            See `read`.
        """
        part: np.ndarray = self.read()[lead][rows]
        return part.reshape(len(part), -1)[:, columns]

    @abstractmethod
    def token(self) -> str:
        """Return a digest that changes with the numbers, and costs little beside `read`.

        It covers all bytes of a small tensor; of a large one, a sample and the size and time of the
        file. A scan that goes on compares it.
        """


def called(name: str) -> str:
    """Return how a message calls a tensor: quoted, and not longer than a line."""
    return f"tensor {name[:120]!a}{'...' if len(name) > 120 else ''}"


@dataclass(frozen=True)
class Model(Mapping[str, Tensor]):
    """The tensors of a network by name, in the order of the file.

    Attributes
    ----------
    name : str
        The path or URL, as it may be shown.
    format : str
        "safetensors", "pytorch", "onnx", "gguf", "npz", "npy", "zarr", "hdf5".
    tensors : mapping of str to Tensor
    notes : mapping of str to Any
        What else the file, or a file beside it, says that the meaning of the tensors needs:
        metadata of the header, `lora_alpha` of an `adapter_config.json`, the layers of an ONNX
        graph. By names that the format's module documents.
    """

    name: str
    format: str
    tensors: Mapping[str, Tensor]
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)
