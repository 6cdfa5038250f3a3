"""Runs that are killed on schedule: what `test_kills.py` and `benchmarks/faults.py` share.

A runner process imports bigspec once and forks a child for each run. A child kills itself with
SIGKILL at a scheduled panel or file operation of its checkpoint, and writes down in one log what
it loads, reads and saves, so that it can be told afterwards what was lost.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import types
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import dask
import numpy as np
import zarr
import zarr.storage._local as local_store

import bigspec
from bigspec.checkpoint import contents, lease, store, writer
from bigspec.panels import choose_layout, layout
from bigspec.passes import executor
from bigspec.watch import Observer
from tests.matrices import decaying

ROUND_PANELS = 3
THREADS = 2
WINDOW = 2  # rounds in flight
SECONDS = 120  # after which a child that hangs is ended
PHASES = ("before", "folder", "half", "unnamed", "after")
"""Of a file operation: nothing done; its folder made; half of a temporary file written, or all
of it and not yet renamed; done. Removals know three: nothing, the first or the last file, all."""

# What is killed: shape, kind of matrix, options; `basis` is whether Lanczos keeps one.
ROWS = {
    "lanczos": ((600, 300), False, {"algorithm": "lanczos", "block_size": 8}),
    "lanczos, complex": ((480, 200), True, {"algorithm": "lanczos", "block_size": 6}),
    "lanczos, three blocks": (
        (600, 300),
        False,
        {"algorithm": "lanczos", "block_size": 8, "basis": False},
    ),
    "lanczos, wide, warm": (
        (300, 600),
        False,
        {"algorithm": "lanczos", "block_size": 6, "start": 2},
    ),
    "power": ((600, 300), False, {"algorithm": "power", "block_size": 8}),
    "power, complex, warm": (
        (480, 200),
        True,
        {"algorithm": "power", "block_size": 4, "start": 2},
    ),
    "gram": ((1800, 60), False, {"algorithm": "gram"}),
    "gram, complex": ((1200, 50), True, {"algorithm": "gram"}),
}
PANELS = 60
SEED = 11


@dataclass(frozen=True)
class Kill:
    """At the k-th `what` ("panel" or "write") of a process."""

    what: str
    number: int
    phase: str = "before"


@dataclass(frozen=True)
class Job:
    """One process: which run, where it is saved, when it is killed."""

    row: str
    matrix: str
    log: str
    out: str
    checkpoint: str | None = None
    kill: dict | None = None
    interval: float = 0.0  # in panels
    waited: bool = True  # for each save before the next panel; else saving goes on beside


@dataclass
class Chain:
    """What came of a run that was killed and begun again until it finished."""

    killed: list[Kill]
    answer: dict
    log: list[tuple] = field(repr=False)
    again: int = 0  # panels read twice
    most: int = 0  # after one kill

    def writes(self, *parts, process=0):
        """Numbers, within one process, of the file operations on paths with all `parts` in them."""
        events = [e for e in processes(self.log)[process] if e[0] == "write"]
        return [e[1] for e in events if all(part in e[2] for part in parts)]


# In the parent -------------------------------------------------------------------------------


def make_matrix(row, place):
    """Write the matrix of a row, if it is not there: 60 panels of one strip of chunks each."""
    shape, complex_, _ = ROWS[row]
    path = Path(place) / f"{'x'.join(map(str, shape))}{'-complex' if complex_ else ''}.zarr"
    if not path.exists():
        A = decaying(*shape, 0.5, complex_=complex_).astype("c8" if complex_ else "f4")
        long = max(shape) // PANELS
        chunks = (long, shape[1]) if shape[0] >= shape[1] else (shape[0], long)
        zarr.create_array(path, shape=shape, chunks=chunks, dtype=A.dtype)[:] = A
    return str(path)


class Runner:
    """A warm process that forks one child a job; use it as a context."""

    def __enter__(self):
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        quiet = {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from tests.checkpoint.killing import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | quiet,
            text=True,
        )
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(timeout=SECONDS)
        self.process.stdout.close()

    def run(self, job):
        """Return the exit status of the child, negative for a signal."""
        self.process.stdin.write(json.dumps(asdict(job)) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def answer(self, job):
        """Run it to its end and return the answer."""
        status = self.run(job)
        said = json.loads(Path(job.out).read_text()) if status in (0, 1) else {}
        assert status == 0, f"{job.row}: exit status {status}\n{said.get('error', '')}"
        return said

    def reference(self, row, place):
        """The answer of a run that was never saved nor killed."""
        matrix, out = make_matrix(row, place), str(Path(place) / f"{row} alone")
        return self.answer(Job(row, matrix, f"{out}.log", out))

    def chain(self, row, place, kills, *, matrices=None, **options):
        """Run, killed once for each of `kills`, and once more to the end."""
        place = Path(place)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        matrix = make_matrix(row, matrices or place.parent)
        done = []
        for kill in [*kills, None]:
            job = Job(
                row,
                matrix,
                str(place / "log"),
                str(place / "out"),
                checkpoint=str(place / "run"),
                kill=None if kill is None else asdict(kill),
                **options,
            )
            status = self.run(job)
            if status == -signal.SIGKILL:
                done.append(kill)
                continue
            assert status == 0, f"{row}, after {done}: exit status {status}\n{_error(job)}"
            break  # the last one, or one that finished before its time to die came
        return Chain(done, json.loads(Path(job.out).read_text()), read_log(place / "log"))


def _error(job):
    try:
        return json.loads(Path(job.out).read_text()).get("error", "")
    except OSError:
        return ""


def read_log(path):
    """Return the events: a word, then numbers or text."""
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return [tuple(int(part) if part.isdecimal() else part for part in line) for line in lines]


def processes(log):
    """Cut a log into one list of events a process."""
    parts = []
    for event in log:
        if event[0] == "begin":
            parts.append([])
        else:
            parts[-1].append(event)
    return parts


def drawn_kills(rng, count, *, panels, writes):
    """Draw panels up to the given one, and writes in all their phases, in turns."""
    at_panel = [Kill("panel", rng.randint(1, panels)) for _ in range(count)]
    at_write = [Kill("write", rng.randint(1, writes), rng.choice(PHASES)) for _ in range(count)]
    both = [kill for pair in zip(at_panel, at_write, strict=True) for kill in pair]
    return both[:count] if rng.random() < 0.5 else both[1 : count + 1]


def check(chain, reference, *, interval=None):
    """Assert that nothing but time was lost, and count the panels read twice.

    Of each process after the first: it goes on from the newest save that was complete when the
    one before was killed; it reads no panel that this save holds, and every other one once.
    What is read again was begun after that save was taken, or in flight then. With `interval`
    (of a run that waits for its saves) it is at most one interval.
    """
    other = {key: chain.answer[key] for key in reference if chain.answer[key] != reference[key]}
    assert not other, f"{chain.killed}: {other}, not { ({key: reference[key] for key in other}) }"
    flight = WINDOW * ROUND_PANELS
    before, needed = [], (0, 0)
    everything = set()
    for events in processes(chain.log):
        loaded = next((e[1:] for e in events if e[0] == "loaded"), None)
        if loaded is None:  # killed even before it could load
            continue
        assert loaded >= needed, f"{chain.killed}: saved {needed}, went on from {loaded}"
        lost = [e[1:] for e in before if e[0] == "panel" and not holds(loaded, e[1:])]
        if lost:
            taken = max(
                (k for k, e in enumerate(before) if e[0] in ("offer", "loaded") and e[1:] == loaded)
            )
            since = sum(e[0] == "panel" for e in before[taken:])
            assert len(lost) <= since + flight, f"{chain.killed}: {len(lost)} lost, {since} since"
            if interval is not None:
                # 0.6 of an interval, the round that ends it, what was in flight then and is now.
                bound = interval
                assert len(lost) <= bound, f"{chain.killed}: {len(lost)} lost of at most {bound}"
        chain.again += len(lost)
        chain.most = max(chain.most, len(lost))
        reads = [e[1:] for e in events if e[0] == "panel"]
        assert len(set(reads)) == len(reads), f"{chain.killed}: read twice in one process"
        assert not any(holds(loaded, read) for read in reads), f"{chain.killed}: read in vain"
        everything |= set(reads)
        needed = max(e[1:] for e in events if e[0] in ("saved", "loaded"))
        before = events
    wanted = {(p + 1, k) for p in range(reference["passes"]) for k in range(reference["panels"])}
    assert everything == wanted
    total = sum(e[0] == "panel" for e in chain.log)
    assert total == len(wanted) + chain.again
    return chain


def holds(position, panel):
    """Whether a save at (passes, rounds) holds (pass, panel)."""
    passes, rounds = position
    return panel[0] <= passes or (panel[0] == passes + 1 and panel[1] < rounds * ROUND_PANELS)


# In the child --------------------------------------------------------------------------------


def serve():
    """Fork a child for each job that comes in, and answer with its exit status."""
    import distributed.system  # what a run imports late, so that no child has to

    assert distributed.system.MEMORY_LIMIT
    assert threading.active_count() == 1  # or a fork would be unsafe
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = run(Job(**json.loads(line)))
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


def run(job):
    signal.alarm(SECONDS)
    warnings.simplefilter("error")  # half-written is invisible: no kill may be heard of later
    place = Path(job.checkpoint) if job.checkpoint else None
    try:
        child = Child(job)
        said = child.norm()
        if place is not None:
            look_at_finished(place, tidy=child.counts["saved"] > 0)
        status = 0
    except BaseException:  # noqa: BLE001, RUF100 - whatever it is, the parent shall see it
        said, status = {"error": traceback.format_exc()}, 1
    Path(job.out).write_text(json.dumps(said))
    return status


def look_at_finished(place, *, tidy):
    """Nothing damaged, no owner; if `tidy`, two records at most, their blocks, no more.

    A run that was killed when it had finished and only had to tidy up is not tidied up later.
    """
    saved = bigspec.show(place)
    assert saved.finished
    assert saved.place["owner"] is None
    assert not saved.place["damage"]
    if not tidy:
        return
    assert 1 <= len(list((place / "records").iterdir())) - 1 <= writer.KEPT  # and a document
    assert not list(place.rglob("*.partial"))
    held = zarr.open_group(place, mode="r")
    named = set()
    for _, record in held["records"].groups():
        named.update(contents.block_names(dict(record.attrs)))
    assert {path.name for path in (place / "blocks").iterdir() if path.is_dir()} == named


class Child:
    """A process that dies on schedule."""

    def __init__(self, job):
        self.job, self.kill = job, Kill(**job.kill) if job.kill else None
        self.counts = Counter()
        self.lock = threading.Lock()
        self.pass_number = 0
        self.log = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, word, *numbers):
        os.write(self.log, (" ".join(map(str, (word, *numbers))) + "\n").encode())

    def due(self, what):
        """Count an event; return its number, and the phase in which to die or nothing."""
        with self.lock:
            self.counts[what] += 1
            number = self.counts[what]
        kill = self.kill
        return number, kill.phase if kill and (kill.what, kill.number) == (what, number) else ""

    def writing(self, path):
        """Note a file operation of the checkpoint; return the phase in which to die."""
        number, phase = self.due("write")
        self.note("write", number, Path(path).relative_to(self.job.checkpoint))
        return phase

    def norm(self):
        """Run to the end, if it comes to that, and return all that must not depend on kills."""
        shape, _, asked = ROWS[self.job.row]
        asked = dict(asked)
        self.force_rounds(basis=asked.pop("basis", True))
        self.watch_panels()
        checkpoint = None
        if self.job.checkpoint:
            self.watch_saves()
            self.watch_files()
            checkpoint = bigspec.Checkpoint(self.job.checkpoint, interval=self.job.interval)
        if "start" in asked:
            rng = np.random.default_rng(5)
            asked["start"] = rng.standard_normal((min(shape), asked["start"]))
        observer = Observer()
        observer.pass_started = self.pass_started
        self.note("begin")
        with dask.config.set(num_workers=THREADS):
            est = bigspec.norm(
                self.job.matrix,
                checkpoint=checkpoint,
                seed=SEED,
                rtol=1e-6,
                progress=observer,
                pin=False,  # a process that goes on reads again what the one before had kept
                **asked,
            )
        assert est.layout["panels"] == PANELS
        return {
            "lower": est.lower.hex(),
            "upper": est.upper.hex(),
            "right": _digest(est.right),
            "left": _digest(est.left),
            "frobenius": est.frobenius.hex(),
            "history": [[r.lower.hex(), r.upper.hex(), r.bytes_read] for r in est.history],
            "ritz": [[value.hex() for value in r.ritz_values] for r in est.history],
            "passes": est.passes,
            "panels": est.layout["panels"],
            "status": est.status,
        }

    def force_rounds(self, *, basis):
        choose_layout.PANEL_BYTES = (1, 1)
        choose_layout.READ_TO_RETURN = 0
        choose_layout.ROUND_PANELS = ROUND_PANELS
        executor.WINDOW = WINDOW * ROUND_PANELS // THREADS
        store.CHUNK_BYTES = 4 << 10  # several chunks a block
        lease.TIMING = lease.Timing(settle=0.0)  # nobody races here
        if not basis:
            layout.Memory.spare = 0

    def pass_started(self, number, panels):
        self.pass_number = number

    def watch_panels(self):
        inner = executor.run_panel

        def run_panel(context, index, chunks):
            self.note("panel", self.pass_number, index)
            if self.due("panel")[1]:
                die()
            return inner(context, index, chunks)

        executor.run_panel = run_panel

    def watch_saves(self):
        """Note what is loaded, offered and saved; let the writer's clock count panels."""
        offer, save, load = writer.Writer.offer, writer.Writer._save, writer.Writer.open

        def position(value):
            return (0, 0) if value is None else (len(value.history), value.first_rounds.rounds)

        def offered(keeper_, kind, value):
            self.note("offer", *position(value))
            offer(keeper_, kind, value)
            if self.job.waited:
                assert keeper_.flush()

        def saved(keeper_, kind, value):
            save(keeper_, kind, value)
            self.counts["saved"] += 1
            self.note("saved", *position(value))

        def loaded(keeper_):
            value = load(keeper_)
            self.note("loaded", *position(value))
            return value

        writer.Writer.offer, writer.Writer._save = offered, saved
        writer.Writer.open = loaded
        writer.time = types.SimpleNamespace(
            monotonic=lambda: self.counts["panel"], strftime=time.strftime, gmtime=time.gmtime
        )

    def watch_files(self):
        """Count what the checkpoint writes and removes, and die at one of these."""
        put, rmtree = local_store._put, shutil.rmtree

        def scheduled_put(path, value, exclusive=False):
            phase = self.writing(path)
            if phase == "before":
                die()
            if phase in ("folder", "half", "unnamed"):
                path.parent.mkdir(parents=True, exist_ok=True)
                data = bytes(value.as_buffer_like())
                if phase != "folder":
                    end = len(data) if phase == "unnamed" else len(data) // 2
                    path.with_suffix(".0123456789abcdef.partial").write_bytes(data[:end])
                die()
            try:
                return put(path, value, exclusive)
            finally:
                if phase == "after":
                    die()

        def scheduled_rmtree(path):
            phase = self.writing(path)
            if phase == "before":
                die()
            if phase in ("folder", "half", "unnamed"):
                files = sorted(p for p in Path(path).rglob("*") if p.is_file())
                for file in files[-1:] if phase == "half" else files[:1]:
                    file.unlink()
                die()
            rmtree(path)
            if phase == "after":
                die()

        local_store._put = scheduled_put
        local_store.shutil = types.SimpleNamespace(rmtree=scheduled_rmtree)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def _digest(vector):
    if vector is None:
        return None
    return hashlib.sha256(f"{vector.dtype}{vector.shape}".encode() + vector.tobytes()).hexdigest()
