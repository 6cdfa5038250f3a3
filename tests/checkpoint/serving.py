"""What the fault tests share: a store whose replies are held on schedule, a CLI process to signal.

The store is HTTP on loopback, so that one schedule in the test reaches the reads of every
process: threads, local workers, workers of another scheduler.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from functools import partial

# Small panels and rounds, so that a pass over a small matrix has many. Only the client cuts.
SMALL = {"PANEL_BYTES": (1, 1), "ROUND_PANELS": 4, "READ_TO_RETURN": 1}
# Where SIGINT is ignored, as in the background of a script, Python would ignore it too.
MAIN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "import bigspec.panels.choose_layout as layout, bigspec.__main__ as program; "
    f"vars(layout).update({SMALL!r}); program.LINGER = 0.5; program.run()"
)

# One run over 64 chunks in five passes, as a command and as a call.
CALL = {"rtol": 1e-7, "seed": 1, "algorithm": "lanczos", "block_size": 4}
ASKED = ["--rtol", "1e-7", "--seed", "1", "--algorithm", "lanczos", "--block-size", "4"]
ASKED += ["--no-pin"]  # chunks are asked for in every pass


class Served:
    """A folder behind HTTP, with a matrix A.zarr in it.

    Attributes
    ----------
    chunks : int
        Chunks asked for so far.
    on_chunk : callable or None
        Called with their number before each reply, in a thread of the server: what it does not
        return from is not answered.
    """

    def __init__(self, folder):
        self.chunks, self.on_chunk, self.lock = 0, None, threading.Lock()
        served = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self):
                if "/c/" in self.path:
                    with served.lock:
                        served.chunks += 1
                        number = served.chunks
                    if served.on_chunk is not None:
                        served.on_chunk(number)
                try:
                    super().do_GET()
                except ConnectionError:  # nobody waits for it any more
                    self.close_connection = True

            def log_message(self, *_):
                pass

        handler = partial(Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # clients that were killed
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.matrix = f"http://127.0.0.1:{self.server.server_port}/A.zarr"
        self.path = str(folder / "A.zarr")

    @contextmanager
    def holding(self, first):
        """Answer no chunk from the `first` one on; yield an event that it has been asked for."""
        reached, released = threading.Event(), threading.Event()

        def hold(number):
            if number >= first:
                reached.set()
                released.wait()

        self.chunks, self.on_chunk = 0, hold
        try:
            yield reached
        finally:
            self.on_chunk = None
            released.set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Run:
    """`bigspec norm` in a process of its own, and of its own process group."""

    def __init__(self, *args, patch="", **options):
        main = [sys.executable, "-c", patch + MAIN, "norm", *map(str, args), "--json", "-"]
        self.process = subprocess.Popen(
            main,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )

    def signal(self, number, *, group=False):
        send = os.killpg if group else os.kill
        send(self.process.pid, number)

    def kill(self):
        """What is left of its process group, should the test have failed."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.signal(signal.SIGKILL, group=True)
            self.process.communicate()

    def end(self, timeout=60):
        """Wait for the end; return the exit status, the JSON or None, and what was said."""
        try:
            out, self.said = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # its stacks, if PYTHONFAULTHANDLER is set
            out, self.said = self.process.communicate()
            raise AssertionError(f"not ended in {timeout} s: {self.said}") from None
        self.status = self.process.returncode
        self.answer = json.loads(out) if out else None
        return self


class Scheduler:
    """A Dask scheduler and workers as processes of their own."""

    def __init__(self, folder, workers=1):
        self.file = folder / "scheduler.json"
        self.file.unlink(missing_ok=True)
        self.scheduler = self._dask("scheduler", "--host", "127.0.0.1", "--port", 0)
        options = ("--nworkers", workers, "--nthreads", 1, "--death-timeout", 60)
        self.workers = self._dask("worker", *options)

    def _dask(self, kind, *options):
        command = [sys.executable, "-m", "dask", kind, "--scheduler-file", self.file, *options]
        return subprocess.Popen(
            [*map(str, command), "--dashboard-address", ":0"],
            cwd=self.file.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def close(self):
        for process in (self.workers, self.scheduler):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
