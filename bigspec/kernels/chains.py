"""The lengths of sums of sparse entries whose values repeat.

A sum of equal terms rounds the same way at every step. Its error grows with the length of the
chain, not with the root of the length as in the rounding model.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Chains", "repeats"]

Array = np.ndarray[Any, Any]

SAMPLE, REPEATS = 1024, 4  # size of the sample, and how often a value must occur to repeat


def repeats(values: Array) -> bool:
    """Whether values repeat, judged by a sample."""
    sample = values[:: max(1, len(values) // SAMPLE)][:SAMPLE]
    _, counts = np.unique(sample, return_counts=True)
    return bool(counts.max(initial=0) >= REPEATS)


class Chains:
    """Counts of entries in the rows and columns of a panel, from the parts where values repeat.

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
        """Note how many entries the fullest row has."""
        self.row = max(self.row, count)

    @property
    def longest(self) -> float:
        """Longest chain along a row plus longest down a column that may round the same way."""
        return 0.0 if self.columns is None else float(self.row + self.columns.max(initial=0))
