"""The caller's wishes, and the plan: what a run reads, holds in memory and does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bigspec.algorithms import REGISTRY, Algorithm, Row
from bigspec.errors import ArgumentError, format_bytes
from bigspec.expressions import Product
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.panels.choose_layout import memory_text
from bigspec.panels.first import FirstSlab
from bigspec.panels.layout import Layout
from bigspec.results.markup import pairs, prose, shown_in_notebook, whole
from bigspec.results.text import counted

__all__ = ["ALGORITHMS", "Plan", "Wishes", "check_algorithm", "check_wishes"]

ALGORITHMS = ("auto", *REGISTRY.names)
CONTRACT = ("name", "init", "step", "bounds", "has_room", "vector", "leading")


@dataclass(frozen=True)
class Wishes:
    """The caller's wishes. None and "auto" leave the choice to the planner.

    Attributes
    ----------
    algorithm : str or Algorithm
        A name, or an object.
    block_size : int or None
    extra : int
        Columns of a warm start.
    memory_limit : int or None
        Bytes that one process may hold; None for half of its memory.
    count : int
        Number of singular triplets; 0 for the norm.
    basis_in_checkpoint : bool
        Whether a checkpoint can hold a basis that does not fit in memory.
    left : bool
        Whether the caller wants the left vectors of triplets.
    left_in_store : bool
        Whether the left vectors are written to a store.
    rtol : float
        The relative width that the caller wants.
    pin : bool
        Whether panels may stay in spare memory.
    """

    algorithm: str | Algorithm[Any] = "auto"
    block_size: int | None = None
    extra: int = 0
    memory_limit: int | None = None
    count: int = 0
    basis_in_checkpoint: bool = False
    left: bool = True
    left_in_store: bool = False
    rtol: float = 1e-3
    pin: bool = True

    @property
    def row(self) -> Row | None:
        """The algorithm's row in the registry; None if the planner chooses."""
        if not isinstance(self.algorithm, str):
            return REGISTRY.of(self.algorithm)
        if self.algorithm == "auto" or (self.count and self.algorithm != "lanczos"):
            return None
        return REGISTRY.named(self.algorithm, several=self.count > 0)

    @property
    def own_block(self) -> int | None:
        """Block size of an algorithm given as an object; None if there is none."""
        given: Any = self.algorithm
        if isinstance(given, str) or REGISTRY.of(given).entries:
            return None
        return int(given.block_size)

    @property
    def name(self) -> str:
        """Name of the algorithm, or ``"auto"``."""
        return self.algorithm if isinstance(self.algorithm, str) else self.algorithm.name


