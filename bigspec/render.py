"""How an estimate looks: outward-rounded numbers, the text block, the HTML page, the charts.

Nothing here computes; every number is taken from the estimate. Numbers that bound something
are rounded outward, so that what is read is never narrower than what was certified.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bigspec.results import Estimate, PassRecord

__all__ = [
    "bytes_text",
    "figure",
    "fragment",
    "interval_text",
    "outward",
    "page",
    "rate_text",
    "rounded_up",
    "seconds_text",
    "summary",
    "width_text",
]

Points = Sequence[tuple[float, float]]

_DIGITS = 17  # enough to tell any two doubles apart
_UPPER, _LOWER = "#3a86c8", "#d9732b"  # both legible on white and on near-black


# Numbers -------------------------------------------------------------------------------------


def outward(lower: float, upper: float) -> tuple[str, str]:
    """Write both ends with three digits of their distance, `lower` down and `upper` up.

    Read back, as decimals or as floats, the texts enclose ``[lower, upper]``.
    """
    if not math.isfinite(lower) or math.isnan(upper):
        return str(lower), str(upper)
    low = Decimal(lower)
    if math.isinf(upper):
        return _decimal_text(low, low.adjusted() - 5, ROUND_FLOOR), "inf"
    high = Decimal(upper)
    finest = max(low.adjusted(), high.adjusted()) - (_DIGITS - 1)
    place = finest if low == high else max((high - low).adjusted() - 2, finest)
    # Three digits of each end at least: [0.5, 1000] must not read as [0, 1000].
    return (
        _decimal_text(low, min(place, low.adjusted() - 2), ROUND_FLOOR, strip=low == high),
        _decimal_text(high, min(place, high.adjusted() - 2), ROUND_CEILING, strip=low == high),
    )


def _decimal_text(value: Decimal, place: int, rounding: str, *, strip: bool = False) -> str:
    """Round to a multiple of ``10**place``; fixed notation unless that needs many zeros."""
    if value == 0:
        return "0"
    rounded = value.quantize(Decimal((0, (1,), place)), rounding, Context(prec=400))
    if strip:
        rounded = rounded.normalize()
    return f"{rounded:f}" if -5 <= value.adjusted() < 12 else f"{rounded:e}"


def interval_text(lower: float, upper: float) -> str:
    """Return ``[lower, upper]``, rounded outward."""
    return "[{}, {}]".format(*outward(lower, upper))


def rounded_up(value: float | Decimal, digits: int = 2) -> str:
    """Write a non-negative number with a few digits, never smaller than it is.

    Rounds what `repr` shows, so that a tolerance given as 0.001 reads 1e-03, not 1.1e-03.
    """
    number = value if isinstance(value, Decimal) else Decimal(repr(float(value)))
    if not number.is_finite() or number == 0:
        return "inf" if number.is_infinite() else str(float(number)).removesuffix(".0")
    unit = Decimal((0, (1,), number.adjusted() - digits + 1))
    rounded = number.quantize(unit, ROUND_CEILING, Context(prec=400))
    if -1 <= number.adjusted() < 3:
        return f"{rounded:f}"
    mantissa, exponent = f"{rounded:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent):+03d}"


def width_text(lower: float, upper: float) -> str:
    """Write ``upper / lower - 1``, rounded up from its exact value."""
    if upper <= lower:
        return "0"
    if lower <= 0.0 or math.isinf(upper):
        return "inf"
    exact = Context(prec=60, rounding=ROUND_CEILING)
    low = Decimal(lower)
    return rounded_up(exact.divide(exact.subtract(Decimal(upper), low), low))


def bytes_text(count: int) -> str:
    """Write a number of bytes with a decimal unit."""
    size, units = float(count), iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while size >= 999.5:
        larger = next(units, None)
        if larger is None:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"


def seconds_text(seconds: float) -> str:
    """Write a duration: ``0.42 s``, ``21.3 s``, ``4 min 12 s``, ``2 h 3 min``."""
    if seconds < 99.5:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def rate_text(count: int, seconds: float) -> str:
    """Write a throughput in GB/s; empty if no time was measured or nothing was read."""
    return f"{count / seconds / 1e9:.3g} GB/s" if seconds > 0 and count > 0 else ""


# Sentences -----------------------------------------------------------------------------------


def _guarantee(est: Estimate) -> str:
    if est.deterministic:
        return "holds for every random start"
    return f"probability of error <= {rounded_up(est.failure_probability)}"


def _headline(est: Estimate) -> str:
    width = width_text(est.lower, est.upper)
    interval = interval_text(est.lower, est.upper)
    return f"sigma_1 in {interval}  (relative width {width}, {_guarantee(est)})"


def _cost(est: Estimate) -> str:
    passes = f"{est.passes} pass{'' if est.passes == 1 else 'es'}"
    rate = rate_text(est.bytes_read, est.seconds)
    spent = f"{bytes_text(est.bytes_read)} read in {seconds_text(est.seconds)}"
    return f"{passes}, {spent}" + (f", {rate}" if rate else "")


def _facts(est: Estimate) -> list[tuple[str, str]]:
    """Label and text of what a reader asks for after the interval itself."""
    attained = "" if est.right is None and est.left is None else ", attained by a unit vector"
    facts = [
        ("value", f"{outward(est.lower, est.upper)[0]} (the lower end{attained})"),
        (
            "converged",
            f"{str(est.converged).lower()} (asked for: relative width <= {rounded_up(est.rtol)})",
        ),
        ("cost", _cost(est)),
        ("upper end", f"{est.upper_bound}, {_guarantee(est)}"),
        ("lower end", est.lower_bound),
        ("rounding", f"{rounded_up(est.rounding)} of the relative width covers rounding errors"),
        ("algorithm", f"{est.algorithm}, block size {est.block_size}, seed {est.seed}"),
    ]
    if est.frobenius is not None and est.stable_rank is not None:
        facts.append(("Frobenius", f"{est.frobenius:.6g}"))
        facts.append(("stable rank", interval_text(*est.stable_rank)))
    return facts


def summary(est: Estimate) -> str:
    """Return the text block that the command line prints."""
    lines = [_headline(est), est.status]
    lines += [f"  {label:<12} {text}" for label, text in _facts(est)]
    for k, choice in enumerate(est.choices):
        lines.append(f"  {'chosen' if k == 0 else '':<12} {choice}")
    return "\n".join(lines)


# Charts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axes:
    """Maps (pass number, level) to the coordinates of a 420 x 250 drawing."""

    last: int
    bottom: float
    top: float

    def x(self, number: float) -> float:
        return 244.0 if self.last == 1 else 86 + 316 * (number - 1) / (self.last - 1)

    def y(self, level: float) -> float:
        return 208 - 186 * (level - self.bottom) / (self.top - self.bottom)

    def line(self, points: Points, colour: str) -> str:
        """Draw a polyline; with few points, each has a dot, so that a single one is seen."""
        at = [(f"{self.x(a):.1f}", f"{self.y(b):.1f}") for a, b in points]
        path = " ".join(f"{a},{b}" for a, b in at)
        dots = "".join(f'<circle cx="{a}" cy="{b}" r="3" fill="{colour}"/>' for a, b in at)
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>' + (
            dots if len(at) <= 40 else ""
        )

    def frame(
        self, title: str, description: str, ticks: Sequence[tuple[float, str]], body: str
    ) -> str:
        """Put axes, ticks and a title around `body`; ticks ``(level, label)``, dearest first."""
        return (
            '<svg viewBox="0 0 420 250" role="img" xmlns="http://www.w3.org/2000/svg" '
            f'aria-label="{escape(f"{title}. {description}")}" '
            'style="width:100%;max-width:560px;height:auto;display:block" '
            'font-family="system-ui,sans-serif" font-size="12" fill="currentColor">'
            f"<title>{escape(title)}</title>{self._levels(ticks)}{self._numbers()}{body}"
            '<text x="244" y="245" text-anchor="middle">pass</text></svg>'
        )

    def _levels(self, ticks: Sequence[tuple[float, str]]) -> str:
        taken: list[tuple[float, str]] = []
        for level, label in ticks:
            y = self.y(level)
            if all(abs(y - other) >= 17 for other, _ in taken):
                taken.append((y, label))
        return "".join(
            f'<line x1="78" x2="410" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" '
            f'stroke-opacity=".15"/><text x="72" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
            for y, label in taken
        )

    def _numbers(self) -> str:
        step = next(s * 10**p for p in range(9) for s in (1, 2, 5) if self.last / (s * 10**p) <= 9)
        shown = {1, *range(step if step > 2 else 1, self.last + 1, step)}
        return "".join(
            f'<text x="{self.x(k):.1f}" y="226" text-anchor="middle">{k}</text>'
            for k in sorted(shown)
        )


def _text(x: float, y: float, words: str, colour: str = "currentColor") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-weight="600">{words}</text>'


def _width_chart(est: Estimate) -> str:
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
    words = _text(340, y - 5, "asked for") if early else _text(82, y + 15, "asked for")
    body = (
        f'<line x1="78" x2="410" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" '
        f'stroke-dasharray="5 4"/>{words}' + axes.line(points, _UPPER)
    )
    description = (
        f"From {width_text(closed[0].lower, closed[0].upper)} after pass {closed[0].number} to "
        f"{width_text(closed[-1].lower, closed[-1].upper)} after pass {closed[-1].number}; "
        f"asked for {rounded_up(est.rtol)}"
    )
    return axes.frame("Relative width of the interval", description, ticks, body)


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


def _ends_chart(est: Estimate) -> str:
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
        + _text(axes.x(upper[middle][0]) + 4, axes.y(upper[middle][1]) - 8, "upper end", _UPPER)
        + _text(axes.x(lower[middle][0]) + 4, axes.y(lower[middle][1]) + 18, "lower end", _LOWER)
    )
    width = width_text(est.lower, est.upper)
    description = f"After the last pass the ends lie a relative {width} apart"
    return axes.frame("Both ends, relative to the final value", description, ticks, body)


def figure(est: Estimate) -> Figure:
    """Draw the two charts with matplotlib, without touching pyplot's state."""
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        msg = 'Estimate.plot needs matplotlib; install it with: pip install "bigspec[plot]"'
        raise ImportError(msg) from exc
    drawn = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = drawn.subplots(1, 2)
    numbers = [r.number for r in est.history]
    left.semilogy(numbers, [max(r.width, 1e-16) for r in est.history], "o-", color=_UPPER)
    left.axhline(max(est.rtol, 1e-16), color="0.4", linestyle="--", label="asked for")
    left.set(xlabel="pass", ylabel="relative width")
    left.legend()
    unit, rows = _ends(est)
    if rows:
        number, low, high = zip(*rows, strict=True)
        right.fill_between(number, low, high, color=_UPPER, alpha=0.15)
        right.plot(number, high, "o-", color=_UPPER, label="upper end")
        right.plot(number, low, "o-", color=_LOWER, label="lower end")
        right.set_yscale("symlog", linthresh=unit)
        right.legend()
    right.set(xlabel="pass", ylabel="relative to the value")
    drawn.suptitle(f"sigma_1 in {interval_text(est.lower, est.upper)}")
    return drawn


