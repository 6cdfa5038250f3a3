"""Panels of a backward pass: ``S^H W``, slab by slab."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from bigspec.kernels.one_way import multiply_adjoint
from bigspec.kernels.partials import Partial
from bigspec.panels.context import Context
from bigspec.panels.reading import Chunks, Reader, Slab

__all__ = ["BackwardContext"]


@dataclass(frozen=True, eq=False)
class BackwardContext(Context):
    """The context of a pass ``S^H W``; V is W (rows of S, b)."""

    def work(self, index: int, chunks: Chunks | None = None) -> Partial:
        """Read one panel slab by slab and add ``S_i^H W_i``."""
        W, transposed = self.V, self.layout.orientation == "columns"
        assert W is not None
        reader = Reader(self, index, chunks)
        Z = np.zeros((self.layout.iterate_length, W.shape[1]), W.dtype)
        slabs = reader.slabs() if chunks is None else _joined(reader.slabs(), transposed)
        for slab in slabs:
            part = W[slab.start : slab.stop]
            multiply_adjoint(slab.tiles(), part, Z, transposed=transposed, buffers=self.buffers)
        nothing = np.zeros((0, 0), W.dtype)
        return Partial(Z, nothing, 0, None, reader.tokens, **reader.cost())


def _joined(slabs: Iterable[Slab], transposed: bool) -> Iterator[Slab]:
    """Join dense chunks to one slab, as a read does, because the last bits depend on it."""
    parts = list(slabs)
    tiles = [list(slab.tiles()) for slab in parts]
    blocks = [[block for _, block in slab] for slab in tiles]
    if not all(isinstance(block, np.ndarray) for slab in blocks for block in slab):
        for slab, own in zip(parts, tiles, strict=True):
            yield Slab(slab.start, slab.stop, partial(iter, own))
        return
    whole = blocks[0][0]
    if len(blocks) > 1 or len(blocks[0]) > 1:
        whole = np.block(
            [list(line) for line in zip(*blocks, strict=True)] if transposed else blocks
        )
    yield Slab(parts[0].start, parts[-1].stop, partial(iter, [(0, whole)]))
