"""How far a low-rank approximation is from its matrix: ||A - U S V^H||, with a certificate.

The difference is lazy: each panel of A is read once a pass, the dense approximation never exists.
"""

from pathlib import Path

import dask.array as da
import numpy as np

import bigspec

DATA = Path(__file__).parent / "data" / "fashion_mnist.zarr"
RANK = 20


def approximate() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Project A on the leading directions of a tenth of its rows."""
    A = da.from_zarr(DATA).astype("float64")
    basis = np.linalg.svd(A[:1000].compute(), full_matrices=False)[2][:RANK]
    U, s, Wh = np.linalg.svd((A @ basis.T).compute(), full_matrices=False)
    return U, s, Wh @ basis


def main() -> None:
    A = bigspec.open_matrix(DATA)
    U, s, Vh = approximate()  # where the factors come from does not matter

    error = bigspec.norm(A - bigspec.low_rank(U, s, Vh), rtol=1e-2)
    print(error.summary())

    size = bigspec.norm(A, rtol=1e-2)
    low, high = error.lower / size.upper, error.upper / size.lower
    print(f"relative error at rank {RANK}: between {low:.5f} and {high:.5f}")

    # No matrix of rank 20 is closer than sigma_21, which this matrix is small enough to tell.
    dense = da.from_zarr(DATA).astype("float64").compute()
    least = np.sqrt(np.linalg.eigvalsh(dense.T @ dense)[-1 - RANK])
    print(f"that is at most {error.upper / least:.3f} times the least possible distance")
    assert error.upper >= least


if __name__ == "__main__":
    main()
