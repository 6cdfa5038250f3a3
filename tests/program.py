"""The command `bigspec` without its imports: each call is a fork of one process that made them.

Nine tenths of the time of a short command are imports. Everything else of it is real: a process of
its own that runs `bigspec.__main__.run` in the folder, the environment and the streams of whoever
calls. The process that is forked has done nothing but import and has one thread of Python's.

The client sends its three streams over a socket and ends with the status that comes back. It runs
without site packages, in 20 ms.
"""

import atexit
import importlib
import json
import os
import pkgutil
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from pathlib import Path

ROOM = 1 << 20
CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    call = [sys.argv[2:], os.getcwd(), dict(os.environ)]
    socket.send_fds(server, [len(data := json.dumps(call).encode()).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(data)
    os._exit(int(server.recv(8) or b"70"))
"""


class Program:
    """The process that is forked, for as long as this context lasts."""

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="bigspec-")  # a short path for a socket
        self.address = str(Path(self.folder.name) / "socket")
        line = [sys.executable, "-P", "-m", "tests.program", self.address]
        root = str(Path(__file__).parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            line, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, stdout=subprocess.PIPE
        )
        assert self.process.stdout.read(1) == b"!"
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)
        self.process.stdout.close()
        self.folder.cleanup()

    @property
    def command(self):
        """What a shell runs in the place of ``bigspec``."""
        return shlex.join([sys.executable, "-I", "-S", "-c", CLIENT, self.address])


def import_all():
    for room in ("api", "cli", "checkpoint", "conversion", "history", "passes", "results", "watch"):
        package = importlib.import_module(f"bigspec.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"bigspec.{room}."):
            importlib.import_module(module.name)
    for name in ("bigspec.__main__", "dask.array", "distributed", "scipy.stats", "zarr"):
        importlib.import_module(name)
    assert threading.active_count() == 1, "a fork would lack the other threads"


def fork():
    with warnings.catch_warnings(action="ignore"):  # of threads: BLAS starts its own again
        return os.fork()


def received(client):
    """Arguments, folder, environment and streams of a call."""
    head, streams, _, _ = socket.recv_fds(client, 4, 3)
    data = b""
    while len(data) < int.from_bytes(head, "big"):
        data += client.recv(ROOM)
    return *json.loads(data), streams


def answer(client):
    """Fork the command and send its status; whoever is answered does not wait for others."""
    arguments, folder, environment, streams = received(client)
    child = fork()
    if child:
        for stream in streams:
            os.close(stream)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        client.sendall(str(code if code >= 0 else 128 - code).encode())
        os._exit(0)
    client.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["bigspec", *arguments]


def serve(address):
    """Fork for each call. Returns in the process of the command alone."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        os.write(1, b"!")
        os.dup2(2, 1)
        while True:
            client, _ = server.accept()
            if not fork():
                answer(client)
                return
            client.close()
            for _ in iter(lambda: os.waitpid(-1, os.WNOHANG)[0], 0):
                pass


def end():
    """Run the command, and end as Python does, but leave the modules of the fork to the kernel."""
    from bigspec.__main__ import run

    status = 70
    try:
        run()
    except SystemExit as asked:
        status = asked.code or 0
    except BaseException:
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


if __name__ == "__main__":
    import_all()
    serve(sys.argv[1])
    end()
