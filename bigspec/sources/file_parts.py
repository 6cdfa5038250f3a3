"""Single files behind a URL, through either client: their lengths, and ranges of their bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bigspec.sources.object_store import RemoteStore

if TYPE_CHECKING:
    from zarr.storage import FsspecStore

__all__ = ["described_at", "part_at"]


async def described_at(store: FsspecStore | RemoteStore, path: str) -> dict[str, Any]:
    """Return what a store says of a file."""
    if isinstance(store, RemoteStore):
        if (said := await store.described(path)) is None:
            raise FileNotFoundError(path)
        return said
    told: dict[str, Any] = await store.fs._info(path)
    return told


async def part_at(store: FsspecStore | RemoteStore, path: str, start: int, length: int) -> bytes:
    """Return a range of a file."""
    if isinstance(store, RemoteStore):
        return await store.part(path, start, length)
    return bytes(await store.fs._cat_file(path, start=start, end=start + length))
