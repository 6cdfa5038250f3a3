"""The rows of a scan in a history file: a series for each tensor."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

from bigspec import history
from bigspec.history import History
from bigspec.names import shown
from bigspec.networks.limits import NON_FINITE, Ruling
from bigspec.networks.row import Row
from bigspec.run.identity import versions

if TYPE_CHECKING:
    from bigspec.networks.rows import Scan

__all__ = ["layers_over_runs", "record_scan"]


def record_scan(scan: Scan, past: History, source: str) -> int:
    """Write a row for each tensor that has an interval or NaN entries; return how many.

    The series is ``source:name``, so that `bigspec history` draws a tensor over the steps of a
    training. Rows of the same scan that is run again are replaced.

    Raises
    ------
    HistoryError
        None of the rows is there.
    """
    ruling = scan.ruling
    rows = [
        _stored(scan, row, source, _status(row, ruling))
        for row in scan.rows.values()
        if (row.lower is not None or row.non_finite) and not row.tied_to
    ]
    past.write_all(rows)
    return len(rows)


def _status(row: Row, ruling: Ruling | None) -> int:
    if row.non_finite:
        return NON_FINITE
    verdict = None if ruling is None else ruling.verdicts.get(row.name)
    return 0 if verdict is None else verdict.exit_status


def _stored(scan: Scan, row: Row, source: str, status: int) -> history.Row:
    rank = row.stable_rank
    finite = row.upper is not None and math.isfinite(row.upper)
    verdict = None if scan.ruling is None else scan.ruling.verdicts.get(row.name)
    key = hashlib.sha256(f"{scan.run_id} {row.name}".encode(errors="surrogateescape"))
    return history.Row(
        run_id=key.hexdigest()[:32],
        series=_plain(f"{_begin(scan, source)}:{row.name}"),
        source=_plain(source),
        exit_status=status,
        accepted=status == 0 and finite,
        error=f"{row.non_finite} entries are NaN or infinite" if row.non_finite else None,
        lower=row.lower,
        upper=row.upper,
        frobenius=row.frobenius if row.lower is not None else None,
        stable_rank_lower=None if rank is None else rank.lower,
        stable_rank_upper=None if rank is None else rank.upper,
        failure_probability=row.failure_probability,
        rtol=scan.rtol,
        converged=row.converged,
        deterministic=row.deterministic,
        passes=row.passes,
        seconds=row.seconds,
        algorithm=row.upper_bound or None,
        seed=None if scan.seed is None else str(scan.seed),
        checkpoint=scan.checkpoint,
        matrix={
            "name": _plain(row.name),
            "shape": list(row.matrix or row.shape),
            "scan": scan.run_id,
        },
        gate=None if verdict is None else verdict.to_dict(),
        versions=versions(),
    )


def _begin(scan: Scan, source: str) -> str:
    """Return what the series of a scan begin with."""
    return f"{source} minus {scan.other}" if scan.other else source


def layers_over_runs(scan: Scan, past: History, source: str) -> str:
    """Return the charts of the tensors of a scan over the runs of a history; empty for one run.

    Raises
    ------
    HistoryError
        It cannot be read.
    """
    begin = _plain(_begin(scan, source))
    rows = past.rows(begin=f"{begin}:", last=MOST)
    mine = history.layers_by_source(rows).get(begin, [])
    return history.layers_section(history.layers_of(mine))


MOST = 50_000


def _plain(name: str) -> str:
    """Return a name that SQLite can hold: its texts are UTF-8."""
    return shown(name).encode(errors="backslashreplace").decode()
