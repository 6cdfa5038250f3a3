"""deploy/: its steps sort exit statuses as the command line means them; its texts hold together."""

import ast
import re
import signal
import subprocess
from types import SimpleNamespace

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
def test_step_retries_what_is_saved_unavailable_or_killed(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("RETRIED", "KILLED"):
            names[ast.unparse(node.targets[0])] = ast.literal_eval(node.value)
    (retries,) = (
        compile(ast.Expression(node), str(path), "eval")
        for node in ast.walk(tree)
        if isinstance(node, ast.BoolOp) and "RETRIED" in ast.unparse(node)
    )
    retried = {
        status
        for status in range(-20, 200)
        if eval(retries, names | {"status": status, "error": SimpleNamespace(status=status)})
    }
    assert retried & set(range(129)) == RETRIED
    assert {-signal.SIGTERM, -signal.SIGKILL, 137, statuses.TERMINATED} <= retried


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
    assert tools == {"airflow", "compiled", "dagster", "docker", "kubernetes", "prefect", "slurm"}
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
