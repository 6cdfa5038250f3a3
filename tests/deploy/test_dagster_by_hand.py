"""deploy/dagster/norm.py in a Dagster of its own; see deploy/README.md."""

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
def dagster(tmp_path_factory):
    home = tmp_path_factory.mktemp("dagster")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    write_matrix(home / "A.zarr")
    known = environment(home / "venv", DEPLOY / "dagster" / "requirements.txt")

    def start(limit, name):
        config = {
            "source": str(home / "A.zarr"),
            "max_norm": limit,
            "checkpoints": str(home / name),
            "history": str(home / f"{name}.sqlite"),
        }
        command = ["dagster", "asset", "materialize", "-f", str(DEPLOY / "dagster" / "norm.py")]
        settings = json.dumps({"ops": {"spectral_norm": {"config": config}}})
        return subprocess.Popen(
            [*command, "--select", "spectral_norm", "--config-json", settings],
            env={**known, "DAGSTER_HOME": str(home)},
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return home, start


def events(home):
    """Events of the newest run, as Dagster stored them."""
    newest = max(
        home.glob("history/runs/*.db"), key=lambda p: (p.stem != "index", p.stat().st_mtime)
    )
    with sqlite3.connect(newest) as database:
        rows = database.execute("SELECT dagster_event_type, event FROM event_logs ORDER BY id")
        return [(kind, event) for kind, event in rows if kind]


def test_success_is_materialized_with_its_interval(dagster):
    home, start = dagster
    text, _ = (process := start(LIMIT, "success")).communicate()
    print(text[-2000:])
    assert process.returncode == 0
    found = dict(events(home))
    assert "STEP_SUCCESS" in found
    assert '"lower"' in found["ASSET_MATERIALIZATION"]
    assert "STEP_UP_FOR_RETRY" not in found
    assert recorded(home / "success.sqlite") == [0]


def test_interruption_is_retried_and_goes_on(dagster):
    home, start = dagster
    process = start(LIMIT, "interrupted")
    wait_until_busy(home / "interrupted", process).terminate()
    text, _ = process.communicate()
    print(text[-4000:])
    assert process.returncode == 0
    assert "bigspec: error: terminated. Everything up to here is saved" in text
    assert "continued from a checkpoint with" in text
    kinds = [kind for kind, _ in events(home)]
    assert kinds.count("STEP_UP_FOR_RETRY") == 1
    assert "STEP_SUCCESS" in kinds
    assert recorded(home / "interrupted.sqlite") == [0]  # one row a run, tries included


def test_failed_gate_is_not_retried(dagster):
    home, start = dagster
    text, _ = (process := start(1.0, "gate")).communicate()
    print(text[-2000:])
    assert process.returncode == 1
    assert "exit status 3: bigspec: failed: the norm exceeds max_norm 1.0" in text
    kinds = [kind for kind, _ in events(home)]
    assert "STEP_UP_FOR_RETRY" not in kinds
    assert "STEP_FAILURE" in kinds