# HTML ----------------------------------------------------------------------------------------


_STYLE = """
:root{color-scheme:light dark;--page:#fff;--ink:#1b1f24;--soft:#59636e;--rule:#d5dbe1;
--card:#f5f7f9}
@media(prefers-color-scheme:dark){
:root{--page:#14171b;--ink:#e6e9ec;--soft:#9aa5b0;--rule:#343b43;--card:#1c2126}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:66rem;padding:1.2rem;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.05rem;font-weight:600;color:var(--soft);margin:0;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:2rem 0 .6rem}
.interval{font-size:clamp(1.35rem,6vw,2.6rem);font-weight:650;line-height:1.2;margin:.4rem 0;
font-variant-numeric:tabular-nums}
.interval span{white-space:nowrap}
.soft{color:var(--soft);margin:.2rem 0}
.status{background:var(--card);border-left:4px solid #3a86c8;padding:.6rem .9rem;margin:1rem 0}
.status.open{border-color:#d9732b}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(20rem,100%),1fr));gap:1.2rem}
figure{margin:0}figcaption{font-weight:600;margin-bottom:.3rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.88rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.35rem .7rem .35rem 0;border-bottom:1px solid var(--rule);
vertical-align:top}
.passes td{white-space:nowrap}.passes th{vertical-align:bottom}
.facts th{width:11rem;font-weight:500;color:var(--soft)}.facts td{overflow-wrap:anywhere}
@media(max-width:30rem){.facts th{width:7rem}}
"""


