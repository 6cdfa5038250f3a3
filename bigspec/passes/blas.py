"""One BLAS thread a task during a run: speed, and the same bits everywhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["one_blas_thread"]


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


_holding = 0
_lock = threading.Lock()
_limits: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS in this process to one thread while inside, and restore it afterwards.

    Tasks already fill the cores, and small eigenproblems gain nothing from threads that spin. A
    product on several threads has other bits than one on a single thread. The limit belongs to the
    process, so of several runs at once the last to end restores it. Workers need nothing: Dask
    starts them with one BLAS thread (``distributed.nanny.pre-spawn-environ``).
    """
    global _holding, _limits
    with _lock:
        if _holding == 0:
            _limits = _controller().limit(limits=1, user_api="blas")
        _holding += 1
    try:
        yield
    finally:
        with _lock:
            _holding -= 1
            if _holding == 0:
                _limits.restore_original_limits()
