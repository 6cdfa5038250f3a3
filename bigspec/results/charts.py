"""The charts of an answer: SVG without dependencies, and a matplotlib figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from bigspec.results.text import interval_text, rounded_up, width_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bigspec.results import Estimate, Triplets

__all__ = [
    "ends_chart",
    "figure",
    "ritz_chart",
    "spectrum_chart",
    "triplets_figure",
    "width_chart",
]

Points = Sequence[tuple[float, float]]

_UPPER, _LOWER = "#3a86c8", "#d9732b"  # both legible on white and on near-black


@dataclass(frozen=True)
class _Axes:
    """Maps (pass number, level) to the coordinates of a 420 x 270 drawing.

    Three fit beside one another, and one a phone, with letters of 11 pixels or more.
    """

    last: int
    bottom: float
    top: float

    def x(self, number: float) -> float:
        return 252.0 if self.last == 1 else 102 + 300 * (number - 1) / (self.last - 1)

    def y(self, level: float) -> float:
        return 222 - 200 * (level - self.bottom) / (self.top - self.bottom)

    def line(self, points: Points, colour: str) -> str:
        """Draw a polyline; with few points, each has a dot, so that a single one is seen."""
        at = [(f"{self.x(a):.1f}", f"{self.y(b):.1f}") for a, b in points]
        path = " ".join(f"{a},{b}" for a, b in at)
        dots = "".join(f'<circle cx="{a}" cy="{b}" r="3" fill="{colour}"/>' for a, b in at)
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>' + (
            dots if len(at) <= 40 else ""
        )

    def frame(
        self,
        title: str,
        description: str,
        ticks: Sequence[tuple[float, str]],
        body: str,
        along: str = "pass",
    ) -> str:
        """Put axes, ticks and a title around `body`; ticks ``(level, label)``, dearest first."""
        return (
            '<svg viewBox="0 0 420 270" role="img" xmlns="http://www.w3.org/2000/svg" '
            f'aria-label="{escape(f"{title}. {description}")}" '
            'style="width:100%;max-width:480px;height:auto;display:block" '
            'font-family="system-ui,sans-serif" font-size="15" fill="currentColor">'
            f"<title>{escape(title)}</title>{self._levels(ticks)}{self._numbers()}{body}"
            f'<text x="252" y="265" text-anchor="middle">{along}</text></svg>'
        )

    def _levels(self, ticks: Sequence[tuple[float, str]]) -> str:
        taken: list[tuple[float, str]] = []
        for level, label in ticks:
            y = self.y(level)
            if all(abs(y - other) >= 21 for other, _ in taken):
                taken.append((y, label))
        return "".join(
            f'<line x1="94" x2="410" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" '
            f'stroke-opacity=".15"/><text x="88" y="{y + 5:.1f}" text-anchor="end">{label}</text>'
            for y, label in taken
        )

    def _numbers(self) -> str:
        step = next(s * 10**p for p in range(9) for s in (1, 2, 5) if self.last / (s * 10**p) <= 9)
        shown = {1, *range(step if step > 2 else 1, self.last + 1, step)}
        return "".join(
            f'<text x="{self.x(k):.1f}" y="244" text-anchor="middle">{k}</text>'
            for k in sorted(shown)
        )


def _text(x: float, y: float, words: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-weight="600">{words}</text>'


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
    axes = _Axes(est.history[-1].number, bottom, top)
    ticks = [(k, f"{10.0**k:g}") for k in range(bottom, top + 1)]
    y = axes.y(asked)
    # Where the curve is not: it comes down from the upper left, and crosses late or early.
    early = any(level <= asked for _, level in points[: len(points) // 2])
    words = _text(330, y - 6, "asked for") if early else _text(98, y + 17, "asked for")
    body = (
        f'<line x1="94" x2="410" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" '
        f'stroke-dasharray="5 4"/>{words}' + axes.line(points, _UPPER)
    )
    description = (
        f"From {rounded_up(closed[0].width)} after pass {closed[0].number} to "
        f"{rounded_up(closed[-1].width)} after pass {closed[-1].number}; "
        f"asked for {rounded_up(est.rtol)}"
    )
    several = bool(closed[0].lowers)
    title = "Largest relative width" if several else "Relative width of the interval"
    return axes.frame(title, description, ticks, body)


def _ends(est: Estimate) -> tuple[float, list[tuple[int, float, float]]]:
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
    unit, rows = _ends(est)
    if not rows:
        return ""
    lower = [(k, math.asinh(low / unit)) for k, low, _ in rows]
    upper = [(k, math.asinh(high / unit)) for k, _, high in rows]
    levels = [0.0, *(level for _, level in lower + upper)]
    middle = len(rows) // 2
    pad = 0.12 * (max(levels) - min(levels)) + 0.1
    axes = _Axes(est.history[-1].number, min(levels) - pad, max(levels) + pad)
    decades = [unit * 10.0**k for k in range(20)]
    ticks: list[tuple[float, str]] = [(0.0, "value")]
    for sign, reach in ((1, max(levels)), (-1, -min(levels))):
        marks = [d for d in decades if math.asinh(d / unit) <= reach and (sign > 0 or d < 1)]
        ticks += [(sign * math.asinh(d / unit), f"{100 * sign * d:+.4g} %") for d in marks[::-1]]
    corners = " ".join(f"{axes.x(a):.1f},{axes.y(b):.1f}" for a, b in upper + lower[::-1])
    body = (
        f'<polygon points="{corners}" fill="{_UPPER}" fill-opacity=".12"/>'
        + axes.line(upper, _UPPER)
        + axes.line(lower, _LOWER)
        + _text(axes.x(upper[middle][0]) + 4, axes.y(upper[middle][1]) - 10, "upper end")
        + _text(axes.x(lower[middle][0]) + 4, axes.y(lower[middle][1]) + 22, "lower end")
    )
    width = width_text(est.lower, est.upper)
    description = f"After the last pass the ends lie a relative {width} apart"
    return axes.frame("Both ends, relative to the final value", description, ticks, body)


def _spectrum(tri: Triplets) -> list[tuple[int, float, float]]:
    """Return ``(i, lower, upper)`` of the values that a logarithmic scale can show."""
    return [
        (i, one.lower, one.upper)
        for i, one in enumerate(tri.intervals, start=1)
        if one.lower > 0.0 and math.isfinite(one.upper)
    ]


def spectrum_chart(tri: Triplets) -> str:
    """Chart of all values with their intervals on a logarithmic scale."""
    rows = [(i, math.log10(low), math.log10(high)) for i, low, high in _spectrum(tri)]
    if not rows:
        return ""
    bottom = math.floor(min(low for _, low, _ in rows))
    top = max(math.ceil(max(high for _, _, high in rows)), bottom + 1)
    axes = _Axes(tri.k, bottom, top)
    wide = min(300 / tri.k * 0.6, 14.0)
    bars = []
    for i, low, high in rows:
        above, below = axes.y(high), axes.y(low)
        tall = max(below - above, 3.0)  # what is narrower than a line is drawn as one
        bars.append(
            f'<rect x="{axes.x(i) - wide / 2:.1f}" y="{(above + below - tall) / 2:.1f}" '
            f'width="{wide:.1f}" height="{tall:.1f}" rx="1.5" fill="{_UPPER}"/>'
        )
    ticks = [(k, f"1e{k:+03d}") for k in range(bottom, top + 1)]
    first, last = tri.intervals[0], tri.intervals[-1]
    description = (
        f"sigma_1 in {interval_text(first.lower, first.upper)}, sigma_{tri.k} in "
        f"{interval_text(last.lower, last.upper)}. A table of all values comes before"
    )
    return axes.frame("Singular values", description, ticks, "".join(bars), along="number")


def _ritz_curves(est: Estimate | Triplets) -> list[list[tuple[int, float]]]:
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
    """Chart of the largest Ritz values after each pass on a logarithmic scale."""
    curves = _ritz_curves(est)
    if not curves:
        return ""
    curves = [[(number, math.log10(value)) for number, value in curve] for curve in curves]
    levels = [level for curve in curves for _, level in curve]
    bottom = math.floor(min(levels))
    top = max(math.ceil(max(levels)), bottom + 1)
    axes = _Axes(est.history[-1].number, bottom, top)
    ticks = [(k, f"1e{k:+03d}") for k in range(bottom, top + 1)]
    # The largest is the one the lower end rests on; it is drawn last, over the others.
    body = "".join(axes.line(curve, _UPPER) for curve in curves[:0:-1])
    body += axes.line(curves[0], _LOWER)
    told = [r for r in est.history if r.ritz_values]
    last = ", ".join(f"{value:.4g}" for value in told[-1].ritz_values)
    description = (
        f"The largest from {told[0].ritz_values[0]:.4g} after pass {told[0].number} to "
        f"{told[-1].ritz_values[0]:.4g} after pass {told[-1].number}, then all: {last}. "
        "A table of all passes follows"
    )
    return axes.frame("Ritz values after each pass", description, ticks, body)


def figure(est: Estimate) -> Figure:
    """Draw width, both ends and Ritz values with matplotlib, without touching pyplot's state."""
    drawn, widths, ends, ritz = _three_axes("Estimate.plot")
    _draw_widths(widths, est)
    unit, rows = _ends(est)
    if rows:
        number, low, high = zip(*rows, strict=True)
        mark = _mark(est)
        ends.fill_between(number, low, high, color=_UPPER, alpha=0.15)
        ends.plot(number, high, mark, color=_UPPER, label="upper end")
        ends.plot(number, low, mark, color=_LOWER, label="lower end")
        ends.set_yscale("symlog", linthresh=unit)
        ends.set_yticks(_sparse_ticks(unit, min(low), max(high)))
        ends.legend()
    ends.set(ylabel="relative to the value", xlabel="pass")
    _draw_ritz(ritz, est)
    drawn.suptitle(f"sigma_1 in {interval_text(est.lower, est.upper)}")
    return drawn


