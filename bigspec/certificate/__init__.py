r"""The certificate: a Krylov relation and a Gaussian start make intervals of sigma_1 .. sigma_k.

Everything here is about ``H = A^H A`` with eigenvalues ``l_1 >= l_2 >= ...`` and a relation

    H V = V T + V_+ B E^H + R,    ||R||_2 <= eps,

where V (n, N) has unit blocks, E selects the last block of V, and ``T = Y Theta Y^H``. If
``H x = t x`` with ``||x|| = 1``, then with ``a = V^H x`` and ``f = V_+^H x``

    Y^H a = (t - Theta)^{-1} (F f + Y^H R^H x),     F = Y_last^H B^H,
    G^H x = t^{-p} C Y^H a,                          C = [R_0^H Y_first]_(rows of G),

(p = 0 for Lanczos, p = j for a power iterate after j products). ``w(t)``, the largest
``||G^H x||^2`` that this allows, must be at least the chi-square ``||G^H x_1||^2`` when
``t = l_1``. Values here are in the units of H (squared), scaled by the algorithm. No I/O.
"""

from bigspec.certificate.bounds import (
    GIVEN,
    Bounds,
    UpperBound,
    bound_largest,
    bound_leading,
    upper_bounds,
)
from bigspec.certificate.christoffel import (
    at_rounding_floor,
    christoffel,
    christoffel_bound,
    exact_crossing,
    joint_bounds,
)
from bigspec.certificate.relation import Relation
from bigspec.certificate.ritz import (
    bordered_frobenius,
    collatz_wielandt,
    half_step,
    lehmann,
    right_coordinates,
)
from bigspec.certificate.rounding import Facts, product_error

__all__ = [
    "GIVEN",
    "Bounds",
    "Facts",
    "Relation",
    "UpperBound",
    "at_rounding_floor",
    "bordered_frobenius",
    "bound_largest",
    "bound_leading",
    "christoffel",
    "christoffel_bound",
    "collatz_wielandt",
    "exact_crossing",
    "half_step",
    "joint_bounds",
    "lehmann",
    "product_error",
    "right_coordinates",
    "upper_bounds",
]
