"""A Lipschitz constant as text and as HTML. Ends are rounded outward."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from bigspec.results.html import document, table, whole
from bigspec.results.markup import folded, interval, prose
from bigspec.results.text import (
    counted,
    interval_text,
    outward,
    rounded_up,
    seconds_text,
    width_text,
)

if TYPE_CHECKING:
    from bigspec.networks.lipschitz.norms import FactorNorm
    from bigspec.networks.lipschitz.result import Lipschitz

__all__ = ["fragment", "headline", "page", "summary", "verdict"]

MOST_NORMS = 40  # of the text: JSON and pages have all


def verdict(found: Lipschitz) -> str:
    """Say what became of the limit; empty without one."""
    limit = found.max_constant
    if limit is None:
        return ""
    low, high = outward(found.lower, found.upper)
    return {
        "failed": f"the constant exceeds {limit!r}: it is at least {low}",
        "passed": f"the constant does not exceed {limit!r}: it is at most {high}",
        "undecided": f"the limit {limit!r} lies inside the interval [{low}, {high}]; other points "
        "(at) may raise the lower end, and a longer window may bring the upper end down",
    }[str(found.outcome)]


def _promise(found: Lipschitz) -> str:
    if found.deterministic:
        return "certain"
    return f"probability of error <= {rounded_up(found.failure_probability)}"


def headline(found: Lipschitz) -> str:
    """Write the interval in one line."""
    ends = interval_text(found.lower, found.upper)
    return f"Lipschitz constant in {ends}  ({found.bound}, {_promise(found)})"


def _facts(found: Lipschitz) -> list[tuple[str, str]]:
    at = counted(found.points, "point")
    if not found.points:
        below = "no point was tried"
    elif found.point_number is None and found.rounding:
        below = f"rounding may be all of the derivative at {at}: give the layers of a part"
    elif found.point_number is None:
        below = f"the derivative is 0 at {at}: give points of your data (at, --at data.npy)"
    else:
        of = f"point {found.point_number} of {found.points}"
        below = f"derivative at {of}; rounding takes {rounded_up(found.rounding)}"
    norms, passes = counted(len(found.norms), "norm"), counted(found.passes, "pass", "passes")
    facts = [
        ("upper end", f"{found.bound}, {_promise(found)}"),
        ("lower end", below),
        ("layers", ", ".join(found.layers)),
        ("shape", f"{found.inputs} numbers to {found.outputs}"),
        ("cost", f"{norms}, {passes}, {seconds_text(found.seconds)}, seed {found.seed}"),
    ]
    if found.outcome is not None:
        facts.append(("limit", f"{found.outcome}: {found.reason}"))
    return facts


def _norm_name(one: FactorNorm) -> str:
    return f"L {one.name} L^-1" if one.scaled else one.name


def _bound_rows(found: Lipschitz) -> list[tuple[str, str, str]]:
    """Return name, upper end and its share of the product."""
    product = next((b.upper for b in found.bounds if b.name == "product"), None)
    rows = []
    for bound in found.bounds:
        share = f"{bound.upper / product:.3g}" if product else ""
        rows.append((bound.name, rounded_up(bound.upper, 6), share))
    return rows


def _norm_rows(found: Lipschitz) -> list[tuple[str, str, str, str, str]]:
    return [
        (
            _norm_name(one),
            f"{one.shape[0]} x {one.shape[1]}",
            interval_text(one.lower, one.upper),
            width_text(one.lower, one.upper),
            "certain" if one.deterministic else one.algorithm,
        )
        for one in found.norms
    ]


def _columns(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    wide = [max(len(row[k]) for row in (heads, *rows)) for k in range(len(heads))]
    return [
        "  " + "  ".join(f"{cell:<{wide[k]}}" for k, cell in enumerate(row)).rstrip()
        for row in (heads, *rows)
    ]


BOUND_HEADS = ("upper end by", "at most", "of the product")
NORM_HEADS = ("norm of", "shape", "interval", "width", "by")


def summary(found: Lipschitz) -> str:
    """Return the text that the command line prints."""
    lines = [headline(found)]
    lines += [f"  {label:<12} {text}" for label, text in _facts(found)]
    lines += ["", *_columns(BOUND_HEADS, list(_bound_rows(found)))]
    norms = _norm_rows(found)
    lines += ["", *_columns(NORM_HEADS, list(norms[:MOST_NORMS]))]
    if len(norms) > MOST_NORMS:
        lines.append(f"  and {len(norms) - MOST_NORMS} more, which --json has")
    return "\n".join(lines)


def _tables(found: Lipschitz) -> str:
    bounds = [tuple(map(whole, row)) for row in _bound_rows(found)]
    norms = [(escape(row[0]), *map(whole, row[1:])) for row in _norm_rows(found)]
    return table("Upper ends", BOUND_HEADS, bounds, (1, 2)) + folded(
        "Norms", table("Norms", NORM_HEADS, norms, (2, 3))
    )


def fragment(found: Lipschitz) -> str:
    """Return what a notebook shows: the interval, all bounds, the norms folded."""
    return (
        '<div style="max-width:60rem">'
        '<div style="font-size:1.6em;font-weight:600">Lipschitz constant &isin; '
        f"{interval(found.lower, found.upper)}</div>"
        f"<div>{prose(_promise(found))}</div>{_tables(found)}</div>"
    )


def page(found: Lipschitz) -> str:
    """Return one self-contained HTML page."""
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th><td>{prose(text)}</td></tr>'
        for label, text in _facts(found)
    )
    head = (
        '<header><h1>Lipschitz constant of a stack</h1><p class="interval">'
        f'{interval(found.lower, found.upper)}</p><p class="promise">{prose(_promise(found))}</p>'
        "</header>"
    )
    return document(
        "Lipschitz constant",
        f'{head}<section><table class="facts rests">{rows}</table></section>'
        f"<section><h2>Upper ends</h2>{_tables(found)}</section>",
    )
