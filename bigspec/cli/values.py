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
    "options_of_texts",
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


SECRET = ("key", "secret", "token", "password", "username", "credential")
"""Options whose values are texts, also where they look like a number."""


def options_of_texts(_ctx: object, _option: object, texts: Sequence[str]) -> dict[str, Any] | None:
    """Read texts such as ``key=AKIA`` and ``client_kwargs.endpoint_url=http://minio:9000``.

    A point in a name goes into a mapping. No message has a value, which may be a secret.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, mark, value = text.partition("=")
        names = name.strip().split(".")
        if not mark or not all(names):
            msg = "expected NAME=VALUE, such as anon=true; the value is not shown here"
            raise click.BadParameter(msg)
        place = found
        for outer in names[:-1]:
            place = place.setdefault(outer, {})
            if not isinstance(place, dict):
                msg = f"{name}: {outer} is given as a value and as a mapping"
                raise click.BadParameter(msg)
        place[names[-1]] = _typed(names[-1], value)
    return found or None


def _typed(name: str, value: str) -> Any:
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    secret = any(word in name.lower() for word in SECRET)
    return int(value) if value.isdecimal() and not secret else value


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
