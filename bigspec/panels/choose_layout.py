"""The choice of a layout: orientation, panels, slabs, rounds, and whether it fits in memory.

It depends on the shape, the dtype, the chunk grid, the block size and the memory limit alone,
never on the number of workers or threads. So sums are added in the same order everywhere, with
the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from bigspec.errors import MemoryLimitError, format_bytes
from bigspec.kernels import TILE_BYTES, working_dtype
from bigspec.matrices import PANEL_BYTES, SLAB_BYTES, Grid, Matrix, OperatorMatrix
from bigspec.panels.layout import Layout, Memory

__all__ = [
    "LARGE_BLOCK",
    "PANEL_BYTES",
    "ROUND_PANELS",
    "SLAB_BYTES",
    "cell_nbytes",
    "choose_layout",
    "keep_layout",
    "memory_text",
    "one_panel",
]

PANELS = 32  # at least, if the sizes allow it: threads and workers then share the load evenly
ROUND_PANELS = 16  # at least: a run that dies loses no more than the rounds in flight
ROUNDS = 256  # at most, about: above ROUNDS * ROUND_PANELS panels, rounds grow with the matrix
MOST_PANELS = 20_000  # panels grow with the matrix from here on, because each costs the scheduler
LARGEST_PANEL = 4 << 30  # to no more than this; slabs are streamed, so a task holds no more
LARGE_BLOCK = 100_000_000  # above it, a block travels to workers in pieces
SMALL_BLOCK = 2 << 20  # below it, partial sums may wait for one another
MANY_PANELS = 512  # from here on, fewer sums matter more than finer progress
LINK_BYTES = 256 << 20  # on their way at once in one process: 1 s of 2 Gbit/s, or 0.1 s of 20
READ_TO_RETURN = 10  # a panel reads at least this many times what it returns


def choose_layout(
    matrix: Matrix,
    block_size: int,
    *,
    blocks: int,
    limit: int,
    tasks: int,
    local: bool,
    wanted: Literal["rows", "columns"] | None = None,
    order: int | None = None,
    waiting: int = 0,
) -> Layout:
    """Choose orientation and panels for one matrix.

    The first choice makes the blocks of vectors as long as the smaller side. The other
    orientation is taken if only its slabs fit, or if only the other side has cuts (compressed rows
    of a wide matrix). For a sparse matrix in memory, whose slabs cost nothing, cuts count only if
    they make more than one panel. If neither orientation fits, each pass reads every slab twice,
    tile by tile.

    Parameters
    ----------
    matrix : Matrix
    block_size : int
        Columns of a block (warm start included); ``iterate_length`` for the Gram algorithm.
    blocks : int
        Blocks of that size that the algorithm holds in memory.
    limit : int
        Bytes one process may hold.
    tasks : int
        Tasks that run at once in one process.
    local : bool
        Whether tasks run in this process, beside the blocks of vectors. If memory is short there,
        fewer tasks run at once, and only then is each slab read twice.
    wanted : {"rows", "columns"}, optional
        Panels to try before all others, unless there would be only one.
    order : int, optional
        Length that iterates must have: for the Gram algorithm, whose blocks are H itself.
    waiting : int
        Tasks that a worker may begin at once where they wait for a link.

    Raises
    ------
    MemoryLimitError
        Nothing fits; the message has the numbers.
    """
    m, n = matrix.shape
    smaller: Literal["rows", "columns"] = "rows" if n <= m else "columns"
    larger: Literal["rows", "columns"] = "columns" if n <= m else "rows"
    attempts = []

    def attempt(orientation: Literal["rows", "columns"], two_reads: bool, running: int) -> Layout:
        return _Attempt(
            matrix, orientation, two_reads, block_size, blocks, limit, running, local
        ).layout()

    only_larger = one_panel(matrix, smaller) and not one_panel(matrix, larger)
    if only_larger and (not matrix.views or attempt(larger, False, tasks).panels > 1):
        smaller, larger = larger, smaller
    if wanted == larger and not one_panel(matrix, wanted):
        smaller, larger = larger, smaller
    for orientation, two_reads in ((smaller, False), (larger, False), (smaller, True)):
        if order is not None and matrix.shape[1 if orientation == "rows" else 0] != order:
            continue
        for running in range(tasks, 0, -1) if local else (tasks,):
            layout = attempt(orientation, two_reads, running)
            attempts.append(layout)
            if layout.memory.total <= limit:
                return _waiting_for_a_link(layout, matrix, waiting, local=local)
    least = min(attempts, key=lambda layout: layout.memory.total)
    raise MemoryLimitError(_refusal(matrix, least, block_size))


def one_panel(matrix: Matrix, orientation: str) -> bool:
    """Whether a matrix that is not small would have only one panel of this orientation."""
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
    waiting: int = 0,
) -> Layout | None:
    """Return the layout with the cut of an earlier run, or None if it does not fit.

    Parameters are those of `choose_layout`, and `Layout.cut` of that run.
    """
    two_reads = cut["tile_pieces"] is not None
    for running in range(tasks, 0, -1) if local else (tasks,):
        layout = _Attempt(
            matrix, cut["orientation"], two_reads, block_size, blocks, limit, running, local, cut
        ).layout()
        if layout.memory.total <= limit:
            return _waiting_for_a_link(layout, matrix, waiting, local=local)
    return None


def _waiting_for_a_link(layout: Layout, matrix: Matrix, most: int, *, local: bool) -> Layout:
    """Let panels be asked for before they are read, where a matrix comes over a network.

    In this process the next panels are asked for whichever task will read them. A worker does not
    know which come next, so it begins more tasks than it has threads. Neither changes the cut, and
    so no bits. All of it takes at most half of the memory that is left.

    Parameters
    ----------
    layout : Layout
    matrix : Matrix
    most : int
        Tasks that a worker may begin.
    local : bool
    """
    memory = layout.memory
    slab = layout.slab_cells * cell_nbytes(matrix, layout.along, layout.across)
    ahead, limit = matrix.ahead_nbytes(slab), memory.total + memory.spare // 2
    if not ahead or layout.tile_cells is not None:
        return layout
    if layout.slab_cells < layout.panel_cells:
        more = replace(memory, task=memory.task + ahead)
        if more.total <= limit:
            layout, memory = replace(layout, memory=more, ahead=True), more
    if local:
        wanted = min(max(layout.panels - memory.tasks, 0), max(1, LINK_BYTES // ahead))
        panels = min(wanted, max(limit - memory.total, 0) // ahead)
        return replace(layout, memory=replace(memory, link=panels * ahead), panels_ahead=panels)
    panels = min(layout.panels, layout.round_panels)
    block = memory.results // _waiting(panels, layout.fan_in, memory.tasks)
    for tasks in range(min(most, layout.panels, LINK_BYTES // slab), memory.tasks, -1):
        results = _waiting(panels, layout.fan_in, tasks) * block
        more = replace(memory, results=results, tasks=tasks)
        if more.total <= limit:
            return replace(layout, memory=more)
    return layout


@dataclass(frozen=True)
class _Attempt:
    """One way to lay out a matrix, which may not fit.

    `cut` comes from an earlier run, and its panels are used again.
    """

    matrix: Matrix
    orientation: Literal["rows", "columns"]
    two_reads: bool
    block_size: int
    blocks: int
    limit: int
    tasks: int
    local: bool
    cut: dict[str, Any] | None = None

    @property
    def axes(self) -> tuple[Grid, Grid]:
        """The axis that is cut into panels, and the other one."""
        grids = self.matrix.grids
        return grids if self.orientation == "rows" else grids[::-1]

    @property
    def block(self) -> int:
        """Bytes of a block of vectors."""
        return self.axes[1].extent * self.row

    @property
    def row(self) -> int:
        """Bytes of one row of a block."""
        return self.block_size * working_dtype(self.matrix.dtype).itemsize

    def cells(self) -> tuple[int, int]:
        """Return the bytes between two cuts of the axis that panels divide, and of both axes."""
        (along, across), matrix = self.axes, self.matrix
        entry = matrix.nbytes / (matrix.shape[0] * matrix.shape[1])  # sparse: less than an itemsize
        cell = cell_nbytes(matrix, along, across)
        return cell, max(1, int(along.step * across.step * entry))

    def panel_cells(self, cell: int) -> int:
        """Return how many cells of so many bytes make a panel."""
        matrix = self.matrix
        size = max(PANEL_BYTES[0], min(PANEL_BYTES[1], matrix.nbytes // PANELS))
        size = max(size, min(LARGEST_PANEL, matrix.nbytes // MOST_PANELS))
        if not matrix.streams:
            size = min(size, SLAB_BYTES)
        size = max(size, READ_TO_RETURN * self.block)
        return max(1, min(self.axes[0].count, size // cell))

    def fixed(self) -> int:
        """Return the bytes that a task holds besides the entries that it reads."""
        # A partial sum, its copy in a merge, and the temporary of one product.
        size = 3 * self.block + 3 * TILE_BYTES
        if self.matrix.compressed == (1 if self.orientation == "rows" else 0):
            # The rows of such a slab cannot be separated. So the first product has all of them,
            # and its conjugate doubles that.
            twice = working_dtype(self.matrix.dtype).kind == "c"
            size += self.axes[0].extent * self.row * (2 if twice else 1)
        return size

    def slab_cells(self, panel_cells: int, cell: int, room: int) -> int:
        """Return how many cells to read at once; slabs shrink before tasks do."""
        matrix = self.matrix
        if not matrix.streams or matrix.views:
            return panel_cells
        slab = max(1, min(panel_cells, SLAB_BYTES // cell))
        while slab > 1 and slab * cell + matrix.transient(slab * cell) > room:
            slab = max(1, 3 * slab // 4)
        return slab

    def fan_in(self, panels: int, rounds: int) -> int:
        """Return how many sums are added in one task, in rounds of so many panels.

        Large blocks are added two at a time, which holds the fewest. Where rounds have grown,
        there are so many sums that four at a time pay, if these take no more than a quarter of
        the memory.
        """
        if self.block <= SMALL_BLOCK:
            return 4 if panels <= MANY_PANELS else 16
        fits = 4 * _waiting(rounds, 4, 1) * self.block <= self.limit
        return 4 if rounds > ROUND_PANELS and fits else 2

    def layout(self) -> Layout:
        """Return the layout, with the memory that it takes."""
        (along, across), matrix, cut = self.axes, self.matrix, self.cut
        cell, column = self.cells()
        panel_cells = cut["panel_pieces"] if cut else self.panel_cells(cell)
        panels = -(-along.count // panel_cells)
        tasks = min(self.tasks, panels)
        rounds = cut["round_panels"] if cut else max(ROUND_PANELS, -(-panels // ROUNDS))
        fan_in = cut["fan_in"] if cut else self.fan_in(panels, rounds)
        iterates = self.blocks * self.block if self.local else 0
        results = _waiting(min(panels, rounds), fan_in, tasks) * self.block
        carried = matrix.copied_nbytes if self.local else matrix.carried_nbytes
        if not self.local and self.block > LARGE_BLOCK:
            carried += 2 * self.block  # in pieces, and put together
        room = (self.limit - iterates - carried - results) // tasks - self.fixed()
        slab_cells, tile_cells = self.slab_cells(panel_cells, cell, room), None
        transient = matrix.transient(slab_cells * cell)
        if self.two_reads:
            slab_cells, tile_cells = 1, max(1, min(across.count, (room - transient) // column))
        if cut:
            slab_cells, tile_cells = cut["slab_pieces"], cut["tile_pieces"]
        read = not matrix.resident and not isinstance(matrix, OperatorMatrix)
        slab = slab_cells * cell if tile_cells is None else min(tile_cells * column, cell)
        task = (slab + matrix.transient(slab) if read else transient) + self.fixed()
        memory = Memory(iterates, results, task, tasks, self.limit, carried)
        return Layout(
            self.orientation,
            along,
            across,
            panel_cells,
            slab_cells,
            tile_cells,
            rounds,
            fan_in,
            memory,
        )


def cell_nbytes(matrix: Matrix, along: Grid, across: Grid) -> int:
    """Return the bytes between two cuts of the axis that panels divide."""
    if matrix.cell_nbytes is not None and along.count > 1:
        return matrix.cell_nbytes
    entry = matrix.nbytes / (matrix.shape[0] * matrix.shape[1])
    return max(1, int(along.step * across.extent * entry))


def _waiting(panels: int, fan_in: int, tasks: int) -> int:
    """Return how many partial sums exist at once while a tree is summed, the total included."""
    levels = math.ceil(math.log(max(panels, 2), fan_in))
    return min(panels, (fan_in - 1) * levels + tasks) + 1


def memory_text(memory: Memory) -> str:
    """Say in words how the memory of a process is spent."""
    operands = f"operands {format_bytes(memory.carried)}, " if memory.carried else ""
    link = f", on their way {format_bytes(memory.link)}" if memory.link else ""
    pinned = f", pinned panels {format_bytes(memory.pinned)}" if memory.pinned else ""
    tasks = f"{memory.tasks} task{'' if memory.tasks == 1 else 's'}"
    return (
        f"blocks of vectors {format_bytes(memory.iterates)}, {operands}"
        f"partial sums {format_bytes(memory.results)}, {tasks} of {format_bytes(memory.task)}"
        f"{link}{pinned}"
    )


def _refusal(matrix: Matrix, layout: Layout, block_size: int) -> str:
    memory = layout.memory
    return (
        f"memory_limit: expected at least {format_bytes(memory.total)} a process for "
        f"{matrix.name} {matrix.shape} {matrix.dtype} at block_size={block_size} "
        f"({memory_text(memory)}), got "
        f"{format_bytes(memory.limit)}. Give more memory, a smaller block_size, or smaller chunks "
        "(a task holds at least one chunk)."
    )
