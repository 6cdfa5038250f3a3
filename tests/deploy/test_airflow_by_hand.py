"""deploy/airflow/norm.py in an Airflow of its own: SQLite, one machine; see deploy/README.md."""

import json
import os
import signal
import socket
import sqlite3
import subprocess

import pytest

from tests.deploy.interrupting import (
    DEPLOY,
    LIMIT,
    environment,
    recorded,
    until,
    wait_until_busy,
    write_matrix,
)

pytestmark = [pytest.mark.by_hand, pytest.mark.timeout(900)]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    home = tmp_path_factory.mktemp("airflow")
    write_matrix(home / "A.zarr")
    url = f"http://localhost:{free_port()}"
    known = environment(home / "venv", DEPLOY / "airflow" / "requirements.txt")
    known |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DEPLOY / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__PORT": url.rpartition(":")[2],
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__PARALLELISM": "2",
    }
    with (home / "standalone.log").open("w") as log:
        server = subprocess.Popen(
            ["airflow", "standalone"],
            executable=home / "venv" / "bin" / "airflow",
            env=known,
            cwd=home,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until(lambda: asked(home, "SELECT dag_id FROM dag WHERE dag_id = 'bigspec_norm'"))
        yield home, known
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def asked(home, query, *values):
    try:
        with sqlite3.connect(f"file:{home / 'airflow.db'}?mode=ro", uri=True) as database:
            return database.execute(query, values).fetchall()
    except sqlite3.OperationalError:  # not made yet, or being written
        return []


def trigger(airflow, name, limit):
    home, known = airflow
    settings = {
        "source": str(home / "A.zarr"),
        "max_norm": limit,
        "checkpoints": str(home / name),
        "history": str(home / f"{name}.sqlite"),
    }
    command = ["dags", "trigger", "bigspec_norm", "--run-id", name, "--conf", json.dumps(settings)]
    subprocess.run(
        ["airflow", *command],
        executable=home / "venv" / "bin" / "airflow",
        env=known,
        check=True,
        capture_output=True,
    )


def ended(home, name):
    """State, number of tries and XComs of the task, once it has ended; and its logs."""
    query = "SELECT state, try_number FROM task_instance WHERE run_id = ?"

    def look():
        rows = asked(home, query, name)
        return rows if rows and rows[0][0] in ("success", "failed") else None

    (state, tries), *_ = until(look)
    pushed = dict(asked(home, "SELECT key, value FROM xcom WHERE run_id = ?", name))
    logs = "".join(p.read_text() for p in sorted(home.glob(f"logs/**/run_id={name}/**/*.log")))
    print(state, tries, pushed, logs[-3000:], sep="\n")
    return state, tries, pushed, logs


def test_success_pushes_the_interval(airflow):
    trigger(airflow, "success", LIMIT)
    state, tries, pushed, _ = ended(airflow[0], "success")
    assert (state, tries) == ("success", 1)
    assert '"lower": 14' in str(pushed["return_value"]).replace("\\", "")
    assert recorded(airflow[0] / "success.sqlite") == [0]


def test_interruption_is_retried_and_goes_on(airflow):
    trigger(airflow, "interrupted", LIMIT)
    wait_until_busy(airflow[0] / "interrupted").terminate()
    state, tries, _, logs = ended(airflow[0], "interrupted")
    assert (state, tries) == ("success", 2)
    assert "exit status 75: bigspec: error: terminated. Everything up to here is saved" in logs
    assert "continued from a checkpoint with" in logs
    assert recorded(airflow[0] / "interrupted.sqlite") == [0]  # one row a run, tries included


def test_failed_gate_is_not_retried(airflow):
    trigger(airflow, "gate", 1.0)
    state, tries, pushed, logs = ended(airflow[0], "gate")
    assert (state, tries) == ("failed", 1)
    assert "exit status 3: bigspec: failed: the norm exceeds max_norm 1.0" in logs
    assert "exit_status" in str(pushed["failure"])
