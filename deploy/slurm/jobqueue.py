"""A Dask cluster of Slurm jobs of its own, and `bigspec norm` on it.

python jobqueue.py /shared/A.zarr --checkpoint /shared/run --json norm.json

All arguments go to `bigspec norm`, whose exit status this script hands on. The workers are jobs
that come and go: bigspec begins with the first (BIGSPEC_MIN_WORKERS), for which it waits an hour
(BIGSPEC_WORKER_TIMEOUT), and runs with those that are there. A job that ends, preempted or at its
walltime, is followed by another.
"""

import os
import signal
import subprocess
import sys

from dask_jobqueue.slurm import SLURMCluster

JOBS = int(os.environ.get("BIGSPEC_JOBS", "4"))
CORES = int(os.environ.get("BIGSPEC_CORES", "8"))
MEMORY = os.environ.get("BIGSPEC_MEMORY", "32GiB")  # of a job; bigspec plans within half of it
WALLTIME = os.environ.get("BIGSPEC_WALLTIME", "04:00:00")
WAITING = {"BIGSPEC_MIN_WORKERS": "1", "BIGSPEC_WORKER_TIMEOUT": "1h"}  # of `bigspec norm` itself


def main(arguments: list[str]) -> int:
    """Run `bigspec norm` on workers that are Slurm jobs; return its exit status."""
    cluster = SLURMCluster(
        job_name="bigspec-worker",
        cores=CORES,
        processes=1,  # one process with threads: panels are read once, and products release the GIL
        memory=MEMORY,
        walltime=WALLTIME,
        job_directives_skip=["-n"],  # so that Slurm takes --ntasks from below
        job_extra_directives=["--ntasks=1"],
        scheduler_options={"dashboard_address": ":0"},
    )
    with cluster:
        address = cluster.scheduler_address
        command = ["bigspec", "norm", *arguments, "--scheduler", address]
        with subprocess.Popen(command, env=WAITING | os.environ) as bigspec:
            signal.signal(signal.SIGTERM, lambda *_: bigspec.terminate())
            while True:
                # Submits the jobs that are missing. adapt() would count those that have ended.
                cluster.scale(jobs=JOBS)
                try:
                    return bigspec.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
