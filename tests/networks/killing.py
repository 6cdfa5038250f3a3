"""Scans that end themselves with SIGKILL once so many rows are saved; see `test_saved.py`."""

import multiprocessing
import os
import signal
import sys

from bigspec import scan
from bigspec.networks import saved


def scan_until(path, place, rows):
    """Scan, and kill this process when `rows` rows are in the checkpoint, or at an odd count
    in the middle of the write that follows."""
    add = saved.Saver.add
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

    saved.Saver.add = counted
    scan(path, checkpoint=place, seed=5, rtol=1e-4).run()
    sys.exit(0)


def killed(path, place, rows):
    """Run it in a process of its own, forked from a server that has imported bigspec."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.networks.killing"])
    child = context.Process(target=scan_until, args=(str(path), str(place), rows))
    child.start()
    child.join(60)
    return child.exitcode
