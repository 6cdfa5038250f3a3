"""A small matrix in memory as a pass, and how far a relation is from holding."""

from types import SimpleNamespace

import numpy as np

from bigspec.certificate import Facts


class DensePass:
    """A matrix in memory as a pass, with its facts."""

    def __init__(self, A):
        self.A, self.length, self.complex_ = A, A.shape[1], np.iscomplexobj(A)
        self.depth, self.count = float(A.shape[0]), 0
        size = np.abs(A)
        nonnegative = not self.complex_ and bool((A >= 0).all())
        sums = float(size.sum(axis=0).max()), float(size.sum(axis=1).max())
        self.facts = Facts(float((size**2).sum()), *sums, float(size.max()), nonnegative)

    def run(self, V, *, exponent=None):
        self.count += 1
        facts = self.facts if exponent is None else None
        Z = self.A.conj().T @ (self.A if V is None else self.A @ V)
        return SimpleNamespace(Z=Z, defect=0.0, exponent=0, facts=facts)


def gaussian(rng, m, n, complex_):
    X = rng.standard_normal((m, n))
    return X + 1j * rng.standard_normal((m, n)) if complex_ else X


def with_spectrum(rng, sigma, complex_=False):
    n = len(sigma)
    U, V = (np.linalg.qr(gaussian(rng, n, n, complex_))[0] for _ in range(2))
    return (U * sigma) @ V.conj().T


def residual_of(relation, H, V, V_plus):
    """``|| H V - V T - V_+ B E^H ||_2``."""
    R = H @ V - V @ relation.T
    R[:, V.shape[1] - relation.B.shape[1] :] -= V_plus @ relation.B
    return np.linalg.norm(R, 2)
