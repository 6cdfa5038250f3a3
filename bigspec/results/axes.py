"""What every drawing of a page is made of: a scale that fits its values, axes, and an interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import takewhile

__all__ = [
    "BAD", "LOWER", "OPEN", "UPPER", "Axes", "Scale", "beam", "fitted", "label", "levels",
    "shortened", "tick", "words",
]  # fmt: skip

UPPER, LOWER = "#3a86c8", "#d9732b"
OPEN, BAD = "#b07d0e", "#d9432b"  # all four legible on white and on near-black

LONGEST = 10
"""Letters of a label that fit beside an axis."""

Points = Sequence[tuple[float, float]]
Ticks = Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Scale:
    """Where a value lies, from 0 at the bottom of a drawing to 1 at its top."""

    bottom: float
    top: float
    logarithmic: bool
    ticks: tuple[tuple[float, str], ...]

    def level(self, value: float) -> float:
        """Return the level of a value; a logarithmic scale has levels for positive values only."""
        return math.log10(value) if self.logarithmic else value

    def share(self, value: float) -> float:
        """Return where the value lies between bottom (0) and top (1), never outside."""
        return min(max((self.level(value) - self.bottom) / (self.top - self.bottom), 0.0), 1.0)


def fitted(values: Iterable[float]) -> Scale:
    """Return a scale whose ends lie just outside the values.

    It is logarithmic where the largest is at least 20 times the smallest, and where numbers are so
    large or so small that a margin would overflow or vanish.
    """
    finite = sorted(value for value in values if math.isfinite(value))
    low, high = finite[0], finite[-1]
    if low > 0.0 and (high / low >= 20.0 or high > 1e300 or low < 1e-300):
        return _logarithmic(low, high)
    if high > 1e300 or 0.0 < high < 1e-300:  # with 0, so there are no logarithms
        return Scale(0.0, high, False, ((0.0, "0"), (high, f"{high:.1e}")))
    span = high - low
    if not span > 1e-15 * high:
        span = 0.1 * high or 1.0
    bottom, top = low - 0.12 * span, high + 0.12 * span
    step = _step(span / 4)
    first = math.ceil(bottom / step)
    marks = [k * step for k in range(first, math.floor(top / step) + 1)]
    return Scale(bottom, top, False, tuple((mark, label(mark, step)) for mark in marks))


def _logarithmic(low: float, high: float) -> Scale:
    first, last = math.log10(low), math.log10(high)
    pad = 0.06 * (last - first) or 0.1
    bottom, top = first - pad, last + pad
    factors = (1, 2, 5) if top - bottom < 2 else (1,)
    marks = [
        (k + math.log10(f), f"{f}e{k:+03d}")
        for k in range(math.floor(bottom), math.ceil(top) + 1)
        for f in factors
    ]
    return Scale(bottom, top, True, tuple(mark for mark in marks if bottom <= mark[0] <= top))


def _step(rough: float) -> float:
    """Return 1, 2 or 5 times a power of ten, at least `rough`."""
    unit = 10.0 ** math.floor(math.log10(rough))
    return next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)


def label(mark: float, step: float) -> str:
    """Write a mark of an axis with the digits that tell it from the next one."""
    fine = math.floor(math.log10(step) + 1e-9)
    if mark == 0 or 1e-4 <= abs(mark) < 1e9:
        return f"{mark:.{max(-fine, 0)}f}" if fine > -7 or mark else "0"
    return f"{mark:.{max(math.floor(math.log10(abs(mark))) - fine, 0)}e}"


@dataclass(frozen=True)
class Axes:
    """Maps (pass number, level) to the coordinates of a 420 x 270 drawing.

    Three fit beside one another, and one a phone, with letters of 11 pixels or more.
    """

    last: int
    bottom: float
    top: float

    def x(self, number: float) -> float:
        """Return where a pass lies; the first and the last keep clear of the frame."""
        return 252.0 if self.last == 1 else 108 + 288 * (number - 1) / (self.last - 1)

    def y(self, level: float) -> float:
        """Return where a level lies."""
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
        self, title: str, description: str, ticks: Ticks, body: str, along: str = "pass"
    ) -> str:
        """Put axes, ticks and a title around `body`; ticks ``(level, label)``, main ones first."""
        return (
            '<svg viewBox="0 0 420 270" role="img" xmlns="http://www.w3.org/2000/svg" '
            f'aria-label="{escape(f"{title}. {description}")}" '
            'style="width:100%;max-width:480px;height:auto;display:block" '
            'font-family="system-ui,sans-serif" font-size="15" fill="currentColor">'
            f"<title>{escape(title)}</title>{self._levels(ticks)}{self._numbers()}{body}"
            f'<text x="252" y="265" text-anchor="middle">{along}</text></svg>'
        )

    def _levels(self, ticks: Ticks) -> str:
        taken: list[tuple[float, str]] = []
        for level, name in ticks:
            y = self.y(level)
            if all(abs(y - other) >= 21 for other, _ in taken):
                taken.append((y, name))
        return "".join(
            f'<line x1="94" x2="410" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" '
            f'stroke-opacity=".15"/>{tick(88, y + 5, name)}'
            for y, name in taken
        )

    def _numbers(self) -> str:
        step = next(s * 10**p for p in range(9) for s in (1, 2, 5) if self.last / (s * 10**p) <= 9)
        shown = {1, *range(step if step > 2 else 1, self.last + 1, step)}
        return "".join(
            f'<text x="{self.x(k):.1f}" y="244" text-anchor="middle">{k}</text>'
            for k in sorted(shown)
        )


def levels(scale: Scale, left: float, right: float, top: float, bottom: float) -> str:
    """Draw the marks of a scale across a box, as many as keep clear of one another."""
    drawn: list[str] = []
    taken: list[float] = []
    shared, ticks = shortened(scale.ticks)
    if shared:
        place = f'x="4" y="{bottom + 41:.0f}" font-size="13"'
        drawn.append(f"<text {place}>.. is {escape(shared)}</text>")
    for level, name in ticks:
        y = bottom - (bottom - top) * (level - scale.bottom) / (scale.top - scale.bottom)
        if all(abs(y - other) >= 21 for other in taken):
            taken.append(y)
            drawn.append(
                f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" '
                f'stroke="currentColor" stroke-opacity=".15"/>{tick(left - 6, y + 5, name)}'
            )
    return "".join(drawn)


def shortened(ticks: Ticks) -> tuple[str, Ticks]:
    """Return what long labels begin with, all of them, and the rest of each; else nothing.

    Labels of ten letters would have to be squeezed: ``26.96880964129`` becomes ``..29`` below
    ``26.968809641``.
    """
    names = [name for _, name in ticks]
    both = zip(*names, strict=False)
    shared = "".join(one[0] for one in takewhile(lambda one: len(set(one)) == 1, both))
    shared = shared.rstrip(".-")
    rest = max((len(name) - len(shared) for name in names), default=0)
    if max(map(len, names), default=0) <= LONGEST or rest > LONGEST - 2 or "e" in "".join(names):
        return "", ticks
    return shared, [(level, f"..{name[len(shared) :]}") for level, name in ticks]


def tick(x: float, y: float, name: str) -> str:
    """Write a label left of `x`; one of many digits is kept inside the drawing."""
    squeezed = ' textLength="84" lengthAdjust="spacingAndGlyphs"' if len(name) > LONGEST else ""
    return f'<text x="{x}" y="{y:.1f}" text-anchor="end"{squeezed}>{escape(name)}</text>'


def words(x: float, y: float, text: str, anchor: str = "start") -> str:
    """Write a name beside what it names."""
    at = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {at} font-weight="600">{text}</text>'


def beam(x: float, above: float, below: float, reach: float, colour: str, title: str = "") -> str:
    """Draw an interval upright: a line with a cap at each end; a narrow one is one dash."""
    path = f"M{x:.1f} {above:.1f}V{below:.1f}"
    path += "".join(f"M{x - reach:.1f} {y:.1f}H{x + reach:.1f}" for y in (above, below))
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2.5">{title}</path>'
