"""Records of a run: intervals, passes, and numbers as JSON takes them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bigspec.results.files import write_text

__all__ = [
    "Interval",
    "PassRecord",
    "Range",
    "chunk_counts",
    "document",
    "json_text",
    "plain_values",
    "relative_width",
    "stable_rank",
]


ENDS = {"lowers", "uppers"}


class Range(NamedTuple):
    """A closed range of numbers."""

    lower: float
    upper: float


@dataclass(frozen=True)
class Interval:
    """``lower <= sigma_1 <= upper``, and which bounds say so.

    Attributes
    ----------
    lower, upper : float
        In the units of the matrix.
    upper_bound : str
        Name of the active upper bound, such as ``"Christoffel"`` or ``"bordered Frobenius"``.
    lower_bound : str
        Name of the active lower bound.
    deterministic : bool
        True if the active upper bound holds whatever the random start was.
    rounding : float
        Part of ``upper / lower - 1`` that covers floating-point errors.
    """

    lower: float
    upper: float
    upper_bound: str
    lower_bound: str
    deterministic: bool
    rounding: float = 0.0

    @property
    def given(self) -> bool:
        """Whether the upper end rests on the word of the matrix's owner."""
        return self.upper_bound.endswith(" (given)")


def relative_width(lower: float, upper: float) -> float:
    """Return ``upper / lower - 1``; 0 for ``[0, 0]``, infinity for ``[0, u]``."""
    if upper <= lower:
        return 0.0
    if lower <= 0.0 or math.isinf(upper):
        return math.inf
    return upper / lower - 1.0


@dataclass(frozen=True)
class PassRecord:
    """One pass over the matrix: what it cost and what the interval was after it.

    Attributes
    ----------
    number : int
        Counting from 1.
    lower, upper : float
        The interval of sigma_1 after this pass (running maximum and minimum).
    upper_bound, lower_bound : str
        Names of the active bounds.
    deterministic : bool
        Whether the active upper bound needs no probability.
    ritz_values : tuple of float
        The largest Ritz values of A (square roots of those of A^H A), at most eight.
    bytes_read : int
        Decoded bytes of the matrix that the pass read from its source.
    seconds : float
        Wall time of the pass and of the step that followed it.
    seconds_reading, seconds_multiplying : float
        Time in reading and in products, summed over all threads.
    panels : int
        Tasks of the pass.
    retries : int
        Reads that failed and were tried again.
    lowers, uppers : tuple of float
        In a run of `svds` the intervals of all k values after this pass, largest value first;
        empty in one of `norm`.
    chunks : int
        Chunks of stores that the entries came from; 0 if nothing lies in a store. Where the grids
        of two operands cross, a chunk counts for every panel that reads it.
    missing_chunks : int
        How many of them are not in the store, so that their entries count as the fill value.
    bytes_pinned : int
        Decoded bytes that the pass took from memory, where an earlier one had left them.
    """

    number: int
    lower: float
    upper: float
    upper_bound: str
    lower_bound: str
    deterministic: bool
    ritz_values: tuple[float, ...]
    bytes_read: int
    seconds: float
    seconds_reading: float
    seconds_multiplying: float
    panels: int
    retries: int = 0
    lowers: tuple[float, ...] = ()
    uppers: tuple[float, ...] = ()
    chunks: int = 0
    missing_chunks: int = 0
    bytes_pinned: int = 0

    @property
    def width(self) -> float:
        """Relative width ``upper / lower - 1`` after this pass; of several, the largest."""
        return max(map(relative_width, self.lowers or (self.lower,), self.uppers or (self.upper,)))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields; without `lowers` and `uppers` in a run of `norm`."""
        fields = dict(vars(self))
        return fields if self.lowers else {k: v for k, v in fields.items() if k not in ENDS}


def plain_values(value: Any) -> Any:
    """Turn tuples and arrays into lists, NumPy scalars into Python's, infinities into None."""
    if isinstance(value, dict):
        return {str(k): plain_values(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain_values(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


FACTS_ROUNDING = 1e-9  # margins from which the Frobenius norm is no better known than sigma_1


def stable_rank(
    frobenius: float | None, lower: float, upper: float, rounding: float
) -> Range | None:
    """Return ``||A||_F^2 / sigma_1^2`` as a range; None without a Frobenius norm."""
    if frobenius is None:
        return None
    if upper == 0.0:
        return Range(0.0, 0.0)
    if not math.isfinite(frobenius) or lower == 0.0:
        return Range(1.0, math.inf)
    # Squares of ratios: at most the smaller side of the matrix, unless upper is infinite.
    low, high = frobenius / upper, frobenius / lower
    low, high = low * low, high * high
    if rounding > FACTS_ROUNDING:  # where terms cancel, ||A||_F has that error as well
        low, high = low / (1 + rounding), high * (1 + rounding)
    return Range(max(low, 1.0), max(high, 1.0))


def chunk_counts(history: Sequence[PassRecord]) -> tuple[int, int]:
    """Return the chunks and the missing chunks of the pass where most were missing."""
    counts = [(record.missing_chunks, record.chunks) for record in history]
    missing, chunks = max(counts, default=(0, 0))
    return chunks, missing


def document(answer: Any, derived: dict[str, Any], vectors: set[str]) -> dict[str, Any]:
    """Return an answer as JSON-ready values: `derived`, then its fields but for the vectors.

    Infinite numbers become None, so that strict JSON parsers accept the result.
    """
    data = {name: value for name, value in vars(answer).items() if name not in vectors}
    data["history"] = [record.to_dict() for record in answer.history]
    data["gate"] = None if answer.gate is None else answer.gate.to_dict()
    plain = plain_values(derived | data)
    assert isinstance(plain, dict)
    return plain


def json_text(data: dict[str, Any], path: str | Path | None) -> str:
    """Return JSON text; with `path`, write it there as well."""
    text = json.dumps(data, indent=2, allow_nan=False)
    if path is not None:
        write_text(path, text + "\n")
    return text
