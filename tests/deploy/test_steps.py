"""deploy/ names only options that exist, and sorts exit statuses as the command line means them."""

import ast
import re
import subprocess

import pytest
import yaml

from bigspec import errors
from bigspec.cli import main, statuses
from tests.deploy.interrupting import DEPLOY, ROOT

STEPS = [DEPLOY / tool / "norm.py" for tool in ("airflow", "prefect", "dagster")]
SCRIPTS = sorted((DEPLOY / "slurm").glob("*.sbatch"))
RETRIED = {statuses.SAVED, errors.ClusterError.exit_status}
OPTIONS = {name for parameter in main.commands["norm"].params for name in parameter.opts}


def name_of(path):
    return path.relative_to(DEPLOY).as_posix()


def options_of_yaml(value):
    """Options of every container that runs the image's own entrypoint."""
    if isinstance(value, list):
        return {option for item in value for option in options_of_yaml(item)}
    if not isinstance(value, dict):
        return set()
    found = {option for item in value.values() for option in options_of_yaml(item)}
    if "image" in value and "command" not in value:
        found |= {a.partition("=")[0] for a in value["args"] if a.startswith("--")}
    return found


def options_of_python(text):
    return {
        node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"--[a-z][a-z-]+", node.value)
    }


def options_of_shell(text):
    lines = re.findall(r"^(?:bigspec norm|python \"\$driver\") (.*)$", text, re.MULTILINE)
    assert lines
    return set(re.findall(r"--[a-z-]+", " ".join(lines)))


def options_of_readme(text):
    return set(
        re.findall(r"(?<![\w-])--[a-z][a-z-]+", "".join(re.findall(r"bigspec norm .*", text)))
    )


READERS = {
    ".yaml": lambda text: options_of_yaml(list(yaml.safe_load_all(text))),
    ".py": options_of_python,
    ".sbatch": options_of_shell,
    ".md": options_of_readme,
}
FILES = sorted(p for p in DEPLOY.rglob("*") if p.suffix in READERS and p.name != "jobqueue.py")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_options_exist(path):
    assert READERS[path.suffix](path.read_text(encoding="utf-8")) <= OPTIONS


@pytest.mark.parametrize("path", STEPS, ids=name_of)
def test_readers_find_options(path):
    found = options_of_python(path.read_text(encoding="utf-8"))
    assert {"--checkpoint", "--json", "--max-norm"} <= found


@pytest.mark.parametrize("path", STEPS, ids=name_of)
def test_step_retries_what_the_command_line_calls_saved_or_unavailable(path):
    values = [
        ast.literal_eval(node.value)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "RETRIED"
    ]
    assert [set(value) for value in values] == [RETRIED]


@pytest.mark.parametrize("path", [*STEPS, DEPLOY / "slurm" / "jobqueue.py"], ids=name_of)
def test_step_compiles(path):
    compile(path.read_text(encoding="utf-8"), str(path), "exec")


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_batch_script_is_bash_and_is_queued_again_only_when_all_is_saved(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text(encoding="utf-8")
    directives = re.findall(r"^#SBATCH (\S+)$", text, re.MULTILINE)
    assert {"--requeue", "--signal=B:TERM@60", "--open-mode=append"} <= set(directives)
    first_command = re.search(r"^[^#\n]", text, re.MULTILINE).start()
    assert text.rindex("#SBATCH") < first_command  # Slurm reads directives no further than that
    assert {int(number) for number in re.findall(r"\$status == (\d+)", text)} == RETRIED


def test_every_tool_has_a_readme_of_about_ten_lines():
    tools = {path.name for path in DEPLOY.iterdir() if path.is_dir()}
    assert tools == {"airflow", "dagster", "docker", "kubernetes", "prefect", "slurm"}
    for tool in tools:
        lines = (DEPLOY / tool / "README.md").read_text(encoding="utf-8").splitlines()
        assert 5 <= len(lines) <= 25, tool
        assert tool in (DEPLOY / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("README.md")), ids=name_of)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_a_source_distribution_takes_it_along():
    assert '"deploy"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