@dataclass(frozen=True)
class Plan:
    """The plan of a run: what it reads, holds in memory and does.

    Attributes
    ----------
    matrix : Matrix
    algorithm : Algorithm
    block_size : int
        Random columns; the order of H for the Gram algorithm.
    layout : Layout
    where : str
        Where the passes run.
    choices : tuple of str
        Each choice with its reason.
    measured_bytes : int
        Bytes of the first slab, if it was measured and the first pass reads it again.
    vectors_bytes : int
        Memory for the vectors of k triplets, besides that of the passes.
    first_slab : FirstSlab or None
        The first slab, if the first pass need not read it again.
    """

    matrix: Matrix = field(repr=False)
    algorithm: Algorithm[Any]
    block_size: int
    layout: Layout = field(repr=False)
    where: str
    choices: tuple[str, ...]
    measured_bytes: int = 0
    vectors_bytes: int = 0
    first_slab: FirstSlab | None = field(default=None, repr=False, compare=False)

    @property
    def bytes_per_pass(self) -> int:
        """Decoded bytes that the first pass reads; 0 for an operator."""
        return _entries_nbytes(self.matrix) * self.layout.reads_per_pass

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-ready values."""
        return {
            "schema": "bigspec.plan/1",
            "matrix": self.matrix.identity,
            "algorithm": self.algorithm.name,
            "block_size": self.block_size,
            "bytes_per_pass": self.bytes_per_pass,
            "where": self.where,
            "vectors_bytes": self.vectors_bytes,
            "layout": self.layout.to_dict(),
            "choices": list(self.choices),
        }

    def __str__(self) -> str:
        rows = [*self._rows(), *(("because", choice) for choice in self.choices)]
        return "\n".join([self.matrix.name, *(f"  {key:11} {value}" for key, value in rows)])

    def _repr_html_(self) -> str:
        """Return what a notebook shows: what a pass reads, then the rest."""
        rows = self._rows()
        because = "".join(f"<li>{prose(choice)}</li>" for choice in self.choices)
        read = f"{format_bytes(self.bytes_per_pass)} a pass" if self.bytes_per_pass else "products"
        return shown_in_notebook(
            whole(read),
            [prose(self.matrix.name)],
            pairs((key, prose(value)) for key, value in rows),
            f"Because:<ul>{because}</ul>" if because else "",
        )

    def _rows(self) -> list[tuple[str, str]]:
        layout, memory = self.layout, self.layout.memory
        m, n = self.matrix.shape
        reads = "read once" if layout.reads_per_pass == 1 else "read TWICE (no slab fits)"
        size = (
            f"{format_bytes(memory.total + self.vectors_bytes)} of {format_bytes(memory.limit)} "
            f"a process: {memory_text(memory)}"
        )
        if self.vectors_bytes:
            size += f", vectors {format_bytes(self.vectors_bytes)}"
        panels = f"{counted(layout.panels, 'panel')} of {layout.orientation}, {reads}"
        entries, cost = f", {format_bytes(self.matrix.nbytes)}", panels
        cost += f": {format_bytes(self.bytes_per_pass)} a pass"
        if isinstance(self.matrix, OperatorMatrix) and not isinstance(self.matrix, Product):
            entries, cost = "", "one product with it and one with its adjoint"
        pinned = [("pinned", pinned_text(layout))] if layout.pinned_panels else []
        return [
            ("matrix", f"{m} x {n} {self.matrix.dtype}{entries}"),
            ("pass", cost),
            *pinned,
            ("runs on", self.where),
            ("algorithm", f"{self.algorithm.name}, block of {self.block_size}"),
            ("memory", size),
        ]


def pinned_text(layout: Layout) -> str:
    """Say how many panels stay in memory, and what share later passes read."""
    pinned, panels = layout.pinned_panels, counted(layout.panels, "panel")
    left = f"{100.0 * (1.0 - layout.pinned_share):.0f} %" if pinned < layout.panels else "nothing"
    verb = "stays" if pinned == 1 else "stay"
    return f"{pinned} of {panels} {verb} in memory; later passes read {left}"


def _entries_nbytes(matrix: Matrix) -> int:
    if isinstance(matrix, Product):
        return _entries_nbytes(matrix.left) + _entries_nbytes(matrix.right)
    return 0 if isinstance(matrix, OperatorMatrix) else matrix.nbytes


def check_algorithm(algorithm: Any) -> None:
    """Raise `ArgumentError` unless it is a known name, or an object that obeys the contract."""
    if isinstance(algorithm, str):
        if algorithm not in ALGORITHMS:
            msg = f"algorithm: expected one of {', '.join(ALGORITHMS)}, got {algorithm!r}"
            raise ArgumentError(msg)
        return
    if isinstance(algorithm, type):
        msg = f"algorithm: expected an object, got the class {algorithm.__name__}; call it"
        raise ArgumentError(msg)
    lacking = [part for part in CONTRACT if not hasattr(algorithm, part)]
    if lacking:
        msg = (
            f"algorithm: expected one of {', '.join(ALGORITHMS)}, or an object with "
            f"{', '.join(CONTRACT)}, got {algorithm!r} without {', '.join(lacking)}"
        )
        raise ArgumentError(msg)
    row = REGISTRY.of(algorithm)
    if row.several:
        msg = f"algorithm: expected one that bounds sigma_1 alone, got {algorithm!r}; see svds"
        raise ArgumentError(msg)
    if row.make is None and row.name in ALGORITHMS:
        msg = (
            f"algorithm: expected an object with a name of its own, got {type(algorithm).__name__} "
            f"with the name {row.name!r}, which another one has"
        )
        raise ArgumentError(msg)
    size = getattr(algorithm, "block_size", None)
    if not row.entries and not (isinstance(size, int) and size >= 1):
        msg = (
            f"algorithm: expected an object with a block_size of at least 1, got {algorithm!r} "
            f"with {size!r}; or set its attribute `entries`, if it asks for H itself"
        )
        raise ArgumentError(msg)


def check_wishes(matrix: Matrix, wishes: Wishes) -> None:
    """Raise `ArgumentError` for wishes that contradict the matrix or each other."""
    check_algorithm(wishes.algorithm)
    order, given = min(matrix.shape), not isinstance(wishes.algorithm, str)
    if wishes.count < 0 or wishes.count > order:
        msg = (
            f"k: expected 1 <= k <= min(m, n) = {order} for {matrix.name} {matrix.shape}, got "
            f"{wishes.count}"
        )
        raise ArgumentError(msg)
    row = wishes.row
    if wishes.count and (row is None or not row.several) and wishes.algorithm != "auto":
        msg = f"algorithm: expected 'lanczos' or 'auto' for triplets, got {wishes.algorithm!r}"
        raise ArgumentError(msg)
    if wishes.block_size is not None and wishes.block_size < 1:
        msg = f"block_size: expected at least 1, got {wishes.block_size!r}; 16 is a good choice"
        raise ArgumentError(msg)
    if wishes.block_size is not None and given:
        msg = (
            f"block_size: expected none, because the algorithm is an object with a block size of "
            f"its own, got {wishes.block_size}"
        )
        raise ArgumentError(msg)
    if row is None or not row.entries:
        return
    if wishes.block_size is not None:
        msg = (
            f"block_size: expected none with algorithm={row.name!r}, which has no random block, "
            f"got {wishes.block_size}"
        )
        raise ArgumentError(msg)
    if isinstance(matrix, OperatorMatrix):
        msg = (
            f"algorithm: expected 'lanczos' or 'power' for the operator {matrix.name}, got "
            f"{row.name!r}, which needs entries"
        )
        raise ArgumentError(msg)
