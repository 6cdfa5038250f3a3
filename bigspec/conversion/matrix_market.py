"""Matrix Market files as triplets: the same blocks of lines that `norm` reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bigspec.conversion.entries import Batch, EntryStream, Position
from bigspec.conversion.identity import file_identity
from bigspec.sources import matrix_market
from bigspec.sources.matrix_market import Market, expand

__all__ = ["MarketStream", "open_market"]


@dataclass(frozen=True)
class MarketStream(EntryStream):
    """A coordinate file; symmetric, skew and Hermitian ones are expanded, patterns are ones."""

    market: Market = field(kw_only=True)

    def batches(self, entries: int, position: Position) -> Iterator[Batch]:
        """Parse blocks of lines."""
        wanted = min(matrix_market.BLOCK_BYTES, max(64, 16 * entries))
        for found in self.market.blocks(wanted, position):
            parts = expand(found, self.market.header.symmetry)
            yield Batch(*parts, found.after, found.nbytes)


def open_market(path: Path, name: str) -> MarketStream:
    """Read the header of a Matrix Market file.

    Raises
    ------
    SourceError
        It is not such a file, or a dense one (``array``), which has no stored entries to convert.
    DataError
        Its sizes are not those of a matrix, or too large for a file of this length.
    """
    market = matrix_market.open_market(path, name, dense=False)
    head = market.header
    head.check_length(path, name)
    return MarketStream(name, head.shape, head.dtype, head.most, file_identity(path), market=market)
