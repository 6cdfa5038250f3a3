"""The same call on a Dask cluster: with an active client, the passes run on its workers."""

from pathlib import Path

from distributed import Client, LocalCluster

import bigspec

DATA = Path(__file__).parent / "data" / "fashion_mnist.zarr"


def main() -> None:
    here = bigspec.norm(DATA, seed=1)

    # Any cluster does (dask-jobqueue, dask-kubernetes, Client("tcp://...")), if its workers see
    # the store: one path on a shared disk, or a URL such as s3://bucket/A.zarr.
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        there = bigspec.norm(DATA, seed=1)

    print("in this process:", here.lower, here.upper, "on", here.layout["where"])
    print("on the cluster: ", there.lower, there.upper, "on", there.layout["where"])
    # Panels and the order of all sums follow from the matrix alone: the same bits.
    assert (here.lower, here.upper) == (there.lower, there.upper)


if __name__ == "__main__":  # workers import this file: without this line they would start workers
    main()
