"""A week of nightly runs on a matrix that changes a little: history, warm start, gate on change.

One night finds a NaN, one is preempted (SIGTERM in the middle of a pass) and run again. Prints the
table of docs/operating.md. Each run is a process of its own, as a scheduler would start it:

    python -P benchmarks/week.py            # 1 GB
    python -P benchmarks/week.py --rows 1600 --columns 400
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import zarr

import bigspec

DAILY = 1e-3
NIGHTS = ("as usual", "as usual", "NaN", "as usual", "preempted", "as usual", "a jump of 10 %")
HEADS = ("night", "what happened", "exit status", "passes", "start", "gate", "relative width")


def make(place, m, n, rng):
    """Singular values like i^-1/2 over a floor of noise, in chunks of whole rows."""
    rank = min(64, n // 4)
    U, V = (np.linalg.qr(rng.standard_normal((length, rank)))[0] for length in (m, n))
    signal_part = (U * np.arange(1, rank + 1) ** -0.5) @ V.T
    store = zarr.create_array(
        place, shape=(m, n), chunks=(max(1, m // 32), n), dtype="f4", compressors=None,
    )  # fmt: skip
    noise = 0.02 / (np.sqrt(m) + np.sqrt(n))
    for first in range(0, m, store.chunks[0]):
        rows = slice(first, first + store.chunks[0])
        part = signal_part[rows]
        store[rows] = part + noise * rng.standard_normal(part.shape)
    return store


def change(store, rng, size=DAILY):
    """Add noise of spectral norm about `size` (sigma_1 is about 1)."""
    m, n = store.shape
    scale = size / (np.sqrt(m) + np.sqrt(n))
    for first in range(0, m, store.chunks[0]):
        rows = slice(first, first + store.chunks[0])
        part = store[rows]
        store[rows] = part + scale * rng.standard_normal(part.shape, dtype="f4")


def multiply(store, factor):
    for first in range(0, store.shape[0], store.chunks[0]):
        rows = slice(first, first + store.chunks[0])
        store[rows] = factor * store[rows]


def night(place, number, *, preempt=False):
    """Run the command once; with `preempt`, send SIGTERM when its first pass hangs in a chunk."""
    command = [
        sys.executable, "-m", "bigspec", "norm", "A.zarr", "--config", "night.toml",
        "--checkpoint", f"run-{number}",
    ]  # fmt: skip
    if not preempt:
        return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    chunk = max((place / "A.zarr" / "c").iterdir(), key=lambda path: int(path.name)) / "0"
    content = chunk.read_bytes()
    chunk.unlink()
    os.mkfifo(chunk)  # a chunk that does not come: opening it waits for a writer
    process = subprocess.Popen(
        command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    said, done = "", -1
    for text in process.stderr:
        said += text
        line = json.loads(text)
        if line["event"] == "heartbeat":
            if line["panels_done"] == done:  # no further than a heartbeat ago
                process.send_signal(signal.SIGTERM)
            done = line["panels_done"]
        elif line["event"] == "error":  # saved, and said; the thread that still waits may go
            with suppress(OSError):
                os.close(os.open(chunk, os.O_WRONLY | os.O_NONBLOCK))
    chunk.unlink()
    chunk.write_bytes(content)
    return subprocess.CompletedProcess(command, process.wait(), "", said)


def week(place, m, n):
    """Return the rows of the table."""
    rng = np.random.default_rng(0)
    store = make(place / "A.zarr", m, n, rng)
    (place / "night.toml").write_text(
        'history = "history.sqlite"\nwarm = true\nmax-change = 0.01\nheartbeat = 0.1\n'
        'log-format = "json"\nalgorithm = "lanczos"\n'
    )
    table = []
    for number, what in enumerate(NIGHTS, start=1):
        if number > 1:
            change(store, rng)
        if what == "NaN":
            kept = float(store[m // 2, n // 2])
            store[m // 2, n // 2] = np.nan
        if what.startswith("a jump"):
            multiply(store, np.float32(1.1))
        done = night(place, number, preempt=what == "preempted")
        table.append(row(place, number, what, done))
        if what == "NaN":
            store[m // 2, n // 2] = kept
        if what == "preempted":
            table.append(row(place, number, "the same command", night(place, number)))
    return table


def row(place, number, what, done):
    run = bigspec.History(place / "history.sqlite").rows(last=1)[0]
    if done.returncode != run.exit_status:
        raise RuntimeError(done.stderr)
    if run.upper is None:
        return (str(number), what, str(done.returncode), "-", "-", "-", "-")
    start = "cold" if run.warm_from is None else "warm"
    gate = run.gate["outcome"]
    return (str(number), what, str(done.returncode), str(run.passes), start, gate,
            f"{run.width:.1e}")  # fmt: skip


def shown(table):
    lines = ["| " + " | ".join(cells) + " |" for cells in (HEADS, *table)]
    return "\n".join([lines[0], "|" + "--|" * len(HEADS), *lines[1:]])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=32_768)
    parser.add_argument("--columns", type=int, default=8_192)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place, began = Path(folder), time.monotonic()
        table = week(place, asked.rows, asked.columns)
        if asked.json:
            sys.stdout.write(json.dumps(table))
            return
        print(shown(table))
        print(f"\n{asked.rows * asked.columns * 4 / 1e9:.2f} GB, "
              f"{time.monotonic() - began:.0f} s in all\n")  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "bigspec", "history", "history.sqlite"],
            cwd=place, capture_output=True, text=True, check=True,
        )  # fmt: skip
        print(done.stdout)


if __name__ == "__main__":
    main()
