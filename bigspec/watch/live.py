"""Progress of a run: a live bar on a terminal or in a notebook, plain lines elsewhere."""

from __future__ import annotations

import io
import math
import sys
import threading
import warnings
from contextlib import suppress
from typing import Any, Self, TextIO

from bigspec.errors import ArgumentError, format_bytes
from bigspec.names import shown
from bigspec.results import Estimate, PassRecord
from bigspec.results.text import (
    counted,
    interval_text,
    rate_text,
    rounded_up,
    seconds_text,
    width_text,
)
from bigspec.results.triplets import Triplets
from bigspec.watch import Observer
from bigspec.watch.heartbeat import Heartbeat

__all__ = ["LiveProgress", "make_observer"]

HEARTBEAT = 60.0
"""Seconds of a pass after which a log gets a line, so that nobody thinks it hangs."""

_GONE = (OSError, ValueError)
"""Errors of a closed pipe, terminal or stream. They must not end a run of hours."""


def make_observer(progress: bool | Observer) -> Observer:
    """Turn the `progress` argument into an observer.

    Parameters
    ----------
    progress : bool or Observer
        False shows nothing; True shows a `LiveProgress` on the notebook or on standard error.

    Raises
    ------
    ArgumentError
        `progress` is neither.
    """
    if isinstance(progress, Observer):
        return progress
    if progress is True:
        return LiveProgress()
    if progress is False:
        return Observer()
    msg = (
        "progress: expected True, False or a bigspec.watch.Observer, "
        f"got {type(progress).__name__}; pass True for a live line"
    )
    raise ArgumentError(msg)


