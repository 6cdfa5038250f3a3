"""deploy/slurm on a Slurm of one node, started here; see deploy/README.md.

Needs Debian's slurm-wlm and munge, root, and dask-jobqueue (bigspec's `jobqueue` extra).
"""

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.interrupting import DEPLOY, LIMIT, SLOW, until, wait_until_busy, write_matrix

pytestmark = [
    pytest.mark.by_hand,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="no Slurm on this machine"),
]

CONFIGURATION = """\
ClusterName=one
SlurmctldHost={host}
SlurmUser=root
AuthType=auth/munge
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MailProg=/bin/true
NodeName={host} CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 State=UP PriorityTier=1 GraceTime=40
PartitionName=urgent Nodes={host} MaxTime=60 State=UP PriorityTier=10
"""
SIZE = ["--ntasks=2", "--cpus-per-task=1", "--mem-per-cpu=1500M", "--time=20"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    home = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (home / name).mkdir()
    settings = home / "slurm.conf"
    settings.write_text(CONFIGURATION.format(home=home, host=socket.gethostname()))
    (home / "cgroup.conf").write_text("CgroupAutomount=no\n")
    os.environ |= {"SLURM_CONF": str(settings), **SLOW}  # sbatch hands the environment on
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode:
        Path("/run/munge").mkdir(exist_ok=True)
        os.chown("/run/munge", pwd.getpwnam("munge").pw_uid, -1)
        subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=True)
    daemons = [
        subprocess.Popen([name, "-D"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for name in ("slurmctld", "slurmd")
    ]
    try:
        write_matrix(home / "A.zarr")
        until(lambda: "idle" in said("sinfo", "--noheader", "--format=%t"), 60)
        yield home
    finally:
        subprocess.run(["scancel", "--full", "--user=root"], check=False)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(60)


def said(*command, cwd=None):
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    return done.stdout.strip()


def submit(home, script, *arguments, size=SIZE, limit=LIMIT):
    command = ["sbatch", "--parsable", *size, str(DEPLOY / "slurm" / script), str(home / "A.zarr")]
    return said(*command, "--seed", "1", "--max-norm", str(limit), *arguments, cwd=home)


def job(number):
    fields = said("scontrol", "--oneliner", "show", "job", number).split()
    return dict(field.partition("=")[::2] for field in fields)


def queued_again(number):
    """Slurm then lets it wait for two minutes, in which the old steps end."""
    until(lambda: job(number)["JobState"] == "PENDING" and job(number)["Restarts"] == "1")


def ended(home, number):
    """State, exit status and output of a job."""
    until(lambda: job(number)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"))
    output = (home / f"bigspec-{number}.out").read_text()
    print(
        f"--- job {number}: {job(number)['JobState']} {job(number)['ExitCode']}", output, sep="\n"
    )
    return job(number)["JobState"], job(number)["ExitCode"], output


@pytest.fixture(scope="module")
def undisturbed(slurm):
    """The answer of a job that nobody interrupts."""
    number = submit(slurm, "norm.sbatch")
    state, status, _ = ended(slurm, number)
    assert (state, status) == ("COMPLETED", "0:0")
    return json.loads((slurm / f"bigspec-{number}.json").read_text())


def terminated(number):
    subprocess.run(["scancel", "--signal=TERM", "--batch", number], check=True)


def terminated_with_its_cluster(number):
    subprocess.run(["scancel", "--signal=TERM", number], check=True)


def requeued(number):
    subprocess.run(["scontrol", "requeue", number], check=True)


def preempted(number):
    """SIGTERM goes to the steps; the kill would follow after the partition's GraceTime."""
    urgent = ["sbatch", "--parsable", "--partition=urgent", "--ntasks=4", "--output=/dev/null"]
    urgent_number = said(*urgent, "--wrap", "exit 0")
    until(lambda: job(urgent_number)["JobState"] == "COMPLETED")


@pytest.mark.parametrize(
    "interrupt", [terminated, terminated_with_its_cluster, requeued, preempted]
)
def test_interrupted_job_finishes_from_its_checkpoint(interrupt, slurm, undisturbed):
    number = submit(slurm, "norm.sbatch")
    wait_until_busy(slurm / f"bigspec-{number}")
    interrupt(number)
    queued_again(number)
    state, status, output = ended(slurm, number)
    assert (state, status) == ("COMPLETED", "0:0")
    assert "Everything up to here is saved" in output or interrupt is requeued
    assert "continued from a checkpoint with" in output
    found = json.loads((slurm / f"bigspec-{number}.json").read_text())
    assert (found["lower"], found["upper"]) == (undisturbed["lower"], undisturbed["upper"])
    assert found["passes"] == undisturbed["passes"]


def test_cancelled_job_saves_and_goes_on_only_when_submitted_again(slurm, monkeypatch):
    number = submit(slurm, "norm.sbatch")
    wait_until_busy(slurm / f"bigspec-{number}")
    subprocess.run(["scancel", number], check=True)
    state, _, output = ended(slurm, number)
    assert (state, job(number)["Restarts"]) == ("CANCELLED", "0")
    assert "terminated. Everything up to here is saved" in output
    assert "is queued again" not in output
    monkeypatch.setenv("BIGSPEC_RUN", f"bigspec-{number}")
    state, status, output = ended(slurm, submit(slurm, "norm.sbatch"))
    assert (state, status) == ("COMPLETED", "0:0")
    assert "continued from a checkpoint with" in output


def test_failed_gate_is_not_queued_again(slurm):
    state, status, output = ended(slurm, number := submit(slurm, "norm.sbatch", limit=1.0))
    assert (state, status) == ("FAILED", "3:0")
    assert job(number)["Restarts"] == "0"
    assert "the norm exceeds max_norm 1.0" in output


@pytest.fixture
def small_workers(monkeypatch):
    for name, value in (("JOBS", "2"), ("CORES", "1"), ("MEMORY", "1500MiB"), ("WALLTIME", "20")):
        monkeypatch.setenv(f"BIGSPEC_{name}", value)
    monkeypatch.setenv("DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT", "1s")
    monkeypatch.setenv("BIGSPEC_DRIVER", str(DEPLOY / "slurm" / "jobqueue.py"))


def preempted_and_told(number):
    """There are no steps that SIGTERM would go to: the batch shell must be told."""
    with Path(os.environ["SLURM_CONF"]).open("a") as settings:
        settings.write("SlurmctldParameters=preempt_send_user_signal\n")
    subprocess.run(["scontrol", "reconfigure"], check=True)
    preempted(number)


@pytest.mark.parametrize("interrupt", [terminated, preempted_and_told])
def test_job_with_workers_as_jobs_finishes_from_its_checkpoint(
    interrupt, slurm, small_workers, undisturbed
):
    size = ["--cpus-per-task=1", "--mem=2G", "--time=20"]
    queued_workers = ("squeue", "--noheader", "--name=bigspec-worker", "--format=%i")
    number = submit(slurm, "jobqueue.sbatch", size=size)
    wait_until_busy(slurm / f"bigspec-{number}")
    print(said("squeue"))
    workers = set(said(*queued_workers).split())
    assert len(workers) == 2
    subprocess.run(["scancel", min(workers)], check=True)
    until(lambda: len(now := set(said(*queued_workers).split())) == 2 and now != workers)
    print(said("squeue"))
    interrupt(number)
    queued_again(number)
    state, status, output = ended(slurm, number)
    assert (state, status) == ("COMPLETED", "0:0")
    assert "terminated. Everything up to here is saved" in output
    assert "continued from a checkpoint with" in output
    found = json.loads((slurm / f"bigspec-{number}.json").read_text())
    assert (found["lower"], found["upper"]) == (undisturbed["lower"], undisturbed["upper"])
    until(lambda: not said(*queued_workers))
