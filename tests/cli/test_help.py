"""Help, typos, widths, colours and completion, as a person meets them."""

import os
import re
import shlex
import subprocess
import sys
from importlib import metadata

import click
import pytest
from click.testing import CliRunner

from bigspec import cli
from bigspec.cli.help import EXAMPLES, WIDTH

COMMANDS = sorted(cli.main.list_commands(click.Context(cli.main)))


def bigspec(*args, **variables):
    return CliRunner().invoke(cli.main, args, prog_name="bigspec", env=variables)


def help_of(name):
    return bigspec(name, "--help").stdout


@pytest.mark.parametrize(
    "name", ["norm", "svds", "scan", "lipschitz", "plan", "history", "convert", "show"]
)
def test_help_ends_with_examples_that_the_command_takes(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = help_of(name).split("\nExamples:\n")[1]
    command = cli.main.get_command(click.Context(cli.main), name)
    lines = [line.strip() for line in shown.splitlines() if line.startswith("    bigspec ")]
    assert lines == [line for _, line in EXAMPLES[name]]
    for line in lines:
        words = shlex.split(line)
        assert words[:2] == ["bigspec", name]
        command.make_context(name, words[2:])  # raises on what the command does not know


def test_every_command_has_examples():
    assert set(EXAMPLES) >= {"bigspec", *COMMANDS}
    assert "bigspec norm A.zarr" in bigspec("--help").stdout


@pytest.mark.parametrize("width", [60, 80, 140])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_as_wide_as_the_terminal_and_its_columns_align(name, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    above = cli.main.context_class(cli.main, info_name="bigspec", **cli.main.context_settings)
    command = cli.main.get_command(above, name)
    context = command.context_class(command, info_name=name, parent=above)
    lines = command.get_help(context).splitlines()
    # A table of statuses and examples that are to be copied are not wrapped.
    fixed = next((k for k, line in enumerate(lines) if line.strip() == "Exit status:"), None)
    head = lines[: fixed or lines.index("Examples:")]
    widest = max(map(len, head))
    assert widest <= min(width, WIDTH)
    assert widest > 80 or width < 100 or name in {"show", "history"}
    starts = {m.end() for line in head if (m := re.match(r"  -\S+(?: \S+)*? {2,}(?=\S)", line))}
    assert len(starts) <= 1 or "-h, --help" in starts, starts


@pytest.mark.parametrize(
    ("args", "variables", "said"),
    [
        (
            ["norm", "A.zarr", "--rtoll", "1"],
            {},
            "No such option '--rtoll'. Did you mean '--rtol'?",
        ),
        (["norm", "A.zarr", "--memroy-limit", "1"], {}, "Did you mean '--memory-limit'?"),
        (["nrom", "A.zarr"], {}, "No such command 'nrom'; did you mean 'norm'?"),
        (["quux"], {}, "No such command 'quux'; see bigspec --help"),
        (["norm", "A.zarr"], {"BIGSPEC_RTLO": "1"}, "did you mean BIGSPEC_RTOL?"),
        (["show", "x"], {"BIGSPEC_MEMORY_LIMITS": "1"}, "did you mean BIGSPEC_MEMORY_LIMIT?"),
    ],
)
def test_a_typo_is_an_error_that_suggests_the_right_name(args, variables, said):
    done = bigspec(*args, **variables)
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_typo_in_a_file_of_options_suggests_the_right_name(tmp_path):
    (tmp_path / "c.toml").write_text("rtoll = 1e-4\n")
    done = bigspec("norm", "A.zarr", "--config", str(tmp_path / "c.toml"))
    assert done.exit_code == 2
    assert "unknown key 'rtoll'; did you mean 'rtol'?" in done.stderr


@pytest.mark.parametrize(
    "name", ["BIGSPEC_JOBS", "BIGSPEC_MEMORY", "BIGSPEC_RUN", "BIGSPEC_SHARED"]
)
def test_variables_that_resemble_no_option_are_left_alone(name):
    assert "environment variable" not in bigspec("show", "x", **{name: "1"}).stderr


def test_a_variable_of_another_command_is_no_typo():
    assert "environment variable" not in bigspec("show", "x", BIGSPEC_RTOL="1e-4").stderr


def test_headings_are_bold_unless_nobody_wants_colours(monkeypatch):
    context = click.Context(cli.main.get_command(click.Context(cli.main), "norm"), info_name="norm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1mMatrix" in context.command.get_help(context)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in context.command.get_help(context)
    assert "\x1b" not in help_of("norm")  # no terminal


def test_the_version_is_that_of_the_package():
    assert bigspec("--version").stdout == f"bigspec, version {metadata.version('bigspec')}\n"


@pytest.mark.parametrize(
    ("words", "at", "offered"),
    [
        ("bigspec no", 1, "plain,norm"),
        ("bigspec norm --rto", 2, "plain,--rtol"),
        ("bigspec norm --algorithm la", 3, "plain,lanczos"),
    ],
)
def test_a_shell_is_offered_commands_options_and_choices(words, at, offered):
    done = subprocess.run(
        [sys.executable, "-m", "bigspec"], capture_output=True, text=True, timeout=100, check=False,
        env=os.environ
        | {"_BIGSPEC_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(at)},
    )  # fmt: skip
    assert done.stdout.split() == [offered]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_lines_of_the_docs_make_a_completion_script(shell):
    variable = f"{shell}_source"
    script = bigspec(_BIGSPEC_COMPLETE=variable)
    assert "_BIGSPEC_COMPLETE" in script.stdout
    assert f"{shell}_complete" in script.stdout