class LiveProgress(Observer):
    """Shows how far a pass is, and the interval so far.

    On a terminal and in a notebook, each pass has a bar, and leaves one line when it ends. On any
    other stream, each pass writes one plain line, and a long pass one every `heartbeat` seconds.

    Parameters
    ----------
    stream : file object, optional
        Where to write. By default the notebook's output cell, or standard error.
        Errors of a closed stream are ignored.
    heartbeat : float
        Seconds between such lines; infinity for none.
    """

    def __init__(self, stream: TextIO | None = None, *, heartbeat: float = HEARTBEAT) -> None:
        self._notebook = stream is None and _in_notebook()
        usual = sys.stdout if self._notebook else sys.stderr
        # Python's streams are None if the descriptor is closed (2>&-, services).
        self._stream: TextIO = stream or usual or io.StringIO()
        self._live = self._notebook or self._stream.isatty()
        self._bar: Any = None  # tqdm has no types
        self._interval = self._stage = ""
        self._far = ""  # how far this pass is
        self._lock = threading.Lock()
        self._heartbeat = Heartbeat(math.inf if self._live else heartbeat, self.beat)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Clear the bar, so that the next output starts on a clean line; idempotent."""
        self._heartbeat.stop()
        if self._bar is not None:
            bar, self._bar = self._bar, None
            with suppress(*_GONE):
                bar.close()

    def run_started(self, matrix_name: str, layout: dict[str, Any]) -> None:
        """Name the matrix, and say how it is read and where."""
        self._interval = ""
        text = _layout_text(layout)
        self._line(f"{matrix_name}: {text}" if text else matrix_name)

    def pass_started(self, number: int, panels: int) -> None:
        """Show a bar for this pass."""
        self._begin(f"pass {number}", panels, "panels")
        if self._bar is not None:
            with suppress(*_GONE):
                self._bar.set_postfix_str(self._interval or "first bounds after this pass")

    def panels_done(self, done: int, panels: int, bytes_read: int, seconds: float) -> None:
        """Move the bar; in a log, remember the numbers for the next heartbeat."""
        rate = rate_text(bytes_read, seconds)
        if self._bar is not None:
            known = [part for part in (rate, self._interval) if part]
            with suppress(*_GONE):
                self._bar.set_postfix_str(", ".join(known), refresh=False)
                self._bar.total = panels  # a chain A @ B knows it once its factors are read
                self._bar.update(done - self._bar.n)
        else:
            self._far = f"{done} of {panels} panels" + (f", {rate}" if rate else "")

    def beat(self, seconds: float) -> None:
        """Say how far this pass or stage is, `seconds` after it began."""
        self._line(f"{self._stage}: {self._far}; {seconds_text(seconds)} so far")

    def pass_finished(self, record: PassRecord) -> None:
        """Replace the bar by a line that stays."""
        self.close()
        ends = interval_text(record.lower, record.upper)
        self._interval = f"sigma_1 in {ends}, width {width_text(record.lower, record.upper)}"
        if record.lowers:
            most = rounded_up(record.width)
            self._interval += f", largest width of {len(record.lowers)} values {most}"
        rate = rate_text(record.bytes_read, record.seconds)
        cost = f"{format_bytes(record.bytes_read)} in {seconds_text(record.seconds)}"
        self._line(
            f"pass {record.number}: {self._interval} ({record.upper_bound}); {cost}"
            + (f", {rate}" if rate else "")
            + (f"; {format_bytes(record.bytes_pinned)} from memory" if record.bytes_pinned else "")
            + (f"; {record.retries} reads retried" if record.retries else "")
            + (f"; {record.missing_chunks} chunks missing" if record.missing_chunks else "")
        )

    def stage_started(self, stage: str, entries: int) -> None:
        """Show a bar for a stage of a conversion."""
        self._begin(stage, entries, "entries")

    def stage_advanced(self, done: int, entries: int, size: int, seconds: float) -> None:
        """Move the bar; in a log, remember the numbers for the next heartbeat."""
        rate = rate_text(size, seconds)
        if self._bar is not None:
            with suppress(*_GONE):
                self._bar.set_postfix_str(rate, refresh=False)
                self._bar.update(done - self._bar.n)
        else:
            self._far = f"{done} of {entries} entries" + (f", {rate}" if rate else "")

    def _begin(self, stage: str, total: int, unit: str) -> None:
        self.close()
        self._stage, self._far = stage, f"0 of {total} {unit}"
        self._heartbeat.start()
        if self._live:
            with suppress(*_GONE):
                self._bar = self._new_bar(total, stage, unit)

    def warned(self, message: str) -> None:
        """Write the warning on a line of its own."""
        self._line(f"warning: {message}")

    def run_finished(self, estimate: Estimate | Triplets) -> None:
        """Clear the bar. The caller shows the answer."""
        self.close()

    def _new_bar(self, total: int, label: str, unit: str) -> Any:
        if self._notebook:
            with warnings.catch_warnings():  # without ipywidgets the bar is one of text
                warnings.filterwarnings("ignore", "IProgress not found")
                from tqdm.auto import tqdm
        else:
            from tqdm import tqdm
        return tqdm(
            total=total,
            desc=label,
            unit=unit,
            file=self._stream,
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} |{bar:12}| {n_fmt}/{total_fmt} {unit}, {remaining} left{postfix}",
        )

    def _line(self, text: str) -> None:
        """Write one line, and keep it clear of any bar on a terminal."""
        text = shown(text)
        with self._lock, suppress(*_GONE):
            if self._live:
                from tqdm import tqdm

                tqdm.write(text, file=self._stream)
            else:
                self._stream.write(text + "\n")
            self._stream.flush()


def _layout_text(layout: dict[str, Any]) -> str:
    """Say in words how a matrix is read, or where a conversion writes."""
    if "to" in layout:
        return f"converting to {layout['format']} in {layout['to']}"
    words = []
    if "panels" in layout and "orientation" in layout:
        words.append(f"{counted(layout['panels'], 'panel')} of {layout['orientation']}")
    if "reads_per_pass" in layout:
        words.append(f"read {'once' if layout['reads_per_pass'] == 1 else 'twice'} a pass")
    if "where" in layout:
        words.append(f"on {layout['where']}")
    return ", ".join(words)


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process; does not import IPython to find out."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config
