"""A cluster on this machine whose workers are forked from a process that has made their imports.

A worker that is spawned imports Dask and bigspec for more than a second before it takes a task. It
is a process of its own either way: it can be killed, and its nanny starts another.
"""

from contextlib import contextmanager

IMPORTS = ("distributed", "dask.array", "zarr", "bigspec.api.norm", "bigspec.passes.on_cluster")


@contextmanager
def forked():
    """Processes of Dask that start inside are forks."""
    import dask
    from distributed.utils import get_mp_context

    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload(list(IMPORTS))
        yield


@contextmanager
def local_cluster(**options):
    """Yield a `LocalCluster` of such workers with one thread each."""
    from distributed import LocalCluster

    with (
        forked(),
        LocalCluster(threads_per_worker=1, dashboard_address=":0", **options) as cluster,
    ):
        yield cluster
