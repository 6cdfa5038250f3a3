"""One failure probability and one entropy for all rows of a scan, whatever rows there are.

Every row that needs a random start gets the same share of the failure probability: the whole over a
power of `BASE` that is no less than their number. By the union bound all intervals hold together,
except with the whole. The number is known from the shapes, before anything is read, and rows that
turn out certain do not give their share back.

The start block of a row is drawn from the entropy of the scan and the name of the row alone. So a
layer that is added or taken away moves no start block of another. While the number of rows stays
between two powers of `BASE`, it does not change a bit of another row.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import numpy as np

from bigspec.networks.entry import Entry
from bigspec.networks.forms import Kronecker, Product
from bigspec.networks.norms import takes_gram

__all__ = ["entropy_of", "random_norms", "share"]

BASE = 16


def random_norms(entries: Iterable[Entry], *, differences: bool) -> int:
    """Return how many norms need a random start, by the shapes alone.

    With `differences` each row has two: that of A - B and that of B. A kernel has one more for each
    size of image on which its convolution is looked at.
    """
    count = 0
    for entry in entries:
        small = isinstance(entry.form, Product)
        small |= isinstance(entry.form, Kronecker) and not differences
        if entry.runs and not small and entry.matrix and not takes_gram(entry.matrix):
            count += 2 if differences else 1
        if entry.runs:
            count += sum(layer.sized for layer in entry.layers)
    return count


def share(failure_probability: float, count: int) -> float:
    """Return the failure probability of one norm out of `count`."""
    slots = 1
    while slots < count:
        slots *= BASE
    return failure_probability if slots == 1 else math.nextafter(failure_probability / slots, 0.0)


def entropy_of(entropy: int, name: str) -> int:
    """Return the entropy of the row of this name, 128 bits of a stream of its own."""
    words = np.frombuffer(hashlib.sha256(name.encode(errors="surrogateescape")).digest(), "<u4")
    stream = np.random.SeedSequence(entropy, spawn_key=tuple(map(int, words)))
    return int.from_bytes(stream.generate_state(4, np.uint32).tobytes(), "little")
