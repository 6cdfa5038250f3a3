"""Options with a subject to be listed under, and how the values of options are read."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = [
    "Grouped",
    "Option",
    "count_or_text",
    "limit",
    "option",
    "seconds_or_text",
    "with_options",
    "writable_place",
]

Function = TypeVar("Function", bound=Callable[..., Any])
Option = Callable[[Function], Function]


class Grouped(click.Option):
    """An option that ``--help`` lists under a subject."""

    def __init__(self, *args: Any, group: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.group = group


def option(group: str, *names: str, **attributes: Any) -> Option[Any]:
    """Declare an option of a subject, as `click.option` does without one."""
    return click.option(*names, cls=Grouped, group=group, **attributes)


def with_options(function: Function, options: Sequence[Option[Any]]) -> Function:
    """Add options to a command, in the order that ``--help`` lists them in."""
    for add in reversed(options):
        function = add(function)
    return function


def count_or_text(_ctx: object, _option: object, value: str | None) -> int | str | None:
    """Read a number, or leave a text such as 4GiB to the public function."""
    return int(value) if value is not None and value.strip().isdecimal() else value


def seconds_or_text(_ctx: object, _option: object, value: str | None) -> float | str | None:
    """Read seconds, or leave a text such as 30min to the public function."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return value


def limit(_ctx: object, _option: object, value: float | None) -> float | None:
    """Check a limit of a gate."""
    if value is not None and not (math.isfinite(value) and value >= 0):
        msg = f"expected a finite number >= 0, got {value}"
        raise click.BadParameter(msg)
    return value


def writable_place(_ctx: object, _option: object, value: str | None) -> str | None:
    """Refuse a place that cannot be written before the run, not hours later."""
    if value is None or value == "-":
        return value
    folder = Path(value).absolute().parent
    if not os.access(folder, os.W_OK | os.X_OK):
        msg = f"{value!r} cannot be written: {str(folder)!r} is not a writable directory; create it"
        raise click.BadParameter(msg)
    return value
