"""A scan as one self-contained page: what stands out first, then every row."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING

from bigspec.history import LAYERS_STYLE
from bigspec.names import shown
from bigspec.networks.charts import bar, depth_chart, groups_of, levels_of
from bigspec.networks.row import Row
from bigspec.networks.table import COLUMNS, brief, in_order, notes, number
from bigspec.results import Range
from bigspec.results.markup import document, folded, shown_in_notebook, side_by_side, table, whole
from bigspec.results.text import counted, rounded_up, seconds_text

if TYPE_CHECKING:
    from bigspec.networks.rows import Scan

__all__ = ["page"]

MOST_CHARTS, MOST_ROWS = 24, 12
SPIKE = 1.5  # times the edge of noise: from here on a row is called spiked

STYLE = (
    LAYERS_STYLE
    + """
.bar{width:100%;min-width:4rem;height:.8em;display:block}
th button{font:inherit;color:inherit;background:none;border:0;padding:0;cursor:pointer;
text-align:left;text-decoration:underline dotted}
th[aria-sort=descending] button::after{content:" \\2193"}
th[aria-sort=ascending] button::after{content:" \\2191"}
"""
)

SCRIPT = """
document.querySelectorAll('#every table').forEach(function(t){
var heads=t.querySelectorAll('thead th'),body=t.tBodies[0];
function value(row,k){var c=row.cells[k].querySelector('data');
return c?c.value:row.cells[k].textContent}
heads.forEach(function(h,k){var b=document.createElement('button');b.type='button';
while(h.firstChild)b.appendChild(h.firstChild);h.appendChild(b);
b.addEventListener('click',function(){var down=h.getAttribute('aria-sort')!=='descending';
heads.forEach(function(o){o.removeAttribute('aria-sort')});
h.setAttribute('aria-sort',down?'descending':'ascending');
Array.from(body.rows).map(function(r,i){return[value(r,k),i,r]}).sort(function(a,b){
var x=parseFloat(a[0]),y=parseFloat(b[0]),n=isNaN(x)||isNaN(y);
if(k&&isNaN(x)!==isNaN(y))return isNaN(x)?1:-1;
var o=(!k||n)?(a[0]<b[0]?-1:a[0]>b[0]?1:0):x-y;
return(down?-o:o)||a[1]-b[1]}).forEach(function(e){body.appendChild(e[2])})})})});
"""


def page(scan: Scan, over_runs: str = "") -> str:
    """Return the page of a scan; every number is taken from its rows.

    Parameters
    ----------
    scan : Scan
    over_runs : str
        The charts of its layers over the runs of a history; see `layers_over_runs`.
    """
    rows = list(scan.rows.values())
    title = _title(scan)
    sections = [
        ("By depth and kind", _depths(rows)),
        (f"Changes against {escape(scan.other)}", _changes(rows) if scan.other else ""),
        ("Over the runs", over_runs),
        ("Spikes", _spikes(rows)),
        ("What to know", _notes(scan, rows)),
        ("Every row", f'<div id="every">{_every(rows)}</div>'),
    ]
    body = "".join(f"<section><h2>{head}</h2>{text}</section>" for head, text in sections if text)
    return document(title, _head(scan, title, rows) + body, style=STYLE, script=SCRIPT)


def fragment(scan: Scan, *, begun: bool) -> str:
    """Return what a notebook shows; before a scan begins, what it would compute."""
    if not begun:
        names = counted(len(scan), "row")
        state = "not begun: <code>run()</code> computes all rows, and so does asking for one"
        return shown_in_notebook(names, [_breakable(_title(scan)), state])
    rows = list(scan.rows.values())
    said = [text for text, _ in _sentences(scan, rows)]
    return shown_in_notebook(
        _norms(rows),
        [_breakable(_title(scan)), *said],
        _drawn(rows),
        folded("Every row", f'<div style="max-height:32em;overflow:auto">{_every(rows)}</div>'),
    )


def _title(scan: Scan) -> str:
    return f"Spectral norms of {scan.model}" + (f" minus {scan.other}" if scan.other else "")


def _known(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.lower is not None and not row.tied_to]


def _norms(rows: Sequence[Row]) -> str:
    return counted(len(_known(rows)), "norm")


def _head(scan: Scan, title: str, rows: Sequence[Row]) -> str:
    lines = [f'<p class="{kind}">{said}</p>' for said, kind in _sentences(scan, rows)]
    head = f'<h1>{escape(title)}</h1><p class="interval">{_norms(rows)}</p>'
    return f"<header>{head}{''.join(lines)}</header>"


def _sentences(scan: Scan, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return the sentences about the whole scan, escaped, with the class of each."""
    known = _known(rows)
    certain = sum(row.deterministic for row in known)
    sure = f"{certain} certain"
    if certain < len(known):
        chance = rounded_up(scan.failure_probability)
        sure += f", {len(known) - certain} with probability of error &le; {chance} for all together"
    bad = [row for row in rows if row.non_finite]
    lines = [(f"{sure}; {seconds_text(scan.seconds)}", "soft")]
    ruling = scan.ruling
    if ruling is not None:
        word = "" if ruling.exit_status == 0 else " open"
        lines.append((escape(f"gate: {ruling.outcome}: {ruling.reason}"), f"status{word}"))
    if bad:
        names = escape(", ".join(shown(row.name) for row in bad))
        lines.append((f"NaN or Inf in {names}", "status open"))
    if scan.missing:
        lines.append((f"{counted(len(scan.missing), 'row')} not reached", "status open"))
    return lines


