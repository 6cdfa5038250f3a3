"""Dask arrays with chunks on a cluster: their graphs have `Future` objects, each of one client.

A pass can use them only on the cluster of that client, and only while something refers to them.
Dask does not check this before a pass. It waits a minute in vain, or names an unknown key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from bigspec.errors import ClusterError
from bigspec.matrices import Matrix
from bigspec.passes.dask_array import DaskMatrix
from bigspec.passes.futures import futures_in
from bigspec.passes.on_cluster import current_client

__all__ = ["check_persisted"]

LOST = {
    "cancelled": "was cancelled or released, or its client was closed",
    "lost": "was lost with the worker that held it",
}


def check_persisted(matrix: Matrix) -> None:
    """Refuse arrays whose chunks are not on the current client's cluster, before a pass begins.

    Parameters
    ----------
    matrix : Matrix
        It may be an expression of dask arrays.

    Raises
    ------
    ClusterError
        Chunks are gone, or on the cluster of another client.
    """
    client = current_client()
    for operand in _dask_arrays(matrix):
        for future in futures_in(operand.array):
            _check(operand.name, future, client)


def _check(name: str, future: Any, client: Any) -> None:
    owner = future.client
    # A client forgets a released future, whose own status stays "finished".
    status = future.status if future.key in owner.futures else "cancelled"
    lost = LOST.get(status)
    if lost is None and owner.status != "running":
        lost = f"belongs to a client that is {owner.status}"
    if lost is not None:
        msg = (
            f"{name}: expected chunks that the cluster still holds, for the array was persisted, "
            f"got one that {lost} ({future.key}). Persist it again, on a client that stays open"
        )
        raise ClusterError(msg)
    theirs = owner.scheduler.address
    ours = None if client is None else client.scheduler.address
    if theirs != ours:
        where = "this process" if ours is None else f"the scheduler {ours}"
        msg = (
            f"{name}: its chunks are on another cluster (persisted with the client of scheduler "
            f"{theirs}), and the passes run on {where}. Call bigspec within 'with "
            "client.as_current():' of that client, or persist the array on this one"
        )
        raise ClusterError(msg)


def _dask_arrays(matrix: Matrix) -> Iterator[DaskMatrix]:
    """Find the dask arrays that an expression is made of."""
    if isinstance(matrix, DaskMatrix):
        yield matrix
        return
    for entry in fields(matrix):
        value = getattr(matrix, entry.name)
        for part in value if isinstance(value, tuple) else (value,):
            operand = getattr(part, "matrix", part)  # a term of a sum has its matrix there
            if isinstance(operand, Matrix):
                yield from _dask_arrays(operand)
