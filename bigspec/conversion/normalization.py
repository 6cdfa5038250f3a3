"""What a normalization did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bigspec.errors import format_bytes
from bigspec.names import shown
from bigspec.results.text import counted, dtype_text, interval_text, seconds_text

__all__ = ["Normalization"]

FORMS = {
    "zarr": "a Zarr array",
    "csr": "compressed rows",
    "csc": "compressed columns",
    "safetensors": "a tensor in safetensors",
}


@dataclass(frozen=True)
class Normalization:
    """A matrix that was brought to a norm.

    Attributes
    ----------
    source, destination : str
    format : {"zarr", "csr", "csc", "safetensors"}
    shape : tuple of int
    dtype : str
        Of the entries as they were written.
    to : float
        The norm that was asked for.
    by : {"upper", "lower"}
        ``"upper"``: the norm is at most `to`. ``"lower"``: it is at least `to`.
    factor : float
        Every entry was multiplied by it, and then rounded to `dtype`.
    lower, upper : float
        Interval of the norm of what was written, with the rounding of its type.
    source_lower, source_upper : float
        Interval of the norm of the source.
    failure_probability : float
        Of both intervals, which rest on one run.
    deterministic : bool
        Whether the upper ends need no probability.
    passes : int
        Of the run that computed the norm; the copy reads the source once more.
    bytes_written : int
    seconds : float
        Wall time, in all processes.
    missing_chunks : int
        Chunks that are not in the store: their entries count as the fill value.
    """

    source: str
    destination: str
    format: str
    shape: tuple[int, int]
    dtype: str
    to: float
    by: str
    factor: float
    lower: float
    upper: float
    source_lower: float
    source_upper: float
    failure_probability: float
    deterministic: bool
    passes: int
    bytes_written: int
    seconds: float
    missing_chunks: int = 0

    def __str__(self) -> str:
        rows, columns = self.shape
        bound = "at most" if self.by == "upper" else "at least"
        entries, passes = dtype_text(self.dtype), counted(self.passes, "pass", "passes")
        now = interval_text(self.lower, self.upper)
        was = interval_text(self.source_lower, self.source_upper)
        size, spent = format_bytes(self.bytes_written), seconds_text(self.seconds)
        lines = [
            f"{shown(self.destination)}: {rows} x {columns} {entries}, {FORMS[self.format]}",
            f"  norm     {now}, {bound} {self.to!r}",
            f"  was      {was} in {shown(self.source)}",
            f"  factor   {self.factor!r}",
            f"  cost     {passes} and a copy, {size} on disk, {spent}",
        ]
        if not self.deterministic:
            lines.append(f"  promise  but for a probability of {self.failure_probability:g}")
        if self.missing_chunks:
            verb = "chunk is" if self.missing_chunks == 1 else "chunks are"
            lines.append(
                f"  missing  {self.missing_chunks} {verb} not in the store: the fill value counts"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and text, as ``--json`` writes them."""
        fields = {name: value for name, value in vars(self).items() if name != "shape"}
        return {"schema": "bigspec.normalization/1", "shape": list(self.shape), **fields}
