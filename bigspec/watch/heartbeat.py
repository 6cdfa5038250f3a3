"""A word from time to time while nothing else happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Heartbeat"]


class Heartbeat:
    """Calls `say` every so many seconds, from a thread of its own, while it is started.

    Panels may take minutes, or hang in a store that does not answer: a log that is silent then
    looks like a process that is gone.

    Parameters
    ----------
    seconds : float
        Between two calls; infinity for never.
    say : callable
        Called with the seconds since `start`. It must not raise.
    """

    def __init__(self, seconds: float, say: Callable[[float], None]) -> None:
        self.seconds, self.say = seconds, say
        self._stopped: threading.Event | None = None

    def start(self) -> None:
        """Begin to count, again if it is started already."""
        self.stop()
        if self.seconds > threading.TIMEOUT_MAX:
            return
        self._stopped = threading.Event()
        arguments = (self._stopped, time.monotonic())
        threading.Thread(
            target=self._beat, args=arguments, name="bigspec-heartbeat", daemon=True
        ).start()

    def stop(self) -> None:
        """Say no more; idempotent."""
        if self._stopped is not None:
            self._stopped.set()
            self._stopped = None

    def _beat(self, stopped: threading.Event, began: float) -> None:
        while not stopped.wait(self.seconds):
            self.say(time.monotonic() - began)
