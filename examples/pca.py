"""The principal components of a data set, and how much they explain, with certificates.

The matrix is centred where it is multiplied. `svds` reads it a few times and keeps only the
directions; the scores (left vectors times values) go to a Zarr array as the panels make them, so
that neither has to fit in memory.
"""

import tempfile
from pathlib import Path

import numpy as np

import bigspec

DATA = Path(__file__).parent / "data" / "fashion_mnist.zarr"
COUNT = 10


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        A = bigspec.centered(DATA)  # lazily: without the means of its columns
        tri = bigspec.svds(A, COUNT, u_store=Path(folder) / "U.zarr")
        print(tri.summary())

        # Shares of the variance, ||A||_F^2: an interval for each direction, and for all together.
        total = tri.frobenius**2
        low, high = tri.lower**2 / total, tri.upper**2 / total
        for i, (a, b) in enumerate(zip(low, high, strict=True), start=1):
            print(f"direction {i:2}: between {a:.4%} and {b:.4%} of the variance")
        print(f"{COUNT} directions explain between {low.sum():.3%} and {high.sum():.3%}")

        # Rank 10 approximation of the first rows, centred, from the store: u diag(s) vh.
        rows = tri.u[:100] * tri.s @ tri.vh
        print(f"rows of the rank-{COUNT} approximation of {A.shape}: {rows.shape}")
        assert np.all(low <= high)


if __name__ == "__main__":
    main()
