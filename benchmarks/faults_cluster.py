"""Runs on a Dask cluster whose workers are killed: the same bits, what it costs in time.

python -P benchmarks/faults_cluster.py workers [--runs 20] [--every 40]
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import dask
import numpy as np
import zarr

import bigspec
from bigspec.panels import choose_layout as layout
from bigspec.watch import Observer

CALL = {"rtol": 1e-7, "seed": 1, "algorithm": "lanczos", "block_size": 4}
SMALL = {"PANEL_BYTES": (1, 1), "ROUND_PANELS": 4, "READ_TO_RETURN": 1}


def make(folder):
    """64 chunks, one a panel; sigma_i = i ** -0.5."""
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.standard_normal((side, 60)))[0] for side in (320, 60))
    path = folder / "A.zarr"
    store = zarr.create_array(path, shape=(320, 60), chunks=(5, 60), dtype="f4")
    store[:] = (U * np.arange(1.0, 61.0) ** -0.5) @ V.T
    return path


class Killer(Observer):
    """Kills a worker every so many panels, of those whose nanny would restart them."""

    def __init__(self, cluster, every):
        self.cluster, self.every, self.left = cluster, every, every
        self.killed, self.done = [], 0

    def pass_started(self, number, panels):
        self.done = 0

    def panels_done(self, done, panels, bytes_read, seconds):
        self.left -= done - self.done
        self.done = done
        if self.left <= 0 and (pids := self.running()):
            os.kill(pids[0], signal.SIGKILL)
            self.killed.append(pids[0])
            self.left = self.every

    def running(self):
        from distributed import Status

        processes = [nanny.process for nanny in self.cluster.workers.values()]
        started = [p.pid for p in processes if p is not None and p.status == Status.running]
        return sorted(pid for pid in started if pid is not None and pid not in self.killed)


def workers(runs, every):
    """LocalCluster(3), a worker killed every few panels; one client for all runs."""
    from distributed import Client, LocalCluster

    vars(layout).update(SMALL)
    settings = {
        # LocalCluster closes a nanny whose worker is not there so long after a death.
        "distributed.deploy.lost-worker-timeout": "1h",
        "distributed.comm.timeouts.connect": "3s",
        "distributed.logging.distributed": "critical",
    }
    failures = kills = 0
    print(f"{'run':>4} {'kills':>6} {'seconds':>8}  bits")
    with tempfile.TemporaryDirectory() as folder, dask.config.set(settings):
        path = make(Path(folder))
        whole = bigspec.norm(path, **CALL)
        options = {"n_workers": 3, "threads_per_worker": 1, "dashboard_address": ":0"}
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        with (
            LocalCluster(**options, silence_logs=logging.CRITICAL) as cluster,
            Client(cluster) as client,
        ):
            for run in range(1, runs + 1):
                killer, began = Killer(cluster, every), time.perf_counter()
                try:
                    est = bigspec.norm(path, progress=killer, **CALL)
                    same = (est.lower, est.upper) == (whole.lower, whole.upper)
                    same = same and np.array_equal(est.right, whole.right)
                    verdict = "same" if same else f"OTHER: {est.lower!r} {est.upper!r}"
                except bigspec.BigspecError as error:
                    same, verdict = False, f"{type(error).__name__}: {error}"
                seconds = time.perf_counter() - began
                kills += len(killer.killed)
                failures += not same
                print(f"{run:4} {len(killer.killed):6} {seconds:8.1f}  {verdict}", flush=True)
            usable = client.submit(sum, [1, 2]).result() == 3
    print(f"{runs} runs, {kills} workers killed, {failures} failures; client usable: {usable}")
    return failures == 0 and usable and kills > 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=["workers"])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--every", type=int, default=40, help="panels between two kills")
    options = parser.parse_args()
    sys.exit(0 if workers(options.runs, options.every) else 1)


if __name__ == "__main__":
    main()