def _prose(text: str) -> str:
    """Escape, set `<=` as one sign, and keep numbers such as 1e-06 from breaking over lines."""
    whole = re.sub(
        r"\b\d[\d.]*e[-+]\d+", r'<span style="white-space:nowrap">\g<0></span>', escape(text)
    )
    return whole.replace("&lt;=", "&le;")


def _cell(value: Any) -> str:
    return _prose(value if isinstance(value, str) else json.dumps(value, default=str))


def _pairs(rows: Iterable[tuple[str, Any]]) -> str:
    """Return a two-column table of labels and values, escaped."""
    body = "".join(
        f'<tr><th scope="row">{escape(str(key).replace("_", " "))}</th><td>{_cell(value)}</td></tr>'
        for key, value in rows
    )
    return f'<table class="facts">{body}</table>'


def _pass_cells(record: PassRecord) -> list[str]:
    return [
        str(record.number),
        *outward(record.lower, record.upper),
        width_text(record.lower, record.upper),
        record.upper_bound + (" (certain)" if record.deterministic else ""),
        ", ".join(f"{value:.6g}" for value in record.ritz_values[:3]),
        f"{record.bytes_read / 1e9:.3g}",
        f"{record.seconds:.3g}",
        f"{record.seconds_reading:.3g} / {record.seconds_multiplying:.3g}"
        + (f", {record.retries} retried" if record.retries else ""),
    ]


