"""Documents on any store: attributes of Zarr groups, each written at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from zarr.buffer import default_buffer_prototype
from zarr.buffer.cpu import Buffer
from zarr.core.sync import sync

from bigspec.sources import locations, retries
from bigspec.sources.object_store import RemoteStore

__all__ = ["Damaged", "Documents", "document_key"]

T = TypeVar("T")

LITTER = ".partial"  # how a local store's unfinished files end; a kill leaves them


class Damaged(Exception):  # noqa: N818
    """A record or a block is damaged; the text says which and how."""

    tag: Any = None


class Documents:
    """A place that holds documents.

    Parameters
    ----------
    files : zarr.abc.store.Store
    where : str
        Its name in messages.
    local : bool
        Whether it lies in a file system of this machine.
    """

    advice: ClassVar[str] = "Wait for it, or name another place"

    def __init__(self, files: Any, where: str, *, local: bool) -> None:
        self.files, self.where, self.local = files, where, local

    def names(self, path: str) -> list[str]:
        """List the names directly under `path`, sorted, without documents and litter."""
        return [name for name in self._listed(path) if not name.endswith(LITTER)]

    def _listed(self, path: str) -> list[str]:
        async def listed() -> list[str]:
            return [name async for name in self.files.list_dir(path)]

        if (fs := getattr(self.files, "fs", None)) is not None:
            fs.invalidate_cache()  # other processes write here, too
        try:
            names = {name.strip("/") for name in self._reading(lambda: sync(listed()))}
        except FileNotFoundError:
            return []
        return sorted(names - {"zarr.json"})

    def read_document(self, path: str) -> dict[str, Any] | None:
        """Return the attributes of the group at `path`, or None if there is none.

        Raises
        ------
        Damaged
        """
        text = self._get(document_key(path))
        if text is None:
            return None
        return _attributes(text, path)

    def write_document(self, path: str, attributes: dict[str, Any], *, new: bool = False) -> None:
        """Write a group and its attributes in one write; if `new`, only where there is none."""
        self._set(document_key(path), _document(attributes), new=new)

    @property
    def conditional(self) -> bool:
        """Whether the store writes on a condition, so that of two writers one is refused."""
        return isinstance(self.files, RemoteStore) and self.files.kind != "http"

    def read_tagged(self, path: str) -> tuple[dict[str, Any] | None, Any]:
        """Read a document, with the tag of this version of it where the store is `conditional`.

        Raises
        ------
        Damaged
            Its `tag` is that of the damaged version.
        """
        if not self.conditional:
            return self.read_document(path), None
        found = self._reading(lambda: sync(self.files.get_tagged(document_key(path))))
        if found is None:
            return None, None
        text, tag = found
        try:
            return _attributes(text, path), tag
        except Damaged as error:
            error.tag = tag
            raise

    def write_if(self, path: str, attributes: dict[str, Any], tag: Any) -> Any:
        """Write a document where there is none, or over the version of this tag.

        Returns
        -------
        dict or None
            The tag of what was written; None if the store refused it.

        Raises
        ------
        NotImplementedError
            The server has no conditional writes.
        """
        key, value = document_key(path), _document(attributes)
        return retries.with_retries(lambda: sync(self.files.put_if(key, value, tag)))

    def remove_document(self, path: str) -> None:
        """Remove a group that has only its document."""
        self._remove(path)

    def _remove(self, path: str) -> None:
        retries.with_retries(lambda: sync(self.files.delete_dir(path)))

    def _set(self, key: str, value: Any, *, new: bool = False) -> None:
        write = self.files.set_if_not_exists if new else self.files.set
        retries.with_retries(lambda: sync(write(key, value)))

    def _get(self, key: str) -> bytes | None:
        prototype = default_buffer_prototype()
        try:
            value = self._reading(lambda: sync(self.files.get(key, prototype=prototype)))
        except FileNotFoundError:  # a read-only store whose folder is missing
            return None
        return None if value is None else value.to_bytes()

    def _reading(self, read: Callable[[], T]) -> T:
        """Read with retries; a store that goes on failing becomes a `StoreUnavailableError`."""
        try:
            return retries.with_retries(read)
        except Exception as error:
            if retries.is_transient(error) or isinstance(error, PermissionError):
                raise locations.open_failure(error, self.where) from error
            raise


def _document(attributes: dict[str, Any]) -> Buffer:
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return Buffer.from_bytes(json.dumps(document, indent=1, allow_nan=False).encode())


def _attributes(text: bytes, path: str) -> dict[str, Any]:
    try:
        attributes = json.loads(text)["attributes"]
    except (ValueError, KeyError, TypeError, RecursionError):
        attributes = None
    if not isinstance(attributes, dict):
        msg = f"{path}/zarr.json is not the document of a Zarr group"
        raise Damaged(msg)
    return attributes


def document_key(path: str) -> str:
    """Return where the document of a group lies."""
    return f"{path}/zarr.json" if path else "zarr.json"
