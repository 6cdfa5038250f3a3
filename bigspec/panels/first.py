"""The first slab: read to plan a run, and multiplied by its first pass without a second read."""

from __future__ import annotations

from typing import Any

from bigspec.kernels.buffers import Buffers

__all__ = ["FirstSlab"]


class FirstSlab:
    """A slab that waits for the pass that needs it, and then is gone.

    It never leaves the process: another one, to which a pass is sent, reads for itself.

    Parameters
    ----------
    held : dict
        From the edges of a rectangle to its block, and to the retries, chunks and missing chunks
        that reading it counted.
    """

    def __init__(self, held: dict[Any, tuple[Any, tuple[int, int, int]]] | None = None) -> None:
        self._held = held or {}

    @classmethod
    def of(cls, rectangle: tuple[slice, slice], block: Any, buffers: Buffers) -> FirstSlab:
        """Keep what was read of a rectangle."""
        # Now, by the thread that read: another one sees buffers of its own.
        counts = buffers.retries, buffers.chunks, buffers.missing_chunks
        return cls({_key(rectangle): (block, counts)})

    def holds(self, rectangle: tuple[slice, slice]) -> bool:
        """Whether this very rectangle waits."""
        return _key(rectangle) in self._held

    def take(self, rectangle: tuple[slice, slice], buffers: Buffers) -> Any:
        """Return the block, once, and count in `buffers` what reading it met; None if none is."""
        block, (retries, chunks, missing) = self._held.pop(_key(rectangle), (None, (0, 0, 0)))
        buffers.retries += retries
        buffers.chunks += chunks
        buffers.missing_chunks += missing
        return block

    def __reduce__(self) -> tuple[type[FirstSlab], tuple[()]]:
        return (FirstSlab, ())


def _key(rectangle: tuple[slice, slice]) -> tuple[int, ...]:
    return tuple(int(edge) for part in rectangle for edge in (part.start, part.stop))
