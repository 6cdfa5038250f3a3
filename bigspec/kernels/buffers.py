"""Memory that a thread uses again and again during a pass."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["Buffers"]


class Buffers(threading.local):
    """Scratch arrays that one thread uses again and again during a pass.

    Fresh buffers of tens of megabytes cost more than decoding into them: the kernel clears
    every page, every time. A thread asks by name and gets the same memory back.

    Attributes
    ----------
    retries : int
        Reads by this thread that failed and were tried again.
    chunks, missing_chunks : int
        Chunks of stores that this thread read, and how many of them are not in the store.
    state : dict
        Data that a thread keeps from one read to the next, by name.
    ahead : dict
        What is on its way for the thread's next read; each can be cancelled.
    """

    def __init__(self) -> None:
        self.retries = 0
        self.chunks = self.missing_chunks = 0
        self.state: dict[str, Any] = {}
        self.ahead: dict[Any, Any] = {}
        self._arrays: dict[str, np.ndarray[Any, Any]] = {}
        self._scope = ""

    def take(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any] | type
    ) -> np.ndarray[Any, Any]:
        """Return a C-contiguous, uninitialised array; valid until `name` is taken again."""
        name, dtype = self.name(name), np.dtype(dtype)
        size = math.prod(map(int, shape)) * dtype.itemsize
        memory = self._arrays.get(name)
        if memory is None or memory.nbytes < size:
            memory = self._arrays[name] = np.empty(max(size, 1), dtype=np.uint8)
        return memory[:size].view(dtype).reshape(shape)

    def name(self, name: str) -> str:
        """Return `name` after the operands of `within`."""
        return self._scope + name

    @contextmanager
    def within(self, operand: str) -> Iterator[None]:
        """Give an operand memory of its own, since several operands are read side by side."""
        before = self._scope
        self._scope = f"{before}{operand}."
        try:
            yield
        finally:
            self._scope = before

    def drop_ahead(self) -> None:
        """Cancel requests whose answers nobody has read."""
        while self.ahead:
            self.ahead.popitem()[1].cancel()

    def __reduce__(self) -> tuple[type[Buffers], tuple[()]]:
        return (Buffers, ())
