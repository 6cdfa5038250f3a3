"""The registry: one row for each algorithm, and rows for objects of third parties."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bigspec.algorithms.contract import Algorithm

__all__ = ["Registry", "Row", "StateType"]

BLOCKS = 6  # if an algorithm does not say: the recurrence, the image, temporaries


@dataclass(frozen=True)
class StateType:
    """A class in states, with its name and its fields' names in a checkpoint.

    Attributes
    ----------
    kind : type
        A frozen dataclass of arrays, numbers, texts, tuples, `Facts` and classes named like this.
    name : str
        Its name in a checkpoint. It never changes, whatever Python calls the class later.
    fields : str
        Names of its fields there, separated by spaces, in the order of writing.
    renamed : mapping, optional
        From a name in `fields` to the Python field, where the two differ.
    """

    kind: type
    name: str
    fields: str
    renamed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """What the planner, the checkpoint, a warm start and the command know of an algorithm.

    Attributes
    ----------
    name : str
        The name that users give.
    kind : type
    make : callable
        Takes block size, bytes for a basis and k; None for a user's object.
    states : tuple of StateType
    blocks : int
        Blocks of the iterate's size that a run holds.
    entries : bool
        Whether it asks a pass for H itself, which takes entries and no random block.
    several : bool
        Whether it bounds l_1 .. l_k, not l_1 alone.
    basis : bool
        Whether it keeps a basis where that fits.
    event : str
        The random event of its failure probability; empty if nothing is random.
    passes, flat : mapping of int to int
        Passes to a relative width of 1e-3, by block size: for a typical spectrum, and for a flat
        one (a Gaussian matrix's).
    always : int
        Up to this order of H it is chosen whatever it costs.
    """

    name: str
    kind: type
    make: Callable[[int, int, int], Algorithm[Any]] | None = None
    states: tuple[StateType, ...] = ()
    blocks: int = BLOCKS
    entries: bool = False
    several: bool = False
    basis: bool = False
    event: str = ""
    passes: Mapping[int, int] = field(default_factory=dict)
    flat: Mapping[int, int] = field(default_factory=dict)
    always: int = 0


class Registry:
    """The rows of bigspec's own algorithms."""

    def __init__(self, *rows: Row) -> None:
        self.rows = rows

    @property
    def names(self) -> tuple[str, ...]:
        """The names that a user may ask for, for the norm."""
        return tuple(row.name for row in self.rows if not row.several)

    @property
    def states(self) -> tuple[StateType, ...]:
        """The classes of all states."""
        return tuple(state for row in self.rows for state in row.states)

    def named(self, name: str, *, several: bool = False) -> Row:
        """Return the row with a name, for one value or for several; `KeyError` if there is none."""
        for row in self.rows:
            if (row.name, row.several) == (name, several):
                return row
        raise KeyError(name)

    def of(self, algorithm: Algorithm[Any]) -> Row:
        """Return the row of an object: its class's, or one made from its own attributes."""
        for row in self.rows:
            if type(algorithm) is row.kind:
                return row
        name = algorithm.name
        return Row(
            name=name,
            kind=type(algorithm),
            states=tuple(getattr(algorithm, "states", ())),
            blocks=getattr(algorithm, "blocks", BLOCKS),
            entries=getattr(algorithm, "entries", False),
            basis=getattr(algorithm, "basis_bytes", 0) > 0,
            event=f"bounds of {name}",
        )
