"""An upper bound of the Lipschitz constant of a stack of linear layers.

A linear layer's Lipschitz constant is its spectral norm. ReLU, tanh and the like have constant
1, so the constant of the network is at most the product.
"""

import math
from itertools import pairwise

import numpy as np

import bigspec

WIDTHS = (784, 1024, 1024, 600, 10)


def weights() -> dict[str, np.ndarray]:
    """Draw weights as a framework initialises them (He et al. 2015)."""
    rng = np.random.default_rng(0)
    return {
        f"layer{k}.weight": rng.standard_normal((out, into)) * math.sqrt(2 / into)
        for k, (into, out) in enumerate(pairwise(WIDTHS))
    }


def main() -> None:
    lower = upper = frobenius = 1.0
    failure = 0.0
    for name, W in weights().items():
        est = bigspec.norm(W, rtol=1e-2)
        print(f"{name} {W.shape}: [{est.lower:.5g}, {est.upper:.5g}], {est.algorithm}")
        lower, upper = lower * est.lower, upper * est.upper
        frobenius *= est.frobenius
        if not est.deterministic:  # one bound may fail or another: probabilities add up
            failure += est.failure_probability

    print(f"product of the norms: in [{lower:.5g}, {upper:.5g}], {failure:.1e} may fail")
    print(f"product of the Frobenius norms: {frobenius:.5g}")
    assert lower <= upper < frobenius


if __name__ == "__main__":
    main()
