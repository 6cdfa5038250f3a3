"""A file behind a URL as an object that h5py can read and seek; its blocks stay in memory."""

from __future__ import annotations

import gc
import io
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zarr.core.sync import sync

if TYPE_CHECKING:
    from bigspec.sources.file_bytes import Content

__all__ = ["BlockFile", "without_collector"]

BLOCK = 1 << 18
"""Bytes of one request. Metadata lies in clusters, each of some kilobytes."""
MOST_AHEAD = 16
"""The most blocks of one request, while they are read one after another."""
MOST_KEPT = 256
"""Blocks that are kept: 64 MiB."""


class BlockFile(io.RawIOBase):
    """The blocks of a file that are asked for, each fetched once.

    No error leaves `readinto`: an exception below HDF5's calls may crash the process. The first one
    is kept for `check` to raise, and every read after it gives zeros.

    Parameters
    ----------
    content : Content
    """

    def __init__(self, content: Content) -> None:
        super().__init__()
        self.content = content
        self.failure: Exception | None = None
        self._place = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._after, self._ahead = -1, 1

    def check(self) -> None:
        """Raise the first error of a read, if there was one."""
        if self.failure is not None:
            raise self.failure

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Return the place."""
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place, counted from the start of the file, the place now, or the end."""
        self._place = offset + (0, self._place, self.content.size)[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, up to the end of the file."""
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self.content.size - self._place))
        at = 0
        while at < length and self.failure is None:
            number, begin = divmod(self._place + at, BLOCK)
            try:
                block = self._block(number, -(-(begin + length - at) // BLOCK))
            except Exception as error:  # noqa: BLE001, RUF100 - see above
                self.failure = error
                break
            piece = block[begin : begin + length - at]
            view[at : at + len(piece)] = piece
            at += len(piece)
        view[at:length] = bytes(length - at)
        self._place += length
        return length

    def _block(self, number: int, wanted: int) -> bytes:
        if number not in self._blocks:
            self._ahead = min(2 * self._ahead, MOST_AHEAD) if number == self._after else 1
            count = max(wanted, self._ahead)
            start = number * BLOCK
            length = min(count * BLOCK, self.content.size - start)
            got = self.content.at(start, length, "its metadata").tobytes()
            self._after = number + count
            for k in range(0, length, BLOCK):
                self._blocks[number + k // BLOCK] = got[k : k + BLOCK]
            while len(self._blocks) > max(MOST_KEPT, count):
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]


@contextmanager
def without_collector() -> Iterator[None]:
    """Keep the garbage collector away while HDF5 waits for requests.

    Every call of h5py holds its lock, and here it waits for zarr's event loop. If the collector
    met an h5py object in the thread of that loop, it would wait for the same lock, for ever.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        sync(_nothing())  # the loop is in no collection now
        yield
    finally:
        if enabled:
            gc.enable()


async def _nothing() -> None:
    pass
