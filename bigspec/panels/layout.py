"""How a pass cuts a matrix: orientation, panels, slabs, rounds, and whether it fits the memory.

Everything here follows from the shape, the dtype, the chunk grid, the block size and the
memory limit alone, never from the number of workers or threads: the sums are made in the same
order everywhere, so the bits are the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bigspec.errors import MemoryLimitError, format_bytes
from bigspec.kernels import TILE_BYTES, working_dtype
from bigspec.matrices import PANEL_BYTES, SLAB_BYTES, Grid, Matrix, OperatorMatrix

__all__ = [
    "PANEL_BYTES",
    "ROUND_PANELS",
    "SLAB_BYTES",
    "Layout",
    "Memory",
    "Panel",
    "choose_layout",
    "format_bytes",
    "keep_layout",
]

PANELS = 32  # wanted at least, so that threads and workers share the load evenly
ROUND_PANELS = 16  # a run that dies loses at most the rounds in flight
SMALL_BLOCK = 2 << 20  # below it, partial sums may wait for one another
MANY_PANELS = 512  # from here on, fewer sums count for more than finer progress
READ_TO_RETURN = 10  # a panel reads at least this many times what it returns


@dataclass(frozen=True)
class Panel:
    """One task: the pieces ``first <= piece < last`` of the swept axis."""

    index: int
    first: int
    last: int


@dataclass(frozen=True)
class Memory:
    """What one process holds at most, in bytes.

    Attributes
    ----------
    iterates : int
        Blocks of the recurrence, at the client.
    results : int
        Partial sums waiting to be added.
    task : int
        One running task: slab, decoding scratch, tiles, its partial sum.
    tasks : int
        Tasks running at once in one process.
    limit : int
        What was allowed.
    carried : int
        On a cluster, what of the matrix lies in memory and travels to every worker; in this
        process, copies that opening it has made.
    """

    iterates: int
    results: int
    task: int
    tasks: int
    limit: int
    carried: int = 0

    @property
    def total(self) -> int:
        """Sum of all of it."""
        return self.iterates + self.carried + self.results + self.task * self.tasks

    @property
    def spare(self) -> int:
        """What is left, for a basis to be kept."""
        return max(self.limit - self.total, 0)


@dataclass(frozen=True)
class Layout:
    """The cut of one matrix into panels.

    Attributes
    ----------
    orientation : {"rows", "columns"}
        Panels of rows form ``H = A^H A`` (iterates of length n), panels of columns
        ``H = A A^H`` (iterates of length m).
    swept, across : Grid
        Grid of the axis that panels divide, and of the axis they span.
    panel_pieces, slab_pieces : int
        Grid pieces of the swept axis in a panel (a task) and in a slab (read at once).
    tile_pieces : int or None
        In two-read passes, grid pieces of the other axis held at once.
    round_panels, fan_in : int
        Panels summed in one fixed tree of that fan-in; rounds are added in order.
    memory : Memory
    """

    orientation: Literal["rows", "columns"]
    swept: Grid
    across: Grid
    panel_pieces: int
    slab_pieces: int
    tile_pieces: int | None
    round_panels: int
    fan_in: int
    memory: Memory

    @property
    def panels(self) -> int:
        """Number of panels, that is of tasks a pass."""
        return -(-self.swept.count // self.panel_pieces)

    @property
    def rounds(self) -> int:
        """Number of rounds in a pass."""
        return -(-self.panels // self.round_panels)

    @property
    def reads_per_pass(self) -> int:
        """How often a pass reads the matrix: 1, or 2 if no strip of chunks fits."""
        return 1 if self.tile_pieces is None else 2

    @property
    def iterate_length(self) -> int:
        """Length of the iterates: n for panels of rows, m for panels of columns."""
        return self.across.extent

    def panel(self, index: int) -> Panel:
        """Return panel number `index`."""
        first = index * self.panel_pieces
        return Panel(index, first, min(first + self.panel_pieces, self.swept.count))

    def extent(self, index: int) -> tuple[int, int]:
        """Return (start, stop) positions of a panel on the swept axis."""
        panel = self.panel(index)
        return self.swept.cut(panel.first), self.swept.cut(panel.last)

    def slabs(self, panel: Panel) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) positions of the slabs of a panel on the swept axis."""
        for first in range(panel.first, panel.last, self.slab_pieces):
            last = min(first + self.slab_pieces, panel.last)
            yield self.swept.cut(first), self.swept.cut(last)

    def tiles(self) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) positions on the other axis of what is read at once."""
        step = self.tile_pieces or self.across.count
        for first in range(0, self.across.count, step):
            last = min(first + step, self.across.count)
            yield self.across.cut(first), self.across.cut(last)

    def rectangle(self, swept: tuple[int, int], across: tuple[int, int]) -> tuple[slice, slice]:
        """Return (rows, columns) of A from positions on the two axes."""
        ranges = slice(*swept), slice(*across)
        return ranges if self.orientation == "rows" else ranges[::-1]

    @property
    def cut(self) -> dict[str, Any]:
        """What decides the order of the sums, and so the last bits, by its names in checkpoints."""
        return {
            "orientation": self.orientation,
            "panel_pieces": self.panel_pieces,
            "slab_pieces": self.slab_pieces,
            "tile_pieces": self.tile_pieces,
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
            "memory": asdict(self.memory) | {"total": self.memory.total},
        }


def choose_layout(
    matrix: Matrix,
    block_size: int,
    *,
    blocks: int,
    limit: int,
    tasks: int,
    local: bool,
    wanted: Literal["rows", "columns"] | None = None,
) -> Layout:
    """Choose orientation and panels for one matrix.

    Rows or columns: the smaller side makes the smaller iterates; the other one is taken when a
    strip of chunks along the smaller side does not fit and one along the other does, or where
    only the other side is cut at all (compressed rows of a wide matrix). When neither fits, each
    strip is read twice a pass, tile by tile.

    Parameters
    ----------
    matrix : Matrix
    block_size : int
        Columns of a block (warm start included); ``iterate_length`` for the Gram algorithm.
    blocks : int
        Blocks of that size that the algorithm holds at the client.
    limit : int
        Bytes one process may hold.
    tasks : int
        Tasks that run at once in one process.
    local : bool
        Whether tasks run in this process, beside the iterates. There, fewer tasks run at once
        before a second read is paid for.
    wanted : {"rows", "columns"}, optional
        Panels to try before all others, unless they would all be one.

    Raises
    ------
    MemoryLimitError
        Nothing fits; the message has the numbers.
    """
    m, n = matrix.shape
    smaller, larger = ("rows", "columns") if n <= m else ("columns", "rows")
    attempts = []
    if _uncut(matrix, smaller) and not _uncut(matrix, larger):
        smaller, larger = larger, smaller
    if wanted == larger and not _uncut(matrix, wanted):
        smaller, larger = larger, smaller
    for orientation, two_reads in ((smaller, False), (larger, False), (smaller, True)):
        for running in range(tasks, 0, -1) if local else (tasks,):
            layout = _attempt(
                matrix, orientation, two_reads, block_size, blocks, limit, running, local
            )
            attempts.append(layout)
            if layout.memory.total <= limit:
                return layout
    least = min(attempts, key=lambda layout: layout.memory.total)
    raise MemoryLimitError(_refusal(matrix, least, block_size))


def _uncut(matrix: Matrix, orientation: str) -> bool:
    """Whether panels of this orientation would all be one, of a matrix that is not small."""
    return matrix.grids[0 if orientation == "rows" else 1].count == 1 and (
        matrix.nbytes > PANEL_BYTES[0] and not isinstance(matrix, OperatorMatrix)
    )


def keep_layout(
    matrix: Matrix,
    cut: dict[str, Any],
    block_size: int,
    *,
    blocks: int,
    limit: int,
    tasks: int,
    local: bool,
) -> Layout | None:
    """Return the layout with the cut of an earlier run, or None if it does not fit.

    Parameters are those of `choose_layout`, and `Layout.cut` of that run.
    """
    two_reads = cut["tile_pieces"] is not None
    for running in range(tasks, 0, -1) if local else (tasks,):
        layout = _attempt(
            matrix, cut["orientation"], two_reads, block_size, blocks, limit, running, local, cut
        )
        if layout.memory.total <= limit:
            return layout
    return None


def _attempt(
    matrix: Matrix,
    orientation: str,
    two_reads: bool,
    block_size: int,
    blocks: int,
    limit: int,
    tasks: int,
    local: bool,
    cut: dict[str, Any] | None = None,
) -> Layout:
    """Lay out one orientation; its memory says whether it fits."""
    axis = 0 if orientation == "rows" else 1
    swept, across = matrix.grids[axis], matrix.grids[1 - axis]
    block = across.extent * block_size * working_dtype(matrix.dtype).itemsize
    entry = matrix.nbytes / (matrix.shape[0] * matrix.shape[1])  # sparse: less than an itemsize
    piece = max(1, int(swept.step * across.extent * entry))
    if matrix.piece_nbytes is not None and swept.count > 1:
        piece = matrix.piece_nbytes
    streamed = isinstance(matrix, OperatorMatrix)
    held = 0 if matrix.resident or streamed else 1
    wanted = max(PANEL_BYTES[0], min(PANEL_BYTES[1], matrix.nbytes // PANELS))
    if not matrix.streams:
        wanted = min(wanted, SLAB_BYTES)
    wanted = max(wanted, READ_TO_RETURN * block)
    panel_pieces = cut["panel_pieces"] if cut else max(1, min(swept.count, wanted // piece))
    # A partial sum, its copy in a merge, and the temporary of one product.
    fixed = 3 * block + 3 * TILE_BYTES
    if matrix.compressed == 1 - axis:
        # The rows of a slab cannot be told apart: the first product has all of them, and its
        # conjugate is another one.
        row = block_size * working_dtype(matrix.dtype).itemsize
        fixed += swept.extent * row * (2 if working_dtype(matrix.dtype).kind == "c" else 1)
    iterates = blocks * block if local else 0
    panels = -(-swept.count // panel_pieces)
    tasks = min(tasks, panels)
    fan_in = 2 if block > SMALL_BLOCK else 4 if panels <= MANY_PANELS else 16
    results = _waiting(min(panels, ROUND_PANELS), fan_in, tasks) * block
    carried = matrix.copied_nbytes if local else matrix.carried_nbytes
    room = (limit - iterates - carried - results) // tasks - fixed
    slab_pieces = panel_pieces
    if matrix.streams and not matrix.views:  # smaller slabs before fewer tasks or a second read
        slab_pieces = max(1, min(panel_pieces, SLAB_BYTES // piece))
        while (
            slab_pieces > 1 and slab_pieces * piece + matrix.transient(slab_pieces * piece) > room
        ):
            slab_pieces = max(1, 3 * slab_pieces // 4)
    transient = matrix.transient(slab_pieces * piece)
    tile_pieces = None
    column = max(1, int(swept.step * across.step * entry))
    if two_reads:
        slab_pieces, tile_pieces = 1, max(1, min(across.count, (room - transient) // column))
    if cut:
        slab_pieces, tile_pieces, fan_in = cut["slab_pieces"], cut["tile_pieces"], cut["fan_in"]
    slab = held * slab_pieces * piece
    if tile_pieces is not None:
        slab = held * min(tile_pieces * column, piece)
    task = slab + (matrix.transient(slab) if held else transient) + fixed
    memory = Memory(iterates, results, task, tasks, limit, carried)
    orientation_: Literal["rows", "columns"] = "rows" if axis == 0 else "columns"
    return Layout(
        orientation_,
        swept,
        across,
        panel_pieces,
        slab_pieces,
        tile_pieces,
        cut["round_panels"] if cut else ROUND_PANELS,
        fan_in,
        memory,
    )


def _waiting(panels: int, fan_in: int, tasks: int) -> int:
    """Partial sums alive at once when a tree is summed depth first, and the total so far."""
    levels = math.ceil(math.log(max(panels, 2), fan_in))
    return min(panels, (fan_in - 1) * levels + tasks) + 1


def _refusal(matrix: Matrix, layout: Layout, block_size: int) -> str:
    memory = layout.memory
    carried = f"operands in memory {format_bytes(memory.carried)}, " if memory.carried else ""
    parts = (
        f"iterates {format_bytes(memory.iterates)}, {carried}"
        f"partial sums {format_bytes(memory.results)}, "
        f"{memory.tasks} task(s) of {format_bytes(memory.task)}"
    )
    return (
        f"memory_limit: expected at least {format_bytes(memory.total)} a process for "
        f"{matrix.name} {matrix.shape} {matrix.dtype} at block_size={block_size} ({parts}), got "
        f"{format_bytes(memory.limit)}. Give more memory, a smaller block_size, or smaller chunks "
        "(a task holds at least one chunk)."
    )
