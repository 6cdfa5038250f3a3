"""Files of safetensors written again: chosen tensors times a factor, all others as they are."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bigspec.conversion.work import Work
from bigspec.errors import MatrixChangedError
from bigspec.networks.formats.file_tensors import FileTensor
from bigspec.networks.formats.safetensors import parsed
from bigspec.networks.formats.types import as_dtype
from bigspec.networks.tensors import called

__all__ = ["KEY", "Part", "checksum", "parts_of", "write_part"]

KEY = "bigspec"  # of the metadata
BLOCK = 8 << 20  # bytes that are read at once
SAVED = 64 << 20  # bytes after which progress is saved


@dataclass(frozen=True)
class Part:
    """One file.

    Attributes
    ----------
    path : Path
    tensors : tuple of FileTensor
        In the order of their bytes.
    """

    path: Path
    tensors: tuple[FileTensor, ...] = field(repr=False)

    def header(self, note: dict[str, Any]) -> bytes:
        """Return the header of the new file: that of the old one, with a note in its metadata."""
        content = self.tensors[0].content
        length = int.from_bytes(content.at(0, 8, "the length of its header").tobytes(), "little")
        found = parsed(content.at(8, length, "its header").tobytes(), content.name, "its header")
        metadata = {**found.pop("__metadata__", {}), KEY: json.dumps(note)}
        raw = json.dumps({"__metadata__": metadata, **found}, ensure_ascii=False).encode()
        raw += b" " * (-len(raw) % 8)
        return len(raw).to_bytes(8, "little") + raw


def parts_of(tensors: Mapping[str, Any]) -> list[Part]:
    """Return the files that tensors lie in."""
    files: dict[Path, list[FileTensor]] = {}
    for tensor in tensors.values():
        files.setdefault(tensor.content.path, []).append(tensor)
    return [
        Part(path, tuple(sorted(found, key=lambda one: (one.start, one.nbytes))))
        for path, found in files.items()
    ]


def _blocks(tensor: FileTensor) -> Iterator[np.ndarray[Any, Any]]:
    """Return the bytes of a tensor, a few at once."""
    for place in range(0, tensor.nbytes, BLOCK):
        size = min(BLOCK, tensor.nbytes - place)
        yield tensor.content.at(tensor.start + place, size, called(tensor.name))


def checksum(tensor: FileTensor) -> str:
    """Return a digest of all bytes of a tensor."""
    found = hashlib.blake2b(digest_size=16)
    for block in _blocks(tensor):
        found.update(block.data)
    return found.hexdigest()


def write_part(part: Part, target: Path, note: dict[str, Any], work: Work, before: int) -> None:
    """Write what is left of one file.

    Parameters
    ----------
    part : Part
    target : Path
    note : dict
        Its ``tensors`` have the factors, by name.
    work : Work
        Its state has ``copied``, how many tensors are written, and ``tokens``.
    before : int
        Tensors of the files before.

    Raises
    ------
    MatrixChangedError
        A tensor is not the one whose norm was computed.
    """
    head = part.header(note)
    done = work.state["copied"] - before
    place = len(head) + sum(tensor.nbytes for tensor in part.tensors[:done])
    with target.open("r+b" if done else "wb") as file:
        if not done:
            file.write(head)
        file.truncate(place)
        file.seek(place)
        unsaved = 0
        for number, tensor in enumerate(part.tensors[done:], done + 1):
            factor = note["tensors"].get(tensor.name, {}).get("factor")
            if factor is None:
                for block in _blocks(tensor):
                    file.write(block.data)
            else:
                _write_scaled(file, tensor, factor, work.state["tokens"][tensor.name])
            unsaved += tensor.nbytes
            if unsaved >= SAVED or number == len(part.tensors):
                file.flush()
                os.fsync(file.fileno())
                work.save(copied=before + number)
                unsaved = 0


def _write_scaled(file: BinaryIO, tensor: FileTensor, factor: float, token: str) -> None:
    found = hashlib.blake2b(digest_size=16)
    dtype = as_dtype(tensor.dtype, tensor.file).newbyteorder("<")
    for block in _blocks(tensor):
        found.update(block.data)
        values = block.view(dtype).astype(np.float64) * factor
        file.write(values.astype(dtype).tobytes())
    if found.hexdigest() != token:
        msg = (
            f"{tensor.file}: {called(tensor.name)} has changed since its norm was computed; run "
            "it again"
        )
        raise MatrixChangedError(msg)
