"""An answer as HTML: one self-contained page, and the fragment that notebooks show.

Nothing here computes; every number is taken from the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, TypeAlias

from bigspec.errors import format_bytes
from bigspec.results.charts import ends_chart, ritz_chart, spectrum_chart, width_chart
from bigspec.results.text import (
    cost,
    dtype_text,
    facts,
    guarantee,
    missing_text,
    outward,
    rate_text,
    rounded_up,
    triplet_facts,
    width_text,
)

if TYPE_CHECKING:
    from bigspec.results import Estimate
    from bigspec.results.triplets import Triplets

    Answer: TypeAlias = Estimate | Triplets

__all__ = [
    "document",
    "fragment",
    "interval",
    "page",
    "table",
    "triplets_fragment",
    "triplets_page",
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
.interval{font-size:clamp(1.35rem,5vw,2.2rem);font-weight:650;line-height:1.2;margin:.4rem 0;
font-variant-numeric:tabular-nums}
.soft{color:var(--soft);margin:.2rem 0}
.status{background:var(--card);border-left:4px solid #3a86c8;padding:.6rem .9rem;margin:1rem 0}
.status.open{border-color:#d9732b}
summary{cursor:pointer;margin:.8rem 0 .4rem}
table{border-collapse:collapse;width:100%;font-size:.88rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.35rem .7rem .35rem 0;border-bottom:1px solid var(--rule);
vertical-align:top}
.rows thead th{vertical-align:bottom}.rows th[scope=row]{font-weight:400}
.facts th{width:11rem;font-weight:500;color:var(--soft)}.facts td{overflow-wrap:anywhere}
@media(max-width:30rem){.facts th{width:7rem}th,td{padding-right:.4rem}
.rows{font-size:.8rem}}
@media print{body{max-width:none;padding:0}figure,tr{break-inside:avoid}h2{break-after:avoid}}
"""


def _prose(text: str) -> str:
    """Escape, set `<=` as one sign, and keep numbers such as 1e-06 from breaking over lines."""
    kept = re.sub(r"\b\d[\d.]*e[-+]\d+", lambda number: whole(number[0]), escape(text))
    return kept.replace("&lt;=", "&le;")


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        value = ", ".join(f"{str(key).replace('_', ' ')} {part}" for key, part in value.items())
    return _prose(value if isinstance(value, str) else json.dumps(value, default=str))


def _pairs(rows: Iterable[tuple[str, Any]]) -> str:
    """Return a two-column table of labels and values, escaped."""
    body = "".join(
        f'<tr><th scope="row">{escape(str(key).replace("_", " "))}</th><td>{_cell(value)}</td></tr>'
        for key, value in rows
    )
    return f'<table class="facts">{body}</table>'


def whole(text: str) -> str:
    """Return the text, escaped, which does not break over lines."""
    return f'<span style="white-space:nowrap">{escape(text)}</span>'


def interval(lower: float, upper: float) -> str:
    """Return the interval, which breaks between its ends alone."""
    low, high = outward(lower, upper)
    return f"{whole(f'[{low},')} {whole(f'{high}]')}"


