"""A scan as text and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import TYPE_CHECKING, Any

from bigspec.errors import ArgumentError
from bigspec.names import shown
from bigspec.networks.layer import ALL, ANY
from bigspec.networks.row import Row
from bigspec.results.text import counted, outward, rounded_up, seconds_text

if TYPE_CHECKING:
    from bigspec.networks.rows import Scan

__all__ = ["COLUMNS", "brief", "csv_text", "in_order", "number", "summary"]


def _size(row: Row) -> float | None:
    return None if row.matrix is None else float(row.matrix[0] * row.matrix[1])


COLUMNS: dict[str, Callable[[Row], float | None]] = {
    "norm": lambda row: row.upper,
    "layer": lambda row: row.layer_upper,
    "stable-rank": lambda row: None if row.stable_rank is None else row.stable_rank.upper,
    "edge": lambda row: row.edge_ratio,
    "scale": lambda row: None if row.spectral_scale is None else row.spectral_scale.upper,
    "change": lambda row: None if row.change is None else row.change.upper,
    "frobenius": lambda row: row.frobenius,
    "largest": lambda row: row.largest,
    "width": lambda row: row.width,
    "size": _size,
    "seconds": lambda row: row.seconds,
}
"""What rows can be sorted by, largest first, and `name`."""


def in_order(rows: Iterable[Row], sort: str | None, top: int | None) -> list[Row]:
    """Return rows sorted by a column, those without a number last, at most `top` of them.

    Raises
    ------
    ArgumentError
    """
    found = list(rows)
    if sort == "name":
        found.sort(key=lambda row: row.name)
    elif sort is not None:
        column = COLUMNS.get(sort)
        if column is None:
            msg = f"sort: expected name or one of {', '.join(COLUMNS)}, got {sort!r}"
            raise ArgumentError(msg)
        values = [column(row) for row in found]
        keys = [-math.inf if value is None else value for value in values]
        found = [found[k] for k in sorted(range(len(found)), key=lambda k: -keys[k])]
    if top is not None and top < 1:
        msg = f"top: expected at least 1, got {top!r}"
        raise ArgumentError(msg)
    return found[:top]


Cells = dict[str, str]


def summary(
    scan: Scan, *, sort: str | None = None, top: int | None = None, width: int | None = None
) -> str:
    """Return the table, what it leaves out, and the sentences about the whole."""
    every = list(scan.rows.values())
    rows = in_order(every, sort, top)
    lines = _table([_cells(row) for row in rows] if sort or top else _folded(rows), width)
    said = [f"  {text}" for text in notes(rows)]
    if len(rows) < len(every):
        said.append(f"  {len(rows)} of {len(every)} rows are shown")
    return "\n".join([*lines, *said, *_sentences(scan)])


def _sentences(scan: Scan) -> list[str]:
    rows = [row for row in scan.rows.values() if row.lower is not None and not row.tied_to]
    certain = sum(row.deterministic for row in rows)
    likely = len(rows) - certain
    sure = f"{certain} certain" if certain else ""
    if likely:
        chance = f"error <= {rounded_up(scan.failure_probability)} for all together"
        sure = f"{sure}, {likely} with probability of {chance}".removeprefix(", ")
    what = "norm" if not scan.other else "norm of a difference"
    count = counted(len(rows), what, "norms" if not scan.other else "norms of differences")
    said = [
        f"{shown(scan.model)}" + (f" minus {scan.other}" if scan.other else ""),
        f"  {count}" + (f": {sure}" if sure else "") + f"; {seconds_text(scan.seconds)}",
    ]
    wide = sum(not row.converged for row in rows)
    if wide:
        said.append(f"  {wide} wider than {rounded_up(scan.rtol)}")
    for word, names in (("model", scan.only_in_model), ("other", scan.only_in_other)):
        if names:
            where = scan.model if word == "model" else scan.other
            said.append(f"  only in {where}: {', '.join(map(shown, names))}")
    if scan.missing:
        said.append(f"  not reached: {len(scan.missing)} rows")
    if scan.ruling is not None:
        said.append(f"  gate: {scan.ruling.outcome}: {scan.ruling.reason}")
    return said


def _folded(rows: Sequence[Row]) -> list[Cells]:
    """Return the cells; experts of one stack as their least, median and largest."""
    cells: list[Cells] = []
    done: set[str] = set()
    for row in rows:
        if not row.stack:
            cells.append(_cells(row))
        elif row.stack not in done:
            done.add(row.stack)
            cells += _stack([one for one in rows if one.stack == row.stack])
    return cells


def _stack(rows: Sequence[Row]) -> list[Cells]:
    known = sorted((row for row in rows if row.upper is not None), key=lambda row: row.upper or 0.0)
    others = [_cells(row) for row in rows if row.upper is None and row.note]
    if len(known) < 3:
        return [*map(_cells, known), *others]
    picked = {"min": known[0], "median": known[len(known) // 2], "max": known[-1]}
    found = []
    for word, row in picked.items():
        at = row.name.removeprefix(row.stack)
        found.append(_cells(row) | {"name": f"{row.stack}{at} ({word} of {len(rows)})"})
    return [*found, *others]


def _cells(row: Row) -> Cells:
    cells = {"name": shown(row.name), "shape": _shape(row), "norm": _norm(row)}
    cells["layer"] = _layer(row)
    cells["change"] = "" if row.change is None else brief_text(*row.change)
    rank = row.stable_rank
    cells["stable rank"] = "" if rank is None else number(rank.lower)
    cells["edge"] = number(row.edge_ratio)
    scale = row.spectral_scale
    cells["scale"] = "" if scale is None else number(scale.upper)
    cells["largest"] = number(row.largest)
    cells["kind"] = row.kind
    return cells


def _shape(row: Row) -> str:
    return " x ".join(map(str, row.matrix or row.shape)) or "1"


def _norm(row: Row) -> str:
    if row.non_finite:
        return f"{row.non_finite} NaN or Inf"
    if row.tied_to:
        return f"tied to {shown(row.tied_to)}"
    if row.lower is None or row.upper is None:
        return "-" if row.frobenius is None else number(row.frobenius)
    return brief_text(row.lower, row.upper) + ("" if row.deterministic else "*")


def _layer(row: Row) -> str:
    if row.layer_lower is None or row.layer_upper is None:
        return ""
    known = row.layer_lower > 0.0 or row.layer_upper == 0.0
    text = brief_text(row.layer_lower, row.layer_upper) if known else (
        f"<= {brief(row.layer_lower, row.layer_upper)[1]}")  # fmt: skip
    return text + ("" if row.layer_certain else "*")


def brief(lower: float, upper: float) -> tuple[str, str]:
    """Write both ends, rounded outward, with no more than six digits: files have all of them."""
    if not (lower > 0.0 and math.isfinite(upper) and upper - lower < NARROW * lower):
        return outward(lower, upper)
    ends = (lower, ROUND_FLOOR), (upper, ROUND_CEILING)
    first, last = (Context(prec=6, rounding=r).create_decimal(Decimal(x)) for x, r in ends)
    plain = -5 <= first.adjusted() < 12
    return (f"{first:f}", f"{last:f}") if plain else (f"{first:e}", f"{last:e}")


def brief_text(lower: float, upper: float) -> str:
    """Return ``[lower, upper]`` with few digits."""
    return "[{}, {}]".format(*brief(lower, upper))


def number(value: float | None) -> str:
    """Write a descriptive number with three digits; empty for None."""
    return "" if value is None else f"{value:.3g}"


ORDER = (
    "name",
    "shape",
    "norm",
    "layer",
    "change",
    "stable rank",
    "edge",
    "scale",
    "largest",
    "kind",
)
LEFT = {"name", "kind"}
NARROW = 1e-5
ALWAYS = ("name", "shape", "norm", "change")
NAME, SHORTEST = 40, 18  # letters of a name that columns make room for, and that it keeps
LONGEST = 160  # letters of a name, even where nothing limits the line


def _table(cells: list[Cells], width: int | None) -> list[str]:
    """Align the columns; where they do not fit, drop from the right, then shorten the names."""
    columns = [name for name in ORDER if any(row[name] for row in cells)]
    wide = {name: max(len(name), *(len(row[name]) for row in cells)) for name in columns}
    wide["name"] = min(wide["name"], LONGEST)
    name = min(wide["name"], NAME)
    while width and columns[-1] not in ALWAYS:
        if _length(columns, wide) - wide["name"] + name <= width:
            break
        columns.pop()
    if width and _length(columns, wide) > width:
        wide["name"] = max(SHORTEST, wide["name"] - (_length(columns, wide) - width))
    head = {name: name for name in columns}
    lines = []
    for row in [head, *cells]:
        parts = [
            f"{_short(row[name], wide[name]):{'<' if name in LEFT else '>'}{wide[name]}}"
            for name in columns
        ]
        lines.append("  ".join(parts).rstrip())
    return lines


def _length(columns: Sequence[str], wide: dict[str, int]) -> int:
    return sum(wide[name] for name in columns) + 2 * (len(columns) - 1)


def _short(text: str, width: int) -> str:
    """Take letters out of the middle: names of layers differ at both ends."""
    if len(text) <= width:
        return text
    front = (width - 3) // 2
    return f"{text[:front]}...{text[len(text) - (width - 3 - front) :]}"


def notes(rows: Iterable[Row]) -> list[str]:
    """Return each note once, with the rows that it is about."""
    about: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            about.setdefault(row.note, []).append(shown(row.name))
    said = []
    for note, names in about.items():
        first = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        said.append(f"{first}: {shown(note)}")
    for text in dict.fromkeys(row.layer for row in rows if row.layer):
        if text == ANY:
            said.append(f"layer: the norm of the convolution, not of the flattened kernel; {text}")
        elif ALL in text:
            names = [shown(row.name) for row in rows if row.layer == text]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            said.append(f"{names[0]}{more}: layer: {text}")
    if any(
        (row.upper is not None and not row.deterministic)
        or (row.layer_upper is not None and not row.layer_certain)
        for row in rows
    ):
        said.append("* except with a probability that all these rows share")
    return said


HEADS = (
    "name", "file", "shape", "dtype", "kind", "rows", "columns", "lower", "upper", "width",
    "certainty", "upper_bound", "lower_bound", "passes", "frobenius", "stable_rank_lower",
    "stable_rank_upper", "largest", "largest_row", "largest_column", "edge_ratio",
    "spectral_scale_lower", "spectral_scale_upper", "change_lower", "change_upper",
    "spectral_ratio_lower", "spectral_ratio_upper", "layer", "layer_lower", "layer_upper",
    "layer_certain", "tied_to", "non_finite", "converged", "seconds",
    "note",
)  # fmt: skip


def csv_text(rows: Iterable[Row]) -> str:
    """Return one line a row; numbers with all their digits.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADS)
    for row in rows:
        ends: dict[str, Any] = {}
        for name in ("stable_rank", "spectral_scale", "change", "spectral_ratio"):
            found = getattr(row, name)
            ends[f"{name}_lower"], ends[f"{name}_upper"] = ("", "") if found is None else found
        m, n = row.matrix or ("", "")
        known = ends | {"rows": m, "columns": n, "shape": " x ".join(map(str, row.shape))}
        texts = ("name", "file", "dtype", "note", "tied_to")
        known |= {name: _harmless(shown(getattr(row, name))) for name in texts}
        values = [known[head] if head in known else getattr(row, head) for head in HEADS]
        writer.writerow(["" if value is None else value for value in values])
    return text.getvalue()


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
