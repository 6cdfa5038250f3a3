"""The chart of a series: each run's interval, with the last accepted one and the gate's limits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from bigspec.history.row import Row
from bigspec.results.axes import BAD, OPEN, UPPER, Scale, beam, fitted, levels
from bigspec.results.text import interval_text

__all__ = ["chart", "colour", "word"]

LEFT, RIGHT, TOP, BOTTOM = 94, 410, 14, 180
FAR = 4.0  # a value this many times beyond the accepted ones is drawn at the edge


def colour(row: Row) -> str:
    """Return the colour of a run: accepted, answered, or without an answer."""
    return UPPER if row.accepted else OPEN if row.upper is not None else BAD


def word(row: Row) -> str:
    """Say what became of a run."""
    if row.accepted:
        return "accepted"
    return "not accepted" if row.upper is not None else "no answer"


def chart(name: str, rows: Sequence[Row]) -> str:
    """Draw each run's interval upright on a scale that fits them; empty if no run has one.

    A grey band is the last accepted interval, a dashed line a limit of the last gate. A run that
    was not accepted has a mark above it, one without an answer a cross on a line of its own.
    """
    limits = list(_limits(rows))
    scale = _scale(rows, limits)
    if scale is None:
        return ""
    step = (RIGHT - LEFT) / len(rows)
    marks = [_mark(row, LEFT + step * (k + 0.5), step, scale) for k, row in enumerate(rows)]
    lines = levels(scale, LEFT, RIGHT, TOP, BOTTOM)
    said = (
        f"Intervals of {len(rows)} runs of {name}, {_span(rows)}"
        + "".join(f", {limit} {value:g}" for limit, value in limits)
        + ". A table of them follows"
    )
    return (
        f'<svg viewBox="0 0 420 250" role="img" aria-label="{escape(said)}" font-size="15" '
        'xmlns="http://www.w3.org/2000/svg" font-family="system-ui,sans-serif" '
        'fill="currentColor" style="width:100%;max-width:540px;height:auto;display:block">'
        f"{lines}{_band(rows, scale)}{_limit_lines(limits, scale)}{''.join(marks)}"
        f"{_dates(rows)}{_legend(rows)}</svg>"
    )


def _limits(rows: Sequence[Row]) -> Iterator[tuple[str, float]]:
    """Yield the limits on the norm of the last run that had a gate."""
    gate = next((row.gate for row in reversed(rows) if row.gate), None) or {}
    for name in ("max_norm", "min_norm"):
        value = gate.get(name)
        if isinstance(value, (int, float)) and math.isfinite(value):
            yield name, float(value)


def _scale(rows: Sequence[Row], limits: Sequence[tuple[str, float]]) -> Scale | None:
    """Return a scale for everything near the accepted runs; if none is accepted, near all runs."""
    known = [row for row in rows if row.lower is not None and row.upper is not None]
    chosen = [row for row in known if row.accepted] or known
    near = [end for row in chosen for end in (row.lower, row.upper) if end is not None]
    near = [end for end in near if math.isfinite(end)]
    if not any(math.isfinite(row.upper) for row in chosen if row.upper is not None):
        return None
    least, most = min(near) / FAR, max(near) * FAR
    others = [end for row in known for end in (row.lower, row.upper) if end is not None]
    others += [value for _, value in limits]
    return fitted([*near, *(value for value in others if least <= value <= most)])


def _y(value: float, scale: Scale) -> float:
    if scale.logarithmic and value <= 0:
        return BOTTOM
    return BOTTOM - (BOTTOM - TOP) * scale.share(min(value, 1e308))


def _mark(row: Row, x: float, step: float, scale: Scale) -> str:
    title = f"<title>{escape(f'{row.ended}: {word(row)}')}</title>"
    if row.lower is None or row.upper is None:
        cross = f'x="{x:.1f}" y="{BOTTOM - 2}" text-anchor="middle" font-weight="700"'
        return (
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{BOTTOM - 16}" stroke="{BAD}" '
            f'stroke-dasharray="2 4"/><text {cross} fill="{BAD}">&#215;{title}</text>'
        )
    above, below = _y(row.upper, scale), _y(row.lower, scale)
    drawn = beam(x, above, below, min(step * 0.3, 7.0), colour(row), title)
    if row.accepted:
        return drawn
    reach, tip = min(step * 0.3, 6.0), max(above - 4, TOP)
    corners = f"{x:.1f},{tip:.1f} {x - reach:.1f},{tip - 9:.1f} {x + reach:.1f},{tip - 9:.1f}"
    return f'{drawn}<polygon points="{corners}" fill="{OPEN}"/>'


def _band(rows: Sequence[Row], scale: Scale) -> str:
    """Draw the last accepted interval, which the next run is compared with."""
    last = next((row for row in reversed(rows) if row.accepted), None)
    if last is None or last.lower is None or last.upper is None:
        return ""
    above, below = _y(last.upper, scale), _y(last.lower, scale)
    tall = max(below - above, 2.0)
    return (
        f'<rect x="{LEFT}" y="{above:.1f}" width="{RIGHT - LEFT}" height="{tall:.1f}" '
        'fill="currentColor" fill-opacity=".12"><title>the last accepted interval, '
        f"{escape(interval_text(last.lower, last.upper))}</title></rect>"
    )


def _limit_lines(limits: Sequence[tuple[str, float]], scale: Scale) -> str:
    drawn = []
    for name, value in limits:
        if scale.logarithmic and value <= 0:
            continue
        if not scale.bottom <= scale.level(value) <= scale.top:
            continue
        y = _y(value, scale)
        beside = y - 5 if y > TOP + 20 else y + 16
        drawn.append(
            f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{BAD}" '
            f'stroke-width="1.5" stroke-dasharray="6 4"/><text x="{LEFT + 4}" y="{beside:.1f}" '
            f'font-size="13">{name} {value:g}</text>'
        )
    return "".join(drawn)


def _span(rows: Sequence[Row]) -> str:
    first, last = rows[0].ended[:10], rows[-1].ended[:10]
    return f"on {first}" if first == last else f"from {first} to {last}"


def _dates(rows: Sequence[Row]) -> str:
    """Write the first and the last day, or the one day in the middle."""
    first, last = (escape(row.ended[:10]) for row in (rows[0], rows[-1]))
    if first == last:
        middle = (LEFT + RIGHT) / 2
        return f'<text x="{middle}" y="202" text-anchor="middle">{first}</text>'
    return (
        f'<text x="{LEFT}" y="202">{first}</text>'
        f'<text x="{RIGHT}" y="202" text-anchor="end">{last}</text>'
    )


def _legend(rows: Sequence[Row]) -> str:
    """Explain each kind of mark that is drawn."""
    kinds = {word(row) for row in rows}
    drawn, x = [], float(LEFT)
    for kind, wide in (("accepted", 92), ("not accepted", 122), ("no answer", 90)):
        if kind in kinds:
            name = f'<text x="{x + 14}" y="238" font-size="13">{kind}</text>'
            drawn.append(_sign(kind, x + 5) + name)
            x += wide
    return "".join(drawn)


def _sign(kind: str, x: float) -> str:
    if kind == "accepted":
        return beam(x, 228, 238, 4, UPPER)
    if kind == "not accepted":
        return f'<polygon points="{x},238 {x - 5},229 {x + 5},229" fill="{OPEN}"/>'
    at = f'x="{x}" y="239" text-anchor="middle" font-weight="700"'
    return f'<text {at} fill="{BAD}">&#215;</text>'
