"""`bigspec norm` as a Prefect task: retried when all is saved, failed at once by the gate.

python norm.py /shared/A.zarr 1000     (or norm_flow.serve(cron="0 3 * * *"))
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run

RETRIED = (69, 75)  # the cluster is not there; stopped early with everything saved
KILLED = 128  # above it, or negative: a signal, maybe before there was anything to save


class BigspecError(Exception):
    """`bigspec norm` ended with another exit status than 0."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"exit status {status}: {reason}")
        self.status = status


def is_retried(_task: object, _run: TaskRun, state: State) -> bool:
    """Retry what may end otherwise: a gate, bad data or a wrong option would not."""
    try:
        state.result()
    except BigspecError as error:
        return error.status in RETRIED or error.status < 0 or error.status > KILLED
    except Exception:  # of Prefect itself
        return True
    return False


@task(retries=5, retry_delay_seconds=[1, 10, 60, 300, 900], retry_condition_fn=is_retried)
def norm(source: str, checkpoint: str, *options: str) -> dict[str, Any]:
    """Run `bigspec norm`; what it says goes to the log, its JSON is the result."""
    logger = get_run_logger()
    with TemporaryDirectory() as folder:
        answer = Path(folder) / "norm.json"
        command = ["bigspec", "norm", source, "--checkpoint", checkpoint, *options]
        said = "nothing"
        with subprocess.Popen(
            [*command, "--json", str(answer)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                for line in process.stdout or ():
                    said = line.rstrip()
                    logger.info(said)
            except BaseException:  # cancelled: bigspec saves, and leaving the block waits for it
                process.terminate()
                raise
        if process.returncode:
            raise BigspecError(process.returncode, said)
        return json.loads(answer.read_text())


@flow
def norm_flow(
    source: str,
    max_norm: float,
    checkpoints: str = "checkpoints",
    history: str = "history.sqlite",
) -> dict[str, Any]:
    """Gate the norm of `source`; each flow run has its own checkpoint, all have one history."""
    checkpoint = f"{checkpoints}/{flow_run.get_id()}"
    gate = ["--max-norm", str(max_norm)]
    found = norm(source, checkpoint, *gate, "--history", history, "--warm")
    create_markdown_artifact(
        key="spectral-norm",
        description=source,
        markdown=f"sigma_1 in [{found['lower']:.9g}, {found['upper']:.9g}]\n\n{found['status']}",
    )
    return found


if __name__ == "__main__":
    norm_flow(sys.argv[1], float(sys.argv[2]))
