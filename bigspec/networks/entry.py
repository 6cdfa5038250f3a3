"""A row of a scan before its numbers are known."""

from __future__ import annotations

from dataclasses import dataclass, field

from bigspec.networks.forms import Form
from bigspec.networks.layer import Layer

__all__ = ["Entry"]


@dataclass(frozen=True)
class Entry:
    """A row before its numbers are known.

    Attributes
    ----------
    name : str
        Of the tensor; with the part or the number of the expert in brackets.
    file, dtype : str
    shape : tuple of int
        Of the tensor in the file.
    kind : str
    form : Form or None
        How the matrix is made; None for what is only listed, and for a refusal.
    matrix : tuple of int or None
    note : str
        What a reader of the row must know; the reason if there is no number.
    stack : str
        Name of the stack of experts that it is folded into in a text.
    hidden : bool
        Not a matrix: listed only if all are asked for.
    tied_to : str
        The row with the same numbers.
    layers : tuple of Layer
        What the network does with a kernel, as far as the file says.
    """

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    kind: str
    form: Form | None = field(default=None, repr=False)
    matrix: tuple[int, int] | None = None
    note: str = ""
    stack: str = ""
    hidden: bool = False
    tied_to: str = ""
    layers: tuple[Layer, ...] = ()

    @property
    def runs(self) -> bool:
        """Whether there is a norm to bracket."""
        return self.matrix is not None and not self.tied_to
