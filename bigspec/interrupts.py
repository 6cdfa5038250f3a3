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
    """Turn the first SIGTERM into `Terminated` while inside; later ones change nothing.

    The time until the kill is used for saving, so a scheduler that sends SIGTERM twice must not
    interrupt that. Outside the main thread, where Python allows no handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False

    def end(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        if not came:
            came = True
            raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