def triplets_figure(tri: Triplets) -> Figure:
    """Draw the largest width, all values and the Ritz values, as `figure` does."""
    drawn, widths, values, ritz = _three_axes("Triplets.plot")
    _draw_widths(widths, tri)
    if rows := _spectrum(tri):
        number, low, high = zip(*rows, strict=True)
        middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
        half = [(b - a) / 2 for a, b in zip(low, high, strict=True)]
        values.errorbar(number, middle, yerr=half, fmt=".", capsize=4, color=_UPPER)
        values.set_yscale("log")
    values.set(ylabel="singular values", xlabel="number")
    _draw_ritz(ritz, tri)
    drawn.suptitle(f"{tri.k} values, the largest in {interval_text(*_first_ends(tri))}")
    return drawn


def _first_ends(tri: Triplets) -> tuple[float, float]:
    return tri.intervals[0].lower, tri.intervals[0].upper


def _three_axes(method: str) -> tuple[Figure, Any, Any, Any]:
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as exc:
        msg = f'{method} needs matplotlib; install it with: pip install "bigspec[plot]"'
        raise ImportError(msg) from exc
    drawn = Figure(figsize=(12.6, 3.6), layout="constrained")
    first, second, third = drawn.subplots(1, 3)
    for axes in (first, second, third):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return drawn, first, second, third


