"""Connecting to a Dask cluster for the doors that have no client of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dask
from dask.utils import parse_bytes, parse_timedelta

from bigspec.errors import ClusterError

__all__ = ["connect", "parse_bytes", "parse_timedelta"]


@contextmanager
def connect(
    *,
    scheduler: str | None = None,
    scheduler_file: str | Path | None = None,
    workers: int | None = None,
    memory_limit: int | None = None,
    timeout: float | None = None,
) -> Iterator[None]:
    """Make passes run on a cluster while inside; with no argument, do nothing.

    Parameters
    ----------
    scheduler : str, optional
        Address such as ``tcp://host:8786``. Security comes from Dask's configuration.
    scheduler_file : path, optional
        File written by ``dask scheduler --scheduler-file``.
    workers : int, optional
        Start so many local worker processes of one thread each, and stop them afterwards.
    memory_limit : int, optional
        Bytes a local worker process may hold before Dask spills or restarts it; its default
        otherwise. bigspec plans within half of it.
    timeout : float, optional
        Seconds to wait for the scheduler and its first worker; by default Dask's
        ``distributed.comm.timeouts.connect``.

    Raises
    ------
    ClusterError
        No scheduler, or no worker, answered in time.
    """
    if scheduler is None and scheduler_file is None and workers is None:
        yield
        return
    from distributed import Client, LocalCluster

    if timeout is None:
        timeout = parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))
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
                client = Client(cluster, timeout=timeout)
            elif scheduler is not None:
                client = Client(scheduler, timeout=timeout)
            else:
                client = Client(scheduler_file=str(scheduler_file), timeout=timeout)
            stack.enter_context(client)
            client.wait_for_workers(1, timeout=timeout)
        except (OSError, TimeoutError, ValueError) as error:
            msg = (
                f"scheduler {where}: expected an answer and a worker within {timeout:g} s, got "
                f"{type(error).__name__}: {error}. Check the address and that workers run."
            )
            raise ClusterError(msg) from error
        yield
