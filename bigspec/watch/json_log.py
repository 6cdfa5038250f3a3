"""The events of a run as JSON, one object a line, for machines that collect logs."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Self, TextIO

from bigspec.names import redacted
from bigspec.results import Estimate, PassRecord
from bigspec.results.triplets import Triplets
from bigspec.watch import Observer
from bigspec.watch.heartbeat import Heartbeat

__all__ = ["SCHEMA", "JsonLog", "taking_over"]

SCHEMA = "bigspec.log/1"
"""Name and version of the lines, which ``run_started`` names."""

ANSWER = (
    "lower", "upper", "width", "widths", "converged", "stopped_by", "status", "passes",
    "bytes_read", "seconds", "frobenius", "checkpoint", "gate",
    "chunks", "missing_chunks",
)  # fmt: skip
"""The fields of the answer in ``run_finished``."""


class JsonLog(Observer):
    """Writes one JSON object a line: run started, passes, heartbeats, warnings, run finished.

    Every line has ``time`` (UTC), ``level``, ``event`` and ``run`` (the run's id, null before it
    is known).

    Parameters
    ----------
    stream : file object, optional
        Standard error by default. Errors of a closed stream are ignored.
    heartbeat : float
        Seconds within a pass after which a line says how far it is.
    quiet : bool
        Write only warnings and errors.
    """

    def __init__(
        self, stream: TextIO | None = None, *, heartbeat: float = 60.0, quiet: bool = False
    ) -> None:
        self._stream: TextIO = stream or sys.stderr or io.StringIO()
        self._quiet, self._lock = quiet, threading.Lock()
        self._pass: dict[str, Any] = {}
        self._heartbeat = Heartbeat(math.inf if quiet else heartbeat, self._beat)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End the heartbeat; idempotent."""
        self._heartbeat.stop()

    def run_started(self, matrix_name: str, layout: dict[str, Any]) -> None:
        """Write the matrix, the layout, the host and the process."""
        self._event(
            "run_started", schema=SCHEMA, matrix=matrix_name, layout=layout,
            host=platform.node(), process=os.getpid(),
        )  # fmt: skip

    def pass_started(self, number: int, panels: int) -> None:
        """Start the heartbeat of this pass."""
        self._pass = {"pass": number, "panels_done": 0, "panels": panels, "bytes_read": 0}
        self._heartbeat.start()

    def panels_done(self, done: int, panels: int, bytes_read: int, seconds: float) -> None:
        """Remember the numbers for the next heartbeat."""
        self._pass |= {"panels_done": done, "panels": panels, "bytes_read": bytes_read}

    def pass_finished(self, record: PassRecord) -> None:
        """Write the cost of the pass and the interval after it."""
        self._heartbeat.stop()
        values = record.to_dict()
        number = values.pop("number")
        self._event("pass_finished", **{"pass": number, "width": record.width, **values})

    def run_finished(self, estimate: Estimate | Triplets) -> None:
        """Write the answer; for several values, all intervals."""
        self._heartbeat.stop()
        values = estimate.to_dict()
        self._event("run_finished", **{name: values[name] for name in ANSWER if name in values})

    def warned(self, message: str) -> None:
        """Write the warning, also when quiet."""
        self.say("warning", "warning", message=message)

    def ended(self, message: str, status: int, *, error: bool) -> None:
        """Write the reason why the command ended with a status other than 0."""
        self._heartbeat.stop()
        level, event = ("error", "error") if error else ("warning", "ended")
        self.say(level, event, message=message, exit_status=status)

    def say(self, level: str, event: str, **values: Any) -> None:
        """Write one line, whatever happens to the stream."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": now, "level": level, "event": event, "run": self.run_id or None} | values
        text = json.dumps(_finite(line), allow_nan=False, default=str)
        with self._lock, suppress(OSError, ValueError):
            self._stream.write(text + "\n")
            self._stream.flush()

    def _event(self, event: str, **values: Any) -> None:
        if not self._quiet:
            self.say("info", event, **values)

    def _beat(self, seconds: float) -> None:
        self._event("heartbeat", **self._pass, seconds=seconds)


class _Lines(logging.Handler):
    """Writes the records of Python's logging as lines of the JSON log."""

    def __init__(self, log: JsonLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname.lower()
        self._log.say(level, "log", logger=record.name, message=redacted(record.getMessage()))


@contextmanager
def taking_over(log: JsonLog) -> Iterator[None]:
    """Write Python's warnings and the logs of other packages as lines too, while inside.

    Use it only in a process that runs nothing else: loggers that write to a stream write these
    lines instead.
    """
    lines = _Lines(log)
    loggers = [logging.getLogger(), *_with_stream()]
    before = [(logger, logger.handlers[:]) for logger in loggers]
    for logger, handlers in before:
        logger.handlers = [h for h in handlers if type(h) is not logging.StreamHandler] + [lines]
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, handlers in before:
            logger.handlers = handlers


def _with_stream() -> list[logging.Logger]:
    known = logging.Logger.manager.loggerDict.values()
    loggers = [logger for logger in known if isinstance(logger, logging.Logger)]
    return [log for log in loggers if any(type(h) is logging.StreamHandler for h in log.handlers)]


def _finite(value: Any) -> Any:
    """Replace infinities by null, because JSON has none."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
