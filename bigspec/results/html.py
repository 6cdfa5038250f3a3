"""An answer as HTML: one self-contained page, and the fragment that notebooks show.

Nothing here computes; every number is taken from the answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any, TypeAlias

from bigspec.errors import format_bytes
from bigspec.results.charts import (
    ends_chart,
    gate_chart,
    ritz_chart,
    spectrum_chart,
    width_chart,
)
from bigspec.results.markup import (
    document,
    folded,
    headline,
    interval,
    pairs,
    prose,
    shown_in_notebook,
    side_by_side,
    table,
    whole,
)
from bigspec.results.text import (
    cost,
    dtype_text,
    facts,
    guarantee,
    missing_text,
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
    "folded",
    "fragment",
    "interval",
    "page",
    "table",
    "triplets_fragment",
    "triplets_page",
    "whole",
]


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        value = ", ".join(f"{str(key).replace('_', ' ')} {part}" for key, part in value.items())
    return prose(value if isinstance(value, str) else json.dumps(value, default=str))


def _pairs(rows: Iterable[tuple[str, Any]], kind: str = "facts") -> str:
    """Return a two-column table of labels and values, escaped."""
    return pairs(((key, _cell(value)) for key, value in rows), kind)


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
    return table("Passes", heads, rows, range(1, 4 if several else 3))


def _cost_table(est: Answer) -> str:
    heads = ["pass", "bytes read", "time, s", "bytes/s", "reading, s", "products, s"]
    pinned = any(record.bytes_pinned for record in est.history)
    heads[2:2] = ["from memory"] if pinned else []
    retried = any(record.retries for record in est.history)
    lacking = any(record.missing_chunks for record in est.history)
    rows = [
        [
            str(record.number),
            whole(format_bytes(record.bytes_read)),
            *([whole(format_bytes(record.bytes_pinned))] if pinned else []),
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
        range(1, 9),
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
    return folded("Ritz values in numbers", shown)


def _figures(est: Estimate) -> str:
    """Return the charts over the passes; one pass makes no curve."""
    if len(est.history) < 2:
        return ""
    return side_by_side(
        ("Relative width", width_chart(est)),
        ("Both ends, relative to the value", ends_chart(est)),
        ("Ritz values, the largest in orange", ritz_chart(est)),
    )


def _triplet_figures(tri: Triplets) -> str:
    """Return the values, and the charts over the passes; one pass makes no curve."""
    several = len(tri.history) > 1
    return side_by_side(
        ("Singular values with their intervals", spectrum_chart(tri)),
        ("Largest relative width", width_chart(tri) if several else ""),
        ("Ritz values, the largest in orange", ritz_chart(tri) if several else ""),
    )


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


def _promise(answer: Answer) -> str:
    """Say what the interval promises, in a sentence."""
    plural = len(answer.intervals) > 1
    holds, all_of = ("hold", "All intervals ") if plural else ("holds", "The interval ")
    if answer.deterministic:
        return f"{all_of}{holds} with certainty, up to rounding: no probability is involved."
    chance = whole(rounded_up(answer.failure_probability))
    return f"{all_of}{holds}, except with probability {chance} over bigspec's own random start."


def _verdict(answer: Answer) -> str:
    """Return the gate's decision, with the interval drawn beside the limits; empty without one."""
    if answer.gate is None:
        return ""
    kind = {"passed": "", "failed": " bad"}.get(answer.gate.outcome, " open")
    said = f"Gate {answer.gate.outcome}: {answer.gate.reason}."
    chart = gate_chart(answer)
    return f'<p class="status{kind}">{prose(said)}</p>' + (
        f"<figure>{chart}</figure>" if chart else ""
    )


def fragment(est: Estimate) -> str:
    """Return what a notebook shows: the interval, the sentence, the charts, the passes folded."""
    return shown_in_notebook(
        f"&sigma;<sub>1</sub> &isin; {interval(est.lower, est.upper)}",
        [
            f"relative width {width_text(est.lower, est.upper)}, {prose(guarantee(est))}",
            prose(est.status),
            prose(cost(est)),
            prose(missing_text(est)),
        ],
        _figures(est),
        _ritz_table(est) + folded("Passes", _intervals_table(est) + _cost_table(est)),
    )


