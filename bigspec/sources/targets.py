"""Zarr arrays that bigspec writes: made beforehand, marked complete at the end."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.core.sync import sync
from zarr.storage import LocalStore

from bigspec.errors import ArgumentError, BigspecError, CheckpointInUseError, DestinationError
from bigspec.sources import catalog, retries
from bigspec.sources.locations import open_failure
from bigspec.sources.object_store import remote_store
from bigspec.sources.storage_options import Options

__all__ = [
    "check_target",
    "complete_target",
    "create_target",
    "target_store",
    "write_failure",
    "write_rows",
]

Array = np.ndarray[Any, Any]

SCHEMA = "bigspec.vectors/1"
OWNER = "owner"  # lies in the array's folder while a run writes it; see `bigspec.run.target`


def check_target(
    where: str | os.PathLike[str], argument: str, options: Options | None = None
) -> None:
    """Refuse, before any work, a place that cannot be written or holds something else.

    Raises
    ------
    ArgumentError
        Something lies there that bigspec did not write.
    SourceError, StoreUnavailableError
        The place cannot be reached.
    """
    _free(target_store(where, argument, options), where, argument)


def create_target(
    where: str | os.PathLike[str],
    shape: tuple[int, int],
    rows: int,
    dtype: np.dtype[Any],
    argument: str,
    options: Options | None = None,
) -> zarr.Array[Any]:
    """Make an array of whole-row chunks, marked incomplete; vectors written before are replaced.

    The document of the owner stays. Every array has an id of its own in its attributes, so a run
    that writes to an array that was replaced meanwhile gets an error.
    """
    store = target_store(where, argument, options)
    _free(store, where, argument)
    attributes: dict[str, Any] = {
        "schema": SCHEMA,
        "complete": False,
        "written_by": uuid.uuid4().hex,
    }

    def make() -> zarr.Array[Any]:
        sync(store.delete("zarr.json"))
        sync(store.delete_dir("c"))
        return zarr.create_array(
            store,
            shape=shape,
            chunks=(max(1, rows), shape[1]),
            dtype=dtype,
            compressors=None,  # the last bits of singular vectors are random
            attributes=attributes,
        )

    try:
        return retries.with_retries(make)
    except Exception as error:
        raise write_failure(error, os.fspath(where)) from error


def write_rows(target: zarr.Array[Any], start: int, stop: int, rows: Array) -> None:
    """Write whole chunks of rows, with retries.

    Raises
    ------
    CheckpointInUseError
        Another run has made its own array there.
    """
    _check_ours(target)
    try:
        retries.with_retries(lambda: target.__setitem__(slice(start, stop), rows))
    except Exception as error:
        raise write_failure(error, str(target.store_path)) from error


def complete_target(target: zarr.Array[Any]) -> zarr.Array[Any]:
    """Mark an array complete, and return it as it can be read.

    Raises
    ------
    CheckpointInUseError
        Another run has made its own array there.
    """
    _check_ours(target)
    try:
        retries.with_retries(lambda: target.update_attributes({"complete": True}))
    except Exception as error:
        raise write_failure(error, str(target.store_path)) from error
    return target


def _check_ours(target: zarr.Array[Any]) -> None:
    """Read the attributes again: one small read beside the write of a chunk."""

    def written_by() -> Any:
        now = zarr.open_array(target.store, path=target.path, mode="r", zarr_format=3)
        return now.attrs.get("written_by")

    try:
        now = retries.with_retries(written_by)
    except FileNotFoundError:
        now = None
    if now != target.attrs["written_by"]:
        msg = (
            f"u_store: expected the array that this run writes to {target.store}, got another "
            "one: a second run has taken the place, or somebody has removed it. Run again, with "
            "a place of its own for each run"
        )
        raise CheckpointInUseError(msg)


def write_failure(error: Exception, where: str) -> Exception:
    """Return the error for a write that ended in `error`: a full disk is no bad source."""
    if retries.is_forbidden(error):
        return DestinationError(
            f"{where}: this process may not write there ({retries.cause_of(error)}); check "
            "the permissions, or the credentials in the environment"
        )
    final = isinstance(error, OSError) and not retries.is_transient(error)
    if not final or isinstance(error, BigspecError):
        return open_failure(error, where)
    return DestinationError(
        f"{where}: cannot be written ({error}). Make room, or name another place "
        "for the vectors, and run it again"
    )


def target_store(
    where: str | os.PathLike[str], argument: str, options: Options | None = None
) -> Any:
    """Return the store at a place, to be written to, with the options of a URL.

    Raises
    ------
    ArgumentError
        No place, or a file.
    SourceError, StoreUnavailableError
    """
    if not isinstance(where, (str, os.PathLike)) or not os.fspath(where):
        msg = f"{argument}: expected a path or URL, got {where!r}"
        raise ArgumentError(msg)
    text = os.fspath(where).removeprefix("file://").removeprefix("local://")
    if "://" in text:
        try:
            return remote_store(text, options, read_only=False)
        except Exception as error:
            raise open_failure(error, text) from error
    path = Path(text).expanduser().absolute()
    if path.exists() and not path.is_dir():
        msg = f"{argument}: expected a path for a Zarr array, got the file {text!r}"
        raise ArgumentError(msg)
    return LocalStore(path, read_only=False)


def _free(store: Any, where: str | os.PathLike[str], argument: str) -> None:
    if isinstance(store, LocalStore) and not store.root.exists():
        return
    try:
        if catalog.zarr_format(store, "") == 3:
            node = retries.with_retries(lambda: zarr.open(store=store, mode="r", zarr_format=3))
            free = node.attrs.get("schema") == SCHEMA
        else:
            free = not set(catalog.children(store, "")) - {OWNER}
    except Exception as error:
        raise open_failure(error, os.fspath(where)) from error
    if not free:
        msg = (
            f"{argument}: expected an empty place or vectors that bigspec wrote, got "
            f"{os.fspath(where)!r} with something else in it; name another place"
        )
        raise ArgumentError(msg)
