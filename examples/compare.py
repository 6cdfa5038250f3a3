"""How far two matrices are apart: a quantised copy against the original, chunked differently.

Each pass reads a panel of both; the difference is made where it is multiplied.
"""

import tempfile
from pathlib import Path

import numpy as np
import zarr

import bigspec

DATA = Path(__file__).parent / "data" / "fashion_mnist.zarr"
LEVELS = 16


def quantised(folder: Path) -> Path:
    """Write a copy with 16 grey levels in other chunks, a thousand rows at a time."""
    original = zarr.open_array(DATA, mode="r")
    place = folder / "quantised.zarr"
    copy = zarr.create_array(place, shape=original.shape, dtype="uint8", chunks=(750, 300))
    step = 256 // LEVELS
    for start in range(0, original.shape[0], 1000):
        rows = original[start : start + 1000]
        copy[start : start + 1000] = rows // step * step + step // 2 * (rows > 0)
    return place


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        A, B = bigspec.open_matrix(DATA), bigspec.open_matrix(quantised(Path(folder)))
        size = bigspec.norm(A)
        apart = bigspec.norm(A - B)
        print(apart.summary())
        print(f"||A - B|| / ||A|| <= {apart.upper / size.lower:.5f}")

        # Without its columns' means, the matrix says how much the copy keeps of what varies.
        varies = bigspec.norm(bigspec.centered(A))
        moved = bigspec.norm(bigspec.centered(A - B))
        print(f"after centring           <= {moved.upper / varies.lower:.5f}")
        # Every entry is moved by at most 8, and the norm by at most the Frobenius norm.
        assert apart.upper <= (LEVELS // 2) * np.sqrt(A.shape[0] * A.shape[1]) * 1.01


if __name__ == "__main__":
    main()
