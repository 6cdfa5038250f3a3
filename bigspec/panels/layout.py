"""How a pass cuts a matrix into panels, slabs, tiles and rounds, and how much memory they take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bigspec.kernels.compiled import NUMPY
from bigspec.matrices import Grid

__all__ = ["Layout", "Memory", "Panel"]


@dataclass(frozen=True)
class Panel:
    """One task: the cells ``first <= cell < last`` of the grid of the axis that panels divide."""

    index: int
    first: int
    last: int


@dataclass(frozen=True)
class Memory:
    """Most bytes that one process holds.

    Attributes
    ----------
    iterates : int
        Blocks of vectors, in the process that called bigspec.
    results : int
        Partial sums that wait to be added.
    task : int
        One task: slab, decoding scratch, tiles, its partial sum.
    tasks : int
        Tasks that run at once in one process.
    limit : int
        The memory limit.
    carried : int
        On a cluster, what travels to every worker: operands in memory, and a large block of
        vectors; in this process, copies that opening the matrix made.
    link : int
        Encoded chunks of panels that are on their way before their tasks begin.
    pinned : int
        Panels that stay in memory from one pass to the next.
    """

    iterates: int
    results: int
    task: int
    tasks: int
    limit: int
    carried: int = 0
    link: int = 0
    pinned: int = 0

    @property
    def total(self) -> int:
        """Sum of all of it."""
        passing = self.results + self.link + self.task * self.tasks
        return self.iterates + self.carried + passing + self.pinned

    @property
    def spare(self) -> int:
        """Bytes that are left for a basis: pinned panels give way to it."""
        return max(self.limit - (self.total - self.pinned), 0)


@dataclass(frozen=True)
class Layout:
    """How the panels, slabs and rounds of one matrix are laid out.

    Attributes
    ----------
    orientation : {"rows", "columns"}
        Panels of rows form ``H = A^H A`` (iterates of length n), panels of columns
        ``H = A A^H`` (iterates of length m).
    along, across : Grid
        Grid of the axis that panels divide, and of the axis they span.
    panel_cells, slab_cells : int
        Cells of the grid of that axis in a panel (a task) and in a slab (read at once).
    tile_cells : int or None
        Cells of the other axis in memory at once, if a pass reads twice; else None.
    round_panels, fan_in : int
        Panels summed in one fixed tree of that fan-in; rounds are added in order.
    memory : Memory
    ahead : bool
        Whether the next slab of a panel is asked for while one is multiplied. It changes no bits.
    panels_ahead : int
        Panels of one process whose first slabs are asked for before their tasks begin.
    pinned_panels : int
        Panels that stay in memory once they are read. They change no bits.
    kernel : str
        What multiplies; see `bigspec.kernels.compiled`.
    """

    orientation: Literal["rows", "columns"]
    along: Grid
    across: Grid
    panel_cells: int
    slab_cells: int
    tile_cells: int | None
    round_panels: int
    fan_in: int
    memory: Memory
    ahead: bool = False
    panels_ahead: int = 0
    kernel: str = NUMPY
    pinned_panels: int = 0

    @property
    def panels(self) -> int:
        """Number of panels, that is of tasks a pass."""
        return -(-self.along.count // self.panel_cells)

    @property
    def rounds(self) -> int:
        """Number of rounds in a pass."""
        return -(-self.panels // self.round_panels)

    @property
    def reads_per_pass(self) -> int:
        """How often a pass reads the matrix: 1, or 2 if no slab fits."""
        return 1 if self.tile_cells is None else 2

    @property
    def iterate_length(self) -> int:
        """Length of the iterates: n for panels of rows, m for panels of columns."""
        return self.across.extent

    def panel(self, index: int) -> Panel:
        """Return panel number `index`."""
        first = index * self.panel_cells
        return Panel(index, first, min(first + self.panel_cells, self.along.count))

    def extent(self, index: int) -> tuple[int, int]:
        """Return (start, stop) positions of a panel on the axis that panels divide."""
        panel = self.panel(index)
        return self.along.cut(panel.first), self.along.cut(panel.last)

    def pins(self, index: int) -> bool:
        """Whether a panel stays in memory: every k-th one does.

        Passes scan the matrix in one order, so a cache of what was used last would hold nothing
        when it is used again.
        """
        pinned, panels = self.pinned_panels, self.panels
        return (index + 1) * pinned // panels > index * pinned // panels

    @property
    def pinned_share(self) -> float:
        """The share of the matrix that stays in memory."""
        extents = (self.extent(i) for i in range(self.panels) if self.pins(i))
        return sum(stop - start for start, stop in extents) / self.along.extent

    def slabs(self, panel: Panel) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) positions of the slabs of a panel on the axis that panels divide."""
        for first in range(panel.first, panel.last, self.slab_cells):
            last = min(first + self.slab_cells, panel.last)
            yield self.along.cut(first), self.along.cut(last)

    def tiles(self) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) positions of the tiles of a slab on the other axis."""
        step = self.tile_cells or self.across.count
        for first in range(0, self.across.count, step):
            last = min(first + step, self.across.count)
            yield self.across.cut(first), self.across.cut(last)

    def rectangle(self, along: tuple[int, int], across: tuple[int, int]) -> tuple[slice, slice]:
        """Return (rows, columns) of A from positions on the two axes."""
        ranges = slice(*along), slice(*across)
        return ranges if self.orientation == "rows" else ranges[::-1]

    @property
    def cut(self) -> dict[str, Any]:
        """The parameters that fix the order of the sums, and so the last bits, by wire names."""
        other = {} if self.kernel == NUMPY else {"kernel": self.kernel}
        return other | {
            "orientation": self.orientation,
            "panel_pieces": self.panel_cells,
            "slab_pieces": self.slab_cells,
            "tile_pieces": self.tile_cells,
            "round_panels": self.round_panels,
            "fan_in": self.fan_in,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the layout as JSON-ready values."""
        return {
            "orientation": self.orientation,
            "iterate_length": self.iterate_length,
            "panels": self.panels,
            "rounds": self.rounds,
            "reads_per_pass": self.reads_per_pass,
            "kernel": self.kernel,
            "pinned_panels": self.pinned_panels,
            "memory": asdict(self.memory) | {"total": self.memory.total},
        }
