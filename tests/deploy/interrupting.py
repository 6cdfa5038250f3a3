"""What the by-hand tests share: a matrix that takes seconds, and an interruption in its middle."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import zarr

import bigspec

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
LIMIT = 148.5  # of the gate, just above the norm: twenty passes decide it, 200 would take three


def write_matrix(path):
    """A Gaussian matrix, 120 MB: its flat spectrum takes some twenty passes."""
    rng = np.random.default_rng(0)
    A = zarr.create_array(
        path, shape=(6000, 5000), chunks=(200, 5000), dtype="float32", compressors=None
    )
    for top in range(0, 6000, 200):
        A[top : top + 200] = rng.standard_normal((200, 5000), dtype="float32")


def owner(checkpoints):
    """The live process that runs on the newest checkpoint below a folder, or None."""
    for document in [*checkpoints.glob("owner/zarr.json"), *checkpoints.glob("*/owner/zarr.json")]:
        try:
            attributes = zarr.open_group(document.parent, mode="r").attrs
            process = psutil.Process(attributes["pid"])
            process.cpu_times()
        except (OSError, ValueError, KeyError, psutil.Error):
            continue
        return process
    return None


def wait_until_busy(checkpoints, runner=None, seconds=3.0):
    """Wait until a run has worked for so many CPU seconds; return its process."""

    def busy():
        if runner is not None:
            assert runner.poll() is None, "it ended before it could be interrupted"
        process = owner(checkpoints)
        try:
            times = process.cpu_times() if process else None
        except psutil.NoSuchProcess:
            return None
        return process if times and times.user + times.system > seconds else None

    return until(busy)


def recorded(history):
    """Exit statuses of the rows of a history, oldest first."""
    return [row.exit_status for row in bigspec.History(history).rows()]


def until(condition, timeout=300.0):
    """Poll what another program does."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    msg = f"nothing within {timeout:g} s"
    raise TimeoutError(msg)


def environment(folder, requirements):
    """Make a virtual environment for one tool; return os.environ with it first in PATH.

    bigspec stays in the environment of the tests, as on a machine where the two would conflict.
    """
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "pip"), "install", "-q", "-r", str(requirements)]
    subprocess.run(pip, check=True, timeout=600)
    there = Path(sys.executable).parent
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"], str(there)])
    return {**os.environ, "PATH": path, "PYTHONPATH": ""}
