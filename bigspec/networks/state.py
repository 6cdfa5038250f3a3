"""What a scan saves: which scan it is, and its rows as lines of JSON in batches.

A save writes the rows since the last full batch, at most 16 KiB, and the names of the batches.
Batches are blocks of the checkpoint: they are written once, and records refer to them. So a row is
saved as soon as it is done, and a save costs the same whether a scan has ten rows or a hundred
thousand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from bigspec.checkpoint import INLINE, Codec, Wire
from bigspec.networks.row import Row

__all__ = ["SCAN_TYPES", "Batches", "ScanState", "as_bytes"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

JOINED = 16  # batches of one size that become one


@dataclass(frozen=True)
class ScanState:
    """All that a scan knows.

    Attributes
    ----------
    run : dict
        Which scan it is.
    first : dict
        Name to `Row`. Older records have all their rows here, newer ones none.
    batches : tuple of ndarray of uint8
        Rows as lines of JSON.
    tokens : ndarray of uint8 or None
        JSON of the content tokens; in older records they are in `run`.
    """

    run: dict[str, Any] = field(default_factory=dict)
    first: dict[str, Any] = field(default_factory=dict)
    batches: tuple[np.ndarray[Any, Any], ...] = ()
    tokens: np.ndarray[Any, Any] | None = None

    @cached_property
    def rows(self) -> dict[str, Any]:
        """Name to `Row`, of the rows that are done.

        Raises
        ------
        ValueError, TypeError, LookupError, AttributeError
            A batch is not what bigspec writes.
        """
        found = dict(self.first)
        codec = Codec(SCAN_TYPES)
        for batch in self.batches:
            for line in batch.astype(np.uint8).tobytes().splitlines():
                row = codec.decode(json.loads(line), _no_block)
                found[row.name] = row
        return found

    @cached_property
    def tensors(self) -> Any:
        """Name to content token; see `rows` for what it raises."""
        if self.tokens is None:
            return self.run["tensors"]
        return json.loads(self.tokens.astype(np.uint8).tobytes())


SCAN_TYPES = (
    Wire(ScanState, "Scan", "run rows batches tokens", {"rows": "first"}),
    Wire(
        Row,
        "ScanRow",
        "name file shape dtype kind matrix lower upper deterministic failure_probability "
        "upper_bound lower_bound passes frobenius largest largest_row largest_column deviation "
        "tied_to non_finite seconds converged note stack hidden other_lower other_upper "
        "ratio_lower ratio_upper layer layer_lower layer_upper layer_certain",
    ),
)
"""By the names in records: see `Wire` before you rename anything."""


class Batches:
    """Rows as they are saved: full batches, and what came since.

    Parameters
    ----------
    batches : iterable of ndarray of uint8
        Those of a scan that goes on.
    """

    def __init__(self, batches: Iterable[Bytes] = ()) -> None:
        self._codec = Codec(SCAN_TYPES)
        self._levels = [(0, batch) for batch in batches if batch.nbytes > INLINE]
        self._lines = bytearray().join(b.tobytes() for b in batches if b.nbytes <= INLINE)

    def add(self, row: Row) -> None:
        """Add a row that is done."""
        text = json.dumps(self._codec.encode(row, _no_array))
        self._lines += text.encode() + b"\n"
        if len(self._lines) > INLINE:
            self._levels.append((0, np.frombuffer(bytes(self._lines), np.uint8)))
            self._lines.clear()
            self._join()

    def _join(self) -> None:
        """Make one batch of the last ones, so that a record has few names."""
        while True:
            level = self._levels[-1][0]
            last = self._levels[-JOINED:]
            if len(last) < JOINED or any(one != level for one, _ in last):
                return
            joined = np.concatenate([batch for _, batch in last])
            self._levels[-JOINED:] = [(level + 1, joined)]

    def arrays(self) -> tuple[Bytes, ...]:
        """Return all rows; the full batches are the same objects each time."""
        full = (batch for _, batch in self._levels)
        rest = np.frombuffer(bytes(self._lines), np.uint8)
        return (*full, rest) if rest.size else tuple(full)


def as_bytes(value: Any) -> Bytes:
    """Return JSON-ready data as bytes."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def _no_array(array: Any) -> str:
    msg = f"expected a row without arrays, got one of {array.shape}"
    raise TypeError(msg)


def _no_block(name: str) -> Any:
    msg = f"expected a row without arrays, got block {name!r}"
    raise ValueError(msg)
