"""What normalizing the tensors of a network did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bigspec.errors import format_bytes
from bigspec.names import shown
from bigspec.results.text import counted, interval_text, seconds_text

__all__ = ["NormalizedModel", "NormalizedTensor"]


@dataclass(frozen=True)
class NormalizedTensor:
    """A tensor that was brought to a norm.

    Attributes
    ----------
    name, dtype : str
    shape : tuple of int
    factor : float
        Every number was multiplied by it, and then rounded to `dtype`.
    lower, upper : float
        Interval of the norm of what was written, with the rounding of its type.
    source_lower, source_upper : float
        Interval of the norm of the source.
    deterministic : bool
        Whether the upper ends need no probability.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    factor: float
    lower: float
    upper: float
    source_lower: float
    source_upper: float
    deterministic: bool


@dataclass(frozen=True)
class NormalizedModel:
    """A network some of whose tensors were brought to a norm.

    Attributes
    ----------
    source, destination : str
    to : float
        The norm that was asked for.
    by : {"upper", "lower"}
        ``"upper"``: each norm is at most `to`. ``"lower"``: it is at least `to`.
    tensors : tuple of NormalizedTensor
    copied : int
        Tensors that were copied byte by byte.
    files : int
    failure_probability : float
        Of all intervals together.
    seed : int
    bytes_written : int
    seconds : float
        Wall time of this process.
    """

    source: str
    destination: str
    to: float
    by: str
    tensors: tuple[NormalizedTensor, ...] = field(repr=False)
    copied: int
    files: int
    failure_probability: float
    seed: int
    bytes_written: int
    seconds: float

    @property
    def deterministic(self) -> bool:
        """Whether no interval needs a probability."""
        return all(one.deterministic for one in self.tensors)

    def __str__(self) -> str:
        bound = "at most" if self.by == "upper" else "at least"
        size, spent = format_bytes(self.bytes_written), seconds_text(self.seconds)
        chosen, files = counted(len(self.tensors), "tensor"), counted(self.files, "file")
        head = f"{shown(self.destination)}: {chosen} of norm {bound} {self.to!r}"
        lines = [f"{head}, {self.copied} copied, {files}, {size}, {spent}"]
        wide = max(len(shown(one.name)) for one in self.tensors)
        for one in self.tensors:
            now = interval_text(one.lower, one.upper)
            was = interval_text(one.source_lower, one.source_upper)
            lines.append(f"  {shown(one.name):<{wide}}  norm {now}, was {was}")
        if not self.deterministic:
            lines.append(f"  all of them but for a probability of {self.failure_probability:g}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and text, as ``--json`` writes them."""
        rows = [{**vars(one), "shape": list(one.shape)} for one in self.tensors]
        fields = vars(self) | {"tensors": rows, "deterministic": self.deterministic}
        return {"schema": "bigspec.normalized-model/1", **fields}
