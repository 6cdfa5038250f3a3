"""All rows of a scan: a mapping that computes when it is looked at."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bigspec.history import History
from bigspec.names import shown
from bigspec.networks.checkpoint import Saver, saver_of
from bigspec.networks.history import layers_over_runs, record_scan
from bigspec.networks.large import large_row
from bigspec.networks.limits import Limits, Ruling, rule
from bigspec.networks.models import IN_MEMORY
from bigspec.networks.norms import Asked
from bigspec.networks.page import fragment, page
from bigspec.networks.plan import Choice, ScanPlan, plan_scan, tasks_of
from bigspec.networks.row import Row
from bigspec.networks.table import csv_text, summary
from bigspec.networks.tensors import Model
from bigspec.networks.work import Task, blank, tensors_of, work
from bigspec.passes import DeadlinePassed, Job, find_executor, map_jobs
from bigspec.results import plain_values
from bigspec.results.records import json_text
from bigspec.run.identity import versions
from bigspec.watch import Observer

__all__ = ["SCHEMA", "Options", "Scan"]

SCHEMA = "bigspec.scan/1"


@dataclass(frozen=True)
class Options:
    """What a scan is asked for, checked.

    Attributes
    ----------
    rtol, failure_probability : float
    seed : int or None
    limits : Limits or None
    memory_limit : int or None
    time_limit : float or None
        Seconds.
    checkpoint : path, URL, Checkpoint or None
    observer : Observer
    missing_chunks : str
        What the models were opened with.
    input_shape : list, dict or None
        Of an ONNX model, as JSON has it.
    pin : bool
        Whether parts of a tensor that is read in each pass may stay in memory.
    """

    rtol: float
    failure_probability: float
    seed: int | None
    limits: Limits | None
    memory_limit: int | None
    time_limit: float | None
    checkpoint: Any
    observer: Observer
    missing_chunks: str = "fill"
    input_shape: Any = None
    pin: bool = True


class Scan(Mapping[str, Row]):
    """Every matrix of a network: a mapping from names to rows.

    Headers alone are read until it is iterated, or a row is asked for; then every row is computed,
    once. `len`, `names` and `in` read no entry.

    Attributes
    ----------
    model, other : str
        Names of the model, and of the one that is subtracted; empty without one.
    names : tuple of str
    only_in_model, only_in_other : tuple of str
        With another model, rows that have no partner there or here.
    rtol, failure_probability : float
        The latter for all intervals together.
    share : float
        Failure probability of each norm that needs one.
    norms : int
        How many do, by their shapes.
    seed : int or None
        Entropy of all start blocks; None until the scan has begun.
    run_id : str
    stopped_by : str
        Empty, ``"time"`` or ``"interrupted"``.
    seconds : float
    checkpoint : str or None
    """

    def __init__(self, model: Model, other: Model | None, choice: Choice, options: Options) -> None:
        self._models, self._options, self._choice = (model, other), options, choice
        self._planned: ScanPlan = plan_scan(model, other, choice)
        if options.limits is not None:
            options.limits.check(e.name for e in self._planned.entries if not e.hidden)
        self._rows: dict[str, Row] = {}
        self.model = shown(model.name)
        self.other = "" if other is None else shown(other.name)
        self.names = self._planned.names
        self._known = frozenset(self.names)
        self.only_in_model, self.only_in_other = (
            self._planned.only_in_model,
            self._planned.only_in_other,
        )
        self.rtol, self.failure_probability = options.rtol, options.failure_probability
        self.norms = self._planned.norms
        self.share = self._planned.share(options.failure_probability)
        self.seed = options.seed
        self.run_id = self.stopped_by = ""
        self.seconds = 0.0
        self.checkpoint: str | None = None
        self._begun = False

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __getitem__(self, name: str) -> Row:
        if name not in self._known:
            raise KeyError(name)
        return self.rows[name]

    def __repr__(self) -> str:
        state = f"{len(self._rows)} rows" if self._begun else "not begun"
        return f"Scan({self.model!r}, {len(self.names)} names, {state})"

    def __str__(self) -> str:
        return self.summary()

    @property
    def rows(self) -> dict[str, Row]:
        """All rows, in the order of the file; computed now if they have not been."""
        if not self._begun:
            self.run()
        return self._rows

    @property
    def complete(self) -> bool:
        """Whether every row was reached."""
        return not self.missing

    @property
    def missing(self) -> tuple[str, ...]:
        """Rows that the time limit came before."""
        return tuple(e.name for e in self._planned.entries if not self._done(e.name))

    @property
    def ruling(self) -> Ruling | None:
        """What the limits say; None without limits."""
        if self._options.limits is None:
            return None
        # A row without a partner has no difference: a limit on it is open.
        return rule(self._options.limits, self.rows, (*self.missing, *self.only_in_model))

    def _done(self, name: str) -> bool:
        return name in self._rows and self._rows[name].note != UNREACHED

    def run(self) -> Scan:
        """Compute all rows now, and return the scan itself.

        Raises
        ------
        BigspecError
            See `scan`.
        KeyboardInterrupt
            With a checkpoint, its ``saved`` says where the finished rows are; without one, its
            ``estimate`` is this scan with the rows that are done.
        """
        began, self._begun = time.monotonic(), True
        observer = self._options.observer
        try:
            with saver_of(self._options.checkpoint, self._identity(), observer) as saver:
                self.run_id, self.seed = saver.run["id"], saver.run["entropy"]
                observer.identified(self.run_id)
                try:
                    self._compute(saver, began)
                except BaseException as error:
                    saver.interrupted(error)
                    raise
                finally:
                    self._take(saver.rows)
                saver.finish(complete=not self.stopped_by)
                self.checkpoint = saver.where
        except KeyboardInterrupt as error:
            if self._rows and not hasattr(error, "saved"):
                self.stopped_by = "interrupted"
                error.estimate = self  # type: ignore[attr-defined]
            else:
                self._begun = False
            raise
        except BaseException:
            self._begun = False
            raise
        finally:
            self.seconds += time.monotonic() - began
            observer.close()
        return self

    def _compute(self, saver: Saver, began: float) -> None:
        options = self._options
        model, other = self._models
        # Arrays of this process are multiplied here, even if a cluster is there.
        resident = any(m is not None and m.format == IN_MEMORY for m in (model, other))
        executor = find_executor(resident)
        memory = options.memory_limit or executor.memory() // 2
        share = memory // max(executor.tasks, 1)
        asked = Asked(options.rtol, self.share, memory, share, options.pin)
        names = [name for name in self.names if name not in saver.rows]
        assert self.seed is not None
        tasks = tasks_of(self._planned, names, asked, self.seed, options.limits)
        deadline = None if options.time_limit is None else began + options.time_limit
        progress = _Progress(options.observer, tasks)
        small = [task for task in tasks if task.nbytes <= memory]

        def take(task: Task, rows: list[Row]) -> None:
            for row in rows:
                saver.add(row)
            progress.advance(task)

        try:
            for task in sorted((t for t in tasks if t.nbytes > memory), key=lambda t: -t.work):
                take(task, [large_row(one, asked, deadline) for one in task.requests])
            jobs = [Job(task, task.work, task.nbytes) for task in small]
            map_jobs(work, jobs, executor, memory=memory, on_result=take, deadline=deadline)
        except DeadlinePassed:
            self.stopped_by = "time"

    def _take(self, found: Mapping[str, Row]) -> None:
        """Put the rows into the order of the file, with those that are not computed."""
        self._rows = {}
        for entry in self._planned.entries:
            row = found.get(entry.name)
            if row is None and entry.tied_to in found:
                twin = found[entry.tied_to]
                row = replace(
                    twin, name=entry.name, file=entry.file, tied_to=entry.tied_to, seconds=0.0
                )
            if row is None:
                row = blank(entry)
                if entry.form is not None:
                    row = replace(row, note=UNREACHED)
            self._rows[entry.name] = row

    def _identity(self) -> dict[str, Any]:
        """Say which scan this is, so that a checkpoint goes on with this one and no other."""
        options, tokens = self._options, {}
        if options.checkpoint is not None:
            for entry in self._planned.entries:
                own = () if entry.form is None else entry.form.tensors
                other = self._planned.others.get(entry.name)
                mates = () if other is None else other.tensors
                tokens[entry.name] = " ".join(t.token() for t in (*own, *mates))
        limits = None if options.limits is None else options.limits.to_list()
        sizes = {} if options.input_shape is None else {"input_shape": options.input_shape}
        computed = [e for e in self._planned.entries if e.form is not None and not e.tied_to]
        return {
            "model": self.model,
            "rows": len(computed),
            "tensors": tokens,
            "entropy": options.seed,
            "options": {
                "rtol": options.rtol,
                "failure_probability": options.failure_probability,
                "share": self.share,
                "gate": limits,
                "minus": bool(self.other),
                "missing_chunks": options.missing_chunks,
                **sizes,
            },
            "versions": versions(),
        }

    def summary(
        self, *, sort: str | None = None, top: int | None = None, width: int | None = None
    ) -> str:
        """Return the text that the command line prints.

        Parameters
        ----------
        sort : str, optional
            Column, largest first; see `bigspec.networks.table.COLUMNS`. By default the order of
            the file.
        top : int, optional
            Only this many rows.
        width : int, optional
            Letters a line; by default no limit.
        """
        return summary(self, sort=sort, top=top, width=width)

    def record(self, past: History, series: str = "") -> int:
        """Write a row of a history for each tensor, and return how many.

        Parameters
        ----------
        past : History
        series : str
            What the series of a tensor begins with, before a colon and its name; by default the
            name of the model.

        Raises
        ------
        HistoryError
            None of the rows is there.
        """
        return record_scan(self, past, series or self.model)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        rows, ruling = self.rows, self.ruling
        head = {
            "schema": SCHEMA,
            "model": self.model,
            "minus": self.other or None,
            "input_shape": self._options.input_shape,
            "run_id": self.run_id,
            "rtol": self.rtol,
            "failure_probability": self.failure_probability,
            "norms_with_a_random_start": self.norms,
            "failure_probability_each": self.share,
            "seed": self.seed,
            "stopped_by": self.stopped_by or None,
            "missing": self.missing,
            "only_in_model": self.only_in_model,
            "only_in_other": self.only_in_other,
            "seconds": self.seconds,
            "checkpoint": self.checkpoint,
            "gate": None if ruling is None else ruling.to_dict(),
            "versions": versions(),
        }
        plain = plain_values(head)
        assert isinstance(plain, dict)
        return plain | {"rows": [row.to_dict() for row in rows.values()]}

    def to_json(self, path: str | Path | None = None) -> str:
        """Return JSON text; with `path`, write it there as well."""
        return json_text(self.to_dict(), path)

    def to_csv(self) -> str:
        """Return one line a row, with a line of heads."""
        return csv_text(self.rows.values())

    def to_html(self, past: History | None = None, series: str = "") -> str:
        """Return one self-contained page.

        Parameters
        ----------
        past : History, optional
            Also draw each tensor over the runs in this history.
        series : str
            As in `record`.

        Raises
        ------
        HistoryError
            The history cannot be read.
        """
        return page(self, layers_over_runs(self, past, series or self.model) if past else "")

    def _repr_html_(self) -> str:
        """Return what a notebook shows; it begins nothing."""
        return fragment(self, begun=self._begun)


UNREACHED = "not reached: the scan ended first"


class _Progress:
    """Tells an observer how many entries are done."""

    def __init__(self, observer: Observer, tasks: Sequence[Task]) -> None:
        self.observer, self.began = observer, time.monotonic()
        self.most = sum(self._size(task) for task in tasks)
        self.done = self.bytes = 0
        observer.stage_started("scan", self.most)

    @staticmethod
    def _size(task: Task) -> int:
        return sum(t.size for one in task.requests for t in tensors_of(one))

    def advance(self, task: Task) -> None:
        """Called when a task has ended."""
        self.done += self._size(task)
        self.bytes += sum(t.nbytes for one in task.requests for t in tensors_of(one))
        took = time.monotonic() - self.began
        self.observer.stage_advanced(self.done, self.most, self.bytes, took)
