"""Every example runs as a user would run it: a process of its own, warnings being errors."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

import bigspec

EXAMPLES = Path(__file__).parents[1] / "examples"
DATA = EXAMPLES / "data" / "fashion_mnist.zarr"
SIGMA_1 = 2.681266223092185e05  # examples/data/README.md

SHOWN = {
    "out_of_core.py": "of a matrix of 153 MiB",
    "gate.py": "grown: exit status 3, so stop",
    "cluster.py": "on the cluster:",
    "low_rank_error.py": "times the least possible distance",
    "compare.py": "after centring",
    "pca.py": "10 directions explain between",
    "lipschitz.py": "product of the norms",
    "warm_start.py": "warm;",
    "resume.py": "the same bits as a run that was not killed",
}


def run(script, *arguments, cwd):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / script), *arguments],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize("script", sorted(SHOWN))
def test_example_runs(script, tmp_path):
    done = run(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert SHOWN[script] in done.stdout
    assert not list(tmp_path.iterdir())


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SHOWN, "make_data.py"}


@pytest.mark.parametrize("script", sorted(SHOWN))
def test_examples_are_short(script):
    assert len((EXAMPLES / script).read_text().splitlines()) < 60


def test_shipped_matrix_has_its_reference_norm():
    est = bigspec.norm(DATA, rtol=1e-10)
    assert est.converged
    assert est.lower <= SIGMA_1 * (1 + 1e-15)
    assert est.upper >= SIGMA_1 * (1 - 1e-15)


def test_shipped_matrix_is_the_published_file(data):
    packed = gzip.decompress((data / "fashion-mnist-t10k-images-idx3-ubyte.gz").read_bytes())
    A = np.frombuffer(packed, np.uint8, offset=16).reshape(10_000, 784)
    np.testing.assert_array_equal(zarr.open_array(DATA, mode="r")[:], A)


def test_make_data_makes_the_shipped_matrix(data, tmp_path):
    source = data / "fashion-mnist-t10k-images-idx3-ubyte.gz"
    done = run("make_data.py", str(source), "again.zarr", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made, shipped = (p.joinpath("zarr.json").read_text() for p in (tmp_path / "again.zarr", DATA))
    assert made == shipped
    A = zarr.open_array(tmp_path / "again.zarr", mode="r")[:]
    np.testing.assert_array_equal(A, zarr.open_array(DATA, mode="r")[:])


def test_make_data_refuses_another_file(tmp_path):
    labels = tmp_path / "labels.gz"
    labels.write_bytes(gzip.compress(b"\x00\x00\x08\x01" + bytes(12)))
    done = run("make_data.py", str(labels), "labels.zarr", cwd=tmp_path)
    assert done.returncode == 1
    assert "expected an idx3-ubyte file" in done.stderr
