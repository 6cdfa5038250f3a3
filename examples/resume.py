"""A run that is killed in the middle, and goes on to the same bits when it is called again."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import chdir, suppress

import dask.array as da
import numpy as np

import bigspec
from bigspec.watch import Observer

OPTIONS = {"rtol": 1e-6, "seed": 1, "algorithm": "lanczos"}


class Killed(Observer):
    """Dies as suddenly as on a node that loses its power, once a pass is saved."""

    def pass_finished(self, record):
        if record.number == 2:
            while not saved():  # in the background, while the next pass runs
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)


def saved():
    with suppress(bigspec.errors.CheckpointError):
        return bigspec.show("run").passes


def make_matrix():
    """A 48 MB matrix with slowly decaying singular values, in 50 chunks."""
    n = 600
    rng = np.random.default_rng(0)
    V = np.linalg.qr(rng.standard_normal((n, n)))[0] * np.arange(1, n + 1) ** -0.5
    (da.random.default_rng(0).standard_normal((10_000, n), chunks=(200, n)) @ V.T).to_zarr("A.zarr")


def main():
    make_matrix()
    child = subprocess.run([sys.executable, __file__, "dies"], check=False)
    print(f"the first process ended with {signal.Signals(-child.returncode).name}")
    print(bigspec.show("run"))
    est = bigspec.norm("A.zarr", checkpoint="run", **OPTIONS)
    print(f"went on to pass {est.passes}: sigma_1 in [{est.lower:.6f}, {est.upper:.6f}]")
    whole = bigspec.norm("A.zarr", **OPTIONS)
    assert (est.lower, est.upper) == (whole.lower, whole.upper)
    print("the same bits as a run that was not killed")


if __name__ == "__main__":
    if sys.argv[1:] == ["dies"]:
        sys.exit(bigspec.norm("A.zarr", checkpoint="run", progress=Killed(), **OPTIONS).status)
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        main()
