"""Dask's own performance report of a run, which the scheduler draws."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bigspec.errors import ArgumentError, ClusterError, needs
from bigspec.passes.on_cluster import current_client

__all__ = ["Recording", "recorded"]

PATIENCE = 30.0
"""Seconds to wait for the drawing: half of the time between SIGTERM and kill in batch systems."""


@dataclass
class Recording:
    """A performance report, or the reason why there is none.

    Attributes
    ----------
    html : str
        The page; empty before the end, and if there is no report.
    lacking : str
        Why there is no report.
    """

    html: str = ""
    lacking: str = ""


@contextmanager
def recorded(code: str) -> Iterator[Recording]:
    """Record the work of the current client's cluster, and draw it at the end, also after an error.

    If the drawing fails, or a second Ctrl-C ends it, the recording has the reason. The answer or
    the error of the run inside is not lost.

    Parameters
    ----------
    code : str
        Shown as the code that ran.

    Raises
    ------
    ArgumentError
        There is no client, or Bokeh is missing where the scheduler runs.
    ClusterError
        The scheduler does not answer.
    """
    from distributed import performance_report

    client = current_client()
    if client is None:
        msg = "performance report: expected a Dask cluster, got none; connect to one or start one"
        raise ArgumentError(msg)
    recording = Recording()
    with TemporaryDirectory(prefix="bigspec-") as folder:
        file = Path(folder) / "report.html"
        # inline: Bokeh's scripts lie in the page, which then needs no network.
        report = performance_report(filename=str(file), mode="inline")
        _begin(client, report)
        try:
            yield recording
        finally:
            recording.lacking = _end(client, report, code)
            if not recording.lacking:
                recording.html = file.read_text(encoding="utf-8")


def _begin(client: Any, report: Any) -> None:
    try:
        lacking = client.run_on_scheduler(_lacking)
        if not lacking:
            client.sync(report.__aenter__)
    except ImportError as error:  # bigspec itself is missing there
        lacking = str(error)
    except OSError as error:
        msg = (
            f"Dask scheduler {client.scheduler.address}: expected an answer, got "
            f"{type(error).__name__}: {error}. Check that it runs."
        )
        raise ClusterError(msg) from error
    if lacking:
        msg = (
            f"performance report: expected Bokeh where the scheduler runs, got {lacking}; "
            f"{needs('it', 'dashboard', 'bokeh')} there, or do without the report"
        )
        raise ArgumentError(msg)


def _lacking() -> str:
    """Say why this process, a scheduler, cannot draw; nothing if it can."""
    try:
        import distributed.dashboard.components.scheduler  # noqa: F401
    except ImportError as error:  # Bokeh is missing, or too old
        return str(error) or type(error).__name__
    return ""


def _end(client: Any, report: Any, code: str) -> str:
    """Let the scheduler draw into the report's file; return why it did not, or nothing."""
    if client.status != "running":
        return "the scheduler, which draws it, is gone"
    try:
        # `__exit__` would wait for ever for a scheduler that hangs.
        client.sync(
            report.__aexit__, None, None, None, code=escape(code), callback_timeout=PATIENCE
        )
    except TimeoutError:
        return f"the scheduler did not draw it within {PATIENCE:g} s"
    except (Exception, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}".removesuffix(": ")
    return ""
