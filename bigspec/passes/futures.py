"""What of a dask array's graph a cluster holds already: `Future` objects in place of tasks."""

from __future__ import annotations

import sys
from typing import Any

from bigspec.errors import DataError

__all__ = ["futures_in", "resolved"]


def futures_in(array: Any) -> list[Any]:
    """Return the futures in the graph of a dask array; only layers that are there are looked at."""
    if "distributed" not in sys.modules:
        return []
    from distributed.client import futures_of

    graph = array.__dask_graph__()
    layers = getattr(graph, "layers", {"": graph}).values()
    there = [layer for layer in layers if getattr(layer, "is_materialized", lambda: True)()]
    return [future for layer in there for future in futures_of(list(layer.values()))]


def resolved(array: Any, graph: dict[Any, Any]) -> dict[Any, Any]:
    """Return a graph that one task can compute: chunks that the cluster holds are fetched first.

    Raises
    ------
    DataError
        This process is no worker, so nobody knows where they are.
    """
    futures = futures_in(array)
    if not futures:
        return graph
    from distributed import worker_client

    wanted = {future.key for future in futures} & graph.keys()
    held = [future for future in futures if future.key in wanted]
    try:
        # It gives up this task's slot: the tasks that make the chunks may still wait for one.
        with worker_client() as client:
            values = client.gather(held)
    except ValueError as error:
        msg = f"dask array {array.name}: expected a Dask worker to read its chunks, got none"
        raise DataError(msg) from error
    return graph | {future.key: value for future, value in zip(held, values, strict=True)}
