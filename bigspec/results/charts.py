"""The charts of an answer, as SVG without dependencies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from bigspec.results.axes import BAD, LOWER, UPPER, Axes, beam, fitted, tick, words
from bigspec.results.text import interval_text, outward, rounded_up, width_text

if TYPE_CHECKING:
    from bigspec.results import Estimate, Triplets

__all__ = [
    "ends_chart",
    "gate_chart",
    "relative_ends",
    "ritz_chart",
    "ritz_curves",
    "spectrum",
    "spectrum_chart",
    "width_chart",
]


def width_chart(est: Estimate | Triplets) -> str:
    """Chart of the relative width on a logarithmic scale, with the width that was asked for."""
    closed = [r for r in est.history if r.width < math.inf]
    # Doubles cannot be told apart below 1e-16; a width of 0 is drawn there.
    points = [(r.number, math.log10(max(r.width, 1e-16))) for r in closed]
    if not points:
        return ""
    asked = math.log10(max(est.rtol, 1e-16))
    levels = [asked, *(level for _, level in points)]
    bottom, top = math.floor(min(levels) - 0.6), math.ceil(max(levels) + 0.1)
    axes = Axes(est.history[-1].number, bottom, top)
    ticks = [(k, f"{10.0**k:g}") for k in range(bottom, top + 1)]
    y = axes.y(asked)
    # Where the curve is not: it comes down from the upper left, and crosses late or early.
    early = any(level <= asked for _, level in points[: len(points) // 2])
    name = words(330, y - 6, "asked for") if early else words(98, y + 17, "asked for")
    body = (
        f'<line x1="94" x2="410" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" '
        f'stroke-dasharray="5 4"/>{name}' + axes.line(points, UPPER)
    )
    description = (
        f"From {rounded_up(closed[0].width)} after pass {closed[0].number} to "
        f"{rounded_up(closed[-1].width)} after pass {closed[-1].number}; "
        f"asked for {rounded_up(est.rtol)}"
    )
    several = bool(closed[0].lowers)
    title = "Largest relative width" if several else "Relative width of the interval"
    return axes.frame(title, description, ticks, body)


def relative_ends(est: Estimate) -> tuple[float, list[tuple[int, float, float]]]:
    """Return a unit and ``(pass, lower / value - 1, upper / value - 1)`` where all is finite."""
    if est.value <= 0.0:
        return 1.0, []
    rows = [
        (r.number, r.lower / est.value - 1, r.upper / est.value - 1)
        for r in est.history
        if math.isfinite(r.upper)
    ]
    widths = [row[2] - row[1] for row in rows if row[2] > row[1]]
    # The scale is linear within one unit around the value and logarithmic beyond it.
    return 10.0 ** math.floor(math.log10(max(min(widths, default=1.0), 1e-15))), rows


def ends_chart(est: Estimate) -> str:
    """Chart of both ends relative to the final value, closing over the passes."""
    unit, rows = relative_ends(est)
    if not rows:
        return ""
    lower = [(k, math.asinh(low / unit)) for k, low, _ in rows]
    upper = [(k, math.asinh(high / unit)) for k, _, high in rows]
    levels = [0.0, *(level for _, level in lower + upper)]
    pad = 0.14 * (max(levels) - min(levels)) + 0.1
    axes = Axes(est.history[-1].number, min(levels) - pad, max(levels) + pad)
    decades = [unit * 10.0**k for k in range(20)]
    ticks: list[tuple[float, str]] = [(0.0, "value")]
    for sign, reach in ((1, max(levels)), (-1, -min(levels))):
        marks = [d for d in decades if math.asinh(d / unit) <= reach and (sign > 0 or d < 1)]
        ticks += [(sign * math.asinh(d / unit), f"{100 * sign * d:+.4g} %") for d in marks[::-1]]
    corners = " ".join(f"{axes.x(a):.1f},{axes.y(b):.1f}" for a, b in upper + lower[::-1])
    body = (
        f'<polygon points="{corners}" fill="{UPPER}" fill-opacity=".12"/>'
        + axes.line(upper, UPPER)
        + axes.line(lower, LOWER)
        # Both curves start in the left half, apart, and meet at the right.
        + words(axes.x(upper[0][0]) + 4, axes.y(upper[0][1]) - 8, "upper end")
        + words(axes.x(lower[0][0]) + 4, axes.y(lower[0][1]) + 20, "lower end")
    )
    width = width_text(est.lower, est.upper)
    description = f"After the last pass the ends lie a relative {width} apart"
    return axes.frame("Both ends, relative to the final value", description, ticks, body)


def spectrum(tri: Triplets) -> list[tuple[int, float, float]]:
    """Return ``(i, lower, upper)`` of the values that a logarithmic scale can show."""
    return [
        (i, one.lower, one.upper)
        for i, one in enumerate(tri.intervals, start=1)
        if one.lower > 0.0 and math.isfinite(one.upper)
    ]


def spectrum_chart(tri: Triplets) -> str:
    """Chart of all values, each an interval on a scale that fits them."""
    rows = spectrum(tri)
    if not rows:
        return ""
    scale = fitted(end for _, low, high in rows for end in (low, high))
    axes = Axes(tri.k, scale.bottom, scale.top)
    reach = min(300 / tri.k * 0.3, 7.0)
    bars = [
        beam(axes.x(i), axes.y(scale.level(high)), axes.y(scale.level(low)), reach, UPPER)
        for i, low, high in rows
    ]
    first, last = tri.intervals[0], tri.intervals[-1]
    description = (
        f"sigma_1 in {interval_text(first.lower, first.upper)}, sigma_{tri.k} in "
        f"{interval_text(last.lower, last.upper)}. A table of all values comes before"
    )
    return axes.frame("Singular values", description, scale.ticks, "".join(bars), along="number")


def ritz_curves(est: Estimate | Triplets) -> list[list[tuple[int, float]]]:
    """Return ``(pass, value)`` of the largest Ritz value, of the second, ..., where positive."""
    count = max((len(r.ritz_values) for r in est.history), default=0)
    curves = [
        [
            (r.number, r.ritz_values[i])
            for r in est.history
            if i < len(r.ritz_values) and 0.0 < r.ritz_values[i] < math.inf
        ]
        for i in range(count)
    ]
    return [curve for curve in curves if curve]


def ritz_chart(est: Estimate | Triplets) -> str:
    """Chart of the largest Ritz values after each pass, on a scale that fits them."""
    curves = ritz_curves(est)
    if not curves:
        return ""
    scale = fitted(value for curve in curves for _, value in curve)
    curves = [[(number, scale.level(value)) for number, value in curve] for curve in curves]
    axes = Axes(est.history[-1].number, scale.bottom, scale.top)
    # The largest is the one the lower end rests on; it is drawn last, over the others.
    body = "".join(axes.line(curve, UPPER) for curve in curves[:0:-1])
    body += axes.line(curves[0], LOWER)
    told = [r for r in est.history if r.ritz_values]
    last = ", ".join(f"{value:.4g}" for value in told[-1].ritz_values)
    description = (
        f"The largest from {told[0].ritz_values[0]:.4g} after pass {told[0].number} to "
        f"{told[-1].ritz_values[0]:.4g} after pass {told[-1].number}, then all: {last}. "
        "A table of all passes follows"
    )
    return axes.frame("Ritz values after each pass", description, scale.ticks, body)


def _marks(answer: Estimate | Triplets) -> Iterator[tuple[str, float, float]]:
    """Yield the reference and the limits of the gate, as name and ends in units of the norm."""
    verdict = answer.gate
    if verdict is None:
        return
    if verdict.reference is not None:
        yield "reference", *verdict.reference
    for check in verdict.checks:
        if check.name != "max_change":
            yield check.name, check.limit, check.limit
        elif verdict.reference is not None:
            low, high = verdict.reference
            yield "change", low * (1 - check.limit), high * (1 + check.limit)


def gate_chart(answer: Estimate | Triplets) -> str:
    """Draw the interval of the norm above the reference and the limits that it was compared with.

    Empty without a gate, and where the upper end is not finite.
    """
    one, marks = answer.intervals[0], list(_marks(answer))
    if not marks or not math.isfinite(one.upper):
        return ""
    scale = fitted([one.lower, one.upper, *(end for _, *ends in marks for end in ends)])

    def x(value: float) -> float:
        return 106 + 304 * scale.share(value) if value > 0 or not scale.logarithmic else 106.0

    rows, described = [_bar_across(0, "norm", x(one.lower), x(one.upper), UPPER)], []
    for k, (name, low, high) in enumerate(marks, start=1):
        if low == high:
            rows.append(_limit(k, name, x(low), len(marks)))
        elif name == "change":
            rows.append(_bar_across(k, "allowed", x(low), x(high), "currentColor"))
        else:
            rows.append(_bar_across(k, name, x(low), x(high), "currentColor"))
        described.append(f"{name} {', '.join(outward(low, high)) if low < high else low}")
    foot = 38 + 26 * len(rows)
    levels = "".join(
        f'<text x="{106 + 304 * (level - scale.bottom) / (scale.top - scale.bottom):.1f}" '
        f'y="{foot}" text-anchor="middle" fill-opacity=".75">{escape(name)}</text>'
        for level, name in scale.ticks
    )
    said = f"The norm lies in {interval_text(one.lower, one.upper)}; {'; '.join(described)}"
    return (
        f'<svg viewBox="0 0 420 {foot + 8}" role="img" xmlns="http://www.w3.org/2000/svg" '
        f'aria-label="{escape(said)}" style="width:100%;max-width:540px;height:auto;display:block" '
        'font-family="system-ui,sans-serif" font-size="14" fill="currentColor">'
        f"<title>The interval and the gate</title>{''.join(rows)}{levels}</svg>"
    )


def _bar_across(row: int, name: str, left: float, right: float, colour: str) -> str:
    """Draw an interval across, with a cap at each end and its name before it."""
    y, tall = 22 + 26 * row, 8 if row == 0 else 5
    wide = 5 if row == 0 else 2
    path = f"M{left:.1f} {y}H{right:.1f}" + "".join(
        f"M{at:.1f} {y - tall}V{y + tall}" for at in (left, right)
    )
    return (
        f'{tick(92, y + 5, name)}<path d="{path}" fill="none" stroke="{colour}" '
        f'stroke-width="{wide}"/>'
    )


def _limit(row: int, name: str, x: float, rows: int) -> str:
    """Draw a limit: a dashed line across all rows, with its name beside it in its own row."""
    beside = (
        words(x + 7, 27 + 26 * row, name) if x < 320 else words(x - 7, 27 + 26 * row, name, "end")
    )
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="6" y2="{34 + 26 * rows}" stroke="{BAD}" '
        f'stroke-width="2" stroke-dasharray="5 4"/>{beside}'
    )
