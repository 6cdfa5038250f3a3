"""The traced peak of a piece of code, without what the interpreter adds to it."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def traced_peak() -> Iterator[list[int]]:
    """Append the largest number of bytes that were traced at once to the list yielded.

    CPython keeps one table of all interned strings. It grows by megabytes at once, at whatever
    path or name happens to be the next one. Here it grows first, and has room then.
    """
    peak: list[int] = []
    tracemalloc.start()
    try:
        room = _grown_table()
        tracemalloc.stop()
        tracemalloc.start()
        yield peak
        peak.append(tracemalloc.get_traced_memory()[1])
        del room
    finally:
        tracemalloc.stop()


def _grown_table() -> list[str]:
    """Strings that have made the table grow; it keeps its room while they live."""
    strings: list[str] = []
    before = tracemalloc.get_traced_memory()[1]
    while len(strings) < 1 << 22:
        strings += [sys.intern(f"room {len(strings) + i}") for i in range(1000)]
        held = tracemalloc.get_traced_memory()[1]
        if held - before > 1 << 20:
            return strings
        before = held
    raise AssertionError("the table of interned strings did not grow")
