"""Partial sums of a pass, which are added in a fixed order, with their exponents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

__all__ = ["Partial", "RawFacts", "merge"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class RawFacts:
    """Facts of some slabs, mergeable; all but `nonnegative` are scaled like their `Partial`.

    `magnitude` and `chain` are those of `Facts`, `chain` of the worst panel.
    """

    squares: float
    column_sums: Array
    row_sum: float
    largest: float
    nonnegative: bool
    magnitude: float = 0.0
    chain: float = 0.0

    def rescaled(self, shift: int) -> RawFacts:
        """Multiply entries by ``2**shift``."""
        one = math.ldexp(1.0, shift)
        return replace(
            self,
            squares=self.squares * one * one,
            magnitude=self.magnitude * one * one,
            column_sums=self.column_sums * one,
            row_sum=self.row_sum * one,
            largest=self.largest * one,
        )


@dataclass(frozen=True)
class Partial:
    """A partial sum of a pass: of some slabs, a panel, a round, or the whole matrix.

    Attributes
    ----------
    Z : ndarray (n, b)
        ``2**(-2 exponent) sum_i S_i^H (S_i V)``.
    gram : ndarray (b, b)
        ``2**(-2 exponent) sum_i Y_i^H Y_i`` with ``Y_i = S_i V``.
    exponent : int
        Entries were multiplied by ``2**-exponent``; nonzero only for extreme float64 data.
    facts : RawFacts or None
    tokens : ndarray of uint32
        Content tokens of the panels summed, in order; none for operators.
    bytes_read, seconds_reading, seconds_multiplying, retries, chunks, missing_chunks, bytes_pinned
        The cost.
    """

    Z: Array
    gram: Array
    exponent: int
    facts: RawFacts | None
    tokens: Array = field(default_factory=lambda: np.zeros(0, np.uint32))
    bytes_read: int = 0
    seconds_reading: float = 0.0
    seconds_multiplying: float = 0.0
    retries: int = 0
    chunks: int = 0
    missing_chunks: int = 0
    bytes_pinned: int = 0

    @property
    def is_zero(self) -> bool:
        """Whether all entries were zero, and not terms that cancelled."""
        facts = self.facts
        seen = facts is not None and (facts.largest > 0 or facts.magnitude > 0)
        return not (seen or self.Z.any() or self.gram.any())

    def rescaled(self, exponent: int) -> Partial:
        """Return the same sum with another exponent."""
        shift = self.exponent - exponent
        if shift == 0:
            return self
        if self.is_zero:
            return replace(self, exponent=exponent)
        factor = math.ldexp(1.0, 2 * shift) if 2 * shift > -1074 else 0.0
        facts = self.facts.rescaled(shift) if self.facts else None
        return replace(
            self, Z=self.Z * factor, gram=self.gram * factor, exponent=exponent, facts=facts
        )


def merge(parts: Sequence[Partial]) -> Partial:
    """Add partial sums in the order given, so that every run has the same bits."""
    exponent = max(part.exponent for part in parts)
    if any(part.exponent != exponent for part in parts):
        # A sum of zeros has no scale of its own, and must not flush tiny sums to zero.
        found = [part.exponent for part in parts if not part.is_zero]
        exponent = max(found, default=exponent)
    parts = [part.rescaled(exponent) for part in parts]
    Z, gram = parts[0].Z.copy(), parts[0].gram.copy()
    for part in parts[1:]:
        Z += part.Z
        gram += part.gram
    return Partial(
        Z=Z,
        gram=gram,
        exponent=exponent,
        facts=_merge_facts([part.facts for part in parts if part.facts is not None]),
        tokens=np.concatenate([part.tokens for part in parts]),
        bytes_read=sum(part.bytes_read for part in parts),
        seconds_reading=sum(part.seconds_reading for part in parts),
        seconds_multiplying=sum(part.seconds_multiplying for part in parts),
        retries=sum(part.retries for part in parts),
        chunks=sum(part.chunks for part in parts),
        missing_chunks=sum(part.missing_chunks for part in parts),
        bytes_pinned=sum(part.bytes_pinned for part in parts),
    )


def _merge_facts(facts: list[RawFacts]) -> RawFacts | None:
    if not facts:
        return None
    columns = facts[0].column_sums.copy()
    for other in facts[1:]:
        columns += other.column_sums
    return RawFacts(
        squares=math.fsum(f.squares for f in facts),
        column_sums=columns,
        row_sum=max(f.row_sum for f in facts),
        largest=max(f.largest for f in facts),
        nonnegative=all(f.nonnegative for f in facts),
        magnitude=math.fsum(f.magnitude for f in facts),
        chain=max(f.chain for f in facts),
    )