def _passes_table(est: Estimate) -> str:
    heads = (
        "pass", "lower end", "upper end", "width", "upper bound", "Ritz values",
        "GB read", "seconds", "reading / multiplying",
    )  # fmt: skip
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _pass_cells(record)) + "</tr>"
        for record in est.history
    )
    return (
        '<div class="wide" style="overflow-x:auto" role="region" aria-label="Passes" tabindex="0">'
        f'<table class="passes"><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _name(est: Estimate) -> str:
    where = str(est.matrix.get("name") or est.matrix.get("where") or "a matrix")
    return {"memory": "a matrix in memory", "operator": "an operator"}.get(where, where)


def fragment(est: Estimate) -> str:
    """Return what a notebook shows: the interval, the sentence, one chart, the passes folded."""
    return (
        '<div style="max-width:46rem">'
        f'<div style="font-size:1.3em;font-weight:600">&sigma;<sub>1</sub> &isin; '
        f"{escape(interval_text(est.lower, est.upper))}</div>"
        f"<div>relative width {width_text(est.lower, est.upper)}, {_prose(_guarantee(est))}</div>"
        f"<div>{_prose(est.status)}</div><div>{_prose(_cost(est))}</div>"
        f'<div style="margin-top:.8em">Relative width after each pass</div>{_width_chart(est)}'
        f"<details><summary>passes</summary>{_passes_table(est)}</details></div>"
    )


def page(est: Estimate) -> str:
    """Return one self-contained HTML page: no script, no font, nothing from a network."""
    name = escape(_name(est))
    low, high = (escape(text) for text in outward(est.lower, est.upper))
    charts = [
        ("Relative width of the interval", _width_chart(est)),
        ("Both ends, relative to the final value", _ends_chart(est)),
    ]
    figures = "".join(
        f"<figure><figcaption>{head}</figcaption>{chart}</figure>"
        for head, chart in charts if chart
    )  # fmt: skip
    chosen = "".join(f"<li>{_prose(choice)}</li>" for choice in est.choices)
    sections = [
        ("How the interval closed", f'<div class="charts">{figures}</div>' if figures else ""),
        ("Passes", _passes_table(est) if est.history else "<p>No pass was made.</p>"),
        ("What it rests on", _pairs(_facts(est))),
        ("What entered", _pairs(est.matrix.items())),
        ("How it was cut", _pairs(est.layout.items())),
        ("What was chosen, and why", f"<ul>{chosen}</ul>" if chosen else ""),
        ("Versions", _pairs(est.versions.items())),
    ]
    body = "".join(f"<section><h2>{head}</h2>{text}</section>" for head, text in sections if text)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Spectral norm of {name}</title><style>{_STYLE}</style></head><body><main>"
        f'<header><h1>Spectral norm of {name}</h1><p class="interval">&sigma;<sub>1</sub> &isin; '
        f"<span>[{low},</span> <span>{high}]</span></p>"
        f'<p class="soft">relative width {width_text(est.lower, est.upper)}, '
        f"{_prose(_guarantee(est))}</p>"
        f'<p class="status{"" if est.converged else " open"}">{_prose(est.status)}</p></header>'
        f"{body}</main></body></html>\n"
    )