def triplets_fragment(tri: Triplets) -> str:
    """Return what a notebook shows of k triplets: the first interval, all values, the charts."""
    first = tri.intervals[0]
    values = f"{tri.k} value{'' if tri.k == 1 else 's'}"
    rests = [fact for fact in triplet_facts(tri) if fact[0] not in _COSTS | _SAID]
    return shown_in_notebook(
        f"&sigma;<sub>1</sub> &isin; {interval(first.lower, first.upper)}",
        [
            f"{values}, largest relative width {rounded_up(tri.width)}, {prose(guarantee(tri))}",
            prose(tri.status),
            prose(cost(tri)),
            prose(missing_text(tri)),
        ],
        f'<div style="max-height:24em;overflow:auto">{_values_table(tri)}</div>',
        _triplet_figures(tri),
        _ritz_table(tri)
        + folded("Passes", _intervals_table(tri) + _cost_table(tri))
        + folded("What it rests on", _pairs(rests)),
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
    return table("Singular values", heads, rows, (1, 2))


def page(est: Estimate) -> str:
    """Return one self-contained HTML page: no script, no font, nothing from a network."""
    drawn = _figures(est)
    return _page(
        f"Spectral norm of {_name(est)}",
        f"relative width {width_text(est.lower, est.upper)}, {prose(cost(est))}",
        est,
        [("How the interval closed", drawn + _ritz_table(est) if drawn else "")],
        facts(est),
    )


def triplets_page(tri: Triplets) -> str:
    """Return the page of k triplets, with a table of all values."""
    values = f"{tri.k} value{'' if tri.k == 1 else 's'}"
    several = len(tri.history) > 1
    return _page(
        f"Singular values of {_name(tri)}",
        f"{values}, largest relative width {rounded_up(tri.width)}, {prose(cost(tri))}",
        tri,
        [
            ("Singular values", _values_table(tri)),
            (
                "How the intervals closed" if several else "The values drawn",
                _triplet_figures(tri) + (_ritz_table(tri) if several else ""),
            ),
        ],
        triplet_facts(tri),
    )


Section = tuple[str, str]
_COSTS = {"cost", "algorithm"}  # of the facts; the others say what the answer rests on
_SAID = {"gate", "missing"}  # in the page's head


def _page(
    title: str, soft: str, answer: Answer, first: list[Section], facts: list[tuple[str, str]]
) -> str:
    """Return the page: the interval of sigma_1 and what it rests on, `first`, the rest folded."""
    chosen = "".join(f"<li>{prose(choice)}</li>" for choice in answer.choices)
    rests = [fact for fact in facts if fact[0] not in _COSTS | _SAID]
    spent = [fact for fact in facts if fact[0] in _COSTS] + [("failed reads", _faults(answer))]
    sections = [("What it rests on", _pairs(rests, "facts rests")), *first]
    rest = [
        ("The passes", _intervals_table(answer) if answer.history else "<p>No pass was made.</p>"),
        (
            "What it cost",
            _pairs(spent) + (_cost_table(answer) if answer.history else ""),
        ),
        ("The matrix", _pairs(_matrix_rows(answer))),
        ("How it was read", _pairs(_layout_rows(answer))),
        ("What was chosen, and why", f"<ul>{chosen}</ul>" if chosen else ""),
        ("Versions", _pairs(answer.versions.items())),
    ]
    body = "".join(f"<section><h2>{head}</h2>{text}</section>" for head, text in sections if text)
    body += "".join(folded(f"<b>{head}</b>", text) for head, text in rest if text)
    one, lacking = answer.intervals[0], missing_text(answer)
    calm = answer.converged or (answer.gate is not None and answer.gate.outcome == "passed")
    head = (
        f"<header><h1>{escape(title)}</h1>{headline(one.lower, one.upper)}"
        f'<p class="promise">{_promise(answer)}</p><p class="soft">{soft}</p>'
        + _verdict(answer)
        + f'<p class="status{"" if calm else " open"}">{prose(answer.status)}</p>'
        + (f'<p class="status open">{prose(lacking)}</p>' if lacking else "")
        + "</header>"
    )
    return document(title, head + body)
