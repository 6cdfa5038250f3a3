"""A history as a table with a trend, as one HTML page, and as a matplotlib figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from bigspec.history.chart import chart, colour, word
from bigspec.history.layers import (
    LAYERS_STYLE,
    kinds_of,
    layers_by_source,
    layers_of,
    layers_section,
    moved_most,
    plot_layers,
)
from bigspec.history.row import Row
from bigspec.results.axes import BAD
from bigspec.results.figures import new_figure
from bigspec.results.markup import document, headline, interval, whole
from bigspec.results.markup import table as grid
from bigspec.results.text import interval_text, seconds_text, width_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figure", "page", "table"]

HEADS = ("run", "ended", "norm", "width", "passes", "time", "start", "gate", "exit", "trend")
LONGEST = 2000  # characters of an error; bigspec's own are shorter
MOST_TABLES = 400  # runs in all, up to which the layers of a network have a table each
CELLS = 24  # of the trend column
BLOCKS, PLAIN = "▁▂▃▄▅▆▇█", "12345678"
BAR, PLAIN_BAR = ("·", "█"), (".", "#")


def table(rows: Sequence[Row], *, ascii_only: bool = False) -> str:
    """Return one line a run and, for each series, its trend.

    The last column shows the interval on the scale of its series, from the smallest lower to the
    largest upper end of accepted runs. The line below shows the height of each middle, or ``x``
    for none.
    """
    parts = []
    for series, mine in _by_series(rows).items():
        scale = _scale(mine)
        lines = [_cells(row, scale, PLAIN_BAR if ascii_only else BAR) for row in mine]
        widths = [max(map(len, column)) for column in zip(HEADS, *lines, strict=True)]
        parts.append(series)
        for line in (HEADS, *lines):
            cells = (f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
            parts.append("  " + "  ".join(cells).rstrip())
        parts += [
            f"  {row.run_id[:8]}: {_brief(row.error)}"
            for row in mine
            if row.error and row.exit_status
        ]
        if scale is not None:
            spark = _spark(mine, scale, PLAIN if ascii_only else BLOCKS)
            parts.append(f"  trend {spark}  {interval_text(*scale)}")
    return "\n".join(parts) if parts else "no runs"


def _brief(text: str) -> str:
    """Cut off a long text, because a file from elsewhere may have any length."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def _by_series(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each series, in the order of their first rows."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.series, []).append(row)
    return found


def _scale(rows: Sequence[Row]) -> tuple[float, float] | None:
    """Return the smallest lower and the largest finite upper end of accepted runs, or of any."""
    known = [row for row in rows if row.lower is not None]
    known = [row for row in known if row.accepted] or known
    highs = [row.upper for row in known if row.upper is not None and math.isfinite(row.upper)]
    if not highs:
        return None
    return min(row.lower for row in known if row.lower is not None), max(highs)


def _share(value: float, scale: tuple[float, float]) -> float:
    low, high = scale
    return 0.5 if high <= low else min(max((value - low) / (high - low), 0.0), 1.0)


def _cells(row: Row, scale: tuple[float, float] | None, bar: tuple[str, str]) -> tuple[str, ...]:
    gate = "" if row.gate is None else str(row.gate["outcome"])
    marked = f"{row.exit_status}{'' if row.accepted or row.exit_status else ' (not accepted)'}"
    if row.accepted and row.exit_status:
        marked += " (accepted)"
    if row.lower is None or row.upper is None:
        return (row.run_id[:8], row.ended, "-", "-", "-", "-", "-", gate or "-", marked, "")
    return (
        row.run_id[:8],
        row.ended,
        interval_text(row.lower, row.upper),
        width_text(row.lower, row.upper),
        str(row.passes),
        seconds_text(row.seconds or 0.0),
        "cold" if row.warm_from is None else "warm",
        gate or "-",
        marked,
        "" if scale is None else _bar(row.lower, row.upper, scale, bar),
    )


def _bar(lower: float, upper: float, scale: tuple[float, float], bar: tuple[str, str]) -> str:
    first = min(int(_share(lower, scale) * CELLS), CELLS - 1)
    last = min(max(math.ceil(_share(upper, scale) * CELLS), first + 1), CELLS)
    empty, full = bar
    return empty * first + full * (last - first) + empty * (CELLS - last)


def _spark(rows: Sequence[Row], scale: tuple[float, float], blocks: str) -> str:
    return "".join(
        "x"
        if row.lower is None or row.upper is None
        else blocks[min(int(_middle(row.lower, row.upper, scale) * len(blocks)), len(blocks) - 1)]
        for row in rows
    )


def _middle(lower: float, upper: float, scale: tuple[float, float]) -> float:
    return (_share(lower, scale) + _share(upper, scale)) / 2


