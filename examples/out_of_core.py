"""The norm of a Zarr array that is larger than the memory allowed for it."""

import contextlib
import tempfile

import numpy as np
import zarr

import bigspec

ROWS, COLUMNS, LIMIT = 40_000, 1_000, "64MiB"


def write(path: str) -> zarr.Array:
    """Write a matrix chunk by chunk: a few strong directions under noise, 160 MB."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((5, COLUMNS)) / np.sqrt(COLUMNS)
    strengths = np.array([30.0, 15.0, 8.0, 4.0, 2.0])[:, None]
    store = zarr.create_array(
        path, shape=(ROWS, COLUMNS), chunks=(1_000, COLUMNS), dtype="float32", overwrite=True
    )
    for top in range(0, ROWS, 1_000):
        signal = rng.standard_normal((1_000, 5)) @ (strengths * directions)
        store[top : top + 1_000] = signal + 0.1 * rng.standard_normal((1_000, COLUMNS))
    return store


def main() -> None:
    store = write("tall.zarr")
    print(bigspec.plan(store, memory_limit=LIMIT))
    estimate = bigspec.norm("tall.zarr", memory_limit=LIMIT, progress=True)
    print(estimate.summary())

    held = estimate.layout["memory"]["total"]
    print(f"held at most {held / 2**20:.0f} MiB of a matrix of {store.nbytes / 2**20:.0f} MiB")
    assert held < store.nbytes


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        main()
