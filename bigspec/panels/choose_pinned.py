"""How many panels stay in memory: whole panels, in what nothing else needs."""

from __future__ import annotations

import math
from dataclasses import replace

from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.panels.choose_layout import cell_nbytes
from bigspec.panels.layout import Layout

__all__ = ["with_pinned"]

SHARE = 0.55  # of a process: Dask spills from 0.6 on


def with_pinned(
    layout: Layout, matrix: Matrix, *, process: int, held: int, processes: int
) -> Layout:
    """Return the layout with the panels that fit in memory, in whole panels.

    Parameters
    ----------
    layout : Layout
    matrix : Matrix
    process : int
        Bytes that one process has.
    held : int
        Bytes that it holds besides what the layout counts, such as a basis.
    processes : int
        Processes that share the panels.
    """
    if not _can_stay(matrix, layout):
        return layout
    memory, panels = layout.memory, layout.panels
    cell = cell_nbytes(matrix, layout.along, layout.across)
    panel = math.ceil(layout.panel_cells * cell * matrix.widened)
    room = max(0, int(SHARE * min(memory.limit, process)) - memory.total - held)
    whole = matrix.nbytes if matrix.cell_nbytes is None else panels * panel
    if processes == 1 and whole <= room:
        return replace(layout, memory=replace(memory, pinned=whole), pinned_panels=panels)
    each = min(room // panel, -(-panels // processes))
    pinned = min(panels, each * processes)
    each = -(-pinned // processes)
    return replace(layout, memory=replace(memory, pinned=each * panel), pinned_panels=pinned)


def _can_stay(matrix: Matrix, layout: Layout) -> bool:
    """Whether a slab of this matrix is worth a copy, whose size is known before it is read.

    The chunks of a dask array are results of other tasks: who wants them to stay persists it. Where
    no slab fits at once, no panel does.
    """
    here = matrix.resident or matrix.views or isinstance(matrix, OperatorMatrix)
    known = math.isfinite(matrix.widened)
    return matrix.streams and not here and layout.tile_cells is None and known
