"""The doors of bigspec, and the process that tries hostile sources at them (test_hostile.py)."""

import faulthandler
import json
import resource
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import zarr
from click.testing import CliRunner
from distributed import Client, LocalCluster

import bigspec
from bigspec.cli import main
from bigspec.errors import DataError, MemoryLimitError, SourceError

LIMIT = 256 << 20
SECONDS = 10
KINDS = {2: MemoryLimitError, 65: DataError, 66: SourceError}


def by_path(source, folder):
    return bigspec.norm(source, memory_limit=LIMIT, rtol=1e-9).value


@cache
def client():
    """A worker in this process, so that its memory is seen."""
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0", memory_limit=0
    )
    return Client(cluster, set_as_default=False)


def by_cluster(source, folder):
    with client().as_current():
        return by_path(source, folder)


def by_svds(source, folder):
    return float(bigspec.svds(source, 1, memory_limit=LIMIT, rtol=1e-9).s[0])


def by_object(source, folder):
    node = zarr.open(source, mode="r")
    return bigspec.norm(node, memory_limit=LIMIT, rtol=1e-9).value


def by_expression(source, folder):
    return bigspec.norm(bigspec.vstack([source]) * 1.0, memory_limit=LIMIT, rtol=1e-9).value


def by_minus(source, folder):
    """The command; its exit status tells the kind of error."""
    if not (folder / "Z.npy").exists():
        np.save(folder / "Z.npy", np.zeros((2, 2)))
    arguments = ["norm", str(folder / "Z.npy"), "--minus", source, "--rtol", "1e-9", "--quiet"]
    done = CliRunner().invoke(main, [*arguments, "--memory-limit", str(LIMIT), "--json", "-"])
    if done.exit_code:
        raise KINDS.get(done.exit_code, RuntimeError)(done.stderr)
    return json.loads(done.stdout)["lower"]


def by_convert(source, folder):
    place = folder / "out.zarr"
    bigspec.convert(source, place, memory_limit=LIMIT, overwrite=True)
    return bigspec.norm(place, rtol=1e-9).value


DOORS = {
    "path": by_path,
    "cluster": by_cluster,
    "svds": by_svds,
    "object": by_object,
    "expression": by_expression,
    "minus": by_minus,
    "convert": by_convert,
}


def peak():
    """Return the most bytes that this process held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def answers(cases):
    """Yield what each case got at each of its doors."""
    bigspec.norm(np.eye(3), memory_limit=LIMIT)
    bigspec.svds(np.eye(3), 1, memory_limit=LIMIT)
    client()
    before = peak()
    for case in cases:
        folder = Path(case["source"]).parent
        for door in case["doors"]:
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            began = time.monotonic()
            try:
                kind, message = "answered", str(DOORS[door](case["source"], folder))
            except Exception as error:
                kind, message = type(error).__name__, str(error)
            faulthandler.cancel_dump_traceback_later()
            left = [path.name for path in folder.iterdir() if path.name.startswith(("out", "ran"))]
            yield {
                "name": case["name"], "door": door, "kind": kind, "message": message,
                "seconds": time.monotonic() - began, "peak": peak() - before, "left": left,
            }  # fmt: skip


if __name__ == "__main__":
    for answer in answers(json.load(sys.stdin)):
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
