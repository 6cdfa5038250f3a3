"""A call every few seconds while nothing else happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Heartbeat"]


class Heartbeat:
    """Calls `say` at intervals from a thread of its own, between `start` and `stop`.

    A panel may take minutes, or hang in a store that does not answer. A log that is silent so long
    looks like a dead process.

    Parameters
    ----------
    seconds : float
        Seconds between two calls; infinity for never.
    say : callable
        Called with the seconds since `start`. It must not raise.
    """

    def __init__(self, seconds: float, say: Callable[[float], None]) -> None:
        self.seconds, self.say = seconds, say
        self._stopped: threading.Event | None = None

    def start(self) -> None:
        """Start counting, or start again from zero."""
        self.stop()
        if self.seconds > threading.TIMEOUT_MAX:
            return
        self._stopped = threading.Event()
        arguments = (self._stopped, time.monotonic())
        threading.Thread(
            target=self._beat, args=arguments, name="bigspec-heartbeat", daemon=True
        ).start()

    def stop(self) -> None:
        """Stop calling; idempotent."""
        if self._stopped is not None:
            self._stopped.set()
            self._stopped = None

    def _beat(self, stopped: threading.Event, began: float) -> None:
        while not stopped.wait(self.seconds):
            self.say(time.monotonic() - began)
