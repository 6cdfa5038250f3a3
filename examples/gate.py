"""A gate in a pipeline: a step that runs the command, and goes by its exit status and its JSON.

The same step for a good week, for a week in which the matrix has grown, and for one with a NaN;
deploy/ has it for Airflow, Prefect, Dagster, Slurm and Kubernetes.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import zarr

LIMIT = 60.0
GOES_ON = {0}
TRY_AGAIN = {69, 75}  # the cluster is not there; stopped early with everything saved


def write(path, A):
    zarr.create_array(path, data=A, chunks=(100, A.shape[1]), overwrite=True)


def step(week):
    """Run the gate; return what a pipeline should do, why, and the answer if there is one."""
    answer = Path(f"{week}.json")
    command = [sys.executable, "-m", "bigspec", "norm", f"{week}.zarr", "--quiet"]
    gate = ["--max-norm", str(LIMIT), "--checkpoint", f"{week}.run", "--json", str(answer)]
    done = subprocess.run([*command, *gate], capture_output=True, text=True, check=False)
    if done.returncode in GOES_ON:
        decision = "go on"
    else:
        decision = "try again" if done.returncode in TRY_AGAIN else "stop"
    said = done.stderr or done.stdout
    found = json.loads(answer.read_text()) if answer.exists() else None
    return done.returncode, decision, said.splitlines()[-1], found


def main():
    A = np.random.default_rng(0).standard_normal((1_000, 300))  # norm about 49
    spoilt = A.copy()
    spoilt[123, 45] = np.nan
    for week, matrix in (("good", A), ("grown", 1.5 * A), ("spoilt", spoilt)):
        write(f"{week}.zarr", matrix)
        status, decision, why, found = step(week)
        interval = f"[{found['lower']:.3f}, {found['upper']:.3f}]" if found else "no interval"
        print(f"{week}: exit status {status}, so {decision}; {interval}; {why}")

    # The retry of a step that is done costs no read: the checkpoint has the answer.
    status, decision, _, found = step("good")
    print(f"again: exit status {status}, so {decision}; {found['passes']} pass(es) in all")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        main()
