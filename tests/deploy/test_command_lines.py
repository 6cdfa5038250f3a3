"""deploy/ names only options and variables that exist, in combinations that are accepted."""

import ast
import re
from contextlib import nullcontext

import click
import pytest
import yaml
from click.testing import CliRunner
from distributed.cli import dask_scheduler, dask_worker

import bigspec
from bigspec.cli import main
from tests.deploy.interrupting import DEPLOY

STEPS = [DEPLOY / tool / "norm.py" for tool in ("airflow", "prefect", "dagster")]
NORM = {name: p for p in main.commands["norm"].params for name in p.opts}
VARIABLES = {p.envvar for c in main.commands.values() for p in c.params} - {None}
"""Which options are read from."""

OWN = {f"BIGSPEC_{name}" for name in ("RUN", "DRIVER", "JOBS", "CORES", "MEMORY", "WALLTIME")}
"""Which the Slurm scripts read themselves."""


class AcceptedError(Exception):
    """The command line came as far as the run."""


def refused(arguments, folder, monkeypatch):
    """What `bigspec norm` says against a command line, whose run is not begun; empty if nothing."""

    def begun(*_, **__):
        raise AcceptedError

    monkeypatch.setattr(bigspec, "norm", begun)
    monkeypatch.setattr(bigspec, "connect", lambda **_: nullcontext())
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(main, ["norm", *arguments])
    return "" if "unexpected AcceptedError" in done.output else done.output


def name_of(path):
    return path.relative_to(DEPLOY).as_posix()


def arguments_of_python(path):
    """All options that a step names, in the order of its text, each with a value."""
    found = ["A.zarr"]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and re.fullmatch(r"--[a-z][a-z-]+", value):
            found += [value] if value in NORM and NORM[value].is_flag else [value, "1"]
    return found


def containers(value):
    """Every container inside a manifest."""
    if isinstance(value, list):
        return [c for item in value for c in containers(item)]
    if not isinstance(value, dict):
        return []
    found = [c for item in value.values() for c in containers(item)]
    return [value, *found] if "image" in value else found


MANIFESTS = {
    f"{path.stem}-{container['name']}": container
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for container in containers(list(yaml.safe_load_all(path.read_text(encoding="utf-8"))))
    if container["image"].startswith("bigspec:") and container["name"] != "tidy"
}


@pytest.mark.parametrize("path", STEPS, ids=name_of)
def test_command_line_of_a_step_is_accepted(path, tmp_path, monkeypatch):
    arguments = arguments_of_python(path)
    assert {"--checkpoint", "--json", "--max-norm", "--history", "--warm"} <= set(arguments)
    assert refused(arguments, tmp_path, monkeypatch) == ""


@pytest.mark.parametrize("container", MANIFESTS.values(), ids=MANIFESTS)
def test_command_line_of_a_container_is_accepted(container, tmp_path, monkeypatch):
    arguments = [argument.replace("/state/", f"{tmp_path}/") for argument in container["args"]]
    if "command" in container:
        _, tool = container["command"]
        cli = {"scheduler": dask_scheduler, "worker": dask_worker}[tool]
        cli.main.make_context("dask", arguments)  # raises for what Dask does not know
        return
    name, *arguments = arguments
    assert name == "norm"
    assert refused(arguments, tmp_path, monkeypatch) == ""


def test_refusals_are_seen(tmp_path, monkeypatch):
    assert "No such option" in refused(["A.zarr", "--rtoll", "1"], tmp_path, monkeypatch)
    assert "need" in refused(["A.zarr", "--min-workers", "1"], tmp_path, monkeypatch)
    assert "--history" in refused(["A.zarr", "--warm"], tmp_path, monkeypatch)
    with pytest.raises(click.UsageError):
        dask_worker.main.make_context("dask", ["--nthread", "1"])


@pytest.mark.parametrize(
    "path", sorted(p for p in DEPLOY.rglob("*") if p.is_file() and p.suffix != ".pyc"), ids=name_of
)
def test_variables_exist(path):
    found = set(re.findall(r"\bBIGSPEC_[A-Z_]+", path.read_text(encoding="utf-8")))
    assert found <= VARIABLES | OWN


def test_variables_of_the_slurm_scripts_are_read_by_them_and_are_no_options():
    texts = [p.read_text(encoding="utf-8") for p in (DEPLOY / "slurm").glob("*.[ps]*")]
    read = {n for t in texts for n in re.findall(r'(?:\$\{|get\(")(BIGSPEC_[A-Z_]+)', t)}
    assert read == OWN
    assert not OWN & VARIABLES  # bigspec, started by them, would take it for an option
    waiting = {n for t in texts for n in re.findall(r'"(BIGSPEC_[A-Z_]+)":', t)}
    assert waiting == {"BIGSPEC_MIN_WORKERS", "BIGSPEC_WORKER_TIMEOUT"} & VARIABLES
