"""A history in a file: SQLite, because its writes are whole or absent.

One file, no dependency (it comes with Python), transactions, several writers at once, and other
tools read it. A Parquet file would have to be written anew for every run, by one writer; a folder
of files has no order and no "last accepted". SQLite needs a file system with working locks: object
stores are refused, because two runs would overwrite each other there without notice.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bigspec.checkpoint import array_digest
from bigspec.errors import ArgumentError, HistoryError
from bigspec.history.row import COLUMNS, Row
from bigspec.names import shown
from bigspec.results import Estimate, Triplets
from bigspec.results.gate import REFERENCE_SHARE, Gate
from bigspec.results.text import rounded_up
from bigspec.run.start import Start

__all__ = ["History"]

Array = np.ndarray[Any, Any]

APPLICATION = 0x62737063  # "bspc": tells a history from other SQLite files
LAYOUT = 1
PATIENCE = 30.0
"""Seconds that a write waits for other writers."""
VECTOR_BYTES = 64 << 20
"""Room for the vectors of a run: all 8 fit up to n = 2e6, none beyond 1.6e7. For longer ones keep a
checkpoint of the run."""
VECTORS = 3
"""How many accepted runs of a series keep vectors: the newest to start from, and those before it,
from which a preempted run may have started."""
FEW = 10
"""How many runs to read before the message says that an id names several."""
OPERATIONS = 100_000
"""Instructions of SQLite's machine between two looks at the clock."""
TYPES = {"<f4", "<c8"}

SCHEMA = f"""
CREATE TABLE runs (number INTEGER PRIMARY KEY, {", ".join(COLUMNS)}, UNIQUE (run_id));
CREATE INDEX by_series ON runs (series, number);
CREATE TABLE vectors (run_id TEXT PRIMARY KEY, side TEXT, dtype TEXT, columns INTEGER, data BLOB);
"""


