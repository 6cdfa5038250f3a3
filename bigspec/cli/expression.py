"""Options that make SRC an expression: SRC minus another matrix, centred, scaled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np

from bigspec.api.matrices import centered, scaled, standardized
from bigspec.cli.reading import Reading
from bigspec.errors import SourceError

__all__ = ["expressed", "expression_options"]

Function = TypeVar("Function", bound=Callable[..., Any])


def expression_options(function: Function) -> Function:
    """Add ``--minus``, ``--center`` and ``--scale``."""
    for add in reversed((
        click.option("--minus", metavar="SRC", help="Take the norm of SRC minus this matrix."),
        click.option("--center", is_flag=True,
                     help="Subtract the means of the columns: one more pass; sparse stays sparse."),
        click.option("--scale", metavar="std|FILE.npy",
                     help="Divide the columns by their standard deviations (by their root mean "
                          "squares without --center), or multiply them by the weights in a file."),
    )):  # fmt: skip
        function = add(function)
    return function


def expressed(
    source: str,
    reading: Reading,
    minus: str | None,
    center: bool,
    scale: str | None,
    memory_limit: int | str | None,
) -> Any:
    """Return SRC as it is, or the expression that the options make of it.

    Means and deviations are computed here, in a pass of its own.
    """
    if minus is None and not center and scale is None:
        return reading.source(memory_limit, source)
    if minus is None:
        matrix = reading.matrices(memory_limit, source)[0]
    else:
        first, second = reading.matrices(memory_limit, source, minus)
        matrix = first - second
    if scale == "std":
        return standardized(matrix, center=center, memory_limit=memory_limit)
    if center:
        matrix = centered(matrix, memory_limit=memory_limit)
    return matrix if scale is None else scaled(matrix, columns=_weights(scale))


def _weights(path: str) -> Any:
    try:
        return np.load(Path(path), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        msg = (
            f"--scale {path!r}: expected 'std' or an .npy file of one weight a column, got "
            f"{type(error).__name__}: {error}"
        )
        raise SourceError(msg) from error
