"""deploy/prefect/norm.py in a Prefect of its own; see deploy/README.md."""

import json
import sqlite3
import subprocess

import pytest

from tests.deploy.interrupting import (
    DEPLOY,
    LIMIT,
    environment,
    recorded,
    wait_until_busy,
    write_matrix,
)

pytestmark = [pytest.mark.by_hand, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def prefect(tmp_path_factory):
    home = tmp_path_factory.mktemp("prefect")
    write_matrix(home / "A.zarr")
    known = environment(home / "venv", DEPLOY / "prefect" / "requirements.txt")
    known |= {
        "PREFECT_HOME": str(home / "state"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "DO_NOT_TRACK": "1",
    }

    def start(limit, name):
        (home / name).mkdir()
        return subprocess.Popen(
            ["python", str(DEPLOY / "prefect" / "norm.py"), str(home / "A.zarr"), str(limit)],
            env=known,
            executable=home / "venv" / "bin" / "python",
            cwd=home / name,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return home, start


def asked(home, query):
    with sqlite3.connect(home / "state" / "prefect.db") as database:
        return database.execute(query).fetchall()


def newest_task_run(home):
    """State and number of tries of the task that ran last."""
    return asked(
        home, "SELECT state_type, run_count FROM task_run ORDER BY start_time DESC LIMIT 1"
    )[0]


def test_success_leaves_an_artifact_with_the_interval(prefect):
    home, start = prefect
    text, _ = (process := start(LIMIT, "success")).communicate()
    print(text[-2000:])
    assert process.returncode == 0
    assert newest_task_run(home) == ("COMPLETED", 1)
    ((artifact,),) = asked(home, "SELECT data FROM artifact WHERE key = 'spectral-norm'")
    assert "sigma_1 in [14" in json.loads(artifact)
    assert recorded(home / "success" / "history.sqlite") == [0]


def test_interruption_is_retried_and_goes_on(prefect):
    home, start = prefect
    process = start(LIMIT, "interrupted")
    wait_until_busy(home / "interrupted" / "checkpoints", process).terminate()
    text, _ = process.communicate()
    print(text[-4000:])
    assert process.returncode == 0
    assert "exit status 75: bigspec: error: terminated. Everything up to here is saved" in text
    assert "continued from a checkpoint with" in text
    assert newest_task_run(home) == ("COMPLETED", 2)
    assert recorded(home / "interrupted" / "history.sqlite") == [0]  # one row a run, tries included


def test_failed_gate_is_not_retried(prefect):
    home, start = prefect
    text, _ = (process := start(1.0, "gate")).communicate()
    print(text[-2000:])
    assert process.returncode == 1
    assert "exit status 3: bigspec: failed: the norm exceeds max_norm 1.0" in text
    assert newest_task_run(home) == ("FAILED", 1)
