"""The layers of one network over its runs: small charts, those that moved most first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context, Decimal
from functools import cached_property
from html import escape
from typing import Any

from bigspec.history.row import Row
from bigspec.names import shown
from bigspec.results.axes import BAD, LOWER, UPPER, Scale, beam, fitted, levels
from bigspec.results.depth import kind_and_depth
from bigspec.results.markup import folded, interval, table, whole
from bigspec.results.text import counted, interval_text

__all__ = [
    "LAYERS_STYLE", "Layer", "kinds_of", "layers_by_source", "layers_of", "layers_section",
    "moved_most", "plot_layers",
]  # fmt: skip

MOST_MOVED, MOST_KINDS, OF_A_KIND = 12, 24, 3
PERCENT = 1.5  # smaller factors are said in percent
LEFT, RIGHT, TOP, BOTTOM = 84, 410, 12, 150
LAYERS_STYLE = """
.charts{display:grid;gap:1.2em;grid-template-columns:repeat(auto-fit,minmax(min(18em,100%),1fr))}
.charts figure{margin:0;min-width:0}figcaption{font-weight:600;overflow-wrap:anywhere}
.rows th[scope=row]{overflow-wrap:anywhere;min-width:9rem}
"""


@dataclass(frozen=True)
class Layer:
    """One layer over the runs.

    Attributes
    ----------
    name : str
        Of its tensor.
    runs : tuple of (int, Row)
        The number of the run, and what it says.
    """

    name: str
    runs: tuple[tuple[int, Row], ...]

    @cached_property
    def known(self) -> tuple[tuple[int, float, float], ...]:
        """Number, lower and upper end of the runs that have a finite interval."""
        return tuple(
            (number, row.lower, row.upper)
            for number, row in self.runs
            if row.lower is not None and row.upper is not None and math.isfinite(row.upper)
        )

    @property
    def factor(self) -> float:
        """How many times larger the norm of one run is than that of another, at least."""
        if not self.known:
            return 1.0
        low, high = max(a for _, a, _ in self.known), min(b for _, _, b in self.known)
        if high <= 0.0:
            return math.inf if low > 0.0 else 1.0
        return max(low / high, 1.0)


def layers_of(rows: Iterable[Row]) -> list[Layer]:
    """Return the layers of a network, in the order in which they come; rows oldest first.

    Rows of one scan are one run: by its id, or in older histories by the time it ended.
    """
    numbers: dict[str, int] = {}
    found: dict[str, list[tuple[int, Row]]] = {}
    for row in rows:
        matrix = row.matrix or {}
        number = numbers.setdefault(str(matrix.get("scan") or row.ended), len(numbers) + 1)
        found.setdefault(str(matrix.get("name", row.series)), []).append((number, row))
    return [Layer(name, tuple(runs)) for name, runs in found.items()]


def layers_by_source(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows of each network with several series, by what these begin with.

    A scan names a series by the model, a colon and the tensor.
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        name = str((row.matrix or {}).get("name", ""))
        if name and row.series.endswith(f":{name}"):
            found.setdefault(row.series.removesuffix(f":{name}"), []).append(row)
    return {
        source: mine
        for source, mine in found.items()
        if len({row.series for row in mine}) > 1
    }  # fmt: skip


def moved_most(layers: Iterable[Layer]) -> list[Layer]:
    """Return the layers that have an interval, those first whose norm changed by most for sure."""
    return sorted((one for one in layers if one.known), key=lambda one: -one.factor)


def layers_section(layers: Sequence[Layer]) -> str:
    """Return charts of the layers that moved most, of all by kind, and a table of all.

    Parameters
    ----------
    layers : sequence of Layer
    """
    last = max((number for one in layers for number, _ in one.runs), default=0)
    ordered = moved_most(layers)
    if last < 2 or not ordered:
        return ""
    moved = [one for one in ordered if one.factor > 1.0]
    ends = sorted(row.ended for one in layers for _, row in one.runs)
    days = f"on {ends[0][:10]}" if ends[0][:10] == ends[-1][:10] else (
        f"from {ends[0][:10]} to {ends[-1][:10]}"
    )  # fmt: skip
    said = f"{counted(len(layers), 'layer')} over {last} runs, {days}. "
    said += (
        f"{len(moved)} moved for sure: the intervals of two runs do not meet."
        if moved
        else "No layer moved for sure: the intervals of all its runs meet."
    )
    parts = [f'<p class="soft">{said}</p>']
    if moved:
        picked = _picked(moved)
        figures = [_figure(one.name, [one], last, f"by {_factor(one)}") for one in picked]
        parts.append(_charts(f"Moved most, at most {OF_A_KIND} of a kind", figures))
    kinds = kinds_of(ordered)
    figures = [_figure(kind, mine, last, _span(mine)) for kind, mine in kinds[:MOST_KINDS]]
    more = len(kinds) - MOST_KINDS
    parts.append(_charts("By kind, a line a layer: from blue, the first, to orange, the last",
                         figures))  # fmt: skip
    if more > 0:
        parts.append(f'<p class="soft">{more} more kinds are in the table.</p>')
    heads = ["layer", "first run", "last run", "changed by", "no interval in"]
    cells = table("Every layer over the runs", heads, map(_cells, ordered), (4,))
    return "".join(parts) + folded("Every layer, the one that moved most first", cells)


def _charts(head: str, figures: Sequence[str]) -> str:
    return f'<h3>{escape(head)}</h3><div class="charts">{"".join(figures)}</div>'


def _figure(name: str, layers: Sequence[Layer], last: int, said: str) -> str:
    caption = escape(shown(name)).replace(".", ".<wbr>").replace("/", "/<wbr>")
    drawn = _chart(name, layers, last)
    return f'<figure><figcaption>{caption}</figcaption>{drawn}<p class="soft">{said}</p></figure>'


def _picked(moved: Sequence[Layer]) -> list[Layer]:
    """Return the first layers, few of each kind: what moves together is drawn together below."""
    count: dict[str, int] = {}
    picked = []
    for one in moved:
        kind, _ = kind_and_depth(one.name)
        count[kind] = count.get(kind, 0) + 1
        if count[kind] <= OF_A_KIND:
            picked.append(one)
    return picked[:MOST_MOVED]


def _factor(layer: Layer) -> str:
    """Say by how much the norm changed at least, rounded toward no change."""
    if math.isinf(layer.factor):
        return "from 0"
    if layer.factor < PERCENT:
        share = math.floor(1000 * (layer.factor - 1)) / 10
        return f"at least {share:g} %" if share else "less than 0.1 %"
    digits = Context(prec=3, rounding=ROUND_FLOOR).create_decimal(Decimal(layer.factor))
    return f"a factor of at least {digits.normalize():f}"


def _span(layers: Sequence[Layer]) -> str:
    most = max(layers, key=lambda one: one.factor)
    if most.factor <= 1.0:
        return "no change for sure"
    name = "" if len(layers) == 1 else f"the most: {escape(shown(most.name))}, "
    return f"{name}by {_factor(most)}"


def kinds_of(layers: Sequence[Layer]) -> list[tuple[str, list[Layer]]]:
    """Return the layers by kind, by depth in each; kinds in the order in which they come."""
    found: dict[str, list[tuple[int, Layer]]] = {}
    for one in layers:
        kind, depth = kind_and_depth(one.name)
        found.setdefault(kind, []).append((depth or 0, one))
    return [
        (kind if len(mine) > 1 else mine[0][1].name, [one for _, one in sorted(mine, key=_depth)])
        for kind, mine in found.items()
    ]


def _depth(pair: tuple[int, Layer]) -> int:
    return pair[0]


def _cells(layer: Layer) -> list[str]:
    first, last = layer.known[0], layer.known[-1]
    lacking = len(layer.runs) - len(layer.known)
    return [
        escape(shown(layer.name)),
        interval(first[1], first[2]),
        interval(last[1], last[2]),
        whole(_factor(layer)) if layer.factor > 1.0 else "",
        str(lacking) if lacking else "",
    ]


def _chart(name: str, layers: Sequence[Layer], last: int) -> str:
    """Draw each layer as a band between its ends, over the numbers of the runs."""
    scale = fitted(end for one in layers for _, *ends in one.known for end in ends)
    step = (RIGHT - LEFT) / last
    drawn = [_line(one, k, len(layers), step, scale) for k, one in enumerate(layers)]
    every = [end for one in layers for _, *ends in one.known for end in ends]
    ends = interval_text(min(every), max(every)).strip("[]").replace(", ", " and ")
    said = f"Norms of {counted(len(layers), 'layer')} of {shown(name)} over {last} runs, between "
    shown_runs = sorted({1, last, *range(1, last, max(1, -(-last // 6)))})
    numbers = "".join(
        f'<text x="{LEFT + step * (k - 0.5):.1f}" y="{BOTTOM + 22}" text-anchor="middle">{k}</text>'
        for k in shown_runs
        if k in (1, last) or step * (last - k) > 30
    )
    return (
        f'<svg viewBox="0 0 420 200" role="img" aria-label="{escape(said + ends)}" font-size="15" '
        'xmlns="http://www.w3.org/2000/svg" font-family="system-ui,sans-serif" '
        'fill="currentColor" style="width:100%;max-width:480px;height:auto;display:block">'
        f"{levels(scale, LEFT, RIGHT, TOP, BOTTOM)}{''.join(drawn)}{numbers}"
        f'<text x="{(LEFT + RIGHT) / 2}" y="195" text-anchor="middle">run</text></svg>'
    )


def _line(layer: Layer, number: int, count: int, step: float, scale: Scale) -> str:
    colour = _mixed(number / (count - 1) if count > 1 else 0.0)
    first, last = layer.known[0], layer.known[-1]
    said = (
        f"{shown(layer.name)}: {interval_text(first[1], first[2])} in run {first[0]}, "
        f"{interval_text(last[1], last[2])} in run {last[0]}"
    )
    title = f"<title>{escape(said)}</title>"

    def x(run: int) -> float:
        return LEFT + step * (run - 0.5)

    def y(value: float) -> float:
        if scale.logarithmic and value <= 0:
            return BOTTOM
        return BOTTOM - (BOTTOM - TOP) * scale.share(value)

    path = " ".join(f"{x(k):.1f},{(y(a) + y(b)) / 2:.1f}" for k, a, b in layer.known)
    line = (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5" '
        f'stroke-opacity=".8">{title}</polyline>'
    )
    reach = min(step * 0.25, 5.0 if count == 1 else 2.5)
    beams = "".join(beam(x(k), y(b), y(a), reach, colour, title) for k, a, b in layer.known)
    known = {k for k, _, _ in layer.known}
    crosses = "".join(
        f'<text x="{x(k):.1f}" y="{BOTTOM - 2}" text-anchor="middle" font-weight="700" '
        f'fill="{BAD}">&#215;<title>{escape(f"{shown(layer.name)}: no interval in run {k}")}'
        "</title></text>"
        for k, _ in layer.runs
        if k not in known
    )
    return f"<g>{line}{beams}{crosses}</g>"


def plot_layers(axes: Any, layers: Sequence[Layer]) -> None:
    """Draw layers on axes of matplotlib: the middle of each interval, and both ends as bars."""
    for k, layer in enumerate(layers):
        numbers, lows, highs = zip(*layer.known, strict=True)
        middles = [(a + b) / 2 for a, b in zip(lows, highs, strict=True)]
        halves = [(b - a) / 2 for a, b in zip(lows, highs, strict=True)]
        colour = _mixed(k / (len(layers) - 1) if len(layers) > 1 else 0.0)
        axes.errorbar(numbers, middles, yerr=halves, fmt=".-", capsize=2, lw=1, color=colour)


def _mixed(share: float) -> str:
    """Return a colour between blue and orange, all legible on white and on near-black."""
    ends = [[int(colour[k : k + 2], 16) for k in (1, 3, 5)] for colour in (UPPER, LOWER)]
    mixed = (round(a + share * (b - a)) for a, b in zip(*ends, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)
