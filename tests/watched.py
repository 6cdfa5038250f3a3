"""A preload of test workers: one whose event loop hangs says where, and is taken for dead."""

import faulthandler

from distributed import Worker
from tornado.ioloop import PeriodicCallback

HUNG = 40.0  # seconds; the scheduler's own patience, in tests/conftest.py, is longer


async def dask_setup(worker: Worker) -> None:
    """Put the dump of all threads off, again and again, from the event loop."""

    def alive() -> None:
        faulthandler.dump_traceback_later(HUNG)

    callback = PeriodicCallback(alive, 5000)
    worker.periodic_callbacks["alive"] = callback
    callback.start()
