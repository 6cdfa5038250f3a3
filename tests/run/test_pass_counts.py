"""What the certificate costs in passes: the table of docs (delta = 1e-6), on synthetic spectra.

The matrices are diagonal, but their facts are those of a matrix whose row and column sums are
twice its norm: a diagonal one would be certified by its sums alone. The counts are pinned to what
the code takes; fewer is welcome, more is a regression. `None`: not reached in the passes allowed,
or beyond the rounding margin, which one column divides by sqrt q = 1.3e-6.
"""

import numpy as np
import pytest

from bigspec.algorithms import Lanczos, Power
from bigspec.certificate import Facts
from bigspec.results import relative_width
from bigspec.run import Known
from tests.monte_carlo import DiagonalPass, states

pytestmark = pytest.mark.usefixtures("blas_of_a_run")

N = 2000
RTOLS = (1e-2, 1e-3, 1e-6, 1e-10)
DELTA = 1e-6
i = np.arange(1, N + 1)


def quarter_circle(n):
    """Singular values of a square Gaussian matrix: quantiles of the Marchenko-Pastur law."""
    x = np.linspace(0, 2, 100_001)
    law = (x * np.sqrt(4 - x**2) / 2 + 2 * np.arcsin(x / 2)) / np.pi
    sigma = np.interp((np.arange(n) + 0.5) / n, law, x)[::-1]
    return sigma / sigma[0]


SPECTRA = {
    "1/i": 1 / i,
    "i^-1/2": i**-0.5,
    "gap .707": np.concatenate([[1.0], np.linspace(0.707, 0.01, N - 1)]),
    "cluster of 8": np.concatenate([np.linspace(1, 0.999, 8), np.linspace(0.85, 0.01, N - 8)]),
    "flat edge": quarter_circle(N),
}

PINNED = {
    ("1/i", 1): (3, 3, 4, 5),
    ("1/i", 4): (2, 2, 3, 4),
    ("1/i", 8): (2, 2, 3, 3),
    ("1/i", 16): (2, 2, 2, 3),
    ("i^-1/2", 1): (10, 11, 13, None),
    ("i^-1/2", 4): (5, 5, 5, 6),
    ("i^-1/2", 8): (4, 4, 4, 5),
    ("i^-1/2", 16): (3, 3, 3, 4),
    ("gap .707", 1): (13, 15, 19, None),
    ("gap .707", 4): (7, 8, 8, 10),
    ("gap .707", 8): (6, 7, 7, 9),
    ("gap .707", 16): (5, 5, 7, 9),
    ("cluster of 8", 1): (29, None, None, None),
    ("cluster of 8", 4): (13, 17, 23, 24),
    ("cluster of 8", 8): (8, 11, 15, 17),
    ("cluster of 8", 16): (7, 9, 12, 15),
    ("flat edge", 1): (50, None, None, None),
    ("flat edge", 4): (20, None, None, None),
    ("flat edge", 8): (13, 20, None, None),
    ("flat edge", 16): (10, 15, None, None),
}


def counts(algorithm, spectrum, most):
    """Passes until the known interval is as narrow as each of RTOLS."""
    values = SPECTRA[spectrum] ** 2
    facts = Facts(float(values.sum()), 2.0, 2.0, 1.0, False)
    known, taken = Known(), {}
    passes = DiagonalPass(values, facts=facts)
    for number, state in enumerate(states(algorithm, passes, 0, None, most), start=1):
        known = known.updated(algorithm.bounds(state, DELTA, complex_=False), 0)
        interval = known.interval
        assert interval.lower <= 1.0 <= interval.upper
        width = relative_width(interval.lower, interval.upper)
        for rtol in RTOLS:
            if width <= rtol:
                taken.setdefault(rtol, number)
        if len(taken) == len(RTOLS):
            break
    return tuple(taken.get(rtol) for rtol in RTOLS)


@pytest.mark.parametrize(("spectrum", "b"), PINNED, ids=lambda part: str(part))
def test_lanczos_takes_no_more_passes_than_it_did(spectrum, b):
    pinned = PINNED[spectrum, b]
    most = max(count for count in pinned if count is not None)
    taken = counts(Lanczos(b, basis_bytes=1 << 30), spectrum, most)
    for count, limit in zip(taken, pinned, strict=True):
        assert limit is None or (count is not None and count <= limit)


@pytest.mark.parametrize("spectrum", ["i^-1/2", "gap .707"])
def test_three_blocks_of_memory_cost_at_most_one_pass(spectrum):
    # Without the basis, only ||f|| <= 1 is used once orthogonality is in doubt.
    kept = counts(Lanczos(16, basis_bytes=1 << 30), spectrum, 20)
    dropped = counts(Lanczos(16, basis_bytes=0), spectrum, 20)
    for with_basis, without in zip(kept, dropped, strict=True):
        assert without is not None
        assert without <= with_basis + 1


def test_power_takes_more_passes_than_lanczos_and_arrives():
    taken = counts(Power(16), "gap .707", 30)
    lanczos = PINNED["gap .707", 16]
    assert taken[0] is not None
    assert lanczos[0] < taken[0] <= 12
