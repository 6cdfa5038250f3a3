"""Versioned and virtual stores: icechunk's repositories, kerchunk's references."""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zarr.storage import FsspecStore

from bigspec.errors import ArgumentError, MissingSourceError, SourceError, needs
from bigspec.names import shown
from bigspec.sources import retries
from bigspec.sources.object_options import settings_for
from bigspec.sources.storage_options import Options, options_for

if TYPE_CHECKING:
    from zarr.abc.store import Store
    from zarr.core.buffer import Buffer, BufferPrototype

__all__ = [
    "REPOSITORY",
    "ReferenceStore",
    "is_repository",
    "protocols_of",
    "reference_identity",
    "reference_store",
    "refers_to_files",
    "virtual_store",
]

ICECHUNK = "icechunk://"
KINDS = ("branch", "tag", "snapshot")
REPOSITORY = {"refs", "snapshots", "transactions"}
"""Folders in every repository."""
SNAPSHOT_LENGTH = 20
"""Of the id of a snapshot."""
HEAD = 4096
"""Bytes of a JSON file that say whether it holds references."""


class ReferenceStore(FsspecStore):
    """Kerchunk's references in Parquet: Zarr 2 by definition, so they have no key of Zarr 3.

    fsspec takes ``zarr.json`` for the number of a chunk there, and fails.
    """

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: Any = None
    ) -> Buffer | None:
        """Return what lies at a key, or None."""
        if key.rpartition("/")[2] == "zarr.json":
            return None
        return await super().get(key, prototype, byte_range)


def virtual_store(place: str, text: str, options: Options | None = None) -> Store | None:
    """Return the store of a repository or of a local file of references; None if it is neither.

    Parameters
    ----------
    place : str
        ``icechunk://PATH_OR_URL``, or a path; of a repository with ``@main``, ``@branch:main``,
        ``@tag:v1`` or ``@snapshot:ID`` behind it.
    text : str
        All that the user wrote, for messages.
    options : dict, optional
        Credentials and settings; see `bigspec.sources.storage_options`.

    Raises
    ------
    MissingSourceError, SourceError, StoreUnavailableError
        No repository, no such branch, tag or snapshot, a package that is not installed.
    """
    if place.startswith(ICECHUNK):
        inner = place.removeprefix(ICECHUNK)
        return _opened(*_split(inner), shown(text), options_for(inner, options))
    if "://" in place or "::" in place:
        return None
    path, at = _split(place)
    for held, version in ((place, ""), (path, at)):
        if is_repository(Path(held).expanduser()):
            return _opened(held, version, shown(text), {})
    if _holds_references(Path(place).expanduser()):
        return reference_store(f"reference://::{Path(place).expanduser().absolute()}")
    return None


def is_repository(folder: Path) -> bool:
    """Whether a local folder is a repository of icechunk's."""
    return folder.is_dir() and all((folder / name).is_dir() for name in REPOSITORY)


def reference_store(url: str, options: Options | None = None) -> FsspecStore:
    """Return the store of a ``reference://`` URL."""
    store = retries.with_retries(
        lambda: FsspecStore.from_url(url, storage_options=options, read_only=True)
    )
    system = getattr(store.fs, "sync_fs", store.fs)
    if not hasattr(getattr(system, "references", None), "zmetadata"):  # they lie in JSON
        return store
    return ReferenceStore(
        fs=store.fs, read_only=True, path=store.path, allowed_exceptions=store.allowed_exceptions
    )


def reference_identity(store: Any) -> str | None:
    """Return a digest of references, whatever their file is called; None for another store.

    Two files of references may have the same metadata: they differ in where the chunks lie.
    """
    system = getattr(getattr(store, "fs", None), "sync_fs", getattr(store, "fs", None))
    return None if getattr(system, "references", None) is None else _digest(system)


def refers_to_files(store: Any) -> bool:
    """Whether references in JSON name files of this machine and nothing else.

    False for those in Parquet, which are read only as they are needed.
    """
    outer = getattr(store, "fs", None)
    system: Any = getattr(outer, "sync_fs", outer)
    held = getattr(system, "references", None)
    return isinstance(held, dict) and all(
        "file" in protocols_of(one) for one in system.fss.values()
    )


def protocols_of(system: Any) -> set[str]:
    """Return the names of a file system of fsspec's."""
    protocol = system.protocol
    return {protocol} if isinstance(protocol, str) else set(protocol)


@lru_cache(maxsize=16)
def _digest(system: Any) -> str:
    references, digest = system.references, hashlib.sha256()
    if hasattr(references, "zmetadata"):  # in Parquet, read chunk by chunk
        digest.update(json.dumps([references.root, references.zmetadata], sort_keys=True).encode())
    else:
        for item in sorted(references.items()):
            digest.update(repr(item).encode())
    return f"references:{digest.hexdigest()[:32]}"


def _split(place: str) -> tuple[str, str]:
    """Split a path at the last ``@`` in its last part."""
    head, slash, last = place.rpartition("/")
    name, mark, version = last.partition("@")
    return (f"{head}{slash}{name}", version) if mark and name else (place, "")


