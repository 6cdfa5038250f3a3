"""Test matrices, named by their spectrum, and the sources that count and fail on schedule."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bigspec.kernels.buffers import Buffers
from bigspec.matrices import Block, Grid, Matrix


def with_spectrum(m, n, sigma, *, seed=0, complex_=False):
    """A dense m x n matrix with singular values `sigma` and random singular vectors."""
    rng = np.random.default_rng(seed)
    r = len(sigma)

    def frame(rows):
        G = rng.standard_normal((rows, r))
        if complex_:
            G = G + 1j * rng.standard_normal((rows, r))
        return np.linalg.qr(G)[0]

    return (frame(m) * np.asarray(sigma)) @ frame(n).conj().T


def decaying(m, n, power=1.0, **options):
    """sigma_i = i^-power."""
    return with_spectrum(m, n, np.arange(1, min(m, n) + 1.0) ** -power, **options)


def gapped(m, n, gap=0.5**0.5, **options):
    """sigma_1 = 1, the others decay slowly from `gap`."""
    rest = gap * np.arange(1, min(m, n)) ** -0.25
    return with_spectrum(m, n, np.concatenate([[1.0], rest]), **options)


def clustered(m, n, top=8, gap=1e-3, **options):
    """`top` values within `top * gap` of each other, the others below 0.9."""
    head = 1 - gap * np.arange(top)
    rest = 0.9 * np.arange(1, min(m, n) - top + 1) ** -0.5
    return with_spectrum(m, n, np.concatenate([head, rest]), **options)


def largest_singular_value(A):
    A = np.asarray(A)
    work = A.astype(np.complex128 if A.dtype.kind == "c" else float)
    return float(np.linalg.svd(work, compute_uv=False)[0])


def contains(interval, sigma):
    """Whether an interval holds sigma, itself known to a few units of rounding."""
    slack = 8 * np.finfo(float).eps * sigma
    return interval.lower <= sigma + slack and sigma - slack <= interval.upper


@dataclass
class Log:
    """What was read, and which reads fail: `fail_at` maps a read's number to an exception."""

    reads: Counter = field(default_factory=Counter)
    fail_at: dict[int, Exception] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.Lock)
    count: int = 0


@dataclass(frozen=True)
class Chunked(Matrix):
    """An array behind a chunk grid: counts reads of every chunk, fails on schedule.

    Not `resident`, so that layout and memory treat it like a store.
    """

    array: Any = field(default=None, kw_only=True, repr=False)
    log: Log = field(default_factory=Log, kw_only=True, repr=False)

    @classmethod
    def of(cls, array, chunks, **options):
        sizes = [c if isinstance(c, tuple) else None for c in chunks]
        grids = tuple(
            Grid.irregular(s) if s else Grid(e, min(c, e))
            for s, c, e in zip(sizes, chunks, array.shape, strict=True)
        )
        return cls(array.shape, array.dtype, "chunked", grids, array=array, **options)

    @property
    def identity(self) -> dict[str, Any]:
        return {"where": self.name, "shape": list(self.shape), "dtype": str(self.dtype)}

    def read(self, rows: slice, columns: slice, buffers: Buffers) -> Block:
        with self.log.lock:
            self.log.count += 1
            if (error := self.log.fail_at.get(self.log.count)) is not None:
                raise error
            first = [g.cell(s.start) for g, s in zip(self.grids, (rows, columns), strict=True)]
            last = [g.cell(s.stop - 1) for g, s in zip(self.grids, (rows, columns), strict=True)]
            for axis, cut in enumerate((rows, columns)):
                grid = self.grids[axis]
                assert grid.cut(first[axis]) == cut.start
                assert grid.cut(last[axis] + 1) == cut.stop
            for i in range(first[0], last[0] + 1):
                for j in range(first[1], last[1] + 1):
                    self.log.reads[i, j] += 1
        return self.array[rows, columns]
