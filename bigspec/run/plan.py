"""A plan: what a run would read, hold and do, and what the caller fixed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bigspec.algorithms import Algorithm
from bigspec.errors import format_bytes
from bigspec.matrices import Matrix
from bigspec.panels.layout import Layout

__all__ = ["Plan", "Wishes"]


@dataclass(frozen=True)
class Wishes:
    """What the caller fixed, and what is left open (None, "auto").

    Attributes
    ----------
    algorithm : str
    block_size : int or None
    extra : int
        Columns of a warm start.
    memory_limit : int or None
        Bytes one process may hold; None for half of what it has.
    count : int
        Singular triplets; 0 for the norm.
    shelved : bool
        Whether a checkpoint takes a basis that does not fit.
    stored : bool
        Whether the left vectors are written to a store.
    """

    algorithm: str = "auto"
    block_size: int | None = None
    extra: int = 0
    memory_limit: int | None = None
    count: int = 0
    shelved: bool = False
    stored: bool = False


@dataclass(frozen=True)
class Plan:
    """What a run would read, hold and do.

    Attributes
    ----------
    matrix : Matrix
    algorithm : Algorithm
    block_size : int
        Random columns; the order of H for the Gram algorithm.
    layout : Layout
    where : str
        What runs the passes.
    choices : tuple of str
        What was chosen, and why.
    measured_bytes : int
        Bytes read to measure the first slab.
    """

    matrix: Matrix = field(repr=False)
    algorithm: Algorithm[Any]
    block_size: int
    layout: Layout = field(repr=False)
    where: str
    choices: tuple[str, ...]
    measured_bytes: int = 0

    @property
    def bytes_per_pass(self) -> int:
        """Decoded bytes that one pass reads."""
        return self.matrix.nbytes * self.layout.reads_per_pass

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-ready values."""
        return {
            "schema": "bigspec.plan/1",
            "matrix": self.matrix.identity,
            "algorithm": self.algorithm.name,
            "block_size": self.block_size,
            "bytes_per_pass": self.bytes_per_pass,
            "where": self.where,
            "layout": self.layout.to_dict(),
            "choices": list(self.choices),
        }

    def __str__(self) -> str:
        layout, memory = self.layout, self.layout.memory
        m, n = self.matrix.shape
        reads = "read once" if layout.reads_per_pass == 1 else "read TWICE (no strip fits)"
        carried = f"operands {format_bytes(memory.carried)}, " if memory.carried else ""
        held = (
            f"{format_bytes(memory.total)} of {format_bytes(memory.limit)} a process: "
            f"iterates {format_bytes(memory.iterates)}, {carried}partial sums "
            f"{format_bytes(memory.results)}, {memory.tasks} task(s) of {format_bytes(memory.task)}"
        )
        panels = f"{layout.panels} panels of {layout.orientation}, {reads}"
        lines = [
            self.matrix.name,
            f"  matrix      {m} x {n} {self.matrix.dtype}, {format_bytes(self.matrix.nbytes)}",
            f"  pass        {panels}: {format_bytes(self.bytes_per_pass)} a pass",
            f"  runs on     {self.where}",
            f"  algorithm   {self.algorithm.name}, block of {self.block_size}",
            f"  memory      {held}",
        ]
        return "\n".join(lines + [f"  because     {choice}" for choice in self.choices])
