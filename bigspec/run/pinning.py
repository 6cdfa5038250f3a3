"""The panels that stay in memory over the passes of a run, once the rest of it is planned."""

from __future__ import annotations

from bigspec.algorithms import REGISTRY
from bigspec.kernels import working_dtype
from bigspec.panels.choose_pinned import with_pinned
from bigspec.panels.layout import Layout
from bigspec.passes import Executor
from bigspec.run.plan import Plan, Wishes

__all__ = ["pinned_layout"]

USUAL_PASSES = 10  # of an algorithm whose number of passes is not known


def pinned_layout(plan: Plan, wishes: Wishes, executor: Executor, waiting: int = 0) -> Layout:
    """Return the layout of a plan, with the panels that stay in memory.

    They change no bits, so a run that goes on elsewhere may pin others. A run of one pass pins
    none: nobody would take them.

    Parameters
    ----------
    plan : Plan
    wishes : Wishes
    executor : Executor
    waiting : int
        Bytes of the slab that planning has read for the first pass.
    """
    layout, row, b = plan.layout, REGISTRY.of(plan.algorithm), plan.block_size
    one_pass = row.entries or (b >= layout.iterate_length and not wishes.count)
    if not wishes.pin or one_pass:
        return layout
    held = waiting
    if executor.local:  # the basis lies in this process, and there it goes before pinned panels
        item = working_dtype(plan.matrix.dtype).itemsize
        block = layout.iterate_length * (b + wishes.extra) * item
        blocks = row.passes.get(b, USUAL_PASSES) if row.basis else 0
        held += plan.vectors_bytes + min(blocks * block, layout.memory.spare)
    return with_pinned(
        layout,
        plan.matrix,
        process=executor.memory(),
        held=held,
        processes=executor.processes,
    )
