"""Killed at any moment, the same command goes on to the same bytes; nothing half done is seen."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import zarr

import bigspec
from bigspec.errors import BigspecError


@pytest.fixture(scope="module")
def child():
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(
        [sys.executable, "-c", "from tests.conversion.killing import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": paths},
        text=True,
    ) as process:

        def convert(at, source, destination, form):
            process.stdin.write(f"{at} {source} {destination} {form}\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield convert
        process.stdin.close()


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("row", ["sorted again", "copied"])
def test_killed_again_and_again(row, child, tmp_path):
    rng = np.random.default_rng(0)
    A = sp.random_array((60, 40), density=0.25, rng=rng, format="csr")
    if row == "copied":
        source, form = tmp_path / "A.zarr", "csr"
        bigspec.convert(A, source)
    else:
        source, form = tmp_path / "A.mtx", "csc"
        scipy.io.mmwrite(source, A)
    assert child(0, source, tmp_path / "whole.zarr", form) == 0
    count = int((tmp_path / "whole.count").read_text())
    whole = contents(tmp_path / "whole.zarr")
    draw = random.Random(row)
    everywhere = {1, 3, count - 2, count - 1, count}
    for first in sorted(everywhere | set(draw.sample(range(4, count), 4))):
        place = tmp_path / f"{first}.zarr"
        kills = [first, draw.randint(1, count // 2)]
        for at in kills:
            status = child(at, source, place, form)
            assert status in (0, -signal.SIGKILL)
            if not place.exists():
                with pytest.raises(BigspecError):
                    bigspec.open_matrix(place)
            else:
                assert contents(place) == whole
                break
        else:
            assert child(0, source, place, form) == 0
        assert contents(place) == whole, f"killed at {kills} of {count}"
        # Killed between its last two steps, it leaves a folder, which the next run may take.
        if not place.with_name(place.name + ".partial").exists():
            continue
        assert not (place.with_name(place.name + ".partial") / "matrix").exists()
    B = zarr.open_group(tmp_path / "whole.zarr", mode="r")
    assert B.attrs["encoding-type"] == f"{form}_matrix"
