"""Seconds that a pass of lanczos and gram take: measured on the first slab, or estimated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bigspec.algorithms import REGISTRY
from bigspec.kernels import TILE_BYTES, working_dtype
from bigspec.matrices import Matrix
from bigspec.passes import Measurement
from bigspec.run.plan import Wishes

__all__ = ["Setting", "gram_seconds", "lanczos_seconds"]

# Per core, measured on x86 with AVX-512; where all are slower, the choice stays the same.
WIDE_FLOPS = 5e10  # a second: products of the Gram matrix, and its eigenproblem
NARROW_FLOPS = 1e10  # a second: products with a block, where memory is the limit
SUM = 2e-9  # seconds to add an entry of the Gram matrix of a tile to the sum
LOAD = 1e-9  # seconds to convert an entry
READ = 1e-9  # seconds to read and decode a byte of a store
BETWEEN = 8e-3  # seconds of a pass for the rest: recurrence, bounds, tasks


@dataclass(frozen=True)
class Setting:
    """The facts that choices rest on."""

    matrix: Matrix
    wishes: Wishes
    tasks: int
    measured: Measurement | None = None

    @property
    def order(self) -> int:
        """Order of H."""
        return min(self.matrix.shape)

    @property
    def entries(self) -> int:
        """Entries of the matrix, zeros included."""
        return self.matrix.shape[0] * self.matrix.shape[1]

    @property
    def dense(self) -> bool:
        """Whether all entries are stored."""
        return self.matrix.nbytes >= self.entries * self.matrix.dtype.itemsize

    @property
    def flops(self) -> float:
        """Flops of a multiplication and an addition; a complex pair counts four times."""
        return 8.0 if working_dtype(self.matrix.dtype).kind == "c" else 2.0

    @property
    def reading(self) -> float:
        """Core-seconds that one read of the matrix takes."""
        if self.measured is not None:
            return self.measured.reading
        return 0.0 if self.matrix.resident else READ * self.matrix.nbytes


def passes_expected(setting: Setting, b: int) -> tuple[int, str]:
    """Return how many passes lanczos with a block of b needs, and the spectrum assumed for it.

    A flat spectrum is assumed for matrices in memory and small stores: there gram loses little if
    the spectrum decays. A typical one is assumed after a warm start, and for stores large enough to
    be measured, where gram would lose minutes (docs/performance.md). The tables hold for a relative
    width of 1e-3; each further digit takes a third more, until the space is exhausted.
    """
    row = REGISTRY.named("lanczos")
    typical = setting.wishes.extra > 0 or setting.measured is not None
    table = row.passes if typical else row.flat
    known = max((size for size in table if size <= b), default=min(table))
    digits = min(max(0.35 * -math.log10(setting.wishes.rtol) - 0.05, 0.15), 1.2)
    passes = max(1, round(table[known] * digits))
    most = -(-setting.order // b) + 1  # then the blocks span the whole space
    return min(passes, most), "a typical spectrum" if typical else "a flat spectrum"


def pass_seconds(setting: Setting, b: int) -> float:
    """Return the seconds of a pass with b columns."""
    measured, cores = setting.measured, max(1, setting.tasks)
    if measured is not None and b in measured.multiplying:
        products = measured.multiplying[b]
    else:
        products = setting.entries * (LOAD + 2 * b * setting.flops / NARROW_FLOPS)
    return (setting.reading + products) / cores + BETWEEN


def lanczos_seconds(setting: Setting, b: int) -> tuple[float, int, int, str]:
    """Return the seconds of lanczos with b columns, its passes, b, and the spectrum assumed."""
    passes, whose = passes_expected(setting, b)
    return passes * pass_seconds(setting, b), passes, b, whose


def gram_seconds(setting: Setting) -> float | None:
    """Return the seconds of gram; None for a sparse matrix that was not measured."""
    n, measured, cores = setting.order, setting.measured, max(1, setting.tasks)
    if measured is not None and measured.gram is not None:
        products = measured.gram
    elif setting.dense:
        height = max(64, TILE_BYTES // 8 // n)
        products = setting.entries * (LOAD + n * (setting.flops / WIDE_FLOPS + SUM / height))
    else:
        return None
    eigenproblem = 2 * setting.flops * n**3 / WIDE_FLOPS
    return (setting.reading + products) / cores + eigenproblem + BETWEEN