class History:
    """Runs of matrices that change, one row a run, in an SQLite file.

    Parameters
    ----------
    path : str or path
        A local file, which the first write makes. On a network file system locks must work.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        text = os.fspath(path)
        if "://" in text:
            msg = (
                f"history: expected a local path, got {text!r}: a store without locks loses one "
                "of two rows written at once. Use a file on a shared volume, or write --json there"
            )
            raise ArgumentError(msg)
        self.path = Path(text)

    def prepare(self) -> None:
        """Make the file if it does not exist, and check that it can be written.

        Raises
        ------
        HistoryError
        """
        with self._connection(write=True):
            pass

    def record(
        self,
        estimate: Estimate | Triplets,
        *,
        series: str,
        source: str = "",
        exit_status: int | None = None,
        warm_from: str | None = None,
    ) -> Row:
        """Write the row of a run with an answer, and the vectors for later starts.

        Parameters
        ----------
        estimate : Estimate or Triplets
            For triplets, the row has the largest value.
        series : str
        source : str
            The path or URL; by default the matrix's.
        exit_status : int, optional
            By default its gate's, or 0 without one.
        warm_from : str, optional
            Id of the run whose vectors started this one.

        Raises
        ------
        HistoryError
            The row was not written; the estimate is unchanged.
        """
        if exit_status is None:
            exit_status = 0 if estimate.gate is None else estimate.gate.exit_status
        source = source or str(estimate.matrix.get("where", ""))
        row = Row.of(estimate, series, source, exit_status, warm_from)
        rows, block = estimate.layout["orientation"] == "rows", estimate.ritz_vectors
        self.write(row, right=block if rows else None, left=None if rows else block)
        return row

    def write(self, row: Row, *, right: Array | None = None, left: Array | None = None) -> None:
        """Write a row, or replace the earlier one of the same run, whole or not at all."""
        with self._connection(write=True) as db:
            _put(db, row)
            for side, block in (("right", right), ("left", left)):
                if block is not None:
                    _keep_vectors(db, row.run_id, side, block)
            _drop_vectors(db, row.series)

    def write_all(self, rows: Iterable[Row]) -> None:
        """Write many rows in one transaction, all or none."""
        with self._connection(write=True) as db:
            for row in rows:
                _put(db, row)

    def rows(
        self, series: str | None = None, last: int | None = None, *, begin: str = ""
    ) -> list[Row]:
        """Return the rows, oldest first; of one series, or the newest `last`.

        With `begin`, of the series whose names begin so: those of one network.
        """
        clauses = ["substr(series, 1, length(?)) = ?"]
        values: list[Any] = [begin, begin]
        if series is not None:
            clauses.append("series = ?")
            values.append(shown(series))
        limit = -1 if last is None else last
        where = f"WHERE {' AND '.join(clauses)} ORDER BY number DESC LIMIT ?"
        return self._selected(where, (*values, limit))[::-1]

    def count(self, series: str | None = None) -> int:
        """Return the number of rows, of all series or of one."""
        where, values = ("", ()) if series is None else (" WHERE series = ?", (series,))
        with self._connection() as db:
            (count,) = db.execute(f"SELECT COUNT(*) FROM runs{where}", values).fetchone()
        return int(count)

    def last_accepted(self, series: str, *, but: str | None = None) -> Row | None:
        """Return the newest accepted row of a series, except that of the run `but`."""
        found = self._selected(
            "WHERE series = ? AND accepted AND run_id IS NOT ? ORDER BY number DESC LIMIT 1",
            (series, but),
        )
        return found[0] if found else None

    def _selected(self, clause: str, values: tuple[Any, ...]) -> list[Row]:
        """Return the rows that the database finds."""
        with self._connection() as db:
            names = ", ".join(COLUMNS)
            found = db.execute(f"SELECT {names} FROM runs {clause}", values).fetchall()
        try:
            return [Row.from_sql(values) for values in found]
        except (TypeError, ValueError, RecursionError) as error:
            msg = (
                f"history {self.path}: expected rows as bigspec writes them, got others ({error}). "
                "Fix them, move the file away, or name another one"
            )
            raise HistoryError(msg) from error

    def accept(self, run_id: str) -> Row:
        """Accept a run by hand: after an intended change, it is the new reference.

        Parameters
        ----------
        run_id : str
            The id, or enough of its beginning to name one run.

        Raises
        ------
        ArgumentError
            There is no such run, there are several, or its interval cannot be compared with.
        """
        named = "WHERE ? != '' AND substr(run_id, 1, length(?)) = ?"
        found = self._selected(f"{named} LIMIT {FEW}", (run_id,) * 3)
        if len(found) != 1:
            more = " or more" if len(found) == FEW else ""
            count = "none" if not found else f"{len(found)}{more} of them"
            msg = f"accept: expected the id of one run in {self.path}, got {run_id!r}: {count}"
            raise ArgumentError(msg)
        if found[0].upper is None or not np.isfinite(found[0].upper):
            msg = f"accept: expected a run with an interval, got {run_id!r}, which has none"
            raise ArgumentError(msg)
        limit = (found[0].gate or {}).get("max_change")
        width, rtol = found[0].width or 0.0, found[0].rtol or 0.0
        if limit is not None and width > max(limit / REFERENCE_SHARE, rtol):
            msg = (
                f"accept: {run_id!r} ended early, with a relative width of {rounded_up(width)}: "
                f"too wide to compare with at max_change {limit!r}. Run the command once without "
                "--max-change: it goes on to --rtol, and is accepted"
            )
            raise ArgumentError(msg)
        with self._connection(write=True) as db:
            db.execute("UPDATE runs SET accepted = 1 WHERE run_id = ?", (found[0].run_id,))
        return found[0]

    def gate(
        self,
        series: str,
        *,
        max_norm: float | None = None,
        min_norm: float | None = None,
        max_change: float | None = None,
    ) -> Gate:
        """Return a gate whose reference is the last accepted run of a series."""
        row = self.last_accepted(series)
        reference = None if row is None else _interval(row)
        return Gate(max_norm, min_norm, max_change, reference)

    def start(self, series: str, *, digest: str | None = None) -> tuple[Start, str] | None:
        """Return the start of the next run of a series, and the id of the run it comes from.

        The start knows the seeds of the whole series: a vector depends on the start blocks of
        all runs that led to it, and no new run may use one of these seeds.

        Parameters
        ----------
        series : str
        digest : str, optional
            Digest of the vector that an unfinished run was started from; by default that of the
            last accepted run.
        """
        series = shown(series)
        with self._connection() as db:
            kept = db.execute(
                # CROSS makes SQLite go through the few vectors, not through all runs of the series.
                "SELECT run_id, side, dtype, columns, data FROM vectors CROSS JOIN runs "
                "USING (run_id) WHERE series = ? AND accepted ORDER BY number DESC",
                (series,),
            ).fetchall()
            seeds = db.execute(
                "SELECT seed FROM runs WHERE series = ? AND seed IS NOT NULL", (series,)
            ).fetchall()
        for run_id, side, dtype, columns, data in kept:
            if dtype not in TYPES or columns not in range(1, 1 + len(data)):
                continue
            if len(data) % (columns * np.dtype(dtype).itemsize):
                continue
            block = np.frombuffer(data, dtype).reshape(-1, columns)
            if digest is None or array_digest(np.ascontiguousarray(block)) == digest:
                right, left = (block, None) if side == "right" else (None, block)
                used = self._numbers(seeds)
                return Start(right, left, used, optional=True), str(run_id)
        return None

    def _numbers(self, seeds: list[Any]) -> frozenset[int]:
        try:
            return frozenset(int(seed) for (seed,) in seeds)
        except (TypeError, ValueError) as error:
            msg = (
                f"history {self.path}: expected seeds as bigspec writes them, got others ({error})"
            )
            raise HistoryError(msg) from error

    @contextmanager
    def _connection(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        """Check the file and yield its connection; a write is one transaction."""
        mode = "rwc" if write else "ro"
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        try:
            with closing(
                sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None)
            ) as db:
                # The rollback journal, not a write-ahead log: that needs shared memory, which
                # network file systems do not have.
                db.execute("PRAGMA trusted_schema = OFF")
                db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                until = time.monotonic() + PATIENCE  # a stranger's file may compute for ever
                db.set_progress_handler(lambda: time.monotonic() > until, OPERATIONS)
                self._check(db, write=write)
                yield db
                db.execute("COMMIT")
        except HistoryError:
            raise
        except (sqlite3.Error, OSError) as error:
            doing = "written" if write else "read"
            if isinstance(error, sqlite3.OperationalError) and not self.path.exists():
                msg = f"history {self.path}: nothing lies there, or its folder cannot be {doing}"
            elif type(error) is sqlite3.DatabaseError:  # damage; subclasses mean other things
                msg = (
                    f"history {self.path}: expected a bigspec history, got a file that is none or "
                    f"is damaged ({error}). Move it away, or name another file"
                )
            else:
                msg = f"history {self.path}: cannot be {doing}: {error}"
            raise HistoryError(msg) from error

    def _check(self, db: sqlite3.Connection, *, write: bool) -> None:
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (layout,) = db.execute("PRAGMA user_version").fetchone()
        if application == APPLICATION and layout == LAYOUT:
            self._check_tables(db)
            return
        tables = db.execute("SELECT name FROM sqlite_master").fetchall()
        if write and application == 0 and layout == 0 and not tables:
            for statement in SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION}")
            db.execute(f"PRAGMA user_version = {LAYOUT}")
        elif application == APPLICATION:
            msg = (
                f"history {self.path}: expected layout {LAYOUT} or older, got {layout}: a newer "
                "bigspec wrote it. Upgrade, or name another file"
            )
            raise HistoryError(msg)
        else:
            msg = f"history {self.path}: expected a bigspec history, got another SQLite file"
            raise HistoryError(msg)

    def _check_tables(self, db: sqlite3.Connection) -> None:
        """Refuse views, triggers and modules, which run code when they are read or written."""
        found = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
        plain = {
            name for kind, name, _, sql in found
            if kind == "table" and str(sql).startswith("CREATE TABLE")
        }  # fmt: skip
        lacking = sorted({"runs", "vectors"} - plain)
        trigger = [name for kind, name, on, _ in found if kind == "trigger" and on in plain]
        if lacking or trigger:
            got = f"no table {lacking[0]!r}" if lacking else f"a trigger {trigger[0]!r} on one"
            msg = (
                f"history {self.path}: expected the tables of a bigspec history, got {got}. Move "
                "it away, or name another file"
            )
            raise HistoryError(msg)


def _put(db: sqlite3.Connection, row: Row) -> None:
    """Write a row, or replace the earlier one of the same run."""
    before = db.execute("SELECT attempts FROM runs WHERE run_id = ?", (row.run_id,)).fetchone()
    values = dict(zip(COLUMNS, row.to_sql(), strict=True))
    values["attempts"] = 1 if before is None else before[0] + 1
    db.execute("DELETE FROM runs WHERE run_id = ?", (row.run_id,))
    marks = ", ".join("?" * len(COLUMNS))
    db.execute(f"INSERT INTO runs ({', '.join(COLUMNS)}) VALUES ({marks})", tuple(values.values()))


def _interval(row: Row) -> tuple[float, float]:
    assert row.lower is not None
    assert row.upper is not None
    return row.lower, row.upper


def _keep_vectors(db: sqlite3.Connection, run_id: str, side: str, block: Array) -> None:
    """Keep vectors in single precision, because more digits would not save a pass."""
    dtype = np.dtype("<c8" if np.iscomplexobj(block) else "<f4")
    columns = min(block.shape[1], VECTOR_BYTES // (dtype.itemsize * len(block)))
    if columns:
        single = np.ascontiguousarray(block[:, :columns], dtype)
        db.execute(
            "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?, ?)",
            (run_id, side, dtype.str, columns, single.tobytes()),
        )


def _drop_vectors(db: sqlite3.Connection, series: str) -> None:
    """Drop old vectors; those of the newest accepted runs and of the newest other run stay."""
    mine = "SELECT run_id FROM vectors CROSS JOIN runs USING (run_id) WHERE series = ?"
    newest, order = f"{mine} AND", "ORDER BY number DESC LIMIT"
    db.execute(
        f"DELETE FROM vectors WHERE run_id IN ({mine}) "
        f"AND run_id NOT IN ({newest} accepted {order} {VECTORS}) "
        f"AND run_id NOT IN ({newest} NOT accepted {order} 1)",
        (series, series, series),
    )
