"""deploy/slurm's batch scripts run by bash, with stand-ins for Slurm, Dask and bigspec.

A stand-in notes its arguments; bigspec's ends with the exit status that the test wants.
"""

import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
from distributed.cli import dask_scheduler, dask_worker

from bigspec import errors
from bigspec.cli import statuses
from tests.deploy.interrupting import DEPLOY
from tests.deploy.test_command_lines import refused

SLURM = DEPLOY / "slurm"
SCRIPTS = ("norm.sbatch", "jobqueue.sbatch")
AGAIN = {statuses.SAVED, errors.ClusterError.exit_status, 137, 143}  # and two ways to be killed
NOT_AGAIN = {0, 2, 3, 4, 65, 66, 70, 74}

STAND_INS = {
    # A step that lasts, as those of the cluster do; the scheduler's ends in the run if told to.
    "srun": """
        if [[ -e ending && $* == *scheduler* ]]; then until [[ -e up ]]; do :; done; exit; fi
        exec tail -f /dev/null
    """,
    "scontrol": "",
    "squeue": 'echo "$STATE"',
    "bigspec": """
        until (($(grep -c ^srun said) == STEPS)); do :; done
        [[ $STATUS == saves ]] || exit "$STATUS"
        trap "exit 75" TERM
        touch up
        while :; do :; done
    """,
}
JOBQUEUE = """
class SLURMCluster:
    scheduler_address = "tcp://127.0.0.1:8786"
    def __init__(self, **options): pass
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def scale(self, jobs): assert jobs == 3
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A PATH of stand-ins; the folder that jobs are submitted from."""
    there = tmp_path / "bin"
    there.mkdir()
    for name, does in STAND_INS.items():
        noted = f"""printf '%s\\n' "$(printf '%q ' {name} "$@")" >>said"""
        (there / name).write_text(f"#!/bin/bash\n{noted}\n{does}\n")
        (there / name).chmod(0o755)
    (there / "python").symlink_to(sys.executable)
    package = tmp_path / "dask_jobqueue"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "slurm.py").write_text(JOBQUEUE)
    (tmp_path / "work").mkdir()
    for name in [name for name in os.environ if name.startswith(("BIGSPEC_", "SLURM_"))]:
        monkeypatch.delenv(name)
    return tmp_path


def run(machine, script, status, *, restarts=0, state="RUNNING", scheduler_ends=False):
    """Run a batch script as job 7; return its exit status and what was called, name by name."""
    work = machine / "work"
    for name in ("said", "up"):
        (work / name).unlink(missing_ok=True)
    if scheduler_ends:
        (work / "ending").touch()
    environment = {
        **os.environ,
        "PATH": f"{machine / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(machine),
        "STATUS": str(status),
        "STATE": state,
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "3",
        "SLURM_RESTART_COUNT": str(restarts),
        "SLURM_SUBMIT_DIR": str(work),
        "BIGSPEC_DRIVER": str(SLURM / "jobqueue.py"),
        "BIGSPEC_JOBS": "3",
        "STEPS": "2" if script == "norm.sbatch" else "0",
    }
    job = subprocess.Popen(
        ["bash", str(SLURM / script), "A.zarr", "--rtol", "1e-4", "--max-norm", "3"],
        cwd=work,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        ended = job.wait(60)
    finally:
        with suppress(ProcessLookupError):  # the steps, as Slurm does at the end of a job
            os.killpg(job.pid, signal.SIGKILL)
    said = [shlex.split(line) for line in (work / "said").read_text().splitlines()]
    return ended, {name: [line[1:] for line in said if line[0] == name] for name in STAND_INS}


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_hands_on_the_exit_status_and_is_queued_again_only_where_that_helps(machine, script):
    for status in sorted(AGAIN | NOT_AGAIN if script == "norm.sbatch" else {0, 3, 69, 137}):
        ended, called = run(machine, script, status)
        assert ended == status
        assert called["scontrol"] == ([["requeue", "7"]] if status in AGAIN else []), status


@pytest.mark.parametrize("script", SCRIPTS)
def test_job_is_not_queued_again_when_cancelled_or_too_often(machine, script):
    _, called = run(machine, script, 75, state="COMPLETING")  # as after scancel
    assert called["squeue"]
    assert called["scontrol"] == []
    _, called = run(machine, script, 75, restarts=20)
    assert called["scontrol"] == []


def test_run_whose_scheduler_was_told_to_end_is_told_as_well(machine):
    ended, called = run(machine, "norm.sbatch", "saves", scheduler_ends=True)
    assert ended == 75
    assert called["scontrol"] == [["requeue", "7"]]


def test_command_lines_of_the_batch_scripts_are_accepted(machine, monkeypatch):
    for script in SCRIPTS:
        _, called = run(machine, script, 0)
        ((_, *arguments),) = called["bigspec"]
        assert {"--rtol", "--max-norm", "--checkpoint", "--json"} <= set(arguments)
        assert refused(arguments, machine / "work", monkeypatch) == ""
        for step in called["srun"]:
            while step[0].startswith("--"):
                step.pop(0)
            tool = {"scheduler": dask_scheduler, "worker": dask_worker}[step[1]]
            tool.main.make_context("dask", step[2:])  # raises for what Dask does not know
    assert refused([*arguments, "--workers", "2"], machine / "work", monkeypatch) != ""
