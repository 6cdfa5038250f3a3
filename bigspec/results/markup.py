"""The pieces of a page: its style, tables, folded parts, and intervals that do not break."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from html import escape

from bigspec.results.text import outward

__all__ = [
    "document",
    "folded",
    "headline",
    "interval",
    "pairs",
    "prose",
    "shown_in_notebook",
    "side_by_side",
    "table",
    "whole",
]

_STYLE = """
:root{color-scheme:light dark;--page:#fff;--ink:#1b1f24;--soft:#59636e;--rule:#d5dbe1;
--card:#f5f7f9}
@media(prefers-color-scheme:dark){
:root{--page:#14171b;--ink:#e6e9ec;--soft:#9aa5b0;--rule:#343b43;--card:#1c2126}}
*{box-sizing:border-box}figure{margin:0 0 .8rem}
body{margin:0 auto;max-width:66rem;padding:1.2rem;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.05rem;font-weight:600;color:var(--soft);margin:0;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:2rem 0 .6rem}
.interval{font-size:clamp(1.5rem,6vw,2.9rem);font-weight:650;line-height:1.15;margin:.5rem 0;
font-variant-numeric:tabular-nums}
.promise{font-size:1.2rem;font-weight:550;margin:.3rem 0;line-height:1.35}
.soft{color:var(--soft);margin:.2rem 0}
.status{background:var(--card);border-left:4px solid #3a86c8;padding:.6rem .9rem;margin:1rem 0}
.status.open{border-color:#d9732b}.status.bad{border-color:#d9432b}
main>details{border-top:1px solid var(--rule)}main>details:last-child{
border-bottom:1px solid var(--rule)}
summary{cursor:pointer;padding:.6rem 0}section+details{margin-top:2rem}
details>:last-child{margin-bottom:1rem}
table{border-collapse:collapse;width:100%;font-size:.88rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.35rem .7rem .35rem 0;border-bottom:1px solid var(--rule);
vertical-align:top}
.rows thead th{vertical-align:bottom}.rows th[scope=row]{font-weight:400}
.facts th{width:11rem;font-weight:500;color:var(--soft)}.facts td{overflow-wrap:anywhere}
.rests{font-size:1rem}
@media(max-width:30rem){.facts th{width:7rem}th,td{padding-right:.4rem}
.rows{font-size:.8rem}.rests{font-size:.95rem}}
@media print{body{max-width:none;padding:0}figure,tr{break-inside:avoid}
h2,summary{break-after:avoid}details::details-content{content-visibility:visible;display:block}}
"""


_PLAIN = 'cellpadding="4"'
"""For notebooks, which do not have the style of a page: any style sheet overrides it."""


def prose(text: str) -> str:
    """Escape, set `<=` as one sign, and keep numbers such as 1e-06 from breaking over lines."""
    kept = re.sub(r"\b\d[\d.]*e[-+]\d+", lambda number: whole(number[0]), escape(text))
    return kept.replace("&lt;=", "&le;")


def whole(text: str) -> str:
    """Escape a text so that it does not break over lines."""
    return f'<span style="white-space:nowrap">{escape(text)}</span>'


def interval(lower: float, upper: float) -> str:
    """Write the interval so that it breaks only between its ends."""
    low, high = outward(lower, upper)
    return f"{whole(f'[{low},')} {whole(f'{high}]')}"


def headline(lower: float, upper: float) -> str:
    """Write the interval as the head of a page: on one line, however many digits it has."""
    letters = 9 + sum(map(len, outward(lower, upper)))
    fits = f"font-size:clamp(1.5rem,6vw,{min(2.9, 97 / letters):.2f}rem)"
    said = interval(lower, upper)
    return f'<p class="interval" style="{fits}">&sigma;<sub>1</sub> &isin; {said}</p>'


def table(
    label: str, heads: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()
) -> str:
    """Return a table that scrolls by itself where it does not fit; cells are HTML.

    The first cell of a row names it. The columns `right` hold numbers, aligned at the right.
    """
    number = ' style="text-align:right"'
    aligned = [number if k in right else "" for k in range(len(heads))]
    top = "".join(
        f'<th scope="col" align="left"{at}>{head}</th>'
        for head, at in zip(heads, aligned, strict=True)
    )
    body = "".join(
        f'<tr><th scope="row"{aligned[0]}>{row[0]}</th>'
        + "".join(f"<td{at}>{c}</td>" for c, at in zip(row[1:], aligned[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide" style="overflow-x:auto" role="region" aria-label="{escape(label)}" '
        f'tabindex="0"><table class="rows" {_PLAIN}><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def pairs(rows: Iterable[tuple[str, str]], kind: str = "facts") -> str:
    """Return a two-column table of labels and values; the values are HTML."""
    body = "".join(
        f'<tr><th scope="row" align="left">{escape(str(key).replace("_", " "))}</th>'
        f"<td>{value}</td></tr>"
        for key, value in rows
    )
    return f'<table class="{kind}" {_PLAIN}>{body}</table>'


def shown_in_notebook(head: str, lines: Iterable[str], *parts: str) -> str:
    """Return what a notebook shows of any result: what matters, sentences, then the rest.

    It stands in pages of others, so its style is in its elements.

    Parameters
    ----------
    head : str
        HTML, shown large.
    lines : iterable of str
        Sentences, escaped; empty ones are left out.
    *parts : str
        HTML; empty ones are left out.
    """
    said = "".join(f"<div>{line}</div>" for line in lines if line)
    rest = "".join(f'<div style="margin-top:.8em">{part}</div>' for part in parts if part)
    large = f'<div style="font-size:1.6em;font-weight:600">{head}</div>'
    return f'<div style="max-width:60rem">{large}{said}{rest}</div>'


def side_by_side(*charts: tuple[str, str]) -> str:
    """Return the charts side by side, as many as fit."""
    figures = "".join(
        f'<figure style="margin:0"><figcaption style="font-weight:600;margin-bottom:.3em">{head}'
        f"</figcaption>{chart}</figure>"
        for head, chart in charts if chart
    )  # fmt: skip
    grid = (
        "display:grid;gap:1.2em;grid-template-columns:repeat(auto-fit,minmax(min(18em,100%),1fr))"
    )
    return f'<div style="{grid}">{figures}</div>' if figures else ""


def folded(head: str, body: str) -> str:
    """Return HTML under a heading that opens at a click; in print it is open."""
    return f"<details><summary>{head}</summary>{body}</details>"


def document(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """Return a page around `body`, which is HTML: no font, nothing from a network.

    Parameters
    ----------
    title, body : str
    style : str
        Rules beside those of all pages.
    script : str
        Runs once the page is there; without it, every number must be readable all the same.
    """
    script = f"<script>{script}</script>" if script else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head><body><main>"
        f"{body}</main>{script}</body></html>\n"
    )
