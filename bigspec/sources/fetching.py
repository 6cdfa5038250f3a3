"""Chunks of a store far away: many requests at once, for the slab that is read and for the next.

A request over a network takes its latency however little it asks for, so only many requests at once
fill the link. zarr makes ten at a time, all for one read. Here a read keeps up to `AT_ONCE` under
way, and the chunks of the next slab come while this one is multiplied.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from zarr.abc.store import OffsetByteRequest, RangeByteRequest
from zarr.buffer import default_buffer_prototype
from zarr.core.sync import sync

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import zarr
    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer

__all__ = ["AT_ONCE", "Fetch", "chunk_keys", "fetched_nbytes", "fetching", "part_of", "under_way"]

AT_ONCE = 64
"""Chunks of one read that are under way, or wait to be decoded."""
REQUESTS = 128
"""Requests of one process that are under way."""

_REQUESTS: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
_UNDER_WAY: ContextVar[Fetch | None] = ContextVar("bigspec_chunks_under_way", default=None)


class Fetch:
    """Whole chunks of one array on their way here, in zarr's event loop.

    They are requested in order, and at most `AT_ONCE` are in memory or under way.

    Parameters
    ----------
    store : zarr.abc.store.Store
    keys : sequence of str
        In the store.
    """

    def __init__(self, store: Store, keys: Sequence[str]) -> None:
        self._store, self._waiting = store, dict.fromkeys(keys)
        self._tasks: dict[str, asyncio.Task[Buffer | None]] = {}
        self._left = len(self._waiting)
        self._loop = sync(_this_loop())
        self._loop.call_soon_threadsafe(self._fill)

    def _fill(self) -> None:
        while self._waiting and len(self._tasks) < AT_ONCE:
            key = next(iter(self._waiting))
            del self._waiting[key]
            self._tasks[key] = self._loop.create_task(self._get(key))

    async def _get(self, key: str) -> Buffer | None:
        limit = _REQUESTS.setdefault(self._loop, asyncio.Semaphore(REQUESTS))
        async with limit:
            return await self._store.get(key, default_buffer_prototype())

    def has(self, key: str) -> bool:
        """Whether a chunk is among those that are still to be taken."""
        return key in self._tasks or key in self._waiting

    async def take(self, key: str) -> Buffer | None:
        """Wait for a chunk, and return it once, to a coroutine of zarr's."""
        self._waiting.pop(key, None)
        task = self._tasks.get(key)
        try:
            # zarr may want a chunk before its turn; then it is requested here.
            return await (self._get(key) if task is None else task)
        finally:
            self._tasks.pop(key, None)
            self._fill()

    async def _some(self) -> list[tuple[str, Buffer | Exception | None]]:
        self._fill()
        done, _ = await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        found: list[tuple[str, Buffer | Exception | None]] = []
        for key in [key for key, task in self._tasks.items() if task in done]:
            task = self._tasks.pop(key)
            error = task.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            found.append((key, task.result() if error is None else error))
        self._fill()
        return found

    def __iter__(self) -> Iterator[tuple[str, Buffer | Exception | None]]:
        """Yield each key with its chunk or its error, in the order of arrival; only once."""
        while self._left:
            some = sync(self._some())
            self._left -= len(some)
            yield from some

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until every chunk under way has arrived or failed; they stay.

        Return False if they have not in so many seconds.
        """
        return sync(self._here(seconds))

    async def _here(self, seconds: float | None) -> bool:
        self._fill()
        if not self._tasks:
            return True
        _, pending = await asyncio.wait(self._tasks.values(), timeout=seconds)
        return not pending

    def cancel(self) -> None:
        """End all requests, and wait until they have ended."""
        sync(self._end())

    async def _end(self) -> None:
        self._waiting.clear()
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def fetched_nbytes(slab: int, chunk: int) -> int:
    """The most bytes of encoded chunks of a slab that are under way or wait."""
    return min(AT_ONCE * chunk, max(slab, chunk))


async def _this_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


@contextlib.contextmanager
def fetching(fetch: Fetch | None) -> Iterator[None]:
    """Let zarr take chunks from `fetch`; what it leaves is cancelled."""
    token = _UNDER_WAY.set(fetch)
    try:
        yield
    finally:
        _UNDER_WAY.reset(token)
        if fetch is not None:
            fetch.cancel()


def under_way() -> Fetch | None:
    """Return the `Fetch` of the read that this coroutine belongs to, if it has one."""
    return _UNDER_WAY.get()


def part_of(value: Buffer, wanted: ByteRequest | None) -> Buffer:
    """Cut out of a whole value the part that a request asks for."""
    if wanted is None:
        return value
    if isinstance(wanted, RangeByteRequest):
        return value[wanted.start : wanted.end]
    if isinstance(wanted, OffsetByteRequest):
        return value[wanted.offset :]
    return value[max(0, len(value) - wanted.suffix) :]


def chunk_keys(array: zarr.Array[Any], selection: Any) -> dict[str, tuple[int, ...]]:
    """Return the keys of the chunks that a selection of slices needs, with their numbers.

    A shard counts only if all of it is read: parts of a large one are cheaper alone.
    """
    ranges = selection if isinstance(selection, tuple) else (selection,)
    try:
        steps = array.shards or array.chunks
    except NotImplementedError:  # an irregular grid
        return {}
    if len(ranges) != len(array.shape) or not all(isinstance(one, slice) for one in ranges):
        return {}
    whole, numbers = array.shards is not None, deque[tuple[int, ...]]([()])
    for one, extent, step in zip(ranges, array.shape, steps, strict=True):
        start, stop, stride = one.indices(extent)
        if stride != 1 or stop <= start:
            return {}
        first, last = start // step, -(-stop // step)
        if whole:
            first = -(-start // step)
            last = last if stop == extent else stop // step
        numbers = deque((*number, k) for number in numbers for k in range(first, last))
    below = f"{array.path}/" if array.path else ""
    encode = array.metadata.encode_chunk_key
    return {f"{below}{encode(number)}": number for number in numbers}