def table(label: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table that scrolls by itself where it does not fit; cells are HTML.

    The first cell of a row names it.
    """
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{c}</td>" for c in row[1:]) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide" style="overflow-x:auto" role="region" aria-label="{escape(label)}" '
        f'tabindex="0"><table class="rows"><thead><tr>{top}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def _intervals_table(est: Answer) -> str:
    several = any(record.lowers for record in est.history)
    heads = ["pass", "&sigma;<sub>1</sub> &isin;", "width", "upper bound"]
    if several:
        heads.insert(3, "largest width")
    rows = [
        (
            str(record.number),
            interval(record.lower, record.upper),
            whole(width_text(record.lower, record.upper)),
            *([whole(rounded_up(record.width))] if several else []),
            escape(record.upper_bound) + (" (certain)" if record.deterministic else ""),
        )
        for record in est.history
    ]
    return table("Passes", heads, rows)


def _cost_table(est: Answer) -> str:
    heads = ["pass", "bytes read", "time, s", "bytes/s", "reading, s", "products, s"]
    retried = any(record.retries for record in est.history)
    lacking = any(record.missing_chunks for record in est.history)
    rows = [
        [
            str(record.number),
            whole(format_bytes(record.bytes_read)),
            f"{record.seconds:.3g}",
            whole(rate_text(record.bytes_read, record.seconds)),
            f"{record.seconds_reading:.3g}",
            f"{record.seconds_multiplying:.3g}",
            *([str(record.retries)] if retried else []),
            *([f"{record.missing_chunks} of {record.chunks}"] if lacking else []),
        ]
        for record in est.history
    ]
    return '<p class="soft">Reading and products are summed over all threads.</p>' + table(
        "Cost of passes",
        heads + (["reads retried"] if retried else []) + (["chunks missing"] if lacking else []),
        rows,
    )


def _ritz_table(est: Answer) -> str:
    rows = [
        (str(r.number), ", ".join(f"{value:.6g}" for value in r.ritz_values))
        for r in est.history
        if r.ritz_values
    ]
    if not rows:
        return ""
    shown = table("Ritz values", ("pass", "largest Ritz values"), rows)
    return f"<details><summary>Ritz values in numbers</summary>{shown}</details>"


def _figures(est: Estimate) -> str:
    return _side_by_side(
        ("Relative width", width_chart(est)),
        ("Both ends, relative to the value", ends_chart(est)),
        ("Ritz values, the largest in orange", ritz_chart(est)),
    )


def _triplet_figures(tri: Triplets) -> str:
    return _side_by_side(
        ("Largest relative width", width_chart(tri)),
        ("Singular values with their intervals", spectrum_chart(tri)),
        ("Ritz values, the largest in orange", ritz_chart(tri)),
    )


def _side_by_side(*charts: tuple[str, str]) -> str:
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


def _layout_rows(est: Answer) -> list[tuple[str, Any]]:
    """Return how the matrix was read, with sizes for people."""
    rows = []
    for key, value in est.layout.items():
        if key == "memory" and isinstance(value, dict):
            value = {
                part: size if part == "tasks" or not isinstance(size, int) else format_bytes(size)
                for part, size in value.items()
            }
        rows.append((key, value))
    return rows


def _matrix_rows(est: Answer) -> list[tuple[str, Any]]:
    return [
        (key, dtype_text(value) if key == "dtype" else value) for key, value in est.matrix.items()
    ]


def _faults(est: Answer) -> str:
    reads = sum(record.retries for record in est.history)
    if reads == 0:
        return "none"
    return "1 read was retried" if reads == 1 else f"{reads} reads were retried"


def _name(est: Answer) -> str:
    where = str(est.matrix.get("name") or est.matrix.get("where") or "a matrix")
    return {"memory": "a matrix in memory", "operator": "an operator"}.get(where, where)


def fragment(est: Estimate) -> str:
    """Return what a notebook shows: the interval, the sentence, the charts, the passes folded."""
    lacking = missing_text(est)
    return (
        '<div style="max-width:60rem">'
        f'<div style="font-size:1.3em;font-weight:600">&sigma;<sub>1</sub> &isin; '
        f"{interval(est.lower, est.upper)}</div>"
        f"<div>relative width {width_text(est.lower, est.upper)}, {_prose(guarantee(est))}</div>"
        f"<div>{_prose(est.status)}</div><div>{_prose(cost(est))}</div>"
        + (f"<div>{_prose(lacking)}</div>" if lacking else "")
        + f'<div style="margin-top:.8em">{_figures(est)}</div>{_ritz_table(est)}'
        f"<details><summary>Passes</summary>{_intervals_table(est)}{_cost_table(est)}</details>"
        "</div>"
    )


def triplets_fragment(tri: Triplets) -> str:
    """Return what a notebook shows of k triplets: one interval a row, the sentence, the cost."""
    return (
        f'<div style="max-width:60rem"><div>{_prose(tri.status)}</div>'
        f'<div style="max-height:24em;overflow:auto">{_values_table(tri)}</div>'
        f'{_pairs(triplet_facts(tri))}<div style="margin-top:.8em">{_triplet_figures(tri)}</div>'
        f"{_ritz_table(tri)}"
        f"<details><summary>Passes</summary>{_intervals_table(tri)}{_cost_table(tri)}</details>"
        "</div>"
    )


def _values_table(tri: Triplets) -> str:
    heads = ("i", "&sigma;<sub>i</sub> &isin;", "relative width", "upper bound")
    rows = [
        (
            str(i),
            interval(one.lower, one.upper),
            whole(width_text(one.lower, one.upper)),
            escape(one.upper_bound) + (" (certain)" if one.deterministic else ""),
        )
        for i, one in enumerate(tri.intervals, start=1)
    ]
    return table("Singular values", heads, rows)


def page(est: Estimate) -> str:
    """Return one self-contained HTML page: no script, no font, nothing from a network."""
    return _page(
        f"Spectral norm of {_name(est)}",
        f"relative width {width_text(est.lower, est.upper)}, {_prose(guarantee(est))}",
        est,
        [("How the interval closed", _figures(est) + _ritz_table(est))],
        facts(est),
    )


def triplets_page(tri: Triplets) -> str:
    """Return the page of k triplets, with a table of all values."""
    values = f"{tri.k} value{'' if tri.k == 1 else 's'}"
    return _page(
        f"Singular values of {_name(tri)}",
        f"{values}, largest relative width {rounded_up(tri.width)}, {_prose(guarantee(tri))}",
        tri,
        [
            ("Singular values", _values_table(tri)),
            ("How the intervals closed", _triplet_figures(tri) + _ritz_table(tri)),
        ],
        triplet_facts(tri),
    )


Section = tuple[str, str]


def _page(
    title: str, soft: str, answer: Answer, first: list[Section], facts: list[tuple[str, str]]
) -> str:
    """Return the page: the interval of sigma_1, `first`, and what all answers have."""
    chosen = "".join(f"<li>{_prose(choice)}</li>" for choice in answer.choices)
    sections = [
        *first,
        ("Passes", _intervals_table(answer) if answer.history else "<p>No pass was made.</p>"),
        ("What each pass cost", _cost_table(answer) if answer.history else ""),
        ("The answer", _pairs([*facts, ("failed reads", _faults(answer))])),
        ("The matrix", _pairs(_matrix_rows(answer))),
        ("How it was read", _pairs(_layout_rows(answer))),
        ("What was chosen, and why", f"<ul>{chosen}</ul>" if chosen else ""),
        ("Versions", _pairs(answer.versions.items())),
    ]
    body = "".join(f"<section><h2>{head}</h2>{text}</section>" for head, text in sections if text)
    one, lacking = answer.intervals[0], missing_text(answer)
    head = (
        f'<header><h1>{escape(title)}</h1><p class="interval">&sigma;<sub>1</sub> &isin; '
        f"{interval(one.lower, one.upper)}</p>"
        f'<p class="soft">{soft}</p>'
        f'<p class="status{"" if answer.converged else " open"}">{_prose(answer.status)}</p>'
        + (f'<p class="status open">{_prose(lacking)}</p>' if lacking else "")
        + "</header>"
    )
    return document(title, head + body)


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
