"""Intervals of a network as drawings: by depth and kind, and bars of single rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bigspec.names import shown
from bigspec.networks.row import Row
from bigspec.results.depth import kind_and_depth
from bigspec.results.text import interval_text

__all__ = ["Group", "bar", "depth_chart", "groups_of", "levels_of"]

BLUE, ORANGE = "#3a86c8", "#d9732b"  # both are seen on white and on near-black


@dataclass(frozen=True)
class Group:
    """Rows of one kind at several depths.

    Attributes
    ----------
    name : str
        Of the rows, with a star for the depth.
    rows : tuple of (int, Row)
        Depth and row.
    """

    name: str
    rows: tuple[tuple[int, Row], ...]


def groups_of(rows: Sequence[Row]) -> list[Group]:
    """Group the rows that have an interval by their names without the number of the layer.

    What occurs at one depth only is one group, in the order of the file.
    """
    found: dict[str, list[tuple[int, Row]]] = {}
    for row in rows:
        if row.lower is None or row.tied_to:
            continue
        kind, depth = kind_and_depth(row.name)
        found.setdefault(kind, []).append((depth or 0, row))
    deep = [Group(kind, tuple(mine)) for kind, mine in found.items() if len(mine) > 1]
    alone = [row for mine in found.values() if len(mine) == 1 for _, row in mine]
    if alone:
        name = f"{'the others' if deep else 'every row'}, in the order of the file"
        deep.append(Group(name, tuple(enumerate(alone))))
    return deep


def levels_of(rows: Sequence[Row]) -> tuple[int, int]:
    """Return the decades between which the norms of all rows lie."""
    lows = [row.lower for row in rows if row.lower]
    highs = [row.upper for row in rows if row.upper and math.isfinite(row.upper)]
    if not lows or not highs:
        return 0, 1
    bottom, top = math.floor(math.log10(min(lows))), math.ceil(math.log10(max(highs)))
    bottom = max(bottom, top - 12)  # what is smaller is drawn at the bottom
    return bottom, max(top, bottom + 1)


def depth_chart(group: Group, levels: tuple[int, int]) -> str:
    """Draw the interval of each row at its depth, on a logarithmic scale, as an upright bar."""
    bottom, top = levels
    places = sorted({depth for depth, _ in group.rows})
    first, last = places[0], max(places[-1], places[0] + 1)
    step = 316 / (last - first + 1)

    def x(depth: int) -> float:
        return 90 + step * (depth - first + 0.5)

    def y(value: float) -> float:
        level = math.log10(value) if value > 0 else bottom
        return 168 - 150 * (min(max(level, bottom), top) - bottom) / (top - bottom)

    marks = []
    for depth, row in group.rows:
        assert row.lower is not None
        assert row.upper is not None
        high, low = y(min(row.upper, 10.0**top)), y(row.lower)
        tall = max(low - high, 4.0)  # what is narrower than a line is drawn as one
        said = escape(f"{shown(row.name)}: {interval_text(row.lower, row.upper)}")
        wide = min(step * 0.7, 16.0)
        marks.append(
            f'<rect x="{x(depth) - wide / 2:.1f}" y="{(high + low - tall) / 2:.1f}" '
            f'width="{wide:.1f}" height="{tall:.1f}" rx="1.5" fill="{_colour(row)}">'
            f"<title>{said}</title></rect>"
        )
    many = top - bottom
    ticks = "".join(
        f'<line x1="84" x2="412" y1="{y(10.0**k):.1f}" y2="{y(10.0**k):.1f}" '
        f'stroke="currentColor" stroke-opacity=".15"/><text x="78" y="{y(10.0**k) + 5:.1f}" '
        f'text-anchor="end">{10.0**k:g}</text>'
        for k in range(bottom, top + 1, max(1, -(-many // 5)))
    )
    every = max(1, -(-(last - first + 1) // 8))
    numbers = "".join(
        f'<text x="{x(k):.1f}" y="190" text-anchor="middle">{k}</text>'
        for k in range(first, last + 1, every) if k in places
    )  # fmt: skip
    known = [row for _, row in group.rows]
    low = min(row.lower or 0.0 for row in known)
    high = max(row.upper or 0.0 for row in known)
    described = escape(
        f"{len(known)} norms of {shown(group.name)} by depth, between "
        f"{interval_text(low, high).strip('[]').replace(', ', ' and ')}. A table of them follows"
    )
    return (
        f'<svg viewBox="0 0 420 200" role="img" aria-label="{described}" font-size="15" '
        'xmlns="http://www.w3.org/2000/svg" font-family="system-ui,sans-serif" '
        'fill="currentColor" style="width:100%;max-width:480px;height:auto;display:block">'
        f"{ticks}{''.join(marks)}{numbers}</svg>"
    )


def _colour(row: Row) -> str:
    return BLUE if row.deterministic else ORANGE


def bar(lower: float, upper: float, most: float) -> str:
    """Draw an interval as a level bar on the scale from 0 to `most`."""
    if not most > 0.0:
        return ""
    left, right = (100 * min(value / most, 1.0) for value in (lower, upper))
    wide = max(right - left, 1.0)
    return (
        '<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true" class="bar">'
        f'<rect x="0" y="4" width="{left:.1f}" height="2" fill="currentColor" fill-opacity=".25"/>'
        f'<rect x="{min(left, 99.0):.1f}" y="1" width="{wide:.1f}" height="8" fill="{BLUE}"/></svg>'
    )
