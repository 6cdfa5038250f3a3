"""`bigspec norm` as a Dagster asset: retried when all is saved, failed at once by the gate.

dagster asset materialize -f norm.py --select spectral_norm --config-json '{"ops": {...}}'
"""

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dagster import (
    AssetExecutionContext,
    Config,
    Definitions,
    Failure,
    MaterializeResult,
    RetryRequested,
    ScheduleDefinition,
    asset,
    define_asset_job,
)

RETRIED = (69, 75)  # the cluster is not there; stopped early with everything saved
KILLED = 128  # above it, or negative: a signal, maybe before there was anything to save
RETRIES, WAIT = 5, 10.0


class NormConfig(Config):
    """What to look at, and where a run saves itself."""

    source: str = "A.zarr"
    max_norm: float = 1e3
    checkpoints: str = "checkpoints"
    history: str = "history.sqlite"
    options: list[str] = []  # noqa: RUF012 - pydantic copies it; further options of `bigspec norm`


def run_bigspec(context: AssetExecutionContext, arguments: list[str]) -> tuple[int, str]:
    """Run `bigspec norm`; return its exit status and the last line of what it said."""
    said = "nothing"
    with subprocess.Popen(
        ["bigspec", "norm", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            for line in process.stdout or ():
                said = line.rstrip()
                context.log.info(said)
        except BaseException:  # terminated: bigspec saves, and leaving the block waits for it
            process.terminate()
            raise
    return process.returncode, said


@asset
def spectral_norm(context: AssetExecutionContext, config: NormConfig) -> MaterializeResult[Any]:
    """Gate the norm; a run and its retries share a checkpoint, so does a re-execution."""
    run = context.run.root_run_id or context.run.run_id
    with TemporaryDirectory() as folder:
        answer = Path(folder) / "norm.json"
        status, said = run_bigspec(context, [
            config.source, "--max-norm", str(config.max_norm),
            "--history", config.history, "--warm", *config.options,
            "--checkpoint", f"{config.checkpoints}/{run}", "--json", str(answer),
        ])  # fmt: skip
        found = json.loads(answer.read_text()) if answer.exists() else {}
    metadata = {
        name: found[name]
        for name in ("lower", "upper", "converged", "passes", "seconds", "status")
        if found.get(name) is not None
    }
    if status in RETRIED or status < 0 or status > KILLED:
        raise RetryRequested(max_retries=RETRIES, seconds_to_wait=WAIT)
    if status:
        reason = f"exit status {status}: {said}"
        raise Failure(description=reason, metadata=metadata, allow_retries=False)
    return MaterializeResult(metadata=metadata)


job = define_asset_job("norm_job", selection=["spectral_norm"])
defs = Definitions(
    assets=[spectral_norm],
    jobs=[job],
    schedules=[ScheduleDefinition(job=job, cron_schedule="0 3 * * *")],
)
