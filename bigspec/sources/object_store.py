"""Stores at s3, gs, az, http and https, through obstore where it is installed.

obstore is in Rust. It releases the GIL and keeps its connections, and takes a fraction of the CPU
time of clients in Python. fsspec opens all other URLs, and these where obstore is not installed.
"""

from __future__ import annotations

from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from zarr.storage import FsspecStore, ObjectStore

from bigspec.names import shown
from bigspec.sources import object_options, retries
from bigspec.sources.object_options import (
    Settings,
    no_client,
    refused,
    settings_for,
    unknown,
    without_values,
)
from bigspec.sources.storage_options import ALIASES, Options, options_for, protocol_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

__all__ = ["RemoteStore", "file_names", "remote_store"]

OLDEST = (0, 12)
SCHEMES = {"s3": "s3", "gs": "gs", "az": "abfs", "http": "http"}
"""Names by fsspec of the kinds of stores, which identities in saved runs have."""
TAGS = {"http": ("ETag", "Last-Modified"), "az": ("etag", "last_modified")}


def remote_store(url: str, options: Options | None, *, read_only: bool) -> Store:
    """Open the store at a URL, without reading from it; some protocols (ftp) connect.

    Parameters
    ----------
    url : str
    options : dict, optional
        See `bigspec.sources.storage_options`.
    read_only : bool

    Raises
    ------
    ArgumentError
        An option that its client does not know.
    ImportError, ValueError, OSError
        Of fsspec.
    """
    mine, protocol = options_for(url, options), protocol_of(url)
    kind = ALIASES.get(protocol, protocol)
    if kind in SCHEMES and "::" not in url and _has_obstore():
        return _opened(kind, url, mine, read_only=read_only)
    given = object_options.for_fsspec(kind, mine) if options else {}  # it knows its own
    try:
        return retries.with_retries(
            lambda: FsspecStore.from_url(url, storage_options=given, read_only=read_only)
        )
    except (TypeError, ValueError) as error:  # of a file system's constructor
        if (made := refused(url, error, given)) is error:
            raise
        raise made from error


def _has_obstore() -> bool:
    """Whether obstore is here, and new enough for the settings of its client."""
    if find_spec("obstore") is None:
        return False
    found = tuple(int(part) for part in version("obstore").split(".")[:2])
    return found >= OLDEST


def _opened(kind: str, url: str, options: Options, *, read_only: bool) -> RemoteStore:
    from obstore.exceptions import BaseError, UnknownConfigurationKeyError

    settings = settings_for(kind, url, options)
    try:
        inner = _store_of(kind, url, settings)
    except UnknownConfigurationKeyError as error:
        named = (name for name in options if repr(name) in str(error))
        raise unknown(next(named, str(error)[:80])) from error
    except (BaseError, TypeError, ValueError) as error:
        cause = without_values(retries.cause_of(error), settings)
        if (name := cause.rpartition("Invalid key: ")[2].rstrip(".")) in settings.client:
            raise unknown(name) from error
        raise no_client(url, cause) from error
    return RemoteStore(inner, url, options, read_only=read_only)


def _store_of(kind: str, url: str, settings: Settings) -> Any:
    from obstore import store

    client: Any = settings.client
    once: Any = {"max_retries": 0}  # `retries` repeats requests, and counts that
    if kind == "http":
        parts = urlsplit(url)
        plain = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        return store.HTTPStore.from_url(urlunsplit(plain), client_options=client, retry_config=once)
    more: dict[str, Any] = {}
    if settings.provider is not None:
        more["credential_provider"] = settings.provider
    bucket, prefix = _place(url)
    if kind == "az":
        container, _, host = bucket.partition("@")
        if host:
            settings.config.setdefault("account_name", host.partition(".")[0])
        bucket = container
    make = {"s3": store.S3Store, "gs": store.GCSStore, "az": store.AzureStore}[kind]
    return make(
        bucket,
        prefix=prefix or None,
        config=settings.config,
        client_options=client,
        retry_config=once,
        **more,
    )


def file_names(found: Iterable[dict[str, Any]]) -> list[str]:
    """Return the names of the files in a listing of fsspec's, sorted."""
    files = (str(entry["name"]) for entry in found if entry.get("type") != "directory")
    return sorted(file.rstrip("/").rpartition("/")[2] for file in files)


