"""SIGTERM as an orderly end: what schedulers send before they kill (preemption, scancel)."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Terminated", "terminable"]


class Terminated(KeyboardInterrupt):
    """SIGTERM came: everything that ends well on Ctrl-C ends well on it, too."""


@contextmanager
def terminable() -> Iterator[None]:
    """Turn a first SIGTERM into `Terminated` while inside; a second signal changes nothing.

    The time until the kill is used for saving, so a scheduler that sends SIGTERM twice, or after
    SIGINT, must not interrupt that. A third signal ends the process at once: somebody insists.
    After a first one the handlers stay until the process has ended, or a late second signal would
    take the place of the exit status that was promised. Outside the main thread, where Python
    allows no handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = 0

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came += 1
        if came == 1:
            # Once Python takes its handlers away at its end, a signal finds this.
            atexit.register(_ignore, [number for number, _ in before])
            if number == signal.SIGINT:
                signal.default_int_handler(number, frame)
            raise Terminated
        if came > 2:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    before = [(signal.SIGTERM, signal.signal(signal.SIGTERM, end))]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before.append((signal.SIGINT, signal.signal(signal.SIGINT, end)))
    try:
        yield
    finally:
        if not came:
            for number, handler in before:
                signal.signal(number, handler)


def _ignore(numbers: list[int]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
