"""The limit of a pass: tasks stop at the deadline, or when nobody waits for them."""

from __future__ import annotations

import threading
import time

__all__ = ["Abandoned", "Limit"]


class Abandoned(Exception):  # noqa: N818
    """Nobody waits for this pass any more: it was interrupted, or its time limit has passed."""


class Limit:
    """The time limit of a pass, which every task checks before each read.

    Clocks of two machines differ, and `time.monotonic` means nothing on another machine. So a
    worker is sent the time that is left.

    Parameters
    ----------
    deadline : float or None
        In the clock of `time.monotonic`.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self._abandoned = threading.Event()

    @property
    def left(self) -> float | None:
        """Seconds until the deadline, negative after it; None without one."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    @property
    def passed(self) -> bool:
        """Whether the deadline has passed."""
        return self.left is not None and self.left <= 0

    def abandon(self) -> None:
        """Tell the tasks of this process to stop before their next read."""
        self._abandoned.set()

    def check(self) -> None:
        """Raise `Abandoned` if the deadline has passed or nobody waits."""
        if self._abandoned.is_set() or self.passed:
            raise Abandoned

    def __reduce__(self) -> tuple[object, tuple[float | None]]:
        return _ending_in, (self.left,)


def _ending_in(seconds: float | None) -> Limit:
    return Limit(None if seconds is None else time.monotonic() + seconds)