def _holds_references(path: Path) -> bool:
    """Whether a file or folder holds kerchunk's references, by its beginning."""
    try:
        if path.is_dir():
            held = json.loads((path / ".zmetadata").read_text(encoding="utf-8"))
            return "record_size" in held
        if path.suffix.lower() != ".json" or not path.is_file():
            return False
        with path.open(encoding="utf-8") as file:
            head = file.read(HEAD)
    except (OSError, ValueError):
        return False
    return '"refs"' in head or '".zgroup"' in head


def _opened(place: str, version: str, name: str, options: Options) -> Store:
    """Open a repository for reading at a branch, a tag or a snapshot: main by default."""
    try:
        import icechunk
    except ImportError as error:
        msg = f"{name}: {needs('an icechunk repository', 'icechunk', 'icechunk')}"
        raise SourceError(msg) from error
    try:
        repository = retries.with_retries(
            lambda: icechunk.Repository.open(_storage(icechunk, place, name, options))
        )
        wanted = _version(repository, version, name)
        session = retries.with_retries(lambda: repository.readonly_session(**wanted))
    except icechunk.IcechunkError as error:
        cause = next((line.strip(" |`->x") for line in str(error).splitlines() if line.strip()), "")
        if "doesn't exist" in cause:
            msg = f"{name}: no icechunk repository lies there; check the path"
            raise MissingSourceError(msg) from error
        msg = f"{name}: icechunk cannot open it ({shown(cause)})"
        raise SourceError(msg) from error
    store: Store = session.store
    return store


def _storage(icechunk: Any, place: str, name: str, options: Options) -> Any:
    """Return where a repository lies; credentials come from options or the environment."""
    scheme, mark, rest = place.partition("://")
    if not mark or scheme in ("file", "local"):
        path = Path(rest if mark else place).expanduser().absolute()
        if not path.is_dir():  # icechunk would make the folder
            msg = f"{name}: no icechunk repository lies there; check the path"
            raise MissingSourceError(msg)
        return icechunk.local_filesystem_storage(str(path))
    bucket, _, prefix = rest.strip("/").partition("/")
    if scheme in ("s3", "s3a"):
        own = _amazon(options)
        endpoint = (
            own.pop("endpoint_url", None)
            or os.environ.get("AWS_ENDPOINT_URL_S3")
            or os.environ.get("AWS_ENDPOINT_URL")
        )
        return icechunk.s3_storage(
            bucket=bucket,
            prefix=prefix or None,
            region=own.pop("region", None)
            or os.environ.get("AWS_REGION")
            or os.environ.get("AWS_DEFAULT_REGION"),
            endpoint_url=endpoint,
            allow_http=bool(endpoint and endpoint.startswith("http://")),
            force_path_style=bool(endpoint),
            **(own or {"from_env": True}),
        )
    if options:
        msg = (
            f"storage_options: expected none for {scheme}:// behind icechunk://, got "
            f"{', '.join(sorted(options))}; put the credentials into the environment"
        )
        raise ArgumentError(msg)
    if scheme in ("gs", "gcs"):
        return icechunk.gcs_storage(bucket=bucket, prefix=prefix or None, from_env=True)
    msg = (
        f"{name}: expected an icechunk repository at a path, s3:// or gs://, got {scheme}://; open "
        "it with icechunk and pass zarr.open(session.store)[...]"
    )
    raise SourceError(msg)


def _amazon(options: Options) -> dict[str, Any]:
    """Return arguments of icechunk's for a store at S3, of the options that s3fs has."""
    config = settings_for("s3", "s3://", options).config
    names = {
        "access_key_id": "access_key_id",
        "secret_access_key": "secret_access_key",
        "session_token": "session_token",
        "endpoint": "endpoint_url",
        "region": "region",
        "skip_signature": "anonymous",
    }
    for name in config:
        if name not in names:
            msg = (
                f"storage_options: {name!r} is an option that icechunk:// does not take; leave it "
                "out"
            )
            raise ArgumentError(msg)
    return {names[name]: value for name, value in config.items()}


def _version(repository: Any, version: str, name: str) -> dict[str, str]:
    """Return the arguments of `readonly_session`."""
    if not version:
        return {"branch": "main"}
    kind, mark, value = version.partition(":")
    if mark and kind not in KINDS:
        msg = f"{name}: expected @branch:, @tag: or @snapshot: and a name, got @{version}"
        raise ArgumentError(msg)
    branches, tags = set(repository.list_branches()), set(repository.list_tags())
    if not mark:
        both = {"branch": branches, "tag": tags}
        found = [one for one, there in both.items() if version in there]
        if len(found) > 1:
            msg = (
                f"{name}: {version!r} is a branch and a tag; say which, as in @branch:{version} or "
                f"@tag:{version}"
            )
            raise ArgumentError(msg)
        kind, value = (found or ["snapshot"])[0], version
    known = {"branch": branches, "tag": tags}.get(kind)
    snapshot = kind == "snapshot" and len(value) == SNAPSHOT_LENGTH and value.isalnum()
    if not snapshot and value not in (known or ()):
        listed = f"branches {_names(branches)}; tags {_names(tags)}"
        msg = f"{name}: no branch, tag or snapshot {value!r} in the repository; it has {listed}"
        raise MissingSourceError(msg)
    return {"snapshot_id" if kind == "snapshot" else kind: value}


def _names(there: set[str]) -> str:
    return ", ".join(sorted(map(shown, there))[:8]) or "none"
