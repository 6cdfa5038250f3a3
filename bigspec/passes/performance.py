"""Dask's own performance report of what runs inside, which the scheduler draws."""

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
"""Seconds to wait for the drawing: half of what batch systems leave between SIGTERM and kill."""


@dataclass
class Recording:
    """What came of a performance report.

    Attributes
    ----------
    html : str
        The page; empty before the end, and if there is none.
    lacking : str
        Why there is none.
    """

    html: str = ""
    lacking: str = ""


@contextmanager
def recorded(code: str) -> Iterator[Recording]:
    """Record what the current client's cluster does inside; draw it at the end, also of an error.

    What goes wrong with the drawing, a second Ctrl-C included, is said in the recording: it costs
    neither the error of what ran inside nor its answer.

    Parameters
    ----------
    code : str
        Shown as what was run.

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
        # inline: with Bokeh's scripts in the page it reads without a network.
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
    """Say what keeps this process, a scheduler, from drawing; nothing if it can."""
    try:
        import distributed.dashboard.components.scheduler  # noqa: F401
    except ImportError as error:  # Bokeh is missing, or too old
        return str(error) or type(error).__name__
    return ""


def _end(client: Any, report: Any, code: str) -> str:
    """Let the scheduler draw into the report's file; return why it did not."""
    if client.status != "running":
        return "the scheduler, which draws it, is gone"
    try:
        # Not `__exit__`: it waits without end for a scheduler that hangs.
        client.sync(
            report.__aexit__, None, None, None, code=escape(code), callback_timeout=PATIENCE
        )
    except TimeoutError:
        return f"the scheduler did not draw it within {PATIENCE:g} s"
    except (Exception, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}".removesuffix(": ")
    return ""
