"""Chunks of a dask array that a cluster already holds: `Future` objects in place of tasks."""

from __future__ import annotations

import sys
from typing import Any

import dask

from bigspec.errors import DataError

__all__ = ["compute", "futures_in"]


def futures_in(array: Any) -> list[Any]:
    """Return the futures in the materialized layers of a dask array's graph."""
    if "distributed" not in sys.modules:
        return []
    from distributed.client import futures_of

    graph = array.__dask_graph__()
    layers = getattr(graph, "layers", {"": graph}).values()
    there = [layer for layer in layers if getattr(layer, "is_materialized", lambda: True)()]
    return [future for layer in there for future in futures_of(list(layer.values()))]


def compute(array: Any, graph: dict[Any, Any], keys: Any) -> Any:
    """Compute chunks here and now, one after another, perhaps in a task on a worker.

    Parameters
    ----------
    array : dask array
    graph : dict
        The optimized graph of some chunks. Keys that it does not define are those of futures.
    keys : nested list
        The keys of the chunks to return.

    Raises
    ------
    DataError
        Chunks are on a cluster, and this process is not one of its workers.
    """
    needed = {key for task in graph.values() for key in getattr(task, "dependencies", ())}
    if not any(future.key in needed | graph.keys() for future in futures_in(array)):
        return dask.get(graph, keys)
    from distributed import worker_client

    try:
        # This gives up the slot of this task, since the tasks of the chunks may still wait for one.
        # It is sent as a graph: a worker's client does not know the futures of another client.
        with worker_client() as client:
            return client.get(graph, keys)
    except ValueError as error:
        msg = f"dask array {array.name}: expected a Dask worker to read its chunks, got none"
        raise DataError(msg) from error
