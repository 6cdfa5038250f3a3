"""The best choice where the caller made none, and the sentence that says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bigspec.algorithms import REGISTRY, Row
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.panels.cuts import Layout
from bigspec.passes import Measurement
from bigspec.run.plan import Wishes

__all__ = [
    "DEFAULT_BLOCK",
    "Setting",
    "algorithm_choice",
    "block_choice",
    "layout_choices",
    "triplet_choices",
    "widest_block",
]

DEFAULT_BLOCK = 16
PREFER_DEFAULT = 0.85  # another block size must be this much cheaper, or noise would choose
WHOLE = 256  # order up to which the block for triplets spans the whole space
FLOPS = 2e10  # of one core, for the eigenproblem of the Gram matrix
TYPICAL = 6  # passes with a block that the registry does not list


@dataclass(frozen=True)
class Setting:
    """What choices rest on."""

    matrix: Matrix
    wishes: Wishes
    tasks: int
    measured: Measurement | None = None

    @property
    def order(self) -> int:
        """Order of H."""
        return min(self.matrix.shape)


def block_choice(setting: Setting) -> tuple[int, str]:
    """Choose a block size by what reading and multiplying cost."""
    wished, order, measured = setting.wishes.block_size, setting.order, setting.measured
    if wished is not None:
        return min(wished, order), ""
    default = min(DEFAULT_BLOCK, order)
    if measured is None:
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
    """Choose between lanczos with a block of b and gram; `fits` tells whether H fits in memory."""
    lanczos, gram, n = REGISTRY.named("lanczos"), REGISTRY.named("gram"), setting.order
    measured = setting.measured
    if isinstance(setting.matrix, OperatorMatrix):
        return lanczos, "lanczos: fewest passes, and an operator has no entries for gram"
    if setting.wishes.block_size is not None:
        return lanczos, "lanczos: fewest passes for the block size given"
    if n <= gram.always and fits(gram):
        return gram, f"gram: A^H A of order {n} is exact after one pass"
    if measured is None or measured.gram is None:
        return lanczos, f"lanczos: fewest passes (gram would need A^H A of order {n})"
    eig = 4 * n**3 / FLOPS
    cost = measured.reading + measured.gram
    typical = lanczos.passes.get(b, TYPICAL)
    other = typical * (measured.reading + measured.multiplying[b])
    cores = max(1, setting.tasks)
    if cost / cores + eig < other / cores:
        return gram, (
            f"gram: one pass of {cost:.2g} core-seconds against about {typical} passes and "
            f"{other:.2g} core-seconds for lanczos"
        )
    return lanczos, f"lanczos: about {other:.2g} core-seconds against {cost:.2g} for gram"


def widest_block(k: int, order: int) -> int:
    """Return the block for k triplets that needs the fewest passes."""
    return order if order <= WHOLE else min(order, max(DEFAULT_BLOCK, k + 8))


def triplet_choices(setting: Setting, b: int, layout: Layout) -> list[str]:
    """Say why triplets take this block, and what their vectors cost."""
    n = setting.order
    why = f"block of {b}: the largest that fits the memory limit"
    if b == widest_block(setting.wishes.count, n):
        why = f"block of {b}: k + 8 columns (at least {DEFAULT_BLOCK}) need the fewest passes"
        if n <= WHOLE:
            why = f"block of {b}: one pass over the whole space of order {n}"
    rows = layout.orientation == "rows"
    said = [why] if setting.wishes.block_size is None else []
    if not rows or setting.wishes.left:
        said.append(f"the {'left' if rows else 'right'} vectors take one more pass")
    return said


def layout_choices(setting: Setting, layout: Layout) -> list[str]:
    """Say what the memory limit changed in how a pass runs."""
    m, n = setting.matrix.shape
    natural = "rows" if n <= m else "columns"
    said = []
    if layout.orientation != natural:
        said.append(
            f"panels of {layout.orientation}: a slab of {natural} does not fit the memory limit, "
            f"a slab of {layout.orientation} does"
        )
    if layout.reads_per_pass == 2:
        said.append("two reads a pass: no slab fits the memory limit")
    operator = isinstance(setting.matrix, OperatorMatrix)
    if layout.memory.tasks < min(setting.tasks, layout.panels) and not operator:
        said.append(
            f"{layout.memory.tasks} of {setting.tasks} threads: more slabs at once do not fit "
            "the memory limit"
        )
    return said
