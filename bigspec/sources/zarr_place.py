"""Where a Zarr array lies: what it is called, whether it may travel, whether it is far away."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zarr.storage import FsspecStore, LocalStore, MemoryStore, ZipStore

from bigspec.names import bare
from bigspec.sources.locations import open_failure, place_of
from bigspec.sources.missing_chunks import CERTAIN
from bigspec.sources.object_store import RemoteStore
from bigspec.sources.virtual import protocols_of, reference_identity, refers_to_files

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store

__all__ = ["is_far", "lives_in_process", "local_document", "packed_with", "token_of", "where_of"]

HERE = {"file", "local", "memory"}
"""Protocols of this machine."""


def packed_with(array: zarr.Array[Any]) -> tuple[bool, bytes]:
    """Pickle an array now, so that a store that cannot travel is resident before a plan is made."""
    if lives_in_process(array.store):
        return True, b""
    try:
        return False, pickle.dumps(array)
    except Exception:  # noqa: BLE001, RUF100 - whatever a third-party store raises
        return True, b""


def lives_in_process(store: Store) -> bool:
    """Whether a store's entries lie in this process's memory."""
    while hasattr(store, "_store"):  # zarr's WrapperStore and its kin
        store = store._store
    if isinstance(store, FsspecStore):
        protocol = store.fs.protocol
        return "memory" in ((protocol,) if isinstance(protocol, str) else protocol)
    return isinstance(store, MemoryStore)


def where_of(array: zarr.Array[Any]) -> str:
    """Return the absolute path or the URL of an array, without secrets."""
    store, path = array.store, array.path
    if isinstance(store, LocalStore):
        return str(store.root.absolute() / path)
    if isinstance(store, ZipStore):
        return f"{store.path.absolute()}::/{path}"
    if (references := reference_identity(store)) is not None:
        return f"{references}/{path}"
    if isinstance(store, (FsspecStore, RemoteStore)):
        if isinstance(store, RemoteStore):  # the name from before obstore, so that saved runs go on
            scheme = store.scheme
        else:
            protocol = store.fs.protocol
            scheme = protocol if isinstance(protocol, str) else protocol[0]
        # Not after the path is added: it would be a part of a signed query at the end.
        return f"{scheme}://{bare(store.path.strip('/'))}/{path}".rstrip("/")
    if lives_in_process(store):
        return f"memory:{path}"
    return place_of(store, path)


def local_document(array: zarr.Array[Any]) -> Path | None:
    """Return the path of an array's metadata document; None if it is no local file."""
    if type(array.store) is not LocalStore:
        return None
    document = "zarr.json" if array.metadata.zarr_format == 3 else ".zarray"
    return array.store.root.absolute() / array.path / document


def token_of(array: zarr.Array[Any], document: Path | None) -> str:
    """Return a hash of the metadata; of local stores with their time of modification."""
    evidence = json.dumps(array.metadata.to_dict(), sort_keys=True, default=str).encode()
    container = array.store.path if isinstance(array.store, ZipStore) else document
    try:
        if document is not None:
            evidence = document.read_bytes()
        if container is not None:
            evidence += str(Path(container).stat().st_mtime_ns).encode()
    except OSError as error:
        raise open_failure(error, where_of(array)) from error
    return hashlib.sha256(evidence).hexdigest()[:32]


def is_far(array: zarr.Array[Any]) -> bool:
    """Whether a watched array's chunks come over a network, by what its store says."""
    store: Any = array.store
    while hasattr(store, "_store"):
        store = store._store
    if isinstance(store, FsspecStore):
        return not (protocols_of(store.fs) & HERE or refers_to_files(store))
    return not isinstance(store, CERTAIN)
