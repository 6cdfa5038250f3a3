"""An interval for the Lipschitz constant of a stack of layers with activations between them.

The product of the norms of all layers is an upper bound, and a loose one. The norms of chains of
layers give a smaller one, and the derivative at a point one from below.
"""

import math
from itertools import pairwise

import numpy as np

import bigspec

WIDTHS = (784, 512, 256, 10)


def weights() -> list[np.ndarray]:
    """Draw weights as a framework initialises them (He et al. 2015)."""
    rng = np.random.default_rng(0)
    return [
        rng.standard_normal((out, into)) * math.sqrt(2 / into) for into, out in pairwise(WIDTHS)
    ]


def main() -> None:
    first, second, third = weights()
    found = bigspec.lipschitz([first, "relu", second, "relu", third], rtol=1e-2, seed=1)
    print(found.summary())

    bounds = {bound.name: bound.upper for bound in found.bounds}
    print(f"{found.upper / bounds['product']:.2f} of the product of the norms")
    assert found.lower <= found.upper < bounds["product"]


if __name__ == "__main__":
    main()
