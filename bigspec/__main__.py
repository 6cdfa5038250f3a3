"""``python -m bigspec`` is the command line, and so is the installed command."""

import os
import threading

from bigspec.cli import main

LINGER = 5.0
"""Seconds that a failed command waits for its threads: one may hang in a read that never ends."""


def run() -> None:
    """Run the command line as this process.

    The interpreter joins Dask's threads when it ends. Those that still read when a run was
    interrupted have nothing to say any more, and must not keep the process until it is killed.
    """
    try:
        main(prog_name="bigspec")
    except SystemExit as end:
        if end.code:
            status = end.code if isinstance(end.code, int) else 1
            watchdog = threading.Timer(LINGER, os._exit, (status,))
            watchdog.daemon = True
            watchdog.start()
        raise


if __name__ == "__main__":
    run()
