"""Images of iterates under the outer factor of a product, carried from pass to pass.

A pass over ``B^H (A^H A (B V))`` needs ``B V`` before anything else, and ``B^H`` after all. Read by
panels of its columns, B gives ``Z = B^H T`` and ``X = B Z`` at once, and every algorithm takes its
next block from the span of Z and the blocks before: ``V = Z K + V_1 K_1 + V_2 K_2``. So
``B V = X K + (B V_1) K_1 + (B V_2) K_2`` needs no read of its own.

The coefficients are found here, by projection, and not asked of the algorithms; what they leave of
V is measured. The error of an image grows by about ``||H|| / beta`` a pass, beta the smallest
singular value of the residual block, as rounding in s-step and pipelined recurrences does (Cools,
Yetkin, Agullo, Giraud & Vanroose 2018); where its estimate passes what the accuracy asked for
allows, B is read once more, and the image is exact again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bigspec.dense import UNIT_ROUNDOFF

__all__ = ["Carried", "Images"]

Array = np.ndarray[Any, Any]

SHARE = 1e-3  # of the accuracy asked for, that the error of an image may take
MOST_ERROR = 1e-8  # of an image, relative
LEAST_ERROR = 1e-13
ORTHOGONAL = 1e-4
KEPT = 2  # blocks before the last product: the recurrences have three terms


@dataclass(frozen=True)
class Carried:
    """What the next pass finds the image of its block in.

    Attributes
    ----------
    blocks : tuple of ndarray (n, b)
        The last blocks multiplied, orthonormal, and nearly so to each other.
    images : tuple of ndarray (p, b)
        ``B V`` of each.
    errors : tuple of float
        Estimates of the error of each image, in the 2-norm.
    Z : ndarray (n, b)
        The last product.
    X : ndarray (p, b)
        ``B Z``.
    """

    blocks: tuple[Array, ...]
    images: tuple[Array, ...]
    errors: tuple[float, ...]
    Z: Array
    X: Array

    @property
    def size(self) -> float:
        """Estimate of ``||B||``, from below."""
        return max(
            *(_norm(image) for image in self.images),
            _norm(self.X) / max(_norm(self.Z), np.finfo(float).tiny),
        )

    def image(self, V: Array) -> tuple[Array, float]:
        """Return ``B V`` and an estimate of its error."""
        W, Y = self.Z.copy(), self.X.copy()
        unit = UNIT_ROUNDOFF * np.sqrt(len(V))
        error = unit * self.size * _norm(self.Z)
        for _ in range(2):
            for block, image, own in zip(self.blocks, self.images, self.errors, strict=True):
                C = block.conj().T @ W
                W -= block @ C
                Y -= image @ C
                error += _norm(C) * (own + unit * _norm(image))
        Q, R = np.linalg.qr(W)
        K = np.linalg.pinv(R, rcond=LEAST_ERROR) @ (Q.conj().T @ V)
        left = V - W @ K
        Y, error = Y @ K, error * _norm(K)
        for block, image, own in zip(self.blocks, self.images, self.errors, strict=True):
            C = block.conj().T @ left
            left -= block @ C
            Y += image @ C
            error += _norm(C) * own
        return Y, error + self.size * float(np.linalg.norm(left))


class Images:
    """The image of one pass's block, and what is carried on to the next.

    Parameters
    ----------
    carried : Carried or None
        From the last pass.
    accuracy : float
        Relative width of the interval that is asked for.

    Attributes
    ----------
    after : Carried or None
        For the next pass.
    error : float
        Estimated error of the image, relative to its norm; 0 if it was read.
    """

    def __init__(self, carried: Carried | None, accuracy: float) -> None:
        self.carried = carried
        self.after: Carried | None = None
        self.limit = min(max(SHARE * accuracy, LEAST_ERROR), MOST_ERROR)
        self.error = 0.0

    def find(self, V: Array) -> Array | None:
        """Return ``B V`` as far as it is known well enough, else None: B must be read."""
        if self.carried is None or self.carried.Z.dtype != V.dtype:
            return None
        Y, error = self.carried.image(V)
        self.error = error / max(_norm(Y), np.finfo(float).tiny)
        if self.error <= self.limit:  # not if NaN
            return Y
        self.error = 0.0
        return None

    def note(self, V: Array, Y: Array, Z: Array, X: Array) -> None:
        """Keep a pass's block, its image, its product and the image of that."""
        if not (np.isfinite(X).all() and _norm(X) > np.finfo(float).tiny):
            return
        kept = [(V, Y, self.error * _norm(Y))]
        if self.carried is not None:
            held = self.carried
            earlier = zip(held.blocks, held.images, held.errors, strict=True)
            # Power iteration's blocks are not orthogonal; its next one is in the span of Z.
            apart = [one for one in earlier if _norm(one[0].conj().T @ V) <= ORTHOGONAL]
            kept = [*apart, *kept][-KEPT:]
        blocks, images, errors = zip(*kept, strict=True)
        self.after = Carried(blocks, images, errors, Z, X)


def _norm(M: Array) -> float:
    """Return the 2-norm of a matrix of few columns, through its Gram matrix."""
    return float(np.sqrt(np.linalg.norm(M.conj().T @ M, 2))) if M.size else 0.0
