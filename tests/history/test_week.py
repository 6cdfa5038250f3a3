"""The simulated week of benchmarks/week.py, on a small matrix."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_week_of_nights():
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "benchmarks/week.py", "--rows", "1600", "--columns", "400", "--json"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    nights = json.loads(done.stdout)
    assert [(what, status) for _, what, status, *_ in nights] == [
        ("as usual", "0"),
        ("as usual", "0"),
        ("NaN", "65"),
        ("as usual", "0"),
        ("preempted", "75"),
        ("the same command", "0"),
        ("as usual", "0"),
        ("a jump of 10 %", "3"),
    ]
    answered = [night for night in nights if night[3] != "-"]
    assert [start for *_, start, _, _ in answered] == ["cold", *["warm"] * 5]
    cold, *warm = (int(passes) for _, _, _, passes, *_ in answered)
    assert all(passes <= 2 < cold for passes in warm)
