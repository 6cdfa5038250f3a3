"""The bytes of one file, mapped from a disk or fetched by ranges, and never past its end.

For formats with a header that gives the places of the numbers. A header is only a claim, and
`Content` checks every claim against the size of the file.
"""

from __future__ import annotations

import mmap
import os
import stat
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from bigspec.errors import MissingSourceError, SourceError
from bigspec.names import shown
from bigspec.sources import retries
from bigspec.sources.file_parts import described_at, evidence_in, is_other, part_at
from bigspec.sources.locations import Location, open_failure
from bigspec.sources.object_store import RemoteStore, file_names

__all__ = [
    "Content",
    "LocalContent",
    "Reading",
    "RemoteContent",
    "file_in",
    "remote_content",
    "remote_names",
]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

BLOCK = 1 << 16
MOST = 100 << 20
"""Bytes that a header may ask for at once."""
LINE = 1 << 12


class Content(ABC):
    """The bytes of a file; it pickles small, and another process opens the file again.

    Attributes
    ----------
    name : str
        Without secrets.
    size : int
        Bytes of the file when it was opened.
    evidence : str
        Size and time of the file, if its store gives them: they change when it is written again.
    samples : int
        Small ranges to read for a digest of a large one: behind a URL each is a request.
    block : int
        Bytes of one read of a header.
    """

    name: str
    size: int
    evidence: str
    samples: int = 32
    block: int = BLOCK

    def check(self, start: int, length: int, what: str) -> None:
        """Refuse a range that lies outside the file; nothing is read.

        Parameters
        ----------
        start, length, what
            See `at`.

        Raises
        ------
        SourceError
        """
        if start < 0 or length < 0 or start + length > self.size:
            msg = (
                f"{self.name}: expected {what} at bytes {_place_text(start)} to "
                f"{_place_text(start + length)}, got a file of {self.size} bytes; it was "
                "cut short, or its header is wrong: copy it again"
            )
            raise SourceError(msg)

    def at(self, start: int, length: int, what: str) -> Bytes:
        """Return a range, read-only.

        Parameters
        ----------
        start, length : int
            From the file, so any integers.
        what : str
            Description of the range, for messages.

        Raises
        ------
        SourceError
            It lies outside the file, or the file has changed.
        """
        self.check(start, length, what)
        if not length:
            return np.empty(0, np.uint8)
        return self._range(start, length, what)

    @abstractmethod
    def _range(self, start: int, length: int, what: str) -> Bytes:
        """Return a range that lies in the file."""

    @abstractmethod
    def beside(self, name: str) -> Content:
        """Open a file by its name in the same folder, or below it."""


