"""From a path or a URL to a Zarr store and a node in it, or to an error that names the contents."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import zarr
from zarr.storage import LocalStore, ZipStore

from bigspec.errors import (
    BigspecError,
    MissingSourceError,
    SourceError,
    StoreUnavailableError,
    needs,
)
from bigspec.names import NOWHERE, bare, shown
from bigspec.sources import catalog, object_store, retries
from bigspec.sources.kinds import kind_of_file, kind_of_folder, kind_of_name
from bigspec.sources.storage_options import PROTOCOLS, Options
from bigspec.sources.virtual import REPOSITORY, reference_store, virtual_store

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = [
    "Location",
    "indexed_file",
    "local_file",
    "local_folder",
    "locate",
    "open_failure",
    "open_node",
    "place_of",
    "read_metadata",
    "remote_store",
]

INDEXED = (".h5", ".hdf5", ".he5", ".h5ad", ".mat", ".nc", ".nc4", ".netcdf", ".cdf")
"""Endings of formats that are indexed at a URL: see `bigspec.sources.remote_hdf5`."""
LOCAL_ONLY = (".npy", ".npz", ".mtx", ".mtx.gz")
"""Endings of formats that URLs cannot serve: they need a map of the file, or are read whole."""
TABLES = (".parquet", ".pq", ".arrow", ".feather", ".ipc")
"""Not matrices: see `bigspec.conversion.arrow`."""
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}


@dataclass(frozen=True)
class Location:
    """A store, the path of a node in it, and the name of both."""

    name: str
    store: Store
    path: str


def locate(text: str, options: Options | None = None) -> Location:
    """Find the store at a path or URL, without reading from it (a local path is stat'ed).

    Parameters
    ----------
    text : str
        ``dir``, ``dir/inside``, ``file.zip``, ``file.zip/inside``, ``file://...``, or any
        fsspec URL; ``::/inside`` at the end points inside the store.
    options : dict, optional
        Credentials and settings of a URL; see `bigspec.sources.storage_options`.

    Raises
    ------
    MissingSourceError
        A local path that does not exist.
    SourceError
        A file that is not a zip archive, an unknown protocol, a package that is not installed.
    """
    outer, inner = _split(text)
    for scheme in ("file://", "local://"):
        outer = outer.removeprefix(scheme)
    if (store := virtual_store(outer, text, options)) is not None:
        return Location(shown(text), store, inner)
    if "://" in outer or "::" in outer:
        return Location(shown(text), remote_store(outer, text, options), inner)
    return _locate_local(Path(os.path.abspath(Path(outer).expanduser())), inner, text)  # noqa: PTH100


def local_file(text: str) -> tuple[Path, str] | None:
    """Return the regular local file at a path, and the place inside it; else None."""
    outer, inner = _split(text)
    for scheme in ("file://", "local://"):
        outer = outer.removeprefix(scheme)
    if "://" in outer or "::" in outer:
        return None
    path = Path(os.path.abspath(Path(outer).expanduser()))  # noqa: PTH100
    return (path, inner) if path.is_file() else None


def indexed_file(text: str) -> tuple[str, str] | None:
    """Return the URL of an HDF5 or netCDF file, by its ending, and the place inside; else None.

    A chain of fsspec's, such as ``simplecache::s3://...``, is none.
    """
    outer, inner = _split(text)
    path = re.split("[?#]", outer, maxsplit=1)[0].lower()
    if "::" in outer or "://" not in outer or not path.endswith(INDEXED):
        return None
    return None if path.startswith(("file://", "local://")) else (outer, inner)


def local_folder(text: str) -> Path | None:
    """Return the local folder at a path without a place inside it; else None."""
    outer, inner = _split(text)
    for scheme in ("file://", "local://"):
        outer = outer.removeprefix(scheme)
    if "://" in outer or "::" in outer or inner:
        return None
    path = Path(os.path.abspath(Path(outer).expanduser()))  # noqa: PTH100
    return path if path.is_dir() else None


def _split(text: str) -> tuple[str, str]:
    """Split ``store::/inside``; fsspec chains such as ``zip://::s3://...`` stay whole."""
    outer, separator, inner = text.rpartition("::")
    if not separator or "://" in inner or outer.endswith("://") or not outer:
        return text, ""
    return outer, inner.strip("/")


def remote_store(url: str, name: str, options: Options | None = None) -> Store:
    """Return the store at a URL of fsspec's.

    Raises
    ------
    SourceError, StoreUnavailableError
        See `locate`.
    """
    if (lower := url.lower()).endswith(LOCAL_ONLY):
        ending = next(ending for ending in LOCAL_ONLY if lower.endswith(ending))
        msg = (
            f"{name}: expected a Zarr store at a URL, got a {ending} file, which is read from a "
            "path only; copy it to a disk that every worker sees, or write it as Zarr there"
        )
        raise SourceError(msg)
    try:  # some protocols (ftp) connect here
        if url.startswith("reference://"):
            return reference_store(url, options)
        return object_store.remote_store(url, options, read_only=True)
    except BigspecError:
        raise
    except ImportError as error:
        protocol = url.split("://", maxsplit=1)[0].split("::")[-1]
        package = _PACKAGES.get(protocol)
        install = f"pip install {package}" if package else "install the package it names"
        if package == "s3fs":
            install = needs(f"{protocol}://", "s3", package)
        elif protocol in PROTOCOLS:
            install = needs(f"{protocol}://", "remote", "obstore")
        msg = (
            f"{name}: {protocol}:// URLs need a package that is not installed ({error}); {install}"
        )
        raise SourceError(msg) from error
    except ValueError as error:
        msg = (
            f"{name}: expected a URL that fsspec knows, such as s3://bucket/A.zarr, got one that "
            f"it does not know ({error})"
        )
        raise SourceError(msg) from error
    except OSError as error:
        raise open_failure(error, name) from error


def _locate_local(path: Path, inner: str, name: str) -> Location:
    try:
        mode = path.stat().st_mode
    except PermissionError as error:
        raise open_failure(error, name) from error
    except OSError as error:
        # A.zarr.zip/X: the archive is a file on the way.
        archive = next((p for p in path.parents if p.is_file() and zipfile.is_zipfile(p)), None)
        if archive is None:
            raise MissingSourceError(_nothing_there(path, name)) from error
        below = path.relative_to(archive).as_posix()
        return Location(name, ZipStore(archive, mode="r"), "/".join(filter(None, (below, inner))))
    if stat.S_ISDIR(mode):
        return Location(name, LocalStore(path, read_only=True), inner)
    # Devices and pipes are not read: /dev/zero never ends.
    if stat.S_ISREG(mode) and zipfile.is_zipfile(path):
        return Location(name, ZipStore(path, mode="r"), inner)
    if path.suffix.lower() in TABLES:
        msg = (
            f"{name}: expected a matrix, got a table; if it holds triplets, convert it once: "
            f"bigspec convert {name} A.zarr --columns ROW,COL,VALUE"
        )
        raise SourceError(msg)
    kind = kind_of_file(path, name) if stat.S_ISREG(mode) else None
    got = kind or "another file; convert it to Zarr, or load it and pass the array"
    msg = (
        f"{name}: expected a Zarr directory, a zip archive of one, HDF5, netCDF, .npy, .npz or "
        f".mtx, got {got}"
    )
    raise SourceError(msg)


def _nothing_there(path: Path, name: str) -> str:
    parent = next((p for p in path.parents if p.is_dir()), None)
    if parent is not None:
        arrays = catalog.find_arrays(LocalStore(parent, read_only=True), "")
        if arrays:
            return f"{name}: nothing lies there; {parent} holds {catalog.describe(arrays)}"
    return f"{name}: nothing lies there; check the path (this process is in {Path.cwd()})"


def open_node(location: Location) -> zarr.Array[Any] | zarr.Group:
    """Open the Zarr array or group at a location, with retries.

    Raises
    ------
    MissingSourceError, SourceError, StoreUnavailableError
        The place does not exist, is not Zarr, or cannot be read or reached.
    """
    try:
        return retries.with_retries(lambda: read_metadata(location.store, location.path))
    except FileNotFoundError as error:
        raise _not_zarr(location) from error
    except Exception as error:
        raise open_failure(error, location.name) from error


def read_metadata(
    store: Store, path: str, zarr_format: Literal[2, 3] | None = None
) -> zarr.Array[Any] | zarr.Group:
    """Open the node at `path` for reading, with the errors of the store.

    Consolidated metadata is never used. zarr-python 3.1 refuses the whole file for one unknown
    member, and one array needs only one document. Without `zarr_format` it is looked for first.
    """
    zarr_format = zarr_format or catalog.zarr_format(store, path)
    if zarr_format is None:
        msg = f"no Zarr metadata at {path!r}"
        raise FileNotFoundError(msg)
    return zarr.open(
        store=store, path=path, mode="r", zarr_format=zarr_format, use_consolidated=False
    )


def _not_zarr(location: Location) -> Exception:
    """Return the error for a place without Zarr metadata, with the contents of the place."""
    try:
        names = catalog.children(location.store, location.path)
        arrays = catalog.find_arrays(location.store, "") if location.path and not names else []
    except Exception as error:  # noqa: BLE001, RUF100 - listing may be denied or fail on its own
        return open_failure(error, location.name)
    if set(names) >= REPOSITORY:
        return SourceError(
            f"{location.name}: expected a Zarr store, got an icechunk repository; open "
            f"icechunk://{location.name} for its branch main, or put @ and a branch, tag or "
            "snapshot behind it"
        )
    if names:
        where = "::/".join(filter(None, (location.name, location.path)))
        kind = kind_of_folder(names, where, partial(_inside, location.store, location.path))
        if kind is not None:
            return SourceError(f"{location.name}: expected a Zarr array, got {kind}")
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        return SourceError(
            f"{location.name}: expected a Zarr array, got {_container(location.store)} without "
            f"Zarr metadata (zarr.json or .zarray); it holds {shown}"
        )
    if location.path or not isinstance(location.store, LocalStore):
        inside = f"; the store holds {catalog.describe(arrays)}" if arrays else ""
        kind = kind_of_name(location.name)
        if kind is not None and not inside:
            inside = f" as Zarr; by its name it is {kind}"
        return MissingSourceError(f"{location.name}: nothing lies there{inside}")
    return SourceError(f"{location.name}: expected a Zarr array, got an empty directory")


def _inside(store: Store, path: str, name: str) -> list[str]:
    return catalog.children(store, f"{path}/{name}" if path else name)


def _container(store: Store) -> str:
    return "a zip archive" if isinstance(store, ZipStore) else "a directory"


def open_failure(error: Exception, name: str) -> Exception:
    """Return the error for a source whose opening ended in `error`; see `named_failure`."""
    cause = retries.cause_of(error)
    if isinstance(error, (BigspecError, MemoryError)):
        raise error
    if retries.is_forbidden(error) or "Credentials" in type(error).__name__:
        return SourceError(
            f"{name}: this process may not read it ({cause}); check the permissions, or the "
            "credentials in the environment or in storage_options (--storage-option)"
        )
    if retries.is_transient(error):
        return StoreUnavailableError(
            f"{name}: the store does not answer, after retries; the last failure was {cause}. "
            "Check the address and the network, then run it again"
        )
    if (status := retries.http_status(error)) is not None:
        gone = "; it was there once, and was taken away" if status == 410 else ""
        return MissingSourceError(f"{name}: the store refuses it for good ({cause}){gone}")
    if isinstance(error, zipfile.BadZipFile):
        return SourceError(f"{name}: expected a zip archive, got a damaged one ({cause})")
    return SourceError(f"{name}: its metadata cannot be read by zarr {zarr.__version__} ({cause})")


def place_of(store: Any, path: str) -> str:
    """Return the place of an array for its identity, in a store of a package other than zarr.

    An icechunk store is known by its snapshot, whose id no other repository has. The default
    `repr` of a store is an address, which means nothing in another process.
    """
    text, inner = str(bare(f"{store}/{path}" if path else str(store))), store
    while inner is not None:
        session = getattr(inner, "session", None)
        snapshot = getattr(session, "snapshot_id", None)
        if isinstance(snapshot, str):
            if getattr(session, "has_uncommitted_changes", True):
                return f"{type(inner).__qualname__} {NOWHERE} (changes are not committed)/{path}"
            return f"icechunk:{snapshot}/{path}"
        inner = getattr(inner, "_store", None)
    if re.search(r" at 0x[0-9a-fA-F]+", text):
        return f"{type(store).__module__}.{type(store).__qualname__} {NOWHERE}/{path}"
    return text
