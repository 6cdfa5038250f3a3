"""The Zarr group of a checkpoint on any store: blocks, records, and the owner's document.

::

    RUN/                     a Zarr v3 group; attributes: schema
    RUN/blocks/<digest>      arrays, named by the SHA-256 of their content, written once
    RUN/records/<number>     groups whose attributes are a step; written last, in one write
    RUN/owner                a group whose attributes say who runs on it
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore, StorePath

from bigspec.checkpoint.codec import array_digest, restored
from bigspec.checkpoint.documents import LITTER, Damaged, Documents, document_key
from bigspec.errors import BigspecError, CheckpointError
from bigspec.names import shown
from bigspec.sources import locations, retries
from bigspec.sources.object_store import remote_store

__all__ = ["SCHEMA", "Damaged", "Store"]

Array = np.ndarray[Any, Any]

SCHEMA = "bigspec.checkpoint/1"
CHUNK_BYTES = 16 << 20


class Store(Documents):
    """A checkpoint's place.

    Parameters
    ----------
    where : str or path
        A local path, ``file://``, or any fsspec URL. The attribute of this name has no secrets.
    read_only : bool
    storage : mapping, optional
        Credentials and settings of a URL.

    Raises
    ------
    CheckpointError
        Something else lies there, or a checkpoint of a newer version.
    SourceError, StoreUnavailableError
        The place cannot be reached.
    """

    advice = (
        "Wait for it, name another place, or take it over with --steal "
        "(Checkpoint(..., steal=True))"
    )

    def __init__(
        self,
        where: str | os.PathLike[str],
        *,
        read_only: bool = False,
        storage: Mapping[str, Any] | None = None,
    ) -> None:
        given = os.fspath(where)
        self.where = shown(given)
        outer = given.removeprefix("file://").removeprefix("local://")
        self.local = "://" not in outer
        try:
            if self.local:
                path = Path(outer).expanduser().absolute()
                _refuse_file(path, self.where)
                self.files: Any = LocalStore(path, read_only=read_only)
                if not path.exists():  # made when it is written to, if it can be
                    return
            else:
                options = None if storage is None else dict(storage)
                self.files = remote_store(outer, options, read_only=read_only)
            self._check(self.read_document(""))
        except BigspecError:
            raise
        except Exception as error:  # botocore's errors share no base with anything
            raise locations.open_failure(error, self.where) from error

    def _check(self, root: dict[str, Any] | None) -> None:
        """Refuse a place that holds anything but a checkpoint of a version known here."""
        if root is None:
            names = self.names("")
            if not names or "records" in names:
                return
            root = self.read_document("")  # written first, by one that started just now
        if root is None:
            shown = ", ".join(names[:5])
            msg = (
                f"{self.where}: expected a checkpoint or an empty folder, got one with {shown}; "
                "name another place"
            )
            raise CheckpointError(msg)
        check_schema(root.get("schema"), self.where)

    def start(self) -> None:
        """Write the documents that make it a Zarr hierarchy, if they are not there or damaged."""
        for path, attributes in (("", {"schema": SCHEMA}), ("blocks", {}), ("records", {})):
            if not _is_group(self._get(document_key(path))):
                self.write_document(path, attributes)

    def read_document(self, path: str) -> dict[str, Any] | None:
        """Return the attributes of the group at `path`; see `Documents`.

        The root says nothing but the schema, which every record has as well.
        """
        try:
            return super().read_document(path)
        except Damaged:
            if path:
                raise
            return {"schema": SCHEMA} if "records" in self.names("") else {}

    def write_block(self, array: Array, name: str, *, on_chunk: Callable[[], None]) -> None:
        """Write an array.

        Document and chunks one by one, so that a request that fails repeats no other.
        """
        row = max(1, array.nbytes // max(1, array.shape[0]))
        height = max(1, min(array.shape[0], CHUNK_BYTES // row))
        blank = zarr.create_array(
            MemoryStore(),
            shape=array.shape,
            chunks=tuple(max(1, c) for c in (height, *array.shape[1:])),
            dtype=array.dtype,
            compressors=None,  # the last bits of iterates are random
        )
        document = blank.metadata.to_buffer_dict(default_buffer_prototype())["zarr.json"]
        self._set(f"blocks/{name}/zarr.json", document)
        path = StorePath(self.files, f"blocks/{name}")
        block = zarr.Array.from_dict(path, json.loads(document.to_bytes()))
        # -0.0 equals the fill value and has other bits.
        block = block.with_config({"write_empty_chunks": True})
        for first in range(0, array.shape[0], height):
            rows = slice(first, first + height)
            retries.with_retries(partial(block.__setitem__, rows, array[rows]))
            on_chunk()
        self._to_disk(f"blocks/{name}")

    def read_block(self, name: str) -> Array:
        """Read an array and check that it is the one that was written.

        Raises
        ------
        Damaged
        """
        if re.fullmatch("[0-9a-f]{40}", name) is None:
            msg = f"{name!r} is not the name of a block"
            raise Damaged(msg)
        try:
            held = self._entries(f"blocks/{name}")
        except Exception as error:
            if isinstance(error, BigspecError):
                raise
            msg = f"blocks/{name} cannot be read ({type(error).__name__}: {error})"
            raise Damaged(msg) from error
        for order in "CF":
            array = restored(np.asarray(held), order)
            if array_digest(array)[: len(name)] == name:
                return array
        msg = f"blocks/{name} is not what was written (its SHA-256 differs)"
        raise Damaged(msg)

    def write_record(self, number: int, data: dict[str, Any]) -> None:
        """Write a record with its checksum: the one write that makes a step complete."""
        checksum = _checksum(data)
        self.write_document(_record(number), data | {"schema": SCHEMA, "sha256": checksum})
        self._to_disk(_record(number))

    def read_record(self, number: int) -> dict[str, Any] | None:
        """Read a record and check it; None if it is not there, or was never complete.

        Raises
        ------
        Damaged, CheckpointError
        """
        path = _record(number)
        data = self.read_document(path)
        if data is None:
            return None
        schema, checksum = data.pop("schema", None), data.pop("sha256", None)
        if _is_newer(schema):  # its checksum may be made in another way, so this is not damage
            check_schema(schema, f"{self.where}/{path}")
        if schema != SCHEMA or checksum != _checksum(data):
            msg = f"{path}/zarr.json is not what was written (its SHA-256 differs)"
            raise Damaged(msg)
        return data

    def records(self) -> list[int]:
        """Return the numbers of the records, oldest first."""
        return sorted(int(name) for name in self.names("records") if name.isdecimal())

    def remove_record(self, number: int) -> None:
        """Remove a record."""
        self._remove(_record(number))

    def remove_block(self, name: str) -> None:
        """Remove an array."""
        self._remove(f"blocks/{name}")

    def remove_litter(self) -> None:
        """Remove what a process left when it died writing a document; only the owner may."""
        for path in ("", "blocks/", "records/"):
            for name in self._listed(path.rstrip("/")):
                if name.endswith(LITTER):
                    sync(self.files.delete(path + name))

    def _entries(self, path: str) -> Array:
        """Read an array that is stored as plain numbers, which is all that bigspec writes."""
        opening = partial(zarr.open_array, self.files, path=path, mode="r", zarr_format=3)
        block = self._reading(opening)
        metadata: Any = block.metadata.to_dict()
        codecs = [codec["name"] for codec in metadata["codecs"]]
        if np.dtype(block.dtype).kind not in "biufc" or codecs != ["bytes"]:
            msg = f"{block.dtype} through {codecs}"
            raise ValueError(msg)
        stored = self._reading(lambda: sync(self.files.getsize_prefix(f"{path}/c")))
        if block.ndim == 0 or stored < block.nbytes:  # before so much is allocated
            msg = f"{stored} bytes are there, {block.nbytes} by its shape"
            raise ValueError(msg)
        held = np.empty(block.shape, block.dtype)
        for first in range(0, block.shape[0], block.chunks[0]):
            rows = slice(first, first + block.chunks[0])
            held[rows] = self._reading(partial(block.__getitem__, rows))
        return held

    def _to_disk(self, path: str) -> None:
        """On a local store, wait until what was written under `path` survives a power cut."""
        if not self.local:
            return
        top = self.files.root / path
        for place in [*top.rglob("*"), top, top.parent]:
            handle = os.open(place, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _refuse_file(path: Path, where: str) -> None:
    if path.exists() and not path.is_dir():
        msg = f"{where}: expected a checkpoint or an empty folder, got a file; name another place"
        raise CheckpointError(msg)


def check_schema(schema: Any, where: str) -> None:
    """Refuse a layout that this version does not know."""
    if schema == SCHEMA:
        return
    if _is_newer(schema):
        known, number = (text.partition("/")[2] for text in (SCHEMA, schema))
        msg = (
            f"{where}: expected a checkpoint of layout {known} or older, got layout {number}, "
            "which a newer bigspec wrote; upgrade bigspec, or name another place"
        )
    else:
        msg = (
            f"{where}: expected a bigspec checkpoint or an empty folder, got another Zarr node; "
            "name another place"
        )
    raise CheckpointError(msg)


def _is_newer(schema: Any) -> bool:
    (name, _, known), (own, _, number) = (str(text).partition("/") for text in (SCHEMA, schema))
    return name == own and number.isdecimal() and int(number) > int(known)


def _is_group(text: bytes | None) -> bool:
    """Whether Zarr takes this for a group: it reads the parents of every array that it makes."""
    try:
        document = json.loads(text or b"")
        kind = document["zarr_format"], document["node_type"], type(document["attributes"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return kind == (3, "group", dict)


def _record(number: int) -> str:
    return f"records/{number:06d}"


def _checksum(data: dict[str, Any]) -> str:
    text = json.dumps(data, sort_keys=True)  # with infinities: a damaged number may be one
    return hashlib.sha256(text.encode()).hexdigest()