class LocalContent(Content):
    """A file on a disk. Each range is mapped, and unmapped once nothing uses it.

    So a network of thousands of files needs few open ones, and ranges leave memory after use.

    Parameters
    ----------
    path : Path
    name : str, optional
        By default the path.

    Raises
    ------
    MissingSourceError, SourceError
        It is not there, is no file, or may not be read.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path, self.name = path, shown(str(path) if name is None else name)
        try:
            status = path.stat()
        except FileNotFoundError as error:
            msg = f"{self.name}: nothing lies there; every worker must see the same path"
            raise MissingSourceError(msg) from error
        except OSError as error:
            raise open_failure(error, self.name) from error
        if not stat.S_ISREG(status.st_mode):
            msg = f"{self.name}: expected a file, got another kind of thing"
            raise SourceError(msg)
        self.size, self.evidence = status.st_size, _evidence(status)

    def beside(self, name: str) -> LocalContent:
        """Open a file by its name in the same folder, or below it."""
        before, slash, _ = self.name.rpartition("/")
        return LocalContent(self.path.parent / name, f"{before}{slash}{name}")

    def _range(self, start: int, length: int, what: str) -> Bytes:
        try:
            with self.path.open("rb") as file:
                # Access to a mapped page that is gone would kill the process.
                if _evidence(os.fstat(file.fileno())) != self.evidence:
                    msg = (
                        f"{self.name}: it was written again since it was opened; run again when "
                        "nothing writes to it"
                    )
                    raise SourceError(msg)
                if length <= BLOCK:
                    file.seek(start)
                    return np.frombuffer(file.read(length), np.uint8, length)
                before = start % mmap.ALLOCATIONGRANULARITY
                mapped = mmap.mmap(
                    file.fileno(), before + length, access=mmap.ACCESS_READ, offset=start - before
                )
        except OSError as error:
            raise open_failure(error, self.name) from error
        return np.frombuffer(mapped, np.uint8, length, before)


def _evidence(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns}"


class RemoteContent(Content):
    """A file behind a URL, read by ranges, each with retries.

    Parameters
    ----------
    store : zarr.storage.FsspecStore or RemoteStore
        The store with the file.
    path : str
        Of the file: in fsspec's file system, or below the URL of a `RemoteStore`.
    name : str
        Without secrets.

    Raises
    ------
    MissingSourceError, SourceError, StoreUnavailableError
        It is not there, its size is unknown, or the store does not answer.
    """

    samples, block = 2, 1 << 18

    def __init__(self, store: FsspecStore | RemoteStore, path: str, name: str) -> None:
        self.store, self.path, self.name = store, path, shown(name)
        said = _ask(lambda: sync(described_at(store, path)), self.name)
        size = said.get("size")
        if said.get("type") == "directory":
            msg = f"{self.name}: expected a file, got a folder"
            raise SourceError(msg)
        if not isinstance(size, int):
            msg = f"{self.name}: its server does not say how long it is; copy it to a disk"
            raise SourceError(msg)
        self.size, self.evidence, self._first = size, evidence_in(said), said

    def __reduce__(self) -> tuple[Any, ...]:
        return (RemoteContent, (self.store, self.path, self.name))

    def beside(self, name: str) -> RemoteContent:
        """Open a file by its name in the same folder, or below it."""
        if isinstance(self.store, RemoteStore):
            if self.path:
                return RemoteContent(self.store, _beside(self.path, name), _beside(self.name, name))
            return RemoteContent(self.store.beside(name), "", _beside(self.name, name))
        return RemoteContent(self.store, _beside(self.path, name), _beside(self.name, name))

    async def fetch(self, start: int, length: int) -> bytes:
        """Fetch a range once, for a coroutine in zarr's event loop.

        Raises
        ------
        SourceError
            It is of another version of the file, by its own headers.
        """
        got, said = await part_at(self.store, self.path, start, length)
        if is_other(said, self._first):
            msg = (
                f"{self.name}: it was written again since it was opened; run again when nothing "
                "writes to it"
            )
            raise SourceError(msg)
        return got

    async def asked_again(self) -> str:
        """Return the evidence as it is now, for a coroutine in zarr's event loop."""
        return evidence_in(await described_at(self.store, self.path))

    def _range(self, start: int, length: int, what: str) -> Bytes:
        got = _ask(lambda: sync(self.fetch(start, length)), self.name)
        if len(got) != length:
            msg = (
                f"{self.name}: expected {length} bytes of {what}, got {len(got)}; it changed, or "
                "its server sends no ranges: copy it to a disk"
            )
            raise SourceError(msg)
        return np.frombuffer(got, np.uint8)


def remote_content(location: Location) -> RemoteContent | None:
    """Return the file at a URL; None if it is a folder, or only the beginning of longer names."""
    store = location.store
    if not isinstance(store, (FsspecStore, RemoteStore)) or location.path:
        return None
    path = "" if isinstance(store, RemoteStore) else store.path
    try:
        said = retries.with_retries(lambda: sync(described_at(store, path)))
    except FileNotFoundError:
        return None
    except Exception as error:
        raise open_failure(error, location.name) from error
    if said.get("type") == "directory":
        return None
    return RemoteContent(store, path, location.name)


