"""`bigspec norm` as an Airflow operator: retried when all is saved, failed at once by the gate.

Put this file into the DAGs folder; `bigspec` need not be in Airflow's own environment.
"""

import json
import subprocess
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pendulum
from airflow.sdk import DAG, BaseOperator, Context, Param
from airflow.sdk.exceptions import AirflowException, AirflowFailException

RETRIED = (69, 75)  # the cluster is not there; stopped early with everything saved
KILLED = 128  # above it, or negative: a signal, maybe before there was anything to save
KEPT = ("lower", "upper", "converged", "passes", "seconds", "status")


class BigspecNormOperator(BaseOperator):
    """Run `bigspec norm`; what it says goes to the log, the interval into XCom.

    Exit statuses 69 and 75, and a kill, leave the task up for retry; all others fail it for good.
    """

    template_fields: Sequence[str] = ("source", "checkpoint", "options")

    def __init__(
        self,
        *,
        source: str,
        checkpoint: str,
        options: Sequence[str] = (),
        command: str = "bigspec",
        **kwargs: Any,  # of every operator
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.checkpoint = checkpoint
        self.options = options
        self.command = command
        self.process: subprocess.Popen[str] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Run it, and sort its exit status."""
        arguments = [self.source, "--checkpoint", self.checkpoint, *self.options]
        said = "nothing"
        with TemporaryDirectory() as folder:
            answer = Path(folder) / "norm.json"
            with subprocess.Popen(
                [self.command, "norm", *arguments, "--json", str(answer)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as self.process:
                for line in self.process.stdout or ():
                    said = line.rstrip()
                    self.log.info(said)
            found = json.loads(answer.read_text()) if answer.exists() else {}
        found = {name: found[name] for name in KEPT if name in found}
        status = self.process.returncode
        if status:
            reason = f"exit status {status}: {said}"
            context["ti"].xcom_push("failure", {"exit_status": status, **found})
            if status in RETRIED or status < 0 or status > KILLED:
                raise AirflowException(reason)
            raise AirflowFailException(reason)
        return found

    def on_kill(self) -> None:
        """Let bigspec save when the task is cleared, marked or times out."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


with DAG(
    "bigspec_norm",
    schedule="0 3 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    params={
        "source": Param("/shared/A.zarr", type="string"),
        "max_norm": Param(1e3, type="number"),
        "checkpoints": Param("/shared/checkpoints", type="string"),
        "history": Param("/shared/history.sqlite", type="string"),
    },
) as dag:
    BigspecNormOperator(
        task_id="norm",
        source="{{ params.source }}",
        # A run and its retries share a checkpoint: a retry goes on where the last try stopped.
        checkpoint="{{ params.checkpoints }}/{{ run_id | replace(':', '-') }}",
        options=[
            *("--max-norm", "{{ params.max_norm }}"),
            *("--history", "{{ params.history }}", "--warm"),
        ],
        retries=5,
        retry_delay=timedelta(seconds=10),
        retry_exponential_backoff=True,
        max_retry_delay=timedelta(minutes=15),
    )
