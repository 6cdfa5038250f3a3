"""The outcome of a conversion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bigspec.errors import format_bytes
from bigspec.names import shown
from bigspec.results.text import dtype_text, seconds_text

__all__ = ["Conversion"]


@dataclass(frozen=True)
class Conversion:
    """The outcome of a conversion.

    Attributes
    ----------
    source, destination : str
    format : {"csr", "csc"}
    shape : tuple of int
    dtype : str
        Type of the values.
    stored, read : int
        Entries written, and entries read; the latter are more if duplicates were summed.
    sorted : bool
        Whether the entries went through buckets, because they were not in order.
    bytes_read, bytes_written : int
        Decoded bytes of the source; bytes of the destination, compressed.
    seconds : float
        Wall time, in all processes.
    missing_chunks : int
        Chunks of values that are not in the store; their entries were written as the fill value.
    ids : tuple of str
        Arrays in the destination with the source's id of each row (``row_ids``) or column
        (``column_ids``).
    """

    source: str
    destination: str
    format: str
    shape: tuple[int, int]
    dtype: str
    stored: int
    read: int
    sorted: bool
    bytes_read: int
    bytes_written: int
    seconds: float
    missing_chunks: int = 0
    ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows, columns = self.shape
        kind = {"csr": "rows", "csc": "columns"}[self.format]
        twice = self.read - self.stored
        spent = f"{format_bytes(self.bytes_read)} read in {seconds_text(self.seconds)}"
        entries = dtype_text(self.dtype)
        lines = [
            f"{shown(self.destination)}: {rows} x {columns} {entries}, compressed {kind}",
            f"  stored   {self.stored} entries"
            + (f" ({twice} duplicates summed)" if twice else "")
            + f", {format_bytes(self.bytes_written)} on disk",
            f"  from     {shown(self.source)}, {spent}",
        ]
        if self.missing_chunks:
            verbs = ("chunk is", "was") if self.missing_chunks == 1 else ("chunks are", "were")
            lines.append(
                f"  missing  {self.missing_chunks} {verbs[0]} not in the store and {verbs[1]} "
                "written as the fill value"
            )
        if self.ids:
            lines.append(f"  ids      numbered in sorted order, kept as {' and '.join(self.ids)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and text, as ``--json`` writes them."""
        return {
            "schema": "bigspec.conversion/1",
            "source": self.source,
            "destination": self.destination,
            "format": self.format,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "stored": self.stored,
            "read": self.read,
            "sorted": self.sorted,
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "seconds": self.seconds,
            "missing_chunks": self.missing_chunks,
            "ids": list(self.ids),
        }
