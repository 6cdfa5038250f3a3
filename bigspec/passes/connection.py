"""Connecting to a Dask cluster for commands and functions that have no client of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dask
from dask.utils import parse_bytes, parse_timedelta

from bigspec.errors import ArgumentError, ClusterError

__all__ = ["connect", "parse_bytes", "parse_timedelta"]

WORKER_TIMEOUT = 300.0
"""Seconds to wait for `min_workers`, because batch systems start workers late."""


@contextmanager
def connect(
    *,
    scheduler: str | None = None,
    scheduler_file: str | Path | None = None,
    workers: int | None = None,
    memory_limit: int | None = None,
    timeout: float | None = None,
    min_workers: int | None = None,
    worker_timeout: float | None = None,
) -> Iterator[None]:
    """Make passes run on a cluster while inside; with no argument, do nothing.

    Parameters
    ----------
    scheduler : str, optional
        Address such as ``tcp://host:8786`` or ``tls://host:8786``. Certificates come from Dask's
        configuration (``distributed.comm.tls``, ``DASK_DISTRIBUTED__COMM__TLS__...``).
    scheduler_file : path, optional
        File written by ``dask scheduler --scheduler-file``.
    workers : int, optional
        Start so many local worker processes of one thread each, and stop them afterwards.
    memory_limit : int, optional
        Bytes a local worker process may hold before Dask spills or restarts it. The default is
        Dask's. bigspec plans within half of it.
    timeout : float, optional
        Seconds to wait for the scheduler and its first worker; by default Dask's
        ``distributed.comm.timeouts.connect``.
    min_workers : int, optional
        Wait for so many workers, not for one.
    worker_timeout : float, optional
        Seconds to wait for the workers, and before that for a scheduler that has not started. By
        default 300 if `min_workers` is given, else `timeout`. The loss of a scheduler is noticed
        after `timeout` all the same.

    Raises
    ------
    ClusterError
        No scheduler, or too few workers, answered in time.
    ArgumentError
        `min_workers` exceeds `workers`.
    """
    if scheduler is None and scheduler_file is None and workers is None:
        yield
        return
    from distributed import LocalCluster

    if min_workers is not None and not 1 <= min_workers <= (workers or min_workers):
        expected = "at least 1" if min_workers < 1 else f"at most workers={workers}"
        msg = f"min_workers: expected {expected}, got {min_workers}"
        raise ArgumentError(msg)
    if timeout is None:
        timeout = parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))
    if worker_timeout is None:
        worker_timeout = timeout if min_workers is None else WORKER_TIMEOUT
    patience = max(timeout, worker_timeout)
    with ExitStack() as stack:
        where = scheduler or scheduler_file or f"{workers} local processes"
        try:
            if workers is not None:
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    dashboard_address=":0",
                    memory_limit="auto" if memory_limit is None else memory_limit,
                )
                stack.enter_context(cluster)
                client = _client(cluster, timeout=timeout)
            elif scheduler is not None:
                client = _patient_client(scheduler, timeout, patience)
            else:
                _wait_for_file(Path(str(scheduler_file)), patience)
                client = _client(scheduler_file=str(scheduler_file), timeout=timeout)
            stack.enter_context(client)
            _wait_for_workers(client, where, min_workers or 1, worker_timeout)
        except ClusterError:
            raise
        # TypeError: no TLS keys. RuntimeError: a process of LocalCluster that did not start.
        except (OSError, TimeoutError, ValueError, TypeError, RuntimeError) as error:
            msg = (
                f"scheduler {where}: expected an answer and a worker within {patience:g} s, got "
                f"{type(error).__name__}: {error}. Check the address and that workers run."
            )
            raise ClusterError(msg) from error
        yield


def _client(address: Any = None, *, timeout: float, scheduler_file: str | None = None) -> Any:
    """Start a client; if it fails to start, it does not stay the active one."""
    from distributed import Client

    before = _active()
    try:
        return Client(address, scheduler_file=scheduler_file, timeout=timeout)
    except BaseException:
        left = _active()
        if left is not None and left is not before:
            left.close(timeout=0.1)
        raise


def _patient_client(address: str, timeout: float, patience: float) -> Any:
    """Start a client of a scheduler that may not have started yet.

    It tries again and again, because a longer `timeout` of the client would also be its patience
    with a lost scheduler.
    """
    end = time.monotonic() + patience
    while True:
        left = end - time.monotonic()
        try:
            return _client(address, timeout=min(timeout, max(left, 0.1)))
        except OSError:  # TimeoutError is one; TLS without keys is none
            if time.monotonic() >= end:
                raise
            time.sleep(0.1)


def _active() -> Any:
    from distributed import Client

    try:
        return Client.current()
    except ValueError:
        return None


def _wait_for_file(path: Path, timeout: float) -> None:
    """Wait for the scheduler to write its file; the client alone would wait for ever."""
    end = time.monotonic() + timeout
    while not path.exists():
        if time.monotonic() > end:
            msg = "the file is not there; the scheduler has not written it"
            raise FileNotFoundError(msg)
        time.sleep(0.1)


def _wait_for_workers(client: Any, where: object, count: int, timeout: float) -> None:
    try:
        client.wait_for_workers(count, timeout=timeout)
    except TimeoutError as error:
        came = len(client.nthreads())
        msg = (
            f"scheduler {where}: expected {count} worker(s) within {timeout:g} s, got {came}. "
            "Start more, wait longer for them, or ask for fewer."
        )
        raise ClusterError(msg) from error