def _mark(answer: Estimate | Triplets) -> str:
    return "o-" if len(answer.history) <= 40 else "-"


def _draw_widths(axes: Any, answer: Estimate | Triplets) -> None:
    numbers = [r.number for r in answer.history]
    widths = [max(r.width, 1e-16) for r in answer.history]
    axes.semilogy(numbers, widths, _mark(answer), color=_UPPER)
    axes.axhline(max(answer.rtol, 1e-16), color="0.4", linestyle="--", label="asked for")
    several = any(r.lowers for r in answer.history)
    axes.set(ylabel="largest relative width" if several else "relative width", xlabel="pass")
    axes.legend()


def _draw_ritz(axes: Any, answer: Estimate | Triplets) -> None:
    curves = _ritz_curves(answer)
    for k, curve in reversed(list(enumerate(curves))):
        label = "the largest" if k == 0 else None
        colour = _LOWER if k == 0 else _UPPER
        axes.plot(*zip(*curve, strict=True), _mark(answer), color=colour, label=label)
    if curves:
        axes.set_yscale("log")
        axes.legend()
    axes.set(ylabel="Ritz values", xlabel="pass")


def _sparse_ticks(unit: float, bottom: float, top: float) -> list[float]:
    """Return 0 and powers of ten on both sides of it, as many as can be told apart."""
    decades = max(round(math.log10(max(-bottom, top, unit) / unit)), 1)
    marks = [unit * 10.0**k for k in range(decades, 0, -1)[:: math.ceil(decades / 4)]]
    return [tick for tick in (0.0, *marks, *(-mark for mark in marks)) if bottom <= tick <= top]
