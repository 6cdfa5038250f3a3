"""The command ``bigspec lipschitz``: an interval for the Lipschitz constant of a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import bigspec
from bigspec.cli.interrupts import terminable
from bigspec.cli.options import (
    ACCURACY,
    PAST,
    JsonFlags,
    OutputFlags,
    PlaceFlags,
    cluster_of,
    taking,
)
from bigspec.cli.output import deliver, write
from bigspec.cli.statuses import STATUSES, CannotWriteError, Command
from bigspec.cli.values import limit, option, with_options
from bigspec.cli.watching import say, watched, watching_options
from bigspec.errors import SourceError

__all__ = ["lipschitz_command"]

STACK = "Stack"


@dataclass(frozen=True)
class LipschitzFlags:
    """The options that other commands have, too."""

    place: PlaceFlags
    output: OutputFlags
    json: JsonFlags


def _sizes(_ctx: object, _option: object, value: str | None) -> list[int] | None:
    if value is None:
        return None
    try:
        return [int(part) for part in value.split(",")]
    except ValueError as error:
        msg = f"expected whole numbers such as 1,3,224,224, got {value!r}"
        raise click.BadParameter(msg) from error


def _own_options(function: Any) -> Any:
    return with_options(function, [
        click.argument("model", metavar="MODEL"),
        option(STACK, "--at", metavar="FILE.npy|N",
               help="Points for the lower end, one a row, or how many to draw. [default: 32]"),
        option(STACK, "--input", "input_shape", metavar="1,3,224,224", callback=_sizes,
               help="Sizes of the input of an ONNX file that leaves them open, a batch of 1 in "
                    "front."),
        option(STACK, "--from", "begin", metavar="VALUE",
               help="Value of an ONNX file that the stack begins with."),
        option(STACK, "--to", "end", metavar="VALUE",
               help="Value of an ONNX file that the stack ends with."),
        option(STACK, "--window", type=click.IntRange(min=1), metavar="N",
               help="Most matrices in a chain whose norm is taken. [default: all of up to five, "
                    "else three]"),
        option(STACK, "--no-rescale", is_flag=True,
               help="Seek no weights between the layers: faster, and wider."),
        option(ACCURACY, "--rtol", type=float, default=1e-3, show_default=True, metavar="F",
               help="Relative width of each norm."),
        option(ACCURACY, "--failure-probability", type=float, default=1e-6, show_default=True,
               metavar="F", help="Chance that any norm is wrong, over the random starts alone."),
        option(ACCURACY, "--seed", type=int, metavar="N",
               help="Seed of all random starts (always recorded)."),
        option(PAST, "--max", "max_constant", type=float, callback=limit, metavar="X",
               help="Fail (exit status 3) if the constant exceeds X; 4 if X lies inside the "
                    "interval."),
    ])  # fmt: skip


@click.command("lipschitz", cls=Command, epilog=STATUSES)
@_own_options
@taking(LipschitzFlags)
@watching_options
@click.pass_context
def lipschitz_command(ctx: click.Context, /, flags: LipschitzFlags, **own: Any) -> None:
    """Bracket the Lipschitz constant of MODEL, an ONNX file or a stack of layers in TOML.

    There is no checkpoint: the norms of a network take seconds.
    """
    cluster = cluster_of(flags.place)
    with terminable(), cluster, watched(quiet=flags.output.quiet) as observer:
        found = bigspec.lipschitz(
            own["model"],
            at=_points(own["at"]),
            input_shape=own["input_shape"],
            begin=own["begin"],
            end=own["end"],
            rtol=own["rtol"],
            failure_probability=own["failure_probability"],
            window=own["window"],
            rescale=not own["no_rescale"],
            seed=own["seed"],
            memory_limit=flags.place.memory_limit,
            max_constant=own["max_constant"],
            progress=observer,
        )
    status = found.exit_status
    message = f"{found.outcome}: {found.reason}" if status else ""
    try:
        try:
            deliver(found.summary(), found.to_dict(), flags.json.json_file)
        finally:
            if flags.output.report is not None:
                write(flags.output.report, found.to_html())
    except CannotWriteError as error:
        if not status:
            raise
        say(ctx, str(error), status, error=True)  # what the gate says matters more
    finally:
        if message:
            say(ctx, message, status)
    raise click.exceptions.Exit(status)


def _points(text: str | None) -> Any:
    if text is None or text.isdecimal():
        return None if text is None else int(text)
    import numpy as np  # here: `bigspec --help` does without

    try:
        return np.load(Path(text), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        msg = (
            f"--at {text!r}: expected a number or an .npy file of points, one a row, got "
            f"{type(error).__name__}: {error}"
        )
        raise SourceError(msg) from error
