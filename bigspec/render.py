"""An estimate as HTML: one self-contained page, and the fragment that notebooks show.

Nothing here computes; every number is taken from the estimate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

from bigspec.charts import ends_chart, ritz_chart, width_chart
from bigspec.words import (
    cost,
    facts,
    guarantee,
    interval_text,
    outward,
    rate_text,
    triplet_facts,
    triplet_rows,
    width_text,
)

if TYPE_CHECKING:
    from bigspec.results import Estimate, PassRecord
    from bigspec.triplets import Triplets

__all__ = ["document", "fragment", "page", "triplets_fragment"]

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
        rate_text(record.bytes_read, record.seconds),
        f"{record.seconds_reading:.3g} / {record.seconds_multiplying:.3g}"
        + (f", {record.retries} retried" if record.retries else ""),
    ]


def _passes_table(est: Estimate) -> str:
    heads = (
        "pass", "lower end", "upper end", "width", "upper bound", "Ritz values",
        "GB read", "seconds", "throughput", "reading / multiplying",
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


def _faults(est: Estimate) -> str:
    reads = sum(record.retries for record in est.history)
    if reads == 0:
        return "none: no read had to be repeated"
    return f"{reads} failed read{'' if reads == 1 else 's'}, tried again"


def _name(est: Estimate) -> str:
    where = str(est.matrix.get("name") or est.matrix.get("where") or "a matrix")
    return {"memory": "a matrix in memory", "operator": "an operator"}.get(where, where)


def fragment(est: Estimate) -> str:
    """Return what a notebook shows: the interval, the sentence, one chart, the passes folded."""
    return (
        '<div style="max-width:46rem">'
        f'<div style="font-size:1.3em;font-weight:600">&sigma;<sub>1</sub> &isin; '
        f"{escape(interval_text(est.lower, est.upper))}</div>"
        f"<div>relative width {width_text(est.lower, est.upper)}, {_prose(guarantee(est))}</div>"
        f"<div>{_prose(est.status)}</div><div>{_prose(cost(est))}</div>"
        f'<div style="margin-top:.8em">Relative width after each pass</div>{width_chart(est)}'
        f"<details><summary>passes</summary>{_passes_table(est)}</details></div>"
    )


def triplets_fragment(tri: Triplets) -> str:
    """Return what a notebook shows of k triplets: one interval a row, the sentence, the cost."""
    heads = ("i", "&sigma;<sub>i</sub> &isin;", "relative width", "upper bound")
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in triplet_rows(tri)
    )
    return (
        f'<div style="max-width:46rem"><div>{_prose(tri.status)}</div>'
        '<div style="max-height:24em;overflow:auto" role="region" aria-label="Singular values" '
        f'tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>'
        f"{_pairs(triplet_facts(tri))}</div>"
    )


def page(est: Estimate) -> str:
    """Return one self-contained HTML page: no script, no font, nothing from a network."""
    name = escape(_name(est))
    low, high = (escape(text) for text in outward(est.lower, est.upper))
    charts = [
        ("Relative width of the interval", width_chart(est)),
        ("Both ends, relative to the final value", ends_chart(est)),
        ("Ritz values (the largest in orange)", ritz_chart(est)),
    ]
    figures = "".join(
        f"<figure><figcaption>{head}</figcaption>{chart}</figure>"
        for head, chart in charts if chart
    )  # fmt: skip
    chosen = "".join(f"<li>{_prose(choice)}</li>" for choice in est.choices)
    sections = [
        ("How the interval closed", f'<div class="charts">{figures}</div>' if figures else ""),
        ("Passes", _passes_table(est) if est.history else "<p>No pass was made.</p>"),
        ("What it rests on", _pairs([*facts(est), ("faults survived", _faults(est))])),
        ("What entered", _pairs(est.matrix.items())),
        ("How it was cut", _pairs(est.layout.items())),
        ("What was chosen, and why", f"<ul>{chosen}</ul>" if chosen else ""),
        ("Versions", _pairs(est.versions.items())),
    ]
    body = "".join(f"<section><h2>{head}</h2>{text}</section>" for head, text in sections if text)
    head = (
        f'<header><h1>Spectral norm of {name}</h1><p class="interval">&sigma;<sub>1</sub> &isin; '
        f"<span>[{low},</span> <span>{high}]</span></p>"
        f'<p class="soft">relative width {width_text(est.lower, est.upper)}, '
        f"{_prose(guarantee(est))}</p>"
        f'<p class="status{"" if est.converged else " open"}">{_prose(est.status)}</p></header>'
    )
    return document(f"Spectral norm of {_name(est)}", head + body)


def document(title: str, body: str) -> str:
    """Return a page around `body`, which is HTML: no script, no font, nothing from a network."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"{body}</main></body></html>\n"
    )
