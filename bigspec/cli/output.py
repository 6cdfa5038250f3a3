"""Results as text, JSON and files."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bigspec.cli.statuses import CANNOT_WRITE, SAVED, CannotWriteError
from bigspec.names import shown
from bigspec.results.files import replacing, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bigspec.results import Estimate, Triplets

__all__ = ["conclude", "deliver", "ending", "shows_blocks", "unsaved", "write", "write_figure"]


def ending(
    answer: Estimate | Triplets, *, lacking: bool = False, asked: str | None = None
) -> tuple[int, str]:
    """Return the exit status of an answer, and what to say on stderr if it is not 0.

    `lacking`: there was no time for something else that was asked for. `asked`: the checkpoint
    that was asked for.
    """
    gate, where = answer.gate, answer.checkpoint
    if gate is not None and gate.exit_status:
        return gate.exit_status, f"{gate.outcome}: {gate.reason}"
    if where is not None and (answer.stopped_by == "time" or lacking):
        message = f"the time limit is used up. Everything up to here is saved in {where}"
        return SAVED, f"{message}: run the same command again to go on."
    return unsaved(asked, where)


def unsaved(asked: str | None, where: str | None) -> tuple[int, str]:
    """Return the exit status and what to say if the checkpoint asked for is not up to date."""
    if asked is None or where is not None:
        return 0, ""
    message = f"checkpoint {shown(asked)}: the end of this run is not saved there"
    return CANNOT_WRITE, f"{message}; the result is on standard output"


def conclude(answer: Estimate | Triplets, json_file: str | None, report: str | None) -> None:
    """Show and write the answer."""
    try:
        deliver(answer.summary(), answer.to_dict(), json_file)
    finally:
        if report is not None:
            write(report, answer.to_html())


def deliver(text: str, data: dict[str, Any], json_file: str | None) -> None:
    """Print the text, or JSON in its place; a file comes second, so that no result is lost.

    Raises
    ------
    CannotWriteError
        One of both cannot be written; the other one is.
    """
    document = None
    if json_file is not None:
        document = json.dumps(data, indent=2, allow_nan=False)
    try:
        _say(document if document is not None and json_file == "-" else text)
    finally:
        if document is not None and json_file is not None and json_file != "-":
            write(json_file, document + "\n")


def _say(text: str) -> None:
    if sys.stdout is None:  # closed by whoever started this process
        return
    try:
        click.echo(text)
        sys.stdout.flush()
    except OSError as exc:
        # The interpreter must not fail once more when it flushes what is left at its own exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(exc, BrokenPipeError):  # else the reader (head, a pager) has left
            msg = f"cannot write to standard output: {exc.strerror or exc}"
            raise CannotWriteError(msg) from exc


def shows_blocks() -> bool:
    """Whether standard output can be written with block characters."""
    try:
        "█".encode(sys.stdout.encoding or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


def write_figure(path: str, figure: Figure) -> None:
    """Write a matplotlib figure in the format of the file's name."""
    # As matplotlib names it: without an ending it is a .png.
    place = Path(path) if Path(path).suffix else Path(path + ".png")
    try:
        with replacing(place) as file:
            figure.savefig(file, format=place.suffix[1:])
    except (OSError, ValueError) as exc:  # ValueError: no such format
        msg = f"cannot write {path!r}: {exc}; the result is on standard output"
        raise CannotWriteError(msg) from exc


def write(path: str, text: str) -> None:
    """Write a result file, after the result was printed."""
    try:
        # A name of other bytes than UTF-8, which the text may have, is shown with its escapes.
        write_text(path, text, errors="backslashreplace")
    except OSError as exc:
        msg = f"cannot write {path!r}: {exc.strerror or exc}; the result is on standard output"
        raise CannotWriteError(msg) from exc
