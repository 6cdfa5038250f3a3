"""What of a dask array's graph a cluster holds already: `Future` objects in place of tasks."""

from __future__ import annotations

import sys
from typing import Any

import dask

from bigspec.errors import DataError

__all__ = ["computed", "futures_in"]


def futures_in(array: Any) -> list[Any]:
    """Return the futures in the graph of a dask array; only layers that are there are looked at."""
    if "distributed" not in sys.modules:
        return []
    from distributed.client import futures_of

    graph = array.__dask_graph__()
    layers = getattr(graph, "layers", {"": graph}).values()
    there = [layer for layer in layers if getattr(layer, "is_materialized", lambda: True)()]
    return [future for layer in there for future in futures_of(list(layer.values()))]


def computed(array: Any, graph: dict[Any, Any], keys: Any) -> Any:
    """Compute chunks here and now, one after another, in a task that may be on a worker.

    Parameters
    ----------
    array : dask array
    graph : dict
        Of some of its chunks, optimized: what were futures are keys that it does not define.
    keys : nested list
        Those to return.

    Raises
    ------
    DataError
        Chunks are on a cluster, and this process is no worker of it.
    """
    needed = {key for task in graph.values() for key in getattr(task, "dependencies", ())}
    if not any(future.key in needed | graph.keys() for future in futures_in(array)):
        return dask.get(graph, keys)
    from distributed import worker_client

    try:
        # It gives up this task's slot: the tasks that make the chunks may still wait for one. As
        # a graph, for a worker's client knows no futures of the client that sent the array.
        with worker_client() as client:
            return client.get(graph, keys)
    except ValueError as error:
        msg = f"dask array {array.name}: expected a Dask worker to read its chunks, got none"
        raise DataError(msg) from error
