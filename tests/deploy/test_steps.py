"""deploy/: its steps sort exit statuses as the command line means them; its texts hold together."""

import ast
import re
import subprocess

import pytest

from bigspec import errors
from bigspec.cli import main, statuses
from tests.deploy.interrupting import DEPLOY, ROOT

STEPS = [DEPLOY / tool / "norm.py" for tool in ("airflow", "prefect", "dagster")]
SCRIPTS = sorted((DEPLOY / "slurm").glob("*.sbatch"))
RETRIED = {statuses.SAVED, errors.ClusterError.exit_status}
OPTIONS = {name for parameter in main.commands["norm"].params for name in parameter.opts}


def name_of(path):
    return path.relative_to(DEPLOY).as_posix()


def options_of_readme(text):
    return set(
        re.findall(r"(?<![\w-])--[a-z][a-z-]+", "".join(re.findall(r"bigspec norm .*", text)))
    )


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("README.md")), ids=name_of)
def test_options_in_the_text_exist(path):
    assert options_of_readme(path.read_text(encoding="utf-8")) <= OPTIONS


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
def test_batch_script_is_bash_and_asks_to_be_told_before_its_end(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text(encoding="utf-8")
    directives = re.findall(r"^#SBATCH (\S+)$", text, re.MULTILINE)
    assert {"--requeue", "--signal=B:TERM@60", "--open-mode=append"} <= set(directives)
    first_command = re.search(r"^[^#\n]", text, re.MULTILINE).start()
    assert text.rindex("#SBATCH") < first_command  # Slurm reads directives no further than that


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
