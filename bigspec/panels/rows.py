"""Rows of ``Y = S V``, as the panels of a forward pass return them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Rows"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Rows:
    """Rows of ``Y = S V`` of consecutive panels, and their cost.

    Attributes
    ----------
    parts : tuple of ndarray
        Rows of each panel; empty if they were written to the target.
    factors : tuple of ndarray (b, b)
        R of each panel's QR factorisation.
    tokens : tuple of tuple of int
        Checksums of the chunks that each panel wrote.
    bytes_read, seconds_reading, seconds_multiplying, retries, chunks, missing_chunks, bytes_pinned
        The cost.
    contents : ndarray of uint32
        Content tokens of the panels; none for operators.
    Z : ndarray (n, b) or None
        ``sum S_i^H Y_i``, if the pass was asked for it.
    """

    parts: tuple[Array, ...]
    factors: tuple[Array, ...]
    tokens: tuple[tuple[int, ...], ...]
    bytes_read: int = 0
    seconds_reading: float = 0.0
    seconds_multiplying: float = 0.0
    retries: int = 0
    chunks: int = 0
    missing_chunks: int = 0
    contents: Array = field(default_factory=lambda: np.zeros(0, np.uint32))
    Z: Array | None = None
    bytes_pinned: int = 0

    @staticmethod
    def joined(rows: Sequence[Rows]) -> Rows:
        """Join rows without copies and add up Z, in the order of the panels."""
        back = [one.Z for one in rows if one.Z is not None]
        total = back[0].copy() if back else None
        for Z in back[1:]:
            total += Z
        return Rows(
            tuple(part for one in rows for part in one.parts),
            tuple(factor for one in rows for factor in one.factors),
            tuple(token for one in rows for token in one.tokens),
            sum(one.bytes_read for one in rows),
            sum(one.seconds_reading for one in rows),
            sum(one.seconds_multiplying for one in rows),
            sum(one.retries for one in rows),
            sum(one.chunks for one in rows),
            sum(one.missing_chunks for one in rows),
            np.concatenate([one.contents for one in rows]),
            total,
            sum(one.bytes_pinned for one in rows),
        )
