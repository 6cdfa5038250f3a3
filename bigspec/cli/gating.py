"""Options that make a run a gate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["gate_options"]

Function = TypeVar("Function", bound=Callable[..., Any])


def limit(_ctx: object, _option: object, value: float | None) -> float | None:
    """Check a limit of a gate."""
    if value is not None and not (math.isfinite(value) and value >= 0):
        msg = f"expected a finite number >= 0, got {value}"
        raise click.BadParameter(msg)
    return value


def gate_options(function: Function) -> Function:
    """Add the limits of a gate."""
    for add in (
        click.option("--min-norm", type=float, callback=limit, metavar="X",
                     help="The same if the norm is below X."),
        click.option("--max-norm", type=float, callback=limit, metavar="X",
                     help="A gate: stop as soon as the interval decides whether the norm exceeds "
                     "X; exit with 3 if it does, with 4 if that is undecided."),
    ):  # fmt: skip
        function = add(function)
    return function