def _drawn(rows: Sequence[Row]) -> str:
    """Return the charts for a notebook, which does not have the style of the page."""
    groups = groups_of(rows)
    levels = levels_of([row for group in groups for _, row in group.rows])
    charts = ((_breakable(g.name), depth_chart(g, levels)) for g in groups[:MOST_CHARTS])
    return side_by_side(*charts)


def _depths(rows: Sequence[Row]) -> str:
    groups = groups_of(rows)
    if not groups:
        return ""
    levels = levels_of([row for group in groups for _, row in group.rows])
    figures = "".join(
        f"<figure><figcaption>{_breakable(group.name)}</figcaption>"
        f"{depth_chart(group, levels)}</figure>"
        for group in groups[:MOST_CHARTS]
    )
    left = len(groups) - MOST_CHARTS
    more = f'<p class="soft">{left} more kinds are in the table.</p>' if left > 0 else ""
    what = "Norm against depth, all on one scale; orange where the upper end has a probability."
    return f'<p class="soft">{what}</p><div class="charts">{figures}</div>{more}'


def _breakable(name: str) -> str:
    """Return a name, escaped, that breaks between its parts first."""
    return escape(shown(name)).replace(".", ".<wbr>").replace("/", "/<wbr>")


def _spikes(rows: Sequence[Row]) -> str:
    """Return the rows whose norm stands out of noise of the same size and deviation."""
    known = [row for row in in_order(rows, "edge", None) if row.edge_ratio is not None]
    spiked = [row for row in known if (row.edge_ratio or 0.0) >= SPIKE and not row.tied_to]
    if not spiked:
        return ""
    most = max(row.edge_ratio or 0.0 for row in spiked)
    cells = [
        [
            escape(shown(row.name)),
            number(row.edge_ratio),
            bar(1.0, row.edge_ratio or 0.0, most),
            "" if row.stable_rank is None else number(row.stable_rank.lower),
        ]
        for row in spiked[:MOST_ROWS]
    ]
    said = (
        f"{counted(len(spiked), 'row')} of {len(known)} at least {SPIKE:g} times the edge of noise "
        "of the same size and deviation"
    )
    heads = ["name", "times the edge", "from 1", "stable rank"]
    return f'<p class="soft">{said}; the largest:</p>{table("Spikes", heads, cells)}'


