"""Chunks that are not in their store: bigspec requests them again, then counts or refuses them.

By Zarr's rule a missing chunk counts as the fill value, and many stores rely on it: zarr does not
write chunks of fill values. But a store that lost a chunk, or is going away, answers the same.
So a missing chunk is requested again and sought in a listing, and the metadata is read once more.
Chunks that are still missing are counted, and reported with the answer.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, MemoryStore, StorePath, WrapperStore, ZipStore

from bigspec.errors import ArgumentError, ChunkError, MissingSourceError
from bigspec.sources.decoders import DamagedChunk
from bigspec.sources.fetching import part_of, under_way
from bigspec.sources.object_store import RemoteStore

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

    from bigspec.kernels.buffers import Buffers

__all__ = [
    "CERTAIN",
    "MISSING",
    "Absences",
    "Missing",
    "Policy",
    "as_policy",
    "asked",
    "check_length",
    "fill_text",
    "refusal",
    "rule_for",
    "stored_fill",
    "watched",
]

Policy = Literal["fill", "error"]
MISSING: tuple[Policy, ...] = ("fill", "error")
CERTAIN = (LocalStore, MemoryStore, ZipStore)
"""Stores whose answers need no listing as a proof."""
AT_ONCE = 32
"""How many chunks are requested again at once."""
MOST_REMEMBERED = 1 << 17
"""How many missing chunks a process remembers, to spare the next pass the request."""


def as_policy(value: Any) -> Policy:
    """Return the policy for missing chunks.

    Raises
    ------
    ArgumentError
    """
    if value not in MISSING:
        msg = f"missing_chunks: expected 'fill' or 'error', got {value!r}"
        raise ArgumentError(msg)
    checked: Policy = value
    return checked


@dataclass(frozen=True)
class Missing:
    """The rule for chunks that are not in the store.

    Attributes
    ----------
    policy : {"fill", "error"}
        "fill" counts them and takes the fill value; "error" refuses them.
    why : str
        The reason for refusing them, unless the user asked for it.
    """

    policy: Policy = "fill"
    why: str = ""

    @property
    def refused(self) -> bool:
        """Whether a missing chunk is an error."""
        return self.policy == "error"


NO_FILL = (
    "its metadata has no fill value (null), so nothing says what the entries of a missing chunk "
    "are. Write the chunk, or put a fill value into .zarray"
)


def rule_for(fill: Any, missing: Missing | None) -> Missing:
    """Return the rule for missing chunks of an array with this fill value."""
    rule = missing or Missing()
    return Missing("error", NO_FILL) if fill is None and not rule.why else rule


def fill_text(fill: Any) -> str:
    """Write a fill value for people; Zarr 2's None counts as 0."""
    if fill is None or fill == 0:
        return "0"
    return f"{fill:g}" if isinstance(fill, (float, np.floating)) else str(fill)


