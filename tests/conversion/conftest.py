"""The child that is killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


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
