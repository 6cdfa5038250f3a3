"""Options from a TOML file and from the environment: flags win, then BIGSPEC_*, then the file."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

__all__ = [
    "SOURCES",
    "add_sources",
    "config_option",
    "named_source",
    "refuse_unknown_variables",
]

PREFIX = "BIGSPEC_"
SOURCES = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT, ParameterSource.DEFAULT_MAP)
"""Where an option may come from, strongest first."""


def _long(option: click.Option) -> str:
    """Return the long name of an option, without dashes in front."""
    return max(option.opts, key=len).lstrip("-")


def _options(command: click.Command) -> dict[str, click.Option]:
    return {_long(p): p for p in command.params if isinstance(p, click.Option)}


def add_sources(command: click.Command) -> None:
    """Give every option its environment variable: BIGSPEC_ and the long name, in capitals."""
    for name, option in _options(command).items():
        option.envvar = PREFIX + name.upper().replace("-", "_")


def refuse_unknown_variables(ctx: click.Context) -> None:
    """Refuse a variable ``BIGSPEC_...`` that is almost the name of an option.

    Variables that resemble no option belong to other programs and are left alone.

    Raises
    ------
    click.UsageError
        It says which name is meant.
    """
    mine = {option.envvar for option in _options(ctx.command).values()}
    unknown = [name for name in os.environ if name.startswith(PREFIX) and name not in mine]
    if not unknown:
        return
    root = ctx.find_root().command
    commands = [ctx.command]
    if isinstance(root, click.Group):
        found = [root.get_command(ctx, name) for name in root.list_commands(ctx)]
        commands += [command for command in found if command is not None]
    known = {
        str(option.envvar).removeprefix(PREFIX)
        for command in commands
        for option in _options(command).values()
        if option.envvar
    }
    for name in unknown:
        word = name.removeprefix(PREFIX)
        near = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
        if near and word not in known:
            msg = f"environment variable {name}: no such option; did you mean {PREFIX}{near[0]}?"
            raise click.UsageError(msg, ctx)


def named_source(ctx: click.Context, option: click.Parameter) -> str:
    """Say where a value that is not on the command line came from; empty if it is."""
    source = ctx.get_parameter_source(option.name or "")
    if source is ParameterSource.ENVIRONMENT:
        return f"from the environment variable {option.envvar}"
    return "from the file of --config" if source is ParameterSource.DEFAULT_MAP else ""


def config_option() -> click.Option:
    """Make the option ``--config``, which is read before all others."""
    return click.Option(
        ["--config"],
        type=click.Path(exists=True, dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=_read,
        metavar="FILE.toml",
        help="Read options from a file too; its keys are the long names.",
    )


def _read(ctx: click.Context, _option: click.Parameter, path: str | None) -> None:
    if path is None:
        return
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # TOML and Unicode errors are ValueErrors
        msg = f"cannot read {path!r}: {error}"
        raise click.BadParameter(msg) from error
    root = ctx.find_root().command
    commands = dict(root.commands) if isinstance(root, click.Group) else {}
    name = ctx.info_name or ""
    commands.setdefault(name, ctx.command)
    tables = {key: value for key, value in document.items() if isinstance(value, dict)}
    shared = {key: value for key, value in document.items() if key not in tables}
    anywhere = [key for command in commands.values() for key in _options(command)]
    _refuse_unknown(path, "key", shared, anywhere)
    _refuse_unknown(path, "table", tables, commands)
    mine = _options(ctx.command)
    for command, table in tables.items():
        _refuse_unknown(path, f"key of [{command}]", table, _options(commands[command]))
    # Keys above all tables are for every command that has such an option.
    values = {k: v for k, v in shared.items() if k in mine} | tables.get(name, {})
    ctx.default_map = {
        **(ctx.default_map or {}),
        **{mine[key].name: _checked(path, mine[key], value) for key, value in values.items()},
    }


def _refuse_unknown(path: str, what: str, held: Iterable[str], known: Iterable[str]) -> None:
    known = sorted(set(known) - {"config"})
    for key in held:
        if key not in known:
            near = difflib.get_close_matches(key.replace("_", "-"), known, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            msg = f"{path}: unknown {what} {key!r}{hint}"
            raise click.BadParameter(msg)


def _checked(path: str, option: click.Option, value: Any) -> Any:
    """Refuse a kind of TOML value that the option never has; its own type checks the rest."""
    name = _long(option)
    if option.is_flag and not isinstance(value, bool):
        expected = "true or false"
    elif option.multiple and isinstance(value, list):
        return value
    elif isinstance(value, bool) and not option.is_flag:
        expected = "a value"
    elif isinstance(value, float) and isinstance(option.type, click.types.IntParamType):
        expected = "a whole number"
    elif not isinstance(value, (bool, int, float, str)):
        expected = "a number or a text"
    else:
        return value
    msg = f"{path}: {name}: expected {expected}, got {value!r}"
    raise click.BadParameter(msg)