def remote_names(location: Location) -> list[str]:
    """Return the names of the files in a folder at a URL; none if it cannot be listed."""
    store = location.store
    if isinstance(store, RemoteStore):
        return _names_in(store, location.name)
    if not isinstance(store, FsspecStore):
        return []
    try:
        found = retries.with_retries(lambda: sync(store.fs._ls(store.path, detail=True)))
    except (FileNotFoundError, NotADirectoryError, NotImplementedError):
        return []
    except Exception as error:
        raise open_failure(error, location.name) from error
    return file_names(found)


def file_in(location: Location, name: str) -> RemoteContent:
    """Open a file of a folder at a URL."""
    store = location.store
    if isinstance(store, RemoteStore):
        return RemoteContent(store, name, f"{location.name.rstrip('/')}/{name}")
    assert isinstance(store, FsspecStore)
    within = f"{store.path.rstrip('/')}/{name}"
    return RemoteContent(store, within, f"{location.name.rstrip('/')}/{name}")


def _names_in(store: RemoteStore, name: str) -> list[str]:
    try:
        return retries.with_retries(lambda: sync(store.files()))
    except (FileNotFoundError, NotADirectoryError, NotImplementedError):
        return []
    except Exception as error:
        raise open_failure(error, name) from error


def _place_text(place: int) -> str:
    """Write a number, even one of thousands of digits, which Python refuses to write."""
    return str(place) if place.bit_length() < 256 else f"2^{place.bit_length()}"


def _ask(call: Any, name: str) -> Any:
    try:
        return retries.with_retries(call)
    except FileNotFoundError as error:
        msg = f"{name}: nothing lies there; check the address"
        raise MissingSourceError(msg) from error
    except Exception as error:
        raise open_failure(error, name) from error


def _beside(path: str, name: str) -> str:
    """Replace the last part of a path, and leave a query as it is."""
    before, separator, query = path.partition("?")
    return f"{before.rpartition('/')[0]}/{name}{separator}{query}"


class Reading:
    """A file for reading a header, which ends where the range of the content ends.

    Parameters
    ----------
    content : Content
    start, stop : int
        The range; by default the whole file.
    """

    def __init__(self, content: Content, start: int = 0, stop: int | None = None) -> None:
        self.content = content
        self.start, self.stop = start, content.size if stop is None else min(stop, content.size)
        self.place = start
        self._block, self._from = b"", start

    def read(self, count: int | None = -1) -> bytes:
        """Return up to `count` bytes; fewer at the end of the range, as files do.

        Raises
        ------
        ValueError
            More than a header has.
        """
        left = max(self.stop - self.place, 0)
        count = left if count is None or count < 0 else count
        if min(count, left) > MOST:
            msg = f"{count} bytes at once"
            raise ValueError(msg)
        count = min(count, left)
        begin = self.place - self._from
        if begin < 0 or begin + count > len(self._block):
            length = min(max(self.content.block, count), left)
            self._block = self.content.at(self.place, length, "its header").tobytes()
            self._from, begin = self.place, 0
        self.place += count
        return self._block[begin : begin + count]

    def exactly(self, count: int) -> bytes:
        """Return exactly `count` bytes; ValueError if the range ends before."""
        got = self.read(count)
        if len(got) != count:
            msg = f"{count} bytes wanted at byte {self.place - len(got)}, {len(got)} there"
            raise ValueError(msg)
        return got

    def readline(self) -> bytes:
        """Return a line, or its beginning if it is longer than a name ever is."""
        begin = self.place
        line, newline, _ = self.read(LINE).partition(b"\n")
        self.place = begin + len(line) + len(newline)
        return line + newline

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place, counted from the start of the file, the place now, or the end."""
        place = offset + (0, self.place, self.stop)[whence]
        if place < 0:
            msg = f"a place before the file ({place})"
            raise ValueError(msg)
        self.place = place
        return place

    def tell(self) -> int:
        """Return the place."""
        return self.place

    def seekable(self) -> bool:
        """Say yes."""
        return True
