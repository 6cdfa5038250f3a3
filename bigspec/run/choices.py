"""What bigspec chooses where the caller left it open, and the sentence that says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from bigspec.algorithms import REGISTRY, Row
from bigspec.matrices import OperatorMatrix
from bigspec.panels.choose_layout import one_panel
from bigspec.panels.layout import Layout
from bigspec.run.costs import Setting, gram_seconds, lanczos_seconds

__all__ = [
    "DEFAULT_BLOCK",
    "algorithm_choice",
    "block_choice",
    "layout_choices",
    "triplet_choices",
    "widest_block",
]

DEFAULT_BLOCK = 16
PREFER_DEFAULT = 0.85  # another block must cost less than this share, or noise would choose
WHOLE = 256  # up to this order, the block for triplets spans the whole space


def block_choice(setting: Setting) -> tuple[int, str]:
    """Choose a block size by the cost of reading and multiplying."""
    wished, order, measured = setting.wishes.block_size, setting.order, setting.measured
    if wished is not None:
        return min(wished, order), ""
    default = min(DEFAULT_BLOCK, order)
    if measured is None or not measured.multiplying:
        return default, (
            f"block of {default}: the default, usually the fewest passes when reading dominates"
        )
    passes = REGISTRY.named("lanczos").passes
    cost = {b: passes[b] * (measured.reading + t) for b, t in measured.multiplying.items()}
    best = min(cost, key=lambda b: cost[b])
    if default in cost and cost[best] > PREFER_DEFAULT * cost[default]:
        best = default
    return best, (
        f"block of {best}: measured, one core spends {measured.reading:.2g} s of a pass on "
        f"reading and {measured.multiplying[best]:.2g} s on products with {best} columns"
    )


def algorithm_choice(setting: Setting, b: int, fits: Callable[[Row], bool]) -> tuple[Row, str]:
    """Choose between lanczos with a block of b and gram; `fits` tells whether H fits in memory.

    The spectrum is unknown, so gram is compared with the passes that a flat spectrum needs.
    """
    lanczos, gram, n = REGISTRY.named("lanczos"), REGISTRY.named("gram"), setting.order
    if isinstance(setting.matrix, OperatorMatrix):
        return lanczos, "lanczos: fewest passes, and an operator has no entries for gram"
    if setting.wishes.block_size is not None:
        return lanczos, "lanczos: fewest passes for the block size given"
    if n <= gram.always and fits(gram):
        return gram, f"gram: A^H A of order {n} is exact after one pass"
    one = gram_seconds(setting)
    if one is None:
        return lanczos, (
            "lanczos: what gram costs depends on how sparse entries lie, and they were not measured"
        )
    tried = setting.measured.multiplying if setting.measured is not None else ()
    many, passes, columns, whose = min(lanczos_seconds(setting, size) for size in tried or (b,))
    how = "estimated" if setting.measured is None else "measured on the first slab"
    each = f"{passes} passes with {columns} columns, as many as {whose} needs"
    if one >= many * (1.0 if setting.measured is None else PREFER_DEFAULT):
        return (
            lanczos,
            f"lanczos: about {many:.2g} s for {each}, against {one:.2g} s for gram ({how})",
        )
    if not fits(gram):
        return (
            lanczos,
            f"lanczos: A^H A of order {n}, which gram needs, does not fit the memory limit",
        )
    return gram, f"gram: about {one:.2g} s, against {many:.2g} s of lanczos for {each} ({how})"


def widest_block(k: int, order: int) -> int:
    """Return the block for k triplets that needs the fewest passes."""
    return order if order <= WHOLE else min(order, max(DEFAULT_BLOCK, k + 8))


def triplet_choices(setting: Setting, b: int, layout: Layout) -> list[str]:
    """Say why triplets take this block, and that their vectors cost a pass."""
    n = setting.order
    why = f"block of {b}: the largest that fits the memory limit"
    if b == widest_block(setting.wishes.count, n):
        why = f"block of {b}: k + 8 columns (at least {DEFAULT_BLOCK}) need the fewest passes"
        if n <= WHOLE:
            why = f"block of {b}: one pass over the whole space of order {n}"
    rows = layout.orientation == "rows"
    reasons = [why] if setting.wishes.block_size is None else []
    if not rows or setting.wishes.left:
        reasons.append(f"the {'left' if rows else 'right'} vectors take one more pass")
    return reasons


def layout_choices(setting: Setting, layout: Layout) -> list[str]:
    """Say why a pass does not run as the shape would suggest."""
    m, n = setting.matrix.shape
    natural: Literal["rows", "columns"] = "rows" if n <= m else "columns"
    reasons = []
    if layout.orientation != natural:
        other = layout.orientation
        why = f"a slab of {natural} does not fit the memory limit, a slab of {other} does"
        if one_panel(setting.matrix, natural):
            why = f"nothing cuts the matrix into {natural}: its chunks are as long as its {other}"
        reasons.append(f"panels of {other}: {why}")
    if layout.reads_per_pass == 2:
        reasons.append("two reads a pass: no slab fits the memory limit")
    operator = isinstance(setting.matrix, OperatorMatrix)
    if layout.memory.tasks < min(setting.tasks, layout.panels) and not operator:
        reasons.append(
            f"{layout.memory.tasks} of {setting.tasks} threads: more slabs at once do not fit "
            "the memory limit"
        )
    if setting.matrix.advice:
        reasons.append(setting.matrix.advice)
    return reasons
