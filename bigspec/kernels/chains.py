"""How long sums of sparse entries are whose values repeat.

Sums of equal terms round the same way at every step. Their errors add up in proportion to the
length of the chain, not to its root as those of the rounding model do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Chains", "repeated"]

Array = np.ndarray[Any, Any]

SAMPLE, REPEATS = 1024, 4  # values looked at, and how often one must be there to repeat


def repeated(values: Array) -> bool:
    """Whether values repeat, by a sample."""
    sample = values[:: max(1, len(values) // SAMPLE)][:SAMPLE]
    _, counts = np.unique(sample, return_counts=True)
    return bool(counts.max(initial=0) >= REPEATS)


class Chains:
    """Entries in the rows and columns of a panel, of those parts of it where values repeat.

    Parameters
    ----------
    n : int
        Columns of S.
    """

    def __init__(self, n: int) -> None:
        self.n, self.row = n, 0
        self.columns: Array | None = None

    def add_columns(self, counts: Array, first: int = 0) -> None:
        """Add counts of entries of the columns from `first` on."""
        if self.columns is None:
            self.columns = np.zeros(self.n, np.int64)
        self.columns[first : first + len(counts)] += counts

    def add_row(self, count: int) -> None:
        """Take in the entries of the row that has most."""
        self.row = max(self.row, count)

    @property
    def longest(self) -> float:
        """Longest chains of sums that may round the same way: along a row, and down a column."""
        return 0.0 if self.columns is None else float(self.row + self.columns.max(initial=0))
