"""What `bigspec show` says about a checkpoint: of a scan, or of a run of one matrix."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bigspec.checkpoint import describe, load_latest
from bigspec.names import shown
from bigspec.networks.checkpoint import check_scan
from bigspec.networks.limits import Limits, rule
from bigspec.networks.row import Row
from bigspec.networks.state import SCAN_TYPES, ScanState
from bigspec.networks.table import brief_text
from bigspec.results.text import rounded_up
from bigspec.run import SAVED_TYPES
from bigspec.run.identity import plain
from bigspec.run.show import Saved, owner_lines, saved_of
from bigspec.sources.storage_options import as_options

__all__ = ["SavedScan", "show"]


@dataclass(frozen=True)
class SavedScan:
    """What the checkpoint of a scan holds.

    Attributes
    ----------
    where : str
    run : dict
        Which scan it is: model, options, versions.
    rows : dict of str to Row
        Those that are done.
    expected : int or None
        How many rows are computed in all; None in a checkpoint of an older version.
    finished : bool
    place : dict
        When it was saved, who owns it, what is damaged.
    """

    where: str
    run: dict[str, Any]
    rows: dict[str, Row]
    expected: int | None
    finished: bool
    place: dict[str, Any]

    @property
    def failed(self) -> tuple[str, ...]:
        """Rows so far that break a limit of the gate, by name, then those that hold NaN."""
        given = self.run["options"].get("gate")
        if not given:
            return ()
        limits = Limits(tuple((pattern, dict(table)) for pattern, table in given))
        ruling = rule(limits, dict(sorted(self.rows.items())), ())
        return (*ruling.named("failed"), *ruling.non_finite)

    @property
    def largest(self) -> Row | None:
        """The row so far with the largest norm."""
        known = [row for row in self.rows.values() if row.lower is not None]
        return max(known, key=lambda row: row.lower or 0.0, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        options, largest = self.run["options"], self.largest
        return {
            "schema": "bigspec.saved-scan/1",
            "where": self.where,
            "model": shown(self.run["model"]),
            "rows_done": len(self.rows),
            "rows": self.expected,
            "finished": self.finished,
            "largest": None if largest is None else shown(largest.name),
            "rtol": options["rtol"],
            "failure_probability": options["failure_probability"],
            "failure_probability_each": options["share"],
            "minus": options["minus"],
            "gate": options["gate"],
            "failed": list(map(shown, self.failed)),
            "seconds": sum(row.seconds for row in self.rows.values()),
            "begun": self.run["begun"],
            "saved": self.place["saved"],
            "owner": self.place["owner"],
            "damage": self.place["damage"],
            "run_id": self.run["id"],
            "versions": plain(self.run.get("versions", {})),
        }

    def __str__(self) -> str:
        options, largest = self.run["options"], self.largest
        of = "" if self.expected is None else f" of {self.expected}"
        after = f"{len(self.rows)}{of} rows are done: the same command goes on with the others"
        if self.finished:
            after = "nothing: it is finished, the same command returns its table without reading"
        certain = sum(row.deterministic for row in self.rows.values())
        minus = ", minus another model" if options["minus"] else ""
        lines = [
            self.where,
            f"  scan        {self.run['id']}",
            f"  model       {shown(self.run['model'])}{minus}",
            f"  rows        {len(self.rows)}{of} done, {certain} certain",
            f"  certainty   {_certainty(options)}",
        ]
        if largest is not None and largest.lower is not None and largest.upper is not None:
            ends = brief_text(largest.lower, largest.upper)
            lines.append(f"  largest     {ends}, {shown(largest.name)}")
        if options["gate"]:
            failed = ", ".join(map(shown, self.failed)) or "no row so far"
            lines.append(f"  gate        {_gate(options['gate'])}; broken by {failed}")
        lines += [
            f"  started     {self.run['begun']}",
            f"  saved       {self.place['saved']}, record {self.place['record']}",
            f"  next        {after}",
        ]
        return "\n".join(lines + owner_lines(self.place))


def _certainty(options: dict[str, Any]) -> str:
    whole, each = options["failure_probability"], rounded_up(options["share"])
    share = f"at most {each} each; rtol {options['rtol']:g}"
    return f"failure probability {whole:g} for all together, {share}"


def _gate(rules: list[Any]) -> str:
    said = [
        f"{shown(pattern)}: " + ", ".join(f"{key} {value:g}" for key, value in table.items())
        for pattern, table in rules
    ]
    return "; ".join(said)


def show(
    where: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> Saved | SavedScan:
    """Say what a checkpoint holds. It is not taken over, and no matrix is opened.

    Parameters
    ----------
    where : str or path
        A path or URL given as `checkpoint` to `bigspec.norm`, `bigspec.svds` or `bigspec.scan`.
    storage_options : mapping, optional
        Credentials, endpoint and settings of a URL; see `bigspec.open_matrix`.

    Returns
    -------
    Saved or SavedScan

    Raises
    ------
    CheckpointError
        There is nothing, something else, or every saved step is damaged.

    Examples
    --------
    >>> import numpy as np, zarr, bigspec
    >>> store = zarr.create_array("A.zarr", data=np.eye(3))
    >>> est = bigspec.norm("A.zarr", checkpoint="saved")
    >>> bigspec.show("saved").passes == est.passes
    True
    """
    storage = as_options(storage_options, where)
    state, place = describe(where, (*SAVED_TYPES, *SCAN_TYPES), storage)
    if not isinstance(state, ScanState):
        return saved_of(state, place)
    whole = load_latest(where, SCAN_TYPES, storage)  # with its blocks
    run = check_scan(whole, place["where"])
    return SavedScan(
        place["where"],
        {key: value for key, value in run.items() if key != "tensors"},
        whole.rows,
        run.get("rows"),
        place["kind"] == "finished",
        place,
    )
