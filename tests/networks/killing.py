"""Scans that end themselves by a signal, each in a child of one server that has all imported.

An interpreter of its own, or a child that imports Dask, takes longer than the scan.
"""

import multiprocessing
import os
import signal
import sys

import distributed  # noqa: F401
import safetensors.numpy  # noqa: F401

from bigspec import scan
from bigspec.cli import scan as scan_command  # noqa: F401
from bigspec.networks import checkpoint, formats, rows  # noqa: F401


def scan_until(path, place, rows):
    """Scan, and kill this process when `rows` rows are in the checkpoint, or at an odd count
    in the middle of the write that follows."""
    add = checkpoint.Saver.add
    done = 0

    def counted(self, row):
        nonlocal done
        add(self, row)
        done += 1
        if done > rows:  # the next one is being written, or not, as it happens
            os.kill(os.getpid(), signal.SIGKILL)
        self.writer.flush()
        if done == rows and rows % 2 == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.Saver.add = counted
    scan(path, checkpoint=place, seed=5, rtol=1e-4).run()
    sys.exit(0)


def command(arguments, out, err):
    """Run a command of which a SIGTERM comes right after the first task of its scan."""
    for file, number in ((out, 1), (err, 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    advance = rows._Progress.advance

    def once(self, task):
        advance(self, task)
        os.kill(os.getpid(), signal.SIGTERM)

    rows._Progress.advance = once
    sys.argv = ["bigspec", *arguments]
    from bigspec.__main__ import run

    run()


def _ended(target, *arguments):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    child = context.Process(target=target, args=arguments)
    child.start()
    child.join(60)
    return child.exitcode


def killed(path, place, rows):
    """Return the exit code of a scan that is killed after so many rows."""
    return _ended(scan_until, str(path), str(place), rows)


def terminated(arguments, folder):
    """Return the exit code, the output and the errors of a command that gets a SIGTERM."""
    files = folder / "out", folder / "err"
    code = _ended(command, arguments, *map(str, files))
    return code, *(file.read_text() for file in files)