def page(rows: Sequence[Row], *, left_out: str = "") -> str:
    """Return one self-contained HTML page: a chart of the intervals and a table for each series.

    Parameters
    ----------
    rows : sequence of Row
    left_out : str
        The sentence about rows that the page does not show.
    """
    networks = layers_by_source(rows)
    drawn = "".join(_network(source, mine) for source, mine in networks.items())
    whole = len(rows) <= MOST_TABLES
    layers = {row.series for mine in networks.values() for row in mine}
    alone = {n: mine for n, mine in _by_series(rows).items() if whole or n not in layers}
    sections = drawn + "".join(_section(name, mine) for name, mine in alone.items())
    said = f"<p>{escape(left_out)}</p>" if left_out else ""
    head = f"<header><h1>Spectral norms, run by run</h1>{said}</header>"
    body = head + (sections or "<p>No runs.</p>")
    return document("Spectral norms, run by run", body, style=LAYERS_STYLE if networks else "")


def _network(source: str, rows: Sequence[Row]) -> str:
    """Draw all layers of a network over the runs, before the tables of each."""
    drawn = layers_section(layers_of(rows))
    return f"<section><h2>{escape(source)}: every layer</h2>{drawn}</section>" if drawn else ""


def _section(name: str, rows: Sequence[Row]) -> str:
    heads = ("ended, UTC", "norm", "outcome", "width", "passes", "time", "start", "gate", "run")
    drawn = chart(name, rows)
    figure = f"<figure>{drawn}</figure>" if drawn else ""
    shown = grid(f"Runs of {name}", heads, [_page_cells(row) for row in rows], (1, 3, 4, 5))
    return f"<section><h2>{escape(name)}</h2>{_latest(rows)}{figure}{shown}</section>"


def _latest(rows: Sequence[Row]) -> str:
    """Show the last answer in large letters, and the end of the last run if it is another one."""
    last = next((row for row in reversed(rows) if row.accepted), None)
    said = ""
    if last is not None and last.lower is not None and last.upper is not None:
        said = headline(last.lower, last.upper)
        said += '<p class="soft">the last accepted run</p>'
    newest = rows[-1]
    if not newest.accepted:
        reason = newest.error or str((newest.gate or {}).get("verdict") or "")
        text = f"The last run: {word(newest)}" + (f", {reason}" if reason else "")
        said += f'<p class="status bad">{escape(text)}.</p>'
    return said


def _page_cells(row: Row) -> list[str]:
    run, _, _, width, passes, time, start, gate, _, _ = _cells(row, None, BAR)
    ended = " ".join(map(whole, row.ended.removesuffix("Z").split("T")))
    norm = "-" if row.lower is None or row.upper is None else interval(row.lower, row.upper)
    outcome = _brief(row.error or word(row))
    if row.exit_status:
        outcome += f" (exit status {row.exit_status})"
    plain = (escape(cell) for cell in (start, gate, run))
    return [ended, norm, escape(outcome), whole(width), passes, whole(time), *plain]


def figure(rows: Sequence[Row]) -> Figure:
    """Draw the intervals of each series with matplotlib; layers of a network by kind, as lines.

    Raises
    ------
    ImportError
        Matplotlib is missing: ``pip install matplotlib``.
    """
    networks = layers_by_source(rows)
    kinds = [
        (f"{source}: {kind}", mine)
        for source, own in networks.items()
        for kind, mine in kinds_of(moved_most(layers_of(own)))
    ]
    inside = {row.series for own in networks.values() for row in own}
    parts = {name: mine for name, mine in _by_series(rows).items() if name not in inside}
    parts = parts or ({} if kinds else {"": []})
    count = len(parts) + len(kinds)
    drawn = new_figure("the plot of a history", (9, 3.2 * count))
    every = drawn.subplots(count, squeeze=False)[:, 0]
    for (name, layers), axes in zip(kinds, every, strict=False):
        plot_layers(axes, layers)
        axes.set(title=name, ylabel="norm", xlabel="run")
    for (name, mine), axes in zip(parts.items(), every[len(kinds) :], strict=True):
        for kind in ("accepted", "not accepted"):
            held = [(k, r) for k, r in enumerate(mine) if r.upper is not None and word(r) == kind]
            finite = [(k, r) for k, r in held if math.isfinite(r.upper or 0.0)]
            if finite:
                middles = [((r.lower or 0.0) + (r.upper or 0.0)) / 2 for _, r in finite]
                halves = [((r.upper or 0.0) - (r.lower or 0.0)) / 2 for _, r in finite]
                axes.errorbar(
                    [k for k, _ in finite], middles, yerr=halves, fmt=".", capsize=4,
                    color=colour(finite[0][1]), label=kind,
                )  # fmt: skip
        for k, row in enumerate(mine):
            if row.upper is None:
                axes.axvline(k, color=BAD, linestyle=":")
        shown = range(0, len(mine), math.ceil(len(mine) / 12) or 1)
        axes.set_xticks(shown, [mine[k].ended[:10] for k in shown], rotation=30)
        axes.set(title=name, ylabel="norm")
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    return drawn
