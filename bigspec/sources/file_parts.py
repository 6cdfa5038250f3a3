"""Files behind a URL, through either client: what tells a version, and ranges of their bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bigspec.sources.object_store import RemoteStore

if TYPE_CHECKING:
    from zarr.storage import FsspecStore

__all__ = ["described_at", "evidence_in", "is_other", "part_at"]

NO_TIME = datetime.fromtimestamp(0, UTC)
"""What obstore says of a response without a time."""


async def described_at(store: FsspecStore | RemoteStore, path: str) -> dict[str, Any]:
    """Return what a store says of a file."""
    if isinstance(store, RemoteStore):
        if (said := await store.described(path)) is None:
            raise FileNotFoundError(path)
        return said
    told: dict[str, Any] = await store.fs._info(path)
    return told


async def part_at(
    store: FsspecStore | RemoteStore, path: str, start: int, length: int
) -> tuple[bytes, dict[str, Any]]:
    """Return a range of a file, and what its store says of the file that it took it from."""
    if isinstance(store, RemoteStore):
        return await store.part(path, start, length)
    return bytes(await store.fs._cat_file(path, start=start, end=start + length)), {}


def evidence_in(said: dict[str, Any]) -> str:
    """Return the evidence in what a store says of a file."""
    if generation := said.get("generation"):  # all that Google's two interfaces have in common
        return repr([said.get("size"), str(generation)])
    times = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")
    # The last is of servers without ETag; without it the evidence stays as it was.
    served = [said[key] for key in ("Last-Modified",) if said.get(key) and not said.get("ETag")]
    return repr([said.get("size"), *(str(said.get(key)) for key in times), *served])


def is_other(said: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether two descriptions are of two versions: by their tags, or else by their times."""
    for key in ("generation", "ETag", "etag", "Last-Modified", "LastModified", "last_modified"):
        one, other = said.get(key), before.get(key)
        if one and other and NO_TIME not in (one, other):
            return bool(one != other)
    return False
