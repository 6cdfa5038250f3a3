"""What the by-hand tests share: a run of half a minute, and an interruption in its middle."""

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
LIMIT = 148.42  # of the gate, just above the norm: SLOW needs some 140 passes to decide it
SLOW = {"BIGSPEC_ALGORITHM": "power", "BIGSPEC_BLOCK_SIZE": "8", "BIGSPEC_CHECKPOINT_INTERVAL": "1"}


def write_matrix(path):
    """A Gaussian matrix, 120 MB: its flat spectrum takes many passes."""
    rng = np.random.default_rng(0)
    A = zarr.create_array(
        path, shape=(6000, 5000), chunks=(200, 5000), dtype="float32", compressors=None
    )
    for top in range(0, 6000, 200):
        A[top : top + 200] = rng.standard_normal((200, 5000), dtype="float32")


def owner(checkpoints):
    """The checkpoint at or below a folder that a live process runs on, and the process."""
    for document in [*checkpoints.glob("owner/zarr.json"), *checkpoints.glob("*/owner/zarr.json")]:
        try:
            attributes = zarr.open_group(document.parent, mode="r").attrs
            process = psutil.Process(attributes["pid"])
            process.cpu_times()
        except (OSError, ValueError, KeyError, psutil.Error):
            continue
        return document.parents[1], process
    return None, None


def wait_until_busy(checkpoints, runner=None):
    """Wait until a run has saved three passes and makes more; return its process."""

    def busy():
        if runner is not None:
            assert runner.poll() is None, "it ended before it could be interrupted"
        place, process = owner(checkpoints)
        try:
            saved = bigspec.show(str(place)) if place else None
        except (OSError, ValueError):  # nothing is saved yet, or a step is just being replaced
            return None
        assert saved is None or not saved.finished, "it finished before it could be interrupted"
        return process if saved and saved.passes >= 3 else None

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
    return {**os.environ, **SLOW, "PATH": path, "PYTHONPATH": ""}
