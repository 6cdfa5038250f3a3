"""SIGTERM as an orderly end: what schedulers send before they kill (preemption, scancel)."""

from __future__ import annotations

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
    """Turn a first SIGTERM into `Terminated` while inside; later ones change nothing.

    The time until the kill is used for saving, so a scheduler that sends SIGTERM twice, or after
    SIGINT, must not interrupt that. A second Ctrl-C does: somebody insists. Outside the main
    thread, where Python allows no handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal came
        first, came = not came, True
        if number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        elif first:
            raise Terminated

    before = [(signal.SIGTERM, signal.signal(signal.SIGTERM, end))]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before.append((signal.SIGINT, signal.signal(signal.SIGINT, end)))
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