def stored_fill(fill: Any, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return a fill value in the stored type, in native byte order; None is 0."""
    return np.asarray(0 if fill is None else fill).astype(dtype.newbyteorder("="))


def refusal(name: str, key: str, why: str = "") -> ChunkError:
    """Return the error for a missing chunk where none may be missing."""
    reason = why or (
        "a missing chunk is an error by missing_chunks='error' (--missing-chunks error). Write it "
        "again, or, if its entries are the fill value, leave that option out"
    )
    return ChunkError(f"{name}: chunk {key} is not in the store; {reason}")


class Unsettled(ConnectionError):  # noqa: N818 - never leaves this package
    """A store that contradicts itself; another attempt may find it settled."""


_ASKED: ContextVar[dict[str, bool] | None] = ContextVar("bigspec_chunks_asked", default=None)
"""The keys that this thread's read has requested so far, and whether they were there.

zarr runs a read as a task of its event loop, in the context of the thread that waits.
"""


@contextmanager
def asked() -> Iterator[dict[str, bool]]:
    """Collect the chunks that zarr requests of a watched store, and whether each was there."""
    keys: dict[str, bool] = {}
    token = _ASKED.set(keys)
    try:
        yield keys
    finally:
        _ASKED.reset(token)


class WatchedStore(WrapperStore[Any]):
    """A store that notes answers about chunks, and refuses those that are too short.

    zarr takes an empty shard for a missing one. It takes a part of a shard that is missing or cut
    short for a chunk of fill values, although the index of the shard names it.
    """

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a key, and note whether it was there."""
        fetch = under_way()
        value: Buffer | None
        if fetch is not None and fetch.has(key):
            value = await fetch.take(key)
            value = None if value is None else part_of(value, byte_range)
        else:
            value = await self._store.get(key, prototype, byte_range)
        keys = _ASKED.get()
        if value is None:
            if keys is not None and keys.get(key):
                msg = "it went away while it was read: its index names a part that is not there"
                raise DamagedChunk(msg)
            if keys is not None:
                keys[key] = False
            return None
        check_length(len(value), byte_range)
        if keys is not None:
            keys[key] = True
        return value


def check_length(found: int, wanted: ByteRequest | None = None) -> None:
    """Refuse an empty answer, and one of another length than requested."""
    if found == 0 and not isinstance(wanted, OffsetByteRequest):
        msg = "0 bytes are stored, or none where its index says"
        raise DamagedChunk(msg)
    length = found
    if isinstance(wanted, RangeByteRequest):
        length = wanted.end - wanted.start
    elif isinstance(wanted, SuffixByteRequest):
        length = wanted.suffix
    if found != length:
        msg = f"{length} bytes were requested (the index, or what it points at), {found} came"
        raise DamagedChunk(msg)


def watched(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return the same array with a store that notes the requested chunks; see `asked`."""
    inner = array.async_array
    place = StorePath(WatchedStore(array.store), inner.store_path.path)
    return zarr.Array(type(inner)(inner.metadata, place, inner.config))


@dataclass
class Absences:
    """The missing chunks of an array, as one process knows them.

    Attributes
    ----------
    name : str
        Name of the array in messages.
    rule : Missing
    """

    name: str
    rule: Missing
    _known: set[str] = field(default_factory=set)
    _listed: dict[str, set[str] | None] = field(default_factory=dict)

    def settle(
        self, array: zarr.Array[Any], keys: dict[str, bool], buffers: Buffers | None
    ) -> None:
        """Count the chunks of a read, after a second look at the missing ones.

        Parameters
        ----------
        array : zarr.Array
            An array from `watched`.
        keys : dict
            The keys from `asked`.
        buffers : Buffers or None

        Raises
        ------
        Unsettled
            A chunk is there now, or in a listing: read again.
        MissingSourceError
            The metadata is gone too.
        ChunkError
            A chunk is missing, and the rule refuses that.
        """
        missing = [key for key, there in keys.items() if not there]
        if missing:
            store = array.store._store  # type: ignore[attr-defined]
            fresh = [key for key in missing if key not in self._known]
            sync(self._confirm(store, array, fresh))
            if self.rule.refused:
                raise refusal(self.name, _below(array, missing[0]), self.rule.why)
            if len(self._known) < MOST_REMEMBERED:
                self._known.update(fresh)
        if buffers is not None:
            buffers.chunks += len(keys)
            buffers.missing_chunks += len(missing)

    async def _confirm(self, store: Store, array: zarr.Array[Any], keys: list[str]) -> None:
        prototype = default_buffer_prototype()
        lists = store.supports_listing and not isinstance(store, CERTAIN)
        for folder in {_folder(key) for key in keys if lists} - set(self._listed):
            self._listed[folder] = await _listing(store, folder)
        for start in range(0, len(keys), AT_ONCE):
            some = keys[start : start + AT_ONCE]
            again = await asyncio.gather(*(store.get(key, prototype) for key in some))
            known = await asyncio.gather(*(self._lists(store, key) for key in some if lists))
            for key, value, listed in zip_longest(some, again, known):
                if value is not None:
                    msg = f"{key} was not in the store at first, and was a moment later"
                    raise Unsettled(msg)
                if listed:
                    msg = f"the store lists {key}, and answers that it is not there"
                    raise Unsettled(msg)
        # The metadata comes last, because it then shows that the store was there all along.
        document = "zarr.json" if array.metadata.zarr_format == 3 else ".zarray"
        path = f"{array.path}/{document}".lstrip("/")
        if await store.get(path, prototype) is None:
            msg = (
                f"{self.name}: the store went away while it was read ({path} is gone, and so is "
                "a chunk); it must stay while the run lasts"
            )
            raise MissingSourceError(msg)

    async def _lists(self, store: Store, key: str) -> bool:
        """Whether a listing has the key; False if nothing can be listed."""
        folder, last = _folder(key), key.rpartition("/")[2]
        names = self._listed.get(folder)
        if names is not None and isinstance(store, RemoteStore) and store.kind != "http":
            return await store.lists(key)
        if names is None or not _takes_prefix(store):
            return last in (names or ())
        place = _place(store, folder)
        try:
            found = await store.fs._find(place, prefix=last)  # type: ignore[attr-defined]
        except FileNotFoundError:
            return False
        return any(str(name).strip("/") == f"{place}/{last}" for name in found)


async def _listing(store: Store, folder: str) -> set[str] | None:
    """Return the names in a folder, empty if single keys can be listed, None if nothing can."""
    try:
        if _takes_prefix(store):
            await store.fs._find(_place(store, folder), prefix="zarr.json")  # type: ignore[attr-defined]
            return set()
        if isinstance(store, RemoteStore) and store.kind != "http":
            await store.lists(f"{folder}/zarr.json".lstrip("/"))
            return set()
        return {name async for name in store.list_dir(folder)}
    except FileNotFoundError:
        return set()
    except Exception:  # noqa: BLE001, RUF100 - the store may deny or not know listings
        return None


def _takes_prefix(store: Store) -> bool:
    """Whether one request lists a single key: s3fs, gcsfs and adlfs."""
    return (
        isinstance(store, FsspecStore) and "prefix" in inspect.signature(store.fs._find).parameters
    )


def _folder(key: str) -> str:
    return key.rpartition("/")[0]


def _place(store: Any, folder: str) -> str:
    return f"{store.path}/{folder}".strip("/")


def _below(array: zarr.Array[Any], key: str) -> str:
    return key.removeprefix(f"{array.path}/")
