"""The public function that connects to a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bigspec import passes
from bigspec.api.arguments import (
    as_bytes,
    as_seconds,
    as_whole,
)
from bigspec.passes import Recording, recorded

__all__ = ["Recording", "connect", "recorded"]


@contextmanager
def connect(
    *,
    scheduler: str | None = None,
    scheduler_file: str | Path | None = None,
    workers: int | None = None,
    memory_limit: int | str | None = None,
    timeout: float | None = None,
    min_workers: int | None = None,
    worker_timeout: float | str | None = None,
) -> Iterator[None]:
    """Make `norm` run on a Dask cluster while inside; with no argument, do nothing.

    See `bigspec.passes.connect`. `memory_limit` is bigspec's limit, half of what a process has, so
    local workers are started with twice as much.
    """
    limit = as_bytes(memory_limit)
    with passes.connect(
        scheduler=scheduler,
        scheduler_file=scheduler_file,
        workers=workers,
        memory_limit=None if limit is None else 2 * limit,
        timeout=timeout,
        min_workers=as_whole("min_workers", min_workers),
        worker_timeout=as_seconds(worker_timeout, "worker_timeout"),
    ):
        yield