def _changes(rows: Sequence[Row]) -> str:
    known = [row for row in in_order(rows, "change", None) if row.change is not None]
    finite = [r.change.upper for r in known if r.change and math.isfinite(r.change.upper)]
    if not finite:
        return "<p>No row has a partner.</p>"
    cells = []
    for row in known[:MOST_ROWS]:
        change = row.change
        assert change is not None
        cells.append(
            [
                escape(shown(row.name)),
                interval(change.lower, change.upper),
                bar(change.lower, change.upper, max(finite)),
            ]
        )
    said = f"&#8214;A - B&#8214; / &#8214;B&#8214;, the largest of {len(known)}:"
    heads = ["name", "relative change", ""]
    return f'<p class="soft">{said}</p>{table("Changes", heads, cells)}'


def _notes(scan: Scan, rows: Sequence[Row]) -> str:
    said = notes(rows)
    for where, names in ((scan.model, scan.only_in_model), (scan.other, scan.only_in_other)):
        if names:
            said.append(f"only in {where}: {', '.join(map(shown, names))}")
    items = "".join(f"<li>{escape(text)}</li>" for text in said)
    return f"<ul>{items}</ul>" if items else ""


def _every(rows: Sequence[Row]) -> str:
    changed = any(row.change is not None for row in rows)
    layered = any(row.layer for row in rows)
    heads = ["name", "shape", "norm", *(["as a layer"] if layered else [])]
    heads += ["relative change"] if changed else []
    heads += ["stable rank", "times the edge", "norm / &radic;(m/n)", "largest entry"]
    heads += ["Frobenius norm", "kind", "upper end"]
    cells = [_cells(row, changed=changed, layered=layered) for row in rows]
    return table("Every row", heads, cells)


def _cells(row: Row, *, changed: bool, layered: bool) -> list[str]:
    shape = " x ".join(map(str, row.matrix or row.shape)) or "1"
    cells = [escape(shown(row.name)), _data(row, "size", whole(shape)), _norm(row)]
    if layered:
        cells.append(_layer(row))
    if changed:
        cells.append(_ends(row.change))
    scale = row.spectral_scale
    rank = row.stable_rank
    return [
        *cells,
        "" if rank is None else _number(rank.lower),
        _number(row.edge_ratio),
        "" if scale is None else _number(scale.upper),
        _number(row.largest),
        _number(row.frobenius),
        escape(row.kind),
        escape(f"{row.upper_bound}, {row.certainty}" if row.upper_bound else ""),
    ]


def interval(lower: float, upper: float) -> str:
    """Write the interval with few digits, so that it breaks only between its ends."""
    low, high = brief(lower, upper)
    return f"{whole(f'[{low},')} {whole(f'{high}]')}"


def _norm(row: Row) -> str:
    if row.non_finite:
        return f"{row.non_finite} NaN or Inf"
    if row.lower is None or row.upper is None:
        return escape(f"tied to {shown(row.tied_to)}" if row.tied_to else "-")
    tied = f" (tied to {escape(shown(row.tied_to))})" if row.tied_to else ""
    return _data(row, "norm", interval(row.lower, row.upper) + tied)


def _layer(row: Row) -> str:
    if row.layer_lower is None or row.layer_upper is None:
        return ""
    text = f"{interval(row.layer_lower, row.layer_upper)} ({escape(row.layer)})"
    return _data(row, "layer", text)


def _ends(found: Range | None) -> str:
    if found is None:
        return ""
    return f'<data value="{found.upper!r}">{interval(found.lower, found.upper)}</data>'


def _data(row: Row, column: str, text: str) -> str:
    """Return a cell that is sorted by a column's own number."""
    read: Callable[[Row], float | None] = COLUMNS[column]
    value = read(row)
    return text if value is None else f'<data value="{value!r}">{text}</data>'


def _number(value: float | None) -> str:
    return "" if value is None else f'<data value="{value!r}">{number(value)}</data>'
