"""A dask array as a matrix; its chunks stay tasks of the graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import dask
import numpy as np

from bigspec.errors import DataError
from bigspec.kernels.buffers import Buffers
from bigspec.matrices import Block, Grid, Matrix
from bigspec.panels.chunks import checked_chunk
from bigspec.panels.layout import Layout
from bigspec.passes.futures import compute
from bigspec.sources.checks import check_dtype

__all__ = ["DaskMatrix", "is_dask_array", "open_dask_array"]


def is_dask_array(a: Any) -> bool:
    """Tell a dask array without importing dask.array for everything else."""
    return dask.is_dask_collection(a) and hasattr(a, "blocks") and hasattr(a, "chunks")


@dataclass(frozen=True)
class DaskMatrix(Matrix):
    """A 2-D dask array with any chunks; a panel takes its part of the graph when it runs."""

    array: Any = field(default=None, kw_only=True, repr=False)

    @property
    def advice(self) -> str:
        """Means that are subtracted in the graph are computed again in every pass."""
        if not _centred_by_hand(self.array):
            return ""
        return (
            "the array is centred in its own graph, which every pass computes again: give x itself "
            "to bigspec.centered (or standardized), which takes the means once"
        )

    @property
    def identity(self) -> dict[str, Any]:
        """The identity by the name of the array, which is a hash of its operations."""
        return {
            "where": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "chunks": [[grid.step, grid.count] for grid in self.grids],
            "token": self.array.name,
        }

    def read(self, rows: slice, columns: slice, buffers: Buffers) -> Block:
        """Compute a rectangle of chunks here and now, one after another.

        Only passes that read twice do this, when a slab does not fit in memory. Otherwise chunks
        are tasks in the graph of the pass.
        """
        cuts = [
            slice(grid.cell(axis.start), grid.cell(axis.stop - 1) + 1)
            for grid, axis in zip(self.grids, (rows, columns), strict=True)
        ]
        (blocks,) = dask.optimize(self.array.blocks[cuts[0], cuts[1]])
        chunks = compute(self.array, dict(blocks.__dask_graph__()), blocks.__dask_keys__())
        dense = [
            [self._dense(chunk, (i, j)) for j, chunk in enumerate(line, cuts[1].start)]
            for i, line in enumerate(chunks, cuts[0].start)
        ]
        return dense[0][0] if len(dense) == len(dense[0]) == 1 else np.block(dense)

    def _dense(self, chunk: Any, place: tuple[int, int]) -> np.ndarray[Any, Any]:
        block = checked_chunk(chunk, self, place)
        if not isinstance(block, np.ndarray):
            msg = (
                f"{self.name}: expected dense chunks that can be computed again (a pass has "
                f"to read twice, or an expression has them as a term), got "
                f"{type(chunk).__qualname__}. Give more memory, make the chunks smaller, or "
                "store the matrix: sparse chunks cannot be a term of a sum"
            )
            raise DataError(msg)
        return block

    def chunks(self, layout: Layout, index: int) -> tuple[list[list[Any]], dict[Any, Any]]:
        """Return keys ``[i][j]`` of the chunks of a panel, and the tasks that make them."""
        panel = layout.panel(index)
        cut = slice(panel.first, panel.last)
        blocks = (
            self.array.blocks[cut] if layout.orientation == "rows" else (self.array.blocks[:, cut])
        )
        (blocks,) = dask.optimize(blocks)
        return blocks.__dask_keys__(), dict(blocks.__dask_graph__())


def _centred_by_hand(a: Any) -> bool:
    """Recognise ``x - x.mean(axis=0)``, divided or not, by the layers of Dask's graph.

    Means of other shapes (of all entries, of rows) do not count: they make another matrix.
    """
    layers = getattr(a.dask, "dependencies", {})
    tops = [a.name, *(layers.get(a.name, ()) if a.name.startswith("truediv-") else ())]
    under = {one for top in tops if top.startswith("sub-") for one in layers.get(top, ())}
    across = a.numblocks[1]
    wanted: list[set[tuple[int, ...]]] = [{(j,) for j in range(across)}]
    if across > 1:
        wanted.append({(0, j) for j in range(across)})
    return a.shape[0] != a.shape[1] and any(
        {tuple(key[1:]) for key in a.dask.layers[one].get_output_keys()} in wanted
        for one in under
        if one.startswith("mean_agg")
    )


def open_dask_array(a: Any) -> DaskMatrix:
    """Check a dask array and wrap it.

    Raises
    ------
    DataError
        Not 2-D, empty, or of unknown chunk sizes.
    UnsupportedTypeError
        Not numeric, or in extended precision.
    """
    name = f"dask array {a.name}"
    if a.ndim != 2:
        msg = f"{name}: expected 2 dimensions, got shape {a.shape}; reshape it to a matrix"
        raise DataError(msg)
    if np.isnan(a.shape).any():
        msg = f"{name}: expected known chunk sizes, got {a.shape}; call compute_chunk_sizes()"
        raise DataError(msg)
    if 0 in a.shape:
        msg = f"{name}: expected at least one row and one column, got shape {a.shape}"
        raise DataError(msg)
    check_dtype(np.dtype(a.dtype), name)
    grids = (Grid.irregular(a.chunks[0]), Grid.irregular(a.chunks[1]))
    shape = (int(a.shape[0]), int(a.shape[1]))
    return DaskMatrix(shape, np.dtype(a.dtype), name, grids, streams=False, array=a)
