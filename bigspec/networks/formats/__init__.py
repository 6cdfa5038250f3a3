"""Files of networks: which format lies at a path or URL, and a module for each.

A format is known by its first bytes, and where it has none of its own by the ending of its name.
Headers are read, numbers are not, and nothing is ever unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from bigspec.errors import ArgumentError, MissingSourceError, SourceError
from bigspec.names import shown
from bigspec.networks.formats import arrays, gguf, pytorch, safetensors, shards
from bigspec.networks.formats.adapter import ADAPTER, adapter_notes
from bigspec.networks.formats.groups import open_nodes
from bigspec.networks.formats.onnx import open_onnx
from bigspec.networks.tensors import Model
from bigspec.sources.file_bytes import (
    Content,
    LocalContent,
    file_in,
    remote_content,
    remote_names,
)
from bigspec.sources.hdf5_parts import SIGNATURE
from bigspec.sources.locations import local_file, local_folder, locate
from bigspec.sources.members import members_of
from bigspec.sources.missing_chunks import as_policy
from bigspec.sources.nodes import hdf5_nodes, is_zarr, zarr_nodes
from bigspec.sources.storage_options import Options

__all__ = ["ACCEPTED", "open_model"]

ACCEPTED = (
    "a safetensors file, an index of shards (*.index.json), a folder of shards, a PyTorch file "
    "(.pt, .pth, .bin, .ckpt), an ONNX, GGUF, .npz or .npy file, a Zarr group, or an HDF5 or "
    "Keras .h5 file"
)
TORCH = (".pt", ".pth", ".bin", ".ckpt")
ENDINGS = (*TORCH, ".onnx", ".gguf", ".npz", ".npy", ".h5", ".hdf5", ".keras")
"""Of files that make a folder a network if there is one of them."""
USUAL = ("pytorch_model.bin", "adapter_model.bin")
"""The weights where other files of PyTorch lie beside them."""


def open_model(
    where: str | os.PathLike[str],
    *,
    missing_chunks: str = "fill",
    storage: Options | None = None,
) -> Model:
    """Open the network at a path or URL; only headers are read.

    Parameters
    ----------
    where : str or os.PathLike
        See `ACCEPTED`. At a URL: safetensors, PyTorch, GGUF and Zarr, by ranges of bytes.
    missing_chunks : {"fill", "error"}
        Whether chunks that are not in a Zarr or HDF5 store hold its fill value, or are an error.

    Returns
    -------
    Model
        `Model.notes` has ``metadata`` (safetensors, GGUF), ``layers`` (ONNX) and ``adapter`` (a
        folder with an `adapter_config.json`).

    Raises
    ------
    MissingSourceError
        Nothing lies there, or shards are missing: all of them are named.
    SourceError
        It is damaged, says what it cannot hold, names what would have to be run, is of another
        kind, or needs a package that is not here.
    StoreUnavailableError
        The store went on failing after retries.
    ArgumentError
        `where` is no path, or `missing_chunks` another word.
    """
    text = os.fspath(where) if isinstance(where, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text:
        got = "an empty text" if text == "" else type(where).__name__
        msg = f"expected a network, got {got}. A network is {ACCEPTED}"
        raise ArgumentError(msg)
    as_policy(missing_chunks)
    if (local := local_file(text)) is not None:
        path, inside = local
        if inside:
            if LocalContent(path, text).at(0, min(path.stat().st_size, 2), "it").tobytes() != b"PK":
                msg = (
                    f"{text}: expected a network as a whole, got a place inside a file; open the "
                    "file, and take those of its tensors whose names begin with that place"
                )
                raise SourceError(msg)
            return open_nodes(zarr_nodes(locate(text), missing_chunks), shown(text), "zarr")
        content = LocalContent(path, text)
        return _with_adapter(_Opening(text, missing_chunks).file(content), content)
    if (folder := local_folder(text)) is not None:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.is_dir())
        shown_as = text.rstrip("/") or "/"
        return _Opening(text, missing_chunks).folder(
            names, lambda name: LocalContent(folder / name, f"{shown_as}/{name}")
        )
    location = locate(text, storage)  # which says what is there instead, if it is a local path
    if (remote := remote_content(location)) is not None:
        return _Opening(text, missing_chunks, storage).file(remote)
    names = remote_names(location) if not location.path else []
    return _Opening(text, missing_chunks, storage).folder(
        names, lambda name: file_in(location, name)
    )


class _Opening:
    """What is opened, and how."""

    def __init__(self, text: str, missing_chunks: str, storage: Options | None = None) -> None:
        self.text, self.missing_chunks, self.storage = text, missing_chunks, storage
        self.name = shown(text)

    def folder(self, names: list[str], finding: Callable[[str], Content]) -> Model:
        """Open the network in a folder with these files."""
        if is_zarr(names) or not names:
            nodes = zarr_nodes(locate(self.text, self.storage), self.missing_chunks)
            return open_nodes(nodes, self.name, "zarr")
        model = self._files(names, finding)
        if ADAPTER in names:
            notes = {**model.notes, "adapter": adapter_notes(finding(ADAPTER))}
            model = replace(model, notes=notes)
        return replace(model, name=self.name)

    def _files(self, names: list[str], finding: Callable[[str], Content]) -> Model:
        for ending in (".safetensors", ".bin"):
            indexes = [name for name in names if name.endswith(f"{ending}{shards.INDEX}")]
            if len(indexes) == 1:
                return self.file(finding(indexes[0]))
            some = [name for name in names if name.lower().endswith(ending)]
            parts = [name for name in some if shards.NUMBERED.fullmatch(name)]
            some = some if ending == ".safetensors" else parts
            if some and not indexes:
                every = [*some, *shards.missing_numbers(some)]
                return shards.open_shards(self.name, every, finding, self.part)
            if indexes:
                raise self._several(indexes)
        others = [name for name in names if name.lower().endswith(ENDINGS)]
        usual = [name for name in USUAL if name in others]
        first = [n for n in others if (m := shards.NUMBERED.fullmatch(n)) and int(m[2]) == 1]
        whole = [n for n in others if not shards.NUMBERED.fullmatch(n)]
        chosen = usual or (first if len(first) == 1 and not whole else others)
        if len(chosen) == 1:
            return self.file(finding(chosen[0]))
        if chosen:
            raise self._several(chosen)
        held = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        msg = f"{self.name}: expected a network, got a folder with {held}. A network is {ACCEPTED}"
        raise SourceError(msg)

    def _several(self, names: list[str]) -> SourceError:
        held = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        return SourceError(
            f"{self.name}: expected one network, got a folder with several: {held}. Point at one"
        )

    def file(self, content: Content) -> Model:
        """Open an index with its shards, or one file."""
        name = content.name.partition("?")[0].lower()
        if name.endswith(shards.INDEX):
            return shards.open_index(content, self.part)
        return self.part(content)

    def part(self, content: Content) -> Model:
        """Open one file by its first bytes, else by its ending."""
        name = content.name.partition("?")[0].lower()
        begin = content.at(0, min(content.size, 512), "its first bytes").tobytes()
        if begin.startswith(SIGNATURE):
            return self._hdf5(content)
        if begin.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            return self._archive(content)
        if begin[257:262] == b"ustar":
            msg = (
                f"{content.name}: it is a tar archive, as PyTorch wrote before 0.1.10, which is "
                "not read; load it and save it again with a newer version"
            )
            raise SourceError(msg)
        for known, opening in self._openings(begin, name):
            if known:
                return opening(content)
        what = "an empty file" if not begin else f"a file that begins with {begin[:8]!r}"
        msg = f"{content.name}: expected a network, got {what}. A network is {ACCEPTED}"
        raise SourceError(msg)

    def _openings(self, begin: bytes, name: str) -> list[tuple[bool, Callable[[Content], Model]]]:
        return [
            (begin.startswith(gguf.MAGIC), gguf.open_gguf),
            (begin.startswith(arrays.MAGIC), arrays.open_npy),
            (begin[:1] == b"\x80" and begin[1:2] in b"\2\3\4\5", pytorch.open_pytorch),
            (safetensors.is_safetensors(begin), safetensors.open_safetensors),
            (name.endswith(".safetensors"), safetensors.open_safetensors),
            (name.endswith(".onnx"), open_onnx),
        ]

    def _hdf5(self, content: Content) -> Model:
        if not isinstance(content, LocalContent):
            msg = f"{content.name}: HDF5 is read from a path; copy it to a disk"
            raise SourceError(msg)
        nodes = hdf5_nodes(content.path, content.name, self.missing_chunks)
        return open_nodes(nodes, content.name, "hdf5")

    def _archive(self, content: Content) -> Model:
        members = members_of(content)
        if pytorch.is_torch_zip(members):
            return pytorch.open_pytorch_zip(content, members)
        if any(name.endswith(".weights.h5") for name in members):
            msg = (
                f"{content.name}: expected the weights of a Keras archive as a file; take them "
                "out: unzip it, and open model.weights.h5"
            )
            raise SourceError(msg)
        if is_zarr([name.rpartition("/")[2] for name in members]):
            nodes = zarr_nodes(locate(self.text, self.storage), self.missing_chunks)
            return open_nodes(nodes, content.name, "zarr")
        if arrays.is_npz(members):
            return arrays.open_npz(content, members)
        held = ", ".join(list(members)[:8]) or "nothing"
        msg = (
            f"{content.name}: expected a network, got a zip archive that holds {held}. A network "
            f"is {ACCEPTED}"
        )
        raise SourceError(msg)


def _with_adapter(model: Model, content: LocalContent) -> Model:
    """Add what the folder of an adapter's file says of it."""
    if not content.path.name.startswith("adapter_model."):
        return model
    try:
        beside = content.beside(ADAPTER)
    except MissingSourceError:
        return model
    return replace(model, notes={**model.notes, "adapter": adapter_notes(beside)})
