"""The traced peak of a piece of code, without what the interpreter adds to it."""

from __future__ import annotations

import functools
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

STEP = 20_000


@contextmanager
def traced_peak() -> Iterator[list[int]]:
    """Append the largest number of bytes that were traced at once to the list yielded.

    CPython keeps one table of all interned strings. It grows by megabytes at once, at whatever
    path or name happens to be the next one. Here it grows first.
    """
    _grow_the_table()
    peak: list[int] = []
    tracemalloc.start()
    try:
        yield peak
        peak.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


@functools.cache
def _grow_the_table() -> None:
    """Intern strings until the table grows; it then has room for as many as it held."""
    strings: list[str] = []
    grown = False
    while not grown and len(strings) < 1 << 23:
        more = [f"room {len(strings) + i}" for i in range(STEP)]
        strings += more
        tracemalloc.start()
        for text in more:
            sys.intern(text)
        # All that this loop allocates is a new table.
        grown = tracemalloc.get_traced_memory()[1] > 1 << 20
        tracemalloc.stop()
    assert grown
