"""The contents of a Zarr store, for messages: arrays of a group, children of a directory.

Metadata documents are read as plain JSON. A group may have members that zarr-python cannot open
(unknown data types), and they must not hide the others.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from zarr.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import StorePath

from bigspec.sources.retries import is_forbidden

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = ["Entry", "children", "describe", "find_arrays", "zarr_format"]

MOST_NODES = 200
"""Nodes to read before a listing gives up: on a remote store each costs a round trip."""


@dataclass(frozen=True)
class Entry:
    """An array or a sparse group inside a store."""

    path: str
    kind: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"/{self.path} {self.shape} {self.kind}"


def zarr_format(store: Store, path: str) -> Literal[2, 3] | None:
    """Return the format of the node at `path`, or None; its documents are requested in turn.

    zarr-python requests all of them at once. On a fresh s3fs client each request then makes its
    own session. When one fails, the others stay pending and complain when the process ends. Without
    permission to list, S3 answers 403 in place of 404.
    """
    return sync(_format(store, path))


def children(store: Store, path: str) -> list[str]:
    """Return the names directly under `path`, sorted; empty if nothing is there."""
    try:
        return sync(_children(store, path))
    except FileNotFoundError:
        return []


def find_arrays(store: Store, path: str, limit: int = 10) -> list[Entry]:
    """Return up to `limit` arrays at or under `path`, the 2-D ones first."""
    found = sync(_walk(store, path, limit))
    return sorted(found, key=lambda entry: (len(entry.shape) != 2, entry.path))[:limit]


def describe(entries: list[Entry]) -> str:
    """Return a readable list of entries."""
    return "; ".join(map(str, entries)) if entries else "no arrays"


async def _format(store: Store, node: str) -> Literal[2, 3] | None:
    await StorePath.open(store, node)  # a zip archive must be opened before it answers
    forbidden: Exception | None = None
    for name in ("zarr.json", ".zarray", ".zgroup"):
        key = f"{node}/{name}" if node else name
        try:
            document = await store.get(key, prototype=default_buffer_prototype())
        except Exception as error:
            if not is_forbidden(error):
                raise
            forbidden = forbidden or error
            continue
        if document is not None:
            return 3 if name == "zarr.json" else 2
    if forbidden is not None:
        raise forbidden
    return None


async def _children(store: Store, path: str) -> list[str]:
    return sorted([name async for name in store.list_dir(path)])


async def _walk(store: Store, path: str, limit: int) -> list[Entry]:
    found: list[Entry] = []
    queue = deque([path])
    seen = 0
    # Twice the limit, so that 2-D arrays deeper down can still displace vectors.
    while queue and len(found) < 2 * limit and seen < MOST_NODES:
        node = queue.popleft()
        seen += 1
        document = await _document(store, node)
        if document is None:
            continue
        entry = _entry(node, document)
        if entry is not None:
            found.append(entry)
        else:
            names = await _children(store, node)
            inside = [name for name in names if not name.startswith((".", "zarr.json"))]
            queue.extend(f"{node}/{name}" if node else name for name in inside)
    return found


async def _document(store: Store, node: str) -> dict[str, Any] | None:
    """Return the metadata of a node with its attributes, or None if it is not a Zarr node."""
    for name in ("zarr.json", ".zarray", ".zgroup"):
        document = await _json(store, f"{node}/{name}" if node else name)
        if document is not None:
            if name == ".zgroup":
                attributes = await _json(store, f"{node}/.zattrs" if node else ".zattrs")
                document["attributes"] = attributes or {}
            return document
    return None


async def _json(store: Store, key: str) -> dict[str, Any] | None:
    value = await store.get(key, prototype=default_buffer_prototype())
    if value is None:
        return None
    try:
        document = json.loads(value.to_bytes())
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _entry(path: str, document: dict[str, Any]) -> Entry | None:
    if "shape" in document:
        kind = document.get("data_type", document.get("dtype", "unknown"))
        if isinstance(kind, dict):
            kind = kind.get("name", "unknown")
        return Entry(
            path, kind if isinstance(kind, str) else "records", _extents(document["shape"])
        )
    attributes = document.get("attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    encoding = attributes.get("encoding-type")
    if encoding in ("csr_matrix", "csc_matrix"):
        return Entry(path, f"sparse group ({encoding})", _extents(attributes.get("shape")))
    described = attributes.get("binsparse")
    if isinstance(described, dict):
        inner = described.get("binsparse", described)
        described = inner if isinstance(inner, dict) else {}
        kind = f"sparse group (binsparse {described.get('format')})"
        return Entry(path, kind, _extents(described.get("shape")))
    return None


def _extents(shape: Any) -> tuple[int, ...]:
    """Write a shape for people; empty if it is not one."""
    return tuple(shape) if isinstance(shape, list) else ()