def _place(url: str) -> tuple[str, str]:
    """Return the bucket and what follows it; keys may have any character, ``?`` and ``#`` too."""
    bucket, _, prefix = url.partition("://")[2].partition("/")
    return bucket, prefix.strip("/")


@contextmanager
def os_errors() -> Iterator[None]:
    """Turn errors of obstore's into those that other clients raise."""
    try:
        yield
    except Exception as error:
        made = retries.as_os_error(error)
        if made is error:
            raise
        if retries.http_status(made) == 404:  # of a listing: no such bucket
            made = FileNotFoundError(str(made))
        raise made from None  # it has the text, without pages of debugging


class RemoteStore(ObjectStore[Any]):
    """A store of obstore's that knows its URL.

    Parameters
    ----------
    store : obstore store
    url : str
        With its secrets, which never leave it: see `where`.
    options : dict
        For listings of HTTP servers, which fsspec takes from their pages.
    read_only : bool

    Attributes
    ----------
    kind : {"s3", "gs", "az", "http"}
    """

    def __init__(
        self, store: Any, url: str, options: Options | None = None, *, read_only: bool = False
    ) -> None:
        super().__init__(store, read_only=read_only)
        protocol = protocol_of(url)
        self.url, self.options, self.kind = url, options or {}, ALIASES.get(protocol, protocol)
        self._loose = False  # whether its server has sent a part without saying which

    def with_read_only(self, read_only: bool = False) -> RemoteStore:
        """Return the same store, for reading only or for writing too."""
        return RemoteStore(self.store, self.url, self.options, read_only=read_only)

    def __str__(self) -> str:
        return shown(self.url)

    @property
    def path(self) -> str:
        """The path that fsspec's store would have: all of the URL, or bucket and prefix."""
        if self.kind == "http":
            return self.url.rstrip("/")
        bucket, prefix = _place(self.url)
        return f"{bucket.partition('@')[0]}/{prefix}".strip("/")

    @property
    def scheme(self) -> str:
        """The protocol by its name in identities."""
        return SCHEMES[self.kind]

    @property
    def supports_listing(self) -> bool:
        """Whether names can be listed: on HTTP servers only as far as their pages have links."""
        return self.kind != "http" or find_spec("aiohttp") is not None

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return what lies at a key, or a part of it; None if nothing is there."""
        if byte_range is None or not self._loose:
            try:
                with os_errors():
                    return await super().get(key, prototype, byte_range)
            except OSError as error:
                if not self._says_no_range(error):
                    raise
        return await self._pages().get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        """Write, in one request."""
        with os_errors():
            await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write, unless something is there."""
        await self.put_if(key, value)

    async def exists(self, key: str) -> bool:
        """Whether something lies at a key."""
        with os_errors():
            return await super().exists(key)

    async def delete(self, key: str) -> None:
        """Remove what lies at a key, if anything does."""
        with os_errors():
            await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        """Remove everything below a prefix."""
        with os_errors():
            await super().delete_dir(prefix)

    async def getsize_prefix(self, prefix: str) -> int:
        """Return the bytes below a prefix."""
        with os_errors():
            return await super().getsize_prefix(prefix)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:  # type: ignore[override]
        """List the names directly under a prefix."""
        if self.kind == "http":
            if not self.supports_listing:
                return
            async for name in self._pages().list_dir(prefix):
                yield name
            return
        with os_errors():
            async for name in super().list_dir(prefix):
                yield name

    def _pages(self) -> FsspecStore:
        return FsspecStore.from_url(self.url, storage_options=self.options, read_only=True)

    async def files(self) -> list[str]:
        """Return the names of the objects directly at the URL, sorted, without folders."""
        import obstore

        if self.kind == "http":
            if not self.supports_listing:
                return []
            pages = self._pages()
            return file_names(await pages.fs._ls(pages.path, detail=True))
        with os_errors():
            found = await obstore.list_with_delimiter_async(self.store)
        return sorted(item["path"].rpartition("/")[2] for item in found["objects"])

    async def lists(self, key: str) -> bool:
        """Whether a listing has a key, by one request for the names that follow its place."""
        import obstore

        folder, _, last = key.rpartition("/")
        before = f"{folder}/{last[:-1]}{chr(ord(last[-1]) - 1)}~" if len(last) > 1 else None
        stream = obstore.list(self.store, prefix=folder or None, offset=before, chunk_size=1000)
        try:
            with os_errors():
                async for batch in stream:
                    if any(item["path"] == key for item in batch):
                        return True
                    if before is not None or batch[-1]["path"] > key:
                        return False
        except FileNotFoundError:  # the bucket is gone
            return False
        return False

    async def put_if(self, key: str, value: Buffer, tag: Any = None) -> Any:
        """Write where nothing lies, or over exactly the version that `tag` names.

        Parameters
        ----------
        key : str
        value : Buffer
        tag : dict, optional
            What an earlier `put_if` or `get_tagged` returned.

        Returns
        -------
        dict or None
            The tag of what was written; None if another writer was first.

        Raises
        ------
        NotImplementedError
            The server has no conditional writes.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        mode: Any = "create" if tag is None else {k: v for k, v in tag.items() if v is not None}
        if not mode:  # this server does not tell versions apart
            raise NotImplementedError(str(self))
        self._check_writable()
        try:
            with os_errors():
                return await obstore.put_async(self.store, key, value.to_bytes(), mode=mode)
        except (AlreadyExistsError, PreconditionError):
            return None
        except FileNotFoundError:
            if tag is None:  # there is no such bucket
                raise
            return None  # the version of this tag was deleted
        except NotSupportedError as error:
            raise NotImplementedError(str(self)) from error
        except OSError as error:
            if retries.http_status(error) == 409:  # S3: another conditional write is under way
                return None
            if retries.http_status(error) == 501:
                raise NotImplementedError(str(self)) from error
            raise

    async def get_tagged(self, key: str) -> tuple[bytes, Any] | None:
        """Return what lies at a key and the tag of its version; None if nothing is there."""
        import obstore

        try:
            with os_errors():
                got = await obstore.get_async(self.store, key)
                meta = got.meta
                return bytes(await got.bytes_async()), {k: meta[k] for k in ("e_tag", "version")}
        except FileNotFoundError:
            return None

    async def described(self, key: str) -> dict[str, Any] | None:
        """Return the size of an object and the evidence of its version; None if nothing is there.

        The keys are those of fsspec's clients: either client gives the same evidence.
        """
        import obstore

        try:
            with os_errors():
                return self._version(await obstore.head_async(self.store, key))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _version(self, meta: Any) -> dict[str, Any]:
        tag, changed = TAGS.get(self.kind, ("ETag", "LastModified"))
        said = {"size": int(meta["size"]), tag: meta["e_tag"], changed: meta["last_modified"]}
        return said | ({"generation": meta["version"]} if self.kind == "gs" else {})

    async def part(self, key: str, start: int, length: int) -> tuple[bytes, dict[str, Any]]:
        """Return a range of an object, and what its response says of the object; or nothing."""
        import obstore
        from obstore.exceptions import NotSupportedError

        stop = start + length
        if not self._loose:
            try:
                with os_errors():
                    got = await obstore.get_async(self.store, key, options={"range": (start, stop)})
                    return bytes(await got.bytes_async()), self._version(got.meta)
            except NotSupportedError:
                return b"", {}
            except OSError as error:
                if not self._says_no_range(error):
                    raise
        pages = self._pages()
        path = f"{pages.path}/{key}" if key else pages.path
        return bytes(await pages.fs._cat_file(path, start=start, end=stop)), {}

    def _says_no_range(self, error: OSError) -> bool:
        """Whether a server sent a part without saying which, which only fsspec accepts."""
        said = "Content-Range" in str(error) and self.supports_listing and self.kind == "http"
        self._loose = self._loose or said
        return said

    def beside(self, name: str) -> RemoteStore:
        """Return the store of another file in the same folder."""
        before, separator, query = self.url.partition("?" if self.kind == "http" else "\0")
        url = f"{before.rpartition('/')[0]}/{name}{separator}{query}"
        store: Any = remote_store(url, self.options, read_only=self.read_only)
        assert isinstance(store, RemoteStore)
        return store
