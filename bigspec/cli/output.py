"""Results as text, JSON and files; the verdict of a gate."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from bigspec.cli.statuses import EXCEEDED, UNDECIDED, CannotWriteError
from bigspec.results import Estimate

__all__ = ["conclude", "deliver", "gate_verdict"]


def conclude(
    estimate: Estimate, max_norm: float | None, json_file: str | None, report: str | None
) -> None:
    """Show and write the answer; a gate that is not passed says so on stderr and exits."""
    status, verdict = gate_verdict(estimate, max_norm)
    data = estimate.to_dict()
    if max_norm is not None:
        data["gate"] = {"max_norm": max_norm, "exit_status": status, "verdict": verdict}
    passed = verdict if status == 0 else None
    deliver("\n".join(filter(None, (estimate.summary(), passed))), data, json_file)
    if report is not None:
        _write(report, estimate.to_html())
    if status:
        click.echo(f"bigspec: {verdict}", err=True)
        raise click.exceptions.Exit(status)


def gate_verdict(estimate: Estimate, max_norm: float | None) -> tuple[int, str]:
    """Return the exit status and the verdict; the decisive number is shown in full."""
    if max_norm is None:
        return 0, ""
    if estimate.lower > max_norm:
        return (
            EXCEEDED,
            f"the norm exceeds --max-norm {max_norm!r}: it is at least {_full(estimate.lower)}",
        )
    if estimate.upper > max_norm:
        return UNDECIDED, (
            f"undecided: --max-norm {max_norm!r} lies inside the interval "
            f"[{_full(estimate.lower)}, {_full(estimate.upper)}]; narrow it with a smaller --rtol"
            + ("" if estimate.converged else ", or with more passes or time")
        )
    return (
        0,
        f"The norm does not exceed --max-norm {max_norm!r}: it is at most {_full(estimate.upper)}",
    )


def _full(value: float) -> str:
    return repr(float(value))


def deliver(text: str, data: dict[str, Any], json_file: str | None) -> None:
    """Print the text, or JSON in its place; a file comes second, so that no result is lost."""
    document = None
    if json_file is not None:
        document = json.dumps(data, indent=2, allow_nan=False)
    _say(document if document is not None and json_file == "-" else text)
    if document is not None and json_file is not None and json_file != "-":
        _write(json_file, document + "\n")


def _say(text: str) -> None:
    try:
        click.echo(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, a pager) has left. Files and exit status still matter, and the
        # interpreter must not fail once more when it flushes what is left at its own exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as exc:
        msg = f"cannot write {path!r}: {exc.strerror or exc}; the result is on standard output"
        raise CannotWriteError(msg) from exc
